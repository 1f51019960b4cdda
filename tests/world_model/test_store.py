"""What is written into a trajectory store comes out again, whatever happened in between."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.trajectories import RECIPE, make_episode, write_store
from wm_plan.world_model.manifest import Manifest
from wm_plan.world_model.store import TrajectoryStore
from wm_plan.world_model.store_writer import StoreWriter, stage_episode


def files_of(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.glob("*.h5"))}


def edit_manifest(root: Path, **shard_changes: object) -> None:
    data = json.loads((root / "manifest.json").read_text())
    data["shards"][0].update(shard_changes)
    (root / "manifest.json").write_text(json.dumps(data))


def test_every_row_of_every_column_comes_back(tmp_path: Path) -> None:
    store = TrajectoryStore(write_store(tmp_path / "data"))
    assert store.lengths.tolist() == [6] * 7
    for index in range(7):
        for name, values in make_episode(index).items():
            stored = store.read(name, store.episode_rows(index))
            assert stored.dtype == values.dtype
            np.testing.assert_array_equal(stored, values)


def test_rows_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    store = TrajectoryStore(write_store(tmp_path / "data"))
    rows = np.array([41, 0, 17, 18, 19, 17, 5, 6])
    for name in store.columns:
        np.testing.assert_array_equal(store.read(name, rows), store.read(name)[rows])
    assert store.read("pixels", []).shape == (0, 40, 40, 3)


def test_shards_follow_the_published_schema(tmp_path: Path) -> None:
    root = write_store(tmp_path / "data")
    assert sorted(files_of(root)) == ["shard-00000000.h5", "shard-00000003.h5", "shard-00000006.h5"]
    with h5py.File(root / "shard-00000000.h5") as file:
        assert (file["ep_len"].dtype, file["ep_offset"].dtype) == (np.int32, np.int64)
        assert file["ep_offset"][:].tolist() == [0, 6, 12]
        assert (file["pixels"].compression, file["pixels"].compression_opts, file["pixels"].shuffle) == (
            "gzip",
            1,
            True,
        )
        assert file["pixels"].chunks == (1, 40, 40, 3)
        assert np.isnan(file["action"][5]).all()


def test_resuming_gives_the_same_files_as_one_run(tmp_path: Path) -> None:
    whole = write_store(tmp_path / "whole")
    with StoreWriter(tmp_path / "parts", RECIPE, 7, episodes_per_shard=3) as writer:
        for index in (4, 0, 2, 1):
            writer.write(index, make_episode(index))
    with StoreWriter(tmp_path / "parts", RECIPE, 7, episodes_per_shard=3, resume=True) as writer:
        assert writer.missing() == [3, 5, 6]
        for index in writer.missing():
            writer.write(index, make_episode(index))
    assert files_of(tmp_path / "parts") == files_of(whole)
    assert TrajectoryStore(tmp_path / "parts").fingerprint == TrajectoryStore(whole).fingerprint
    assert sorted(path.name for path in whole.iterdir() if path.suffix != ".h5") == ["manifest.json"]


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import h5py
from tests.trajectories import RECIPE, make_episode
from wm_plan.world_model import shards
from wm_plan.world_model.store_writer import StoreWriter
writer = StoreWriter({root!r}, RECIPE, 7, episodes_per_shard=3)
calls = 0
copy = {function}
def dying(*args):
    global calls
    calls += 1
    if calls == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return copy(*args)
{function} = dying
for index in range(7):
    writer.write(index, make_episode(index))
"""


@pytest.mark.parametrize(
    "function, call", [("shards._copy_rows", 11), ("os.fsync", 3), ("os.fsync", 5), ("os.unlink", 2)]
)
def test_a_killed_writer_loses_one_episode_at_most(tmp_path: Path, function: str, call: int) -> None:
    root = tmp_path / "data"
    script = KILLED.format(tests=str(Path(__file__).parents[1]), root=str(root), function=function, call=call)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    with StoreWriter(root, RECIPE, 7, episodes_per_shard=3, resume=True) as writer:
        finished = writer.num_finished()
        assert finished == 7 - len(writer.missing()) > 0
        for index in writer.missing():
            writer.write(index, make_episode(index))
    assert files_of(root) == files_of(write_store(tmp_path / "whole"))
    assert sorted(path.name for path in root.iterdir() if path.suffix != ".h5") == ["manifest.json"]


def test_finished_episodes_of_an_unfinished_store_can_be_read(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "data", RECIPE, 7, episodes_per_shard=3) as writer:
        for index in (0, 1, 2, 5):
            writer.write(index, make_episode(index))
    store = TrajectoryStore(tmp_path / "data")
    assert store.read("state")[:, 0].tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [5] * 6


def test_a_store_can_be_extended(tmp_path: Path) -> None:
    root = write_store(tmp_path / "data", 4)
    with StoreWriter(root, RECIPE, 8, episodes_per_shard=3, resume=True) as writer:
        for index in writer.missing():
            writer.write(index, make_episode(index))
    store = TrajectoryStore(root)
    assert store.read("state")[::6, 0].tolist() == list(range(8))
    assert Manifest.load(root).complete


def test_episodes_without_a_number_are_appended(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "data", {}, episodes_per_shard=2) as writer:
        for length in (3, 1, 4):
            writer.append(make_episode(length, num_steps=length))
        writer.finish()
    assert TrajectoryStore(tmp_path / "data").lengths.tolist() == [4, 2, 5]


def test_a_writer_refuses_what_it_must_not_touch(tmp_path: Path) -> None:
    root = write_store(tmp_path / "data")
    before = files_of(root)
    with pytest.raises(ValueError, match="holds a trajectory store; resume it"):
        StoreWriter(root, RECIPE, 7)
    with pytest.raises(ValueError, match="frame_skip 4, not 2"):
        StoreWriter(root, {**RECIPE, "frame_skip": 2}, 7, resume=True)
    with pytest.raises(ValueError, match="holds 7 episodes already"):
        StoreWriter(root, RECIPE, 5, resume=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not empty and no trajectory store"):
        StoreWriter(tmp_path / "home", RECIPE, 7, resume=True)
    (tmp_path / "home" / "manifest.json").write_text('{"name": "web page"}')
    with pytest.raises(ValueError, match="its format is not"):
        StoreWriter(tmp_path / "home", RECIPE, 7, overwrite=True)
    assert files_of(root) == before
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["manifest.json", "thesis.tex"]


def test_overwriting_leaves_nothing_of_the_old_store_and_all_that_is_not(tmp_path: Path) -> None:
    root = write_store(tmp_path / "data")
    (root / "notes.txt").write_text("by hand")
    (root / "mine.h5").write_bytes(b"by hand")
    with StoreWriter(root, {"env": "other"}, 1, overwrite=True) as writer:
        writer.write(0, make_episode(9))
    store = TrajectoryStore(root)
    assert (store.num_episodes, store.recipes) == (1, [{"env": "other"}])
    assert sorted(path.name for path in root.iterdir()) == [
        "manifest.json",
        "mine.h5",
        "notes.txt",
        "shard-00000000.h5",
    ]


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    with (
        StoreWriter(tmp_path / "data", RECIPE, 1),
        pytest.raises(ValueError, match="being written by another process"),
    ):
        StoreWriter(tmp_path / "data", RECIPE, 1, resume=True)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({}, "same number of rows"),
        ({"action": np.zeros((3, 1)), "state": np.zeros((2, 1))}, "same number of rows"),
        ({"action": np.array([object()])}, "dtype object"),
        ({"ep_len": np.zeros(3)}, "plain word"),
        ({"../action": np.zeros(3)}, "plain word"),
    ],
)
def test_what_is_no_episode_is_refused(tmp_path: Path, columns: dict[str, np.ndarray], message: str) -> None:
    with StoreWriter(tmp_path / "data", RECIPE, 1) as writer, pytest.raises(ValueError, match=message):
        writer.write(0, columns)


def test_episodes_with_other_columns_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(
            ValueError, match=r"episode-00000001.h5 has columns action .*; episode-00000000.h5 has"
        ),
        StoreWriter(tmp_path / "data", RECIPE, 2, episodes_per_shard=2) as writer,
    ):
        writer.write(0, make_episode(0))
        writer.write(1, make_episode(1, size=48))
    assert not list((tmp_path / "data").glob("*.h5"))


def test_a_changed_file_changes_the_fingerprint(tmp_path: Path) -> None:
    root = write_store(tmp_path / "data")
    fingerprint = TrajectoryStore(root).fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, copy_function=shutil.copy)
    assert TrajectoryStore(copy).fingerprint == fingerprint
    with h5py.File(copy / "shard-00000003.h5", "r+") as file:
        file["state"][0, 0] = 99.0
    store = TrajectoryStore(copy)
    assert store.fingerprint != fingerprint
    assert store.changed_files() == [copy / "shard-00000003.h5"]


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    root = write_store(tmp_path / "data")
    shard = root / "shard-00000003.h5"
    os.truncate(shard, 5000)
    with pytest.raises(ValueError, match="shard-00000003.h5 has 5000 bytes, its manifest says"):
        TrajectoryStore(root)
    with pytest.raises(ValueError, match="damaged or no HDF5 file"):
        TrajectoryStore(shard)


@pytest.mark.parametrize(
    "file", ["../shard.h5", "/etc/shard.h5", "a/../../shard.h5", "..h5", "shard.pkl", ""]
)
def test_a_manifest_cannot_reach_outside_its_folder(tmp_path: Path, file: object) -> None:
    root = write_store(tmp_path / "data")
    edit_manifest(root, file=file)
    with pytest.raises(ValueError, match="plain .h5 file name"):
        TrajectoryStore(root)


def test_a_shard_that_is_a_symlink_is_refused(tmp_path: Path) -> None:
    root = write_store(tmp_path / "data")
    (root / "shard-00000003.h5").rename(tmp_path / "elsewhere.h5")
    (root / "shard-00000003.h5").symlink_to(tmp_path / "elsewhere.h5")
    with pytest.raises(ValueError, match="not there as a plain file"):
        TrajectoryStore(root)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "cannot be used"),
        ("[" * 100_000, "cannot be used"),
        ('{"format": "zarr"}', "format is not"),
        ('{"format": "wm-plan-trajectories", "version": 7}', "update wm-plan"),
        ('{"format": "wm-plan-trajectories", "version": 1, "recipe": {}}', "num_episodes is missing"),
    ],
)
def test_a_damaged_manifest_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        TrajectoryStore(tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_rows": -1}, "num_rows must be 0 or more"),
        ({"num_rows": "18"}, "num_rows must be int, got '18'"),
        ({"num_bytes": True}, "num_bytes must be int, got True"),
        ({"file": None}, "file must be str, got None"),
        ({"sha256": "0"}, "64 hexadecimal digits"),
        ({"first_episode": 2}, "episode 3 is in another shard too"),
    ],
)
def test_a_shard_entry_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    root = write_store(tmp_path / "data")
    edit_manifest(root, **changes)
    with pytest.raises(ValueError, match=message):
        TrajectoryStore(root)


@pytest.mark.parametrize(
    "field, value", [("recipe", []), ("shards", {}), ("complete", 1), ("num_episodes", "7")]
)
def test_a_manifest_of_wrong_types_is_refused(tmp_path: Path, field: str, value: object) -> None:
    root = write_store(tmp_path / "data")
    data = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps({**data, field: value}))
    with pytest.raises(ValueError, match=f"{field} must be"):
        TrajectoryStore(root)


def test_hdf5_links_and_external_data_are_refused(tmp_path: Path) -> None:
    root = write_store(tmp_path / "data", 1)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"x" * 60)
    for kind in ("link", "external"):
        path = tmp_path / f"{kind}.h5"
        with h5py.File(path, "w") as file:
            file["ep_len"], file["ep_offset"] = np.array([6], np.int32), np.array([0])
            if kind == "link":
                file["state"] = h5py.ExternalLink(str(root / "shard-00000000.h5"), "state")
            else:
                file.create_dataset("state", (6, 10), np.uint8, external=[(str(secret), 0, 60)])
        with pytest.raises(ValueError, match="refused"):
            TrajectoryStore(path)


def test_a_header_of_a_billion_rows_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("ep_len", (10**9,), np.int32, chunks=(1000,))
        file.create_dataset("ep_offset", (10**9,), np.int64, chunks=(1000,))
    with pytest.raises(ValueError, match="declares 1000000000 episodes and does not store them"):
        TrajectoryStore(path)


def test_a_file_in_the_schema_by_other_hands_is_read(tmp_path: Path) -> None:
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w") as file:
        file["ep_len"], file["ep_offset"] = np.array([2, 3], np.int32), np.array([4, 0])
        file["action"] = np.arange(14.0).reshape(7, 2)
        file["task"] = [b"reach"] * 7
    store = TrajectoryStore(path)
    assert list(store.columns) == ["action"]
    assert store.read("action")[:, 0].tolist() == [8, 10, 0, 2, 4]


def test_several_stores_are_one_table(tmp_path: Path) -> None:
    write_store(tmp_path / "a", 2)
    with StoreWriter(tmp_path / "b", {**RECIPE, "env": "other"}, 1) as writer:
        writer.write(0, {"action": np.zeros((3, 2), np.float32), "state": np.ones((3, 6))})
    store = TrajectoryStore([tmp_path / "a", tmp_path / "b"])
    assert list(store.columns) == ["action"]
    assert (store.num_rows, store.sources.tolist()) == (15, [0, 0, 1])
    assert store.read("state", np.arange(12, 15)).shape == (3, 6)
    assert store.rows_with("pixels").tolist() == [True] * 12 + [False] * 3
    assert store.setting("frame_skip") == 4
    with pytest.raises(ValueError, match="'state' is float64 .* and float64 .*; read them apart"):
        store.read("state")
    with pytest.raises(ValueError, match="no column 'pixels' in .*b"):
        store.read("pixels")
    with pytest.raises(ValueError, match="env is 'toy' in .* and 'other'"):
        store.setting("env")


def test_a_store_travels_to_other_processes(tmp_path: Path) -> None:
    store = TrajectoryStore(write_store(tmp_path / "data"))
    rows = np.arange(10)
    expected = store.read("pixels", rows)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read("pixels", rows), expected)
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, b"y" if (store.read("pixels", rows) == expected).all() else b"n")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"y"


def test_episodes_are_split_once_and_for_all(tmp_path: Path) -> None:
    store = TrajectoryStore(write_store(tmp_path / "data", 20, num_steps=1))
    train, held = store.split(0.1, seed=3)
    assert (len(train), len(held)) == (18, 2)
    assert sorted([*train, *held]) == list(range(20))
    np.testing.assert_array_equal(store.split(0.1, seed=3)[1], held)
    assert any(not np.array_equal(store.split(0.1, seed=s)[1], held) for s in range(4))
    with pytest.raises(ValueError, match=r"fraction in \[0, 1\)"):
        store.split(1.0)


def test_staging_is_open_to_other_processes(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "data", RECIPE, 1) as writer:
        stage_episode(tmp_path / "data", 0, make_episode(0))
        writer.commit(0)
    assert Manifest.load(tmp_path / "data").shards[0].num_rows == 6
