"""Reading the published V-JEPA 2-AC weights: one `.pt` file that holds an encoder and a predictor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .encoders.checkpoint import plain_tensors, read_checkpoint
from .encoders.vjepa2 import VJEPA2Encoder, build_vjepa2
from .vjepa2_ac import NextState, VJEPA2ACConfig, VJEPA2ACPredictor, normed
from .weights_io import load_weights

HEAD_DIM = 64


def load_vjepa2_ac(
    path: str | Path,
    image_size: int = 256,
    num_frames: int = 64,
    encoder_heads: int | None = None,
    predictor_heads: int | None = None,
) -> tuple[VJEPA2ACEncoder, VJEPA2ACPredictor]:
    """Load a V-JEPA 2-AC checkpoint, such as the published `vjepa2-ac-vitg.pt`.

    Widths and depths are read from the weights; heads are not in them. No code in the file is run.

    Args:
        path: the `.pt` file, a dict of "encoder" and "predictor".
        image_size: height and width of frames [px].
        num_frames: longest clip of the encoder [frames]; the predictor has positions for one step a tubelet.
        encoder_heads: heads a block; of width 64 if None.
        predictor_heads: heads a block; of width 64 if None.

    Returns:
        encoder: clip (B, T, 3, H, W), normalised, -> tokens (B, N, D), in the order (time, row, column).
        predictor: layer-normed tokens (B, T * P, D), actions and poses (B, T, 7) -> tokens that follow.

    Raises:
        ValueError: the file is missing, damaged or of another layout, or sizes do not fit it.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    for name in ("encoder", "predictor"):
        if not isinstance(checkpoint.get(name), Mapping):
            found = ", ".join(map(str, checkpoint))
            raise ValueError(f"{str(path)!r} is no V-JEPA 2-AC checkpoint: no {name!r} among {found}")
    own = plain_tensors(checkpoint["encoder"])
    if "patch_embed.proj.weight" not in own:
        raise ValueError(f"{str(path)!r} is no V-JEPA 2-AC checkpoint: its encoder has no patch embedding")
    heads = _heads("encoder_heads", len(own["patch_embed.proj.weight"]), encoder_heads)
    encoder = VJEPA2ACEncoder(build_vjepa2(own, heads, path), image_size, num_frames)
    sizes = encoder.vit.config
    if image_size % sizes.patch_size or num_frames % sizes.tubelet_size or min(image_size, num_frames) < 1:
        raise ValueError(
            f"image_size {image_size} and num_frames {num_frames} must be multiples of the checkpoint's "
            f"patch of {sizes.patch_size} px and tubelet of {sizes.tubelet_size} frames"
        )
    predictor = make_predictor(
        plain_tensors(checkpoint["predictor"]),
        path,
        image_size // sizes.patch_size,
        num_frames // sizes.tubelet_size,
        predictor_heads,
    )
    return encoder.eval(), predictor


class VJEPA2ACEncoder(nn.Module):
    """The encoder of a V-JEPA 2-AC checkpoint; its tokens are not yet layer-normed, as published.

    The predictor takes layer-normed tokens of frames, each repeated to fill a tubelet: `frame_tokens`.
    """

    def __init__(self, vit: VJEPA2Encoder, image_size: int, num_frames: int) -> None:
        """Hold `vit` to frames of `image_size` [px] and clips of at most `num_frames`."""
        super().__init__()
        self.vit = vit
        self.image_size = image_size
        self.num_frames = num_frames

    def forward(self, clip: Float[Tensor, "batch frame 3 height width"]) -> Float[Tensor, "batch token dim"]:
        """Tokens of clips, normalised by ImageNet's mean and std, in the order (time, row, column).

        Raises:
            ValueError: frames are of another size, too many, or no multiple of the tubelet (one is allowed).
        """
        size, tubelet, frames = self.image_size, self.vit.config.tubelet_size, clip.shape[1]
        if clip.shape[-2:] != (size, size) or frames > self.num_frames or (frames % tubelet and frames > 1):
            raise ValueError(
                f"the clip is {tuple(clip.shape)}; give (batch, frames, 3, {size}, {size}) with one frame or "
                f"a multiple of {tubelet}, at most {self.num_frames}"
            )
        return self.vit(clip)[-1]

    def frame_tokens(
        self, frames: Float[Tensor, "batch frame 3 height width"]
    ) -> Float[Tensor, "batch length dim"]:
        """Layer-normed tokens of each frame by itself, frame after frame: what the predictor takes."""
        tokens = self(frames.flatten(0, 1).unsqueeze(1))
        return normed(tokens).unflatten(0, frames.shape[:2]).flatten(1, 2)


def make_predictor(
    tensors: Mapping[str, Tensor], path: Path, grid_size: int, max_steps: int, num_heads: int | None
) -> VJEPA2ACPredictor:
    """A predictor with these weights, but for camera extrinsics, which the published one never uses."""
    own = {
        name.replace("predictor_blocks.", "blocks."): tensor
        for name, tensor in tensors.items()
        if not name.startswith("extrinsics_encoder.")
    }
    width, token_dim = _shape(own, "predictor_embed.weight", path)
    action_dim = _shape(own, "action_encoder.weight", path)[1]
    state_dim = _shape(own, "state_encoder.weight", path)[1]
    config = VJEPA2ACConfig(
        token_dim=token_dim,
        grid_size=grid_size,
        action_dim=action_dim,
        state_dim=state_dim,
        width=width,
        depth=len({name.split(".")[1] for name in own if name.startswith("blocks.")}),
        num_heads=_heads("predictor_heads", width, num_heads),
        mlp_ratio=_shape(own, "blocks.0.mlp.fc1.weight", path)[0] / width,
        max_steps=max_steps,
        next_state=NextState.gripper if (action_dim, state_dim) == (7, 7) else NextState.add,
    )
    with torch.device("meta"):
        predictor = VJEPA2ACPredictor(config)
    predictor.to_empty(device="cpu")
    identity = {
        name: torch.full_like(buffer, float(name.endswith("scale")))
        for name, buffer in predictor.named_buffers()
    }
    load_weights(predictor, {**own, **identity}, path)
    return predictor.eval().requires_grad_(False)


def _shape(tensors: Mapping[str, Tensor], name: str, path: Path) -> tuple[int, int]:
    if name not in tensors or tensors[name].ndim != 2:
        raise ValueError(f"{str(path)!r} is no V-JEPA 2-AC checkpoint: its predictor has no {name!r}")
    rows, columns = tensors[name].shape
    return rows, columns


def _heads(name: str, width: int, given: int | None) -> int:
    heads = width // HEAD_DIM if given is None else given
    if heads < 1 or width % heads:
        raise ValueError(f"{name} is {heads}, which does not divide the width {width}; give {name} that does")
    return heads
