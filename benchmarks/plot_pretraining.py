"""Draw the loss, spread and effective rank that wm-pretrain logged.

For the shipped encoder: python benchmarks/plot_pretraining.py docs/results/encoder_small_metrics.jsonl
docs/encoder_small.png
"""

import argparse
import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PANELS = {
    "masked": "L1 to the teacher's latents",
    "plain": "error of telling the plain look",
    "std": "std over samples, mean of dimensions",
    "effective_rank": "effective rank",
}


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Write one PNG with a panel for each number."""
    figure = Figure(figsize=(11, 2.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    steps = [row["step"] for row in rows]
    for axes, (name, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        values = [row[name] for row in rows]
        axes.plot(steps, values, color="#2f6fed", linewidth=1.6)
        axes.set_ylim(0, 1.1 * max(values))
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("optimiser step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    """Read and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("metrics", type=Path, help="metrics.jsonl of a pretraining run")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    flags = parser.parse_args()
    rows = [json.loads(line) for line in flags.metrics.read_text().splitlines()]
    draw([row for row in rows if set(PANELS) <= set(row)], flags.picture)


if __name__ == "__main__":
    main()
