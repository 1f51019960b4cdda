"""Probes of the true state: what they ask for, of which logs, and that training does not notice them."""

from pathlib import Path

import mujoco
import numpy as np
import pytest

from tests.dot_world import RECIPE, draw_dots, make_encoder, write_dots
from tests.world_model.test_pretraining import make_config, metrics_of
from wm_plan.envs import make_task
from wm_plan.state_probes import StateLabels, StateProbes
from wm_plan.training_run import logged_task
from wm_plan.world_model.pretraining import pretrain
from wm_plan.world_model.store import TrajectoryStore
from wm_plan.world_model.store_writer import StoreWriter


def labels_of(name: str, *, with_velocity: bool = True) -> StateLabels:
    task = make_task(name, render=False)
    return StateLabels(task.mj_model, len(task.get_state()), with_velocity=with_velocity)


def write_reacher(root: Path, num_episodes: int, *, env: str = "reacher") -> Path:
    """What looks like a log of reacher: a dot stands where its two angles are, and does not move."""
    with StoreWriter(root, {**RECIPE, "env": env}, num_episodes) as writer:
        for index in writer.missing():
            angles = np.random.default_rng([7, index]).uniform(-1.2, 1.2, (9, 2))
            still = np.full((9, 2), 3.0)  # velocities that never change tell nothing
            writer.write(
                index,
                {"pixels": draw_dots(0.5 + angles / 3), "state": np.concatenate([angles, still], axis=1)},
            )
    return root


def test_hinges_are_asked_for_by_sine_and_cosine_and_slides_as_they_are() -> None:
    state = np.array([[0.5, -3.0, 7.0, 8.0]])
    reacher = labels_of("reacher")
    np.testing.assert_allclose(reacher(state), [[np.sin(0.5), np.cos(0.5), np.sin(-3), np.cos(-3), 7, 8]])
    assert reacher.kinds == ("angle",) * 4 + ("velocity",) * 2
    point_mass = labels_of("point_mass")
    np.testing.assert_array_equal(point_mass(state), state)
    assert point_mass.kinds == ("position", "position", "velocity", "velocity")
    assert labels_of("point_mass", with_velocity=False).kinds == ("position", "position")


def test_a_free_body_is_asked_for_by_its_place_and_where_its_axes_point() -> None:
    body = "<body><{}/><geom size='.1'/></body>"
    joints = "".join(body.format(joint) for joint in ("joint axis='0 0 1'", "freejoint", "joint type='ball'"))
    labels = StateLabels(
        mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{joints}</worldbody></mujoco>"), 22
    )
    assert labels.kinds == ("angle",) * 2 + ("position",) * 3 + ("angle",) * 12 + ("velocity",) * 10
    quarter_about_z = np.sqrt(0.5), 0, 0, np.sqrt(0.5)
    for turn, axes in (((1, 0, 0, 0), [1, 0, 0, 0, 1, 0]), (quarter_about_z, [0, 1, 0, -1, 0, 0])):
        for sign in (1, -1):  # q and -q are one turn
            quaternion = sign * np.array(turn)
            state = np.array([0.0, 0.1, 0.2, 0.3, *quaternion, *(3 * quaternion), *range(10)])
            expected = [0, 1, 0.1, 0.2, 0.3, *axes, *axes, *range(10)]
            np.testing.assert_allclose(labels(state[None])[0], expected, atol=1e-12)


def test_each_task_whose_states_are_known_is_probed_apart(tmp_path: Path) -> None:
    roots = [write_reacher(tmp_path / "a", 12), write_dots(tmp_path / "b", 12)]
    with StoreWriter(tmp_path / "video", {**RECIPE, "env": "video"}, 2) as writer:
        for index in writer.missing():
            writer.write(index, {"pixels": draw_dots(np.random.default_rng(index).random((9, 2)))})
    store = TrajectoryStore([*roots, write_dots(tmp_path / "few", 1), tmp_path / "video"])
    probes = StateProbes(store, make_config(), num_labels=60, num_tests=20)
    assert probes.tasks == ["reacher", "dot"]
    found = probes(make_encoder())
    assert set(found) == {
        f"probe/{name}/{probe}" for name in ("reacher/angle", "dot/state") for probe in ("linear", "mlp")
    }
    assert found["probe/dot/state/linear"] > 0.5  # where the dot is
    assert found["probe/reacher/angle/linear"] > 0.3
    assert found == probes(make_encoder())
    assert StateProbes(TrajectoryStore(tmp_path / "video"), make_config()).tasks == []
    assert StateProbes(store, make_config(), num_labels=0).tasks == []


def test_an_encoder_of_single_frames_is_not_asked_for_velocities(tmp_path: Path) -> None:
    store = TrajectoryStore(write_reacher(tmp_path / "data", 12))
    angles, velocities = ("angle",) * 4, ("velocity",) * 2
    for objective, kinds in (("ijepa", angles), ("vjepa", angles + velocities)):
        probes = StateProbes(store, make_config(objective=objective), num_labels=30)
        assert [task.labels.kinds for task in probes._tasks] == [kinds]


@pytest.mark.parametrize("objective", ["vjepa", "ijepa"])
def test_probes_are_logged_and_change_nothing_that_is_trained(objective: str, tmp_path: Path) -> None:
    store = TrajectoryStore(write_dots(tmp_path / "data", 8))
    config = make_config(objective=objective, probe_every=6)
    probes = StateProbes(store, config, num_labels=30, num_tests=15)
    pretrain(store, tmp_path / "a" / "run", config, probe=probes)
    pretrain(store, tmp_path / "b" / "run", config)
    probed, plain = metrics_of(tmp_path / "a" / "run"), metrics_of(tmp_path / "b" / "run")
    assert [line["step"] for line in probed if "probe/dot/state/mlp" in line] == [8, 11]
    without = [{k: v for k, v in line.items() if not k.startswith("probe/")} for line in probed]
    assert without == plain
    weights = [(tmp_path / name / "run" / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_a_log_cannot_have_a_module_imported() -> None:
    assert logged_task("antigravity:Evil-v0") is None
    assert logged_task("nobody knows") is None
    assert logged_task("reacher") is not None
