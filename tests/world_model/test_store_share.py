"""Several writers fill one store: the files are those of one writer, whoever comes and goes when."""

import shutil

import numpy as np
import pytest

from wm_plan.world_model.manifest import Manifest
from wm_plan.world_model.store import TrajectoryStore
from wm_plan.world_model.store_share import StoreShare
from wm_plan.world_model.store_writer import StoreBusyError, StoreWriter, stage_episode, staged_episodes

RECIPE = {"env": "made-up", "seed": 3}


def episode(index):
    rng = np.random.default_rng(index)
    return {
        "pixels": rng.integers(0, 256, (4, 40, 40, 3), np.uint8),
        "action": rng.random((4, 2), np.float32),
    }


def write_whole(root, count=7):
    with StoreWriter(root, RECIPE, count, episodes_per_shard=3) as writer:
        for index in writer.missing():
            writer.write(index, episode(index))


def share(root, count=7, recipe=None):
    return StoreShare(root, RECIPE if recipe is None else recipe, count, episodes_per_shard=3)


def fill(root, number, of, count=7):
    with share(root, count) as part:
        for index in part.missing(range(number, count, of)):
            stage_episode(root, index, episode(index))


def files_of(root):
    return {path.name: path.read_bytes() for path in sorted(root.glob("*.h5"))}


def test_parts_together_are_the_files_of_one_writer(tmp_path):
    write_whole(tmp_path / "whole")
    for number in (2, 0, 1):
        fill(tmp_path / "parts", number, 3)
        complete = Manifest.load(tmp_path / "parts").complete
        assert complete == (number == 1)
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    assert not (tmp_path / "parts" / "staging").exists()
    fill(tmp_path / "parts", 0, 3)  # once more changes nothing
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_while_others_are_at_work_nobody_packs(tmp_path):
    others = share(tmp_path)
    for number in range(3):
        fill(tmp_path, number, 3)
    assert len(staged_episodes(tmp_path)) == 7
    assert TrajectoryStore(tmp_path).num_episodes == 7
    assert others.finish()
    assert not staged_episodes(tmp_path)
    assert TrajectoryStore(tmp_path).num_episodes == 7


def test_folders_of_their_own_are_copied_into_one(tmp_path):
    write_whole(tmp_path / "whole")
    for number in range(2):
        fill(tmp_path / f"machine{number}", number, 2)
    shutil.copytree(tmp_path / "machine1", tmp_path / "machine0", dirs_exist_ok=True)
    StoreWriter(tmp_path / "machine0", RECIPE, 7, resume=True).close()
    assert files_of(tmp_path / "machine0") == files_of(tmp_path / "whole")
    assert Manifest.load(tmp_path / "machine0").complete


def test_a_part_that_was_stopped_is_made_good_by_itself_or_by_one_writer(tmp_path):
    write_whole(tmp_path / "whole")
    fill(tmp_path / "parts", 0, 2)
    with pytest.raises(KeyboardInterrupt), share(tmp_path / "parts") as part:
        stage_episode(tmp_path / "parts", part.missing(range(1, 7, 2))[0], episode(1))
        raise KeyboardInterrupt
    again = share(tmp_path / "parts")
    assert again.missing(range(1, 7, 2)) == [3, 5]
    assert not again.finish()
    with StoreWriter(tmp_path / "parts", RECIPE, 7, resume=True) as writer:
        for index in writer.missing():
            writer.write(index, episode(index))
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_one_writer_alone_and_parts_keep_out_of_each_others_way(tmp_path):
    part = share(tmp_path)
    with pytest.raises(StoreBusyError, match="being written by another process"):
        StoreWriter(tmp_path, RECIPE, 7, resume=True)
    part.finish()
    with StoreWriter(tmp_path, RECIPE, 7, resume=True), pytest.raises(StoreBusyError):
        share(tmp_path)


def test_parts_of_different_stores_are_refused(tmp_path):
    share(tmp_path).finish()
    with pytest.raises(ValueError, match="is to have 7 episodes, not 9"):
        share(tmp_path, count=9)
    with pytest.raises(ValueError, match="was made with seed 3, not 4"):
        share(tmp_path, recipe={**RECIPE, "seed": 4})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty and no trajectory store"):
        share(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]
