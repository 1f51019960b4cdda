"""Build the control loop of a config: planner, objective and MPC around a world model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from wm_plan.planners import (
    MPC,
    ControlCost,
    Disagreement,
    GCBCPolicy,
    GoalDistance,
    LatentActions,
    PredictedReward,
    PriorProposals,
    RateCost,
    Stillness,
    TemporalDistance,
    Term,
    make_planner,
)
from wm_plan.planners.registry import PLANNERS

if TYPE_CHECKING:
    from wm_plan.configs.schema import ControllerConfig, ObjectiveConfig
    from wm_plan.world_model import CompactWorldModel, PolicyPrior, TokenWorldModel


def check_settings(config: DictConfig) -> None:
    """Check what can be checked without a model.

    Raises:
        ValueError: a setting out of its range.
    """
    OmegaConf.to_object(config)


def make_controller(
    model: CompactWorldModel | TokenWorldModel,
    config: ControllerConfig | DictConfig,
    *,
    seed: int | None = None,
) -> MPC:
    """Give the control loop that `config` describes; call `set_goal` and then `act`.

    Raises:
        ValueError: a setting out of its range.
    """
    settings: Any = OmegaConf.to_object(config) if isinstance(config, DictConfig) else config
    device = next(model.parameters()).device
    bounds = _bounds(model)
    latent_actions = latent_actions_of(model, settings) if settings.control.latent_actions else None
    searched = bounds if latent_actions is None else latent_actions.space
    planner = make_planner(planner_name(settings), searched, settings.planner, device=device)
    budget, num_prior = settings.control.budget_ms, settings.control.num_prior
    prior = None
    if num_prior:
        if num_prior >= settings.planner.num_samples:
            raise ValueError(
                f"control.num_prior={num_prior} is not allowed; give less than "
                f"planner.num_samples={settings.planner.num_samples}"
            )
        prior = PriorProposals(
            prior_of(model), model, bounds, horizon=planner.horizon, num_sequences=num_prior
        )
    return MPC(
        model,
        planner,
        make_objective(model, settings.objective),
        prior=prior,
        latent_actions=latent_actions,
        replan_every=settings.control.replan_every,
        action_block=model.metadata.action_block,
        budget=None if budget is None else budget / 1e3,
        on_surprise=settings.control.on_surprise,
        surprise_threshold=settings.control.surprise_threshold,
        holding=np.clip(0.0, model.action_low, model.action_high),
        seed=settings.seed if seed is None else seed,
    )


def _bounds(model: CompactWorldModel | TokenWorldModel) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest numbers of all actions of a model step."""
    block = model.metadata.action_block
    return np.tile(model.action_low, block), np.tile(model.action_high, block)


def make_gcbc(model: CompactWorldModel | TokenWorldModel) -> GCBCPolicy:
    """Give the policy prior beside a model as a policy of its own: `set_goal` and `act`, without any search.

    Raises:
        ValueError: there is no prior beside the model.
    """
    return GCBCPolicy(model, prior_of(model), _bounds(model), action_block=model.metadata.action_block)


def prior_of(model: CompactWorldModel | TokenWorldModel) -> PolicyPrior:
    """Load the policy prior that lies beside a model.

    Raises:
        ValueError: there is none, or it is another model's.
    """
    from wm_plan.world_model import load_prior
    from wm_plan.world_model.policy_prior import has_prior

    if model.folder is None or not has_prior(model.folder):
        raise ValueError(
            f"no policy prior lies beside the model in {str(model.folder)!r}. Train one: "
            "wm-train --data LOGS --out MODEL --only prior"
        )
    return load_prior(model.folder, model)


def latent_actions_of(model: CompactWorldModel | TokenWorldModel, config: ControllerConfig) -> LatentActions:
    """Load the action decoder that lies beside a model, for a planner to search what it decodes.

    Raises:
        ValueError: there is none, or it is another model's; or a setting that only actions can obey.
    """
    from wm_plan.world_model import load_action_decoder
    from wm_plan.world_model.action_decoder import has_action_decoder

    for name, given in (
        ("control.num_prior", config.control.num_prior),
        ("planner.rate_limit", config.planner.rate_limit),
    ):
        if given:
            raise ValueError(f"{name}={given} is not possible with control.latent_actions; give one of them")
    if model.folder is None or not has_action_decoder(model.folder):
        raise ValueError(
            f"no action decoder lies beside the model in {str(model.folder)!r}. Train one: "
            "wm-train --data LOGS --out MODEL --only action_decoder"
        )
    decoder = load_action_decoder(model.folder, model)
    return LatentActions(decoder, model, _bounds(model), decoder.latent_dim)


def make_objective(model: CompactWorldModel | TokenWorldModel, config: ObjectiveConfig) -> Term:
    """Add up the terms whose weight is not 0; the temporal distance only of a model that has learned one.

    Whitening, too, is for compact models alone: over tokens it is left out.

    Raises:
        ValueError: all weights are 0, or one is negative; or changes are not known that whitening needs.
    """
    steps_to_go = getattr(model, "temporal_distance", None)
    learned = {} if steps_to_go is None else {"temporal_distance": TemporalDistance(steps_to_go)}
    whitened = getattr(model, "change_scale", None) if config.whitening else None
    scale = None if whitened is None else whitened(config.whitening)
    terms: dict[str, Term] = {
        "goal_distance": GoalDistance(config.distance, config.reduce, config.discount, scale),
        **learned,
        "control_cost": ControlCost(),
        "rate_cost": RateCost(),
        "stillness": Stillness(),
        "disagreement": Disagreement(),
    }
    rewarded: Any = model if getattr(model, "reward", None) is not None else None
    if rewarded is not None:
        terms["predicted_reward"] = PredictedReward(rewarded.predicted_reward)
    elif config.predicted_reward:
        raise ValueError(
            "objective.predicted_reward needs a model with a reward head, and this one has none: train it "
            "with model.reward_width=128 on logs with a column 'reward'"
        )
    weighted: list[Term] = []
    for name, term in terms.items():
        weight = float(getattr(config, name))
        if not weight >= 0:
            raise ValueError(f"objective.{name}={weight} is not allowed; give 0 or more")
        if weight:
            weighted.append(weight * term)
    if not weighted:
        raise ValueError(
            f"all weights of the objective are 0; give one of {', '.join(terms)} a weight above 0"
        )
    total = weighted[0]
    for term in weighted[1:]:
        total = total + term
    return total


def planner_name(config: ControllerConfig | DictConfig) -> str:
    """Name the planner whose config this is."""
    given = config.planner
    config_class = OmegaConf.get_type(given) if OmegaConf.is_config(given) else type(given)
    return next(name for name, planner in PLANNERS.items() if planner.config_class is config_class)
