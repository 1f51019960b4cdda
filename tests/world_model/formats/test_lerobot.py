"""A dataset that lerobot 0.4.4 wrote reads exactly; hostile ones are one clear line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from wm_plan.world_model.formats import Source, as_store, default_columns, open_source, write_lerobot

GENUINE = Path(__file__).parents[2] / "data" / "lerobot_video"
NAMES = {
    "observation.images.front": "decoded_front",
    "observation.images.wrist": "decoded_wrist",
    "observation.state": "state",
    "action": "action",
    "next.reward": "reward",
    "next.done": "done",
    "timestamp": "timestamp",
    "frame_index": "frame_index",
    "episode_index": "episode_index",
    "task_index": "task_index",
}
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"


def truth() -> dict[str, np.ndarray]:
    with np.load(GENUINE / "truth.npz") as values:
        return dict(values)


def copy_of(root: Path) -> Path:
    return Path(shutil.copytree(GENUINE / "dataset", root / "dataset"))


def test_every_column_of_the_genuine_dataset_is_read_exactly() -> None:
    source, known = open_source(GENUINE / "dataset"), truth()
    assert isinstance(source, Source)
    assert (source.format, source.fps, source.lengths.tolist()) == ("lerobot", 10.0, [12, 20, 7])
    assert set(source.columns) == {*NAMES, "index"}
    ends = np.cumsum(source.lengths)
    for episode, end in enumerate(ends):
        rows = slice(end - source.lengths[episode], end)
        values = source.read(episode, list(NAMES))
        for name, there in NAMES.items():
            column = source.columns[name]
            assert (str(values[name].dtype), values[name].shape[1:]) == (column.dtype, column.shape)
            assert values[name].dtype == known[there].dtype
            np.testing.assert_array_equal(values[name], known[there][rows], err_msg=name)
        tasks = [source.info["tasks"][i] for i in values["task_index"]]
        assert tasks == known["task"][rows].tolist()
    assert source.columns["observation.images.front"].lossy
    assert not source.columns["action"].lossy
    assert source.columns["observation.state"].names == ("x", "y", "vx", "vy")
    assert source.columns["action"].names == ("dx", "dy")
    source.close()


def test_frames_are_found_in_any_order() -> None:
    source, known = open_source(GENUINE / "dataset"), truth()["decoded_wrist"]
    starts = np.cumsum(source.lengths) - source.lengths
    for episode, start, stop in [(2, 3, 7), (0, 0, 1), (1, 19, 20), (1, 5, 9), (1, 9, 20), (0, 4, 4)]:
        frames = source.read(episode, ["observation.images.wrist"], start, stop)["observation.images.wrist"]
        np.testing.assert_array_equal(frames, known[starts[episode] + start : starts[episode] + stop])
    source.close()


def test_the_columns_are_taken_for_what_they_are() -> None:
    assert default_columns(open_source(GENUINE / "dataset")) == {
        "pixels": "observation.images.front",
        "pixels_wrist": "observation.images.wrist",
        "action": "action",
        "proprio": "observation.state",
    }


def test_a_lerobot_dataset_opens_as_a_store_converted_once(tmp_path: Path) -> None:
    told: list[str] = []
    for _ in range(2):
        store = as_store(GENUINE / "dataset", tmp_path, told=told.append)
    assert len(told) == 1
    assert "pixels=observation.images.front" in told[0]
    known = truth()
    for name, there in {
        "pixels": "decoded_front",
        "pixels_wrist": "decoded_wrist",
        "proprio": "state",
    }.items():
        np.testing.assert_array_equal(store.read(name), known[there])
    assert [store.setting(key) for key in ("env", "frame_skip", "image_size")] == ["logged", 1, 64]
    assert store.setting("action_high") == [1.0, 1.0]
    other = as_store(GENUINE / "dataset", tmp_path, columns={"pixels": "observation.images.wrist"})
    np.testing.assert_array_equal(other.read("pixels"), known["decoded_wrist"])
    native = as_store([store.paths[0], other.paths[0]], tmp_path, told=told.append)
    assert (native.paths, len(told)) == ([store.paths[0], other.paths[0]], 1)


def test_a_changed_source_is_converted_anew(tmp_path: Path) -> None:
    root, told = copy_of(tmp_path), []
    as_store(root, tmp_path / "cache", told=told.append)
    table = parquet.read_table(root / DATA)
    action = pyarrow.array([[0.5, 0.25]] * 39, pyarrow.list_(pyarrow.float32(), 2))
    parquet.write_table(
        table.set_column(table.schema.get_field_index("action"), "action", action), root / DATA
    )
    store = as_store(root, tmp_path / "cache", told=told.append)
    assert len(told) == 2
    assert (store.read("action") == (0.5, 0.25)).all()


def edit_info(root: Path, **changes: object) -> None:
    path = root / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def feature(root: Path, name: str, **changes: object) -> None:
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    edit_info(root, features={**features, name: {**features[name], **changes}})


def edit_table(path: Path, name: str, values: object) -> None:
    table = parquet.read_table(path)
    parquet.write_table(table.set_column(table.schema.get_field_index(name), name, values), path)


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def escape_by_link(root: Path) -> None:
    shutil.move(root / DATA, root.parent / "elsewhere.parquet")
    (root / DATA).symlink_to(root.parent / "elsewhere.parquet")


def playlist(root: Path) -> None:
    (root.parent / "secret.txt").write_text("secret")
    (root / VIDEO).write_text(f"#EXTM3U\n#EXTINF:1,\n{root.parent}/secret.txt\n#EXT-X-ENDLIST\n")


HOSTILE: list[tuple[Callable[[Path], object], str]] = [
    (lambda r: (r / "meta/info.json").write_text("{"), "info.json cannot be used"),
    (lambda r: (r / "meta/info.json").write_text("[" * 100_000), "info.json cannot be used"),
    (lambda r: edit_info(r, codebase_version="v2.1"), "LeRobotDataset 'v2.1'; v3.0 can be read"),
    (lambda r: edit_info(r, fps=float("nan")), "fps must be a number above 0"),
    (lambda r: edit_info(r, fps=0), "fps must be a number above 0"),
    (lambda r: edit_info(r, total_episodes=10**9), "has 3 episodes .* info.json says 1000000000"),
    (lambda r: edit_info(r, data_path="../{chunk_index}.parquet"), "which is not inside it"),
    (lambda r: edit_info(r, data_path="/etc/passwd"), "which is not inside it"),
    (lambda r: edit_info(r, data_path="{chunk_index.__class__}"), "cannot be filled in"),
    (lambda r: edit_info(r, data_path="{secret}"), "asks for 'secret'"),
    (lambda r: edit_info(r, video_path="../{video_key}.mp4"), "which is not inside it"),
    (lambda r: edit_info(r, video_path="{video_key:>1000000000}.mp4"), "cannot be filled in"),
    (lambda r: edit_info(r, features={"../../x": {"dtype": "video", "shape": [2, 2, 3]}}), "no plain name"),
    (lambda r: feature(r, "action", shape=[10**9]), "too large"),
    (lambda r: feature(r, "action", shape=[-2]), "whole numbers above 0"),
    (lambda r: feature(r, "action", shape=[3]), r"'action' has 2 entries a row; info.json says \(3,\)"),
    (lambda r: feature(r, "action", dtype="int64"), "'action' is float; info.json says int64"),
    (lambda r: feature(r, "observation.images.front", shape=[4096, 4096, 3]), "frames of 64x64; 4096x4096"),
    (lambda r: cut(r / DATA, 0.5), "file-000.parquet is damaged or no Parquet file"),
    (lambda r: cut(r / EPISODES, 0.9), "file-000.parquet is damaged or no Parquet file"),
    (lambda r: cut(r / VIDEO, 0.5), "file-000.mp4"),
    (lambda r: (r / VIDEO).unlink(), "file-000.mp4 does not exist"),
    (lambda r: (r / DATA).unlink(), "file-000.parquet does not exist"),
    (lambda r: (r / EPISODES).unlink(), "has no meta/episodes"),
    (playlist, "is damaged or no MP4 video"),
    (escape_by_link, "is a link to .*elsewhere.parquet, outside of the dataset"),
    (lambda r: edit_table(r / DATA, "action", pyarrow.array(["a"] * 39)), "'action'"),
    (
        lambda r: edit_table(r / DATA, "action", pyarrow.array([[1.0], [1.0] * 3] + [[1.0, 2.0]] * 37)),
        "lengths",
    ),
    (lambda r: edit_table(r / DATA, "action", pyarrow.nulls(39, pyarrow.float32())), "empty entries"),
    (lambda r: edit_table(r / DATA, "frame_index", pyarrow.array([0] * 39)), "have another frame_index"),
    (lambda r: edit_table(r / DATA, "timestamp", pyarrow.array([1e30] * 39)), "has no frame at"),
    (lambda r: edit_table(r / EPISODES, "length", pyarrow.array([12, 20, 10**9])), "it is cut off"),
    (lambda r: edit_table(r / EPISODES, "length", pyarrow.array([12, 20, -7])), "episodes are empty"),
    (lambda r: edit_table(r / EPISODES, "data/file_index", pyarrow.array([-1] * 3)), "number is below 0"),
    (lambda r: edit_table(r / EPISODES, "data/file_index", pyarrow.array([5] * 3)), "does not exist"),
    (lambda r: edit_table(r / EPISODES, "episode_index", pyarrow.array([0, 0, 1])), "not numbered 0, 1, 2"),
    (
        lambda r: edit_table(r / "meta/tasks.parquet", "task_index", pyarrow.array([0, 1, 10**9])),
        "task_index",
    ),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_dataset_is_one_clear_line(tmp_path: Path, number: int) -> None:
    harm, message = HOSTILE[number]
    root = copy_of(tmp_path)
    harm(root)
    with pytest.raises(ValueError, match=message) as error:
        source = open_source(root)
        for episode in range(len(source.lengths)):
            source.read(episode, list(source.columns))
    assert "\n" not in str(error.value)


def test_a_table_of_a_billion_rows_in_few_bytes_is_refused(tmp_path: Path) -> None:
    root = copy_of(tmp_path)
    rows = 30_000_000
    table = pyarrow.table({"episode_index": pyarrow.array(np.zeros(rows, np.int64))})
    parquet.write_table(table, root / EPISODES, compression="zstd", row_group_size=rows)
    with pytest.raises(ValueError, match=f"declares {rows} rows and has [0-9]+ bytes"):
        open_source(root)


@given(data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_damaged_bytes_anywhere_are_a_clear_line_or_harmless(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        root = copy_of(Path(folder))
        path = data.draw(st.sampled_from(sorted(p for p in root.rglob("*") if p.is_file())))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 8))):
            content[-data.draw(st.integers(1, len(content)))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            source = open_source(root)
            for episode in range(len(source.lengths)):
                source.read(episode, list(source.columns))
        except ValueError as error:
            assert "\n" not in str(error)


def test_images_of_another_size_or_kind_are_refused(tmp_path: Path) -> None:
    root = write_lerobot(open_source(GENUINE / "dataset"), tmp_path / "images", images=True, episodes=[2])
    name = "observation.images.front"
    kind = parquet.read_schema(root / DATA).field(name).type
    for content, message in (
        (b"GIF89a\x01\x00\x01\x00", "the image of 'observation.images.front' in row 0"),
        (None, "holds no image"),
    ):
        values = [{"bytes": content, "path": "/etc/hostname"}] * 7
        edit_table(root / DATA, name, pyarrow.array(values, kind))
        with pytest.raises(ValueError, match=message):
            open_source(root).read(0, [name])


def test_a_cache_of_the_hub_with_its_links_is_read(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "abc"
    shutil.copytree(GENUINE / "dataset", snapshot)
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate([path for path in snapshot.rglob("*") if path.is_file()]):
        shutil.move(path, tmp_path / "blobs" / str(number))
        path.symlink_to(tmp_path / "blobs" / str(number))
    source = open_source(snapshot)
    np.testing.assert_array_equal(source.read(0, ["action"])["action"], truth()["action"][:12])
