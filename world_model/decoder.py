"""Frames from latents, for looking only: what a model imagined, drawn. No plan and no training ever uses it.

It is trained afterwards, on latents that are held fixed, and lies beside the model, in `decoder/`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from .beside import BesideConfig, fit_beside, has_beside, load_beside, save_beside, settings_beside, spread
from .encoder import square_frames
from .logged_latents import LoggedLatents, TrainedModel
from .store import TrajectoryStore
from .training_state import Progress, no_progress
from .weights_io import load_weights

DECODER_FOLDER = "decoder"
_VECTOR_GRID = 4


@dataclass
class DecoderConfig(BesideConfig):
    """Sizes and training of a decoder.

    Attributes:
        image_size: height and width of the frames it draws [px].
        width: channels at the coarsest grid; each doubling of the grid halves them, down to 16.
        moving_weight: how much more all pixels count that are not as they usually are than all that are: a
            robot is few pixels, and a point fewer.
    """

    image_size: int = 64
    width: int = 128
    moving_weight: float = 4.0
    save_every: int = 500

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        for name in ("image_size", "width"):
            self.check_at_least_one(name)


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
        self.register_buffer("latent_scale", torch.ones(latent_shape))
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

    @torch.no_grad()
    def fit_normalisers(
        self, latents: Float[Tensor, "sample ..."], frames: Float[Tensor, "sample 3 size size"]
    ) -> None:
        """Take the usual frame and the usual latents, and how far these vary, from a sample."""
        self.mean_frame.copy_(frames.mean(dim=0))
        self.latent_mean.copy_(latents.mean(dim=0))
        self.latent_scale.copy_(1 / spread(latents))

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


def train_decoder(
    model: TrainedModel,
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
    out, settings = Path(folder) / DECODER_FOLDER, settings_beside(config, model, store)
    train, held = (store.rows_of(episodes) for episodes in store.split(config.held_out, config.seed))
    latents = LoggedLatents(model, store, progress)

    def frames(rows: np.ndarray) -> Float[Tensor, "row 3 size size"]:
        logged = store.read(model.metadata.views[0], rows)
        return square_frames(logged[:, None], config.image_size, latents.device)[:, 0] / 255

    some = np.sort(np.random.default_rng([config.seed, 1]).permutation(train)[:1024])
    torch.manual_seed(config.seed)
    decoder = FrameDecoder(latents.latent_shape, config).to(latents.device)
    decoder.fit_normalisers(latents[some], frames(some))

    def loss_of(rng: np.random.Generator, count: int) -> Tensor:
        rows = np.sort(rng.choice(train, count))
        seen = frames(rows)
        moving = (seen - decoder.mean_frame).abs().amax(dim=1, keepdim=True).clamp(max=0.25) * 4
        error = (decoder(latents[rows]) - seen).abs()
        return (error * (1 + config.moving_weight * moving / moving.mean().clamp(min=1e-4))).mean()

    fit_beside(decoder, loss_of, out, config, settings, resume=resume, progress=progress)
    missed = held_out_error(decoder, latents, frames, held)
    shape = list(decoder.latent_shape)
    save_beside(decoder, out, config, settings, latent_shape=shape, held_out=missed)
    return decoder


@torch.no_grad()
def held_out_error(
    decoder: FrameDecoder,
    latents: LoggedLatents,
    frames: Callable[[np.ndarray], Float[Tensor, "row 3 size size"]],
    rows: np.ndarray,
) -> dict[str, float]:
    """How drawn frames, and the usual frame in their place, differ from logged ones.

    Returns:
        drawn, usual: mean absolute error in grey levels.
        psnr, usual_psnr: mean peak signal-to-noise ratio [dB].
    """
    sums = dict.fromkeys(("drawn", "usual", "psnr", "usual_psnr"), 0.0)
    for part in np.array_split(rows, -(-len(rows) // 64)):
        seen = frames(part)
        drawn = decoder(latents[part].to(seen)).clamp(0, 1)
        for guess, error, ratio in (
            (drawn, "drawn", "psnr"),
            (decoder.mean_frame, "usual", "usual_psnr"),
        ):
            difference = guess - seen
            sums[error] += 255 * float(difference.abs().mean(dim=(1, 2, 3)).sum())
            squared = difference.square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
            sums[ratio] += float(-10 * squared.log10().sum())
    return {name: round(value / len(rows), 3) for name, value in sums.items()}


def has_decoder(folder: str | Path | None) -> bool:
    """Whether a finished decoder lies beside the model in `folder`; None is a model made in memory."""
    return has_beside(folder, DECODER_FOLDER)


def load_decoder(folder: str | Path, model: TrainedModel) -> FrameDecoder:
    """Read the decoder that lies beside a model.

    Raises:
        ValueError: there is none, it is damaged, or it was trained on other latents than this model's.
    """
    out = Path(folder) / DECODER_FOLDER
    config, tensors = load_beside(out, model)
    try:
        decoder = FrameDecoder(tuple(map(int, config["latent_shape"])), DecoderConfig(**config["decoder"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(out)!r} has a damaged config: {error!r}") from error
    load_weights(decoder, tensors, out)
    return decoder.eval().requires_grad_(False)
