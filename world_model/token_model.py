"""World models over patch tokens: a frozen encoder with a V-JEPA 2-AC or DINO-WM predictor."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .dino_wm import DinoWMConfig, DinoWMPredictor
from .encoder import Encoder, Frames, load_encoder
from .familiarity import FrozenEncoderModel
from .metadata import ModelMetadata
from .pose import gripper_action
from .token_predictor import TokenPredictor
from .vjepa2_ac import NextState, VJEPA2ACConfig, VJEPA2ACPredictor, normed
from .weights_io import CONFIG_NAME, load_folder, load_weights, save_folder

PredictorConfig = VJEPA2ACConfig | DinoWMConfig
FAMILIES: dict[str, tuple[type[PredictorConfig], type[TokenPredictor]]] = {
    "vjepa2_ac": (VJEPA2ACConfig, VJEPA2ACPredictor),
    "dino_wm": (DinoWMConfig, DinoWMPredictor),
}


class TokenWorldModel(FrozenEncoderModel):
    """A frozen encoder and a predictor over its tokens, behind the `WorldModel` protocol.

    A latent is the layer-normed tokens (P, D) of one frame, each frame encoded by itself as a still clip.

    Attributes:
        uses_past: asks the control loop for past actions and proprio, which latents do not hold.
        cache_bytes: what the keys and values of candidates may take; they are imagined in as many parts as
            that needs. Parts that fit the processor's cache are also the faster ones.
        last_cache_bytes: what the largest part of the last rollout took.
    """

    uses_past = True

    def __init__(
        self, encoder: Encoder, predictor: TokenPredictor, metadata: ModelMetadata, *, history: int = 1
    ) -> None:
        """Join them.

        Raises:
            ValueError: the predictor is for other tokens or actions, or its sequences are too short.
        """
        super().__init__(encoder, metadata)
        shape = (encoder.grid_size, encoder.width)
        if (predictor.grid_size, predictor.token_dim) != shape:
            raise ValueError(
                f"the predictor is for a grid of {predictor.grid_size} and tokens of {predictor.token_dim}; "
                f"the encoder {encoder.name!r} gives {shape[0]} and {shape[1]}"
            )
        if len(metadata.action_low) != len(predictor.action_offset):
            raise ValueError(
                f"the predictor takes {len(predictor.action_offset)} actions, not {len(metadata.action_low)}"
            )
        if not 1 <= history <= predictor.max_steps:
            raise ValueError(f"history={history} is not allowed; give 1 to {predictor.max_steps}")
        self.predictor = predictor
        self.history = history
        self.cache_bytes = 256 * 2**20
        self.last_cache_bytes = 0

    @property
    def family(self) -> str:
        """Name of the predictor's kind."""
        return next(name for name, (_, kind) in FAMILIES.items() if type(self.predictor) is kind)

    def encode(
        self, frames: Frames, proprio: Float[Tensor, "batch step proprio"] | None = None
    ) -> Float[Tensor, "batch step token dim"]:
        """Tokens of frames (B, T, H, W, 3) uint8 of any size, each on its own; proprio goes to `rollout`."""
        del proprio
        batch, steps = frames.shape[:2]
        pixel_values = self.encoder.preprocess(frames).flatten(0, 1).unsqueeze(1)
        with torch.no_grad():
            return normed(self.encoder(pixel_values)).unflatten(0, (batch, steps))

    def rollout(
        self,
        context: Float[Tensor, "batch step token dim"],
        actions: Float[Tensor, "batch candidate horizon action"],
        past_actions: Float[Tensor, "batch past action"] | None = None,
        proprio: Float[Tensor, "batch step proprio"] | None = None,
    ) -> Float[Tensor, "batch candidate horizon token dim"]:
        """Imagine the tokens that follow `context` under `actions` in env units; the context is not returned.

        The context is computed once a row, whatever the number of candidates.

        Args:
            context: of `history` frames or fewer; of more, the last count.
            actions: inside the action space.
            past_actions: between the frames of the context. What is not given, or NaN, follows from the poses
                if actions are changes of pose, and else is taken for the mean action.
            proprio: of the context's frames.

        Raises:
            ValueError: the predictor needs proprio and there is none; or context and plan are too long.
        """
        predictor, steps = self.predictor, min(context.shape[1], self.history)
        context = context[:, -steps:]
        if predictor.state_dim and (proprio is None or proprio.shape[-1] != predictor.state_dim):
            found = "none was given" if proprio is None else f"{proprio.shape[-1]} were given"
            raise ValueError(
                f"this model needs {predictor.state_dim} numbers of proprio with each frame, {found}; "
                "put them into the observation as 'proprio'"
            )
        states = None
        if predictor.state_dim:
            assert proprio is not None
            states = proprio[:, -steps:].to(context)
        past = self._past_actions(past_actions, states, len(context), steps)
        parts, largest = [], 0
        for part in actions.split(self._candidates_at_once(actions.shape[0], actions.shape[2]), dim=1):
            imagined, taken = predictor.imagine(context, past, states, part)
            parts.append(imagined)
            largest = max(largest, taken)
        self.last_cache_bytes = largest
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _past_actions(
        self, given: Tensor | None, states: Tensor | None, batch: int, steps: int
    ) -> Float[Tensor, "batch past action"]:
        """The actions between `steps` frames, with a substitute for those that nobody knows."""
        likely = self.predictor.action_offset.expand(batch, steps - 1, -1)
        config = self.predictor.config
        if states is not None and isinstance(config, VJEPA2ACConfig):
            if config.next_state is NextState.gripper:
                likely = gripper_action(states[:, :-1], states[:, 1:])
            elif config.next_state is NextState.add:
                likely = states[:, 1:] - states[:, :-1]
        if given is None:
            return likely
        given = given[:, given.shape[1] - (steps - 1) :].to(likely)
        return torch.where(given.isnan(), likely, given)

    def _candidates_at_once(self, rows: int, horizon: int) -> int:
        """As many of each row's candidates as `cache_bytes` hold, at least one."""
        element = self.predictor.action_offset.element_size()
        per_candidate = self.predictor.cache_numbers_per_step() * horizon * element
        return max(1, self.cache_bytes // (rows * per_candidate))

    def reached(
        self, latent: Float[Tensor, "batch token dim"], goal: Float[Tensor, "batch token dim"]
    ) -> Bool[Tensor, " batch"]:
        """Whether latents are as near to the goal's as held-out pairs inside the task's tolerance are."""
        return (latent - goal).square().sum(dim=(1, 2)) <= self.metadata.reach_threshold

    def save(self, folder: str | Path, *, with_encoder: bool = True) -> None:
        """Write the model into `folder`, its encoder beside it unless it ships with the package.

        Args:
            folder: made if missing; files of the same names are replaced.
            with_encoder: copy the encoder into `folder/encoder`, so that the checkpoint stands alone.
        """
        folder = Path(folder)
        if with_encoder:
            self.encoder.save(folder / "encoder")
        config = {
            "family": self.family,
            "predictor": asdict(self.predictor.config),
            "history": self.history,
            "metadata": asdict(self.metadata),
            "encoder": {
                "name": "encoder" if with_encoder else self.encoder.name,
                "inside": with_encoder,
                "fingerprint": self.encoder.fingerprint,
            },
        }
        tensors = {k: v for k, v in self.state_dict().items() if not k.startswith("encoder.")}
        save_folder(folder, "world-model", config, tensors)

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str = "cpu", encoder: Encoder | None = None
    ) -> TokenWorldModel:
        """Read what `save` wrote.

        Args:
            folder: the checkpoint.
            device: where it computes.
            encoder: use this instance; it must be the one trained with.

        Raises:
            ValueError: missing, damaged, of another kind, or its encoder is not the one it was trained with.
        """
        folder = Path(folder)
        config, tensors = load_folder(folder, "world-model")
        try:
            entry, family = config["encoder"], config["family"]
            config_class, predictor_class = FAMILIES[family]
            sizes = dict(config["predictor"])
            if "next_state" in sizes:
                sizes["next_state"] = NextState(sizes["next_state"])
            predictor = predictor_class(config_class(**sizes))
            metadata, history = ModelMetadata.from_json(config["metadata"]), int(config["history"])
            source = folder / "encoder" if entry["inside"] else str(entry["name"])
            fingerprint = str(entry["fingerprint"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{str(folder)!r} has a damaged config: {error!r}") from error
        encoder = encoder or load_encoder(source)
        if encoder.fingerprint != fingerprint:
            raise ValueError(f"{str(folder)!r} was trained over another encoder than {encoder.name!r}")
        model = cls(encoder, predictor, metadata, history=history)
        own = {name: t for name, t in model.state_dict().items() if name.startswith("encoder.")}
        load_weights(model, {**own, **tensors}, folder)
        model.folder = folder
        return model.to(device).eval().requires_grad_(False)


def family_of(folder: str | Path) -> str:
    """Which kind of world model a folder says that it holds: one of `FAMILIES`, or "compact".

    Whether it really does is for the kind's own `load` to find out.
    """
    try:
        config: Any = json.loads((Path(folder) / CONFIG_NAME).read_text(encoding="utf-8"))
        return str(config["family"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "compact"
