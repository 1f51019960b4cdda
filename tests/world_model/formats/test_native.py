"""Native stores and bare HDF5 files as sources; converting any source into a native store."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from tests.trajectories import make_episode, write_store
from wm_plan.world_model import TrajectoryStore
from wm_plan.world_model.formats import default_columns, open_source, write_native
from wm_plan.world_model.formats.native import BareFileSource, NativeSource

LENGTHS = (4, 6)


def bare_file(
    path: Path, convention: str, *, step_idx: bool = True, size: int = 32, **options: object
) -> Path:
    """A file as stable-worldmodel leaves it, of episodes with `LENGTHS` actions."""
    with h5py.File(path, "w") as file:
        rows: dict[str, list] = {name: [] for name in ("pixels", "action", "step_idx", "ep_idx")}
        for episode, steps in enumerate(LENGTHS):
            rng = np.random.default_rng(episode)
            pixels = rng.integers(0, 255, (steps + 1, size, size, 3), dtype=np.uint8)
            action = rng.normal(size=(steps, 2)).astype(np.float32)
            if convention == "missing-reset":
                rows["pixels"].append(pixels[1:])
                rows["action"].append(np.roll(action, -1, axis=0))
                rows["step_idx"].append(np.arange(1, steps + 1))
            else:
                rows["pixels"].append(pixels)
                rows["action"].append(np.concatenate([action, np.full((1, 2), np.nan, np.float32)]))
                rows["step_idx"].append(np.arange(steps + 1))
            rows["ep_idx"].append(np.full(len(rows["action"][-1]), episode, np.int32))
        lengths = np.array([len(part) for part in rows["action"]], np.int32)
        for name, values in rows.items():
            if name != "step_idx" or step_idx:
                chunked = options if name == "pixels" else {}
                file.create_dataset(name, data=np.concatenate(values), **chunked)
        file["ep_len"], file["ep_offset"] = lengths, np.cumsum(lengths, dtype=np.int64) - lengths
        file["policy"] = ["expert"] * int(lengths.sum())
    return path


def logged(episode: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames and actions that `bare_file` logged."""
    rng = np.random.default_rng(episode)
    pixels = rng.integers(0, 255, (LENGTHS[episode] + 1, 32, 32, 3), dtype=np.uint8)
    return pixels, rng.normal(size=(LENGTHS[episode], 2)).astype(np.float32)


def test_a_file_with_the_final_observation_is_read_as_it_is(tmp_path: Path) -> None:
    source = open_source(bare_file(tmp_path / "pusht.h5", "final-observation"))
    assert (source.format, source.info["convention"]) == ("stable-worldmodel", "final-observation")
    assert source.lengths.tolist() == [5, 7]
    for episode in range(2):
        pixels, action = logged(episode)
        rows = source.read(episode, ["pixels", "action"])
        np.testing.assert_array_equal(rows["pixels"], pixels)
        np.testing.assert_array_equal(rows["action"][:-1], action)
        assert np.isnan(rows["action"][-1]).all()


@pytest.mark.parametrize("step_idx, told", [(True, "step_idx starts at 1"), (False, "nothing in the file")])
def test_a_file_without_the_reset_loses_its_wrong_last_action(
    tmp_path: Path, step_idx: bool, told: str
) -> None:
    source = open_source(bare_file(tmp_path / "pusht.h5", "missing-reset", step_idx=step_idx))
    assert source.info["convention"] == "missing-reset"
    assert told in source.info["convention_from"]
    for episode, steps in enumerate(LENGTHS):
        pixels, action = logged(episode)
        rows = source.read(episode, ["pixels", "action"])
        np.testing.assert_array_equal(rows["pixels"], pixels[1:])
        np.testing.assert_array_equal(rows["action"][:-1], action[1:])
        assert np.isnan(rows["action"][-1]).all()
        assert np.isfinite(source.read(episode, ["action"], 0, steps - 1)["action"]).all()
        assert np.isnan(source.read(episode, ["action"], steps - 1)["action"]).all()


def test_the_row_convention_can_be_said(tmp_path: Path) -> None:
    path = bare_file(tmp_path / "pusht.h5", "missing-reset", step_idx=False)
    source = open_source(path, convention="plain")
    assert source.info["convention_from"] == "the option"
    np.testing.assert_array_equal(source.read(0, ["action"])["action"][-1], logged(0)[1][0])
    with pytest.raises(ValueError, match="unknown row convention 'odd'; known are final-observation"):
        BareFileSource(path, "odd")
    with pytest.raises(ValueError, match="is native, which has one row convention; leave 'plain' away"):
        open_source(write_store(tmp_path / "store"), convention="plain")


def test_a_file_compressed_with_blosc_is_read_in_other_processes_too(tmp_path: Path) -> None:
    blosc = hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.SHUFFLE)
    path = bare_file(tmp_path / "pusht.h5", "final-observation", chunks=(4, 32, 32, 3), compression=blosc)
    np.testing.assert_array_equal(open_source(path).read(1, ["pixels"])["pixels"], logged(1)[0])
    store = tmp_path / "store.pickle"
    store.write_bytes(pickle.dumps(TrajectoryStore(path)))
    script = f"""
import pickle
store = pickle.load(open({str(store)!r}, "rb"))
print(int(store.read("pixels").astype(int).sum()))
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert int(told) == sum(int(logged(episode)[0].astype(int).sum()) for episode in range(2))


def test_a_bare_file_says_what_training_asks(tmp_path: Path) -> None:
    store = TrajectoryStore(bare_file(tmp_path / "pusht.h5", "final-observation"))
    assert store.recipes == [{"env": "pusht", "frame_skip": 1, "image_size": 32}]
    assert store.setting("image_size") == 32


def test_a_header_that_declares_what_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("action", (10**9, 4), np.float32, chunks=(1024, 4))
        file["ep_len"], file["ep_offset"] = np.array([10**9]), np.array([0])
    with pytest.raises(ValueError, match="'action' declares 1000000000 rows and does not store them"):
        open_source(path)
    with h5py.File(path, "r+") as file:
        file["ep_len"][...] = 2**62
    with pytest.raises(ValueError, match="names rows beyond"):
        open_source(path)


def test_a_store_is_a_source_and_a_copy_of_it_is_the_same(tmp_path: Path) -> None:
    source = open_source(write_store(tmp_path / "a"))
    assert isinstance(source, NativeSource)
    assert default_columns(source) == {"pixels": "pixels", "action": "action"}
    told: list[tuple[int, int]] = []
    write_native(source, tmp_path / "b", progress=lambda done, total: told.append((done, total)))
    assert told == [(i, 7) for i in range(8)]
    before, after = TrajectoryStore(tmp_path / "a"), TrajectoryStore(tmp_path / "b")
    assert before.columns == after.columns
    for name in before.columns:
        np.testing.assert_array_equal(before.read(name), after.read(name))
    assert after.setting("env") == "toy"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_columns_are_renamed_and_the_others_come_along(tmp_path: Path) -> None:
    source = open_source(write_store(tmp_path / "a"))
    write_native(source, tmp_path / "b", {"pixels": "pixels", "action": "action", "proprio": "state"})
    store = TrajectoryStore(tmp_path / "b")
    assert sorted(store.columns) == ["action", "pixels", "proprio"]
    np.testing.assert_array_equal(store.read("proprio"), source.store.read("state"))
    for columns, message in (
        ({"pixels": "picture"}, "no column 'picture' in .* it has action, pixels, state"),
        ({"pixels": "pixels", "again": "pixels"}, "given twice"),
        ({"../pixels": "pixels"}, "is no name for a column"),
    ):
        with pytest.raises(ValueError, match=message):
            write_native(source, tmp_path / "c", columns)
    assert not (tmp_path / "c").exists()


def test_some_episodes_are_written_in_the_order_given(tmp_path: Path) -> None:
    source = open_source(write_store(tmp_path / "a"))
    write_native(source, tmp_path / "b", episodes=[5, 2])
    assert TrajectoryStore(tmp_path / "b").read("state")[::6, 0].tolist() == [5, 2]
    with pytest.raises(ValueError, match="no episode 7 in .*; it has 0 to 6"):
        write_native(source, tmp_path / "c", episodes=[7])


def test_nothing_is_overwritten_unless_told(tmp_path: Path) -> None:
    source = open_source(write_store(tmp_path / "a"))
    write_native(source, tmp_path / "b", episodes=[0])
    with pytest.raises(ValueError, match="b exists; overwrite it or give another folder"):
        write_native(source, tmp_path / "b")
    write_native(source, tmp_path / "b", overwrite=True)
    assert TrajectoryStore(tmp_path / "b").num_episodes == 7
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is no dataset, and is not overwritten"):
        write_native(source, tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()


KILLED = """
import os, signal, sys
from wm_plan.world_model.formats import open_source, {function}
def progress(done, total):
    if done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
{function}(open_source({src!r}), {dst!r}, progress=progress, **{options!r})
"""


@pytest.mark.parametrize(
    "function, options",
    [
        ("write_native", {"episodes_per_shard": 3}),
        ("write_lerobot", {"fps": 10, "images": True}),
        ("write_lerobot", {"fps": 10}),
    ],
)
def test_a_killed_conversion_goes_on_and_ends_with_the_same_files(
    tmp_path: Path, function: str, options: dict
) -> None:
    from wm_plan.world_model import formats

    src, dst, whole = write_store(tmp_path / "a"), tmp_path / "b", tmp_path / "whole"
    write = getattr(formats, function)
    script = KILLED.format(function=function, src=str(src), dst=str(dst), options=options)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not dst.exists()
    with pytest.raises(ValueError, match=r"an unfinished conversion lies in .*\.b\.partial; resume it"):
        write(open_source(src), dst, **options)
    with pytest.raises(ValueError, match="was begun with episodes .*, not .*; resume with the same settings"):
        write(open_source(src), dst, resume=True, episodes=[1], **options)
    told: list[int] = []
    write(open_source(src), dst, resume=True, progress=lambda done, total: told.append(done), **options)
    assert told[-1] == 7
    if function == "write_native":
        assert told[0] == 4
    write(open_source(src), whole, **options)
    assert contents(dst) == contents(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "whole"]


def contents(root: Path) -> dict[str, bytes]:
    """Every file, without the times at which shards were written."""
    files = {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    if "manifest.json" in files:
        manifest = json.loads(files["manifest.json"])
        for shard in manifest["shards"]:
            del shard["mtime_ns"]
        files["manifest.json"] = json.dumps(manifest).encode()
    return files


def test_two_conversions_into_one_place_are_refused(tmp_path: Path) -> None:
    from wm_plan.world_model.formats.destination import destination

    with (
        destination(tmp_path / "b", {}),
        pytest.raises(ValueError, match="being written by another process"),
        destination(tmp_path / "b", {}, resume=True),
    ):
        pass


def test_long_episodes_are_written_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wm_plan.world_model.formats import native_writer

    monkeypatch.setattr(native_writer, "BLOCK_BYTES", 3 * 40 * 40 * 3)
    source = open_source(write_store(tmp_path / "a", num_steps=20))
    reads: list[int] = []
    read = source.read

    def counting(*args: object, **options: object) -> dict[str, np.ndarray]:
        values = read(*args, **options)
        reads.append(len(values["pixels"]) if "pixels" in values else 0)
        return values

    source.read = counting
    write_native(source, tmp_path / "b")
    assert max(reads) == 2
    np.testing.assert_array_equal(
        TrajectoryStore(tmp_path / "b").read("pixels", slice(0, 21)), make_episode(0, num_steps=20)["pixels"]
    )


def test_what_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such file or folder"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match="in no known format of logged trajectories. Known are native: "):
        open_source(tmp_path / "notes.txt")
    os.truncate(bare_file(tmp_path / "cut.h5", "final-observation"), 3000)
    with pytest.raises(ValueError, match="cut.h5 is damaged"):
        open_source(tmp_path / "cut.h5")
