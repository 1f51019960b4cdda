"""Numbers that tell a collapse, checked where they are known."""

import math

import pytest
import torch

from wm_plan.world_model.monitors import collapse_warning, effective_rank, mean_std


def test_mean_std_is_the_mean_of_each_dimensions_own() -> None:
    latents = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    assert mean_std(latents) == pytest.approx(1.0)  # 2 in the first dimension, 0 in the second
    assert mean_std(torch.ones(5, 3)) == 0.0


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_effective_rank_counts_equal_directions(rank: int) -> None:
    latents = torch.zeros(2 * rank, 8)
    for axis in range(rank):
        latents[2 * axis, axis], latents[2 * axis + 1, axis] = 1.0, -1.0
    assert effective_rank(latents) == pytest.approx(rank, abs=1e-6)
    assert effective_rank(3 * latents + 7) == pytest.approx(rank, abs=1e-6)


def test_unequal_directions_count_by_their_entropy() -> None:
    latents = torch.tensor([[1.0, 0], [-1, 0], [0, 3.0], [0, -3]])  # shares .1 and .9 of the variance
    expected = math.exp(-0.1 * math.log(0.1) - 0.9 * math.log(0.9))
    assert effective_rank(latents) == pytest.approx(expected, abs=1e-6)


def test_complete_collapse_has_rank_one() -> None:
    assert effective_rank(torch.ones(10, 4)) == pytest.approx(1.0)


def test_a_collapse_is_told_in_one_line_and_learning_is_not() -> None:
    start = {"std": 0.6, "effective_rank": 9.0}
    assert collapse_warning(start, {"std": 0.3, "effective_rank": 2.5}) is None
    assert "std fell from 0.6 to 0.01" in collapse_warning(start, {"std": 0.01, "effective_rank": 9.0})
    assert "effective rank fell from 9 to 1.2" in collapse_warning(start, {"std": 0.6, "effective_rank": 1.2})
    both = collapse_warning(start, {"std": math.nan, "effective_rank": math.nan})
    assert "std fell" in both
    assert "rank fell" in both
    assert "\n" not in both
