"""Frames from latents, for looking only: what a model imagined, drawn. No plan and no training ever uses it.

It is trained afterwards, on latents that are held fixed, and lies beside the model, in `decoder/`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from .compact import CompactWorldModel
from .encoder import square_frames
from .latent_cache import cached_latents
from .latent_rows import LatentRows
from .store import TrajectoryStore
from .token_model import TokenWorldModel
from .training_state import (
    Progress,
    append_metrics,
    check_same_settings,
    drop_metrics_after,
    load_state,
    no_progress,
    save_state,
    warmup_cosine,
)
from .vjepa2_ac import normed
from .weights_io import CONFIG_NAME, load_folder, load_weights, save_folder

FOLDER_NAME = "decoder"
DecodableModel = CompactWorldModel | TokenWorldModel
_VECTOR_GRID = 4


@dataclass
class DecoderConfig:
    """Sizes and training of a decoder.

    Attributes:
        image_size: height and width of the frames it draws [px].
        width: channels at the coarsest grid; each doubling of the grid halves them, down to 16.
        num_steps: optimiser steps.
        batch_size: frames a step.
        learning_rate: peak of AdamW's.
        moving_weight: how much more a pixel counts that is not as it usually is: a robot is few pixels.
        held_out: fraction of episodes kept for validation.
        seed: of weights, frames and the split.
        log_every: steps from one line of metrics to the next.
        save_every: steps from one checkpoint to the next.
    """

    image_size: int = 64
    width: int = 128
    num_steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 1e-3
    moving_weight: float = 4.0
    held_out: float = 0.05
    seed: int = 0
    log_every: int = 50
    save_every: int = 500

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("image_size", "width", "num_steps", "batch_size", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, got {self.held_out}")


class FrameDecoder(nn.Module):
    """A convolutional decoder of vectors, or of tokens on their grid: the usual frame plus what differs."""

    mean_frame: Tensor
    latent_mean: Tensor
    latent_scale: Tensor

    def __init__(self, latent_shape: tuple[int, ...], config: DecoderConfig) -> None:
        """Build with random weights; at first every frame is the usual one.

        Args:
            latent_shape: (D,) for vectors, (P, D) for P tokens on a square grid.
            config: sizes.
        """
        super().__init__()
        self.latent_shape, self.config = latent_shape, config
        size, width = config.image_size, config.width
        self.grid_size = _VECTOR_GRID if len(latent_shape) == 1 else round(latent_shape[0] ** 0.5)
        self.register_buffer("mean_frame", torch.zeros(3, size, size))
        self.register_buffer("latent_mean", torch.zeros(latent_shape))
        self.register_buffer("latent_scale", torch.ones(()))
        places = self.grid_size**2 if len(latent_shape) == 1 else 1
        self.enter = nn.Linear(latent_shape[-1], places * width)
        blocks: list[nn.Module] = []
        grid = self.grid_size
        while grid < size:
            narrower = max(16, width // 2)
            blocks += [nn.Conv2d(width, narrower, 3, padding=1), nn.GELU(), nn.Upsample(scale_factor=2)]
            grid, width = 2 * grid, narrower
        self.body = nn.Sequential(*blocks, nn.Conv2d(width, width, 3, padding=1), nn.GELU())
        self.leave = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        if self.leave.bias is not None:
            nn.init.zeros_(self.leave.bias)

    def forward(self, latents: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch 3 size size"]:
        """Frames from 0 to 1, not yet clipped."""
        standard = (latents - self.latent_mean) * self.latent_scale
        entered = self.enter(standard)
        if len(self.latent_shape) == 1:
            grid = entered.unflatten(1, (-1, self.grid_size, self.grid_size))
        else:
            grid = entered.transpose(1, 2).unflatten(2, (self.grid_size, self.grid_size))
        change = self.leave(self.body(F.gelu(grid)))
        size = self.config.image_size
        if change.shape[-1] != size:
            change = F.interpolate(change, (size, size), mode="bilinear", antialias=True)
        return self.mean_frame + change

    @torch.no_grad()
    def frames(self, latents: Tensor) -> UInt8[np.ndarray, "..."]:
        """Draw latents (..., *latent): frames (..., S, S, 3)."""
        leading = latents.shape[: latents.ndim - len(self.latent_shape)]
        flat = latents.reshape(-1, *self.latent_shape).to(self.mean_frame)
        drawn = torch.cat([self(part) for part in flat.split(256)]).clamp(0, 1) * 255
        return drawn.round().byte().permute(0, 2, 3, 1).unflatten(0, leading or (1,)).cpu().numpy()


def latents_of(model: DecodableModel, tokens: Float[np.ndarray, "row token dim"]) -> Tensor:
    """A model's latents of frames whose encoder tokens are known."""
    rows = torch.from_numpy(tokens).float()
    with torch.no_grad():
        return model.head(rows) if isinstance(model, CompactWorldModel) else normed(rows)


def latent_fingerprint(model: DecodableModel) -> str:
    """40 hexadecimal digits that change when the same frame has another latent; a predictor has no say."""
    digest = hashlib.sha256(model.encoder.fingerprint.encode())
    if isinstance(model, CompactWorldModel):
        for name, tensor in sorted(model.head.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().half().numpy().tobytes())
    return digest.hexdigest()[:40]


def train_decoder(
    model: DecodableModel,
    store: TrajectoryStore,
    folder: str | Path,
    config: DecoderConfig,
    *,
    resume: bool = False,
    progress: Progress = no_progress,
) -> FrameDecoder:
    """Train a decoder for a trained model and write it into `folder/decoder`, where `load_decoder` finds it.

    The model's weights are not touched. A stopped run resumes to the same weights as an uninterrupted one.

    Args:
        model: as it was trained.
        store: logged frames, best the ones that it was trained on.
        folder: the model's.
        config: sizes and steps.
        resume: go on from the last checkpoint.
        progress: told how far it is.

    Raises:
        ValueError: there are no frames or too few episodes, or another training lies in the folder.
    """
    out = Path(folder) / FOLDER_NAME
    train, held = store.split(config.held_out, config.seed)
    tokens = cached_latents(model.encoder, store)
    rows = np.concatenate([np.arange(store.num_rows)[store.episode_rows(e)] for e in train])
    some = np.sort(np.random.default_rng([config.seed, 1]).permutation(rows)[:1024])
    known = latents_of(model, tokens[some])
    torch.manual_seed(config.seed)
    decoder = FrameDecoder(tuple(known.shape[1:]), config)
    decoder.mean_frame.copy_(_pixels(store, some, config.image_size).mean(dim=0))
    decoder.latent_mean.copy_(known.mean(dim=0))
    decoder.latent_scale.copy_(1 / (known - decoder.latent_mean).square().mean().sqrt().clamp(min=1e-6))
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=config.learning_rate, weight_decay=0.01)
    settings = {**asdict(config), "data": store.fingerprint, "latents": latent_fingerprint(model)}
    out.mkdir(parents=True, exist_ok=True)
    start, total = 0, 0.0
    if resume:
        state = load_state(out)
        check_same_settings(out, settings, state["settings"])
        decoder.load_state_dict(state["decoder"])
        optimizer.load_state_dict(state["optimizer"])
        start, total = state["step"], state["sum"]
        drop_metrics_after(out, start)
    for step in range(start, config.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warmup_cosine(step, config.num_steps)
        chosen = np.sort(np.random.default_rng([config.seed, 2, step]).choice(rows, config.batch_size))
        seen = _pixels(store, chosen, config.image_size)
        moving = (seen - decoder.mean_frame).abs().amax(dim=1, keepdim=True).clamp(max=0.25) * 4
        error = (decoder(latents_of(model, tokens[chosen])) - seen).abs()
        loss = (error * (1 + config.moving_weight * moving)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        done = step + 1
        if done % config.log_every == 0 or done == config.num_steps:
            metrics = {"decoder": total / (step % config.log_every + 1)}
            total = 0.0
            append_metrics(out, {"step": done, **metrics})
            progress(done, config.num_steps, metrics)
        if done % config.save_every == 0 or done == config.num_steps:
            weights = {"decoder": decoder.state_dict(), "optimizer": optimizer.state_dict()}
            save_state(out, {**weights, "step": done, "sum": total, "settings": settings})
    decoder.eval().requires_grad_(False)
    held_rows = np.concatenate([np.arange(store.num_rows)[store.episode_rows(e)] for e in held])
    missed = held_out_error(decoder, model, store, tokens, held_rows)
    entry = {"latents": settings["latents"], "data": store.fingerprint, "held_out_error": missed}
    sizes = {"latent_shape": list(decoder.latent_shape), "decoder": asdict(config)}
    save_folder(out, "decoder", {**sizes, **entry}, {k: v.half() for k, v in decoder.state_dict().items()})
    return decoder


@torch.no_grad()
def held_out_error(
    decoder: FrameDecoder,
    model: DecodableModel,
    store: TrajectoryStore,
    tokens: Float[LatentRows | np.ndarray, "row token dim"],
    rows: np.ndarray,
) -> dict[str, float]:
    """Mean absolute error in grey levels: of drawn frames, and of the usual frame in their place."""
    sums = {"drawn": 0.0, "usual": 0.0}
    for part in _parts(rows, 64):
        seen = _pixels(store, part, decoder.config.image_size)
        drawn = decoder(latents_of(model, tokens[part])).clamp(0, 1)
        for name, guess in (("drawn", drawn), ("usual", decoder.mean_frame)):
            sums[name] += float((guess - seen).abs().mean(dim=(1, 2, 3)).sum())
    return {name: round(255 * value / len(rows), 4) for name, value in sums.items()}


def has_decoder(folder: str | Path) -> bool:
    """Whether a finished decoder lies beside the model in `folder`."""
    return (Path(folder) / FOLDER_NAME / CONFIG_NAME).is_file()


def load_decoder(folder: str | Path, model: DecodableModel) -> FrameDecoder:
    """Read the decoder that lies beside a model.

    Raises:
        ValueError: there is none, it is damaged, or it was trained on other latents than this model's.
    """
    out = Path(folder) / FOLDER_NAME
    config, tensors = load_folder(out, "decoder")
    try:
        decoder = FrameDecoder(tuple(map(int, config["latent_shape"])), DecoderConfig(**config["decoder"]))
        latents = str(config["latents"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(out)!r} has a damaged config: {error!r}") from error
    if latents != latent_fingerprint(model):
        raise ValueError(f"{str(out)!r} draws the latents of another model; train it again for this one")
    load_weights(decoder, tensors, out)
    return decoder.eval().requires_grad_(False)


def _pixels(store: TrajectoryStore, rows: np.ndarray, image_size: int) -> Float[Tensor, "row 3 size size"]:
    """Logged frames from 0 to 1."""
    return square_frames(store.read("pixels", rows)[:, None], image_size)[:, 0] / 255


def _parts(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
