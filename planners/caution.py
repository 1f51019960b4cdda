"""What the control loop does when what happens is unlike what its model imagined."""

from __future__ import annotations

from enum import StrEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wm_plan.world_model.protocol import WorldModel
from wm_plan.world_model.surprise import SurpriseMonitor

from .settings import as_choice

DEFAULT_THRESHOLD = 0.98


class OnSurprise(StrEnum):
    """What is done in a model step that begins with more surprise than the threshold."""

    ignore = "ignore"
    """Nothing; surprise is only told."""
    slow = "slow"
    """The action is drawn towards the holding one, the more the rarer such surprise is."""
    hold = "hold"
    """The holding action, until surprise has fallen to the threshold again."""
    stop = "stop"
    """The holding action, until the row is reset."""


class Caution:
    """Watches the surprise of batch rows, and changes their actions if asked to.

    Args:
        model: one without a calibration of surprise cannot be watched.
        on_surprise: what to do above the threshold.
        threshold: of surprise; that part of held-out moments, .02 by default, has more.
        holding: (A,) the action that moves nothing, env units.

    Attributes:
        surprise: (B,) of the newest model step; None if the model does not know what is usual.
        stopped: (B,) rows that were surprised and are to stop.

    Raises:
        ValueError: the threshold is not between 0 and 1, or the model cannot be watched, and is to be.
    """

    def __init__(
        self,
        model: WorldModel,
        on_surprise: OnSurprise | str = OnSurprise.ignore,
        threshold: float = DEFAULT_THRESHOLD,
        holding: Float[Tensor, " action"] | None = None,
    ) -> None:
        self.on_surprise = as_choice(OnSurprise, "on_surprise", on_surprise)
        if not 0 < threshold < 1:
            raise ValueError(f"surprise_threshold={threshold} is not allowed; give a number between 0 and 1")
        self.threshold = threshold
        self._holding = holding
        calibration = getattr(getattr(model, "metadata", None), "surprise", None)
        if calibration is None and self.on_surprise is not OnSurprise.ignore:
            raise ValueError(
                f"on_surprise={self.on_surprise.value} needs a model that knows which errors are usual, and "
                "this one does not: train it with this version, or see wm_plan.world_model.calibrate_surprise"
            )
        self._monitor = None if calibration is None else SurpriseMonitor(model, calibration)
        self.stopped: Bool[Tensor, " batch"] = torch.zeros(0, dtype=torch.bool)

    @property
    def surprise(self) -> Float[Tensor, " batch"] | None:
        """Of the newest model step."""
        return None if self._monitor is None else self._monitor.surprise.clone()

    def restart(self, rows: Int[Tensor, " row"], batch_size: int) -> None:
        """Begin new episodes in some rows."""
        if len(self.stopped) != batch_size:
            self.stopped = torch.zeros(batch_size, dtype=torch.bool)
        self.stopped[rows] = False
        if self._monitor is not None:
            self._monitor.restart(rows, batch_size)

    def observe(
        self, rows: Int[Tensor, " row"], latents: Tensor, executed: Float[Tensor, "row action"]
    ) -> None:
        """Note what is seen in some rows, and the actions that led there (NaN at the beginning)."""
        if self._monitor is None:
            return
        self._monitor.observe(rows, latents, executed)
        if self.on_surprise is OnSurprise.stop:
            self.stopped[rows] |= self._monitor.surprise[rows] > self.threshold

    def temper(
        self, rows: Int[Tensor, " row"], actions: Float[Tensor, "row action"]
    ) -> Float[Tensor, "row action"]:
        """The actions to execute instead of the planned ones."""
        if self._monitor is None or self.on_surprise is OnSurprise.ignore:
            return actions
        surprise = self._monitor.surprise[rows].to(actions)
        match self.on_surprise:
            case OnSurprise.slow:
                kept = ((1 - surprise) / (1 - self.threshold)).clamp(max=1.0)
            case OnSurprise.hold:
                kept = (surprise <= self.threshold).to(actions)
            case _:
                kept = (~self.stopped[rows]).to(actions)
        holding = torch.zeros(()) if self._holding is None else self._holding
        return torch.lerp(holding.to(actions).expand_as(actions), actions, kept.unsqueeze(1))
