"""What the shipped predictors say of themselves, as the table in docs/weights.md.

python benchmarks/weights_table.py prints it; with --write docs/weights.md it replaces what stands there
between the markers.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from results_table import BEGIN, END, parts

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
        size = sum(path.stat().st_size for path in (PREDICTORS / task).iterdir()) / 1e6
        lines.append(
            f"| {task} | {episodes['train']:,} and {episodes['held_out']} | {training['seconds'] / 60:.0f} "
            f"| {100 * errors[0]:.2f} / {100 * errors[-1]:.2f} "
            f"| {100 * metadata['reach_error_rate']:.1f} | {size:.1f} |"
        )
    return "\n".join(lines).format(steps)


def print_or_write(table: Callable[[], str], description: str | None) -> None:
    """What a script that makes one table does: print it, or put it in its place."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this file")
    flags = parser.parse_args()
    try:
        made = table()
        if flags.write is None:
            print(made)
            return
        before, _, after = parts(flags.write.read_text(encoding="utf-8"))
        flags.write.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


if __name__ == "__main__":
    print_or_write(weights_table, __doc__)
