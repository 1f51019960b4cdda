"""World models over tokens: the protocol, what they are told of the past, memory, and how they are kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import draw_dots, make_encoder
from wm_plan.planners import CEM, MPC, GoalDistance
from wm_plan.world_model import TokenWorldModel, WorldModel, load_model
from wm_plan.world_model.dino_wm import DinoWMConfig, DinoWMPredictor
from wm_plan.world_model.metadata import ModelMetadata
from wm_plan.world_model.vjepa2_ac import NextState, VJEPA2ACConfig, VJEPA2ACPredictor

DIM, GRID = 48, 4


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_model(family: str = "vjepa2_ac", history: int = 3, **overrides) -> TokenWorldModel:
    """A model with random weights over the dots' encoder."""
    sizes = {"token_dim": DIM, "grid_size": GRID, "action_dim": 2, "state_dim": 2, "max_steps": 8}
    sizes.update({"depth": 2, "num_heads": 2}, **overrides)
    torch.manual_seed(1)
    predictor = (
        VJEPA2ACPredictor(VJEPA2ACConfig(**{"width": 32, "next_state": NextState.add, **sizes}))
        if family == "vjepa2_ac"
        else DinoWMPredictor(DinoWMConfig(**{"head_dim": 8, "mlp_width": 32, "residual": False, **sizes}))
    )
    metadata = ModelMetadata("dot", 1, 0.1, 16, "above", [-1.0, -1.0], [1.0, 1.0])
    model = TokenWorldModel(make_encoder(), predictor, metadata, history=history)
    return model.eval().requires_grad_(False)


def make_frames(batch: int = 2, time: int = 3) -> np.ndarray:
    return draw_dots(np.random.default_rng(0).random((batch, time, 2)))


FAMILIES = ["vjepa2_ac", "dino_wm"]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_a_world_model_whose_latents_are_layer_normed_tokens_of_single_frames(family: str) -> None:
    model = make_model(family)
    assert isinstance(model, WorldModel)
    assert model.family == family
    latents = model.encode(make_frames())
    assert latents.shape == (2, 3, GRID**2, DIM)
    torch.testing.assert_close(latents.mean(-1), torch.zeros(2, 3, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode(make_frames()[:, 1:2]), latents[:, 1:2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_is_bounded_by_imagining_candidates_in_parts_with_the_same_result(family: str) -> None:
    model = make_model(family)
    context, past, proprio = random(2, 3, 16, DIM), random(2, 2, 2), random(2, 3, 2)
    actions = random(2, 7, 4, 2, seed=3)
    whole = model.rollout(context, actions, past, proprio)
    assert whole.shape == (2, 7, 4, 16, DIM)
    taken = model.last_cache_bytes
    model.cache_bytes = taken // 3
    torch.testing.assert_close(model.rollout(context, actions, past, proprio), whole, atol=1e-4, rtol=0)
    assert 0 < model.last_cache_bytes < 0.6 * taken


def test_past_actions_count_and_follow_from_poses_where_actions_are_their_changes() -> None:
    model = make_model()
    context, proprio, actions = random(1, 3, 16, DIM), random(1, 3, 2), random(1, 2, 2, 2)
    moves = proprio[:, 1:] - proprio[:, :-1]
    told = model.rollout(context, actions, moves, proprio)
    unknown = torch.full_like(moves, torch.nan)
    torch.testing.assert_close(model.rollout(context, actions, unknown, proprio), told)
    torch.testing.assert_close(model.rollout(context, actions, None, proprio), told)
    assert not torch.allclose(model.rollout(context, actions, moves + 1, proprio), told)


def test_a_long_context_is_cut_and_missing_proprio_is_named() -> None:
    model = make_model(history=2)
    context, past, proprio, actions = (
        random(1, 4, 16, DIM),
        random(1, 3, 2),
        random(1, 4, 2),
        random(1, 2, 2, 2),
    )
    cut = model.rollout(context[:, 2:], actions, past[:, 2:], proprio[:, 2:])
    torch.testing.assert_close(model.rollout(context, actions, past, proprio), cut)
    with pytest.raises(ValueError, match="needs 2 numbers of proprio with each frame, none was given"):
        model.rollout(context, actions, past)
    with pytest.raises(ValueError, match="needs 2 numbers of proprio with each frame, 5 were given"):
        model.rollout(context, actions, past, random(1, 4, 5))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_control_loop_tells_what_was_executed_and_sensed(family: str) -> None:
    model = make_model(family)
    told: list[dict] = []
    rollout = model.rollout

    def listening(context, actions, past_actions=None, proprio=None):
        told.append({"past_actions": past_actions, "proprio": proprio})
        return rollout(context, actions, past_actions, proprio)

    model.rollout = listening
    planner = CEM(
        (model.action_low, model.action_high), horizon=2, num_samples=4, num_iterations=1, num_elites=2
    )
    controller = MPC(model, planner, GoalDistance("l1"))
    controller.set_goal(make_frames(1, 1)[0, 0])
    actions = []
    for step in range(3):
        seen = {"pixels": make_frames(1, 4)[0, step], "proprio": np.array([step, 0.5])}
        actions.append(controller.act(seen))
    assert told[0]["past_actions"].isnan().all()
    torch.testing.assert_close(told[-1]["past_actions"][0], torch.from_numpy(np.stack(actions[:2])))
    torch.testing.assert_close(told[-1]["proprio"][0, :, 0], torch.tensor([0.0, 1.0, 2.0]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_loaded_by_its_family_and_imagines_the_same(family: str, tmp_path: Path) -> None:
    model = make_model(family)
    model.familiar_signatures.normal_()
    model.metadata.training["note"] = "made by hand"
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, TokenWorldModel)
    assert (loaded.family, loaded.history) == (family, 3)
    assert (loaded.metadata, loaded.predictor.config) == (model.metadata, model.predictor.config)
    arguments = random(1, 3, 16, DIM), random(1, 2, 2, 2), random(1, 2, 2), random(1, 3, 2)
    torch.testing.assert_close(loaded.rollout(*arguments), model.rollout(*arguments))
    strange = [each.unfamiliarity(make_frames(2, 1)) for each in (loaded, model)]
    torch.testing.assert_close(*strange, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "other"}, "damaged config"),
        ({"predictor": {"width": -1}}, "damaged config"),
        ({"history": None}, "damaged config"),
        ({"history": 99}, "history=99 is not allowed; give 1 to 8"),
    ],
)
def test_a_damaged_folder_is_named(change: dict, message: str, tmp_path: Path) -> None:
    make_model().save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


def test_parts_that_do_not_fit_each_other_are_named() -> None:
    metadata = ModelMetadata("dot", 1, 0.1, 16, "above", [-1.0], [1.0])
    with pytest.raises(
        ValueError, match="for a grid of 4 and tokens of 40; the encoder 'dots' gives 4 and 48"
    ):
        make_model(token_dim=40)
    with pytest.raises(ValueError, match="the predictor takes 2 actions, not 1"):
        TokenWorldModel(make_encoder(), make_model().predictor, metadata)
