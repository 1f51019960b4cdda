"""Models on the hub: the card that goes with them, what is pushed, and loading from the hub's own cache."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

import wm_plan
from tests.world_model.test_compact import make_frames, make_model, random
from wm_plan.world_model.compact import load_model
from wm_plan.world_model.hub import check_can_push, is_hub_id, push_to_hub, pushed_files
from wm_plan.world_model.model_card import model_card


def write_model(folder: Path) -> Path:
    """A model that says what it was trained on."""
    model = make_model()
    model.metadata.open_loop_error = [0.001, 0.002, 0.003, 0.004, 0.0125, 0.03]
    model.metadata.reach_error_rate = 0.067
    model.metadata.training = {
        "data": [{"env": "dot", "policy": "walk", "seed": 7, "num_steps": 12}],
        "episodes": {"train": 48, "held_out": 12},
    }
    model.save(folder)
    return folder


def in_cache(folder: Path, cache: Path, repo_id: str) -> None:
    """Lay a folder out as the hub's library does: blobs, and a snapshot of links to them."""
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / "0123abc"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    for number, file in enumerate(path for path in sorted(folder.rglob("*")) if path.is_file()):
        blob = repository / "blobs" / f"{number:040x}"
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a machine without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_model_loads_by_its_id_from_the_hubs_cache(cache: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    in_cache(folder, cache, "someone/dot-model")
    loaded, here = load_model("someone/dot-model"), load_model(folder)
    frames, actions = make_frames(), random(2, 4, 3, 2)
    context = here.encode(frames)
    torch.testing.assert_close(loaded.encode(frames), context)
    torch.testing.assert_close(loaded.rollout(context, actions), here.rollout(context, actions))
    controller = wm_plan.load("someone/dot-model")
    assert controller.frame_skip == 5


def test_a_model_that_is_nowhere_is_said_in_one_line(cache: Path) -> None:
    with pytest.raises(ValueError, match="'someone/other' is neither a folder here nor in") as error:
        load_model("someone/other")
    assert "\n" not in str(error.value)
    for name in ("reacher", "a/b/c", "../model", "/tmp/model", ".hidden/model", "a//b", "a/b/"):
        assert not is_hub_id(name)
    with pytest.raises(ValueError, match="No predictor 'a/b/c'. Give a folder or one of: .*owner/name"):
        load_model("a/b/c")


def test_pickles_on_the_hub_are_not_even_fetched(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = {}
    real = huggingface_hub.snapshot_download

    def told(name: str, **options: object) -> str:
        asked.update(options)
        return real(name, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", told)
    in_cache(write_model(tmp_path / "model"), cache, "someone/dot-model")
    load_model("someone/dot-model")
    assert asked["allow_patterns"] == ["*.json", "*.safetensors"]


def test_the_card_says_what_the_checkpoint_says_of_itself(tmp_path: Path) -> None:
    text = model_card(write_model(tmp_path / "model"), "someone/dot-model")
    front, body = text.split("---\n")[1:]
    index = yaml.safe_load(front)
    assert index["library_name"] == "wm-plan"
    assert "dot" in index["tags"]
    (found,) = index["model-index"]
    (metric,) = found["results"][0]["metrics"]
    assert (found["name"], metric["value"]) == ("someone/dot-model", 0.03)
    for said in (
        'wm_plan.load("someone/dot-model")',
        "48 episodes to train on, 12 held out.",
        "- env dot, policy walk, num_steps 12, seed 7",
        "| after 1 imagined step(s) | 0.10% |",
        "| after 5 imagined step(s) | 1.25% |",
        "| after 6 imagined step(s) | 3.00% |",
        "misjudged in 6.7% of close pairs",
        "- a model step is 5 env steps of 0.1 s; actions in it: 1",
        "- actions from [-2.0, 0.0]",
        "## Limits",
    ):
        assert said in body
    unknown = write_model(tmp_path / "unknown")
    config = json.loads((unknown / "config.json").read_text())
    config["metadata"].update(training={}, open_loop_error=[], env_name='a: "b"\n- c')
    (unknown / "config.json").write_text(json.dumps(config))
    card = model_card(unknown, "x/y")
    assert "It is not known what it was trained on." in card
    assert yaml.safe_load(card.split("---\n")[1])["tags"][-1] == 'a: "b"\n- c'


def test_the_state_of_a_training_stays_at_home(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    for name in ("training.safetensors", "config.yaml", "metrics.jsonl", "notes.txt"):
        (folder / name).write_text("private")
    assert pushed_files(folder) == [
        "README.md",
        "config.json",
        "encoder/config.json",
        "encoder/model.safetensors",
        "model.safetensors",
    ]
    with pytest.raises(ValueError, match="holds no world-model"):
        pushed_files(folder / "encoder")


def test_a_hub_that_cannot_be_reached_leaves_the_folder_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = write_model(tmp_path / "model")
    (folder / "README.md").write_text("my own words")
    with pytest.raises(ValueError, match="could not be pushed to 'someone/dot-model'") as error:
        push_to_hub(folder, "someone/dot-model")
    assert "\n" not in str(error.value)
    assert (folder / "README.md").read_text() == "my own words"
    (folder / "README.md").unlink()
    with pytest.raises(ValueError, match="the folder is complete"):
        push_to_hub(folder, "someone/dot-model")
    assert (folder / "README.md").read_text() == model_card(folder, "someone/dot-model")


def test_what_cannot_be_pushed_is_said_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'model' is no id of the hub; give OWNER/NAME"):
        check_can_push("model")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'wm-plan\[hf\]'"):
        check_can_push("someone/model")
