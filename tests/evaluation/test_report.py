"""The report in a real browser: what it says is there, it is drawn, and its videos play."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.browser import Browser
from wm_plan import envs
from wm_plan.commands.eval import main
from wm_plan.commands.front import DONE
from wm_plan.evaluation.recordings import encode_mp4
from wm_plan.world_model import CompactConfig, CompactWorldModel, JEPAEncoder, ViTConfig
from wm_plan.world_model.decoder import DecoderConfig, FrameDecoder
from wm_plan.world_model.logged_latents import latent_fingerprint
from wm_plan.world_model.metadata import ModelMetadata
from wm_plan.world_model.weights_io import save_folder

PLAYS = """
(async () => {
  const found = [];
  for (const video of document.querySelectorAll("video")) {
    video.scrollIntoView();
    await video.play();
    const from = video.currentTime, end = performance.now() + 20000;
    while (video.currentTime === from && performance.now() < end)
      await new Promise(resolve => setTimeout(resolve, 20));
    found.push([video.currentTime !== from, video.videoWidth, video.videoHeight]);
  }
  return found;
})()
"""
DRAWN = """
[...document.querySelectorAll("figure svg")].map(svg => {
  const box = svg.getBoundingClientRect(), inner = svg.querySelector("g").getBBox();
  return [box.width, box.height, inner.width, inner.height, svg.querySelectorAll("path").length,
          svg.querySelectorAll("text").length];
})
"""


def make_model(folder: Path) -> str:
    """An untrained world model of reacher with a decoder beside it."""
    torch.manual_seed(0)
    env = envs.make("reacher", render=False)
    encoder = JEPAEncoder(ViTConfig(image_size=32, patch_size=8, width=12, depth=1, num_heads=1), (1,))
    sizes = CompactConfig(latent_dim=4, token_dim=2, head_width=8, predictor_width=8, distance_width=8)
    bounds = (env.action_space.low.tolist(), env.action_space.high.tolist())
    metadata = ModelMetadata("reacher", env.frame_skip, env.control_timestep, 32, env.parts.camera, *bounds)
    model = CompactWorldModel(encoder, sizes, metadata)
    model.save(folder)
    config = DecoderConfig(image_size=16, width=16)
    decoder = FrameDecoder((4,), config)
    entry = {"latent_shape": [4], "decoder": asdict(config), "latents": latent_fingerprint(model)}
    save_folder(folder / "decoder", "decoder", entry, dict(decoder.state_dict()))
    return str(folder)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    argv = ["--env", "reacher", "--model", make_model(folder / "model"), "--policy", "planner,rl,random"]
    argv += ["--protocol", "near,robust", "--changes", "light,mass", "--episodes", "2", "--quiet"]
    argv += ["planner.num_samples=8", "planner.num_elites=2", "planner.num_iterations=1", "plans_timed=2"]
    assert main([*argv, "robust_goals=near", "--out", str(folder / "run")]) == DONE
    return folder / "run" / "report.html"


@pytest.fixture
def page(report: Path) -> Iterator[Browser]:
    with Browser(1280) as browser:
        browser.open(report)
        yield browser


@pytest.mark.slow
def test_videos_play_plots_are_drawn_and_nothing_is_fetched(page: Browser, report: Path) -> None:
    played = page.run(PLAYS)
    assert len(played) >= 2 * 2 + 3
    assert all(advanced and width > 0 and height > 0 for advanced, width, height in played)
    assert {width for _, width, _ in played} == {2 * 176 + 4, 3 * 176 + 8}, (
        "with and without what was imagined"
    )
    drawn = page.run(DRAWN)
    assert len(drawn) >= 7
    for width, height, inner_width, inner_height, paths, texts in drawn:
        assert min(width, height, inner_width, inner_height) > 80
        assert min(paths, texts) >= 4
    picture = page.screenshot()
    assert picture.shape[1] == 1280
    for part in np.array_split(picture, max(1, len(picture) // 900)):
        assert part.std() > 5, "a blank stretch of the page"
    blue = np.abs(picture.astype(int) - (0x2F, 0x6F, 0xED)).sum(axis=-1) < 12
    assert blue.sum() > 400, "the first contestant's lines are in its colour"
    assert page.requests
    assert all(url.startswith(("file:", "data:")) for url in page.requests)
    assert 20_000 < report.stat().st_size < 30_000_000


@pytest.mark.slow
def test_it_says_what_the_json_says_in_the_dark_and_on_a_phone(report: Path) -> None:
    result = json.loads((report.parent / "result.json").read_text())
    with Browser(390, 800, dark=True) as browser:
        browser.open(report)
        text = browser.run("document.body.innerText")
        wide = browser.run("document.documentElement.scrollWidth")
        paper = browser.run("getComputedStyle(document.body).backgroundColor")
        picture = browser.screenshot()
    assert wide == 390, "nothing sticks out"
    assert paper == "rgb(18, 21, 28)"
    assert np.median(picture) < 60
    assert result["command"].split()[0] in text
    assert str(result["seed"]) in text
    for row in result["rows"]:
        assert f"{100 * row['success_rate']:.0f} %" in text
        assert row["amount"] is None or row["amount"] in text


def test_a_video_is_as_long_as_it_took(tmp_path: Path) -> None:
    import imageio.v3 as iio

    frames = [np.full((32, 48, 3), 5 * at, np.uint8) for at in range(25)]
    (tmp_path / "video.mp4").write_bytes(encode_mp4(frames, 12.5))
    read = iio.imread(tmp_path / "video.mp4", plugin="pyav")
    assert read.shape == (25 + 6, 32, 48, 3)
    assert iio.immeta(tmp_path / "video.mp4", plugin="pyav")["fps"] == pytest.approx(12.5)
    assert abs(int(read[20].mean()) - 100) < 6
