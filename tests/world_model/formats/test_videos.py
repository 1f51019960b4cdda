import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.logged_files import actions_csv, smooth_frames, video_file
from wm_plan.world_model.formats import Source, open_source
from wm_plan.world_model.formats.videos import VideosSource


def mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def test_a_video_and_a_table_make_an_episode(tmp_path: Path) -> None:
    truth = [smooth_frames(6), smooth_frames(9, seed=3)]
    for i, images in enumerate(truth):
        video_file(tmp_path / f"episode_{i}.mp4", images)
        actions_csv(tmp_path / f"episode_{i}.csv", len(images) - 1)
    source = open_source(tmp_path)
    assert isinstance(source, Source)
    assert (source.format, source.lengths.tolist(), source.fps) == ("videos", [6, 9], 20)
    assert source.columns["video"].shape == (48, 64, 3)
    assert source.columns["video"].lossy
    assert source.columns["action"].names == ("action_0", "action_1")
    rows = source.read(1, ["video", "action", "timestamp"])
    assert rows["video"].shape == (9, 48, 64, 3)
    # The square moves by 4 pixels a frame, so that a frame too early or too late differs by far more.
    assert mean_difference(rows["video"], truth[1]) < 2.5
    assert mean_difference(rows["video"][1:], truth[1][:-1]) > 5
    assert rows["action"][:-1].tolist() == [[t, t + 1] for t in range(8)]
    assert np.isnan(rows["action"][-1]).all()
    assert rows["timestamp"][:3].tolist() == [0, 0.05, 0.1]


def test_as_many_actions_as_frames_keep_the_last_action(tmp_path: Path) -> None:
    video_file(tmp_path / "a.mp4", smooth_frames(5))
    actions_csv(tmp_path / "a.csv", 5)
    source = VideosSource(tmp_path)
    assert source.lengths.tolist() == [5]
    assert source.read(0, ["action"])["action"][-1].tolist() == [4, 5]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")],
)
def test_any_part_of_a_video_equals_that_part_of_the_whole(tmp_path: Path, name: str, codec: str) -> None:
    images = smooth_frames(90)
    video_file(tmp_path / name, images, codec=codec)
    actions_csv(tmp_path / "a.csv", 90)
    whole = VideosSource(tmp_path).read(0, ["video"])["video"]
    assert mean_difference(whole, images) < 4
    source = VideosSource(tmp_path)
    for start, stop in ((80, 90), (0, 3), (3, 5), (50, 51), (49, 52), (89, 90), (7, 7), (36, 49)):
        part = source.read(0, ["video"], start, stop)["video"]
        np.testing.assert_array_equal(part, whole[start:stop])


def test_cameras_by_name_and_by_folder_are_the_same(tmp_path: Path) -> None:
    for seed, camera in enumerate(("front", "wrist")):
        images = smooth_frames(5, seed=seed)
        video_file(tmp_path / "names" / f"episode_00.{camera}.mp4", images)
        video_file(tmp_path / "folders" / camera / "episode_00.mp4", images)
    for layout in ("names", "folders"):
        np.savez(tmp_path / layout / "episode_00.npz", action=np.arange(8.0).reshape(4, 2))
    names, folders = VideosSource(tmp_path / "names"), VideosSource(tmp_path / "folders")
    assert list(names.columns) == ["video.front", "video.wrist", "action"]
    assert names.columns == folders.columns
    one, other = names.read(0, list(names.columns)), folders.read(0, list(names.columns))
    for name in names.columns:
        np.testing.assert_array_equal(one[name], other[name])
    assert mean_difference(one["video.front"], one["video.wrist"]) > 5


@pytest.mark.parametrize(
    "episodes",
    [("episode_2", "episode_10"), ("2", "10"), ("episode_2.mp4", "episode_10.mp4"), ("2.0", "10.0")],
)
def test_one_table_of_all_episodes_names_or_numbers_the_videos(
    tmp_path: Path, episodes: tuple[str, str]
) -> None:
    video_file(tmp_path / "videos" / "episode_2.mp4", smooth_frames(3))
    video_file(tmp_path / "videos" / "episode_10.mp4", smooth_frames(4))
    rows = [f"{episodes[0]},{t},0" for t in range(3)] + [f"{episodes[1]},{t},1" for t in range(3)]
    (tmp_path / "actions.csv").write_text("\n".join(["episode,action.x,action.y", *rows]))
    source = VideosSource(tmp_path)
    assert source.lengths.tolist() == [3, 4]
    assert source.info["episodes"] == ["episode_2", "episode_10"]
    assert source.read(0, ["action"])["action"].tolist() == [[0, 0], [1, 0], [2, 0]]
    assert source.read(1, ["action"], 1, 3)["action"].tolist() == [[1, 1], [2, 1]]


def columns_of(tmp_path: Path, table: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    video_file(tmp_path / "a.mp4", smooth_frames(2))
    (tmp_path / "a.csv").write_text(table)
    return {n: (c.kind, c.names) for n, c in VideosSource(tmp_path).columns.items() if n != "video"}


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("action[0],action[1]", {"action": ("vector", ("action[0]", "action[1]"))}),
        (
            "timestamp,x,y,reward",
            {
                "timestamp": ("scalar", ()),
                "reward": ("scalar", ()),
                "action": ("vector", ("x", "y")),
            },
        ),
        (
            "joint1,joint2,action,robot.state.z",
            {
                "joint": ("vector", ("joint1", "joint2")),
                "action": ("scalar", ()),
                "robot.state": ("vector", ("robot.state.z",)),
            },
        ),
        ("action_0", {"action": ("vector", ("action_0",))}),
    ],
)
def test_headers_become_columns(tmp_path: Path, header: str, columns: dict) -> None:
    row = ",".join("1" for _ in header.split(","))
    assert columns_of(tmp_path, f"{header}\n{row}\n{row}\n") == columns


def test_texts_are_a_column_and_empty_cells_are_nan(tmp_path: Path) -> None:
    columns = columns_of(tmp_path, "action,task\n1,push\n,pull\n")
    assert columns == {"action": ("scalar", ()), "task": ("text", ())}
    rows = VideosSource(tmp_path).read(0, ["action", "task"])
    assert rows["action"][0] == 1
    assert np.isnan(rows["action"][1])
    assert rows["task"].tolist() == ["push", "pull"]


def test_a_table_without_headers_is_all_action(tmp_path: Path) -> None:
    columns = columns_of(tmp_path, "0.5,1,2\n3,4,5\n")
    assert columns == {"action": ("vector", ("action_0", "action_1", "action_2"))}
    assert VideosSource(tmp_path).read(0, ["action"])["action"].tolist() == [[0.5, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "is empty"),
        ("action\n", "has no rows"),
        ("action,action\n1,2\n3,4\n", "empty, or there twice"),
        ("action\n1\n2\n3\n4\n5\n", "has 2 frames and its table 5 rows"),
        ("action,b\n1,2\n3\n", "a row has 1 cells, the first line 2"),
        ("action\n1\nfast\n", "row 1: could not convert"),
        ('action\n"1\n', "no CSV"),
        ("a" * 2**21, "no table"),
    ],
)
def test_wrong_tables_are_one_clear_error(tmp_path: Path, table: str, message: str) -> None:
    video_file(tmp_path / "a.mp4", smooth_frames(2))
    (tmp_path / "a.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        VideosSource(tmp_path).read(0, ["action"])


def test_episodes_that_differ_or_lack_a_part_are_named(tmp_path: Path) -> None:
    video_file(tmp_path / "a.mp4", smooth_frames(3))
    actions_csv(tmp_path / "a.csv", 3)
    video_file(tmp_path / "b.mp4", smooth_frames(3))
    with pytest.raises(ValueError, match="b.mp4 has no table: no b.csv"):
        VideosSource(tmp_path)
    actions_csv(tmp_path / "b.csv", 3, "timestamp,action_0")
    with pytest.raises(ValueError, match="b.mp4 differs from the first episode in action"):
        VideosSource(tmp_path)
    actions_csv(tmp_path / "b.csv", 3)
    actions_csv(tmp_path / "c.csv", 3)
    with pytest.raises(ValueError, match="no video of 'c', of which there is a table"):
        VideosSource(tmp_path)


def test_mixed_frame_rates_are_told(tmp_path: Path) -> None:
    for name, fps in (("a", 20), ("b", 30)):
        video_file(tmp_path / f"{name}.mp4", smooth_frames(3), fps=fps)
        actions_csv(tmp_path / f"{name}.csv", 3)
    assert VideosSource(tmp_path).info["episode_fps"] == [20, 30]


def test_a_cut_video_is_noticed(tmp_path: Path) -> None:
    video_file(tmp_path / "a.mkv", smooth_frames(60))
    actions_csv(tmp_path / "a.csv", 60)
    content = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="frames and its table 60 rows"):
        VideosSource(tmp_path)


def test_a_playlist_that_calls_itself_a_video_is_refused(tmp_path: Path) -> None:
    secret = video_file(tmp_path / "elsewhere" / "secret.mp4", smooth_frames(3))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.mp4").write_text(f"ffconcat version 1.0\nfile {secret}\n")
    actions_csv(folder / "a.csv", 3)
    with pytest.raises(ValueError, match="a.mp4 is damaged or no video"):
        VideosSource(folder)


@pytest.mark.parametrize("name", ["a.mp4", "a.csv"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    video_file(folder / "a.mp4", smooth_frames(3))
    actions_csv(folder / "a.csv", 3)
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is a link out of the folder"):
        VideosSource(folder)


def test_an_npz_that_lies_about_its_size_or_holds_objects_is_refused(tmp_path: Path) -> None:
    video_file(tmp_path / "a.mp4", smooth_frames(3))
    np.savez(tmp_path / "a.npz", action=np.array([{}, {}, {}], dtype=object))
    with pytest.raises(ValueError, match="action.npy declares object"):
        VideosSource(tmp_path)
    for shape in ((10**9, 2), (10**17, 10**17), (2, 2), (-3, 2)):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("action.npy", header.getvalue() + bytes(48))
        with pytest.raises(ValueError, match="a.npz is damaged .* which is not what it stores"):
            VideosSource(tmp_path)
