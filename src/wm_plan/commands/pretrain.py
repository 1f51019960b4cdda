"""`wm-pretrain`: train a V-JEPA encoder on logged video."""

from __future__ import annotations

import argparse
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .front import DONE, INTERRUPTED, Command, Job, UserInputError, positive_int

if TYPE_CHECKING:
    from wm_plan.world_model import JEPAEncoder, TrajectoryStore


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    parser.add_argument(
        "--data", nargs="+", metavar="DIR", help="logs of one task or several, in any format of wm-data"
    )
    parser.add_argument(
        "--columns",
        metavar="ROLE=COLUMN,...",
        help="which columns of other formats are pixels, action, proprio (default: found out, told)",
    )
    parser.add_argument("--steps", type=positive_int, metavar="N", help="optimiser steps")
    parser.add_argument("--batch-size", type=positive_int, metavar="N", help="clips a step")


def configure(config: Any, flags: argparse.Namespace) -> None:  # noqa: ANN401
    """Set what the flags say."""
    for name, value in (("num_steps", flags.steps), ("batch_size", flags.batch_size)):
        if value is not None:
            config[name] = value
    for name in ("data", "columns", "seed", "device", "threads"):
        value = getattr(flags, name)
        if value is not None:
            config[name] = value


def run(job: Job) -> int:
    """Pretrain, or go on pretraining."""
    from wm_plan.configuration import as_values, as_yaml
    from wm_plan.machine import use_device
    from wm_plan.output_folder import next_numbered
    from wm_plan.state_probes import StateProbes
    from wm_plan.tensorboard_scalars import TensorboardScalars
    from wm_plan.training_run import (
        check_training_folder,
        open_logs,
        provenance,
        settings_of,
        training_folder,
    )
    from wm_plan.world_model import PretrainConfig, pretrain
    from wm_plan.world_model.distributed import launched_rank, launched_ranks
    from wm_plan.world_model.pretraining import check_logs
    from wm_plan.world_model.training_state import STATE_NAME

    config, flags = job.config, job.flags
    settings = settings_of(config, PretrainConfig)
    if flags.resume and (flags.overwrite or not flags.out):
        raise UserInputError("--resume goes on with the run in --out DIR, and does not go with --overwrite.")
    if launched_ranks() > 1 and not flags.out:
        raise UserInputError("several processes need one folder to write into. Add --out DIR.")
    first = launched_rank() == 0
    out: Path = job.folder or flags.out or next_numbered("pretrain")
    if first:
        check_training_folder(out, config.data, resume=flags.resume, overwrite=flags.overwrite)
    device = use_device(config.device, config.threads)
    store = open_logs(config.data, config.columns, job.say)
    check_logs(store, settings)
    scalars = TensorboardScalars(out, wanted=config.tensorboard and first)
    if flags.dry_run:
        job.print_result(as_values(config), as_yaml(config).rstrip())
        return DONE
    warnings: list[str] = []

    def warn(line: str) -> None:
        warnings.append(line)
        job.warn(line)

    try:
        with (
            training_folder(out, job.config_file, resume=flags.resume) if first else nullcontext(),
            _ProgressBar(job, settings.num_steps, settings.batch_size, shown=first) as bar,
            scalars,
        ):
            encoder = pretrain(
                store,
                out,
                settings,
                resume=flags.resume,
                device=device,
                record=provenance(job.command_line, device),
                probe=StateProbes(store, settings, config.probe_labels) if first else None,
                progress=scalars.following(bar.update),
                warn=warn,
            )
    except KeyboardInterrupt:
        if (out / STATE_NAME).is_file():
            job.warn(f"stopped; a checkpoint is kept in {out}. Go on with: the same command and --resume")
        else:
            job.warn("stopped before the first checkpoint; nothing was kept")
        return INTERRUPTED
    return _report(job, out, store, encoder, warnings) if first else DONE


def _report(job: Job, out: Path, store: TrajectoryStore, encoder: JEPAEncoder, warnings: list[str]) -> int:
    """Print what came of it; gives the exit code."""
    record = encoder.training_record
    metrics = record["metrics"]
    result = {
        "out": out,
        "data": list(job.config.data),
        "frames": store.num_rows,
        "steps": record["config"]["num_steps"],
        "seed": record["config"]["seed"],
        **metrics,
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "fingerprint": encoder.fingerprint,
        "seconds": record["seconds"],
        "versions": record["versions"],
        "warnings": warnings,
        "files": {
            name: out / name for name in ("config.json", "model.safetensors", "metrics.jsonl", "config.yaml")
        },
    }
    job.objective = metrics["loss"]
    probed = "".join(
        f"  {name.removeprefix('probe/')}: R^2 {value:.3f}\n"
        for name, value in metrics.items()
        if name.startswith("probe/")
    )
    job.print_result(
        result,
        f"{out}: {result['steps']} steps in {record['seconds']:.0f} s, loss {metrics['loss']:.3f}, "
        f"std {metrics['std']:.3f}, effective rank {metrics['effective_rank']:.1f}\n{probed}"
        f"use it: wm-train --encoder {shlex.quote(str(out))} --data DIR --out DIR",
    )
    return DONE


class _ProgressBar:
    """Steps, what they gave, their rate and the time left, on stderr."""

    def __init__(self, job: Job, num_steps: int, batch_size: int, *, shown: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[numbers]}  {task.fields[rate]:.0f} clips/s"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=job.console, disable=not shown)
        self._task = self._progress.add_task("", total=num_steps, numbers="", rate=0.0)
        self._batch_size = batch_size
        self._start: tuple[float, int] | None = None

    def update(self, done: int, total: int, metrics: dict[str, float]) -> None:
        """Show how far it is; the rate counts from the first step of this run on."""
        now = self._progress.get_time()
        if self._start is None:
            self._start = now, done
        elapsed = now - self._start[0]
        rate = (done - self._start[1]) * self._batch_size / elapsed if elapsed > 0 else 0.0
        words = {"loss": "loss", "std": "std", "effective_rank": "rank"}
        numbers = "  ".join(f"{word} {metrics[name]:.3g}" for name, word in words.items() if name in metrics)
        self._progress.update(self._task, completed=done, total=total, numbers=numbers, rate=rate)

    def __enter__(self) -> _ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


COMMAND = Command(
    "wm-pretrain",
    "Pretrain a V-JEPA encoder on logged video, of one task or of several.",
    run=run,
    add_flags=add_flags,
    flags=("seed", "out", "resume", "device"),
    config="pretrain",
    configure=configure,
    examples=(
        "wm-pretrain --data data/reacher data/two_room --out runs/encoder",
        "wm-pretrain --data data/reacher data/two_room --out runs/encoder --resume",
        "wm-pretrain --data data/reacher --steps 10000 encoder.depth=4 jepa.target_layers=[2,4]",
    ),
    example_override="encoder.width=96",
)
main = COMMAND.main
