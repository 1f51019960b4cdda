"""What is trained beside a finished model, on latents that are held fixed: the loop and the folder it fills.

Each such network has a folder of its own in the model's, `decoder/` or `prior/`. It belongs to the model's
latents: beside a model that gives other ones it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from .logged_latents import TrainedModel, latent_fingerprint
from .stages import OptimiserConfig, Stage, StagedRun
from .store import TrajectoryStore
from .training_state import Progress, drop_metrics_after
from .weights_io import CONFIG_NAME, load_folder, save_folder


@dataclass
class BesideConfig(OptimiserConfig):
    """How a network beside a model is trained, besides what every stage of a training has.

    Attributes:
        num_steps: optimiser steps.
        batch_size: samples a step.
        held_out: fraction of episodes kept for validation.
    """

    num_steps: int = 2000
    batch_size: int = 32
    held_out: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        for name in ("num_steps", "batch_size"):
            self.check_at_least_one(name)
        self.check_batch("batch_size", self.batch_size)
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, got {self.held_out}")

    def check_at_least_one(self, name: str) -> None:
        """Refuse a number below 1."""
        if getattr(self, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def fit_beside(
    network: nn.Module,
    loss_of: Callable[[np.random.Generator, int], Tensor],
    out: Path,
    config: BesideConfig,
    settings: dict[str, Any],
    *,
    resume: bool,
    progress: Progress,
) -> None:
    """Minimise a loss over samples, and keep metrics and training state in `out`.

    Args:
        network: what is trained; its weights at the start do not count if a run is resumed.
        loss_of: draws samples with the generator given, as many as it is told, and gives their loss.
        out: the network's folder; its name is the metric's.
        config: steps and rates.
        settings: what must be the same for a run to be resumed.
        resume: go on from the last checkpoint.
        progress: told how far it is.

    Raises:
        ValueError: there is nothing to resume, or it is another training.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = next(network.parameters()).device
    run = StagedRun(out, network, config, settings, device, progress)
    if resume:
        run.resume()
    else:
        drop_metrics_after(out, 0)

    def losses(step: int, part: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([config.seed, 2, step, part])
        return {out.name: loss_of(rng, config.batch_size // config.accumulate)}

    run.train(
        Stage(
            out.name,
            {"network": network},
            losses,
            config.num_steps,
            config.learning_rate,
            config.weight_decay,
            clip_norm=config.clip_norm,
            log_every=config.log_every,
        )
    )
    network.eval().requires_grad_(False)


def spread(latents: Float[Tensor, "sample ..."]) -> Float[Tensor, "..."]:
    """How far each number of a latent varies: what varies little is to be seen as well as what varies much.

    At least a hundredth of what all of them vary by: what hardly varies is noise.
    """
    least = 0.01 * (latents - latents.mean(dim=0)).square().mean().sqrt()
    return latents.std(dim=0).clamp(min=max(float(least), 1e-6))


def settings_beside(config: BesideConfig, model: TrainedModel, store: TrajectoryStore) -> dict[str, Any]:
    """What a training is: its config, its data and the latents that it learns from."""
    return {**asdict(config), "data": store.fingerprint, "latents": latent_fingerprint(model)}


def save_beside(
    network: nn.Module,
    out: Path,
    config: BesideConfig,
    settings: dict[str, Any],
    **record: Any,  # noqa: ANN401
) -> None:
    """Write a network in half precision, with what it was trained on and what came of it."""
    entry = {name: settings[name] for name in ("latents", "data")}
    tensors = {name: tensor.half() for name, tensor in network.state_dict().items()}
    save_folder(out, out.name, {out.name: asdict(config), **entry, **record}, tensors)


def has_beside(folder: str | Path | None, name: str) -> bool:
    """Whether a finished network of this name lies beside the model in `folder`."""
    return folder is not None and (Path(folder) / name / CONFIG_NAME).is_file()


def load_beside(out: Path, model: TrainedModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the config and the tensors that `save_beside` wrote.

    Raises:
        ValueError: there are none, they are damaged, or were trained on other latents than this model's.
    """
    config, tensors = load_folder(out, out.name)
    if config.get("latents") != latent_fingerprint(model):
        raise ValueError(
            f"{str(out)!r} was trained on the latents of another model; train it again for this one: "
            f"wm-train --only {out.name}"
        )
    scale = tensors.get("latent_scale")
    if scale is not None and not scale.ndim:  # the first ones scaled all numbers alike
        tensors["latent_scale"] = scale.expand_as(tensors["latent_mean"])
    return config, tensors
