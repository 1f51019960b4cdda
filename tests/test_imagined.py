"""Which moments of which plan are shown."""

import numpy as np

from wm_plan.imagined import Imagined


def make_imagined(plans: list[int], horizon: int = 8) -> Imagined:
    """Frames whose grey level says the plan and the step."""
    frames = np.zeros((len(plans), horizon, 2, 2, 3), np.uint8)
    frames += (10 * np.arange(len(plans))[:, None] + np.arange(horizon))[..., None, None, None].astype(
        np.uint8
    )
    return Imagined(plans, frames, frame_skip=4, is_replaced=True)


def test_moments_are_those_of_the_plan_that_is_followed_its_end_among_them() -> None:
    imagined = make_imagined([0, 4, 8])
    assert [imagined.plan_at(step) for step in (0, 3, 4, 7, 8, 50)] == [0, 0, 4, 4, 8, 8]
    found = imagined.moments(5, 4)
    assert [ahead for ahead, _ in found] == [8, 16, 24, 32]
    assert [int(frame[0, 0, 0]) for _, frame in found] == [11, 13, 15, 17]
    assert [ahead for ahead, _ in imagined.moments(0, 20)] == [4, 8, 12, 16, 20, 24, 28, 32]
    assert [ahead for ahead, _ in make_imagined([0], horizon=1).moments(0, 4)] == [4]


def test_plans_are_spread_over_those_whose_end_was_seen() -> None:
    imagined = make_imagined(list(range(0, 100, 4)), horizon=4)
    assert imagined.spread(100, 3) == [0, 28, 56]
    assert imagined.spread(20, 3) == [0, 4]
    assert imagined.spread(3, 3) == [0]
