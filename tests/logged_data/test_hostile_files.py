"""Files that are cut, overwritten or lie: a clear line, no hang, nothing written but the output folder."""

import contextlib
import io
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dot_world import write_dots
from tests.logged_files import (
    actions_csv,
    minari_folder,
    robomimic_file,
    smooth_frames,
    video_file,
    zarr_store,
)
from wm_plan.commands.data import main
from wm_plan.data.converting import convert
from wm_plan.world_model.formats import open_source

_SECONDS = 30.0


def lerobot(root: Path) -> Path:
    source = open_source(write_dots(root.with_name("dots"), 3, 6))
    return convert(source, root, "lerobot")


def bare_file(root: Path) -> Path:
    with h5py.File(path := root.with_suffix(".h5"), "w") as file:
        file["pixels"] = smooth_frames(9, 32, 32)
        file["action"] = np.zeros((9, 2), np.float32)
        file["ep_len"], file["ep_offset"] = np.array([4, 5]), np.array([0, 4])
    return path


def videos(root: Path) -> Path:
    for index in range(2):
        video_file(root / f"take_{index}.mp4", smooth_frames(8, seed=index))
        actions_csv(root / f"take_{index}.csv", 8)
    return root


FORMATS: dict[str, Callable[[Path], Path]] = {
    "native": lambda root: write_dots(root, 4, 6),
    "lerobot": lerobot,
    "minari": minari_folder,
    "robomimic": lambda root: robomimic_file(root.with_suffix(".hdf5")),
    "diffusion-policy": lambda root: zarr_store(root.with_suffix(".zarr")),
    "stable-worldmodel": bare_file,
    "videos": videos,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound dataset of each format."""
    return {name: make(tmp_path_factory.mktemp(name) / "data-v0") for name, make in FORMATS.items()}


def run(*argv: object) -> tuple[int, str]:
    """Exit code and stderr of a command; checks that it did not hang."""
    errors = io.StringIO()
    began = time.monotonic()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main([*map(str, argv), "--quiet"])
    assert time.monotonic() - began < _SECONDS
    return code, errors.getvalue()


@st.composite
def damages(draw: st.DrawFn) -> tuple[int, str, float, bytes]:
    """Which file, what happens to it, where, and the bytes that are written there."""
    junk = draw(st.one_of(st.binary(min_size=1, max_size=40), st.just(b"\xff" * 8), st.just(bytes(16))))
    kind = draw(st.sampled_from(["cut", "overwrite", "overwrite", "replace", "remove"]))
    return draw(st.integers(0, 10_000)), kind, draw(st.floats(0, 1)), junk


def damage(root: Path, which: int, kind: str, place: float, junk: bytes) -> None:
    files = sorted(path for path in [root, *root.rglob("*")] if path.is_file())
    file = files[which % len(files)]
    content = file.read_bytes()
    position = int(place * len(content))
    match kind:
        case "cut":
            file.write_bytes(content[:position])
        case "overwrite":
            file.write_bytes(content[:position] + junk + content[position + len(junk) :])
        case "replace":
            file.write_bytes(junk)
        case "remove":
            file.unlink()


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(hit=damages())
def test_damage_is_said_in_one_line(
    sound: dict[str, Path], name: str, hit: tuple[int, str, float, bytes]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / sound[name].name
        (shutil.copytree if sound[name].is_dir() else shutil.copyfile)(sound[name], copy)
        damage(copy, *hit)
        for argv, codes in (
            (["inspect", copy], {0, 2}),
            (["validate", copy], {0, 1, 2}),
            (["convert", copy, Path(folder) / "out"], {0, 2}),
        ):
            code, errors = run(*argv)
            assert code in codes, errors
            assert errors.count("\n") == (1 if code == 2 else 0), errors
        names = {path.name for path in Path(folder).iterdir()}
        assert names <= {copy.name, "out", ".out.partial"}


@pytest.mark.parametrize("file", ["../victim.h5", "/etc/passwd", "a/../../victim.h5", "victim.h5\n", ".."])
def test_a_path_trick_in_a_manifest_reaches_nothing(tmp_path: Path, file: str) -> None:
    root = write_dots(tmp_path / "data", 2)
    shutil.copy(next(root.glob("*.h5")), tmp_path / "victim.h5")
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["shards"][0]["file"] = file
    (root / "manifest.json").write_text(json.dumps(manifest))
    code, errors = run("convert", root, tmp_path / "out")
    assert (code, errors.count("\n")) == (2, 1)
    assert "shard" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["data_path", "video_path"])
@pytest.mark.parametrize("pattern", ["../../{name}", "/etc/passwd", "{0.__class__}", "{episode_index}"])
def test_a_path_trick_in_lerobot_metadata_reaches_nothing(tmp_path: Path, key: str, pattern: str) -> None:
    root = lerobot(tmp_path / "data")
    info = json.loads((root / "meta" / "info.json").read_text())
    info[key] = pattern
    (root / "meta" / "info.json").write_text(json.dumps(info))
    code, errors = run("convert", root, tmp_path / "out")
    assert (code, errors.count("\n")) == (2, 1), errors
    assert "root:" not in errors
    assert not (tmp_path / "out").exists()


def test_a_header_of_a_billion_rows_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "huge.h5"
    rows = 10**9
    with h5py.File(path, "w") as file:
        file.create_dataset("pixels", (rows, 64, 64, 3), np.uint8, chunks=(1, 64, 64, 3))
        file.create_dataset("action", (rows, 2), np.float32, chunks=(1024, 2))
        file.create_dataset("ep_len", (1,), np.int64, data=[rows])
        file.create_dataset("ep_offset", (1,), np.int64, data=[0])
    for argv in (["inspect", path], ["validate", path], ["convert", path, tmp_path / "out"]):
        code, errors = run(*argv)
        assert (code, errors.count("\n")) == (2, 1), errors
    assert not (tmp_path / "out").exists()


def test_columns_of_the_wrong_type_are_told(tmp_path: Path) -> None:
    path = tmp_path / "odd.h5"
    with h5py.File(path, "w") as file:
        file["pixels"] = np.zeros((9, 16, 16, 3), np.float64)
        file["action"] = np.array([b"left"] * 9)
        file["ep_len"], file["ep_offset"] = np.array([4, 5]), np.array([0, 4])
    code, errors = run("validate", path)
    assert (code, errors) == (1, "")
