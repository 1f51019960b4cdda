"""What plans were imagined to lead to, drawn by the decoder beside a model after the run is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8

if TYPE_CHECKING:
    from wm_plan.planners import MPC
    from wm_plan.world_model import FrameDecoder

Image = UInt8[np.ndarray, "_ _ 3"]


@dataclass
class Imagined:
    """The imagined future of every plan of a run, as frames."""

    plans: Sequence[int]
    """Env step at which each plan was made, in order."""
    frames: UInt8[np.ndarray, "plan horizon _ _ 3"]
    frame_skip: int
    """Env steps from one imagined frame to the next."""
    is_replaced: bool
    """Whether plans are made anew before they end."""

    def plan_at(self, step: int) -> int:
        """Give the env step at which the plan was made that is followed at an env step."""
        return self.plans[self._number(step)]

    def moments(self, step: int, count: int) -> list[tuple[int, Image]]:
        """Give up to `count` moments of the plan that is followed at an env step, the last one among them.

        Returns:
            env steps from the plan's beginning, and what was imagined to be seen then.
        """
        number = self._number(step)
        horizon = self.frames.shape[1]
        ends = np.unique(np.ceil(np.arange(1, count + 1) * horizon / count).astype(int))
        return [(int(end) * self.frame_skip, self.frames[number, end - 1]) for end in ends]

    def spread(self, steps: int, count: int) -> list[int]:
        """Give env steps of up to `count` plans, spread over those that ended within a run of `steps`."""
        whole = [plan for plan in self.plans if plan + self.frames.shape[1] * self.frame_skip <= steps]
        places = np.linspace(0, len(whole), count, endpoint=False).astype(int)
        return sorted({whole[place] for place in places}) if whole else [self.plans[0]]

    def _number(self, step: int) -> int:
        return max(int(np.searchsorted(self.plans, step, side="right")) - 1, 0)


class Imaginings:
    """Keeps what each plan imagines, during a run; draws nothing before `drawn`."""

    def __init__(self, controller: MPC, decoder: FrameDecoder) -> None:
        self._controller, self._decoder = controller, decoder
        self._plans: list[int] = []
        self._latents: list[torch.Tensor] = []

    def note(self, step: int) -> None:
        """Keep the newest plan's imagined latents; it was made at this env step."""
        plan = self._controller.last_plan
        assert plan is not None
        assert plan.imagined is not None
        self._plans.append(step)
        self._latents.append(plan.imagined[0].to("cpu", torch.float16))

    def drawn(self) -> Imagined | None:
        """Draw all of it; None if there was no plan."""
        if not self._plans:
            return None
        frames = np.stack([self._decoder.frames(latents.float()) for latents in self._latents])
        replaced = self._controller.replan_every < frames.shape[1]
        return Imagined(self._plans, frames, self._controller.frame_skip, replaced)


def imaginings_of(controller: MPC, warn: Callable[[str], None]) -> Imaginings | None:
    """Give what keeps and draws a run's imagined futures; None for a model without a decoder of its own."""
    from wm_plan.world_model import load_decoder
    from wm_plan.world_model.decoder import has_decoder

    model: Any = controller.model
    if not has_decoder(model.folder):
        return None
    try:
        return Imaginings(controller, load_decoder(model.folder, model))
    except ValueError as error:
        warn(f"nothing imagined is shown: {error}")
        return None
