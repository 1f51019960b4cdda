"""Several policies on the same starts and goals, from one config."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .contestants import Contestant, unrendered
from .policies import EvaluationPolicy
from .protocols import draw_trials, find_protocol
from .rows import make_row
from .runner import Outcome, open_envs, run_trials, time_alone

if TYPE_CHECKING:
    from wm_plan.configs.schema import EvalConfig


@dataclass
class Evaluation:
    """One policy under one protocol."""

    row: dict[str, Any]
    outcomes: list[Outcome]


def evaluate(
    config: EvalConfig,
    contestants: Sequence[Contestant],
    policies: Mapping[str, EvaluationPolicy],
    on_progress: Callable[[str, str, float, int], None] = lambda protocol, policy, finished, reached: None,
) -> list[Evaluation]:
    """Run every policy under every protocol of the config, on the same trials.

    Args:
        contestants: everyone who takes part.
        policies: what each of them makes, by its name.
        on_progress: called after every env step with protocol, contestant, episodes done (those at
            hand by their part) and episodes that have reached their goals.

    Raises:
        ValueError: an unknown task or protocol.
    """
    found = []
    cameras = [policy.settings["camera"] for policy in policies.values() if "camera" in policy.settings]
    camera = cameras[0] if cameras else config.camera
    with open_envs(config.env, min(config.batch_size, config.episodes), camera) as envs:
        for protocol in [find_protocol(name) for name in config.protocols]:
            trials = draw_trials(unrendered(config.env), protocol, config.episodes, config.seed)
            for contestant in contestants:
                policy = policies[contestant.name]
                key = (protocol.name, contestant.name)

                def note(finished: float, reached: int, key: tuple[str, str] = key) -> None:
                    on_progress(*key, finished, reached)

                began = time.perf_counter()
                outcomes = run_trials(
                    policy, trials, envs, measures_hold=protocol.measures_hold, on_progress=note
                )
                seconds = time.perf_counter() - began
                plan_ms, encode_ms = time_alone(
                    policy, trials, envs[0], config.plans_timed, measures_hold=protocol.measures_hold
                )
                row = make_row(
                    config.env,
                    protocol.name,
                    contestant.policy,
                    outcomes,
                    name=contestant.name,
                    plan_ms=plan_ms,
                    encode_ms=encode_ms,
                    seconds=seconds,
                    threads=config.threads,
                    settings=policy.settings,
                )
                found.append(Evaluation(row, outcomes))
    return found
