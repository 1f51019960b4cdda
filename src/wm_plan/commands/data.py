"""`wm-data`: look at logged trajectories of any format, check them, and make new ones of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .front import DONE, Command, CommandGroup, Job, UserInputError, positive_int, seed_int

if TYPE_CHECKING:
    from wm_plan.world_model.formats import Source

FINDINGS = 1
_FORMATS = "native, lerobot, minari"
_SHOWN_FINDINGS = 100


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC", help="a dataset: a folder or file of any format")


def _add_columns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--columns",
        metavar="ROLE=COLUMN,...",
        help="what is taken for pixels, action, proprio (default: found out, and told)",
    )


def _add_destination(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", metavar="FORMAT", help=f"format to write: {_FORMATS} (default native)")
    parser.add_argument("--lossless", action="store_true", help="lerobot: PNG images instead of video")
    parser.add_argument("--task", metavar="TEXT", help="lerobot: what the robot does (default: the source's)")
    parser.add_argument("--resume", action="store_true", help="go on with what was stopped")
    parser.add_argument("--overwrite", action="store_true", help="replace the dataset at DST")


def _options(flags: argparse.Namespace) -> dict[str, Any]:
    """What is the chosen format's own; the other formats are always lossless."""
    if (flags.to or "native") == "lerobot":
        return {"images": flags.lossless, "task": flags.task}
    if flags.task:
        raise UserInputError(f"--task goes with --to lerobot, not {flags.to or 'native'}.")
    return {}


def _open(path: Path) -> Source:
    from wm_plan.world_model.formats import open_source

    return open_source(path)


# --- inspect --------------------------------------------------------------------------------------------


def _inspect(job: Job) -> int:
    from wm_plan.data.inspecting import describe, inspect

    source = _open(job.flags.source)
    with _ProgressBar(job, "reading") as bar:
        found = inspect(source, bar.update)
    job.print_result(found, describe(found))
    return DONE


# --- preview --------------------------------------------------------------------------------------------


def _add_preview_flags(parser: argparse.ArgumentParser) -> None:
    _add_source(parser)
    parser.add_argument("--episodes", metavar="LIST", help="such as 0:3,17 (default: three over the dataset)")
    parser.add_argument(
        "--frames", type=positive_int, default=8, metavar="N", help="frames of each on the sheet (8)"
    )


def _preview(job: Job) -> int:
    import numpy as np

    from wm_plan.data.converting import parse_episodes
    from wm_plan.data.preview import contact_sheet, write_clip
    from wm_plan.output_folder import filled_at_once, next_numbered

    source = _open(job.flags.source)
    count = len(source.lengths)
    if job.flags.episodes:
        episodes = parse_episodes(job.flags.episodes, count)
    else:
        episodes = np.unique(np.linspace(0, count - 1, min(3, count)).astype(int)).tolist()
    out: Path = job.flags.out or next_numbered("preview")
    with filled_at_once(out, overwrite=job.flags.overwrite) as folder:
        contact_sheet(source, episodes, folder / "frames.png", job.flags.frames)
        write_clip(source, episodes, folder / "episodes.mp4")
    files = {"sheet": out / "frames.png", "clip": out / "episodes.mp4"}
    job.print_result({"episodes": episodes, **files}, "\n".join(str(file) for file in files.values()))
    return DONE


# --- validate -------------------------------------------------------------------------------------------


def _add_validate_flags(parser: argparse.ArgumentParser) -> None:
    _add_source(parser)
    _add_columns(parser)
    parser.add_argument(
        "--action-range", metavar="LOW,HIGH", help="bounds of the action (default: what the dataset says)"
    )
    parser.add_argument("--ignore", metavar="KIND,...", help="kinds of findings that do not count")


def _validate(job: Job) -> int:
    import numpy as np

    from wm_plan.data.bounds import given_bounds
    from wm_plan.data.converting import parse_columns
    from wm_plan.data.validating import KINDS, validate
    from wm_plan.world_model.formats import default_columns

    flags = job.flags
    source = _open(flags.source)
    columns = parse_columns(flags.columns)
    action = (default_columns(source) | (columns or {})).get("action")
    bounds = None
    if flags.action_range:
        if action is None or action not in source.columns:
            raise UserInputError("--action-range was given, and there is no column of actions.")
        bounds = given_bounds(flags.action_range, int(np.prod(source.columns[action].shape)))
    ignore = [kind.strip() for kind in flags.ignore.split(",")] if flags.ignore else []
    with _ProgressBar(job, "checking") as bar:
        findings = validate(source, columns, bounds=bounds, ignore=ignore, progress=bar.update)
    counts = {kind: sum(f.kind == kind for f in findings) for kind in KINDS}
    result = {
        "path": source.path,
        "format": source.format,
        "clean": not findings,
        "episodes": len(source.lengths),
        "counts": counts,
        "findings": [vars(finding) for finding in findings],
    }
    lines = [str(finding) for finding in findings[:_SHOWN_FINDINGS]]
    if len(findings) > _SHOWN_FINDINGS:
        lines.append(f"... {len(findings)} findings in all; --json has them")
    text = "\n".join(lines) or f"{source.path}: {len(source.lengths)} episodes, nothing wrong was found"
    job.print_result(result, text)
    return FINDINGS if findings else DONE


# --- convert, merge, split ------------------------------------------------------------------------------


def _add_convert_flags(parser: argparse.ArgumentParser) -> None:
    _add_source(parser)
    parser.add_argument("destination", type=Path, metavar="DST", help="the folder to make")
    _add_columns(parser)
    parser.add_argument("--episodes", metavar="LIST", help="such as 0:100,150 (default: all)")
    _add_destination(parser)


def _convert(job: Job) -> int:
    from wm_plan.data.converting import convert, parse_columns, parse_episodes

    flags = job.flags
    source = _open(flags.source)
    columns = parse_columns(flags.columns)
    _tell_columns(job, source, columns)
    episodes = parse_episodes(flags.episodes, len(source.lengths)) if flags.episodes else None
    with _ProgressBar(job, "converting") as bar:
        convert(
            source,
            flags.destination,
            flags.to or "native",
            columns,
            episodes=episodes,
            resume=flags.resume,
            overwrite=flags.overwrite,
            options=_options(flags),
            progress=bar.update,
        )
    return _report(job, {"": flags.destination})


def _add_merge_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", type=Path, nargs="+", metavar="SRC", help="two datasets or more")
    parser.add_argument("destination", type=Path, metavar="DST", help="the folder to make")
    _add_columns(parser)
    _add_destination(parser)


def _merge(job: Job) -> int:
    from wm_plan.data.converting import convert, join, parse_columns

    flags = job.flags
    if len(flags.sources) < 2:
        raise UserInputError("merge needs two datasets or more before DST.")
    paths = [Path(path) for path in flags.sources]
    for path in paths:
        if path.resolve() == flags.destination.resolve():
            raise UserInputError(f"DST {str(path)!r} is also what is read. Name another folder.")
    joined = join([_open(path) for path in paths], parse_columns(flags.columns))
    if joined.left_out:
        job.warn(f"only some of the datasets have {', '.join(joined.left_out)}: left out")
    with _ProgressBar(job, "merging") as bar:
        convert(
            joined,
            flags.destination,
            flags.to or "native",
            resume=flags.resume,
            overwrite=flags.overwrite,
            options=_options(flags),
            progress=bar.update,
        )
    return _report(job, {"": flags.destination})


def _add_split_flags(parser: argparse.ArgumentParser) -> None:
    _add_source(parser)
    parser.add_argument("destination", type=Path, metavar="DST", help="the folder to make")
    parser.add_argument(
        "--fractions", metavar="LIST", help="random parts in folders of DST, such as train=0.9,test=0.1"
    )
    parser.add_argument("--episodes", metavar="LIST", help="one part, DST itself, such as 0:100,150")
    parser.add_argument(
        "--seed", type=seed_int, default=0, metavar="N", help="which episodes a part gets (0)"
    )
    _add_columns(parser)
    _add_destination(parser)


def _split(job: Job) -> int:
    from wm_plan.data.converting import convert, draw_parts, parse_columns, parse_episodes, parse_fractions

    flags = job.flags
    if bool(flags.fractions) == bool(flags.episodes):
        raise UserInputError("split needs --fractions LIST or --episodes LIST, and not both.")
    source = _open(flags.source)
    count = len(source.lengths)
    parts: dict[str, Sequence[int]] = {}
    if flags.episodes:
        parts[""] = parse_episodes(flags.episodes, count)
    else:
        parts |= draw_parts(count, parse_fractions(flags.fractions), flags.seed)
        if flags.destination.is_file():
            raise UserInputError(f"DST {str(flags.destination)!r} is a file. Name a folder.")
    folders = {name: flags.destination / name for name in parts}
    columns = parse_columns(flags.columns)
    _tell_columns(job, source, columns)
    for name, episodes in parts.items():
        with _ProgressBar(job, f"writing {name}".strip()) as bar:
            convert(
                source,
                folders[name],
                flags.to or "native",
                columns,
                episodes=episodes,
                resume=flags.resume,
                overwrite=flags.overwrite,
                options=_options(flags),
                progress=bar.update,
            )
    return _report(job, folders)


def _tell_columns(job: Job, source: Source, columns: dict[str, str] | None) -> None:
    """Say what is taken for what, where the user did not."""
    from wm_plan.world_model.formats import default_columns

    if columns is None:
        chosen = ",".join(f"{role}={name}" for role, name in default_columns(source).items())
        job.say(
            f"columns: {chosen or 'none found for pixels, action or proprio'} (choose others by --columns)"
        )


def _report(job: Job, folders: dict[str, Path]) -> int:
    """Say what is there now."""
    from wm_plan.data.inspecting import size_on_disk

    written: list[dict[str, Any]] = []
    for path in folders.values():
        source = _open(path)
        written.append(
            {
                "path": path,
                "format": source.format,
                "episodes": len(source.lengths),
                "rows": int(source.lengths.sum()),
                "columns": list(source.columns),
                "size_bytes": size_on_disk(path),
            }
        )
        source.close()
    result = written[0] if list(folders) == [""] else {"parts": dict(zip(folders, written, strict=True))}
    lines = (
        f"{part['path']}: {part['format']}, {part['episodes']} episodes, {part['rows']} rows, "
        f"{part['size_bytes'] / 1e6:.1f} MB"
        for part in written
    )
    job.print_result(result, "\n".join(lines))
    return DONE


class _ProgressBar:
    """How far it is and the time left, on stderr."""

    def __init__(self, job: Job, what: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("episodes"),
            TimeRemainingColumn(),
        )
        console = job.console
        self._progress = Progress(*columns, console=console, transient=console.is_terminal)
        self._task = self._progress.add_task(what, total=None)

    def update(self, done: int, total: int) -> None:
        """Show how far it is."""
        self._progress.update(self._task, completed=done, total=total)

    def __enter__(self) -> _ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


COMMAND = CommandGroup(
    "wm-data",
    "Look at logged trajectories of any format, check them, and make new ones of them.",
    (
        Command(
            "wm-data inspect",
            "Print episodes, columns, ranges, histograms and size of a dataset.",
            run=_inspect,
            add_flags=_add_source,
            arguments="SRC",
            examples=("wm-data inspect data/reacher", "wm-data inspect data/pusht --json"),
        ),
        Command(
            "wm-data preview",
            "Write a contact sheet (PNG) and a video (MP4) of some episodes.",
            run=_preview,
            add_flags=_add_preview_flags,
            flags=("out",),
            arguments="SRC",
            examples=("wm-data preview data/reacher --episodes 0:3 --out runs/look",),
        ),
        Command(
            "wm-data validate",
            "Look for what is wrong in a dataset: values, frames, alignment, files.",
            run=_validate,
            add_flags=_add_validate_flags,
            arguments="SRC",
            exit_codes="1 findings",
            examples=(
                "wm-data validate data/reacher",
                "wm-data validate data/mine --action-range=-1,1 --ignore frozen-frames",
            ),
        ),
        Command(
            "wm-data convert",
            f"Write a dataset in another format ({_FORMATS}); every column goes along.",
            run=_convert,
            add_flags=_add_convert_flags,
            arguments="SRC DST",
            examples=(
                "wm-data convert data/reacher data/reacher-lerobot --to lerobot",
                "wm-data convert data/aloha data/aloha-native --to native "
                "--columns pixels=observation.images.front,action=action,proprio=observation.state",
            ),
        ),
        Command(
            "wm-data merge",
            "Write several datasets of one robot as one.",
            run=_merge,
            add_flags=_add_merge_flags,
            arguments="SRC SRC ... DST",
            examples=("wm-data merge data/monday data/tuesday data/both",),
        ),
        Command(
            "wm-data split",
            "Write parts of a dataset: random ones, or chosen episodes.",
            run=_split,
            add_flags=_add_split_flags,
            arguments="SRC DST",
            examples=(
                "wm-data split data/reacher data/parts --fractions train=0.9,test=0.1",
                "wm-data split data/reacher data/first --episodes 0:100",
            ),
        ),
    ),
)
main = COMMAND.main
