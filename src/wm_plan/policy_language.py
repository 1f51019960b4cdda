"""The language of logging policies: `random:held*.5+planner:noise=.2*.3+waypoints*.2`.

    random | random:white | random:coloured | random:held    noise of four kinds
    waypoints | scripted            a scripted walk, and the task's own script, where a task has them
    sb3 | sb3:CHECKPOINT            the shipped SB3 policy of a task; a folder of wm-baseline, or an SB3 .zip
    planner | planner:model=DIR     our own controller, to one random goal after another
    replay:SRC                      the actions of logged trajectories, in whatever format they are

Options follow a colon or a comma. Every policy takes `noise=STD`, Gaussian and relative to half the action's
range, drawn anew every model step, and `bursts=RATE`, the probability a model step with which random actions
take over for a while. A mix names several with their weights; each episode draws one of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from wm_plan.suggestion import did_you_mean

_OPTIONS = {
    "random": {"kind"},
    "scripted": set[str](),
    "sb3": {"checkpoint"},
    "planner": {"model", "planner", "samples"},
    "replay": {"source"},
}
_EVERY_POLICY = {"noise", "bursts"}
_FIRST_OPTION = {"random": "kind", "sb3": "checkpoint", "planner": "model", "replay": "source"}
_PLANNER_NOISE = 0.1


@dataclass(frozen=True)
class PolicySpec:
    """One policy of a mix: its name, its options as given, and its share of the episodes."""

    name: str
    options: Mapping[str, str]
    weight: float
    text: str

    @property
    def noise(self) -> float:
        """Std of the noise on its actions, relative to half their range."""
        default = _PLANNER_NOISE if self.name == "planner" else 0.0
        return _number(self.options.get("noise", str(default)), f"noise of {self.text!r}")

    @property
    def bursts(self) -> float:
        """Probability a model step with which a burst of random actions begins."""
        rate = _number(self.options.get("bursts", "0"), f"rate of bursts of {self.text!r}")
        if rate > 1:
            raise ValueError(f"the rate of bursts of {self.text!r} must be at most 1, got {rate:g}")
        return rate


def parse_policies(text: str) -> list[PolicySpec]:
    """Read `NAME[:OPTION,...][*WEIGHT][+...]`.

    Raises:
        ValueError: an unknown policy or option, or a weight that is no positive number.
    """
    specs = [_parse_one(part) for part in re.split(r"\s*\+\s*(?=[A-Za-z_0-9]+(?:[:*+]|$))", text.strip())]
    if len({spec.text for spec in specs}) < len(specs):
        raise ValueError(f"a policy is named twice in {text!r}; give it one weight")
    return specs


def _parse_one(text: str) -> PolicySpec:
    match = re.fullmatch(r"(.*?)(?:\*([^*/]*))?", text.strip(), re.DOTALL)
    assert match is not None
    body, weight = match[1].strip(), match[2]
    name, _, rest = body.partition(":")
    taken = _options()
    if name not in taken:
        raise ValueError(
            f"Unknown policy {name!r}.{did_you_mean(name, taken)} Known policies: {', '.join(policy_names())}"
        )
    options: dict[str, str] = {}
    for place, option in enumerate(filter(None, rest.split(","))):
        key, given, value = option.partition("=")
        known = taken[name] | _EVERY_POLICY
        if key in known and given:
            options[key] = value
        elif place == 0 and name in _FIRST_OPTION and (name != "planner" or not given):
            options[_FIRST_OPTION[name]] = option
        else:
            raise ValueError(
                f"Unknown option {option!r} of the policy {name!r}.{did_you_mean(key, sorted(known))} "
                f"Known options: {', '.join(sorted(known))}"
            )
    spec = PolicySpec(name, options, 1.0 if weight is None else _number(weight, f"weight in {text!r}"), body)
    if spec.weight == 0:
        raise ValueError(f"the weight in {text!r} must be above 0")
    if name == "replay" and "source" not in options:
        raise ValueError("replay needs logged trajectories: replay:SRC, a store or any format wm-data reads")
    _ = spec.noise, spec.bursts  # refuses what is no number
    return spec


def _options() -> dict[str, set[str]]:
    """What each policy takes of its own; those of `envs.POLICIES` that are not named here take nothing."""
    from wm_plan.envs.policies import POLICIES

    return {name: set[str]() for name in POLICIES if ":" not in name} | _OPTIONS


def policy_names() -> tuple[str, ...]:
    """What may be named, as it is listed to users."""
    from wm_plan.envs.policies import POLICIES

    return (*POLICIES, "sb3", "planner", "replay:SRC")


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise ValueError(f"the {what} must be a number of at least 0, got {text!r}")
    return value
