"""HDF5 files that lie, point elsewhere or are cut: one clear line from every reader, and no harm."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.logged_files import minari_folder, robomimic_file
from wm_plan.world_model.formats import Source, hdf5_heaps, open_source
from wm_plan.world_model.formats.minari import MinariSource
from wm_plan.world_model.formats.robomimic import RobomimicSource


def minari_case(root: Path) -> tuple[Path, str, Callable[[], Source]]:
    folder = minari_folder(root / "d")
    return folder / "data" / "main_data.hdf5", "episode_0/actions", lambda: MinariSource(folder)


def robomimic_case(root: Path) -> tuple[Path, str, Callable[[], Source]]:
    path = robomimic_file(root / "d.hdf5")
    return path, "data/demo_1/actions", lambda: RobomimicSource(path)


CASES = [minari_case, robomimic_case]


@pytest.mark.parametrize("case", CASES)
def test_a_cut_file_is_damaged(tmp_path: Path, case: Callable) -> None:
    path, _, opened = case(tmp_path)
    content = path.read_bytes()
    for size in (0, 4, 100, len(content) // 3, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="damaged|no Minari dataset") as error:
            opened()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [{}, {"chunks": (1000, 2)}, {"chunks": (1, 2), "compression": "gzip"}])
def test_a_header_of_a_billion_rows_is_refused(tmp_path: Path, case: Callable, options: dict) -> None:
    path, name, opened = case(tmp_path)
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, (10**9, 2), np.float32, **options)
    with pytest.raises(ValueError, match="actions' declares 1000000000 rows and does not store them"):
        opened()


@pytest.mark.parametrize("case", CASES)
def test_a_chunk_too_big_for_memory_is_refused(tmp_path: Path, case: Callable) -> None:
    path, name, opened = case(tmp_path)
    with h5py.File(path, "a") as file:
        steps = len(file[name])
        del file[name]
        file.create_dataset(
            name, (steps, 2), np.float32, chunks=(2**27, 2), maxshape=(None, 2), compression="gzip"
        )
    with pytest.raises(ValueError, match="actions' has chunks of 1073741824 bytes"):
        opened()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["external", "soft", "virtual", "raw"])
def test_data_that_lie_elsewhere_are_refused(tmp_path: Path, case: Callable, kind: str) -> None:
    path, name, opened = case(tmp_path)
    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["x"] = np.ones((3, 2), np.float32)
    (tmp_path / "secret.bin").write_bytes(np.ones((3, 2), np.float32).tobytes())
    with h5py.File(path, "a") as file:
        del file[name]
        if kind == "external":
            file[name] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "x")
        elif kind == "soft":
            file[name] = h5py.SoftLink("/x")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((3, 2), np.float32)
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", (3, 2))
            file.create_virtual_dataset(name, layout)
        else:
            file.create_dataset(name, (3, 2), np.float32, external=[(str(tmp_path / "secret.bin"), 0, 24)])
    with pytest.raises(ValueError, match="refused"):
        opened()


@pytest.mark.parametrize("case", CASES)
def test_a_group_inside_itself_ends(tmp_path: Path, case: Callable) -> None:
    path, name, opened = case(tmp_path)
    with h5py.File(path, "a") as file:
        group = file[name].parent
        group["again"] = group
        group["once_more"] = group
    with pytest.raises(ValueError, match="nested too deep"):
        opened()


@pytest.mark.parametrize("case", CASES)
def test_objects_and_texts_in_odd_places_do_no_harm(tmp_path: Path, case: Callable) -> None:
    path, name, opened = case(tmp_path)
    with h5py.File(path, "a") as file:
        group = file[name].parent
        group["note"] = "one text"
        group["pointers"] = np.array([file.ref] * 3, dtype=h5py.ref_dtype)
        group["pairs"] = np.zeros(3, dtype=[("a", "f4"), ("b", "i2")])
        group["nothing"] = h5py.Empty("f4")
    with pytest.raises(ValueError, match="nothing' is empty"):
        opened()
    with h5py.File(path, "a") as file:
        del file[name].parent["nothing"]
    source = opened()
    assert not {"note", "pointers", "pairs"} & source.columns.keys()
    source.read(0, list(source.columns))


@pytest.mark.parametrize("case", CASES)
def test_wrong_dtypes_are_no_columns_or_an_error(tmp_path: Path, case: Callable) -> None:
    path, name, opened = case(tmp_path)
    with h5py.File(path, "a") as file:
        steps = len(file[name])
        del file[name]
        file[name] = np.zeros((steps, 2), np.complex64)
    assert "actions" not in opened().columns


def test_metadata_that_is_no_metadata_is_refused(tmp_path: Path) -> None:
    folder = minari_folder(tmp_path / "d")
    for text in ("", "{", "[]", "[" * 100_000, "null", "\x00", '{"total_episodes": "two"}'):
        (folder / "data" / "metadata.json").write_text(text)
        with pytest.raises(ValueError, match=r"metadata.json (cannot be used|says two)"):
            open_source(folder)


@pytest.mark.parametrize(
    "metadata",
    [
        {"observation_space": "{"},
        {"observation_space": 3},
        {"observation_space": "[" * 100_000},
        {"observation_space": '{"type": "Dict", "subspaces": {"camera": {"shape": [-1, "x"]}}}'},
        {"observation_space": None, "action_space": None},
        {"fps": "fast", "roles": {"pixels": ["x"]}},
        {"env_spec": '{"id": "Evil-v0", "entry_point": "os:abort"}'},
    ],
)
def test_spaces_that_cannot_be_understood_are_done_without(tmp_path: Path, metadata: dict) -> None:
    source = MinariSource(minari_folder(tmp_path / "d", **metadata))
    assert source.columns["observations/camera"].shape == (40, 48, 3)
    assert source.fps is None
    assert "roles" not in source.info


def test_a_main_file_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = minari_folder(tmp_path / "d")
    main = folder / "data" / "main_data.hdf5"
    main.rename(tmp_path / "elsewhere.hdf5")
    main.symlink_to(tmp_path / "elsewhere.hdf5")
    with pytest.raises(ValueError, match="is a link out of the dataset's folder"):
        MinariSource(folder)


def test_a_heap_from_which_hdf5_never_returns_does_not_trap_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object of no size: HDF5 2.0 takes it again and again."""
    path = robomimic_file(tmp_path / "d.hdf5", demos=(0,))
    assert RobomimicSource(path).info["env"] == "Lift"
    content = bytearray(path.read_bytes())
    heap = content.find(b"GCOL")
    content[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(content)
    monkeypatch.setattr(hdf5_heaps, "_SECONDS", 2)
    source = RobomimicSource(path)
    assert source.fps is None
    assert source.info["env_args"] == {}


def test_jpegs_in_a_damaged_heap_are_not_looked_for(tmp_path: Path) -> None:
    folder = minari_folder(tmp_path / "d", lengths=(2,))
    path = folder / "data" / "main_data.hdf5"
    with h5py.File(path, "a") as file:
        del file["episode_0/observations/camera"]
        files = [np.frombuffer(b"\xff\xd8\xff" + bytes(100 + i), np.uint8) for i in range(3)]
        column = file.create_dataset("episode_0/observations/camera", (3,), h5py.vlen_dtype(np.uint8))
        for i, jpeg in enumerate(files):
            column[i] = jpeg
    content = bytearray(path.read_bytes())
    heap = content.find(b"GCOL")
    content[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="camera' is damaged: its texts or images cannot be found"):
        MinariSource(folder)
