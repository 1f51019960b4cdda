"""What lies beside a model: trained by wm-train, shown by wm-plan, searched with, and judged by wm-eval."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands.test_eval import QUICK, untrained
from tests.commands.test_train import TINY
from tests.dot_world import make_encoder, write_dots
from wm_plan import load
from wm_plan.commands.eval import main as evaluate
from wm_plan.commands.plan import main as plan
from wm_plan.commands.train import main as train
from wm_plan.world_model import (
    ActionDecoder,
    ActionDecoderConfig,
    DecoderConfig,
    FrameDecoder,
    PolicyPrior,
    PriorConfig,
    load_action_decoder,
    load_decoder,
    load_model,
    load_prior,
)
from wm_plan.world_model.beside import save_beside
from wm_plan.world_model.logged_latents import latent_fingerprint

SMALL = [
    "decoder.num_steps=3",
    "decoder.image_size=16",
    "decoder.width=16",
    "prior.num_steps=3",
    "prior.width=8",
    "action_decoder.num_steps=3",
    "action_decoder.width=8",
]
MOVE = ["--start-state", "0.5,-1.0", "--goal-state", "0.8,-1.2", "--max-steps", "38", "--quiet", *QUICK[:3]]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def add_beside(folder: str) -> None:
    """Put a decoder, a prior and an action decoder that know nothing beside a model."""
    decoding, cloning = DecoderConfig(image_size=16, width=16), PriorConfig(width=8, depth=1)
    acting = ActionDecoderConfig(width=8, depth=1, latent_actions=1)
    torch.manual_seed(0)
    decoder = FrameDecoder((4,), decoding)
    decoder.mean_frame.fill_(0.5)
    settings = {"latents": latent_fingerprint(load_model(folder)), "data": ""}
    save_beside(decoder, Path(folder) / "decoder", decoding, settings, latent_shape=[4], held_out={})
    prior = PolicyPrior((4,), 3, 2, cloning)
    shape = {"latent_shape": [4], "history": 3, "action_dim": 2}
    save_beside(prior, Path(folder) / "prior", cloning, settings, **shape, held_out={})
    latent = ActionDecoder((4,), 3, 2, acting)
    save_beside(latent, Path(folder) / "action_decoder", acting, settings, **shape, held_out={})


@pytest.mark.slow
def test_all_are_trained_after_the_model_and_later_alone(capsys: pytest.CaptureFixture) -> None:
    make_encoder().save("encoder")
    data = str(write_dots(Path("data")))
    argv = ["--data", data, "--out", "run", "--quiet", "--json", *TINY, *SMALL]
    assert (
        train(
            [
                *argv,
                "--encoder",
                "encoder",
                "--steps",
                "3",
                "--also",
                "decoder,prior,action_decoder",
                "--seed",
                "4",
            ]
        )
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["held_out"]["decoder"]["psnr"] > 5
    assert result["held_out"]["prior"]["explained"] < 1
    assert result["held_out"]["action_decoder"]["nats"] > 0
    model = load_model("run")
    assert load_action_decoder("run", model).latent_dim == 3
    assert load_decoder("run", model).config.seed == load_prior("run", model).config.seed == 4
    weights, prior = (
        Path("run/model.safetensors").read_bytes(),
        Path("run/prior/model.safetensors").read_bytes(),
    )

    assert train([*argv, "--only", "prior", "prior.num_steps=5"]) == 0
    assert list(json.loads(capsys.readouterr().out)["held_out"]) == ["prior"]
    assert Path("run/model.safetensors").read_bytes() == weights
    assert Path("run/prior/model.safetensors").read_bytes() != prior
    assert train([*argv, "--only", "prior", "--resume"]) == 2
    assert "was trained with num_steps 5, not 3" in capsys.readouterr().err

    assert train([*argv, "--encoder", "encoder", "--steps", "2", "--overwrite"]) == 0
    assert not Path("run/prior").exists()
    assert not Path("run/decoder").exists()


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--only", "decoder"], "--only trains beside the finished model in --out DIR"),
        (["--only", "prior", "--out", "run", "--overwrite"], "it goes with neither --also nor --overwrite"),
        (["--also", "priors", "--out", "run"], "'priors' is none of decoder, prior"),
        (["--only", "prior", "--out", "nothing"], "No predictor 'nothing'"),
    ],
)
def test_wrong_input_is_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    write_dots(Path("data"), 2)
    assert train([*argv, "--data", "data", "--quiet"]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_what_was_imagined_is_shown_beside_what_happened(capfd: pytest.CaptureFixture) -> None:
    import imageio.v3 as iio

    model = untrained("mine")
    assert plan(["--model", model, *MOVE, "--out", "without", "--json"]) in (0, 3)
    assert "imagined.png" not in json.loads(capfd.readouterr().out)["files"]
    add_beside(model)
    assert plan(["--model", model, *MOVE, "--out", "with", "--json"]) in (0, 3)
    result = json.loads(capfd.readouterr().out)
    assert Path(result["files"]["imagined.png"]).is_file()
    sheet = np.asarray(Image.open("with/imagined.png").convert("RGB"))
    assert sheet.shape[1] > 1000
    assert (sheet == 128).all(-1).mean() > 0.1  # drawn by a decoder that knows nothing but grey
    without, shown = (iio.imread(f"{out}/plan.mp4", plugin="pyav")[20] for out in ("without", "with"))
    assert shown.shape[1] == without.shape[1] + 320 + 16
    assert (abs(shown[:, 700:].astype(int) - 128).max(-1) < 4).mean() > 0.3
    kept = json.loads(Path("without/result.json").read_text())
    assert result["actions"] == kept["actions"]

    path = Path("mine/decoder/config.json")
    path.write_text(path.read_text().replace('"latents": "', '"latents": "0'))
    assert plan(["--model", model, *MOVE, "--max-steps", "3", "--out", "stale"]) in (0, 3)
    assert "nothing imagined is shown: 'mine/decoder' was trained on the latents of another model" in (
        capfd.readouterr().err
    )


def test_a_prior_stands_beside_the_planner_and_joins_its_search(capfd: pytest.CaptureFixture) -> None:
    model = untrained("mine")
    judged = ["--model", model, "--policy", "planner,gcbc", "--episodes", "2", "--quiet", "--json", *QUICK]
    assert evaluate([*judged, "--out", "none"]) == 2
    assert "no policy prior lies beside the model in 'mine'. Train one: wm-train" in capfd.readouterr().err
    add_beside(model)
    assert evaluate([*judged, "--out", "both"]) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    assert [row["policy"] for row in rows] == ["planner", "gcbc"]
    assert rows[1]["plans_timed"] == 3

    few = ["planner.num_samples=8", "planner.num_elites=2"]
    controller = load(model, overrides=[*few, "control.num_prior=5"])
    image = np.zeros((32, 32, 3), np.uint8)
    controller.set_goal(image)
    controller.act({"pixels": image})
    proposed = controller.prior(torch.zeros(1, 3, 4), torch.zeros(1, 1, 4))
    assert proposed.shape == (1, 5, controller.planner.horizon, 2)
    with pytest.raises(
        ValueError, match=r"control\.num_prior=8 is not allowed; give less than planner\.num_sam"
    ):
        load(model, overrides=[*few, "control.num_prior=8"])


def test_latent_actions_are_searched_in_place_of_actions(capfd: pytest.CaptureFixture) -> None:
    model = untrained("mine")
    judged = ["--model", model, "--policy", "planner", "--episodes", "2", "--quiet", "--json", *QUICK]
    judged += ["control.latent_actions=true"]
    assert evaluate([*judged, "--out", "none"]) == 2
    assert "no action decoder lies beside the model in 'mine'. Train one: wm-train" in capfd.readouterr().err
    add_beside(model)
    assert evaluate([*judged, "--out", "some"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["rows"]
    assert row["settings"]["control"]["latent_actions"]

    few = ["planner.num_samples=8", "planner.num_elites=2", "control.latent_actions=true"]
    controller = load(model, overrides=few)
    assert controller.planner.action_dim == 1
    image = np.zeros((32, 32, 3), np.uint8)
    controller.set_goal(image)
    action = controller.act({"pixels": image})
    assert action.shape == (2,) and np.abs(action).max() <= 1
    for both in ("control.num_prior=5", "planner.rate_limit=0.1"):
        with pytest.raises(ValueError, match=f"{both} is not possible with control.latent_actions"):
            load(model, overrides=[*few, both])
