"""One self-contained HTML page of an evaluation: it opens from disk, and loads nothing from anywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import report_plots as plots
from .recordings import succeeded

if TYPE_CHECKING:
    from .side_by_side import Evaluation

MOST_BYTES = 30_000_000
"""What a report may weigh; videos that would make it heavier are left out."""
TITLES = {
    "near": "Near goals",
    "far": "Far goals",
    "robust": "Robustness",
}
EXPLAINED = {
    "near": "The goal is what an episode of the task's logging policy shows 25 env steps after the start.",
    "far": "Start and goal are drawn independently from all valid states, at rest.",
    "robust": "One thing is changed at a time, by a stated amount, in the same trials; losses are against the"
    " plain run.",
}
SCRIPT = """
const seen = new IntersectionObserver(entries => entries.forEach(entry =>
  entry.isIntersecting && !matchMedia("(prefers-reduced-motion: reduce)").matches
    ? entry.target.play() : entry.target.pause()));
document.querySelectorAll("video").forEach(video => {
  seen.observe(video);
  video.onclick = () => video.paused ? video.play() : video.pause();
});
"""


def make_report(result: dict[str, Any], found: Sequence[Evaluation], num_videos: int = 2) -> str:
    """Give the page.

    Args:
        result: what result.json holds: seed, threads, versions, command, ...
        found: rows with their outcomes, curves and videos.
        num_videos: successes that are shown of each row, and failures.
    """
    videos = _that_fit(found, num_videos)
    sections = []
    for protocol in dict.fromkeys(one.row["protocol"] for one in found):
        here = [one for one in found if one.row["protocol"] == protocol]
        make = _robust_section if protocol == "robust" else _section
        sections.append(make(protocol, here, videos))
    env = found[0].row["env"]
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(env)}: evaluation</title><style>\n{style}</style></head><body>\n"
        f"{_header(env, result, found)}\n{''.join(sections)}"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _header(env: str, result: dict[str, Any], found: Sequence[Evaluation]) -> str:
    versions = result["versions"]
    facts = {
        "episodes a row": result["episodes"],
        "seed": result["seed"],
        "interval": "95 % Wilson",
        "threads": result["threads"],
        "device": result["device"],
        "machine": versions.get("platform", ""),
        "torch": versions.get("torch", ""),
        "MuJoCo": versions.get("mujoco", ""),
        "wm-plan": versions.get("wm-plan", ""),
        "time": _duration(sum(one.row["seconds"] for one in found)),
    }
    told = "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items()
    )
    return (
        f'<header><p class="over">wm-plan evaluation</p><h1>{escape(env)}</h1>{_summary(found)}'
        f"<pre><code>{escape(result['command'])}</code></pre><dl>{told}</dl></header>"
    )


def _summary(found: Sequence[Evaluation]) -> str:
    """The first thing to know: how often the first contestant reaches its goals."""
    lines: list[str] = []
    for one in found:
        row = one.row
        if row["change"] is None and row["name"] == found[0].row["name"]:
            held = "" if row["held_rate"] is None else f", and holds {100 * row['held_rate']:.0f} %"
            line = f"{100 * row['success_rate']:.0f} % of {row['goals']} goals{held}"
            if row["protocol"] != "robust" or not lines:
                lines.append(line)
    return f"<p>{escape(found[0].row['name'])} reaches {escape('; '.join(lines))}.</p>"


def _section(protocol: str, here: Sequence[Evaluation], videos: set[int]) -> str:
    row = here[0].row
    figures = [
        ("Success against env steps", plots.success_over_steps(here), "Bands are 95 % Wilson intervals."),
        ("Planning time", plots.planning_time(here), "Single replans, one environment alone."),
    ]
    if all(one.curves for one in here):
        figures += [
            ("True error", plots.error_curves(here), "Median and middle half; the goal is below the dashes."),
            ("Plan cost", plots.cost_curves(here), "Of the plan that was made there, likewise."),
        ]
    drawn = "".join(
        f"<figure><h3>{title}</h3>{svg}<figcaption>{caption}</figcaption></figure>"
        for title, svg, caption in figures
        if svg
    )
    return (
        f'<section id="{protocol}"><h2>{TITLES[protocol]}</h2>'
        f'<p class="muted">{EXPLAINED[protocol]} {row["budget"]} env steps are allowed.</p>'
        f'<div class="card scroll">{_table(here)}</div>{_legend(here)}<div class="grid">{drawn}</div>'
        f"{_maps(here)}{_videos(here, videos)}</section>\n"
    )


def _table(here: Sequence[Evaluation]) -> str:
    holds = here[0].row["held_rate"] is not None
    head = "<th>who acts</th><th>reached</th>"
    head += "<th>held</th>" if holds else ""
    head += (
        '<th class="number optional">steps to reach</th><th class="number optional">plan ms p50 / p99</th>'
    )
    lines = []
    for at, one in enumerate(here):
        row, colour = one.row, at % plots.NUM_SERIES + 1
        cells = [
            f"<td>{_swatch(colour)}{escape(row['name'])}</td>",
            *_rate(row, "success_rate", "ci95", colour),
        ]
        if holds:
            cells += _rate(row, "held_rate", "held_ci95", colour)
        steps = "" if row["reached_at_p50"] is None else f"{row['reached_at_p50']:.0f}"
        times = "" if row["plan_ms_p50"] is None else f"{_ms(row['plan_ms_p50'])} / {_ms(row['plan_ms_p99'])}"
        cells += [f'<td class="number optional">{steps}</td>', f'<td class="number optional">{times}</td>']
        lines.append(f"<tr>{''.join(cells)}</tr>")
        for kind, counts in row["groups"].items():
            told = [
                f'<td class="deeper">{escape(kind)}, {counts["episodes"]}</td>',
                *_rate(counts, "success_rate", "ci95", None),
            ]
            told += _rate(counts, "held_rate", "held_ci95", None) if holds else []
            lines.append(f'<tr class="kind">{"".join(told)}<td class="optional" colspan="2"></td></tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _rate(counts: dict[str, Any], rate: str, interval: str, colour: int | None) -> list[str]:
    value, ends = counts[rate], counts[interval]
    bar = "" if colour is None else plots.interval_bar(value, ends, colour)
    return [f'<td><div class="rate">{bar}<span>{_percent(value, ends)}</span></div></td>']


def _percent(rate: float, ends: Sequence[float]) -> str:
    low, high = (f"{100 * end:.0f}" for end in ends)
    return f'<b>{100 * rate:.0f} %</b>&ensp;<span class="muted">{low}–{high}</span>'


def _robust_section(protocol: str, here: Sequence[Evaluation], videos: set[int]) -> str:
    names = list(dict.fromkeys(one.row["name"] for one in here))
    by_change: dict[str | None, dict[str, dict[str, Any]]] = {}
    for one in here:
        by_change.setdefault(one.row["change"], {})[one.row["name"]] = one.row
    head = "".join(
        f"<th>{_swatch(at % plots.NUM_SERIES + 1)}{escape(name)}</th>" for at, name in enumerate(names)
    )
    lines = []
    for change, rows in by_change.items():
        amount = next(iter(rows.values()))["amount"] or ""
        cells = "".join(f"<td>{_lost(rows[name])}</td>" for name in names)
        lines.append(f'<tr><td>{change or "plain"}</td>{cells}<td class="wide">{escape(amount)}</td></tr>')
    row = here[0].row
    return (
        f'<section id="{protocol}"><h2>{TITLES[protocol]}</h2>'
        f'<p class="muted">{EXPLAINED[protocol]} Goals are {row["goals"]}; {row["budget"]} env steps are'
        " allowed. Policies that are told the true state see no change of pictures.</p>"
        '<div class="card scroll"><table><thead><tr><th>change</th>'
        f"{head}<th>amount</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        f"{_videos(here, videos)}</section>\n"
    )


def _lost(row: dict[str, Any]) -> str:
    """A cell of the table of changes: what is reached, and in a deeper red the more of it was lost."""
    text = _percent(row["success_rate"], row["ci95"])
    if row["loss"] is None:
        return text
    strength = max(0, min(60, round(60 * row["loss"])))
    low, high = row["loss_ci95"]
    points = round(-100 * row["loss"])
    told = f"{points:+d}" if points else "±0"
    return (
        f'<span class="loss" title="95 % from {-100 * high:+.0f} to {-100 * low:+.0f}" style="background:'
        f' color-mix(in srgb, var(--bad) {strength}%, transparent)">{told}</span>'
        f" {text}"
    )


def _maps(here: Sequence[Evaluation]) -> str:
    labels = _coordinates(here[0].row["env"])
    if labels is None:
        return ""
    drawn = "".join(
        f"<figure><h3>{_swatch(at % plots.NUM_SERIES + 1)}{escape(one.row['name'])}</h3>"
        f"{plots.goal_map(one, labels)}</figure>"
        for at, one in enumerate(here)
    )
    return (
        '<p class="legend muted"><span>Where the goals are, each with a line from its start:</span>'
        '<span class="good">● reached</span><span class="bad">✕ not reached</span></p>'
        f'<div class="grid maps">{drawn}</div>'
    )


def _coordinates(env: str) -> tuple[str, str] | None:
    """What the first two numbers of a state are."""
    from .contestants import unrendered

    names = [re.sub(r",[^\]]*\]", "]", name) for name in unrendered(env).goal_names]  # without its range
    return (names[0], names[1] if len(names) > 1 else "") if names else None


def _videos(here: Sequence[Evaluation], kept: set[int]) -> str:
    cards = []
    for one in here:
        for video in one.videos:
            if id(video) in kept:
                cards.append(_video(one, video))
    if not cards:
        return ""
    return f'<div class="grid videos">{"".join(cards)}</div>'


def _video(one: Evaluation, video: dict[str, Any]) -> str:
    end = next(end for end in one.outcomes if end.trial.index == video["index"])
    if succeeded(end):
        told = f"reached at env step {end.reached_at}" + (", held" if end.held else "")
    elif end.reached:
        told = f"reached at env step {end.reached_at}, not held"
    else:
        told = f"not reached; nearest {end.least_error:.3g} tolerances"
    change = f", {one.row['change'] or 'plain'}" if one.row["protocol"] == "robust" else ""
    panels = ("view", "goal", "imagined before")[: video["panels"]]
    return (
        f'<figure class="{"reached" if succeeded(end) else "missed"}">'
        f'<div class="panels">{"".join(f"<span>{name}</span>" for name in panels)}</div>'
        f'<video muted loop playsinline preload="auto" src="data:video/mp4;base64,{video["mp4"]}"></video>'
        f"<figcaption><b>{escape(one.row['name'] + change)}</b> · trial {video['index']} · {told}"
        "</figcaption>"
        "</figure>"
    )


def _that_fit(found: Sequence[Evaluation], most: int) -> set[int]:
    """The videos (by `id`) that are shown, as long as the page stays light enough.

    They are up to `most` successes of each row and as many failures; where something is changed one of both,
    a failure if there is one.
    """
    chosen, weight = set(), 0
    for one in found:
        wins, failures = (
            [video for video in one.videos if video["success"] is kind] for kind in (True, False)
        )
        robust = one.row["protocol"] == "robust"
        for video in [*failures, *wins][: min(most, 1)] if robust else [*wins[:most], *failures[:most]]:
            weight += len(video["mp4"])
            if weight < 0.8 * MOST_BYTES:
                chosen.add(id(video))
    return chosen


def _legend(here: Sequence[Evaluation]) -> str:
    names = "".join(
        f"<span>{_swatch(at % plots.NUM_SERIES + 1)}{escape(one.row['name'])}</span>"
        for at, one in enumerate(here)
    )
    return f'<div class="legend">{names}</div>'


def _swatch(colour: int) -> str:
    return f'<span class="swatch" style="background: var(--series-{colour})"></span>'


def _ms(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
