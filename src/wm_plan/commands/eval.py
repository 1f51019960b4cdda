"""`wm-eval`: success over many episodes, policies side by side on the same starts and goals."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .front import DONE, Command, Job, UserInputError, as_json, one_line, positive_int
from .plan import task_of

if TYPE_CHECKING:
    from wm_plan.evaluation.side_by_side import Evaluation


def names(text: str) -> list[str]:
    """Read names parted by commas (an argparse type); order is kept, and what comes twice counts once."""
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return found


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    parser.add_argument(
        "--protocol",
        type=names,
        metavar="NAMES",
        help="near: 25 env steps along a logged episode (default); far: from anywhere to anywhere; or both",
    )
    parser.add_argument(
        "--policy",
        type=names,
        metavar="NAMES",
        help="who acts (default planner,random,hold); --list names them",
    )
    parser.add_argument("--camera", metavar="NAME", help="whose view is planned in (default: the model's)")
    parser.add_argument(
        "--planner", type=names, metavar="NAMES", help="cem (default), mppi, ...; --list names them"
    )
    parser.add_argument("--episodes", type=positive_int, metavar="N", help="of each policy (default 100)")
    parser.add_argument("--rl", metavar="DIRS", help="RL baselines of your own, made by wm-baseline")
    parser.add_argument(
        "--goal-look",
        choices=("plain", "default"),
        help="how goal pictures are drawn: plain, as logs are, or with the simulator's default settings",
    )
    parser.add_argument("--goal-size", type=positive_int, metavar="N", help="pixels a side of goal pictures")


def select(flags: argparse.Namespace) -> list[str]:
    """Choose the presets of the task and of the first planner."""
    from wm_plan.planners import planner_names
    from wm_plan.planning import task_choice
    from wm_plan.suggestion import did_you_mean

    first_model = argparse.Namespace(env=flags.env, model=(flags.model or "").split(",")[0].strip())
    flags.env = task_of(first_model)
    known = planner_names()
    for name in flags.planner or []:
        if name not in known:
            meant = did_you_mean(name, known)
            raise UserInputError(f"unknown planner {name!r}.{meant} Known planners: {', '.join(known)}.")
    return [*task_choice(flags.env), *([f"planner={flags.planner[0]}"] if flags.planner else [])]


def configure(config: Any, flags: argparse.Namespace) -> None:  # noqa: ANN401
    """Set what the flags say."""
    shared = ("env", "model", "camera", "seed", "device", "threads")
    given = {
        "protocols": flags.protocol,
        "policies": flags.policy,
        **{name: getattr(flags, name) for name in (*shared, "episodes", "rl", "goal_look", "goal_size")},
    }
    for name, value in given.items():
        if value is not None:
            config[name] = value


def run(job: Job) -> int:
    """Evaluate; exit code 0 whatever the rates are."""
    if job.flags.list:
        return _list(job)
    from omegaconf import OmegaConf

    from wm_plan.envs import short_name
    from wm_plan.evaluation.contestants import find_contestants
    from wm_plan.evaluation.protocols import find_protocol
    from wm_plan.evaluation.rows import make_table
    from wm_plan.evaluation.side_by_side import evaluate
    from wm_plan.machine import peak_memory_mb, use_device, versions
    from wm_plan.output_folder import check_output_folder, filled_at_once, next_numbered

    settings: Any = OmegaConf.to_object(job.config)
    out: Path = job.folder or job.flags.out or next_numbered(f"eval-{short_name(settings.env)}")
    if not job.flags.dry_run:
        check_output_folder(out, overwrite=job.flags.overwrite)
    use_device(settings.device, settings.threads)
    for name in settings.protocols:
        find_protocol(name)
    contestants = find_contestants(_with_each_planner(job, settings))
    policies = {contestant.name: contestant.make() for contestant in contestants}
    if job.flags.dry_run:
        return _show_config(job)
    with filled_at_once(out, overwrite=job.flags.overwrite) as folder:
        with _ProgressBar(job, settings.episodes) as bar:
            found = evaluate(settings, contestants, policies, bar.update)
        result = {
            "rows": [one.row for one in found],
            "seed": settings.seed,
            "threads": settings.threads,
            "device": settings.device,
            "peak_memory_mb": peak_memory_mb(),
            "versions": versions(),
            "files": {name: str(out / name) for name in ("result.json", "config.yaml")},
        }
        _write_files(folder, result, found, job)
    planned = [one.row["success_rate"] for one in found if one.row["policy"] == "planner"]
    if planned:
        job.objective = 1 - sum(planned) / len(planned)
    job.print_result(result, f"{make_table(result['rows'])}\n{out}: result.json, config.yaml")
    return DONE


def _with_each_planner(job: Job, settings: Any) -> dict[str, Any]:  # noqa: ANN401
    """Give the settings with each planner that --planner names, by its name."""
    from omegaconf import OmegaConf

    from wm_plan.configuration import compose
    from wm_plan.controller import planner_name

    found = {planner_name(settings): settings}
    for name in (job.flags.planner or [])[1:]:
        flags = argparse.Namespace(**{**vars(job.flags), "planner": [name]})
        try:
            config = compose("eval", job.overrides, base=select(flags))
        except ValueError as error:
            raise UserInputError(f"with --planner {name}: {one_line(error)}") from error
        configure(config, flags)
        found[name] = OmegaConf.to_object(config)
    return found


def _write_files(folder: Path, result: dict[str, Any], found: list[Evaluation], job: Job) -> None:
    """Write the rows, each with its episodes, and the config."""
    from wm_plan.configuration import as_yaml

    rows = [{**one.row, "outcomes": [outcome.as_json() for outcome in one.outcomes]} for one in found]
    written = as_json({**result, "rows": rows})
    (folder / "result.json").write_text(json.dumps(written) + "\n", encoding="utf-8")
    line = shlex.join(["wm-eval", *sys.argv[1:]])
    (folder / "config.yaml").write_text(f"# {line}\n{as_yaml(job.config)}", encoding="utf-8")


class _ProgressBar:
    """Episodes finished and reached of every policy, on stderr."""

    def __init__(self, job: Job, episodes: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._episodes = episodes
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("reached {task.fields[reached]}"),
            TimeElapsedColumn(),
            console=job.console,
        )
        self._bars: dict[tuple[str, str], Any] = {}

    def update(self, protocol: str, policy: str, finished: float, reached: int) -> None:
        """Show what a policy has done so far."""
        key = protocol, policy
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(" ".join(key), total=self._episodes, reached=0)
        self._progress.update(self._bars[key], completed=finished, reached=reached)

    def __enter__(self) -> _ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _show_config(job: Job) -> int:
    from wm_plan.configuration import as_values, as_yaml

    job.print_result(as_values(job.config), as_yaml(job.config).rstrip())
    return DONE


def _list(job: Job) -> int:
    from wm_plan import envs
    from wm_plan.evaluation.contestants import POLICIES
    from wm_plan.planners import planner_names
    from wm_plan.world_model import predictor_names

    found: dict[str, Any] = {
        "envs": list(envs.task_names()),
        "models": list(predictor_names()),
        "planners": planner_names(),
        "protocols": ["near", "far"],
        "policies": list(POLICIES),
    }
    job.print_result(found, "\n".join(f"{key:<9} {', '.join(value)}" for key, value in found.items()))
    return DONE


COMMAND = Command(
    "wm-eval",
    "Measure success over many episodes, policies side by side on the same starts and goals.",
    run=run,
    add_flags=add_flags,
    flags=("env", "model", "seed", "out", "device", "list"),
    config="eval",
    select=select,
    configure=configure,
    examples=(
        "wm-eval --env reacher --protocol near,far",
        "wm-eval --env two_room --protocol far --policy planner,random,hold,physics,rl --threads 2",
        "wm-eval --model runs/mine --planner mppi --episodes 50 --seed 1000 planner.num_samples=512",
        "wm-eval --env reacher --goal-look default --goal-size 480 --episodes 20",
    ),
)
main = COMMAND.main
