"""The report's plots: SVG whose colours and fonts are the page's own, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .statistics import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .side_by_side import Evaluation

NUM_SERIES = 8
SERIES = tuple(f"#0000{at:02x}" for at in range(1, NUM_SERIES + 1))
"""Stand-ins that become `var(--series-1)` and so on; no drawn colour is like them."""
INK, MUTED, GRID, GOOD, BAD = "#000101", "#000102", "#000103", "#000104", "#000105"
_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", GOOD: "good", BAD: "bad"} | {
    colour: f"series-{at + 1}" for at, colour in enumerate(SERIES)
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "wm-plan",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.titlesize": 10,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_LEAST_ERROR = 0.02
"""Tolerances; smaller errors are drawn here."""


def colour_of(at: int) -> str:
    """The colour of the contestant at this place of the list."""
    return SERIES[at % NUM_SERIES]


def success_over_steps(evaluations: Sequence[Evaluation]) -> str:
    """How many have reached their goals by each env step, with Wilson bands."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for at, one in enumerate(evaluations):
            budget = int(one.row["budget"])
            reached = np.array([end.reached_at for end in one.outcomes if end.reached_at is not None])
            steps = np.arange(budget + 1)
            counts = np.array([(reached <= step).sum() for step in steps])
            ends = np.array([wilson_interval(int(count), len(one.outcomes)) for count in counts]) * 100
            axes.fill_between(
                steps, ends[:, 0], ends[:, 1], step="post", color=colour_of(at), alpha=0.1, linewidth=0
            )
            axes.step(
                steps,
                100 * counts / len(one.outcomes),
                where="post",
                color=colour_of(at),
                linewidth=1.8,
                solid_joinstyle="round",
            )
        axes.set(xlabel="env step", ylabel="reached by then, %", ylim=(-2, 102), xlim=(0, budget))
        axes.grid(axis="y", linewidth=0.7)

    return as_svg(draw, 4.6, 2.9)


def planning_time(evaluations: Sequence[Evaluation]) -> str:
    """Every replan as a dot, the median marked; empty where nobody plans."""
    timed = [(at, one) for at, one in enumerate(evaluations) if one.plan_ms]
    if not timed:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        rng = np.random.default_rng(0)
        for line, (at, one) in enumerate(timed):
            times = np.array(one.plan_ms)
            height = line + rng.uniform(-0.22, 0.22, len(times))
            axes.scatter(times, height, s=7, color=colour_of(at), alpha=0.35, linewidth=0)
            middle, late = np.percentile(times, (50, 99))
            axes.plot([middle] * 2, [line - 0.32, line + 0.32], color=colour_of(at), linewidth=2.2)
            axes.annotate(
                f"{_short(middle)} ms, p99 {_short(late)}",
                (middle, line + 0.38),
                ha="center",
                va="bottom",
                fontsize=8.5,
            )
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.set_xlim(low / 1.8, high * 1.8)
        axes.set_yticks(range(len(timed)), [one.row["name"] for _, one in timed])
        axes.set(xlabel="one replan, ms", ylim=(-0.6, len(timed) - 0.2))
        axes.grid(axis="x", linewidth=0.7)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)

    return as_svg(draw, 4.6, max(2.9, 0.9 + 0.5 * len(timed)))


def error_curves(evaluations: Sequence[Evaluation]) -> str:
    """The true error over time: the median of all trials, and the middle half of them."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for at, one in enumerate(evaluations):
            steps, curves = _aligned(one, "error_steps", "errors")
            curves = np.maximum(curves, _LEAST_ERROR)
            low, middle, high = np.percentile(curves, (25, 50, 75), axis=0)
            axes.fill_between(steps, low, high, color=colour_of(at), alpha=0.1, linewidth=0)
            axes.plot(steps, middle, color=colour_of(at), linewidth=1.8)
        axes.axhline(1.0, color=GOOD, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set_yscale("log")
        axes.set(xlabel="env step", ylabel="true error, tolerances", xlim=(0, steps[-1]))
        axes.grid(axis="y", linewidth=0.7)

    return as_svg(draw, 4.6, 2.9)


def cost_curves(evaluations: Sequence[Evaluation]) -> str:
    """The cost of the plans over time, relative to each trial's first; empty where nobody plans."""
    planned = [(at, one) for at, one in enumerate(evaluations) if any(c["costs"] for c in one.curves)]
    if not planned:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for at, one in planned:
            some = [curve for curve in one.curves if curve["costs"] and curve["costs"][0] > 0]
            longest = max(some, key=lambda curve: len(curve["costs"]))["cost_steps"]
            curves = np.full((len(some), len(longest)), np.nan)
            for row, curve in enumerate(some):
                costs = np.array(curve["costs"]) / curve["costs"][0]
                curves[row, : len(costs)] = costs
                curves[row, len(costs) :] = costs[-1]
            low, middle, high = np.percentile(np.maximum(curves, 1e-4), (25, 50, 75), axis=0)
            axes.fill_between(longest, low, high, color=colour_of(at), alpha=0.1, linewidth=0)
            axes.plot(longest, middle, color=colour_of(at), linewidth=1.8)
        axes.set_yscale("log")
        axes.set(xlabel="env step", ylabel="plan cost / first plan's")
        axes.set_xlim(left=0)
        axes.grid(axis="y", linewidth=0.7)

    return as_svg(draw, 4.6, 2.9)


def goal_map(one: Evaluation, labels: Sequence[str]) -> str:
    """Where goals were reached and where not, over their first two coordinates; starts as faint lines."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        flat = one.outcomes[0].trial.goal.size == 2  # one position: there is only one coordinate to show
        for end in one.outcomes:
            start, goal = (
                (state[0], 0.0 if flat else state[1]) for state in (end.trial.start, end.trial.goal)
            )
            axes.plot(*zip(start, goal, strict=True), color=GRID, linewidth=0.7, zorder=1)
        for reached, colour, marker in ((True, GOOD, "o"), (False, BAD, "X")):
            goals = np.array([end.trial.goal[:2] for end in one.outcomes if end.reached is reached])
            if len(goals):
                across = np.zeros(len(goals)) if flat else goals[:, 1]
                axes.scatter(goals[:, 0], across, s=26, color=colour, marker=marker, linewidth=0, zorder=2)
        axes.set(xlabel=labels[0], ylabel="" if flat else labels[1])
        axes.margins(0.08)
        axes.grid(linewidth=0.6)

    return as_svg(draw, 2.7, 2.6)


def as_svg(draw: Callable[[Figure], None], width: float, height: float) -> str:
    """An inline SVG element of what `draw` draws, its size in inches where there is room."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        for axes in figure.axes:
            _quiet(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"#(\w+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r'(<svg [^>]*?) width="[^"]*"', r'\1 role="img"', svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for colour, name in _NAMES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def _quiet(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            axis.set_major_locator(
                LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,), numticks=9)
            )
            axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
    axes.tick_params(length=0, which="both", labelsize=9)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(9.5)


def _aligned(one: Evaluation, steps: str, values: str) -> tuple[np.ndarray, np.ndarray]:
    """All curves on the longest one's steps; those that ended keep their last value."""
    longest: list[int] = max((curve[steps] for curve in one.curves), key=lambda found: found[-1])
    rows = [np.interp(longest, curve[steps], curve[values]) for curve in one.curves]
    return np.array(longest), np.array(rows)


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def interval_bar(rate: float, interval: Sequence[float], colour: Any) -> str:  # noqa: ANN401
    """A small bar from 0 to 100 %: the rate as a dot, its interval as a line."""
    low, high, at = (f"{6 + 148 * value:.1f}" for value in (*interval, rate))
    return (
        '<svg class="interval" viewBox="0 0 160 14" role="img" aria-hidden="true">'
        '<line class="track" x1="6" y1="7" x2="154" y2="7"/>'
        f'<line x1="{low}" y1="7" x2="{high}" y2="7" style="stroke: var(--series-{colour})"/>'
        f'<circle cx="{at}" cy="7" r="4.5" style="fill: var(--series-{colour})"/></svg>'
    )
