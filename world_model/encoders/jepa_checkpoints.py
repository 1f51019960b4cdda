"""Meta's `.pt` and `.pth.tar` files as encoders: V-JEPA 2, 2.1 and 2-AC, V-JEPA 1, I-JEPA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from ..weights_io import load_weights
from .checkpoint import encoder_tensors, read_checkpoint
from .options import EncoderOptions
from .position_table import PositionTableEncoder, position_table_config
from .preprocessing import CROP_FRACTION, Preprocessing
from .published import EncoderCard, PublishedEncoder
from .vjepa2 import build_vjepa2

_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
_ROTARY_HEADS = {**_HEADS, 1408: 22, 1664: 26}
_TABLE_HEADS = {**_HEADS, 1408: 16, 1664: 16}
_UNUSED_TABLES = (2048, 8192, 18432)
"""Lengths of the tables of positions that some files of V-JEPA 2 carry along and do not use."""


def load_checkpoint(path: str | Path, options: EncoderOptions) -> PublishedEncoder:
    """The encoder in a published file.

    Raises:
        ValueError: the file is missing, damaged, unsafe, or not of these encoders; a tensor does not fit; or
            an option is needed or does not apply.
    """
    path = Path(path)
    options.allow(
        str(path), "dtype", "image_size", "crop_fraction", "layers", "num_heads", "num_frames", "entry"
    )
    checkpoint = read_checkpoint(path)
    state = encoder_tensors(checkpoint, path, options.entry)
    patch = state.get("patch_embed.proj.weight")
    if patch is None or "blocks.0.attn.qkv.weight" not in state:
        some = ", ".join(list(state)[:3]) or "nothing"
        raise ValueError(
            f"{str(path)!r} is not of V-JEPA 1, 2, 2.1 or 2-AC, nor of I-JEPA: it holds {some}, ..."
        )
    table = state.get("pos_embed")
    has_table = table is not None and (patch.ndim == 4 or table.shape[1] not in _UNUSED_TABLES)
    try:
        if has_table:
            backbone, card = _of_table(state, options, path)
        else:
            crop_fraction = 1.0 if _has_actions(checkpoint) else CROP_FRACTION
            backbone, card = _of_rotary(state, options, path, crop_fraction)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{str(path)!r}: {message}") from None
    return PublishedEncoder(backbone, card, path.name.split(".")[0]).to(options.device)


def _of_rotary(
    state: Mapping[str, Tensor], options: EncoderOptions, path: Path, crop_fraction: float
) -> tuple[nn.Module, EncoderCard]:
    """V-JEPA 2, 2.1 and 2-AC; 2-AC keeps the whole central square, the others crop as in evaluation."""
    width = state["patch_embed.proj.weight"].shape[0]
    backbone = build_vjepa2(state, options.num_heads or _num_heads(_ROTARY_HEADS, width), path)
    sizes = backbone.config
    size = 384 if sizes.version == "2.1" or "384" in path.name else 256
    card = EncoderCard(
        family="vjepa2",
        architecture=asdict(sizes),
        preprocessing=Preprocessing(size, int(size / crop_fraction)),
        patch_size=sizes.patch_size,
        tubelet_size=sizes.tubelet_size,
        num_frames=options.num_frames or 64,
        token_width=width,
        depth=sizes.depth,
    )
    return backbone, card.chosen(options)


def _of_table(
    state: Mapping[str, Tensor], options: EncoderOptions, path: Path
) -> tuple[nn.Module, EncoderCard]:
    """V-JEPA 1 and I-JEPA."""
    width = state["patch_embed.proj.weight"].shape[0]
    num_heads = options.num_heads or _num_heads(_TABLE_HEADS, width)
    sizes = position_table_config(state, num_heads, options.num_frames or 16)
    size = sizes.grid_size * sizes.patch_size
    card = EncoderCard(
        family="position-table",
        architecture=asdict(sizes),
        preprocessing=Preprocessing(size, int(size / CROP_FRACTION)),
        patch_size=sizes.patch_size,
        tubelet_size=sizes.tubelet_size or 1,
        num_frames=sizes.num_tubelets * (sizes.tubelet_size or 1),
        token_width=width,
        depth=sizes.depth,
    ).chosen(options)
    backbone = PositionTableEncoder(sizes)
    load_weights(backbone, dict(state), path)
    return backbone, card


def _has_actions(checkpoint: Mapping[str, object]) -> bool:
    """Whether it is of V-JEPA 2-AC, whose predictor takes actions."""
    predictor = checkpoint.get("predictor")
    return isinstance(predictor, Mapping) and any("action_encoder" in str(name) for name in predictor)


def _num_heads(heads: Mapping[int, int], width: int) -> int:
    """Attention heads of the published size that has this width.

    Raises:
        ValueError: no published one has it.
    """
    if width not in heads:
        known = ", ".join(map(str, heads))
        raise ValueError(f"a width of {width} is no published one ({known}): give num_heads")
    return heads[width]
