"""The schemas of the training commands: what is trained, from which logs and where it computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from wm_plan.world_model import (
    ActionDecoderConfig,
    DecoderConfig,
    PretrainConfig,
    PriorConfig,
    TokenTrainConfig,
    TrainConfig,
)

from .schema import check_minimum


@dataclass
class PretrainRun(PretrainConfig):
    """What wm-pretrain composes."""

    data: list[str] = field(default_factory=list)
    """Stores of logged trajectories; other formats are converted once, into the cache."""
    columns: str = ""
    """Which of their columns are taken for what, as wm-data's --columns; found out where it says nothing."""
    probe_labels: int = 400
    """Labels of each task that probes of the true state are fitted to; 0 for no probes."""
    tensorboard: bool = False
    """Write the metrics for tensorboard, too."""
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        """Check what can be checked without the data.

        Raises:
            ValueError: naming what was given and what is allowed.
        """
        super().__post_init__()
        check_minimum(self, threads=1, seed=0, probe_labels=0)


class Predictor(StrEnum):
    """Kinds of predictors that wm-train trains."""

    compact = "compact"
    """One small latent a frame; plans in real time on a CPU."""
    vjepa2_ac = "vjepa2_ac"
    """All patch tokens of a frame, as in V-JEPA 2-AC."""
    dino_wm = "dino_wm"
    """All patch tokens of a frame, as in DINO-WM."""


@dataclass
class TrainRun(TrainConfig):
    """What wm-train composes."""

    predictor: Predictor = Predictor.compact
    """What is trained; `tokens` holds the settings of vjepa2_ac and dino_wm, all others are of compact."""
    tokens: TokenTrainConfig = field(default_factory=TokenTrainConfig)
    """Their own `family` is set by `predictor`."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """What draws latents, with --also decoder or --only decoder."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """What proposes actions, with --also prior or --only prior."""
    action_decoder: ActionDecoderConfig = field(default_factory=ActionDecoderConfig)
    """What decodes latent actions, with --also action_decoder or --only action_decoder."""

    data: list[str] = field(default_factory=list)
    """Stores of logged trajectories, all of one task; other formats are converted once, into the cache."""
    columns: str = ""
    """Which of their columns are taken for what, as wm-data's --columns; found out where it says nothing."""
    encoder: str = "small"
    """Name or folder of the frozen encoder."""
    tensorboard: bool = False
    """Write the metrics for tensorboard, too."""
    device: str = "cpu"
    """Where the encoder and the predictors over tokens compute; the small networks train on the CPU."""
    threads: int = 1

    def __post_init__(self) -> None:
        """Check what can be checked without the data.

        Raises:
            ValueError: naming what was given and what is allowed.
        """
        super().__post_init__()
        check_minimum(self, threads=1, seed=0)
