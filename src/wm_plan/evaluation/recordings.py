"""What happened on the way: curves of every trial, and small videos of a few."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from wm_plan.envs import TaskEnv
from wm_plan.planners import MPC

from .changed_env import view_of
from .policies import EvaluationPolicy, Mask
from .runner import Outcome

PANEL, GAP = 176, 4
"""Sizes in the videos [px]."""
FRAME_SECONDS = 0.08
"""A video has about one frame in this time, and plays as fast as the world went."""
TAIL_SECONDS = 1.0
"""How long a video goes on after the goal is reached."""
_MOST_KEPT = 50_000_000
"""Numbers of imagined latents that one chunk may hold in memory; with more of them nothing is shown."""
GREY, GREEN, TRACK = (110, 120, 140), (26, 158, 107), (178, 184, 196)


@dataclass
class Curve:
    """One trial over its env steps."""

    error_steps: list[int]
    errors: list[float]
    """In tolerances, at those env steps."""
    cost_steps: list[int] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    """Of each plan, when it was made."""

    def as_json(self) -> dict[str, list]:
        """Give it as plain values, rounded to what a plot shows."""
        rounded = {
            name: [float(f"{value:.4g}") for value in getattr(self, name)] for name in ("errors", "costs")
        }
        return {"error_steps": self.error_steps, "cost_steps": self.cost_steps, **rounded}


class Recorder:
    """Watches one batch of trials; `on_act` goes to `run_batch`.

    Args:
        policy: who acts; of one that plans with an `MPC` as its `controller` the plans are noted, too.
        envs: one a trial.
        decoder: draws latents; None where nobody has trained one.
    """

    def __init__(self, policy: EvaluationPolicy, envs: Sequence[TaskEnv], decoder: Any = None) -> None:  # noqa: ANN401
        self._envs, self._decoder = envs, decoder
        controller = getattr(policy, "controller", None)
        self._controller = controller if isinstance(controller, MPC) else None
        self._states: list[list[np.ndarray]] = [[] for _ in envs]
        self._costs: list[list[tuple[int, float]]] = [[] for _ in envs]
        self._imagined: list[list[tuple[int, np.ndarray]]] = [[] for _ in envs]
        self._kept = 0

    def on_act(self, step: int, active: Mask) -> None:
        """Note where everyone is, and what has just been planned."""
        for row in np.flatnonzero(active).tolist():
            self._states[row].append(self._envs[row].get_state())
        if self._controller is None or not self._controller.replanned:
            return
        plan, rows = self._controller.last_plan, self._controller.last_rows
        assert plan is not None and rows is not None
        for row, cost in zip(rows.tolist(), plan.cost.tolist(), strict=True):
            self._costs[row].append((step, cost))
        if self._decoder is not None and plan.imagined is not None and self._kept < _MOST_KEPT:
            imagined = plan.imagined.float().cpu().numpy()
            self._kept += imagined.size
            for row, latents in zip(rows.tolist(), imagined, strict=True):
                self._imagined[row].append((step, latents))

    def curves(self, outcomes: Sequence[Outcome]) -> list[Curve]:
        """The curve of each trial, errors once a model step."""
        found = []
        for outcome, env, costs in zip(outcomes, self._envs, self._costs, strict=True):
            steps = sorted({*range(0, len(outcome.errors), env.frame_skip), len(outcome.errors) - 1})
            finite = [(step, cost) for step, cost in costs if np.isfinite(cost)]
            found.append(
                Curve(
                    steps,
                    outcome.errors[steps].tolist(),
                    [step for step, _ in finite],
                    [cost for _, cost in finite],
                )
            )
        return found

    def videos(self, outcomes: Sequence[Outcome], most: int) -> list[dict[str, Any]]:
        """Draw up to `most` successes and as many failures, each as its view beside its goal."""
        found = []
        for wanted in (True, False):
            rows = [row for row, one in enumerate(outcomes) if succeeded(one) is wanted and one.steps]
            for row in rows[:most]:
                frames, fps = self._frames(row, outcomes[row])
                found.append(
                    {
                        "index": outcomes[row].trial.index,
                        "success": wanted,
                        "panels": 3 if self._imagined[row] else 2,
                        "mp4": base64.b64encode(encode_mp4(frames, fps)).decode("ascii"),
                    }
                )
        return found

    def _frames(self, row: int, outcome: Outcome) -> tuple[list[UInt8[np.ndarray, "h w 3"]], float]:
        env = self._envs[row]
        every = max(1, round(FRAME_SECONDS / env.control_timestep))
        end = outcome.steps
        if outcome.reached_at is not None:
            end = min(end, outcome.reached_at + round(TAIL_SECONDS / env.control_timestep))
        states = [*self._states[row], env.get_state()][: end + 1]
        steps = sorted({*range(0, end + 1, every), end})
        goal = panel(env.render_goal(outcome.trial.goal, None, PANEL))
        frames = []
        for step in steps:
            panels = [panel(view_of(env, states[step], PANEL)), goal]
            if self._imagined[row]:
                panels.append(panel(self._imagined_at(row, step)))
            reached = outcome.reached_at is not None and step >= outcome.reached_at
            frames.append(side_by_side(panels, step / max(end, 1), GREEN if reached else GREY))
        return frames, 1 / (every * env.control_timestep)

    def _imagined_at(self, row: int, step: int) -> UInt8[np.ndarray, "s s 3"]:
        """What the oldest plan that reached this far had imagined for an env step."""
        assert self._controller is not None
        skip = self._controller.frame_skip
        for made, latents in self._imagined[row]:
            ahead = -(-(step - made) // skip)
            if ahead <= len(latents):
                return self._draw(latents[max(ahead, 1) - 1])
        return self._draw(self._imagined[row][-1][1][-1])

    def _draw(self, latent: np.ndarray) -> UInt8[np.ndarray, "s s 3"]:
        import torch

        return self._decoder.frames(torch.from_numpy(latent)[None])[0]


def succeeded(outcome: Outcome) -> bool:
    """Reached and, where it counts, held."""
    return outcome.reached and outcome.held is not False


def find_decoder(policy: EvaluationPolicy) -> Any:  # noqa: ANN401
    """Load the decoder that lies beside a planner's model; None where there is none."""
    from wm_plan.world_model import load_decoder
    from wm_plan.world_model.decoder import has_decoder

    model: Any = getattr(getattr(policy, "controller", None), "model", None)
    folder = getattr(model, "folder", None) or policy.settings.get("model")
    if model is None or folder is None or not has_decoder(folder):
        return None
    return load_decoder(folder, model)


def panel(image: UInt8[np.ndarray, "s s 3"]) -> UInt8[np.ndarray, "p p 3"]:
    """A picture in the size of a panel."""
    from PIL import Image

    if len(image) == PANEL:
        return image
    return np.asarray(Image.fromarray(image).resize((PANEL, PANEL), Image.Resampling.BICUBIC))


def side_by_side(
    panels: Sequence[UInt8[np.ndarray, "p p 3"]], done: float, colour: tuple[int, int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Panels in a row over a line that fills with time."""
    width = len(panels) * PANEL + (len(panels) - 1) * GAP
    page = np.empty((PANEL + 2 * GAP, width, 3), np.uint8)
    page[:] = TRACK
    for at, image in enumerate(panels):
        left = at * (PANEL + GAP)
        page[:PANEL, left : left + PANEL] = image
    page[PANEL + GAP :, : round(done * width)] = colour
    return page


def encode_mp4(frames: Sequence[UInt8[np.ndarray, "h w 3"]], fps: float) -> bytes:
    """H.264 in an mp4, in memory; the last frame is held for half a second."""
    import io
    from fractions import Fraction

    import av

    rate = Fraction(fps).limit_denominator(100)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "24", "preset": "veryfast"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in [*frames, *[frames[-1]] * max(1, round(fps / 2))]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
