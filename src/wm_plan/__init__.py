"""Plan robot actions to a goal image with a frozen video encoder and a small action-conditioned world model.

Three calls are the front door; everything else is in `wm_plan.envs`, `wm_plan.planners`,
`wm_plan.world_model` and `wm_plan.evaluation`. Names load when they are first used, so that
`import wm_plan` is free of torch and mujoco.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .planning import PlanResult, load, make_env, plan

__all__ = ["PlanResult", "__version__", "load", "make_env", "plan"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in __all__:
        from . import planning

        return getattr(planning, name)
    raise AttributeError(f"module 'wm_plan' has no attribute {name!r}. Public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
