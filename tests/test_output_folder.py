"""Output folders are filled at once or not at all."""

from pathlib import Path

import pytest

from wm_plan.output_folder import check_output_folder, filled_at_once, next_numbered


def test_the_folder_appears_only_when_all_is_written(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with filled_at_once(out) as folder:
        (folder / "result.json").write_text("{}")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["result.json"]
    assert [path.name for path in out.parent.iterdir()] == ["b"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), filled_at_once(tmp_path / "a" / "b") as folder:
        (folder / "result.json").write_text("{}")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_an_overwritten_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("old")
    with pytest.raises(RuntimeError), filled_at_once(tmp_path, overwrite=True) as folder:
        (folder / "result.json").write_text("new")
        raise RuntimeError
    assert (tmp_path / "result.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_overwriting_replaces_files_of_the_same_name_only(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("old")
    (tmp_path / "thesis.tex").write_text("precious")
    with filled_at_once(tmp_path, overwrite=True) as folder:
        (folder / "result.json").write_text("new")
    assert (tmp_path / "result.json").read_text() == "new"
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ValueError, match=r"is not empty. Name another, or add --overwrite"):
        check_output_folder(tmp_path)
    check_output_folder(tmp_path, overwrite=True)


def test_a_file_is_refused_as_folder_and_as_parent(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ValueError, match="is not a folder"):
        check_output_folder(tmp_path / "x", overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        check_output_folder(tmp_path / "x" / "y")


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        check_output_folder(Path("/proc/wm-plan"))  # also root may not write there
    with pytest.raises(ValueError, match="File name too long"):
        check_output_folder(Path("x" * 300))


def test_numbers_go_on_after_the_highest(tmp_path: Path) -> None:
    assert next_numbered("plan-reacher", tmp_path).name == "plan-reacher-001"
    for name in ("plan-reacher-001", "plan-reacher-007", "plan-reacher-x", "plan-two_room-009"):
        (tmp_path / name).mkdir()
    assert next_numbered("plan-reacher", tmp_path).name == "plan-reacher-008"
    assert next_numbered("plan", tmp_path / "none").name == "plan-001"
