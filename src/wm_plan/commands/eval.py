"""`wm-eval`: success over many episodes, policies side by side on the same starts and goals."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .front import DONE, INTERRUPTED, Command, Job, UserInputError, as_json, one_line, positive_int
from .plan import task_of

if TYPE_CHECKING:
    from wm_plan.evaluation.chunk_folder import ChunkFolder
    from wm_plan.evaluation.policies import EvaluationPolicy
    from wm_plan.evaluation.work import EvaluationJob

RESULT, CSV, REPORT, CONFIG = "result.json", "result.csv", "report.html", "config.yaml"
BARS = 8
"""Progress bars that are shown at a time."""


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
        help="near: 25 env steps along a logged episode (default); far: from anywhere to anywhere; robust: "
        "one thing changed at a time; or several of them",
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
    parser.add_argument(
        "--changes", type=names, metavar="NAMES", help="of robust (default: all); --list names them"
    )
    parser.add_argument(
        "--workers", type=positive_int, metavar="N", help="processes (default 1): the same outcomes, sooner"
    )
    parser.add_argument(
        "--shard", metavar="I/N", help="run the I-th of N parts, as on several machines, each with an --out"
    )
    parser.add_argument(
        "--merge", nargs="+", metavar="DIR", help="put the shards in these folders together, and run nothing"
    )
    parser.add_argument(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="also write report.html: plots, and videos of successes and failures (default)",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="DIR",
        help="measure --model on logged trajectories (any format of wm-data) instead, without any simulator",
    )
    parser.add_argument("--columns", metavar="ROLE=COLUMN,...", help="of --data, as in wm-train")
    parser.add_argument("--goal-size", type=positive_int, metavar="N", help="pixels a side of goal pictures")


def select(flags: argparse.Namespace) -> list[str]:
    """Choose the presets of the task and of the first planner."""
    from wm_plan.planners import planner_names
    from wm_plan.planning import task_choice
    from wm_plan.suggestion import did_you_mean

    if flags.merge or flags.data:
        return []
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
        "changes": flags.changes,
        **{name: getattr(flags, name) for name in (*shared, "rl", "goal_look", "goal_size")},
        **{name: getattr(flags, name) for name in ("episodes", "workers", "report")},
        "data": flags.data,
        "columns": flags.columns,
    }
    for name, value in given.items():
        if value is not None:
            config[name] = value


def run(job: Job) -> int:
    """Evaluate; exit code 0 whatever the rates are."""
    flags = job.flags
    if flags.list:
        return _list(job)
    if flags.merge:
        return _merge(job)
    if job.config.data:
        from wm_plan.offline import evaluate_offline

        evaluate_offline(job)
        return DONE
    from omegaconf import OmegaConf

    from wm_plan.collecting import parse_shard
    from wm_plan.envs import short_name
    from wm_plan.evaluation.chunk_folder import ChunkFolder
    from wm_plan.evaluation.contestants import find_contestants
    from wm_plan.evaluation.work import EvaluationJob, find_cells
    from wm_plan.machine import use_device
    from wm_plan.output_folder import check_output_folder, check_resume, next_numbered

    settings: Any = OmegaConf.to_object(job.config)
    check_resume(flags.resume, flags.overwrite, flags.out, "evaluation")
    shard = (1, 1) if flags.shard is None else parse_shard(flags.shard)
    if flags.shard and not flags.out:
        raise UserInputError("--shard needs --out DIR, one for each shard; --merge DIR DIR ... joins them.")
    out: Path = job.folder or flags.out or next_numbered(f"eval-{short_name(settings.env)}")
    if ChunkFolder(out).exists and not (flags.resume or flags.overwrite):
        raise UserInputError(
            f"{str(out)!r} holds an evaluation that was begun. Add --resume, or --overwrite."
        )
    if not flags.dry_run:
        check_output_folder(out, overwrite=flags.overwrite or flags.resume)
    use_device(settings.device, settings.threads)
    contestants = find_contestants(_with_each_planner(job, settings))
    cells = find_cells(settings, job.warn)
    policies = {contestant.name: contestant.make() for contestant in contestants}
    if flags.dry_run:
        return _show_config(job)
    return _run_cells(job, out, EvaluationJob(settings, contestants, cells), policies, shard)


def _run_cells(
    job: Job,
    out: Path,
    work: EvaluationJob,
    policies: dict[str, EvaluationPolicy],
    shard: tuple[int, int],
) -> int:
    """Run what is missing, and put it together; a shard is left to be merged."""
    from wm_plan.evaluation.chunk_folder import ChunkFolder
    from wm_plan.evaluation.side_by_side import evaluate, settings_of
    from wm_plan.world_model.manifest import write_atomically

    flags, decided, folder = job.flags, settings_of(work, policies), ChunkFolder(out)
    if flags.resume and not folder.exists and (out / RESULT).is_file():
        return _finished_before(job, out, decided)
    if flags.resume and folder.exists:
        folder.check_resumable(decided, flags.shard)
    else:
        folder.begin(decided, flags.shard)
    began, complete = time.perf_counter(), False
    try:
        with _ProgressBar(job, work.config.episodes) as bar:
            complete = evaluate(work, policies, folder, shard=shard, on_progress=bar.update)
    except KeyboardInterrupt:
        pass
    finally:
        finished = len(folder.finished())
        if not finished:
            folder.remove()
    if not complete:
        again = f"Go on with: the same command, --out {out} and --resume" if finished else "Nothing is kept"
        job.warn(f"stopped; {finished} chunks of {work.config.batch_size} episodes are finished. {again}")
        return INTERRUPTED
    write_atomically(out / CONFIG, job.config_file)
    if flags.shard is not None:
        found = {"out": out, "shard": flags.shard, "chunks": finished}
        job.print_result(found, f"{out}: shard {flags.shard}, {finished} chunks; wm-eval --merge joins them")
        return DONE
    return _put_together(job, out, [folder], round(time.perf_counter() - began, 3))


def _merge(job: Job) -> int:
    """Put the shards of an evaluation together; they stay as they are."""
    import shutil

    from wm_plan.envs import short_name
    from wm_plan.evaluation.chunk_folder import ChunkFolder
    from wm_plan.output_folder import check_output_folder, next_numbered

    flags = job.flags
    folders = [ChunkFolder(Path(path)) for path in flags.merge]
    env = folders[0].manifest()["settings"]["env"]
    out: Path = flags.out or next_numbered(f"eval-{short_name(env)}")
    check_output_folder(out, overwrite=flags.overwrite)
    if flags.dry_run:
        raise UserInputError(
            "--merge runs nothing, so --dry-run has nothing to check; leave one of them out."
        )
    config = folders[0].out / CONFIG
    return _put_together(job, out, folders, None, lambda: shutil.copy(config, out / CONFIG))


def _put_together(
    job: Job,
    out: Path,
    folders: list[ChunkFolder],
    wall_s: float | None,
    prepare: Callable[[], object] = lambda: None,
) -> int:
    """Make rows of chunks, write what there is to be written, and print the table."""
    from wm_plan.evaluation.rows import make_csv, make_table
    from wm_plan.evaluation.side_by_side import put_together
    from wm_plan.machine import peak_memory_mb, versions
    from wm_plan.world_model.manifest import write_atomically

    decided, found = put_together(folders)
    out.mkdir(parents=True, exist_ok=True)
    prepare()
    names = [RESULT, CSV, *([REPORT] if decided["report"] else []), CONFIG]
    result = {
        "rows": [one.row for one in found],
        **{name: decided[name] for name in ("seed", "threads", "device", "episodes")},
        "command": job.command_line,
        "wall_s": wall_s,
        "peak_memory_mb": peak_memory_mb(),
        "versions": versions(),
        "settings_digest": digest(decided),
        "files": {name: str(out / name) for name in names},
    }
    rows = [{**one.row, "outcomes": [outcome.as_json() for outcome in one.outcomes]} for one in found]
    write_atomically(out / CSV, make_csv(result["rows"]))
    if decided["report"]:
        from wm_plan.evaluation.report import make_report

        write_atomically(out / REPORT, make_report(result, found, decided["videos"]))
    write_atomically(out / RESULT, json.dumps(as_json({**result, "rows": rows}), allow_nan=False) + "\n")
    if [folder.out for folder in folders] == [out]:
        folders[0].remove()
    planned = [one.row["success_rate"] for one in found if one.row["policy"] == "planner"]
    if planned:
        job.objective = 1 - sum(planned) / len(planned)
    job.print_result(result, f"{make_table(result['rows'])}\n{out}: {', '.join(names)}")
    return DONE


def _finished_before(job: Job, out: Path, decided: dict[str, Any]) -> int:
    """Print the result of an evaluation that needs no going on.

    Raises:
        ValueError: what lies there is another evaluation's.
    """
    from wm_plan.evaluation.rows import make_table

    result = json.loads((out / RESULT).read_text(encoding="utf-8"))
    if result.get("settings_digest") != digest(decided):
        raise UserInputError(
            f"{str(out)!r} holds the result of another evaluation. Use the same command, or another --out."
        )
    for row in result["rows"]:
        del row["outcomes"]
    job.print_result(result, f"{make_table(result['rows'])}\n{out}: finished before")
    return DONE


def digest(decided: dict[str, Any]) -> str:
    """40 hexadecimal digits that tell evaluations apart."""
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:40]


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
            for old in list(self._bars.values())[:-BARS]:
                self._progress.update(old, visible=False)
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
    from wm_plan.evaluation.changes import CHANGES
    from wm_plan.evaluation.contestants import POLICIES
    from wm_plan.evaluation.work import PROTOCOL_NAMES
    from wm_plan.planners import planner_names
    from wm_plan.world_model import predictor_names

    found: dict[str, Any] = {
        "envs": list(envs.task_names()),
        "models": list(predictor_names()),
        "planners": planner_names(),
        "protocols": list(PROTOCOL_NAMES),
        "changes": list(CHANGES),
        "policies": list(POLICIES),
    }
    job.print_result(found, "\n".join(f"{key:<9} {', '.join(value)}" for key, value in found.items()))
    return DONE


COMMAND = Command(
    "wm-eval",
    "Measure success over many episodes, policies side by side on the same starts and goals.",
    run=run,
    add_flags=add_flags,
    flags=("env", "model", "seed", "out", "resume", "device", "list"),
    config="eval",
    select=select,
    configure=configure,
    examples=(
        "wm-eval --env reacher --protocol near,far",
        "wm-eval --env two_room --protocol far --policy planner,random,hold,physics,rl --threads 2",
        "wm-eval --model runs/mine --planner mppi --episodes 50 --seed 1000 planner.num_samples=512",
        "wm-eval --env reacher --protocol robust --changes light,camera,mass --episodes 50 --workers 2",
        "wm-eval --env reacher --planner cem,icem,mppi --shard 1/4 --out shards/1",
        "wm-eval --merge shards/1 shards/2 shards/3 shards/4 --out runs/whole",
        "wm-eval --env reacher --goal-look default --goal-size 480 --episodes 20",
        "wm-eval --model runs/mine --data data/mine",
    ),
)
main = COMMAND.main
