"""The video transformer: where its tokens come from, what it sees, what sizes it refuses."""

import pytest
import torch

from tests.dot_world import make_vit
from wm_plan.world_model.vit import VideoViT, ViTConfig, gather_tokens, sincos_positions


def make_model(**overrides) -> VideoViT:
    torch.manual_seed(0)
    return VideoViT(make_vit(**overrides)).eval()


def make_clip(frames: int = 4, size: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.randn(2, frames, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_a_token_is_one_patch_of_one_tubelet_in_the_order_time_row_column() -> None:
    model, clip = make_model(), make_clip()
    changed = clip.clone()
    changed[:, 3, :, 4:8, 8:12] += 1.0  # the second tubelet, second row, third column
    moved = (model.embed(changed) - model.embed(clip)).abs().sum(-1) > 1e-6
    assert moved.nonzero()[:, 1].tolist() == [16 + 4 * 1 + 2] * 2


def test_a_token_is_a_linear_map_of_its_patch_plus_its_position() -> None:
    model, clip = make_model(), make_clip()
    patch = clip[0, 2:4, :, 0:4, 4:8].transpose(0, 1)
    weight, bias = model.patch_embed.weight, model.patch_embed.bias
    expected = (weight * patch).sum((1, 2, 3, 4)) + bias + model.positions[16 + 1]
    torch.testing.assert_close(model.embed(clip)[0, 17], expected, rtol=1e-4, atol=1e-5)


def test_every_place_has_its_own_code() -> None:
    codes = sincos_positions(num_tubelets=2, grid_size=8, width=192)
    assert codes.shape == (128, 192)
    apart = torch.cdist(codes, codes) + 1e3 * torch.eye(128)
    assert apart.min() > 0.1
    # sines of an angle of 0, then its cosines, for each of the three axes
    assert codes[0].reshape(6, 32).mean(dim=1).tolist() == [0, 1, 0, 1, 0, 1]


def test_a_shorter_clip_has_the_codes_of_the_first_frames() -> None:
    model, clip = make_model(), make_clip()
    torch.testing.assert_close(model.embed(clip)[:, :16], model.embed(clip[:, :2]))


def test_hidden_tokens_change_nothing() -> None:
    model, clip = make_model(), make_clip()
    visible = torch.tensor([[0, 1, 2, 9, 17], [3, 4, 5, 6, 30]])
    seen = model(clip, visible)
    assert seen.shape == (2, 5, 24)
    changed = clip.clone()
    changed[0, :, :, 12:16] += 1.0  # the last row of patches: none of them is visible in the first clip
    torch.testing.assert_close(model(changed, visible), seen)
    assert not torch.allclose(model(changed), model(clip))


def test_the_order_of_visible_tokens_does_not_matter() -> None:
    model, clip = make_model(), make_clip()
    visible = torch.tensor([[0, 5, 9, 31]] * 2)
    shuffled = torch.tensor([[9, 0, 31, 5]] * 2)
    back = torch.tensor([[1, 3, 0, 2]] * 2)
    torch.testing.assert_close(gather_tokens(model(clip, shuffled), back), model(clip, visible))


def test_every_output_is_normalised() -> None:
    tokens = make_model()(make_clip())
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 32), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.std(-1, correction=0), torch.ones(2, 32), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"image_size": 30, "patch_size": 8}, "image_size 30 is no multiple of patch_size 8; try 24"),
        ({"patch_size": 0}, "patch_size is 0; it must be at least 1"),
        ({"num_frames": 3}, "num_frames 3 is no multiple of tubelet_size 2"),
        ({"width": 25}, "width 25 must be even and a multiple of num_heads 2"),
        ({"depth": 0}, "depth is 0"),
    ],
)
def test_sizes_that_do_not_fit_are_named(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_vit(**overrides)


def test_the_default_sizes_fit() -> None:
    assert ViTConfig().grid_size == 8


def test_every_token_is_told_what_its_whole_frame_shows() -> None:
    model, clip = make_model(whole_after=1, whole_dim=4, whole_width=8, depth=1), make_clip()
    torch.nn.init.zeros_(model.blocks[0].attention.out.weight)  # so that nothing else is told between tokens
    changed = clip.clone()
    changed[:, 2:, :, :4, :4] += 1.0  # the first patch of the second tubelet
    moved = (model(changed) - model(clip)).abs().amax(dim=(0, 2)) > 1e-6
    assert moved.tolist() == [False] * 16 + [True] * 16


def test_places_that_are_hidden_tell_the_whole_frame_nothing() -> None:
    model, clip = make_model(whole_after=2), make_clip()
    everything = torch.arange(32).expand(2, -1)
    torch.testing.assert_close(model(clip, everything), model(clip), rtol=1e-4, atol=1e-5)
    visible = torch.tensor([[0, 1, 2, 9, 17], [3, 4, 5, 6, 30]])
    seen = model(clip, visible)
    changed = clip.clone()
    changed[0, :, :, 12:16] += 1.0  # none of it is visible
    torch.testing.assert_close(model(changed, visible), seen)
    plain = make_model()
    plain.load_state_dict(model.state_dict(), strict=False)
    assert not torch.allclose(plain(clip, visible), seen)


@pytest.mark.parametrize("given", [-1, 3])
def test_a_block_that_does_not_exist_is_followed_by_nothing(given: int) -> None:
    with pytest.raises(ValueError, match="whole_after must be from 0 to 2"):
        make_vit(whole_after=given)
