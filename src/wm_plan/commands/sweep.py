"""`-m`: run a command once for every combination of overrides, by hydra's sweepers and launchers.

Every job writes into its own numbered folder below `--out`. `hydra/launcher=submitit_slurm` and
`hydra/sweeper=optuna` work as with any hydra program; what a sweeper minimises is the job's `objective`:

    wm-train --data data/reacher --out runs/sweep -m hydra/sweeper=optuna hydra.sweeper.n_trials=20 \
      hydra.sweeper.n_jobs=1 'learning_rate=tag(log,interval(1e-4,1e-2))' 'model.predictor=choice(mlp,gru)'
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig

from wm_plan.configuration import CONFIG_FOLDER, compose, register
from wm_plan.output_folder import check_output_folder, next_numbered

from .front import (
    DONE,
    NOT_REACHED,
    WRONG_INPUT,
    Command,
    Job,
    UserInputError,
    is_users_mistake,
    one_line,
    write_result,
)


def run_sweep(command: Command, flags: argparse.Namespace, overrides: Sequence[str], stdout: IO[str]) -> int:
    """Run all the jobs of a sweep; exit code 2 if one had wrong input, else 3 if one did not reach its goal.

    Raises:
        UserInputError: an override that does not compose; said before any job runs.
    """
    assert command.config is not None
    selected = command.select(flags)
    _check_overrides(command.config, selected, overrides)
    out = getattr(flags, "out", None) or next_numbered(f"{command.name.removeprefix('wm-')}-sweep")
    check_output_folder(out, overwrite=getattr(flags, "overwrite", False))
    jobs: list[dict[str, Any]] = []

    def run_job(config: DictConfig) -> float:
        settings = HydraConfig.get()
        folder = Path(settings.runtime.output_dir)
        given = list(settings.overrides.task)
        job = Job(flags, config, folder=folder, overrides=[one for one in given if one not in selected])
        entry: dict[str, Any] = {"overrides": given, "folder": folder}
        try:
            command.configure(config, flags)
            entry["exit_code"] = command.run(job)
            entry["result"] = job.results[-1] if job.results else None
        except Exception as error:
            if not is_users_mistake(error):
                raise
            entry |= {"exit_code": WRONG_INPUT, "error": one_line(error)}
            job.warn(f"job {folder.name}: {entry['error']}")
        entry["objective"] = job.objective if math.isfinite(job.objective) else None
        jobs.append(entry)
        return job.objective

    arguments = ["-m", *selected, *overrides, *_hydra_settings(out)]
    before = sys.argv
    sys.argv = [command.name, *arguments]
    try:
        register(command.config)
        hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name=command.config)(run_job)()
    finally:
        sys.argv = before
    judged = [job for job in jobs if job["objective"] is not None]
    best = min(judged, key=lambda job: job["objective"])["folder"] if judged else None
    result = {"out": out, "best": best, "jobs": jobs}
    write_result(stdout, result if flags.json else None, _table(out, jobs, best))
    codes = [job["exit_code"] for job in jobs]
    return next((code for code in (WRONG_INPUT, NOT_REACHED) if code in codes), max(codes, default=DONE))


def _hydra_settings(out: Path) -> list[str]:
    """Have hydra write below `out` and keep quiet; the path is quoted, as it may hold any sign."""
    path = str(out.absolute()).replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
    return [
        f"hydra.sweep.dir='{path}'",
        "hydra.sweep.subdir=${hydra.job.num}",
        "hydra.output_subdir=null",
        "hydra.job.chdir=false",
        "hydra/hydra_logging=disabled",
        "hydra/job_logging=disabled",
    ]


def _check_overrides(name: str, selected: Sequence[str], overrides: Sequence[str]) -> None:
    """Compose once for every value of every swept override, so that a mistake is one line and comes first."""
    fixed: list[str] = []
    swept: list[Override] = []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except OverrideParseException as error:
            raise UserInputError(f"bad override {text!r}: {one_line(error)}") from error
        if text.startswith("hydra"):
            _check_plugin(text)
            continue
        if override.is_sweep_override():
            swept.append(override)
        else:
            fixed.append(text)
    compose(name, fixed, base=selected)
    for override in swept:
        for value in _values(override):
            compose(name, [*fixed, f"{override.get_key_element()}={value}"], base=selected)


def _check_plugin(text: str) -> None:
    """Say which extra brings a sweeper or a launcher that is not here."""
    for start, module, extra in (
        ("hydra/sweeper=optuna", "hydra_optuna_sweeper", "sweep"),
        ("hydra/launcher=submitit", "hydra_submitit_launcher", "slurm"),
    ):
        if text.startswith(start) and importlib.util.find_spec(f"hydra_plugins.{module}") is None:
            raise UserInputError(f"{text} needs an extra: pip install 'wm-plan[{extra}]'")


def _values(override: Override) -> list[str]:
    return list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []


def _table(out: Path, jobs: Sequence[dict[str, Any]], best: Path | None) -> str:
    words = {DONE: "done", NOT_REACHED: "not reached", WRONG_INPUT: "wrong input"}
    lines = [
        f"{job['folder'].name:>4}  {words[job['exit_code']]:<12} {' '.join(job['overrides'])}" for job in jobs
    ]
    least = [] if best is None else [f"best: {best}"]
    return "\n".join([*lines, *least, f"{len(jobs)} jobs, in {out}"])
