"""`wm-eval --data`: what logged trajectories say about world models, without any simulator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

if TYPE_CHECKING:
    from .world_model import CompactWorldModel, TokenWorldModel, TrajectoryStore

FILES = ("result.json", "offline.png", "config.yaml")


def evaluate_offline(job: Any) -> None:  # noqa: ANN401
    """Measure the models that the job's config names on its data, and write and print what came of it.

    Args:
        job: of a command, with a composed config and `--out`.

    Raises:
        ValueError: a model or data that cannot be opened, or that do not go together.
    """
    from omegaconf import OmegaConf
    from rich.progress import Progress

    from .configuration import as_values, as_yaml
    from .machine import peak_memory_mb, use_device, versions
    from .offline_plot import write_plot
    from .output_folder import check_output_folder, filled_at_once, next_numbered
    from .training_run import open_logs
    from .world_model import load_model
    from .world_model.offline_measures import measure_offline

    settings: Any = OmegaConf.to_object(job.config)
    names = [name.strip() for name in (settings.model or "").split(",") if name.strip()]
    if not names:
        raise ValueError("no model was named. Add --model DIR, or the name of a task with shipped weights.")
    out: Path = job.folder or job.flags.out or next_numbered("offline")
    if not job.flags.dry_run:
        check_output_folder(out, overwrite=job.flags.overwrite)
    device = use_device(settings.device, settings.threads)
    store = open_logs(settings.data, settings.columns, job.say)
    models = {name: load_model(name, device=str(device)) for name in names}
    if job.flags.dry_run:
        job.print_result(as_values(job.config), as_yaml(job.config).rstrip())
        return
    rows = []
    with filled_at_once(out, overwrite=job.flags.overwrite) as folder:
        with Progress(console=job.console) as bar:
            for name, model in models.items():
                for remark in mismatches(model, store):
                    job.warn(f"{name}: {remark}")
                episodes, which = episodes_for(model, store)
                task = bar.add_task(f"{name}: frames", total=None)

                def told(done: int, total: int, task: Any = task) -> None:  # noqa: ANN401
                    bar.update(task, completed=done, total=total)

                measured = measure_offline(model, store, episodes, settings.offline, told)
                about = {"model": name, "env": model.env_name, "episodes": len(episodes), "which": which}
                rows.append({**about, **asdict(measured)})
        result = {
            "rows": rows,
            "data": list(settings.data),
            "seed": settings.offline.seed,
            "peak_memory_mb": peak_memory_mb(),
            "versions": versions(),
            "files": {name: str(out / name) for name in FILES},
        }
        (folder / FILES[0]).write_text(json.dumps(result) + "\n", encoding="utf-8")
        write_plot(folder / FILES[1], rows)
        (folder / FILES[2]).write_text(job.config_file, encoding="utf-8")
    job.objective = rows[0]["error"]["imagined"][-1]
    listed = {"places", "ranks"}  # one number a window: in the file only
    told_rows = [{key: value for key, value in row.items() if key not in listed} for row in rows]
    tables = "\n\n".join(table_of(row) for row in rows)
    job.print_result({**result, "rows": told_rows}, f"{tables}\n\n{out}: {', '.join(FILES)}")


def episodes_for(
    model: CompactWorldModel | TokenWorldModel, store: TrajectoryStore
) -> tuple[Int[np.ndarray, " chosen"], str]:
    """Give the episodes to measure on, and which these are.

    Those that the model's own training held out, if it was trained on exactly these logs; else all.
    """
    record = model.metadata.training
    if record.get("data_fingerprint") == store.fingerprint:
        config = record["config"]
        return store.split(config["held_out"], config["seed"])[1], "held out of the model's training"
    return np.arange(store.num_episodes), "all"


def mismatches(model: CompactWorldModel | TokenWorldModel, store: TrajectoryStore) -> list[str]:
    """Say in what the logs are not as those that the model was trained on."""
    found = []
    for key, wanted in (
        ("env", model.env_name),
        ("frame_skip", model.frame_skip // model.metadata.action_block),
    ):
        given = sorted({str(recipe[key]) for recipe in store.recipes if key in recipe})
        if given and given != [str(wanted)]:
            found.append(f"the logs have {key} {', '.join(given)}, the model was trained with {wanted}")
    return found


def table_of(row: dict[str, Any]) -> str:
    """Lay out what was measured of one model, for people."""
    horizon = row["horizon"]
    steps = sorted({step for step in (1, 2, 5, 10, 20, 50) if step < horizon} | {horizon})

    def line(label: str, values: Sequence[float], digits: int = 1) -> str:
        return f"  {label:<42}" + "".join(f"{100 * values[step - 1]:>9.{digits}f}" for step in steps)

    rates, distractors = row["retrieval"], row["num_distractors"]
    lines = [
        f"{row['model']} ({row['env']}): {row['num_windows']} windows of {row['episodes']} episodes"
        f" ({row['which']})",
        f"  {'after so many imagined model steps':<42}" + "".join(f"{step:>9}" for step in steps),
        line("error, % of the latents' variance", row["error"]["imagined"], 2),
        line("  of copying the last frame seen", row["error"]["copied"], 2),
        line("  under another window's actions", row["error"]["other_actions"], 2),
        line(f"true frame nearest of {distractors + 1}, %", rates["top_1"]),
        line("  of copying the last frame seen", rates["copied_top_1"]),
        line("true frame among the nearest 5, %", rates["top_5"]),
        line("  of copying the last frame seen", rates["copied_top_5"]),
    ]
    sources = {"uniform": "uniform random actions", "logged": "actions logged elsewhere"}
    lines += [
        f"  the logged actions end nearer to the logged frame than {100 * found['beaten']:.1f} % of"
        f" {row['num_candidates']} {sources[kind]}; they are the best of all in"
        f" {100 * found['first']:.0f} % of windows, by chance in {100 * found['first_by_chance']:.0f} %"
        for kind, found in row["rank"].items()
    ]
    ranks = row["surprise"]
    lines.append(
        f"  surprise: {100 * ranks['above_95']:.1f} % of ranks are above .95, {100 * ranks['above_99']:.1f} %"
        f" above .99; the largest gap from uniform is {ranks['distance']:.3f} ({row['surprise_kind']})"
    )
    return "\n".join(lines)
