"""One picture of what was measured on logged trajectories: four panels, one colour a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .pictures import GREY, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2f6fed", "#d9632a", "#1a9e6b", "#8a4fd3", "#b8336a", "#5b6472")


def write_plot(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a PNG of the rows that `evaluate_offline` makes.

    Panels: error against horizon; how often the true frame is retrieved; where the logged actions rank among
    others; and how the ranks of surprise are distributed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.12, hspace=0.05, wspace=0.04)
    figure = Figure(figsize=(10.5, 7.6), dpi=130, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    error, retrieval, ranking, surprise = figure.subplots(2, 2).flat
    one = len(rows) == 1
    for row, colour in zip(rows, np.resize(np.array(COLOURS), len(rows)), strict=True):
        steps, name = np.arange(1, row["horizon"] + 1), "" if one else f"{row['model']}: "
        for kind, label, style in (
            ("imagined", "imagined", "-"),
            ("other_actions", "other actions", ":"),
            ("copied", "last frame seen", "--"),
        ):
            values = 100 * np.maximum(row["error"][kind], 1e-8)
            error.plot(steps, values, style, color=colour, label=name + label, **_weight(kind))
        for kind, label, style in (
            ("top_5", "among the nearest 5", "-."),
            ("top_1", "nearest", "-"),
            ("copied_top_1", "nearest to the last frame seen", "--"),
        ):
            values = 100 * np.array(row["retrieval"][kind])
            retrieval.plot(steps, values, style, color=colour, label=name + label, **_weight(kind))
        for kind, label, style in (("logged", "logged elsewhere", "-"), ("uniform", "uniform random", ":")):
            if kind in row["places"]:
                places = np.arange(1, row["num_candidates"] + 2)
                shares = 100 * (np.array(row["places"][kind])[:, None] <= places).mean(axis=0)
                ranking.plot(places, shares, style, color=colour, label=name + label, linewidth=1.8)
        _draw_distribution(surprise, row["ranks"], "-", colour, name + row["surprise_kind"])
    _finish(error, "Open-loop error", "imagined model steps", "% of the latents' variance")
    error.set_yscale("log")
    _finish(retrieval, "Finding the true frame among others", "imagined model steps", "% of windows")
    retrieval.set_ylim(0, 103)
    chance: dict[str, Any] = {"color": GREY, "linewidth": 1, "linestyle": (0, (2, 3))}
    places = np.arange(1, max(row["num_candidates"] for row in rows) + 2)
    ranking.plot(places, 100 * places / places[-1], **chance, label="chance")
    ranking.set_xscale("log")
    ranking.set_ylim(0, 103)
    surprise.plot((0, 1), (0, 100), **chance, label="uniform")
    surprise.set_xlim(0, 1)
    surprise.set_ylim(0, 103)
    _finish(ranking, "Logged actions among others", "among the so many best action sequences", "% of windows")
    _finish(surprise, "Calibration of surprise", "rank", "% of model steps up to that rank")
    title = "; ".join(f"{row['model']}, {row['episodes']} episodes ({row['which']})" for row in rows)
    figure.suptitle(title, fontsize=12, color=INK, fontweight="bold", x=0.012, ha="left")
    figure.savefig(path, metadata={"Software": None})


def _weight(kind: str) -> dict[str, float]:
    return {"linewidth": 2.2 if kind in ("imagined", "top_1") else 1.4}


def _draw_distribution(axes: Axes, values: Sequence[float], style: str, colour: str, label: str) -> None:
    """Draw the share of values up to each."""
    ordered = np.sort(np.asarray(values, float))
    shares = 100 * np.arange(1, len(ordered) + 1) / len(ordered)
    axes.step(
        [0, *ordered, 1], [0, *shares, 100], style, where="post", color=colour, linewidth=1.8, label=label
    )


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11, color=INK, loc="left", pad=8)
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.tick_params(colors=GREY, labelsize=8.5, length=3)
    axes.grid(color=GREY, alpha=0.18, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8.5, frameon=False, labelcolor=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=GREY, linewidth=0.8)
