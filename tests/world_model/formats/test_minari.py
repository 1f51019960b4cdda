import json
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from tests.logged_files import frames, minari_folder, smooth_frames
from wm_plan.world_model.formats import Source, open_source
from wm_plan.world_model.formats.minari import MinariSource


def genuine_dataset(name: str, images: list[np.ndarray], *, jpeg: bool) -> minari.MinariDataset:
    """What the package itself writes of `images`, one episode each."""
    rng = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            observations={"camera": video, "arm": {"joints": rng.normal(size=(len(video), 3))}},
            actions=rng.normal(size=(len(video) - 1, 2)).astype(np.float32),
            rewards=list(rng.normal(size=len(video) - 1)),
            terminations=[False] * (len(video) - 1),
            truncations=[False] * (len(video) - 2) + [True],
            infos={"phase": np.arange(len(video))},
        )
        for video in images
    ]
    camera = gym.spaces.Box(0, 255, images[0].shape[1:], np.uint8)
    joints = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    with pytest.warns(UserWarning):
        return minari.create_dataset_from_buffers(
            name,
            buffers,
            observation_space=gym.spaces.Dict({"camera": camera, "arm": gym.spaces.Dict({"joints": joints})}),
            action_space=gym.spaces.Box(-1, 1, (2,), np.float32),
            jpeg_encoding=jpeg,
        )


@pytest.mark.parametrize("jpeg", [True, False])
def test_what_the_package_writes_is_read_as_the_package_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jpeg: bool
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    dataset = genuine_dataset("lab/arm-v0", [smooth_frames(5), smooth_frames(8, seed=1)], jpeg=jpeg)
    source = open_source(tmp_path / "lab" / "arm-v0")
    assert isinstance(source, Source)
    assert (source.format, source.lengths.tolist()) == ("minari", [5, 8])
    assert source.columns["observations/camera"].kind == "image"
    assert source.columns["observations/camera"].lossy is jpeg
    for episode, truth in enumerate(dataset):
        rows = source.read(episode, list(source.columns))
        np.testing.assert_array_equal(rows["observations/camera"], truth.observations["camera"])
        np.testing.assert_array_equal(rows["observations/arm/joints"], truth.observations["arm"]["joints"])
        np.testing.assert_array_equal(rows["actions"][:-1], truth.actions)
        np.testing.assert_array_equal(rows["rewards"][:-1], truth.rewards)
        np.testing.assert_array_equal(rows["truncations"][:-1], truth.truncations)
        assert np.isnan(rows["actions"][-1]).all()
        assert np.isnan(rows["rewards"][-1])


def test_jpegs_of_equal_length_that_are_stored_as_one_array_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    still = np.repeat(smooth_frames(1), 4, axis=0)
    dataset = genuine_dataset("still-v0", [still, smooth_frames(6)], jpeg=True)
    with h5py.File(tmp_path / "still-v0" / "data" / "main_data.hdf5", "r") as file:
        assert file["episode_0/observations/camera"].ndim == 2
        assert file["episode_1/observations/camera"].ndim == 1
    source = MinariSource(tmp_path / "still-v0")
    for episode in (0, 1):
        read = source.read(episode, ["observations/camera"])["observations/camera"]
        np.testing.assert_array_equal(read, dataset[episode].observations["camera"])


def test_rows_follow_the_convention_and_parts_equal_the_whole(tmp_path: Path) -> None:
    source = MinariSource(minari_folder(tmp_path / "d"))
    rows = source.read(1, list(source.columns))
    np.testing.assert_array_equal(rows["observations/camera"], frames(6, seed=1))
    assert rows["actions"][:, 0].tolist()[:-1] == [-1, 1, 3, 5, 7]
    assert np.isnan(rows["actions"][5]).all()
    assert rows["terminations"].tolist() == [False, False, False, False, True, True]
    assert rows["infos/phase"].tolist() == [0, 1, 2, 3, 4, 5]
    for start, stop in ((0, 2), (3, 6), (5, 6), (6, 6), (2, 5)):
        part = source.read(1, list(source.columns), start, stop)
        for name in source.columns:
            np.testing.assert_array_equal(part[name], rows[name][start:stop])


def test_texts_are_read(tmp_path: Path) -> None:
    folder = minari_folder(tmp_path / "d")
    texts = ["", "pick", "pick up", "µ" * 300, "place"]
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for episode, rows in ((0, texts[:3]), (1, texts)):
            name = f"episode_{episode}/infos/task"
            file.create_dataset(name, data=rows, dtype=h5py.string_dtype(), chunks=(2,), maxshape=(None,))
    source = MinariSource(folder)
    assert source.columns["infos/task"].kind == "text"
    assert source.read(1, ["infos/task"])["infos/task"].tolist() == [*texts, "place"]
    assert source.read(1, ["infos/task"], 1, 4)["infos/task"].tolist() == texts[1:4]


def test_infinity_in_the_metadata_is_read_and_does_not_reach_json(tmp_path: Path) -> None:
    folder = minari_folder(tmp_path / "d")
    assert "Infinity" in (folder / "data" / "metadata.json").read_text()
    info = MinariSource(folder).info
    assert info["ref_max_score"] is None
    json.dumps(info, allow_nan=False)


def test_the_data_folder_is_taken_for_the_dataset(tmp_path: Path) -> None:
    folder = minari_folder(tmp_path / "d")
    assert MinariSource(folder / "data").lengths.tolist() == [4, 6]
    assert MinariSource.recognises(folder)
    assert not MinariSource.recognises(tmp_path)


def test_a_closed_source_reads_again(tmp_path: Path) -> None:
    source = MinariSource(minari_folder(tmp_path / "d"))
    before = source.read(0, ["actions"])["actions"]
    source.close()
    np.testing.assert_array_equal(source.read(0, ["actions"])["actions"], before)


def test_requests_for_what_is_not_there_say_what_is(tmp_path: Path) -> None:
    source = MinariSource(minari_folder(tmp_path / "d"))
    with pytest.raises(ValueError, match="no episode 2 .* it has 0 to 1"):
        source.read(2, ["actions"])
    with pytest.raises(ValueError, match="no column 'pixels' .* it has actions"):
        source.read(0, ["pixels"])
    with pytest.raises(ValueError, match="has rows 0 to 4, not 0 to 5"):
        source.read(0, ["actions"], 0, 5)


def test_arrow_storage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'arrow' storage; only 'hdf5' is read"):
        MinariSource(minari_folder(tmp_path / "d", data_format="arrow"))


def test_missing_episodes_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds 2 episodes, its metadata.json says 9"):
        MinariSource(minari_folder(tmp_path / "d", total_episodes=9))


def change(folder: Path, name: str, values: np.ndarray) -> None:
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file[name]
        file[name] = values


def test_a_column_of_another_length_is_named_with_its_episode(tmp_path: Path) -> None:
    folder = minari_folder(tmp_path / "d")
    change(folder, "episode_1/actions", np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"episode_1/actions has shape \(3, 2\); 5 or 6 rows"):
        MinariSource(folder).read(1, ["actions"])


def test_a_column_of_another_shape_is_named_with_its_episode(tmp_path: Path) -> None:
    folder = minari_folder(tmp_path / "d")
    change(folder, "episode_1/actions", np.zeros((5, 3), np.float32))
    with pytest.raises(ValueError, match="episode_1/actions is float32 .* unlike the first episode"):
        MinariSource(folder).read(1, ["actions"])


def test_a_damaged_jpeg_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    genuine_dataset("d-v0", [smooth_frames(4)], jpeg=True)
    with h5py.File(tmp_path / "d-v0" / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/observations/camera"][2] = np.frombuffer(b"\xff\xd8\xffnothing", np.uint8)
    source = MinariSource(tmp_path / "d-v0")
    with pytest.raises(ValueError, match="episode_0/observations/camera: a JPEG is damaged"):
        source.read(0, ["observations/camera"])
