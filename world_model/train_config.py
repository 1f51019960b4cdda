"""How a compact world model is trained: its losses, stages and budget."""

from __future__ import annotations

from dataclasses import dataclass, field

from .compact_config import CompactConfig
from .stages import OptimiserConfig
from .temporal_distance import DistanceConfig


@dataclass
class TrainConfig(OptimiserConfig):
    """How a compact world model is trained; also what `OptimiserConfig` says.

    Attributes:
        model: sizes.
        distance: how the temporal distance is trained.
        action_block: rows of the log that make a model step, each with an action of its own.
        num_steps: optimiser steps of the first stage; 0 leaves the state head as it is, when fine-tuning.
        num_predictor_steps: of the second stage.
        batch_size: windows a step in the first stage.
        predictor_batch_size: windows a step in the second stage.
        rollout_steps: imagined steps of the first stage's error.
        predictor_rollout_steps: of the second stage's.
        huber_beta: an error of the second stage beyond it counts by its size, not its square; 0 squares all.
            In units of how much that number of a latent varies, if `model.predictor` is gated.
        contrast_weight: of telling the latent that follows from all others in the batch.
        rollout_weight: of the squared error of imagined latents, in the first stage.
        stop_gradient: whether that error leaves alone the latents that really follow.
        sigreg_weight: of SIGReg.
        variance_weight: of VICReg's hinge on each dimension's spread.
        covariance_weight: of VICReg's squared covariances between dimensions.
        similarity_weight: of the squared change of the latent in a step.
        straightening_weight: of how much the latent's way bends from one step to the next.
        inverse_weight: of inverse dynamics.
        token_weight: of telling from its latent where a frame is along the principal axes of tokens.
        token_axes: so many of them.
        token_frames: frames a step for which that is asked.
        look_weight: of the squared difference between the latents of a frame in two looks.
        look_frames: frames a step that are seen in both looks.
        num_look_steps: optimiser steps in which the head learns to give its plain latents in other looks.
        look_batch_size: frames a step of them, as many again in plain look.
        judge_every: steps of the second stage from one open-loop error on held-out episodes to the next, ...
        patience: ... so many of which without a better one end the stage; 0 never ends it early.
        views: image columns that the model sees, of one camera each; the first is the one that goals show.
        proprio: whether the model takes the column `proprio`, too; what is felt follows what is shown.
        hide_rate: fraction of windows seen by one camera only, so that the model can do with one.
        held_out: fraction of episodes kept for validation.
    """

    model: CompactConfig = field(default_factory=CompactConfig)
    distance: DistanceConfig = field(default_factory=DistanceConfig)
    action_block: int = 1
    num_steps: int = 1200
    num_predictor_steps: int = 4000
    batch_size: int = 64
    predictor_batch_size: int = 256
    rollout_steps: int = 5
    predictor_rollout_steps: int = 8
    huber_beta: float = 0.0
    contrast_weight: float = 1.0
    rollout_weight: float = 0.0
    stop_gradient: bool = False
    sigreg_weight: float = 0.0
    variance_weight: float = 0.0
    covariance_weight: float = 0.0
    similarity_weight: float = 0.0
    straightening_weight: float = 0.0
    inverse_weight: float = 10.0
    token_weight: float = 1.0
    token_axes: int = 64
    token_frames: int = 256
    look_weight: float = 1.0
    look_frames: int = 96
    num_look_steps: int = 800
    look_batch_size: int = 192
    judge_every: int = 200
    patience: int = 0
    views: list[str] = field(default_factory=lambda: ["pixels"])
    proprio: bool = False
    hide_rate: float = 0.4
    held_out: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        for name, least in (
            ("num_steps", 0),
            ("num_look_steps", 0),
            ("num_predictor_steps", 1),
            ("action_block", 1),
            ("batch_size", 1),
            ("predictor_batch_size", 1),
            ("rollout_steps", 1),
            ("predictor_rollout_steps", 1),
            ("token_axes", 1),
            ("token_frames", 1),
            ("look_frames", 1),
            ("look_batch_size", 1),
            ("judge_every", 1),
            ("patience", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("batch_size", "predictor_batch_size", "look_frames", "look_batch_size"):
            self.check_batch(name, getattr(self, name))
        self.check_batch("distance.batch_size", self.distance.batch_size)
        if self.contrast_weight <= 0 and self.rollout_weight <= 0:
            raise ValueError("contrast_weight and rollout_weight are both 0: nothing would be predicted")
        if not self.views or len(set(self.views)) < len(self.views):
            raise ValueError(f"views must name image columns, each once; got {self.views}")
        if not self.huber_beta >= 0:
            raise ValueError(f"huber_beta must be at least 0, got {self.huber_beta}")
        if not 0 <= self.hide_rate <= 1:
            raise ValueError(f"hide_rate must be from 0 to 1, got {self.hide_rate}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, got {self.held_out}")
