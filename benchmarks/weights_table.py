"""What the shipped predictors say of themselves, as the table in docs/weights.md.

python benchmarks/weights_table.py prints it; with --write docs/weights.md it replaces what stands there
between the markers.
"""

import json
from pathlib import Path

from results_table import print_or_write, table_flags, trained_minutes

PREDICTORS = Path(__file__).resolve().parents[1] / "world_model" / "weights" / "predictors"


def weights_table() -> str:
    """One line a shipped predictor.

    Raises:
        ValueError: none is shipped.
    """
    configs = {path.parent.name: json.loads(path.read_text()) for path in PREDICTORS.glob("*/config.json")}
    if not configs:
        raise ValueError(f"there are no predictors in {PREDICTORS}")
    lines = [
        "| task | logged episodes, and held out | trained, min | error after 1 / {} imagined steps, "
        "% of the latents' variance | reached or not is misjudged, % | MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    steps = 0
    for task, config in sorted(configs.items()):
        metadata = config["metadata"]
        training, errors = metadata["training"], metadata["open_loop_error"]
        episodes, steps = training["episodes"], len(errors)
        size = sum(path.stat().st_size for path in (PREDICTORS / task).rglob("*.*")) / 1e6
        lines.append(
            f"| {task} | {episodes['train']:,} and {episodes['held_out']} | {trained_minutes(training)} "
            f"| {100 * errors[0]:.2f} / {100 * errors[-1]:.2f} "
            f"| {100 * metadata['reach_error_rate']:.1f} | {size:.1f} |"
        )
    return "\n".join(lines).format(steps)


if __name__ == "__main__":
    print_or_write(weights_table, table_flags(__doc__).parse_args().write)
