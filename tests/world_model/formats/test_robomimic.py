import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.logged_files import frames, robomimic_file
from wm_plan.world_model.formats import Source, default_columns, open_source
from wm_plan.world_model.formats.robomimic import RobomimicSource


def test_demonstrations_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    source = open_source(robomimic_file(tmp_path / "demos.hdf5", demos=(10, 1, 4)))
    assert isinstance(source, Source)
    assert source.format == "robomimic"
    assert source.info["demos"] == ["demo_1", "demo_4", "demo_10"]
    assert [source.read(i, ["actions"])["actions"][0, 0] for i in range(3)] == [1, 4, 10]


def test_the_final_observation_is_the_last_row(tmp_path: Path) -> None:
    source = RobomimicSource(robomimic_file(tmp_path / "demos.hdf5"))
    assert source.lengths.tolist() == [4, 4, 4]
    assert not [name for name in source.columns if "next_obs" in name]
    rows = source.read(1, list(source.columns))
    np.testing.assert_array_equal(rows["obs/agentview_image"], frames(4, seed=4))
    np.testing.assert_array_equal(rows["obs/robot0_eef_pos"], np.arange(12.0).reshape(4, 3) + 4)
    assert rows["actions"][:3].tolist() == [[4.0] * 7] * 3
    for name in ("actions", "states", "rewards"):
        assert np.isnan(rows[name][3]).all(), name
    assert rows["dones"].tolist() == [0, 0, 1, 1]


def test_without_next_observations_there_is_a_row_a_step(tmp_path: Path) -> None:
    source = RobomimicSource(robomimic_file(tmp_path / "demos.hdf5", next_obs=False))
    assert source.lengths.tolist() == [3, 3, 3]
    assert source.read(2, ["actions"])["actions"].tolist() == [[10.0] * 7] * 3


def test_a_demonstration_may_lack_next_observations_alone(tmp_path: Path) -> None:
    path = robomimic_file(tmp_path / "demos.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_4/next_obs"]
    source = RobomimicSource(path)
    assert source.lengths.tolist() == [4, 3, 4]
    assert len(source.read(1, ["obs/agentview_image"])["obs/agentview_image"]) == 3


def test_parts_equal_the_whole(tmp_path: Path) -> None:
    source = RobomimicSource(robomimic_file(tmp_path / "demos.hdf5"))
    rows = source.read(0, list(source.columns))
    for start, stop in ((0, 1), (2, 4), (3, 4), (4, 4), (1, 3)):
        part = source.read(0, list(source.columns), start, stop)
        for name in source.columns:
            np.testing.assert_array_equal(part[name], rows[name][start:stop])


def test_masks_rate_and_env_are_told(tmp_path: Path) -> None:
    source = RobomimicSource(robomimic_file(tmp_path / "demos.hdf5"))
    assert source.info["splits"] == {"train": [2, 0], "valid": [1]}
    assert source.fps == 20
    assert source.info["env"] == "Lift"
    json.dumps(source.info, allow_nan=False)


def test_sensible_roles_are_found(tmp_path: Path) -> None:
    roles = default_columns(RobomimicSource(robomimic_file(tmp_path / "demos.hdf5")))
    assert roles == {"pixels": "obs/agentview_image", "action": "actions", "proprio": "obs/robot0_eef_pos"}


@pytest.mark.parametrize("env_args", ["{", "[]", '{"env_kwargs": 3}', "[" * 100_000])
def test_env_args_that_are_no_use_do_no_harm(tmp_path: Path, env_args: str) -> None:
    path = robomimic_file(tmp_path / "demos.hdf5")
    with h5py.File(path, "a", libver="latest") as file:
        del file["data"].attrs["env_args"]
        file["data"].attrs.create("env_args", env_args, dtype=h5py.string_dtype())
    assert RobomimicSource(path).fps is None


def test_a_column_that_a_demonstration_lacks_is_named(tmp_path: Path) -> None:
    path = robomimic_file(tmp_path / "demos.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_4/obs/robot0_eef_pos"]
        del file["data/demo_10/states"]
        file["data/demo_10/states"] = np.zeros((2, 4))
    source = RobomimicSource(path)
    with pytest.raises(ValueError, match="data/demo_4/obs/robot0_eef_pos is missing"):
        source.read(1, ["obs/robot0_eef_pos"])
    with pytest.raises(ValueError, match=r"data/demo_10/states has shape \(2, 4\), the actions have 3 rows"):
        source.read(2, ["states"])


def test_plugin_compression_is_read(tmp_path: Path) -> None:
    import hdf5plugin

    path = robomimic_file(tmp_path / "demos.hdf5", demos=(0,))
    with h5py.File(path, "a") as file:
        demo = file["data/demo_0"]
        images = demo["obs/agentview_image"][:]
        del demo["obs/agentview_image"]
        demo.create_dataset("obs/agentview_image", data=images, **hdf5plugin.Blosc(cname="lz4"))
    read = RobomimicSource(path).read(0, ["obs/agentview_image"], 0, 3)["obs/agentview_image"]
    np.testing.assert_array_equal(read, images)
