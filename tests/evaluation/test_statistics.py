"""The Wilson interval beside published and hand-worked numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wm_plan.evaluation.statistics import loss_interval, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_the_published_one(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_both_ends_solve_the_score_equation(counts: tuple[int, int]) -> None:
    successes, trials = counts
    rate = successes / trials
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= rate <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            score = abs(rate - bound) / math.sqrt(bound * (1 - bound) / trials)
            assert score == pytest.approx(1.959964, rel=1e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_failures_mirror_successes(counts: tuple[int, int]) -> None:
    successes, trials = counts
    low, high = wilson_interval(successes, trials)
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes of {trials} trials"):
        wilson_interval(successes, trials)


def test_the_interval_of_a_loss_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held, runs = 0, 2000
    for _ in range(runs):
        hard = rng.random(60)  # the same trials are hard in both
        before, after = hard < 0.9, (hard < 0.9) & (rng.random(60) < 0.8)
        loss, low, high = loss_interval(before.tolist(), after.tolist())
        assert low <= loss <= high
        held += low <= 0.9 * 0.2 <= high
    assert held / runs == pytest.approx(0.95, abs=0.02)


def test_pairing_narrows_the_interval_of_a_loss() -> None:
    easy = [True] * 30 + [False] * 30
    same = loss_interval(easy, easy)
    mixed = loss_interval(easy, easy[::-1])
    assert same[0] == mixed[0] == 0
    assert same[2] - same[1] < 0.5 * (mixed[2] - mixed[1])
    assert loss_interval([True] * 8 + [False] * 2, [True] * 5 + [False] * 5)[0] == pytest.approx(0.3)
    with pytest.raises(ValueError, match="2 and 1 trials cannot be paired"):
        loss_interval([True, True], [True])
