"""Every example runs as it stands, from any folder."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from wm_plan.world_model import predictor_names

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *arguments: str) -> dict:
    before = sys.argv
    sys.argv = [name, *arguments]
    try:
        return runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    finally:
        sys.argv = before


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_examples_are_these_and_fit_on_a_screen() -> None:
    names = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert names == [
        "01_plan_to_an_image.py",
        "02_embed_the_controller.py",
        "03_train_on_your_own_log.py",
        "04_steer_a_gymnasium_env.py",
        "05_look_at_features.py",
        "ros2_node.py",
    ]
    for name in names:
        assert len((EXAMPLES / name).read_text().splitlines()) <= (110 if name == "ros2_node.py" else 70)


def test_there_is_a_goal_picture_for_every_task_with_a_predictor() -> None:
    for name in predictor_names():
        with Image.open(EXAMPLES / "goals" / f"{name}.png") as image:
            assert image.width == image.height >= 96


def test_planning_to_an_image(capsys) -> None:
    run("01_plan_to_an_image.py")
    assert "reached: True (judged by latent)" in capsys.readouterr().out


def test_embedding_the_controller(capsys) -> None:
    run("02_embed_the_controller.py")
    nearest = capsys.readouterr().out.splitlines()[-1]
    assert float(nearest.split()[1]) <= 1.0


def test_training_on_your_own_log(tmp_path: Path, capsys) -> None:
    run("03_train_on_your_own_log.py", str(tmp_path / "own"))
    assert "trained on 12 episodes" in capsys.readouterr().out
    assert (tmp_path / "own" / "model" / "model.safetensors").stat().st_size > 0


def test_steering_a_gymnasium_env_with_the_clock_running(capfd) -> None:
    run("04_steer_a_gymnasium_env.py")
    nearest = capfd.readouterr().out.splitlines()[-1]
    assert float(nearest.split()[1]) <= 2.0  # a busy machine cuts plans short


def test_looking_at_features(tmp_path: Path, capsys) -> None:
    run("05_look_at_features.py", str(tmp_path / "seen"), "pixels")
    assert capsys.readouterr().out.endswith("pca.png, neighbours.png, similarity.png\n")
    for name in ("pca", "neighbours", "similarity"):
        with Image.open(tmp_path / "seen" / f"{name}.png") as image:
            assert image.width > 1000
