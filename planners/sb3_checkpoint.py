"""A Stable-Baselines3 checkpoint run without unpickling: the deterministic actor of an MLP policy.

`model.save("x.zip")` keeps weights (`policy.pth`, read with `torch.load(weights_only=True)`) beside pickled
objects, which are never touched. What the weights do not say is read from the JSON's plain text.
"""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

_MAX_BYTES = 2**30
_ACTORS = {
    # prefix of the hidden layers, the last layer (None: it is among them), squashed?, activation by default
    "PPO, A2C": ("mlp_extractor.policy_net.", "action_net.", False, "Tanh"),
    "SAC": ("actor.latent_pi.", "actor.mu.", True, "ReLU"),
    "TD3, DDPG": ("actor.mu.", None, True, "ReLU"),
}
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "LeakyReLU": nn.LeakyReLU,
}


class SB3Policy:
    """The mean action of a PPO, A2C, SAC, TD3 or DDPG checkpoint with an `MlpPolicy`, from proprio.

    Args:
        path: the `.zip` that SB3's `save` made.
        action_low: (A,) of the environment that it acts in now; its actions are scaled as SB3 does.
        action_high: (A,)

    Raises:
        ValueError: the file is none such, is damaged, needs a kind of network that is not known here, or has
            another number of actions.
    """

    def __init__(
        self,
        path: str | Path,
        action_low: Float[np.ndarray, " action"],
        action_high: Float[np.ndarray, " action"],
    ) -> None:
        self.path = Path(path)
        settings, tensors = _read(self.path)
        if settings.get("use_sde"):
            raise ValueError(f"{self.path} was trained with state-dependent exploration, which is not read")
        kind = next((name for name, (hidden, *_) in _ACTORS.items() if _layers(tensors, hidden)), None)
        if kind is None:
            raise ValueError(
                f"{self.path} holds no actor that is known here: PPO, A2C, SAC, TD3, DDPG with an MlpPolicy"
            )
        hidden, last, self._squashed, activation = _ACTORS[kind]
        layers = _layers(tensors, hidden) + ([] if last is None else [_layer(tensors, last)])
        if any(name.startswith(("features_extractor.", "actor.features_extractor.")) for name in tensors):
            raise ValueError(
                f"{self.path} has a features extractor of its own; only flat observations are read"
            )
        self._network = _perceptron(layers, _activation(settings, activation, self.path)).requires_grad_(
            False
        )
        self.num_inputs, self.num_actions = layers[0][0].shape[1], layers[-1][0].shape[0]
        self._low, self._high = np.asarray(action_low, np.float32), np.asarray(action_high, np.float32)
        if self._low.shape != (self.num_actions,):
            raise ValueError(f"{self.path} gives {self.num_actions} actions; the env takes {self._low.size}")

    @torch.no_grad()
    def act(self, proprio: Float[np.ndarray, " proprio"]) -> Float32[np.ndarray, " action"]:
        """The action to take now, inside the bounds.

        Raises:
            ValueError: the policy was trained on another number of inputs.
        """
        if proprio.shape != (self.num_inputs,):
            raise ValueError(
                f"{self.path} was trained on {self.num_inputs} numbers; the env's proprio has "
                f"{proprio.size}. Use the env that it was trained in, with its own observations"
            )
        mean = self._network(torch.from_numpy(np.asarray(proprio, np.float32))).numpy()
        if self._squashed:
            mean = self._low + 0.5 * (np.tanh(mean) + 1.0) * (self._high - self._low)
        return np.clip(mean, self._low, self._high).astype(np.float32)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON settings, as text, and the weights."""
    if not path.is_file():
        raise ValueError(f"no SB3 checkpoint {str(path)!r}: there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            if max(info.file_size for info in archive.infolist()) > _MAX_BYTES:
                raise ValueError(f"{path} holds a file of more than 1 GiB")
            settings = json.loads(archive.read("data"))
            with archive.open("policy.pth") as file:
                tensors = torch.load(file, map_location="cpu", weights_only=True)
    except ValueError:
        raise
    except Exception as error:  # zip, JSON and torch fail in many ways
        raise ValueError(f"{path} is damaged or no SB3 checkpoint (.zip): {error}") from error
    if not isinstance(settings, dict) or not isinstance(tensors, dict):
        raise ValueError(f"{path} is no SB3 checkpoint")
    return settings, {name: value for name, value in tensors.items() if isinstance(value, Tensor)}


def _layer(tensors: dict[str, Tensor], prefix: str) -> tuple[Tensor, Tensor]:
    weight, bias = (tensors.get(f"{prefix}{part}") for part in ("weight", "bias"))
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ValueError(f"the checkpoint's layer {prefix} is none of a perceptron")
    return weight.float(), bias.float()


def _layers(tensors: dict[str, Tensor], prefix: str) -> list[tuple[Tensor, Tensor]]:
    """The linear layers `prefix0.weight`, `prefix2.weight`, ..., in order."""
    found = sorted(
        int(match[1])
        for name in tensors
        if (match := re.fullmatch(re.escape(prefix) + r"(\d+)\.weight", name))
    )
    return [_layer(tensors, f"{prefix}{number}.") for number in found]


def _perceptron(layers: list[tuple[Tensor, Tensor]], activation: type[nn.Module]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for weight, bias in layers:
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": bias})
        parts += [linear, activation()]
    return nn.Sequential(*parts[:-1])


def _activation(settings: dict[str, Any], default: str, path: Path) -> type[nn.Module]:
    """The activation that the settings name, in the text beside what is pickled."""
    kwargs = settings.get("policy_kwargs")
    said = str(kwargs.get("activation_fn", "")) if isinstance(kwargs, dict) else ""
    name = said.rstrip("'>").rpartition(".")[2] if said else default
    if name not in _ACTIVATIONS:
        raise ValueError(f"{path} uses the activation {name!r}; known are {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]
