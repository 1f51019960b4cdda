"""Distance heads: what holds whatever their weights."""

import pytest
import torch

from wm_plan.world_model.compact_config import CompactConfig, DistanceKind
from wm_plan.world_model.distance_heads import (
    DistanceEnsemble,
    DistanceHead,
    QuasimetricHead,
    make_distance,
    said_apart,
)

SIZES = {"latent_dim": 3, "distance_width": 16}


def points(number: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(number, 3, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_no_detour_shortens_a_quasimetric_and_the_way_back_may_be_longer() -> None:
    torch.manual_seed(0)
    head, still = QuasimetricHead(CompactConfig(**SIZES)), torch.zeros(50, 3)
    one, other, third = points(50, 1), points(50, 2), points(50, 3)
    direct = head(one, still, third)
    assert (direct <= head(one, still, other) + head(other, still, third) + 1e-5).all()
    assert (direct > 0).all()
    torch.testing.assert_close(head(one, still, one), torch.zeros(50))
    assert (head(third, still, one) - direct).abs().mean() > 0.01


@torch.no_grad()
def test_the_distance_in_a_group_is_the_length_of_the_union_of_its_intervals() -> None:
    head = QuasimetricHead(CompactConfig(**SIZES))
    head.log_scale.zero_()
    # [0, 2] and [1, 4] cover 4, [6, 7] covers 1, and from 9 down to 3 there is nothing
    start, end = torch.tensor([6.0, 0.0, 9.0, 1.0]), torch.tensor([7.0, 2.0, 3.0, 4.0])
    # another group covers 1, so that the largest is 5 and the mean 3
    starts, ends = torch.stack([start, torch.zeros(4)]), torch.stack([end, torch.tensor([1.0, 0.5, -1, 0])])
    assert head.between(starts, ends) == pytest.approx(0.5 * 5 + 0.5 * 3)
    head.largest.fill_(50.0)
    assert head.between(starts, ends) == pytest.approx(5)


@torch.no_grad()
def test_an_ensemble_says_its_mean_and_its_disagreement_together() -> None:
    torch.manual_seed(0)
    head = make_distance(CompactConfig(**SIZES, distance_members=3))
    assert isinstance(head, DistanceEnsemble)
    given = points(8, 1), 0.1 * points(8, 2), points(8, 3)
    apart = said_apart(head, *given)
    assert apart.shape == (3, 8)
    torch.testing.assert_close(head(*given), apart.mean(0) + apart.std(0, correction=0))
    assert (apart.std(0) > 1e-3).all()


def test_a_head_alone_has_the_weights_that_it_always_had() -> None:
    head = make_distance(CompactConfig(**SIZES))
    assert isinstance(head, DistanceHead)
    assert sorted(head.state_dict()) == [f"net.{i}.{kind}" for i in (0, 2, 4) for kind in ("bias", "weight")]
    given = points(4, 1), points(4, 2), points(4, 3)
    torch.testing.assert_close(said_apart(head, *given)[0], head(*given))


def test_a_kind_that_does_not_exist_is_named() -> None:
    assert CompactConfig.of_json({"distance_kind": "quasimetric"}).distance_kind is DistanceKind.quasimetric
    with pytest.raises(ValueError, match="model.distance_kind must be one of mlp, quasimetric, got 'l2'"):
        CompactConfig.of_json({"distance_kind": "l2"})
