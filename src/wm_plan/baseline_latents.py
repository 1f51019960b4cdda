"""What a baseline on latents sees, and the loop that it acts in: the planner's own, without the search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from wm_plan.envs import TaskEnv
from wm_plan.envs.task import State
from wm_plan.planners.gcbc import GCBCPolicy
from wm_plan.planners.rl import RLPolicy, RLPolicyConfig
from wm_plan.world_model import CompactWorldModel, load_model, predictor_names
from wm_plan.world_model.logged_latents import latent_fingerprint

from .planning import find_model


class LatentSenses:
    """The latent of the frame, and its change since the last look; a goal is the latent of its picture.

    Of a model that takes proprio, this is part of the latent, though not of a goal's. Every look draws and
    encodes one frame. Hindsight goals cost nothing: what was seen is what was achieved.
    """

    def __init__(self, task: TaskEnv, model: CompactWorldModel) -> None:
        self.model = model
        self._task = task
        self._before = np.zeros(0, np.float32)
        self.num_goal = model.config.latent_dim
        self.num_felt = model.metadata.proprio_dim
        self.num_features = 2 * (self.num_goal + self.num_felt)

    def goal(self, state: State) -> Float32[np.ndarray, " goal"]:
        """The latent of the picture of `state`."""
        return self._latent(self._task.render_goal(state))[: self.num_goal]

    def look(self, first: bool) -> tuple[Float32[np.ndarray, " feature"], Float32[np.ndarray, " goal"]]:
        """The latent of the present and its change, which is 0 at first; and what the latent shows alone."""
        felt = self._task.proprio(self._task.get_state()) if self.num_felt else None
        latent = self._latent(self._task.render(), felt)
        change = np.zeros_like(latent) if first else latent - self._before
        self._before = latent
        return np.concatenate([latent, change]), latent[: self.num_goal]

    def _latent(self, pixels: np.ndarray, felt: np.ndarray | None = None) -> Float32[np.ndarray, " latent"]:
        proprio = None if felt is None else torch.from_numpy(felt)[None, None]
        return self.model.encode(torch.from_numpy(pixels)[None, None], proprio)[0, 0].float().cpu().numpy()


def load_latent_model(env_name: str, model: str | Path | None) -> tuple[CompactWorldModel, str, str]:
    """A world model whose latents a baseline can learn from, where it came from, and their fingerprint.

    Args:
        env_name: the task.
        model: a folder, or a task's name for the shipped one; that of `env_name` when None.

    Raises:
        ValueError: there is none, its latents are no vectors of one camera's frame, or it is of another task.
    """
    found = find_model(env_name, model)
    loaded = load_model(found)
    if not isinstance(loaded, CompactWorldModel) or len(loaded.views) > 1:
        raise ValueError(
            f"the world model {str(found)!r} has no latents for a baseline, which takes one vector from one "
            "camera. Use a compact model (wm-train's default) of one view"
        )
    if loaded.env_name != env_name:
        raise ValueError(
            f"the world model {str(found)!r} was trained on {loaded.env_name!r}, not on {env_name!r}"
        )
    return loaded, str(found), latent_fingerprint(loaded)


def latent_controller(policy: RLPolicy, model: CompactWorldModel | None = None) -> GCBCPolicy:
    """The control loop of a policy on latents: `set_goal(image)`, then `act(observation)` once an env step.

    Args:
        model: the one that it was trained with, where it is loaded already.

    Raises:
        ValueError: its world model is gone, or gives other latents by now.
    """
    model = model or _model_of(policy.config)
    return GCBCPolicy(model, policy.from_latents, (model.action_low, model.action_high))


def _model_of(config: RLPolicyConfig) -> CompactWorldModel:
    """The world model that a policy was trained with: where it lay, or the shipped one if it is that."""
    for source in dict.fromkeys((config.model, config.env_name)):
        if source in predictor_names() or Path(source).is_dir():
            model, _, fingerprint = load_latent_model(config.env_name, source)
            if fingerprint == config.latents:
                return model
    raise ValueError(
        f"the policy was trained on the latents of {config.model!r}, which is not there or gives others "
        "by now. Put that world model back, or train the policy anew: wm-baseline --observation latent"
    )
