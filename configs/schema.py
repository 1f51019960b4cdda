"""The dataclass schemas of the commands; a default lives here or beside the class that it configures."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from wm_plan.planners.caution import DEFAULT_THRESHOLD, OnSurprise
from wm_plan.planners.objectives import Distance, Reduce
from wm_plan.planners.shooting import ShootingConfig
from wm_plan.world_model.offline_measures import OfflineConfig


@dataclass
class ObjectiveConfig:
    """Weights of the terms that a plan's cost adds up; a weight of 0 leaves a term out."""

    goal_distance: float = 1.0
    distance: Distance = Distance.l2
    reduce: Reduce = Reduce.sum
    discount: float = 0.95
    """Weight of a step relative to the one before, for `reduce=discounted`."""
    whitening: float = 0.0
    """Power with which the goal distance counts what changes slowly more: 0 takes latents as they are, with 1
    all directions change alike within five model steps of the logs."""
    temporal_distance: float = 20.0
    """Per model step that the model believes is still to go at the end of the plan."""
    control_cost: float = 0.0
    rate_cost: float = 0.0
    stillness: float = 0.0
    disagreement: float = 0.0
    """Of an ensemble's members, in squared latent units."""
    predicted_reward: float = 0.0
    """Per unit of reward that a model with a reward head believes the plan to bring."""


@dataclass
class ControlConfig:
    """How the control loop uses its planner."""

    replan_every: int = 1
    """Model steps executed of each plan."""
    budget_ms: float | None = None
    """Milliseconds that a plan may take; null sets no limit, and only then a seed gives the same actions."""
    on_surprise: OnSurprise = OnSurprise.ignore
    """What is done while surprise is above the threshold: ignore, slow, hold or stop."""
    surprise_threshold: float = DEFAULT_THRESHOLD
    """Part of held-out moments that are less surprising."""
    num_prior: int = 0
    """Candidates of a plan's first iteration that the model's policy prior proposes; 0 asks for none."""
    latent_actions: bool = False
    """Search what the model's action decoder has learned that the logs do, not actions themselves."""

    def __post_init__(self) -> None:
        """Check what can be checked without the planner.

        Raises:
            ValueError: naming what was given and what is allowed.
        """
        check_minimum(self, num_prior=0)


@dataclass
class ControllerConfig:
    """A task, a world model and the control loop around it, for one run or for many."""

    env: str = MISSING
    """The task; its preset in `configs/task` sets it."""
    camera: str | None = None
    """Whose view is shown to the model; null is the camera of the model's logs."""
    model: str | None = None
    """Folder of a predictor (wm-eval: several, parted by commas); null is the shipped one of the task."""
    planner: ShootingConfig = MISSING
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    seed: int = 0
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        """Check what can be checked without the task and the model.

        Raises:
            ValueError: naming what was given and what is allowed.
        """
        check_minimum(self, threads=1, seed=0)


@dataclass
class PlanConfig(ControllerConfig):
    """One run to one goal: what wm-plan composes."""

    goal: str | None = None
    """Picture of the goal."""
    goal_state: str | None = None
    """Position of the goal, as in "0.3,-1.2": the tolerance judges; drawn if `goal` is null."""
    start_state: str | None = None
    """Position at the start; null is where the task's reset puts it."""
    max_steps: int | None = None
    """Env steps; null is what the task allows for far goals."""
    landscape: bool = False
    """Also draw the first plan: the cost around it, and what the search tried."""

    def __post_init__(self) -> None:
        """Check what can be checked without the task and the model.

        Raises:
            ValueError: naming what was given and what is allowed.
        """
        super().__post_init__()
        check_minimum(self, max_steps=1)


@dataclass
class PhysicsConfig:
    """What the true-physics planner changes of the planner's settings: MuJoCo costs more than a predictor."""

    num_samples: int = 64
    """Candidates an iteration; elites, where there are any, keep their share."""
    num_iterations: int = 4

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            ValueError: naming what was given and what is allowed.
        """
        check_minimum(self, num_samples=1, num_iterations=1)


class GoalLook(StrEnum):
    """How goal pictures are drawn."""

    plain = "plain"
    """As logs are."""
    default = "default"
    """As the simulator does when nobody changes a setting: shadows on, the task's own target visible."""


class RobustGoals(StrEnum):
    """How the trials of the robust protocol are drawn."""

    near = "near"
    far = "far"


@dataclass
class EvalConfig(ControllerConfig):
    """Many episodes of several policies: what wm-eval composes."""

    protocols: list[str] = field(default_factory=lambda: ["near"])
    """near, far, robust."""
    changes: list[str] = field(default_factory=list)
    """Of the robust protocol, names in `wm_plan.evaluation.changes.CHANGES`; none is all of them."""
    robust_goals: RobustGoals = RobustGoals.far
    """Far goals must be steered to all the way and held; near ones are quick, some are met by drifting."""
    policies: list[str] = field(default_factory=lambda: ["planner", "random", "hold"])
    """Names in `wm_plan.evaluation.contestants.POLICIES`: all on the same starts and goals."""
    episodes: int = 100
    batch_size: int = 25
    """Episodes planned together, and resumed as a whole; it decides no outcome, but for rounding."""
    workers: int = 1
    """Processes; each has `threads` threads."""
    plans_timed: int = 100
    """Replans of one environment alone, of which a row gives the times; 0 takes none."""
    goal_look: GoalLook = GoalLook.plain
    goal_size: int | None = None
    """Height and width of goal pictures [px]; null is as observations have it."""
    report: bool = True
    """Also write report.html, and record what it shows."""
    videos: int = 2
    """Successes that the report shows of each policy, and failures."""
    physics: PhysicsConfig = field(default_factory=PhysicsConfig)
    rl: str | None = None
    """Folders of RL baselines, parted by commas; null is the shipped one of the task."""
    data: list[str] = field(default_factory=list)
    """Logged trajectories: models are measured on them, without any simulator."""
    columns: str = ""
    """Which of their columns are taken for what, as wm-data's --columns; found out where it says nothing."""
    offline: OfflineConfig = field(default_factory=OfflineConfig)
    """How much is measured on them."""

    def __post_init__(self) -> None:
        """Check what can be checked without the task and the model.

        Raises:
            ValueError: naming what was given and what is allowed.
        """
        super().__post_init__()
        check_minimum(self, episodes=1, batch_size=1, plans_timed=0, workers=1, videos=0)
        if not self.protocols or not self.policies:
            raise ValueError(
                "protocols and policies must name at least one each; give --protocol and --policy"
            )


def check_minimum(config: object, **least: int) -> None:
    """Raise ValueError unless each named number is null or at least as large as given."""
    for name, minimum in least.items():
        value = getattr(config, name)
        if value is not None and value < minimum:
            raise ValueError(f"{name}={value} is not allowed; give {minimum} or more")


def register_schema(name: str) -> None:
    """Make the schema of the config `name` known to hydra, as `<name>_schema`.

    Raises:
        ValueError: there is no such config.
    """
    store = ConfigStore.instance()
    match name:
        case "plan":
            store.store(name="plan_schema", node=PlanConfig)
        case "eval":
            store.store(name="eval_schema", node=EvalConfig)
        case "pretrain":
            from .training import PretrainRun

            store.store(name="pretrain_schema", node=PretrainRun)
        case "train":
            from .training import TrainRun

            store.store(name="train_schema", node=TrainRun)
        case _:
            raise ValueError(f"Unknown config {name!r}. Known configs: plan, eval, pretrain, train")
    _register_planners(store)


def _register_planners(store: ConfigStore) -> None:
    """Offer every planner as a choice of the group `planner`."""
    from wm_plan.planners.registry import PLANNERS

    for name, planner in PLANNERS.items():
        store.store(group="planner", name=name, node=planner.config_class)
