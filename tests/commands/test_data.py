"""`wm-data` from the outside: what it prints, what it writes, what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.dot_world import write_dots
from wm_plan.commands.data import main
from wm_plan.world_model.formats import open_source


def result_of(capfd: pytest.CaptureFixture, *argv: object, code: int = 0) -> dict:
    assert main([*map(str, argv), "--json", "--quiet"]) == code
    out, errors = capfd.readouterr()
    assert errors == "", errors
    return json.loads(out)


def complaint_of(capfd: pytest.CaptureFixture, *argv: object) -> str:
    assert main([*map(str, argv), "--quiet"]) == 2
    out, errors = capfd.readouterr()
    assert (out, errors.count("\n")) == ("", 1)
    return errors


def test_inspect_prints_what_is_there(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    root = write_dots(tmp_path / "data", 5, 12)
    found = result_of(capfd, "inspect", root)
    assert (found["format"], found["episodes"], found["steps"], found["rows"]) == ("native", 5, 60, 65)
    assert found["fps"] == pytest.approx(10)
    assert found["episode_lengths"] == [12] * 5
    assert found["columns"]["pixels"] == {
        "shape": [16, 16, 3],
        "dtype": "uint8",
        "kind": "image",
        "lossy": False,
    }
    source = open_source(root)
    action = np.concatenate([source.read(e, ["action"])["action"][:-1] for e in range(5)])
    told = found["columns"]["action"]
    np.testing.assert_allclose(told["min"], action.min(axis=0))
    np.testing.assert_allclose(told["mean"], action.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(told["std"], action.std(axis=0), rtol=1e-5)
    assert told["non_finite"] == 0
    actions = found["actions"]
    assert actions["bounds"] == {"low": [-1, -1], "high": [1, 1]}
    assert [sum(h["counts"]) for h in actions["histograms"]] == [60, 60]
    assert found["size_bytes"] == sum(p.stat().st_size for p in root.rglob("*") if p.is_file())


def test_inspect_draws_histograms_for_people(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert main(["inspect", str(write_dots(tmp_path / "data", 2))]) == 0
    out = capfd.readouterr().out
    assert "native, 2 episodes, 24 steps at 10 Hz" in out
    assert "uint8 16x16x3  used as pixels" in out
    assert "█" in out


def test_validate_tells_by_its_exit_code(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    root = write_dots(tmp_path / "data", 4)
    assert result_of(capfd, "validate", root)["clean"] is True
    found = result_of(capfd, "validate", root, "--action-range=-0.5,0.5", code=1)
    assert (found["clean"], found["counts"]["out-of-range"]) == (False, 4)
    first = found["findings"][0]
    assert (first["kind"], first["episode"], first["column"]) == ("out-of-range", 0, "action")
    assert isinstance(first["step"], int)
    ignored = ["--action-range=-0.5,0.5", "--ignore", "out-of-range"]
    assert result_of(capfd, "validate", root, *ignored)["clean"] is True
    shard = next(root.glob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:-100])
    assert "manifest says" in complaint_of(capfd, "validate", root)


def test_convert_tells_the_columns_that_it_takes(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    root = write_dots(tmp_path / "data", 3)
    assert main(["convert", str(root), str(tmp_path / "there"), "--to", "lerobot"]) == 0
    assert "pixels=pixels" in capfd.readouterr().err
    found = result_of(capfd, "inspect", tmp_path / "there")
    assert (found["format"], found["episodes"]) == ("lerobot", 3)
    columns = "pixels=observation.images.main,action=action"
    told = result_of(
        capfd, "convert", tmp_path / "there", tmp_path / "back", "--to", "native", "--columns", columns
    )
    assert (told["format"], told["episodes"], told["rows"]) == ("native", 3, 39)
    assert {"pixels", "action", "state", "timestamp"} <= set(told["columns"])


def test_merge_and_split_keep_every_episode(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    one, two = write_dots(tmp_path / "one", 3), write_dots(tmp_path / "two", 4, 9)
    assert result_of(capfd, "merge", one, two, tmp_path / "both")["episodes"] == 7
    told = result_of(capfd, "split", tmp_path / "both", tmp_path / "parts", "--fractions", "a=0.5,b=0.5")
    assert {name: part["episodes"] for name, part in told["parts"].items()} == {"a": 4, "b": 3}
    lengths = [open_source(tmp_path / "parts" / name).lengths for name in "ab"]
    assert sorted(np.concatenate(lengths)) == [10] * 4 + [13] * 3
    picked = result_of(capfd, "split", tmp_path / "both", tmp_path / "two-of-them", "--episodes", "2,5")
    assert picked["episodes"] == 2
    assert open_source(tmp_path / "two-of-them").lengths.tolist() == [13, 10]


def test_preview_shows_the_chosen_episodes(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    import av

    root = write_dots(tmp_path / "data", 4)
    told = result_of(capfd, "preview", root, "--episodes", "1,3", "--out", tmp_path / "look", "--frames", "5")
    assert told["episodes"] == [1, 3]
    sheet = Image.open(told["sheet"])
    assert sheet.width == 6 + 5 * 134
    assert sheet.height == 6 + 2 * 154
    with av.open(told["clip"]) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 26
    blank = tmp_path / "blank.h5"
    with h5py.File(blank, "w") as file:
        file["action"], file["ep_len"], file["ep_offset"] = np.zeros((3, 2)), np.array([3]), np.array([0])
    assert "has no frames to show" in complaint_of(capfd, "preview", blank, "--out", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["inspct", "x"], "unknown command 'inspct'. Did you mean 'inspect'?"),
        (["inspect"], "the following arguments are required: SRC"),
        (["inspect", "nothing"], "no logged trajectories at nothing"),
        (["validate", "data", "--ignore", "frozen"], "unknown kind of finding 'frozen'"),
        (["validate", "data", "--action-range", "1"], "is not LOW,HIGH"),
        (["convert", "data", "there", "--to", "hdf5"], "cannot write 'hdf5'"),
        (["convert", "data", "there", "--columns", "pixels=wrist"], "no column 'wrist'"),
        (["convert", "data", "there", "--task", "push"], "--task goes with --to lerobot"),
        (["convert", "data", "data"], "lie in one another"),
        (["merge", "data", "there"], "two datasets or more"),
        (["merge", "data", "data", "data"], "is also what is read"),
        (["split", "data", "there"], "--fractions LIST or --episodes LIST"),
        (["split", "data", "there", "--episodes", "9"], "there are episodes 0 to 1"),
    ],
)
def test_wrong_input_is_one_line(
    argv: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dots(tmp_path / "data", 2)
    assert said in complaint_of(capfd, *argv)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_each_command_explains_itself_without_loading_anything_heavy() -> None:
    code = (
        "import sys\n"
        "from wm_plan.commands.data import main\n"
        "for name in ('inspect', 'preview', 'validate', 'convert', 'merge', 'split'):\n"
        "    assert main([name, '--help']) == 0\n"
        "assert not {'numpy', 'torch', 'h5py', 'av', 'pyarrow'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: wm-data convert SRC DST [flags]" in done.stdout
    assert "1 findings" in done.stdout
