"""Encoders of the transformers library: V-JEPA 2, DINOv2, DINOv3 and I-JEPA, from a folder or the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from .options import EncoderOptions
from .preprocessing import CROP_FRACTION, Preprocessing
from .published import EncoderCard, PublishedEncoder

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MODEL_TYPES = ("vjepa2", "dinov2", "dinov2_with_registers", "dinov3_vit", "ijepa")
"""`model_type` of the configurations that can be loaded."""

_PROCESSOR_FILES = ("video_preprocessor_config.json", "preprocessor_config.json")
_NEEDED = "needs transformers and huggingface-hub: pip install 'wm-plan[hf]'"


class TransformersTokens(nn.Module):
    """A model of the transformers library that gives its patch tokens."""

    def __init__(self, model: nn.Module, model_type: str) -> None:
        """Keep what is needed of `model`: V-JEPA 2's own predictor is let go."""
        super().__init__()
        self.is_video = model_type == "vjepa2"
        config: Any = model.config
        self.tubelet_size = int(config.tubelet_size) if self.is_video else 1
        # Class and register tokens stand before the patches.
        has_class = model_type.startswith("dino")
        self.num_prefix = int(has_class) + int(getattr(config, "num_register_tokens", 0) or 0)
        self.interpolates = model_type == "ijepa"
        if self.is_video:
            model.predictor = nn.Identity()
        self.model = model

    def forward(
        self, pixel_values: Float[Tensor, "batch frame 3 height width"], layers: tuple[int, ...] = ()
    ) -> list[Float[Tensor, "batch token dim"]]:
        """Outputs of the blocks `layers` (0 is the patch embedding), or of the whole model."""
        inner = {"output_hidden_states": True} if layers else {}
        if self.is_video:
            if pixel_values.shape[1] == 1:
                pixel_values = pixel_values.expand(-1, self.tubelet_size, -1, -1, -1)
            output = self.model(pixel_values, skip_predictor=True, **inner)
        else:
            if self.interpolates:
                inner["interpolate_pos_encoding"] = True
            output = self.model(pixel_values.squeeze(1), **inner)
        states = [output.hidden_states[index] for index in layers] if layers else [output.last_hidden_state]
        return [state[:, self.num_prefix :] for state in states]


def load_transformers(folder: str | Path, name: str, options: EncoderOptions) -> PublishedEncoder:
    """The model in a folder that `save_pretrained` wrote, or that the hub's files lie in.

    Raises:
        ValueError: transformers is missing, the folder is incomplete or damaged, its model is of another
            kind, a tensor does not fit, or an option does not apply.
    """
    folder = Path(folder)
    options.allow(name, "dtype", "image_size", "crop_fraction", "layers")
    settings = _json(folder / "config.json")
    model_type = settings.get("model_type")
    if model_type not in MODEL_TYPES:
        raise ValueError(
            f"{name!r} is a model of type {model_type!r}; encoders are of type: {', '.join(MODEL_TYPES)}"
        )
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{str(folder)!r} has no *.safetensors; other weights would have to be unpickled, "
            "which is not safe: save them as safetensors"
        )
    transformers = _transformers()
    with _quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            preprocessing = _preprocessing(folder, config).resized(options.image_size, options.crop_fraction)
            card = _card(config, preprocessing).chosen(options)
            config = _sized(config, preprocessing.image_size)
            model, report = transformers.AutoModel.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except (OSError, RuntimeError, SafetensorError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{name!r} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    _check(report, name)
    backbone = TransformersTokens(model, str(model_type))
    return PublishedEncoder(backbone, card, name).to(options.device)


def transformers_backbone(settings: Mapping[str, Any], image_size: int) -> TransformersTokens:
    """The module of these settings, its weights still to be loaded.

    Raises:
        ValueError: transformers is missing or does not know them.
    """
    transformers = _transformers()
    rest = dict(settings)
    model_type = str(rest.pop("model_type", None))
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type is {model_type!r}; encoders are of type: {', '.join(MODEL_TYPES)}")
    config = _sized(transformers.AutoConfig.for_model(model_type, **rest), image_size)
    return TransformersTokens(transformers.AutoModel.from_config(config), model_type)


def _card(config: PretrainedConfig, preprocessing: Preprocessing) -> EncoderCard:
    """What is to know of a model, from its configuration."""
    video = config.model_type == "vjepa2"
    return EncoderCard(
        family="transformers",
        architecture={**json.loads(config.to_json_string(use_diff=False)), "model_type": config.model_type},
        preprocessing=preprocessing,
        patch_size=int(config.patch_size),
        tubelet_size=int(config.tubelet_size) if video else 1,
        num_frames=int(config.frames_per_clip) if video else 1,
        token_width=int(config.hidden_size),
        depth=int(config.num_hidden_layers),
    )


def _sized(config: PretrainedConfig, image_size: int) -> PretrainedConfig:
    """The configuration for images of this size: V-JEPA 2 takes its rotary grid from there."""
    if config.model_type == "vjepa2":
        config.crop_size = image_size
    return config


def _preprocessing(folder: Path, config: PretrainedConfig) -> Preprocessing:
    """What the folder's processor file says; else what models of this type are published with."""
    path = next((folder / name for name in _PROCESSOR_FILES if (folder / name).is_file()), None)
    if path is None:
        size = {"vjepa2": getattr(config, "crop_size", 256)}.get(config.model_type, 224)
        dino2 = config.model_type.startswith("dinov2")
        squash = config.model_type == "dinov3_vit"
        resize = size if squash else int(size / CROP_FRACTION)
        return Preprocessing(size, resize, squash, "bicubic" if dino2 else "bilinear")
    found = _json(path)
    try:
        edge, crop = found.get("size") or {}, found.get("crop_size")
        crop = crop["height"] if isinstance(crop, dict) else crop
        edge = {"shortest_edge": edge} if isinstance(edge, int) else edge
        cropped = bool(found.get("do_center_crop", crop is not None))
        shortest = edge.get("shortest_edge")
        size = int(crop) if crop is not None and cropped else int(shortest or edge["height"])
        return Preprocessing(
            image_size=size,
            resize=int(shortest or (edge["height"] if cropped else size)),
            squash=not cropped and shortest is None,
            interpolation={2: "bilinear", 3: "bicubic"}.get(found.get("resample", 2), "bicubic"),
            mean=tuple(map(float, found["image_mean"])),
            std=tuple(map(float, found["image_std"])),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error!r}") from error


def _check(report: Mapping[str, Any], name: str) -> None:
    """Refuse a model some of whose tensors were not in the files: transformers would leave them random."""
    missing = [key for key in sorted(report.get("missing_keys", ())) if not _is_unused(key)]
    if missing:
        raise ValueError(f"{name!r} does not fit its config: tensor {missing[0]!r} is missing")
    if mismatched := sorted(str(entry) for entry in report.get("mismatched_keys", ())):
        raise ValueError(f"{name!r} does not fit its config: {mismatched[0]} is of another shape")


def _is_unused(key: str) -> bool:
    """Whether a tensor has no part in patch tokens."""
    return key.startswith(("predictor.", "pooler.")) or key.endswith("mask_token")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} is damaged: it holds no settings")
    return found


def _transformers() -> ModuleType:
    """The library.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError(f"This encoder {_NEEDED}") from None
    return transformers


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """No progress bars and no reports of tensors that are not needed, meanwhile."""
    logging = transformers.logging
    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
