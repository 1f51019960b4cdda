from collections.abc import Callable
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest

from tests.logged_files import minari_folder, robomimic_file
from wm_plan.world_model.formats import default_columns, open_source, write_minari
from wm_plan.world_model.formats.minari import MinariSource
from wm_plan.world_model.formats.robomimic import RobomimicSource

COLUMNS = {"pixels": "obs/agentview_image", "action": "actions", "proprio": "obs/robot0_eef_pos"}


def test_the_package_loads_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    source = RobomimicSource(robomimic_file(tmp_path / "demos.hdf5"))
    write_minari(source, tmp_path / "minari" / "lab" / "lift-v0", COLUMNS, namespace="lab")
    assert list(minari.list_local_datasets()) == ["lab/lift-v0"]
    dataset = minari.load_dataset("lab/lift-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 9)
    assert dataset.action_space.low.tolist() == [1.0] * 7
    assert dataset.action_space.high.tolist() == [10.0] * 7
    for episode, truth in enumerate(dataset):
        rows = source.read(episode, list(source.columns))
        assert truth.observations["pixels"].dtype == np.uint8
        np.testing.assert_array_equal(truth.observations["pixels"], rows["obs/agentview_image"])
        np.testing.assert_array_equal(truth.observations["proprio"], rows["obs/robot0_eef_pos"])
        np.testing.assert_array_equal(truth.actions, rows["actions"][:-1])
        np.testing.assert_array_equal(truth.rewards, rows["rewards"][:-1])
        np.testing.assert_array_equal(truth.terminations, [False, False, True])
        np.testing.assert_array_equal(truth.infos["states"], rows["states"])
        assert dataset.observation_space.contains(
            {name: values[0] for name, values in truth.observations.items()}
        )


def test_what_is_written_reads_back_exactly_with_its_roles(tmp_path: Path) -> None:
    source = RobomimicSource(robomimic_file(tmp_path / "demos.hdf5"))
    read = open_source(write_minari(source, tmp_path / "lift-v0", COLUMNS))
    assert default_columns(read) == {
        "pixels": "observations/pixels",
        "proprio": "observations/proprio",
        "action": "actions",
    }
    assert read.fps == 20
    names = {
        "obs/agentview_image": "observations/pixels",
        "obs/robot0_eef_pos": "observations/proprio",
        "states": "infos/states",
        "actions": "actions",
        "rewards": "rewards",
    }
    assert not read.columns["observations/pixels"].lossy
    for episode in range(3):
        before, after = source.read(episode, list(names)), read.read(episode, list(names.values()))
        for old, new in names.items():
            assert before[old].dtype == after[new].dtype
            np.testing.assert_array_equal(before[old], after[new])


def test_without_a_final_frame_the_last_action_is_left_out(tmp_path: Path) -> None:
    source = RobomimicSource(robomimic_file(tmp_path / "demos.hdf5", next_obs=False))
    assert source.lengths.tolist() == [3, 3, 3]
    written = MinariSource(write_minari(source, tmp_path / "lift-v0", COLUMNS, episodes=[2]))
    rows = written.read(0, ["actions", "observations/pixels"])
    assert rows["actions"][:2].tolist() == [[10.0] * 7] * 2
    assert np.isnan(rows["actions"][2]).all()
    frames = source.read(2, ["obs/agentview_image"])["obs/agentview_image"]
    np.testing.assert_array_equal(rows["observations/pixels"], frames)


def test_rewards_that_nobody_logged_are_zero_and_the_last_step_truncates(tmp_path: Path) -> None:
    path = robomimic_file(tmp_path / "demos.hdf5")
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            del demo["rewards"], demo["dones"]
    written = MinariSource(write_minari(RobomimicSource(path), tmp_path / "lift-v0", COLUMNS))
    rows = written.read(0, ["rewards", "terminations", "truncations"], 0, 3)
    assert rows["rewards"].tolist() == [0, 0, 0]
    assert rows["terminations"].tolist() == [False, False, False]
    assert rows["truncations"].tolist() == [False, False, True]


def stop_at(limit: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == limit:
            raise KeyboardInterrupt

    return progress


def test_a_resumed_conversion_equals_one_that_was_never_stopped(tmp_path: Path) -> None:
    source = RobomimicSource(robomimic_file(tmp_path / "demos.hdf5"))
    whole = write_minari(source, tmp_path / "whole" / "lift-v0", COLUMNS)
    dst = tmp_path / "stopped" / "lift-v0"
    with pytest.raises(KeyboardInterrupt):
        write_minari(source, dst, COLUMNS, progress=stop_at(2))
    assert not dst.exists()
    kept = sorted(path.name for path in (dst.parent / ".lift-v0.partial").rglob("*.hdf5"))
    assert kept == ["episode_0.hdf5", "episode_1.hdf5"]
    with pytest.raises(ValueError, match="resume it or overwrite it"):
        write_minari(source, dst, COLUMNS)
    write_minari(source, dst, COLUMNS, resume=True)
    for name in ("main_data.hdf5", "metadata.json"):
        assert (dst / "data" / name).read_bytes() == (whole / "data" / name).read_bytes()
    assert [path.name for path in dst.parent.iterdir()] == ["lift-v0"]
    assert [path.name for path in dst.iterdir()] == ["data"]


def test_a_dataset_that_is_there_is_replaced_only_when_told(tmp_path: Path) -> None:
    source = RobomimicSource(robomimic_file(tmp_path / "demos.hdf5"))
    dst = write_minari(source, tmp_path / "lift-v0", COLUMNS)
    with pytest.raises(ValueError, match="exists; overwrite it"):
        write_minari(source, dst, COLUMNS)
    write_minari(source, dst, COLUMNS, episodes=[0], overwrite=True)
    assert MinariSource(dst).lengths.tolist() == [4]


def test_minari_to_minari_keeps_every_value(tmp_path: Path) -> None:
    source = MinariSource(minari_folder(tmp_path / "a-v0"))
    roles = {"pixels": "observations/camera", "proprio": "observations/joints", "action": "actions"}
    copy = MinariSource(write_minari(source, tmp_path / "b-v0", roles))
    names = {name: name for name in source.columns}
    names |= {"observations/camera": "observations/pixels", "observations/joints": "observations/proprio"}
    assert sorted(copy.columns) == sorted(names.values())
    for episode in (0, 1):
        before, after = source.read(episode, list(names)), copy.read(episode, list(names.values()))
        for old, new in names.items():
            np.testing.assert_array_equal(before[old], after[new])


def test_a_folder_of_any_name_opens_by_its_path(tmp_path: Path) -> None:
    source = RobomimicSource(robomimic_file(tmp_path / "demos.hdf5"))
    dataset = minari.MinariDataset(write_minari(source, tmp_path / "my demos", COLUMNS) / "data")
    assert dataset.spec.dataset_id == "my-demos-v0"
    assert dataset.total_episodes == len(source.lengths)


def test_what_cannot_be_a_minari_dataset_is_said(tmp_path: Path) -> None:
    source = RobomimicSource(robomimic_file(tmp_path / "demos.hdf5"))
    with pytest.raises(ValueError, match="no column of .* is the action; say which"):
        write_minari(source, tmp_path / "lift-v0", {"pixels": "obs/agentview_image"})
