"""Multi-block masks: where blocks lie, how large they are, and which tokens are seen and predicted."""

import pytest
import torch

from wm_plan.world_model.masking import LONG_RANGE, SHORT_RANGE, MaskConfig, block_mask, split_tokens

GRID = 8


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(batch: int) -> torch.Tensor:
    return torch.ones(batch, GRID**2)


def test_one_block_is_a_rectangle_of_the_area_asked_for() -> None:
    config = MaskConfig(num_blocks=1, block_scale=0.25, min_aspect=0.5)
    shapes = set()
    for mask in block_mask(config, GRID, uniform(200), seeded()):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        height, width = len(rows), len(columns)
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert mask.sum() == height * width
        assert abs(height * width - 0.25 * GRID**2) <= 4  # sides are whole patches
        assert 0.4 <= height / width <= 2.5
        shapes.add((height, width))
    assert len(shapes) >= 3


def test_a_block_covers_its_centre() -> None:
    centres = torch.zeros(64, GRID**2)
    centres[:, 3 * GRID + 6] = 1.0
    mask = block_mask(MaskConfig(num_blocks=1, block_scale=0.1), GRID, centres, seeded())
    assert mask[:, 3, 6].all()
    assert 0.05 < mask.float().mean() < 0.15


def test_uniform_centres_hide_every_place() -> None:
    hidden = block_mask(SHORT_RANGE, GRID, uniform(400), seeded()).float().mean(0)
    assert hidden.min() > 0.2
    assert 0.55 < hidden.mean() < 0.85  # 8 blocks of .15 that overlap
    assert block_mask(LONG_RANGE, GRID, uniform(400), seeded()).float().mean() > 0.75


def test_the_generator_decides_the_mask() -> None:
    one, again, other = (block_mask(SHORT_RANGE, GRID, uniform(4), seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_tokens_are_split_by_hand() -> None:
    hidden = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    visible, target = split_tokens(hidden, 2, MaskConfig(), seeded())
    assert visible.tolist() == [[2, 3, 6, 7], [0, 3, 4, 7]]
    assert target.tolist() == [[0, 1, 4, 5], [1, 2, 5, 6]]


def test_rows_with_more_cells_lose_some_of_them_at_random() -> None:
    hidden = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]] * 50, dtype=torch.bool)
    visible, target = split_tokens(hidden, 1, MaskConfig(), seeded())
    assert visible.shape == target.shape == (100, 1)
    assert set(visible[0::2, 0].tolist()) == {3}
    assert set(visible[1::2, 0].tolist()) == {1, 2, 3}
    assert set(target[0::2, 0].tolist()) == {0, 1, 2}
    assert set(target[1::2, 0].tolist()) == {0}


@pytest.mark.parametrize("kind", [SHORT_RANGE, LONG_RANGE])
def test_a_token_is_seen_or_predicted_or_neither(kind: MaskConfig) -> None:
    hidden = block_mask(kind, GRID, uniform(32), seeded()).flatten(1)
    visible, target = split_tokens(hidden, 2, kind, seeded(1))
    least = -(-(GRID**2) * kind.min_visible // 1)
    assert visible.shape[1] >= 2 * least
    for row in range(32):
        seen, told = set(visible[row].tolist()), set(target[row].tolist())
        assert len(seen) == visible.shape[1]
        assert len(told) == target.shape[1] > 0
        assert not seen & told
        assert all(hidden[row, token % GRID**2] for token in told)
        assert {token + GRID**2 for token in seen if token < GRID**2} <= seen


def test_a_clip_that_is_hidden_altogether_gets_some_of_it_back() -> None:
    visible, target = split_tokens(
        torch.ones(3, 20, dtype=torch.bool), 1, MaskConfig(min_visible=0.2), seeded()
    )
    assert (visible.shape, target.shape) == ((3, 4), (3, 16))


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"block_scale": 1.5}, "block_scale must be above 0 and at most 1, got 1.5"),
        ({"min_aspect": 0.0}, "min_aspect must be above 0"),
        ({"min_visible": 1.0}, "min_visible must be between 0 and 1"),
    ],
)
def test_masks_out_of_range_are_named(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskConfig(**overrides)
