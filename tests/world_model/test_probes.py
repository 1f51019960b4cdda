"""Probes find what is there, do not find what is not, and know how far to trust few labels."""

import pytest
import torch

from tests.dot_world import make_encoder, write_dots
from wm_plan.world_model.probes import (
    LinearProbe,
    MLPProbe,
    MLPProbeConfig,
    PrincipalAxes,
    _left_out,
    clip_features,
    explained,
    labelled_clips,
    pool_tokens,
    probe_scores,
)
from wm_plan.world_model.store import TrajectoryStore


def small_network(features: torch.Tensor, targets: torch.Tensor) -> MLPProbe:
    return MLPProbe(features, targets, config=MLPProbeConfig(num_steps=300, hidden=64))


def make_data(
    num: int, dim: int = 60, noise: float = 0.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features whose first two numbers, mixed with the others by a rotation, are the targets."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(9))).Q
    hidden = torch.randn(num, dim, generator=generator)
    targets = hidden[:, :2] * torch.tensor([1.0, 30.0]) + 5
    return hidden @ rotation, targets + noise * torch.randn(num, 2, generator=generator)


@pytest.mark.parametrize("num", [40, 200], ids=["fewer labels than features", "more"])
def test_ridge_is_what_the_normal_equations_give(num: int) -> None:
    features, targets = make_data(num, noise=0.5)
    axes = PrincipalAxes(features)
    centred = features - features.mean(dim=0)
    gram = axes.left * axes.values @ axes.left.T
    torch.testing.assert_close(gram, centred @ centred.T, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(axes.left.T @ axes.left, torch.eye(len(axes.values)), atol=1e-4, rtol=0)


def test_the_penalty_minimises_the_error_on_left_out_samples() -> None:
    features, targets = make_data(80, noise=3.0)
    probe = LinearProbe(features, targets)
    held_features, held_targets = make_data(2000, noise=3.0, seed=5)
    chosen = explained(probe(held_features), held_targets)
    centred = features - features.mean(dim=0)
    by_penalty = []
    for penalty in torch.logspace(-4, 4, 17):
        weight = torch.linalg.solve(
            centred.T @ centred + penalty * torch.eye(60), centred.T @ (targets - targets.mean(dim=0))
        )
        predicted = (held_features - features.mean(dim=0)) @ weight + targets.mean(dim=0)
        by_penalty.append(explained(predicted, held_targets))
    best, worst = torch.stack(by_penalty).amax(dim=0), torch.stack(by_penalty).amin(dim=0)
    assert (chosen > best - 0.05).all()
    assert chosen[0] > worst[0] + 0.2


@pytest.mark.parametrize("num", [40, 200], ids=["fewer labels than features", "more"])
def test_left_out_residuals_are_those_of_fits_without_the_group(num: int) -> None:
    features, targets = make_data(num, noise=0.5)
    groups = torch.arange(num) // 8
    axes, penalty = PrincipalAxes(features), 30.0
    shrink = axes.values / (axes.values + penalty)
    centred = targets - targets.mean(dim=0)
    residual = centred - axes.left @ (shrink[:, None] * (axes.left.T @ centred))
    quick = _left_out(axes.left.double(), shrink.double(), residual.double(), groups).float()
    for group in (0, 3):
        kept = groups != group
        x = torch.cat([features - features.mean(dim=0), torch.ones(num, 1)], dim=1)
        keep_offset_free = torch.diag(torch.tensor([penalty] * 60 + [0.0]))
        weight = torch.linalg.solve(x[kept].T @ x[kept] + keep_offset_free, x[kept].T @ targets[kept])
        torch.testing.assert_close(quick[~kept], (targets - x @ weight)[~kept], atol=0.02, rtol=0.02)


@pytest.mark.parametrize("kind", [LinearProbe, small_network])
def test_what_is_there_is_found_and_what_is_not_is_not(kind: type) -> None:
    features, targets = make_data(600)
    held, wanted = make_data(300, seed=1)
    assert explained(kind(features, targets)(held), wanted).min() > 0.9
    nothing = torch.randn(600, 2, generator=torch.Generator().manual_seed(3))
    unrelated = torch.randn(300, 2, generator=torch.Generator().manual_seed(4))
    assert explained(kind(features, nothing)(held), unrelated).max() < 0.05


def test_the_small_network_finds_what_is_not_linear() -> None:
    features, targets = make_data(1500, dim=6)
    held, wanted = make_data(300, dim=6, seed=1)
    bent, held_bent = (targets[:, :1] - 5).square(), (wanted[:, :1] - 5).square()
    assert explained(LinearProbe(features, bent)(held), held_bent)[0] < 0.1
    assert explained(small_network(features, bent)(held), held_bent)[0] > 0.8


def test_samples_of_one_group_do_not_vouch_for_each_other() -> None:
    """Each group's features repeat its own target, which says nothing of another group's."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(400) // 20
    own = torch.randn(20, 50, generator=generator)
    targets = torch.randn(20, 1, generator=generator)[groups]
    features = own[groups] + 0.01 * torch.randn(400, 50, generator=generator)
    held, wanted = torch.randn(300, 50, generator=generator), torch.randn(300, 1, generator=generator)
    told = explained(LinearProbe(features, targets, groups)(held), wanted)
    fooled = explained(LinearProbe(features, targets)(held), wanted)
    assert told > -0.2
    assert fooled < told - 0.1


def test_a_probe_is_the_same_every_time() -> None:
    features, targets = make_data(100)
    first, second = (small_network(features, targets)(features) for _ in range(2))
    assert torch.equal(first, second)


def test_explained_counts_by_hand() -> None:
    targets = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    assert explained(targets, targets).tolist() == [1, 1]
    assert explained(targets.mean(dim=0).expand(3, 2), targets).tolist() == pytest.approx([0, 0])
    assert explained(targets + torch.tensor([0.0, 4.0]), targets).tolist() == pytest.approx([1, -5])


def test_tokens_are_pooled_place_by_place_and_time_by_time() -> None:
    grid = torch.arange(32.0).reshape(1, 32, 1)  # two times of 4 x 4
    pooled = pool_tokens(grid, grid_size=4, pool_size=2)
    assert pooled.tolist() == [[2.5, 4.5, 10.5, 12.5, 18.5, 20.5, 26.5, 28.5]]
    assert torch.equal(pool_tokens(grid, 4, 8), grid.flatten(1))


def test_the_place_of_a_dot_is_read_off_an_encoder(tmp_path) -> None:  # noqa: ANN001
    store = TrajectoryStore(write_dots(tmp_path / "dots", 30))
    encoder = make_encoder()
    train, held = store.split(0.3)
    data = {}
    for name, episodes, num in (("train", train, 200), ("held", held, 80)):
        clips, targets, groups = labelled_clips(store, lambda state: state, num, episodes=episodes)
        assert clips.shape[:2] == (num, 2)
        assert set(groups.tolist()) <= set(episodes.tolist())
        data[name] = clip_features(encoder, clips, pool_size=4), targets
    scores = probe_scores(*data["train"], {"held": data["held"]}, kinds=("linear",))
    with pytest.raises(ValueError, match="1000 clips are wanted, and there are 252"):
        labelled_clips(store, lambda state: state, 1000, episodes=train)
    assert min(scores["linear"]["held"]) > 0.4


def test_wrong_calls_are_refused() -> None:
    features, targets = make_data(20)
    with pytest.raises(ValueError, match="Unknown probe 'cubic'. Known probes: linear, mlp"):
        probe_scores(features, targets, {}, kinds=("cubic",))
    with pytest.raises(ValueError, match="at least 10; got 5 and 5"):
        probe_scores(features[:5], targets[:5], {})
