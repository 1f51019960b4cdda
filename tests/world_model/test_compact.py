"""The compact world model: what a latent is of, how it is rolled forward, and how it is kept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import RECIPE, draw_dots, make_encoder
from wm_plan.world_model.compact import (
    CompactConfig,
    CompactWorldModel,
    Keypoints,
    StateHead,
    load_model,
)
from wm_plan.world_model.compact_predictors import CompactPredictor
from wm_plan.world_model.familiarity import frame_signature
from wm_plan.world_model.metadata import ModelMetadata
from wm_plan.world_model.protocol import WorldModel

SIZES = {
    "latent_dim": 3,
    "token_dim": 4,
    "head_width": 16,
    "history": 2,
    "predictor_width": 8,
    "predictor_depth": 1,
    "distance_width": 8,
}


def make_model(**overrides) -> CompactWorldModel:
    """A model with random weights everywhere, also where training would begin with zeros."""
    metadata = {
        "env_name": "dot",
        "frame_skip": 5,
        "control_timestep": 0.1,
        "image_size": 16,
        "camera": RECIPE["camera"],
        "action_low": [-2.0, 0.0],
        "action_high": [2.0, 1.0],
    }
    encoder = overrides.pop("encoder", None) or make_encoder()
    torch.manual_seed(1)
    model = CompactWorldModel(encoder, CompactConfig(**{**SIZES, **overrides}), ModelMetadata(**metadata))
    with torch.no_grad():
        for parameter in (*model.predictor.parameters(), *model.distance.parameters()):
            parameter.normal_(std=0.3)
    return model.eval().requires_grad_(False)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_frames(batch: int = 2, time: int = 3, size: int = 16) -> np.ndarray:
    return draw_dots(np.random.default_rng(0).random((batch, time, 2)), size)


def test_it_is_a_world_model() -> None:
    model = make_model()
    assert isinstance(model, WorldModel)
    assert (model.frame_skip, model.history, model.env_name, model.image_size) == (5, 2, "dot", 16)
    np.testing.assert_array_equal(model.action_low, np.array([-2, 0], np.float32))
    np.testing.assert_array_equal(model.action_high, np.array([2, 1], np.float32))


def test_tokens_are_standardised_by_their_place_and_channel() -> None:
    head = StateHead(2, 3, CompactConfig(**SIZES))
    places = torch.tensor([10.0, -5.0, 0.0, 3.0])[:, None]
    tokens = places + torch.tensor([2.0, 0.5, 0.0]) * random(5000, 4, 3)  # the last channel never changes
    head.fit_normaliser(tokens)
    standardised = head.standardise(tokens)
    torch.testing.assert_close(standardised.mean(0), torch.zeros(4, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        standardised.std((0, 1), correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-3, rtol=0
    )


def test_scaled_latents_have_mean_zero_and_unit_variance_on_average() -> None:
    head = StateHead(2, 3, CompactConfig(**SIZES))
    tokens = random(500, 4, 3)
    with torch.no_grad():
        before = head(tokens)
        head.fit_scale(before)
        after = head(tokens)
    torch.testing.assert_close(after.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    assert after.var(0).mean().item() == pytest.approx(1.0, rel=1e-3)
    ratio = (after - after.mean(0)) / (before - before.mean(0))
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-2, atol=1e-2)


def test_keypoints_move_as_evenly_as_what_they_see() -> None:
    torch.manual_seed(0)
    keypoints = Keypoints(9, 1, 2)
    with torch.no_grad():
        for parameter in (keypoints.mix.weight, keypoints.mix.bias, keypoints.maps.bias):
            parameter.zero_()
        keypoints.maps.weight.copy_(torch.tensor([20.0, 0.0]).view(2, 1, 1, 1))
        keypoints.log_scale.zero_()
    places = []
    for step in range(5):
        grid = torch.zeros(1, 1, 9, 9)
        grid[0, 0, 2, 2 + step] = 1.0  # row 2, one column further each time
        places.append(keypoints(grid.flatten(1)).detach())
    found = torch.cat(places)
    torch.testing.assert_close(found[:, 0], torch.linspace(-0.5, 0.5, 5), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[:, 1], torch.full((5,), -0.5), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[:, 2:], torch.zeros(5, 2), atol=1e-6, rtol=0)  # a map that sees nothing


def test_latents_of_keypoints_keep_the_principal_axes_of_their_coordinates() -> None:
    head = StateHead(2, 3, CompactConfig(**{**SIZES, "latent_dim": 3, "keypoints": 4}))
    tokens = random(500, 4, 3)
    with torch.no_grad():
        raw = head.raw(tokens)
        assert raw.shape == (500, 8)
        head.fit_scale(raw)
        latents = head(tokens)
    torch.testing.assert_close(latents.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    assert latents.var(0).mean().item() == pytest.approx(1.0, rel=1e-3)
    spread = torch.linalg.svdvals(raw - raw.mean(0))[:3]
    torch.testing.assert_close(latents.std(0) / latents[:, 0].std(), spread / spread[0], rtol=1e-3, atol=1e-3)
    assert torch.cov(latents.T).fill_diagonal_(0).abs().max() < 1e-3


def test_too_few_keypoints_are_refused() -> None:
    with pytest.raises(ValueError, match="3 keypoints have 6 coordinates, fewer than latent_dim 16"):
        CompactConfig(keypoints=3)


def test_a_latent_is_of_one_frame_alone_at_any_size() -> None:
    model, frames = make_model(), make_frames()
    latents = model.encode(frames)
    assert latents.shape == (2, 3, 3)
    torch.testing.assert_close(model.encode(frames[:, 1:2]), latents[:, 1:2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.encode(torch.from_numpy(frames)), latents)
    assert not latents.requires_grad
    assert model.encode(make_frames(size=50)).shape == (2, 3, 3)


def test_an_untrained_predictor_imagines_stillness() -> None:
    predictor = CompactPredictor(CompactConfig(**SIZES), action_dim=2)
    context = random(4, 2, 3)
    imagined = predictor(context, random(4, 5, 2))
    torch.testing.assert_close(imagined, context[:, 1:].expand(-1, 5, -1))


def test_a_rollout_is_one_step_repeated() -> None:
    model, context, actions = make_model(), random(2, 2, 3), random(2, 4, 3, 2)
    imagined = model.rollout(context, actions)
    assert imagined.shape == (2, 4, 3, 3)
    for candidate in range(4):
        latents = context
        for step in range(3):
            action = actions[:, candidate : candidate + 1, step : step + 1]
            latents = torch.cat([latents, model.rollout(latents[:, -2:], action)[:, 0]], dim=1)
        torch.testing.assert_close(imagined[:, candidate], latents[:, 2:])


def test_candidates_and_batch_rows_do_not_touch() -> None:
    model, context, actions = make_model(), random(2, 2, 3), random(2, 4, 3, 2)
    imagined = model.rollout(context, actions)
    changed = actions.clone()
    changed[0, 2, 1] += 1.0
    moved = (model.rollout(context, changed) - imagined).abs().sum(-1) > 0
    expected = torch.zeros(2, 4, 3, dtype=torch.bool)
    expected[0, 2, 1:] = True
    assert torch.equal(moved, expected)


def test_a_short_context_is_taken_to_have_been_at_rest_and_a_long_one_is_cut() -> None:
    model, actions = make_model(), random(1, 2, 2, 2)
    latent, older = random(1, 1, 3, seed=1), random(1, 1, 3, seed=2)
    at_rest = model.rollout(torch.cat([latent, latent], dim=1), actions)
    torch.testing.assert_close(model.rollout(latent, actions), at_rest)
    long = torch.cat([older, latent, latent], dim=1)
    torch.testing.assert_close(model.rollout(long, actions), at_rest)
    moving = model.rollout(torch.cat([older, latent], dim=1), actions)
    assert not torch.allclose(moving, at_rest)


def test_actions_are_seen_from_minus_one_to_one() -> None:
    model = make_model()
    actions = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, 0.5]])
    expected = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(model.normalise_actions(actions), expected)


def test_the_temporal_distance_is_of_the_end_of_a_plan_and_never_negative() -> None:
    model, imagined, goal = make_model(), random(2, 4, 3, 3), random(2, 1, 3)
    distance = model.temporal_distance(imagined, goal)
    assert distance.shape == (2, 4)
    assert (distance >= 0).all()
    changed = imagined.clone()
    changed[:, :, 0] += 1.0
    torch.testing.assert_close(model.temporal_distance(changed, goal), distance)
    expected = model.distance(imagined[0, 1, 2], imagined[0, 1, 2] - imagined[0, 1, 1], goal[0, 0])
    torch.testing.assert_close(distance[0, 1], expected, rtol=0.02, atol=0.02)  # of bfloat16 products
    one_step = model.temporal_distance(imagined[:, :, -1:], goal)
    assert one_step.shape == (2, 4)


def test_reached_is_a_squared_distance_within_the_threshold() -> None:
    model = make_model()
    model.metadata.reach_threshold = 1.0
    latent = torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.0, 0.0], [0.8, 0.8, 0.0]])
    assert model.reached(latent, torch.zeros(3, 3)).tolist() == [True, True, False]


def test_what_was_kept_is_familiar_and_another_look_is_not() -> None:
    model = make_model()
    frames = make_frames(batch=64, time=1)
    signatures = frame_signature(model.encoder(model.encoder.preprocess(frames)))
    model.familiar_signatures.copy_(signatures[:32].repeat(16, 1))
    model.metadata.familiarity_threshold = float(model.signature_distance(signatures[32:]).max())
    assert (model.unfamiliarity(frames[32:]) <= 1 + 1e-3).all()
    strange = np.random.default_rng(1).integers(0, 256, (4, 1, 16, 16, 3), dtype=np.uint8)
    assert (model.unfamiliarity(strange) > 1.5).all()


def test_a_saved_model_stands_alone_and_is_the_same(tmp_path: Path) -> None:
    model = make_model()
    model.metadata.training = {"command": "here"}
    model.save(tmp_path / "model")
    moved = tmp_path / "elsewhere"
    (tmp_path / "model").rename(moved)
    loaded = load_model(moved)
    assert loaded.metadata == model.metadata
    assert loaded.encoder.fingerprint == model.encoder.fingerprint
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    frames, actions = make_frames(), random(2, 4, 3, 2)
    context = model.encode(frames)
    torch.testing.assert_close(loaded.encode(frames), context, atol=0.05, rtol=0.05)
    torch.testing.assert_close(
        loaded.rollout(context, actions), model.rollout(context, actions), atol=0.05, rtol=0.05
    )
    loaded.save(tmp_path / "again")
    for name in ("config.json", "model.safetensors", "encoder/model.safetensors"):
        assert (moved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_model_over_the_shipped_encoder_need_not_hold_it(tmp_path: Path) -> None:
    from wm_plan.world_model.encoder import load_encoder

    make_model(encoder=load_encoder("small")).save(tmp_path / "model", with_encoder=False)
    assert not (tmp_path / "model" / "encoder").exists()
    assert load_model(tmp_path / "model").encoder.name == "small"


def test_a_model_is_not_run_over_another_encoder(tmp_path: Path) -> None:
    make_model().save(tmp_path / "model")
    make_encoder(seed=3).save(tmp_path / "model" / "encoder")
    with pytest.raises(ValueError, match="was trained over another encoder than 'dots'"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    "damage, message",
    [
        (shutil.rmtree, "Give a folder or one of"),
        (lambda f: shutil.rmtree(f / "encoder"), "Unknown encoder"),
        (lambda f: (f / "config.json").unlink(), "holds no world-model: it has no config.json"),
        (lambda f: shutil.copytree(f / "encoder", f, dirs_exist_ok=True), "not 'wm-plan-world-model'"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "cannot be read"),
        (lambda f: change(f, "model", latent_dim=9), "does not fit its config"),
        (lambda f: change(f, "model", colour=1), "has a damaged config"),
        (lambda f: change(f, "model", history=0), "history must be at least 1, got 0"),
        (lambda f: change(f, "metadata", env_name=None, drop="env_name"), "has a damaged config"),
    ],
)
def test_a_folder_that_is_no_world_model_is_said_in_one_line(damage, message: str, tmp_path: Path) -> None:
    make_model().save(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(ValueError, match=message) as error:
        load_model(tmp_path / "model")
    assert "\n" not in str(error.value)


def change(folder: Path, section: str, drop: str = "", **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[section] = {key: value for key, value in {**config[section], **values}.items() if key != drop}
    (folder / "config.json").write_text(json.dumps(config))
