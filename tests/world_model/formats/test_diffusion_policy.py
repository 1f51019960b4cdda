import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.logged_files import frames, zarr_store
from wm_plan.world_model.formats import Source, default_columns, open_source
from wm_plan.world_model.formats.diffusion_policy import DiffusionPolicySource


@pytest.mark.parametrize("name", ["pusht.zarr", "pusht.zarr.zip"])
def test_folder_and_zip_are_read_exactly(tmp_path: Path, name: str) -> None:
    source = open_source(zarr_store(tmp_path / name))
    assert isinstance(source, Source)
    assert (source.format, source.lengths.tolist()) == ("diffusion-policy", [4, 5])
    assert source.columns["img"].kind == "image"
    assert (source.columns["img"].dtype, source.columns["img"].shape) == ("uint8", (40, 48, 3))
    assert source.columns["keypoint"].shape == (9, 2)
    rows = source.read(1, list(source.columns))
    np.testing.assert_array_equal(rows["img"], frames(9)[4:])
    assert rows["img"].dtype == np.uint8
    np.testing.assert_array_equal(rows["action"], np.arange(18, dtype=np.float32).reshape(9, 2)[4:])
    np.testing.assert_array_equal(rows["state"], np.arange(45.0).reshape(9, 5)[4:])
    part = source.read(1, ["img", "action"], 2, 3)
    np.testing.assert_array_equal(part["img"], rows["img"][2:3])
    source.close()
    np.testing.assert_array_equal(source.read(0, ["img"])["img"], frames(9)[:4])
    assert default_columns(source)["action"] == "action"


def test_frames_from_zero_to_one_are_scaled(tmp_path: Path) -> None:
    import zarr

    path = zarr_store(tmp_path / "a.zarr")
    array = zarr.open_group(path, mode="r+", zarr_format=2)["data/img"]
    array[:] = frames(9).astype(np.float32) / 255
    source = DiffusionPolicySource(path)
    np.testing.assert_array_equal(source.read(0, ["img"])["img"], frames(9)[:4])
    assert source.columns["img"].lossy


def test_frames_beyond_255_are_no_pixels(tmp_path: Path) -> None:
    import zarr

    path = zarr_store(tmp_path / "a.zarr")
    zarr.open_group(path, mode="r+", zarr_format=2)["data/img"][6, 0, 0, 0] = 400
    source = DiffusionPolicySource(path)
    source.read(0, ["img"])
    with pytest.raises(ValueError, match="episode 1, img: frames reach from 0 to 400"):
        source.read(1, ["img"])


def header_of(path: Path, name: str, **changes: object) -> Path:
    file = path / name / ".zarray"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return path


class Evil:
    def __reduce__(self) -> tuple:
        return os.mkdir, (f"{os.environ['EVIL_FOLDER']}/unpickled",)


def test_pickled_objects_are_refused_and_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path))
    path = zarr_store(tmp_path / "a.zarr")
    evil = {"filters": [{"id": "pickle", "protocol": 5}], "dtype": "|O", "compressor": None}
    header_of(path, "data/action", **evil)
    for chunk in (path / "data" / "action").glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(ValueError, match=r"data/action holds '\|O'; only numbers"):
        DiffusionPolicySource(path)
    header_of(path, "data/action", dtype="<f4")
    with pytest.raises(ValueError, match="data/action is compressed by pickle; known are blosc"):
        DiffusionPolicySource(path)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [10**9, 2]}, "declares 1000000000 rows and does not store them"),
        ({"shape": [10**9, 2], "chunks": [10**9, 2]}, "chunks of 8000000000 bytes"),
        ({"shape": [9, -2]}, "damaged header"),
        ({"shape": "9"}, "damaged header"),
        ({"shape": [9]}, "has chunks of"),
        ({"chunks": [0, 0]}, "has chunks of"),
        ({"dtype": "<x9"}, "damaged header"),
        ({"dtype": [["a", "<f4"]]}, "damaged header"),
        ({"dtype": "|V8"}, "only numbers"),
        ({"compressor": {"id": "imagecodecs_jpegxl"}}, "compressed by imagecodecs_jpegxl"),
        ({"compressor": 3}, "damaged header"),
        ({"shape": [3, 2], "chunks": [1, 2]}, "its episodes need 9 rows"),
        ({"shape": [30, 2]}, "has 3 of its 8 chunks"),
    ],
)
def test_hostile_headers_are_one_clear_error(tmp_path: Path, changes: dict, message: str) -> None:
    path = header_of(zarr_store(tmp_path / "a.zarr"), "data/action", **changes)
    with pytest.raises(ValueError, match=message) as error:
        DiffusionPolicySource(path)
    assert "\n" not in str(error.value)


def test_a_missing_chunk_is_noticed(tmp_path: Path) -> None:
    path = zarr_store(tmp_path / "a.zarr")
    (path / "data" / "img" / "1.0.0.0").unlink()
    with pytest.raises(ValueError, match="data/img has 2 of its 3 chunks"):
        DiffusionPolicySource(path)


def test_a_damaged_chunk_is_noticed(tmp_path: Path) -> None:
    path = zarr_store(tmp_path / "a.zarr")
    for name in ("img/1.0.0.0", "state/1.0", "action/1.0"):
        chunk = path / "data" / name
        chunk.write_bytes(chunk.read_bytes()[:-7])
        with pytest.raises(ValueError, match="a.zarr is damaged"):
            DiffusionPolicySource(path).read(1, [name.split("/")[0]])


@pytest.mark.parametrize("ends", [(4, 4), (9, 4), (0, 9)])
def test_episodes_that_do_not_rise_are_refused(tmp_path: Path, ends: tuple[int, ...]) -> None:
    path = zarr_store(tmp_path / "a.zarr")
    import zarr

    zarr.open_group(path, mode="r+", zarr_format=2)["meta/episode_ends"][:] = ends
    with pytest.raises(ValueError, match="meta/episode_ends must rise"):
        DiffusionPolicySource(path)


@pytest.mark.parametrize("what", ["data/img/0.0.0.0", "data/img/.zarray", "data/img", "meta", "data"])
def test_links_out_of_the_store_are_refused(tmp_path: Path, what: str) -> None:
    path = zarr_store(tmp_path / "a.zarr")
    target = tmp_path / "elsewhere"
    (path / what).rename(target)
    (path / what).symlink_to(target)
    with pytest.raises(ValueError, match="link"):
        DiffusionPolicySource(path)


def test_a_cut_zip_is_in_no_known_format(tmp_path: Path) -> None:
    path = zarr_store(tmp_path / "a.zarr.zip")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged|no known format"):
        open_source(path)
