"""The published V-JEPA 2-AC layout: its numbers, its poses, and files that are something else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from wm_plan.planners import CEM, MPC, GoalDistance
from wm_plan.world_model import TokenWorldModel, load_encoder, load_vjepa2_ac
from wm_plan.world_model.metadata import ModelMetadata
from wm_plan.world_model.pose import gripper_action, next_gripper_pose
from wm_plan.world_model.vjepa2_ac import NextState, normed

DATA = Path(__file__).resolve().parents[1] / "data" / "vjepa2_ac"
CHECKPOINT = DATA / "vjepa2_ac_tiny.pt"
SIZES = {"image_size": 64, "num_frames": 16, "encoder_heads": 2, "predictor_heads": 2}


def published() -> dict[str, torch.Tensor]:
    """What the published code took and gave."""
    with np.load(DATA / "vjepa2_ac_tiny_io.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture(scope="module")
def loaded():
    return load_vjepa2_ac(CHECKPOINT, **SIZES)


def test_the_encoder_gives_the_published_numbers(loaded) -> None:
    truth = published()
    with torch.no_grad():
        tokens = loaded[0](truth["clip"].transpose(1, 2))
    torch.testing.assert_close(tokens, truth["encoder_tokens"], atol=1e-4, rtol=0)


def test_the_predictor_gives_the_published_numbers(loaded) -> None:
    truth, predictor = published(), loaded[1]
    following = predictor(truth["tokens"], truth["actions"], truth["states"])
    torch.testing.assert_close(following, truth["predicted"], atol=1e-4, rtol=0)
    first = predictor(truth["tokens"][:, :16], truth["actions"][:, :1], truth["states"][:, :1])
    torch.testing.assert_close(first, truth["predicted_first_step"], atol=1e-4, rtol=0)


def test_kept_keys_give_the_published_numbers_too(loaded) -> None:
    truth, predictor = published(), loaded[1]
    frames = truth["tokens"].unflatten(1, (3, 16))
    imagined, _ = predictor.imagine(
        frames, truth["actions"][:, :2], truth["states"], truth["actions"][:, None, 2:]
    )
    torch.testing.assert_close(imagined[:, 0, 0], normed(truth["predicted"][:, 32:]), atol=1e-4, rtol=0)


def test_sizes_are_read_from_the_weights_and_nothing_can_be_trained_by_accident(loaded) -> None:
    encoder, predictor = loaded
    config = predictor.config
    assert (config.token_dim, config.width, config.depth, config.grid_size) == (64, 64, 2, 4)
    assert (config.action_dim, config.state_dim, config.max_steps) == (7, 7, 8)
    assert config.next_state is NextState.gripper
    for module in (encoder, predictor):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_heads_are_of_width_64_unless_given() -> None:
    encoder, predictor = load_vjepa2_ac(CHECKPOINT, image_size=64)
    assert (encoder.vit.config.num_heads, predictor.config.num_heads) == (1, 1)


def test_frames_become_layer_normed_tokens_each_by_itself(loaded) -> None:
    clip = published()["clip"].transpose(1, 2)
    tokens = loaded[0].frame_tokens(clip)
    assert tokens.shape == (1, 4 * 16, 64)
    still = clip[:, 2:3].expand(-1, 2, -1, -1, -1)
    torch.testing.assert_close(tokens[:, 32:48], normed(loaded[0](still)), atol=1e-5, rtol=0)


def test_poses_are_composed_as_rotations_and_grippers_stay_in_range() -> None:
    rng = np.random.default_rng(0)
    poses, actions = rng.uniform(-1, 1, (2, 20, 7))
    poses[:, 6], actions[0, 6] = 0.5, 0.9
    following = next_gripper_pose(torch.from_numpy(poses), torch.from_numpy(actions)).numpy()
    expected = Rotation.from_euler("xyz", actions[:, 3:6]) * Rotation.from_euler("xyz", poses[:, 3:6])
    np.testing.assert_allclose(
        Rotation.from_euler("xyz", following[:, 3:6]).as_matrix(), expected.as_matrix(), atol=1e-12
    )
    np.testing.assert_allclose(following[:, :3], poses[:, :3] + actions[:, :3])
    assert following[0, 6] == 1.0
    assert (following[:, 6] >= 0).all()


def test_the_action_between_two_poses_leads_from_one_to_the_other() -> None:
    rng = np.random.default_rng(1)
    before, after = torch.from_numpy(rng.uniform(0.1, 0.9, (2, 20, 7)))
    torch.testing.assert_close(next_gripper_pose(before, gripper_action(before, after)), after)


def test_the_control_loop_plans_with_it_in_metres_and_radians(loaded) -> None:
    high = np.array([0.05] * 3 + [1e-6] * 3 + [0.75])
    metadata = ModelMetadata("droid", 1, 0.25, 64, "left", list(-high), list(high))
    encoder = load_encoder(CHECKPOINT, num_heads=2, image_size=64)
    model = TokenWorldModel(encoder, loaded[1], metadata)
    planner = CEM((-high, high), horizon=2, num_samples=12, num_iterations=2, num_elites=4)
    controller = MPC(model, planner, GoalDistance("l1"))
    rng = np.random.default_rng(0)
    goal, image = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    controller.set_goal(goal)
    action = controller.act({"pixels": image, "proprio": np.zeros(7)})
    assert (np.abs(action) <= high).all()
    own = loaded[0].frame_tokens(encoder.preprocess(goal[None, None]))
    torch.testing.assert_close(controller.goal_latent[:, 0], own, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="needs 7 numbers of proprio with each frame"):
        controller.reset()
        controller.act({"pixels": image})


def test_files_that_are_something_else_are_named(tmp_path: Path) -> None:
    encoder = {"module.backbone.patch_embed.proj.weight": torch.zeros(64, 3, 2, 16, 16)}
    whole = torch.load(CHECKPOINT, weights_only=True)
    lacking = {name: t for name, t in whole["predictor"].items() if "state_encoder" not in name}
    files = {
        "no.pt": ({"encoder": encoder}, "no 'predictor' among encoder"),
        "empty.pt": ({"encoder": {}, "predictor": {}}, "its encoder has no patch embedding"),
        "lacking.pt": ({**whole, "predictor": lacking}, "its predictor has no 'state_encoder.weight'"),
        "list.pt": ([1], "holds a list"),
    }
    for name, (content, message) in files.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=message):
            load_vjepa2_ac(tmp_path / name, **SIZES)
    (tmp_path / "cut.pt").write_bytes(CHECKPOINT.read_bytes()[:5000])
    for path in (tmp_path / "cut.pt", tmp_path / "none.pt"):
        with pytest.raises(ValueError, match=path.name):
            load_vjepa2_ac(path, **SIZES)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"predictor_heads": 3}, "predictor_heads is 3, which does not divide the width 64"),
        ({"encoder_heads": 5}, "encoder_heads is 5, which does not divide the width 64"),
        ({"image_size": 60}, "image_size 60 .* must be multiples of .* patch of 16 px"),
        ({"num_frames": 15}, "num_frames 15 must be multiples of .* tubelet of 2 frames"),
    ],
)
def test_sizes_that_do_not_fit_are_named(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_vjepa2_ac(CHECKPOINT, **{**SIZES, **overrides})


def test_clips_that_do_not_fit_are_named(loaded) -> None:
    for shape in ((1, 3, 3, 64, 64), (1, 18, 3, 64, 64), (1, 2, 3, 32, 64)):
        with pytest.raises(ValueError, match="the clip is .* give \\(batch, frames, 3, 64, 64\\)"):
            loaded[0](torch.zeros(shape))
