"""The benchmark of surprise: a world that can change, and what is told of it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from wm_plan.envs import make_task

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


changed_world = load("changed_world")


def moved(world, actions: np.ndarray) -> list[np.ndarray]:
    states = []
    for action in actions:
        world.env.advance(action, 4)
        states.append(world.env.get_state())
    return states


@pytest.fixture(scope="module")
def world():
    found = changed_world.World("reacher")
    yield found
    found.env.close()


@pytest.fixture(scope="module")
def actions() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (24, 2))


def test_before_a_change_the_world_looks_and_moves_as_the_task(world, actions) -> None:
    task = make_task("reacher")
    task.reset(seed=3)
    world.begin(3)
    for action in actions:
        np.testing.assert_array_equal(world.observe()["pixels"], task.observe()["pixels"])
        np.testing.assert_array_equal(world.env.get_state(), task.get_state())
        world.env.advance(action, 4)
        task.advance(action, 4)
    task.close()


def test_each_change_changes_what_it_says_and_a_new_beginning_undoes_it(world, actions) -> None:
    world.begin(3)
    start, shown = world.env.get_state(), world.observe()["pixels"]
    usual = moved(world, actions)
    after = {}
    for change in changed_world.CHANGES:
        world.begin(3)
        change.apply(world, np.random.default_rng(1), usual)
        pixels, states, touched = world.observe()["pixels"], [], False
        for action in actions:
            states += moved(world, action[None])
            touched |= world.touched
        frozen = np.array_equal(world.observe()["pixels"], shown)
        after[change.name] = (pixels, np.array(states), touched, frozen)
    for name, (pixels, states, touched, frozen) in after.items():
        seen = name in {"camera moved", "object aside", "object in the way"}
        assert np.array_equal(pixels, shown) != seen, name
        moves = name in {"joint locked", "mass doubled", "object in the way"}
        assert np.array_equal(states, np.array(usual)) != moves, name
        assert touched == (name == "object in the way"), name
        assert frozen == (name == "frames frozen"), name
    locked, heavy = after["joint locked"][1], after["mass doubled"][1]
    assert np.abs(locked[:, 0] - start[0]).max() < 1e-3
    assert (np.abs(heavy[0, 2:]) < 0.95 * np.abs(usual[0][2:])).all()
    world.begin(3)
    np.testing.assert_array_equal(world.observe()["pixels"], shown)
    np.testing.assert_array_equal(np.array(moved(world, actions)), np.array(usual))


@pytest.mark.slow
def test_it_reports_what_was_noticed_of_every_change_and_how_often_without(tmp_path: Path) -> None:
    words = ("--drivers", "logging", "--runs", "3", "--steps", "26", "--seed", "1000")
    command = [sys.executable, str(FOLDER / "surprise.py"), *words, "--json", str(tmp_path / "told.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "told.json").read_text())["rows"]
    assert row["fires"] < 0.1
    assert row["surprise_auroc"] > 0.9
    assert set(row["changes"]) == {change.name for change in changed_world.CHANGES}
    locked = row["changes"]["joint locked"]["surprise"]
    assert locked["detected"] == 1
    assert locked["delay"] % 4 == 0
    assert "joint locked" in done.stdout
