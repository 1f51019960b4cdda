"""The run to a goal and its judge, on a plane whose world model is exact."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from tests.worlds import PointWorld, picture
from wm_plan.planners import CEM, MPC, GoalDistance
from wm_plan.planning import HELD_STEPS, Goal, PlanResult, check_fits, find_goal, percentiles, run_to_goal

TOLERANCE = 0.05


class PlaneModel(PointWorld):
    """An exact model of the plane: 1 cm counts as reached, beyond 1.5 m is unfamiliar."""

    env_name = "plane"
    action_low, action_high = -np.ones(2, np.float32), np.ones(2, np.float32)

    def reached(self, latent, goal):
        return (latent - goal).square().sum(-1) <= 0.01**2

    def unfamiliarity(self, frames):
        return self.encode(frames)[:, 0].norm(dim=-1) / 1.5


@dataclass
class PlaneTask:
    """A point on a plane, as the run to a goal sees a task."""

    frame_skip: int = 2
    name: str = "plane"
    far_budget: int = 40
    ended: bool = False
    position: np.ndarray = field(default_factory=lambda: np.zeros(2))
    action_space: Box = field(default_factory=lambda: Box(-1, 1, (2,), np.float32))

    def reset(self, seed=None, options=None):
        self.position = np.array(options["state"][:2] if options else [0.0, 0.0])
        return self._observe()

    def step(self, action):
        self.position = self.position + 0.2 / self.frame_skip * np.asarray(action)
        observation, info = self._observe()
        return observation, 0.0, False, False, info

    def error(self, state, goal_state):
        return np.abs(state[:2] - goal_state[:2]).max() / TOLERANCE

    def parse_goal(self, text):
        return np.array([*map(float, text.split(",")), 0.0, 0.0])

    def render_goal(self, state):
        return picture(state[:2])

    def _observe(self):
        state = np.concatenate([self.position, np.zeros(2)])
        return {"pixels": picture(self.position)}, {"state": state}


def run(goal=(0.5, -0.3), *, by_state=True, start=None, **options) -> PlanResult:
    task = PlaneTask()
    planner = CEM(task.action_space, horizon=4, num_samples=64, num_iterations=4, num_elites=8)
    controller = MPC(PlaneModel(frame_skip=task.frame_skip), planner, GoalDistance("l2", "sum"))
    known = np.array([*goal, 0.0, 0.0])
    begin = None if start is None else np.array([*start, 0.0, 0.0])
    return run_to_goal(
        task, controller, Goal(picture(goal), known if by_state else None), start=begin, **options
    )


def test_it_stops_as_soon_as_the_goal_is_reached_and_held() -> None:
    result = run()
    errors = np.array(result.errors)
    assert result.reached
    assert result.held
    assert result.first_reached == int(np.argmax(errors <= 1))
    assert (errors[-HELD_STEPS:] <= 2).all()
    assert (errors[-HELD_STEPS - 1 : -1] > 2).any() or result.first_reached == result.steps
    assert result.steps < PlaneTask().far_budget


def test_a_goal_at_the_start_is_reached_at_step_0_and_held_after_ten() -> None:
    result = run((0.0, 0.0))
    assert (result.first_reached, result.steps, result.held) == (0, HELD_STEPS, True)


def test_without_time_it_is_not_reached_and_all_lists_fit() -> None:
    seen = []
    result = run((1.4, 1.4), max_steps=5, on_step=seen.append)
    assert (result.reached, result.held, result.first_reached, result.steps) == (False, False, None, 5)
    assert len(result.actions) == 5
    assert len(result.costs) == len(result.errors) == len(result.states) == len(result.frames) == 6
    assert [step.index for step in seen] == [0, 1, 2, 3, 4, 5]
    assert len(result.plan_ms) == len(result.encode_ms) == 3  # at env steps 0, 2 and 4
    assert [step.plan_ms > 0 for step in seen] == [True, False, True, False, True, False]


def test_reached_is_not_held_when_time_ends_first() -> None:
    result = run((0.1, 0.0), max_steps=4)
    assert result.reached
    assert not result.held
    assert result.steps == 4


def test_costs_are_squared_latent_distances_of_the_states_passed() -> None:
    result = run((0.5, -0.3), max_steps=6)
    distances = [((state[:2] - [0.5, -0.3]) ** 2).sum() for state in result.states]
    np.testing.assert_allclose(result.costs, distances, atol=1e-3)


def test_a_goal_known_only_as_a_picture_is_judged_by_the_model() -> None:
    result = run(by_state=False)
    assert result.reached_by == "latent"
    assert result.errors is None
    assert result.reached
    assert result.costs[result.first_reached] <= 0.01**2
    assert min(result.costs[: result.first_reached]) > 0.01**2


def test_unfamiliar_goals_and_starts_are_named() -> None:
    assert run(max_steps=1).warnings == []
    far = run((1.9, 1.0), start=(-1.9, 0.0), max_steps=1).warnings
    assert [line.split(" looks")[0] for line in far] == ["the goal", "the start"]


def test_the_same_seed_gives_the_same_run() -> None:
    first, again, other = (run(max_steps=6, seed=seed).actions for seed in (4, 4, 5))
    assert first == again != other


def test_the_start_is_where_it_was_put() -> None:
    np.testing.assert_allclose(run(start=(0.3, 0.4), max_steps=1).states[0][:2], [0.3, 0.4])


def test_no_time_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_steps=0 is not allowed; give 1 or more"):
        run(max_steps=0)


def test_a_picture_plans_and_a_position_judges_when_both_are_given() -> None:
    task = PlaneTask()
    shown = picture((0.2, 0.2))
    goal = find_goal(task, shown, "0.5,0.5")
    np.testing.assert_array_equal(goal.image, shown)
    np.testing.assert_allclose(goal.state[:2], [0.5, 0.5])
    np.testing.assert_array_equal(find_goal(task, None, "0.5,0.5").image, picture((0.5, 0.5)))
    with pytest.raises(ValueError, match="no goal was given"):
        find_goal(task)


def test_a_model_of_another_task_is_refused() -> None:
    task = PlaneTask(action_space=Box(-2, 2, (2,), np.float32))
    controller = MPC(PlaneModel(), CEM(task.action_space), GoalDistance())
    with pytest.raises(ValueError, match=r"trained on 'plane', with actions \[-1.0, -1.0\] to \[1.0, 1.0\]"):
        check_fits(task, controller)


def test_results_fit_into_json() -> None:
    from wm_plan.commands.front import as_json

    values = as_json(run(max_steps=2).as_json(num_positions=2))
    assert values["final_state"].keys() == {"qpos", "qvel"}
    assert values["goal_state"] == {"qpos": [0.5, -0.3], "qvel": [0.0, 0.0]}


def test_percentiles_of_nothing_are_none() -> None:
    assert percentiles([], 50) == {"p50": None}
    assert percentiles([1.0, 3.0], 50, 100) == {"p50": 2.0, "p100": 3.0}


def test_torch_is_not_seeded_globally() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    run(max_steps=2)
    assert torch.equal(before, torch.random.get_rng_state())
