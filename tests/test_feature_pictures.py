"""Pictures of features show what is in them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.dot_world import draw_dots, make_encoder
from wm_plan.feature_pictures import (
    draw_neighbours,
    draw_pca,
    draw_similarity,
    frame_tokens,
    nearest_frames,
    pca_colours,
    similarity_map,
    what_moves,
)

ENCODER = make_encoder()


def dots(num: int, seed: int = 0) -> np.ndarray:
    return draw_dots(np.random.default_rng(seed).random((num, 2)))


def test_the_strongest_directions_become_red_green_and_blue() -> None:
    strengths = torch.tensor([0.0, 5.0, 1.0, 0.1])
    tokens = torch.randn(30, 16, 4, generator=torch.Generator().manual_seed(0)) * strengths
    colours = torch.from_numpy(pca_colours(tokens)).double().flatten(0, 1)
    assert colours.amin() == 0
    assert colours.amax() == 255
    for channel, dim in ((0, 1), (1, 2), (2, 3)):
        together = torch.corrcoef(torch.stack([colours[:, channel], tokens[..., dim].flatten()]))[0, 1]
        assert abs(together) > 0.95


def test_a_frame_is_nearest_to_itself_and_to_what_looks_alike() -> None:
    others = dots(20)
    moved = draw_dots(np.random.default_rng(0).random((20, 2)) + 0.01)
    tokens = frame_tokens(ENCODER, np.concatenate([moved, others]))
    found = nearest_frames(tokens[:20], tokens[20:], 2)[:, 0]
    assert (found == torch.arange(20)).sum() >= 18
    assert (nearest_frames(tokens[20:], tokens[20:], 2)[:, 0] == torch.arange(20)).all()


def test_a_patch_is_most_similar_to_itself() -> None:
    tokens = what_moves(frame_tokens(ENCODER, dots(5)))
    similar = similarity_map(tokens, 2, 7)
    assert similar.shape == (5, ENCODER.grid_size**2)
    assert divmod(int(similar.argmax()), similar.shape[1]) == (2, 7)
    torch.testing.assert_close(similar[2, 7], torch.tensor(1.0))
    tokens[3, 1], tokens[3, 2] = 2 * tokens[2, 7], 0.01 * tokens[2, 7]
    torch.testing.assert_close(similarity_map(tokens, 2, 7)[3, 1:3], torch.tensor([1.0, 0.01]))


def test_what_stays_and_what_a_whole_frame_shares_is_taken_away() -> None:
    background = 100 * torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    flicker = torch.tensor([0.0, 5.0, 0.0, -5.0, 0.0, 0.0])[:, None, None]  # of whole frames
    passing = torch.zeros(6, 16, 3)
    for frame in range(6):
        passing[frame, 2 * frame] = 7.0
    torch.testing.assert_close(what_moves(background + flicker + passing), passing, atol=1e-4, rtol=0)


def test_pictures_are_written_with_the_frames_in_them(tmp_path: Path) -> None:
    frames = dots(4)
    draw_pca(tmp_path / "new" / "pca.png", ENCODER, frames)
    draw_neighbours(tmp_path / "neighbours.png", ENCODER, frames[:2], frames, num=3)
    draw_similarity(tmp_path / "similarity.png", ENCODER, frames, [(0.5, 0.5), (1.0, 0.0)])
    for name in ("new/pca.png", "neighbours.png", "similarity.png"):
        with Image.open(tmp_path / name) as image:
            pixels = np.asarray(image)
        assert pixels.shape[1] == 2 * 12 + 4 * 150 - 6
        first = np.asarray(Image.fromarray(frames[0]).resize((144, 144), Image.Resampling.BICUBIC))
        assert (pixels[32:176, 12:156] == first).mean() > 0.95  # but for rings
