"""What is written as a LeRobotDataset is laid out as the format says, and comes back as it was."""

import json
from pathlib import Path

import av
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from tests.robot_logs import arm_store, reacher_store
from wm_plan.world_model import TrajectoryStore
from wm_plan.world_model.formats import default_columns, open_source, write_lerobot, write_native

GENUINE = Path(__file__).parents[2] / "data" / "lerobot_video" / "dataset"
INFO = "meta/info.json"
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
STATISTICS = {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
FPS = {"reacher": 12.5, "arm": 20.0}
VIDEO_ERROR = 2.5  # mean grey levels that a video loses on renderings, at most
GENUINE_ERROR = 4.0  # and on the genuine dataset's, which have been through a video before


@pytest.fixture(scope="module", params=["reacher", "arm"])
def logged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    root = tmp_path_factory.mktemp(request.param) / "store"
    return request.param, {"reacher": reacher_store, "arm": arm_store}[request.param](root)


def there_and_back(root: Path, store: Path, **options: object) -> tuple[Path, TrajectoryStore]:
    source = open_source(store)
    dataset = write_lerobot(source, root / "lerobot", **options)
    return dataset, TrajectoryStore(write_native(open_source(dataset), root / "native"))


def test_lossless_images_come_back_to_the_bit(tmp_path: Path, logged: tuple[str, Path]) -> None:
    before = TrajectoryStore(logged[1])
    dataset, after = there_and_back(tmp_path, logged[1], images=True)
    assert not list(dataset.rglob("*.mp4"))
    for name, spec in before.columns.items():
        assert after.columns[name] == spec
        values = after.read(name)
        assert values.tobytes() == before.read(name).tobytes(), name
    assert after.lengths.tolist() == before.lengths.tolist()
    for key, value in before.recipes[0].items():
        assert after.setting(key) == value


def test_video_loses_grey_levels_and_nothing_else(tmp_path: Path, logged: tuple[str, Path]) -> None:
    before = TrajectoryStore(logged[1])
    _, after = there_and_back(tmp_path, logged[1])
    for name, spec in before.columns.items():
        assert after.columns[name] == spec
        if name.startswith("pixels"):
            there, known = after.read(name).astype(int), before.read(name).astype(int)
            error = np.abs(there - known).mean(axis=(1, 2, 3))
            assert error.max() < VIDEO_ERROR
            moved = np.abs(there[:-1] - known[1:]).mean(axis=(1, 2, 3))
            same = (known[1:] == known[:-1]).all(axis=(1, 2, 3))
            assert (error[:-1] <= moved)[~same].all(), "a frame is nearer to the next one than to its own"
        else:
            assert after.read(name).tobytes() == before.read(name).tobytes(), name


def test_timestamps_are_as_the_format_demands_and_as_they_were_logged(
    tmp_path: Path, logged: tuple[str, Path]
) -> None:
    name, store = logged
    source = open_source(write_lerobot(open_source(store), tmp_path / "a", images=True))
    for episode in range(len(source.lengths)):
        rows = np.arange(source.lengths[episode])
        np.testing.assert_array_equal(
            source.read(episode, ["timestamp"])["timestamp"], (rows / FPS[name]).astype(np.float32)
        )
    assert ("logged_timestamp" in source.columns) == (name == "arm")


def test_every_file_column_and_key_is_there(tmp_path: Path) -> None:
    genuine = json.loads((GENUINE / INFO).read_text())
    source = open_source(GENUINE)
    root = write_lerobot(source, tmp_path / "again")
    files = {str(path.relative_to(GENUINE)) for path in GENUINE.rglob("*") if path.is_file()}
    assert {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} == files | {"meta/wm_plan.json"}
    info = json.loads((root / INFO).read_text())
    assert info.keys() == genuine.keys()
    for key in info.keys() - {"features"}:
        assert info[key] == genuine[key], key
    assert info["features"].keys() == genuine["features"].keys()
    for name, feature in genuine["features"].items():
        names = feature["names"]
        expected = {**feature, "names": names["motors"] if isinstance(names, dict) else names}
        assert info["features"][name] == expected
    for path in (DATA, EPISODES):
        ours, theirs = parquet.read_schema(root / path), parquet.read_schema(GENUINE / path)
        assert set(ours.names) == set(theirs.names)
        for field in theirs:
            assert str(ours.field(field.name).type) == str(field.type), field.name
    described = [
        json.loads(parquet.read_schema(base / DATA).metadata[b"huggingface"])["info"]["features"]
        for base in (root, GENUINE)
    ]
    assert described[0] == described[1]
    file = parquet.ParquetFile(root / DATA)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [12, 20, 7]
    for name in ("index", "dataset_from_index", "dataset_to_index", "tasks", "length"):
        path = DATA if name == "index" else EPISODES
        assert parquet.read_table(root / path)[name].equals(parquet.read_table(GENUINE / path)[name])
    for name in [
        n for n in parquet.read_schema(GENUINE / EPISODES).names if n.startswith(("videos/", "data/"))
    ]:
        ours, theirs = (parquet.read_table(base / EPISODES)[name].to_pylist() for base in (root, GENUINE))
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_tasks_are_the_index_of_a_pandas_table(tmp_path: Path) -> None:
    root = write_lerobot(open_source(GENUINE), tmp_path / "a", images=True)
    table = parquet.read_table(root / "meta" / "tasks.parquet")
    pandas = json.loads(table.schema.metadata[b"pandas"])
    assert pandas["index_columns"] == ["task"]
    assert table["task_index"].to_pylist() == [0, 1, 2]
    assert table["task"].to_pylist() == open_source(GENUINE).info["tasks"]
    only = write_lerobot(open_source(GENUINE), tmp_path / "b", images=True, task="push", episodes=[1])
    source = open_source(only)
    assert (source.info["tasks"], source.info["splits"]) == (["push"], {"train": "0:1"})
    assert not source.read(0, ["task_index"])["task_index"].any()


def test_videos_are_encoded_as_lerobot_does(tmp_path: Path) -> None:
    root = write_lerobot(open_source(GENUINE), tmp_path / "a")
    path = "videos/observation.images.front/chunk-000/file-000.mp4"
    shown = []
    for base in (root, GENUINE):
        with av.open(str(base / path)) as container:
            stream = container.streams.video[0]
            packets = [p for p in container.demux(stream) if p.pts is not None]
            shown.append(
                (
                    stream.codec_context.pix_fmt,
                    float(stream.average_rate),
                    [p.is_keyframe for p in packets],
                    [float(p.pts * stream.time_base) for p in packets],
                )
            )
    assert shown[0][0] == shown[1][0] == "yuv420p"
    assert shown[0][1] == shown[1][1] == 10
    assert shown[0][3] == shown[1][3]
    assert all(shown[0][2][start::2][0] for start in (0, 12, 32)), "an episode begins with no keyframe"


def test_h264_is_written_when_asked_for(tmp_path: Path) -> None:
    source = open_source(GENUINE)
    root = write_lerobot(source, tmp_path / "a", encoder="libx264")
    info = json.loads((root / INFO).read_text())
    assert info["features"]["observation.images.front"]["info"]["video.codec"] == "h264"
    again = open_source(root)
    name = "observation.images.front"
    error = again.read(1, [name])[name].astype(int) - source.read(1, [name])[name]
    assert np.abs(error).mean() < GENUINE_ERROR
    with pytest.raises(ValueError, match="unknown video encoder 'mpeg1'; known are libsvtav1, libx264"):
        write_lerobot(source, tmp_path / "b", encoder="mpeg1")


def test_statistics_are_right(tmp_path: Path) -> None:
    source = open_source(GENUINE)
    root = write_lerobot(source, tmp_path / "a", images=True)
    stats = json.loads((root / "meta" / "stats.json").read_text())
    assert stats.keys() == source.columns.keys()
    rows: dict[str, list] = {name: [] for name in source.columns}
    for episode in range(3):
        for name, values in source.read(episode, list(source.columns)).items():
            rows[name].append(values)
    table = parquet.read_table(root / EPISODES)
    for name, column in source.columns.items():
        assert stats[name].keys() == STATISTICS
        assert stats[name]["count"] == [39]
        for values, told in (
            (np.concatenate(rows[name]), stats[name]),
            (rows[name][1], {s: table[f"stats/{name}/{s}"][1].as_py() for s in STATISTICS}),
        ):
            known = values.astype(np.float64)
            if column.kind == "image":
                known = np.moveaxis(known, -1, 0).reshape(3, -1).T / 255
            known = known.reshape(len(known), -1)
            shape = (3, 1, 1) if column.kind == "image" else (known.shape[1],)
            for statistic, value in (
                ("min", known.min(axis=0)),
                ("max", known.max(axis=0)),
                ("mean", known.mean(axis=0)),
                ("std", known.std(axis=0)),
                ("q10", np.quantile(known, 0.1, axis=0)),
                ("q99", np.quantile(known, 0.99, axis=0)),
            ):
                given = np.array(told[statistic])
                assert given.shape == shape
                np.testing.assert_allclose(given.reshape(-1), value, atol=1 / 254, rtol=1e-6, err_msg=name)
    assert stats["next.done"]["max"] == [True]


def test_the_final_observation_repeats_an_action_for_others_and_none_for_us(
    tmp_path: Path, logged: tuple[str, Path]
) -> None:
    root = write_lerobot(open_source(logged[1]), tmp_path / "a", images=True)
    source = open_source(root)
    stored = np.array(parquet.read_table(root / DATA)["action"].to_pylist(), np.float32)
    assert np.isfinite(stored).all()
    end = int(source.lengths[0])
    np.testing.assert_array_equal(stored[end - 1], stored[end - 2])
    assert np.isnan(source.read(0, ["action"])["action"][-1]).all()
    assert np.isfinite(source.read(0, ["action"], 0, end - 1)["action"]).all()
    (root / "meta" / "wm_plan.json").unlink()
    assert np.isfinite(open_source(root).read(0, ["action"])["action"]).all()


def test_columns_get_lerobots_names(tmp_path: Path) -> None:
    source = open_source(write_lerobot(open_source(arm_store(tmp_path / "arm", 1)), tmp_path / "a"))
    assert {"observation.images.main", "observation.images.side", "observation.state", "action"} <= set(
        source.columns
    )
    roles = default_columns(source)
    assert roles["pixels_side"] == "observation.images.side"
    assert roles["proprio"] == "observation.state"


def test_files_are_begun_anew_when_they_are_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wm_plan.world_model.formats import lerobot_files

    source = open_source(GENUINE)
    for name, value in (("VIDEO_FILE_MB", 0.001), ("DATA_FILE_MB", 0.001), ("CHUNKS_SIZE", 2)):
        monkeypatch.setattr(lerobot_files, name, value)
    root = write_lerobot(source, tmp_path / "a")
    videos = sorted(str(p.relative_to(root / "videos")) for p in root.rglob("*.mp4"))
    assert "observation.images.front/chunk-001/file-000.mp4" in videos
    assert len(list((root / "data").rglob("*.parquet"))) > 1
    there = open_source(root)
    for episode in range(3):
        values, known = (s.read(episode, list(source.columns)) for s in (there, source))
        for name, column in source.columns.items():
            if column.kind == "image":
                assert np.abs(values[name].astype(int) - known[name]).mean() < GENUINE_ERROR
            else:
                np.testing.assert_array_equal(values[name], known[name])


def test_frames_of_odd_size_are_kept_as_images(tmp_path: Path) -> None:
    from tests.trajectories import write_store

    store = write_store(tmp_path / "odd", 2, size=41)
    with pytest.raises(ValueError, match="does not say how many rows a second it has: give fps"):
        write_lerobot(open_source(store), tmp_path / "a")
    dataset, after = there_and_back(tmp_path, store, fps=10)
    assert json.loads((dataset / INFO).read_text())["features"]["observation.images.main"]["dtype"] == "image"
    np.testing.assert_array_equal(after.read("pixels"), TrajectoryStore(store).read("pixels"))


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"needs pyarrow. Install it: pip install 'wm-plan\[data\]'"):
        open_source(GENUINE)
    assert pyarrow.__name__ == "pyarrow"
