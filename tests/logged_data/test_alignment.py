"""The lag between actions and frames: right in worlds of many kinds, silent where nothing can be told."""

import numpy as np
import pytest

from wm_plan.data.alignment import Alignment, AlignmentMeter


def simulate(rng: np.random.Generator, kind: str, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """How much the picture changes, and the actions, of one episode of a robot of some kind."""
    noise = rng.standard_normal((num_steps, 2))
    actions = np.zeros((num_steps, 2))
    position, velocity = rng.uniform(-1, 1, 2), np.zeros(2)
    positions = [position]
    goal = rng.uniform(-1, 1, 2)
    for step in range(num_steps):
        smooth = 0.8 * actions[step - 1] + 0.6 * noise[step] if step else noise[step]
        match kind:
            case "velocity":
                actions[step] = noise[step]
                position = position + 0.1 * actions[step]
            case "smooth velocity":
                actions[step] = smooth
                position = position + 0.1 * actions[step]
            case "torque":
                actions[step] = smooth
                velocity = 0.9 * velocity + 0.1 * actions[step]
                position = position + 0.1 * velocity
            case "feedback":  # a servo that sees where it is, brakes, and explores
                if step % 25 == 0:
                    goal = rng.uniform(-1, 1, 2)
                actions[step] = np.clip(4 * (goal - position) - 2 * velocity, -1, 1) + 0.2 * noise[step]
                velocity = 0.9 * velocity + 0.1 * actions[step]
                position = position + 0.1 * velocity
            case "held":
                actions[step] = noise[step] if step % 4 == 0 else actions[step - 1]
                position = position + 0.1 * actions[step]
            case "held torque":
                actions[step] = noise[step] if step % 4 == 0 else actions[step - 1]
                velocity = 0.7 * velocity + 0.3 * actions[step]
                position = position + 0.1 * velocity
            case "position":  # the action is where to go, and most of the way is made in one step
                actions[step] = actions[step - 1] + 0.1 * noise[step] if step else position
                position = position + 0.8 * (actions[step] - position)
        positions.append(position)
    changes = np.linalg.norm(np.diff(np.array(positions), axis=0), axis=1)
    return changes * (1 + 0.2 * rng.standard_normal(num_steps)), actions


KINDS = ("velocity", "smooth velocity", "torque", "feedback", "held", "held torque", "position")


def estimate(kind: str, shift: int, seed: int = 0, episodes: int = 30, num_steps: int = 50) -> Alignment:
    rng = np.random.default_rng(seed)
    meter = AlignmentMeter()
    for episode in range(episodes):
        changes, actions = simulate(rng, kind, num_steps)
        meter.add(episode, changes, np.roll(actions, shift, axis=0))
    return meter.estimate()


@pytest.mark.parametrize("kind", KINDS)
def test_no_robot_gives_a_false_alarm(kind: str) -> None:
    for seed in range(5):
        for episodes, num_steps in ((30, 50), (12, 160)):
            found = estimate(kind, 0, seed, episodes, num_steps)
            assert found.lag in (0, None)
            assert not found.episodes


@pytest.mark.parametrize("shift", [1, -1, 2])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("feedback", "held torque")])
def test_the_shift_is_found(kind: str, shift: int) -> None:
    assert estimate(kind, shift).lag == shift


def test_data_that_tell_nothing_say_nothing() -> None:
    rng = np.random.default_rng(0)
    few, unrelated, constant = AlignmentMeter(), AlignmentMeter(), AlignmentMeter()
    few.add(0, *simulate(rng, "velocity", 40))
    for episode in range(30):
        unrelated.add(episode, rng.random(60), rng.standard_normal((60, 2)))
        constant.add(episode, np.ones(60), np.ones((60, 2)))
    assert few.estimate().lag is None
    assert unrelated.estimate().lag is None
    assert constant.estimate().lag is None


def test_unrelated_series_hardly_ever_look_related() -> None:
    """Both are slow, which makes plain cross-correlations look significant most of the time."""
    alarms = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        meter = AlignmentMeter()
        for episode in range(10):
            slow = np.cumsum(rng.standard_normal((60, 3)), axis=0)
            meter.add(episode, np.abs(slow[:, 0]), slow[:, 1:])
        alarms += meter.estimate().lag is not None
    assert alarms <= 1


def test_actions_that_are_no_numbers_part_an_episode() -> None:
    rng = np.random.default_rng(1)
    meter = AlignmentMeter()
    for episode in range(20):
        changes, actions = simulate(rng, "velocity", 50)
        actions[25] = np.nan
        meter.add(episode, changes, actions)
    found = meter.estimate()
    assert found.lag == 0
    assert found.num_transitions < 20 * 49
