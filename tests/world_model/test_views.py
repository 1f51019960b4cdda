"""Several cameras and proprio: trained together, and done without where they are not known."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from tests.dot_world import RECIPE, make_encoder, make_episode
from tests.world_model.test_predictor_training import make_config
from wm_plan.planners import CEM, MPC, GoalDistance
from wm_plan.world_model.compact import CompactWorldModel, load_model
from wm_plan.world_model.moments import partly_hidden
from wm_plan.world_model.predictor_training import train_world_model
from wm_plan.world_model.store import TrajectoryStore
from wm_plan.world_model.store_writer import StoreWriter
from wm_plan.world_model.training_logs import check_logs


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompactWorldModel, TrajectoryStore]:
    """A model of dots seen upright and mirrored, whose place is also felt."""
    root = tmp_path_factory.mktemp("views")
    with StoreWriter(root / "data", RECIPE, 40) as writer:
        for index in writer.missing():
            episode = make_episode(index)
            episode["pixels_side"] = episode["pixels"][:, :, ::-1].copy()
            episode["proprio"] = episode["state"].astype(np.float32)
            writer.write(index, episode)
    store = TrajectoryStore(root / "data")
    config = make_config(
        num_steps=250,
        num_predictor_steps=200,
        batch_size=32,
        learning_rate=3e-3,
        save_every=1000,
        views=["pixels", "pixels_side"],
        proprio=True,
        hide_rate=0.5,
    )
    train_world_model(store, make_encoder(), root / "model", config)
    return load_model(root / "model"), store


def moments(store: TrajectoryStore) -> tuple[dict[str, np.ndarray], torch.Tensor]:
    rows = np.arange(200)
    views = {name: store.read(name, rows)[:, None] for name in ("pixels", "pixels_side")}
    return views, torch.from_numpy(store.read("proprio", rows))[:, None]


def error_of(latents: torch.Tensor, whole: torch.Tensor) -> float:
    return float((latents - whole).square().sum(-1).mean() / whole[:, 0].var(dim=0).sum())


def test_a_moment_known_in_part_gives_nearly_the_latent_of_all_of_it(trained) -> None:
    model, store = trained
    views, proprio = moments(store)
    whole = model.shown(model.encode(views, proprio))
    assert model.views == ("pixels", "pixels_side")
    for known in (("pixels",), ("pixels_side",), ("pixels", "pixels_side")):
        latents = model.shown(model.encode({name: views[name] for name in known}))
        assert error_of(latents, whole) < 0.25
    torch.testing.assert_close(
        model.encode(views["pixels"]), model.encode({"pixels": views["pixels"]}), equal_nan=True
    )
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(len(whole)))
    assert error_of(whole[shuffled], whole) > 1


def test_every_view_is_used_and_what_is_felt_follows_what_is_shown(trained) -> None:
    model, store = trained
    views, proprio = moments(store)
    whole, turned = model.encode(views, proprio), model.encode(views, proprio.flip(0))
    assert whole.shape[-1] == model.config.latent_dim + 2
    assert torch.equal(model.shown(turned), model.shown(whole))
    felt = whole[:, 0, -2:]
    assert 0.5 < float(felt.std()) < 2
    np.testing.assert_array_equal(np.argsort(felt, axis=0), np.argsort(proprio[:, 0], axis=0))
    other = {**views, "pixels_side": views["pixels_side"][::-1].copy()}
    assert not torch.equal(model.encode(other, proprio), whole)


def test_a_control_loop_hands_every_view_to_the_model(trained) -> None:
    model, store = trained
    controller = MPC(
        model,
        CEM(
            Box(model.action_low, model.action_high),
            horizon=3,
            num_samples=16,
            num_iterations=2,
            num_elites=4,
        ),
        GoalDistance(),
    )
    controller.reset(seed=0)
    controller.set_goal(store.read("pixels", [30])[0])
    row = {name: store.read(name, [0])[0] for name in ("pixels", "pixels_side", "proprio")}
    action = controller.act(row)
    assert action.shape == (2,)
    row.pop("pixels_side")
    with pytest.raises(ValueError, match="the model sees 'pixels_side'"):
        controller.act(row)


def test_wrong_views_are_said_in_one_line(trained) -> None:
    model, store = trained
    frames, proprio = moments(store)
    with pytest.raises(ValueError, match="no frames of pixels, pixels_side; there are front"):
        model.encode({"front": frames["pixels"]})
    with pytest.raises(ValueError, match="proprio has 3 numbers; the model was trained with 2"):
        model.encode(frames, torch.zeros(200, 1, 3))
    with pytest.raises(ValueError, match="'pixels_top'"):
        check_logs(store, make_config(views=["pixels", "pixels_top"]))
    with pytest.raises(ValueError, match="each once"):
        make_config(views=["pixels", "pixels"])


def test_what_is_not_known_of_a_goal_does_not_count(trained) -> None:
    model, store = trained
    views, proprio = moments(store)
    latents, goals = model.encode(views, proprio)[:, 0], model.encode(views)[:, 0]
    assert goals[:, -2:].isnan().all()
    assert model.reached(latents, goals).all()
    assert not model.reached(latents, goals.roll(100, 0)).all()
    imagined = latents[:40].reshape(1, 10, 4, -1)
    goal = goals[None, None, 0]
    torch.testing.assert_close(
        GoalDistance()(imagined, torch.zeros(1, 10, 4, 2), goal),
        (model.shown(imagined)[:, :, -1] - model.shown(goal)).square().sum(-1),
    )
    assert model.temporal_distance(imagined, goal).isfinite().all()


def test_nothing_is_imagined_without_what_is_felt(trained) -> None:
    model, store = trained
    views, proprio = moments(store)
    actions = torch.zeros(1, 3, 2, 2)
    assert model.rollout(model.encode(views, proprio)[:1], actions).isfinite().all()
    with pytest.raises(
        ValueError, match=r'2 numbers of proprio with each frame; give observation\["proprio"\]'
    ):
        model.rollout(model.encode(views)[:1], actions)


def test_hiding_leaves_one_camera() -> None:
    whole = torch.ones(400, 3, 4, 6)
    tokens = partly_hidden(whole, 2, 0.5, torch.Generator().manual_seed(0))
    left = tokens.isfinite().flatten(2).float().mean(-1)
    assert set(left.unique().tolist()) == {0.5, 1.0}
    assert 0.4 < float((left == 1).float().mean()) < 0.6
    torch.testing.assert_close(partly_hidden(whole, 1, 1.0, torch.Generator()), whole)
