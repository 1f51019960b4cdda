"""`wm-train`: train a world model on logged trajectories, over a frozen encoder."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .front import DONE, INTERRUPTED, Command, Job, UserInputError, positive_int

if TYPE_CHECKING:
    from wm_plan.world_model import CompactWorldModel, Encoder, TokenWorldModel, TrajectoryStore
    from wm_plan.world_model.calibration import Reached


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="DIR",
        help="logs of one task: of wm-collect, or in any format of wm-data",
    )
    parser.add_argument(
        "--columns",
        metavar="ROLE=COLUMN,...",
        help="which columns of other formats are pixels, action, proprio (default: found out, told)",
    )
    parser.add_argument(
        "--encoder",
        metavar="NAME|DIR",
        help="the frozen encoder: small (default), random, pixels, efficientnet-lite0; a folder of "
        "wm-pretrain or transformers; an id of the hub (facebook/vjepa2-vitl-fpc64-256); or a .pt file",
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="NAME|DIR|ID",
        help="fine-tune: go on from this model's weights, a shipped one (reacher), a folder of wm-train "
        "or an id of the hub",
    )
    parser.add_argument(
        "--predictor",
        choices=("compact", "vjepa2_ac", "dino_wm"),
        help="compact: one small latent a frame (default); the others: over all patch tokens",
    )
    parser.add_argument("--steps", type=positive_int, metavar="N", help="optimiser steps of the first stage")
    parser.add_argument(
        "--batch-size", type=positive_int, metavar="N", help="windows a step of the first stage"
    )
    parser.add_argument(
        "--also",
        type=_beside_names,
        default=[],
        metavar="NAMES",
        help="train beside the model, too: decoder (draws what is imagined), prior (proposes actions), "
        "action_decoder (latent actions to search)",
    )
    parser.add_argument(
        "--only",
        type=_beside_names,
        default=[],
        metavar="NAMES",
        help="train these beside the finished model in --out, and leave the model as it is",
    )
    parser.add_argument(
        "--without-encoder",
        action="store_true",
        help="leave the encoder out of --out: only for the one in the package, which is found by its name",
    )

    parser.add_argument(
        "--push-to",
        metavar="OWNER/NAME",
        help="in the end push the model, with a card, to the hub of huggingface",
    )


def _beside_names(text: str) -> list[str]:
    from wm_plan.training_beside import beside_names

    return beside_names(text)


def select(flags: argparse.Namespace) -> list[str]:
    """Take the settings of the model that is gone on from, and a budget for fine-tuning."""
    if flags.start is None:
        return []
    from wm_plan.world_model.fine_tuning import overrides_of

    if flags.predictor not in {None, "compact"}:
        raise UserInputError(f"--from goes with --predictor compact, not {flags.predictor}.")
    return overrides_of(flags.start)


def configure(config: Any, flags: argparse.Namespace) -> None:  # noqa: ANN401
    """Set what the flags say."""
    if flags.predictor is not None:
        config.predictor = flags.predictor
    section = config if config.predictor == "compact" else config.tokens
    for name, value in (("num_steps", flags.steps), ("batch_size", flags.batch_size)):
        if value is not None:
            section[name] = value
    for name in ("data", "columns", "encoder", "seed", "device", "threads"):
        value = getattr(flags, name)
        if value is not None:
            config[name] = value


def run(job: Job) -> int:
    """Train, or go on training."""
    from wm_plan.configuration import as_values, as_yaml
    from wm_plan.machine import use_device
    from wm_plan.output_folder import next_numbered
    from wm_plan.tensorboard_scalars import TensorboardScalars
    from wm_plan.training_beside import train_beside
    from wm_plan.training_run import check_training_folder, open_logs, provenance, training_folder
    from wm_plan.world_model.distributed import launched_rank
    from wm_plan.world_model.training_state import STATE_NAME

    config, flags = job.config, job.flags
    if flags.only:
        return _train_beside(job)
    _check_flags(config, flags)
    check_logs, train = _training_of(config)
    first = launched_rank() == 0
    out: Path = job.folder or flags.out or next_numbered("train")
    if first:
        inputs = [*config.data, config.encoder, *([flags.start] if flags.start else [])]
        check_training_folder(out, inputs, resume=flags.resume, overwrite=flags.overwrite)
    device = use_device(config.device, config.threads)
    store = open_logs(config.data, config.columns, job.say)
    encoder, more = _encoder_and_start(config, flags, str(device))
    check_logs(store)
    if flags.start:
        _check_start(config, store, encoder, more["start"])
    scalars = TensorboardScalars(out, wanted=config.tensorboard and first)
    if flags.dry_run:
        job.print_result(as_values(config), as_yaml(config).rstrip())
        return DONE
    try:
        with (
            training_folder(out, job.config_file, resume=flags.resume) if first else nullcontext(),
            _ProgressBars(job, shown=first) as bars,
            scalars,
        ):
            model = train(
                store,
                encoder,
                out,
                resume=flags.resume,
                with_encoder=not flags.without_encoder,
                reached=_tolerance_of(store),
                record=provenance(job.command_line, device),
                on_stage=bars.begin,
                progress=scalars.following(bars.update),
                **more,
            )
            if first:
                train_beside(
                    flags.also,
                    model,
                    store,
                    out,
                    config,
                    resume=flags.resume,
                    on_stage=bars.begin,
                    progress=bars.update,
                )
    except KeyboardInterrupt:
        if (out / STATE_NAME).is_file():
            job.warn(f"stopped; a checkpoint is kept in {out}. Go on with: the same command and --resume")
        else:
            job.warn("stopped before the first checkpoint; only the frames encoded so far are kept")
        return INTERRUPTED
    if not first:
        return DONE
    _push(job, out)
    return _report(job, out, model)


def _push(job: Job, out: Path) -> None:
    """Push the folder to the hub, if that is asked for."""
    if job.flags.push_to:
        from wm_plan.world_model.hub import push_to_hub

        job.say(f"pushed to {push_to_hub(out, job.flags.push_to)}")


def _check_flags(config: Any, flags: argparse.Namespace) -> None:  # noqa: ANN401
    """Refuse what does not go together."""
    from wm_plan.world_model.distributed import launched_ranks
    from wm_plan.world_model.hub import check_can_push

    if flags.push_to:
        check_can_push(flags.push_to)
    if flags.resume and (flags.overwrite or not flags.out):
        raise UserInputError("--resume goes on with the run in --out DIR, and does not go with --overwrite.")
    if launched_ranks() > 1 and not flags.out:
        raise UserInputError("several processes need one folder to write into. Add --out DIR.")
    if not flags.start and config.predictor == "compact" and not config.num_steps:
        raise UserInputError("num_steps=0 would leave the state head untrained; it goes with --from.")
    if flags.without_encoder and config.encoder != "small":
        raise UserInputError(
            f"--without-encoder goes with --encoder small, not {config.encoder!r}: "
            "no other encoder is found by its name."
        )


def _encoder_and_start(
    config: Any,  # noqa: ANN401
    flags: argparse.Namespace,
    device: str,
) -> tuple[Encoder, dict[str, Any]]:
    """Give the encoder, and the model that is gone on from; its encoder serves where none is asked for."""
    from wm_plan.world_model import load_encoder, load_model

    if not flags.start:
        return load_encoder(config.encoder, device=device), {}
    start: Any = load_model(flags.start)
    if flags.encoder is not None:
        return load_encoder(config.encoder, device=device), {"start": start}
    config.encoder = start.encoder.name
    return start.encoder.to(device), {"start": start}


def _check_start(
    config: Any,  # noqa: ANN401
    store: TrajectoryStore,
    encoder: Encoder,
    start: CompactWorldModel,
) -> None:
    """Refuse a model that logs or settings do not go with."""
    from wm_plan.training_run import settings_of
    from wm_plan.world_model import TrainConfig
    from wm_plan.world_model.fine_tuning import check_start

    check_start(start, store, encoder, settings_of(config, TrainConfig))


def _train_beside(job: Job) -> int:
    """Train what --only names beside a finished model."""
    from wm_plan.configuration import as_values, as_yaml
    from wm_plan.machine import use_device
    from wm_plan.training_beside import train_beside
    from wm_plan.training_run import open_logs
    from wm_plan.world_model import load_model
    from wm_plan.world_model.hub import check_can_push

    config, flags = job.config, job.flags
    if not flags.out or flags.overwrite or flags.also:
        raise UserInputError(
            "--only trains beside the finished model in --out DIR;"
            " it goes with neither --also nor --overwrite."
        )
    if flags.push_to:
        check_can_push(flags.push_to)
    device = use_device(config.device, config.threads)
    store = open_logs(config.data, config.columns, job.say)
    model = load_model(flags.out, device=str(device))
    if flags.dry_run:
        job.print_result(as_values(config), as_yaml(config).rstrip())
        return DONE
    try:
        with _ProgressBars(job, shown=True) as bars:
            train_beside(
                flags.only,
                model,
                store,
                flags.out,
                config,
                resume=flags.resume,
                on_stage=bars.begin,
                progress=bars.update,
            )
    except KeyboardInterrupt:
        job.warn(f"stopped; checkpoints are kept in {flags.out}. Go on with: the same command and --resume")
        return INTERRUPTED
    _push(job, flags.out)
    return _report_beside(job)


def _report_beside(job: Job) -> int:
    """Print what came of --only; gives the exit code."""
    from wm_plan.training_beside import held_out_of

    out, names = job.flags.out, job.flags.only
    held_out = held_out_of(out, names)
    result = {
        "out": out,
        "data": list(job.config.data),
        "held_out": held_out,
        "files": {name: out / name for name in names},
    }
    job.print_result(result, "\n".join([f"{out}: {', '.join(names)}", *_told(held_out)]))
    return DONE


def _told(held_out: dict[str, dict[str, float]]) -> list[str]:
    """One line for each of what was trained beside a model."""
    lines = {
        "decoder": "  decoder: held-out frames are drawn with {psnr:.1f} dB PSNR"
        " (the usual frame in their place has {usual_psnr:.1f})",
        "prior": "  prior: it tells {explained:.0%} of the variance of held-out actions from where they led",
        "action_decoder": "  action_decoder: {nats:.1f} nats of a latent action tell {explained:.0%} of the "
        "variance of held-out actions",
    }
    return [lines[name].format(**numbers) for name, numbers in held_out.items()]


def _training_of(config: Any) -> tuple[Callable[..., None], Callable[..., Any]]:  # noqa: ANN401
    """Give what checks the logs and what trains on them, of the predictor that is asked for."""
    from omegaconf import OmegaConf

    from wm_plan.training_run import settings_of
    from wm_plan.world_model import TrainConfig, train_token_model, train_world_model
    from wm_plan.world_model.token_training import Family, check_token_logs
    from wm_plan.world_model.training_logs import check_logs

    settings = settings_of(config, TrainConfig)
    if config.predictor == "compact":
        return (
            partial(check_logs, config=settings),
            partial(train_world_model, config=settings, device=config.device),
        )
    whole: Any = OmegaConf.to_object(config)
    tokens = replace(whole.tokens, family=Family(str(whole.predictor)))
    train = partial(train_token_model, config=tokens, device=config.device)
    return partial(check_token_logs, config=tokens), train


def _tolerance_of(store: TrajectoryStore) -> Reached | None:
    """Give what judges pairs of true states, where the logs are of an environment that has them."""
    import numpy as np

    from wm_plan.training_run import logged_task

    task = logged_task(store.setting("env")) if "state" in store.columns else None
    if task is None or store.columns["state"].shape != task.get_state().shape:
        return None
    return lambda states, goals: np.asarray(task.error(states, goals) <= 1)


def _report(job: Job, out: Path, model: CompactWorldModel | TokenWorldModel) -> int:
    """Print what came of it; gives the exit code."""
    from wm_plan.envs import env_kind
    from wm_plan.training_beside import held_out_of

    metadata, held_out = model.metadata, held_out_of(out, job.flags.also)
    record, errors = metadata.training, metadata.open_loop_error
    try:
        env_kind(model.env_name)
        use = f"wm-plan --model {shlex.quote(str(out))} --goal IMAGE"
    except ValueError:
        use = f'controller = wm_plan.load("{out}")'
    names = ["config.json", "model.safetensors", "metrics.jsonl", "config.yaml"]
    result = {
        "env": model.env_name,
        "out": out,
        "data": list(job.config.data),
        "encoder": job.config.encoder,
        "encoder_fingerprint": model.encoder.fingerprint,
        "steps": record["config"]["num_steps"],
        "seed": record["config"]["seed"],
        "episodes": record["episodes"],
        "open_loop_error": errors,
        "reach_error_rate": metadata.reach_error_rate,
        "seconds": record["seconds"],
        "versions": record["versions"],
        "use": use,
        "held_out": held_out,
        "files": {name: out / name for name in [*names, *job.flags.also]},
    }
    job.objective = errors[-1]
    job.print_result(
        result,
        f"{out}: {model.env_name}, trained on {record['episodes']['train']} episodes "
        f"in {record['seconds']:.0f} s\n"
        f"  {record['episodes']['held_out']} held-out episodes: error after 1 imagined step "
        f"{errors[0]:.1%} of the latents' variance, after {len(errors)} steps {errors[-1]:.1%}; "
        f"reached or not is misjudged in {metadata.reach_error_rate:.0%} of close pairs\n"
        + "".join(f"{line}\n" for line in _told(held_out))
        + f"use it: {use}",
    )
    return DONE


class _ProgressBars:
    """One bar a stage, with what it gives, its rate and the time left, on stderr."""

    def __init__(self, job: Job, *, shown: bool) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskID,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column

        console = job.console
        room = max(12, console.width - 56)
        columns = (
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            BarColumn(bar_width=8),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True, max_width=room)),
        )
        self._progress = Progress(*columns, console=console, disable=not shown)
        self._task: TaskID | None = None

    def begin(self, stage: str) -> None:
        """Show the bar of the next stage."""
        self._end()
        self._task = self._progress.add_task(stage, total=None, numbers="")

    def update(self, done: int, total: int, metrics: dict[str, float]) -> None:
        """Show how far the stage is."""
        if self._task is not None:
            numbers = "  ".join(f"{name} {value:.2g}" for name, value in metrics.items())
            self._progress.update(self._task, completed=done, total=total, numbers=numbers)

    def _end(self) -> None:
        """Fill the bar of the stage that is over."""
        if self._task is not None:
            total = self._progress.tasks[self._task].total or 1
            self._progress.update(self._task, completed=total, total=total)

    def __enter__(self) -> _ProgressBars:
        self._progress.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._end()
        self._progress.stop()


COMMAND = Command(
    "wm-train",
    "Train a world model on logged trajectories of a task, over a frozen encoder.",
    run=run,
    add_flags=add_flags,
    flags=("seed", "out", "resume", "device"),
    config="train",
    select=select,
    configure=configure,
    examples=(
        "wm-train --data data/reacher --encoder small --out runs/reacher",
        "wm-train --data data/reacher --encoder small --out runs/reacher --resume",
        "wm-train --from reacher --data data/new_robot --out runs/mine",
        "wm-train --data data/reacher --predictor dino_wm --out runs/tokens tokens.dino_wm.depth=2",
        "wm-train --data data/mine --encoder runs/encoder --out runs/mine model.latent_dim=64",
        "wm-train --data data/reacher --out runs/reacher --only decoder,prior",
    ),
    example_override="model.latent_dim=64",
)
main = COMMAND.main
