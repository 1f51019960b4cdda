"""What a run looked like: a video (live view, goal, what was imagined; cost under it) and a figure."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from .imagined import Imagined

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .planning import PlanResult

Image = UInt8[np.ndarray, "_ _ 3"]

INK, GREY, BLUE, GREEN, RED = "#1d2433", "#8a93a6", "#2f6fed", "#1a9e6b", "#c8402f"
_RAREST = 1e-5
"""Surprise that is rarer is drawn as this."""
_VIEW, _MARGIN, _GAP, _CAPTION, _CURVE = 320, 16, 4, 30, 150
"""Sizes in the video [pixels]."""
_SHEET_COLUMNS = 8
"""Moments of a plan at most in the contact sheet."""


def write_video(
    path: Path,
    result: PlanResult,
    views: list[Image],
    goal: Image,
    fps: float,
    imagined: Imagined | None = None,
) -> None:
    """Write an H.264 mp4 in real time, one frame an env step, and hold the last one for a second.

    Args:
        views: what the camera saw, `result.steps + 1` square images of any size.
        goal: the goal, square.
        fps: env steps a second.
        imagined: what the plans were imagined to lead to; the newest plan's is shown beside the goal.
    """
    import imageio.v3 as iio

    scene = _VideoScene(result, goal, imagined, fps)
    with iio.imopen(path, "w", plugin="pyav") as video:
        video.init_video_stream("libx264", fps=round(fps), pixel_format="yuv420p")
        for index, view in enumerate(views):
            video.write_frame(scene.draw(index, view, index / fps))
        last = scene.draw(len(views) - 1, views[-1], (len(views) - 1) / fps)
        for _ in range(round(fps)):
            video.write_frame(last)


def write_figure(
    path: Path, result: PlanResult, start: Image, end: Image, goal: Image, control_timestep: float
) -> None:
    """Write a PNG: start, end and goal side by side over the curves of latent cost and, if known, surprise.

    Args:
        control_timestep: length of an env step [s], for the second time axis.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.08, hspace=0.04)
    surprising = result.surprise is not None
    figure = Figure(figsize=(9, 7.6 if surprising else 6.4), dpi=150, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 + surprising, 3, height_ratios=[1.35, 1, 0.5][: 2 + surprising])
    seconds = result.steps * control_timestep
    captions = ("start", f"end, after {result.steps} steps ({seconds:.1f} s)", "goal")
    colours = (GREY, GREEN if result.reached else GREY, BLUE)
    for column, (image, caption, colour) in enumerate(
        zip((start, end, goal), captions, colours, strict=True)
    ):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(image, interpolation="lanczos")
        axes.set_title(caption, fontsize=11, color=INK, pad=7)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=2.0)
    _draw_curve(figure.add_subplot(grid[1, :]), result)
    if surprising:
        _draw_surprise(figure.add_subplot(grid[2, :]), result)
    figure.suptitle(_headline(result), fontsize=13, color=INK, fontweight="bold", x=0.012, ha="left")
    figure.savefig(path, metadata={"Software": None})


def write_imagined(
    path: Path, result: PlanResult, views: list[Image], imagined: Imagined, control_timestep: float
) -> None:
    """Write a PNG: for some plans, what they were imagined to lead to, over what the camera saw then.

    Args:
        views: what the camera saw, `result.steps + 1` square images of any size.
        control_timestep: length of an env step [s].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plans = imagined.spread(result.steps, 3)
    shown = [imagined.moments(plan, _SHEET_COLUMNS) for plan in plans]
    columns, cell, left, head = 1 + len(shown[0]), 1.2, 1.0, 0.62
    block = 2 * cell + 0.5
    width, height = left + columns * cell + 0.1, head + len(plans) * block + 0.12
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)

    def picture(image: Image | None, row_top: float, column: int, colour: str) -> None:
        at = (left + column * cell, height - row_top - cell)
        axes = figure.add_axes((at[0] / width, at[1] / height, 0.96 * cell / width, 0.96 * cell / height))
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=1.4)
        if image is None:
            axes.set_facecolor("#f1f3f6")
        else:
            axes.imshow(image, interpolation="lanczos")

    def say(text: str, x: float, top: float, colour: str = INK, **style: Any) -> None:  # noqa: ANN401
        figure.text(x / width, 1 - top / height, text, color=colour, fontsize=9, **style)

    say(f"{result.env}: what plans were imagined to lead to, over what happened", 0.12, 0.24, weight="bold")
    later = "Plans are made anew on the way, so that what happened follows later plans, too."
    say(later if imagined.is_replaced else "", 0.12, 0.44, GREY)
    for number, (plan, moments) in enumerate(zip(plans, shown, strict=True)):
        top = head + number * block
        say(f"plan at\n{plan * control_timestep:.2f} s", 0.12, top + 0.46, va="center")
        for label, row in (("imagined", 0.5), ("happened", 1.5)):
            say(label, 0.12, top + 0.3 + row * cell, BLUE if row < 1 else GREY, va="center")
        picture(views[plan], top + 0.28 + cell / 2, 0, GREY)
        say("now", left + 0.03, top + 0.2)
        for column, (ahead, frame) in enumerate(moments, start=1):
            say(f"+{ahead * control_timestep:.2f} s", left + column * cell + 0.03, top + 0.2)
            picture(frame, top + 0.28, column, BLUE)
            seen = views[plan + ahead] if plan + ahead < len(views) else None
            picture(seen, top + 0.28 + cell, column, GREY)
    figure.savefig(path, metadata={"Software": None})


def _headline(result: PlanResult) -> str:
    if not result.reached:
        ended = ", stopped by surprise" if result.stopped else ""
        return f"{result.env}: goal not reached in {result.steps} steps{ended}"
    held = ", and held" if result.held else ""
    judged = "" if result.reached_by == "state" else " (judged in latent space)"
    return f"{result.env}: goal reached at step {result.first_reached}{held}{judged}"


def _draw_curve(axes: Axes, result: PlanResult, *, curve: bool = True, mark: bool = True) -> None:
    """Draw the latent cost over env steps, and mark where the goal was first reached."""
    steps = np.arange(len(result.costs))
    axes.set_xlim(0, max(result.steps, 1))
    top = max(*result.costs, 1e-9)
    axes.set_ylim(0, 1.08 * top)
    if curve:
        axes.fill_between(steps, result.costs, color=BLUE, alpha=0.10, linewidth=0)
        axes.plot(steps, result.costs, color=BLUE, linewidth=2.0, solid_capstyle="round")
    if mark and result.first_reached is not None:
        axes.axvline(result.first_reached, color=GREEN, linewidth=1.3, linestyle=(0, (4, 3)))
        late = result.first_reached > 0.8 * max(result.steps, 1)
        axes.annotate(
            "reached",
            (result.first_reached, 0.97 * 1.08 * top),
            xytext=(-6 if late else 6, 0),
            textcoords="offset points",
            ha="right" if late else "left",
            va="top",
            fontsize=9,
            color=GREEN,
        )
    axes.set_ylabel("latent cost", fontsize=9.5, color=INK)
    _tidy(axes)


def _draw_surprise(axes: Axes, result: PlanResult) -> None:
    """Draw surprise over env steps, a tenth as rare an equal step further up, and the threshold."""
    surprise = np.asarray(result.surprise, np.float64)
    rarity = -np.log10(np.maximum(1 - surprise, _RAREST))
    steps = np.arange(len(rarity))
    above = surprise > result.surprise_threshold
    axes.set_xlim(0, max(result.steps, 1))
    axes.fill_between(steps, rarity, color=GREY, alpha=0.15, linewidth=0)
    axes.plot(steps, rarity, color=GREY, linewidth=1.6)
    axes.plot(steps[above], rarity[above], linestyle="", marker=".", markersize=5, color=RED)
    line = -np.log10(1 - result.surprise_threshold)
    axes.axhline(line, color=RED, linewidth=1.0, linestyle=(0, (4, 3)))
    ticks = (0.0, 0.9, 0.99, 0.999, 0.9999)
    axes.set_yticks([-np.log10(1 - tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.set_ylim(0, max(1.15 * line, 1.1 * float(rarity.max())))
    axes.set_ylabel("surprise", fontsize=9.5, color=INK)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.set_xlabel("env step", fontsize=9.5, color=INK)
    axes.tick_params(colors=GREY, labelsize=8.5, length=3)
    axes.grid(axis="y", color=GREY, alpha=0.18, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=GREY, linewidth=0.8)


class _VideoScene:
    """Everything of the video that does not move, drawn once; `draw` adds what does."""

    def __init__(self, result: PlanResult, goal: Image, imagined: Imagined | None, fps: float) -> None:
        self._result, self._imagined, self._fps = result, imagined, fps
        panels = 2 if imagined is None else 3
        self.width = panels * _VIEW + (panels + 1) * _MARGIN
        self.height = _CAPTION + _VIEW + _CURVE + 2 * _MARGIN
        self.height += self.height % 2
        self._empty, self._place = self._plot(curve=False, mark=False)
        self._under_way, _ = self._plot(curve=True, mark=False)
        self._arrived, _ = self._plot(curve=True, mark=True)
        self._font, self._small_font = load_font(15), load_font(12)
        page = PillowImage.new("RGB", (self.width, self.height), "white")
        page.paste(_resized(goal), (_VIEW + 2 * _MARGIN, _CAPTION + 4))
        draw = ImageDraw.Draw(page)
        self._frame_view(draw, _VIEW + 2 * _MARGIN, BLUE)
        draw.text((_VIEW + 2 * _MARGIN, 10), "goal", fill=INK, font=self._font)
        self._page = page

    def draw(self, index: int, view: Image, seconds: float) -> Image:
        """Give the frame at one env step."""
        page = self._page.copy()
        page.paste(_resized(view), (_MARGIN, _CAPTION + 4))
        draw = ImageDraw.Draw(page)
        first = self._result.first_reached
        arrived = first is not None and index >= first
        self._frame_view(draw, _MARGIN, GREEN if arrived else GREY)
        if self._imagined is not None:
            self._draw_imagined(page, self._imagined, index)
        text = f"{self._result.env}   {seconds:.2f} s" + ("   reached" if arrived else "")
        draw.text((_MARGIN, 10), text, fill=GREEN if arrived else INK, font=self._font)
        left, top = 0, _CAPTION + _VIEW + _MARGIN
        x, y = self._place(index, self._result.costs[index])
        page.paste(self._arrived if arrived else self._under_way, (left, top))
        cut = round(x)
        page.paste(self._empty.crop((cut, 0, self.width, self._empty.height)), (left + cut, top))
        _dot(page, left + x, top + y, BLUE)
        return np.asarray(page)

    def _draw_imagined(self, page: PillowImage.Image, imagined: Imagined, index: int) -> None:
        """Paste four moments of the future that the newest plan was imagined to lead to."""
        draw, half = ImageDraw.Draw(page), (_VIEW - _GAP) // 2
        title = f"imagined by the plan of {imagined.plan_at(index) / self._fps:.2f} s"
        draw.text((2 * _VIEW + 3 * _MARGIN, 10), title, fill=INK, font=self._font)
        for place, (ahead, frame) in enumerate(imagined.moments(index, 4)):
            left = 2 * _VIEW + 3 * _MARGIN + (place % 2) * (half + _GAP)
            top = _CAPTION + 4 + (place // 2) * (half + _GAP)
            page.paste(_resized(frame, half), (left, top))
            draw.rectangle((left, top, left + half - 1, top + half - 1), outline=GREY)
            text = f"+{ahead / self._fps:.2f} s"
            right, bottom = draw.textbbox((0, 0), text, font=self._small_font)[2:]
            draw.rectangle((left + 1, top + 1, left + right + 9, top + bottom + 5), fill="white")
            draw.text((left + 5, top + 2), text, fill=INK, font=self._small_font)

    def _plot(self, *, curve: bool, mark: bool) -> tuple[PillowImage.Image, Any]:
        """Render the axes, and give the function from (step, cost) to its pixel."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        height = self.height - (_CAPTION + _VIEW + _MARGIN)
        figure: Figure = Figure(figsize=(self.width / 100, height / 100), dpi=100, facecolor="white")
        FigureCanvasAgg(figure)
        left, right = 62 / self.width, 1 - 16 / self.width
        axes = figure.add_axes((left, 0.27, right - left, 0.68))
        _draw_curve(axes, self._result, curve=curve, mark=mark)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        transform: Any = axes.transData.frozen()

        def place(step: float, cost: float) -> tuple[float, float]:
            x, y = transform.transform((step, cost))
            return float(x), height - float(y)

        return PillowImage.open(buffer).convert("RGB"), place

    @staticmethod
    def _frame_view(draw: ImageDraw.ImageDraw, left: int, colour: str) -> None:
        top = _CAPTION + 4
        draw.rectangle((left - 2, top - 2, left + _VIEW + 1, top + _VIEW + 1), outline=colour, width=2)


def _resized(image: Image, size: int = _VIEW) -> PillowImage.Image:
    return PillowImage.fromarray(image).resize((size, size), PillowImage.Resampling.LANCZOS)


def _dot(page: PillowImage.Image, x: float, y: float, colour: str, radius: float = 5.0) -> None:
    """Put a smooth dot with a white rim, drawn four times as large and shrunk."""
    scale, reach = 4, int(radius) + 3
    left, top = int(x) - reach, int(y) - reach
    size = 2 * reach + 1
    patch = page.crop((left, top, left + size, top + size)).resize(
        (size * scale,) * 2, PillowImage.Resampling.NEAREST
    )
    draw = ImageDraw.Draw(patch)
    centre = ((x - left + 0.5) * scale, (y - top + 0.5) * scale)
    for extent, fill in ((radius + 1.6, "white"), (radius, colour)):
        box = [value + sign * extent * scale for sign in (-1, 1) for value in centre]
        draw.ellipse(box, fill=fill)
    page.paste(patch.resize((size, size), PillowImage.Resampling.BOX), (left, top))


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font that matplotlib ships."""
    import matplotlib

    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )
