"""Windows stay inside episodes, and come in an order that a seed decides."""

import numpy as np
import pytest

from wm_plan.world_model.windows import Windows

OFFSETS = np.array([0, 4, 6])
LENGTHS = np.array([4, 2, 5])


def test_windows_are_all_runs_of_rows_inside_one_episode() -> None:
    windows = Windows(OFFSETS, LENGTHS, history=1, horizon=2)
    expected = [[0, 1, 2], [1, 2, 3], [6, 7, 8], [7, 8, 9], [8, 9, 10]]
    assert windows.rows(np.arange(len(windows))).tolist() == expected


def test_a_stride_spreads_the_rows() -> None:
    windows = Windows(OFFSETS, LENGTHS, history=2, horizon=1, stride=2)
    assert windows.rows(np.arange(len(windows))).tolist() == [[6, 8, 10]]


def test_every_epoch_gives_each_window_once_in_its_own_order() -> None:
    windows = Windows(OFFSETS, LENGTHS, 1, 0)
    epochs = [np.concatenate(list(windows.batches(3, epoch=e, keep_last=True))).ravel() for e in (0, 0, 1)]
    assert sorted(epochs[0]) == list(range(11))
    np.testing.assert_array_equal(epochs[0], epochs[1])
    assert epochs[0].tolist() != epochs[2].tolist()


def test_ranks_share_the_windows_evenly() -> None:
    windows = Windows(OFFSETS, LENGTHS, 1, 0)
    ranks = [np.concatenate(list(windows.batches(5, rank=r, num_ranks=2))).ravel() for r in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == 5
    assert len({*ranks[0], *ranks[1]}) == 10


def test_windows_of_a_hundred_million_rows_need_no_table() -> None:
    lengths = np.full(10, 10**7)
    windows = Windows(np.cumsum(lengths) - lengths, lengths, 2, 14)
    rows = windows.sample(1000, np.random.default_rng(0))
    assert rows.shape == (1000, 16)
    assert (rows[:, 0] // 10**7 == rows[:, -1] // 10**7).all()


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="no episode has the 6 rows that a window spans; the longest has 5"):
        Windows(OFFSETS, LENGTHS, 1, 5)
    with pytest.raises(ValueError, match="history >= 1"):
        Windows(OFFSETS, LENGTHS, 0, 5)
    with pytest.raises(ValueError, match="lower batch_size"):
        next(Windows(OFFSETS, LENGTHS, 1, 0).batches(12))
    with pytest.raises(ValueError, match="0 to 10"):
        Windows(OFFSETS, LENGTHS, 1, 0).rows(np.array([11]))
