"""Datasets made of datasets: the same values, whatever the way; a kill loses nothing that was finished."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.dot_world import write_dots
from wm_plan.data.converting import (
    convert,
    draw_parts,
    join,
    parse_columns,
    parse_episodes,
    parse_fractions,
)
from wm_plan.world_model.formats import Source, open_source
from wm_plan.world_model.store_writer import StoreWriter

CONVERT = "import sys; from wm_plan.commands.data import main; sys.exit(main(sys.argv[1:]))"


def values(source: Source, roles: tuple[str, ...] = ("pixels", "action")) -> list[np.ndarray]:
    from wm_plan.world_model.formats import default_columns

    names = [default_columns(source)[role] for role in roles]
    return [source.read(e, names)[name] for e in range(len(source.lengths)) for name in names]


def files_of(root: Path) -> dict[str, bytes]:
    """Content of each file; of a manifest without the times and sums of its shards."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


@pytest.mark.parametrize("to", ["native", "lerobot", "minari"])
def test_a_lossless_round_trip_gives_back_every_bit(tmp_path: Path, to: str) -> None:
    source = open_source(write_dots(tmp_path / "data", 4))
    options = {"images": True} if to == "lerobot" else {}
    there = open_source(convert(source, tmp_path / "there-v0", to, options=options))
    back = open_source(convert(there, tmp_path / "back", "native"))
    assert there.format == to
    for before, after in zip(values(source), values(back), strict=True):
        np.testing.assert_array_equal(before, after)
    assert back.fps == source.fps


def test_a_source_is_not_written_into_nor_over(tmp_path: Path) -> None:
    root = write_dots(tmp_path / "data", 2)
    before = files_of(root)
    for destination in (root, root / "inside", tmp_path):
        with pytest.raises(ValueError, match="lie in one another"):
            convert(open_source(root), destination, "native", overwrite=True)
    assert files_of(root) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(ValueError, match="is no dataset, and is not overwritten"):
        convert(open_source(root), tmp_path / "mine", "native", overwrite=True)
    with pytest.raises(ValueError, match="Did you mean 'lerobot'"):
        convert(open_source(root), tmp_path / "x", "lerobt")


def test_joined_sources_are_read_one_after_another(tmp_path: Path) -> None:
    one = open_source(write_dots(tmp_path / "one", 2))
    two = open_source(convert(one, tmp_path / "two", "lerobot", options={"images": True}))
    joined = join([one, two])
    assert joined.lengths.tolist() == [13] * 4
    assert "frame_index" in joined.left_out
    for episode in (0, 1):
        first, second = joined.read(episode, ["pixels"], 3, 9), joined.read(episode + 2, ["pixels"], 3, 9)
        np.testing.assert_array_equal(first["pixels"], second["pixels"])
    back = open_source(convert(joined, tmp_path / "both", "native"))
    assert back.lengths.tolist() == [13] * 4
    assert back.info["recipe"]["action_high"] == [1.0, 1.0]


def test_sources_of_different_robots_are_not_joined(tmp_path: Path) -> None:
    one = open_source(write_dots(tmp_path / "one", 2))
    other = open_source(write_dots(tmp_path / "other", 2, size=20))
    with pytest.raises(
        ValueError, match=r"column 'pixels' is uint8 \(16, 16, 3\) in .*one robot and image size"
    ):
        join([one, other])
    with StoreWriter(
        tmp_path / "slow", {"env": "dot", "frame_skip": 2, "control_timestep": 0.05}, 1
    ) as writer:
        writer.write(0, {"action": np.zeros((3, 2), np.float32)})
    with pytest.raises(ValueError, match="frame_skip is 1 in .* and 2 in"):
        join([one, open_source(tmp_path / "slow")])


def test_what_the_user_writes_is_read_or_refused() -> None:
    assert parse_columns("pixels=a.b, action=c") == {"pixels": "a.b", "action": "c"}
    assert parse_columns(None) is None
    assert parse_episodes("0:3,7,8:", 10) == [0, 1, 2, 7, 8, 9]
    assert parse_fractions("0.8,0.2") == {"train": 0.8, "test": 0.2}
    assert parse_fractions("a=0.5") == {"a": 0.5}
    for text in ("pixels", "pixels=", "=x", "pixels=a,pixels=b"):
        with pytest.raises(ValueError, match="--columns"):
            parse_columns(text)
    for text in ("3:1", "0:11", "10", "-1", "x", "1,1", "", "5:5"):
        with pytest.raises(ValueError, match="--episodes"):
            parse_episodes(text, 10)
    for text in ("0.8,0.3", "a=0", "../x=0.5", "a=0.1,a=0.1", "a=nan", ".=0.5"):
        with pytest.raises(ValueError, match="--fractions"):
            parse_fractions(text)


def test_parts_are_drawn_once_and_for_all() -> None:
    parts = draw_parts(50, {"train": 0.7, "val": 0.1, "test": 0.2}, seed=4)
    assert [len(part) for part in parts.values()] == [35, 5, 10]
    assert sorted(sum(parts.values(), [])) == list(range(50))
    assert parts == draw_parts(50, {"train": 0.7, "val": 0.1, "test": 0.2}, seed=4)
    assert parts != draw_parts(50, {"train": 0.7, "val": 0.1, "test": 0.2}, seed=5)
    with pytest.raises(ValueError, match="no episode would be in 'test'"):
        draw_parts(3, {"train": 0.9, "test": 0.1})


@pytest.mark.parametrize("to", ["native", "lerobot", "minari"])
def test_a_killed_conversion_resumes_to_the_same_files(tmp_path: Path, to: str) -> None:
    source = write_dots(tmp_path / "data", 60, 8)
    destination = tmp_path / "there-v0"
    argv = ["convert", source, destination, "--to", to, "--quiet"]
    argv += ["--lossless"] if to == "lerobot" else []
    command = [sys.executable, "-c", CONVERT, *map(str, argv)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    partial, deadline = tmp_path / ".there-v0.partial", time.monotonic() + 60
    while sum(path.is_file() for path in partial.rglob("*")) < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not destination.exists()
    (partial / "data" / ".meta.json.0123abcd").write_text("{")  # as if killed while it wrote this
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "unfinished conversion" in refused.stderr
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    options = {"images": True} if to == "lerobot" else {}
    whole = convert(open_source(source), tmp_path / "whole-v0", to, options=options)
    for before, after in zip(values(open_source(whole)), values(open_source(destination)), strict=True):
        np.testing.assert_array_equal(before, after)
    assert files_of(whole).keys() == files_of(destination).keys()
    if to == "native":
        assert files_of(whole) == files_of(destination)
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
