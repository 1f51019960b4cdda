"""What is planted is found, in its episode and step; what is sound gives no alarm."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.dot_world import RECIPE, make_episode
from wm_plan.data.validating import Finding, validate
from wm_plan.world_model.formats import open_source
from wm_plan.world_model.store_writer import StoreWriter

Columns = dict[str, np.ndarray]
NUM_EPISODES, NUM_STEPS = 12, 30


def write(root: Path, change: Callable[[int, Columns], None] = lambda index, columns: None, **recipe) -> Path:
    """Dots that go where actions tell them, with what `change` does to an episode."""
    with StoreWriter(root, {**RECIPE, **recipe}, NUM_EPISODES, episodes_per_shard=5) as writer:
        for index in writer.missing():
            columns = make_episode(index, NUM_STEPS)
            columns["proprio"] = columns.pop("state").astype(np.float32)
            change(index, columns)
            writer.write(index, columns)
    return root


def findings(root: Path, **options) -> list[Finding]:
    return validate(open_source(root), **options)


def test_sound_data_give_no_finding(tmp_path: Path) -> None:
    assert findings(write(tmp_path / "data")) == []


def test_values_that_are_no_numbers_are_named_with_their_first_step(tmp_path: Path) -> None:
    def change(index: int, columns: Columns) -> None:
        if index == 3:
            columns["action"][7, 1] = np.nan
            columns["action"][9, 0] = np.inf
        if index == 5:
            columns["proprio"][4] = np.nan

    found = findings(write(tmp_path / "data", change))
    places = [(f.kind, f.episode, f.step, f.column) for f in found]
    assert places == [("non-finite", 3, 7, "action"), ("non-finite", 5, 4, "proprio")]
    assert str(found[0]) == "non-finite: episode 3, step 7: action holds nan in 2 rows"


def test_actions_outside_their_bounds_are_named(tmp_path: Path) -> None:
    def change(index: int, columns: Columns) -> None:
        if index == 6:
            columns["action"][11, 1] = 1.5

    root = write(tmp_path / "data", change)
    (found,) = findings(root)
    assert (found.kind, found.episode, found.step) == ("out-of-range", 6, 11)
    assert "action[1] is 1.5, its bounds are -1 to 1" in found.message
    wider = (np.array([-2.0, -2.0]), np.array([2.0, 2.0]))
    assert findings(root, bounds=wider) == []
    assert findings(root, ignore=["out-of-range"]) == []


@pytest.mark.parametrize("seen", ["proprio", "action"])
def test_a_frozen_camera_is_named(tmp_path: Path, seen: str) -> None:
    def change(index: int, columns: Columns) -> None:
        if index == 2:
            columns["pixels"][10:21] = columns["pixels"][10]
        if seen == "action":
            del columns["proprio"]

    (found,) = findings(write(tmp_path / "data", change))
    assert (found.kind, found.episode, found.step, found.column) == ("frozen-frames", 2, 10, "pixels")
    assert "rows 10 to 20" in found.message


def test_a_robot_that_rests_is_no_frozen_camera(tmp_path: Path) -> None:
    def change(index: int, columns: Columns) -> None:
        for name in ("pixels", "proprio"):
            columns[name][10:] = columns[name][10]
        columns["action"][10:-1] = 0

    assert findings(write(tmp_path / "data", change)) == []


@pytest.mark.parametrize(("rows", "said"), [(1, "1 row late"), (-1, "1 row early")])
def test_actions_one_row_off_are_found(tmp_path: Path, rows: int, said: str) -> None:
    def change(index: int, columns: Columns) -> None:
        columns["action"][:-1] = np.roll(columns["action"][:-1], rows, axis=0)

    (found,) = findings(write(tmp_path / "data", change))
    assert (found.kind, found.episode, found.column) == ("misaligned", None, "action")
    assert said in found.message


def test_rows_that_are_not_equally_far_apart_are_named(tmp_path: Path) -> None:
    def change(index: int, columns: Columns) -> None:
        seconds = 0.1 * np.arange(NUM_STEPS + 1)
        if index == 4:
            seconds[13:] += 0.3
        if index == 8:
            seconds *= 2
        columns["timestamp"] = seconds.astype(np.float32)

    found = findings(write(tmp_path / "data", change))
    assert [(f.kind, f.episode, f.step) for f in found] == [("mixed-fps", 4, 12), ("mixed-fps", 8, 0)]


def test_columns_that_are_missing_are_named_with_what_is_there(tmp_path: Path) -> None:
    def change(index: int, columns: Columns) -> None:
        columns["pixels"] = columns["pixels"].astype(np.float32)
        del columns["action"]

    found = findings(write(tmp_path / "data", change))
    assert [f.kind for f in found] == ["missing-column", "missing-column"]
    assert "pixels holds float32 (16, 16, 3), not frames" in found[0].message
    assert "no column holds actions, a vector of numbers; there are pixels float32" in found[1].message


def test_a_damaged_chunk_is_named_with_its_row(tmp_path: Path) -> None:
    """Frames that compress badly, one of whose chunks is overwritten in place."""

    def change(index: int, columns: Columns) -> None:
        noise = np.random.default_rng(index).integers(0, 256, (NUM_STEPS + 1, 48, 48, 3), dtype=np.uint8)
        noise[:, :16, :16] = columns["pixels"]
        columns["pixels"] = noise

    root = write(tmp_path / "data", change)
    import h5py

    shard = root / "shard-00000005.h5"
    with h5py.File(shard, "r") as file:
        chunk = file["pixels"].id.get_chunk_info(2 * (NUM_STEPS + 1) + 17)
    with shard.open("r+b") as raw:
        raw.seek(chunk.byte_offset + chunk.size // 2)
        raw.write(bytes(64))
    found = findings(root)
    assert [(f.kind, f.episode, f.step) for f in found] == [
        ("changed-file", None, None),
        ("unreadable", 7, 17),
    ]
    assert "shard-00000005.h5" in found[0].message


def test_a_single_episode_one_row_off_is_named(tmp_path: Path) -> None:
    def long(root: Path, odd: int) -> Path:
        with StoreWriter(root, RECIPE, 10) as writer:
            for index in writer.missing():
                columns = make_episode(index, 150)
                if index == odd:
                    columns["action"][:-1] = np.roll(columns["action"][:-1], 1, axis=0)
                writer.write(index, columns)
        return root

    assert findings(long(tmp_path / "sound", -1)) == []
    (found,) = findings(long(tmp_path / "odd", 6))
    assert (found.kind, found.episode) == ("misaligned", 6)


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "data")
    with pytest.raises(ValueError, match="unknown kind of finding 'frozen'; known are unreadable"):
        findings(root, ignore=["frozen"])
    with pytest.raises(ValueError, match="no column 'wrist'"):
        findings(root, columns={"pixels": "wrist"})
    shutil.rmtree(root)
