"""Masked latent prediction: what is predicted, who learns and who follows."""

import pytest
import torch

from tests.dot_world import make_vit
from wm_plan.world_model.jepa import JEPA, JEPAConfig


def make_jepa(**overrides) -> JEPA:
    torch.manual_seed(0)
    sizes = {"predictor_width": 12, "predictor_depth": 1, "predictor_heads": 2, "target_layers": [1, 2]}
    return JEPA(make_vit(), JEPAConfig(**{**sizes, **overrides}))


def make_clip(seed: int = 1) -> torch.Tensor:
    return torch.randn(4, 4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def loss_of(model: JEPA, clip: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return model(clip, torch.Generator().manual_seed(seed))


def test_targets_are_the_teachers_layers_each_normalised() -> None:
    model, clip = make_jepa(), make_clip()
    targets = model.targets(clip)
    assert targets.shape == (4, 32, 2 * 24)
    for layer in targets.split(24, dim=-1):
        torch.testing.assert_close(layer.mean(-1), torch.zeros(4, 32), atol=1e-5, rtol=0)
        torch.testing.assert_close(layer.std(-1, correction=0), torch.ones(4, 32), atol=1e-2, rtol=0)
    # the model's own last norm starts as the identity, so that the last layer is the transformer's output
    torch.testing.assert_close(targets[..., 24:], model.teacher(clip), atol=1e-4, rtol=0)


def test_only_the_encoder_and_the_predictor_learn() -> None:
    model = make_jepa()
    loss_of(model, make_clip()).backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == {n for n, p in model.named_parameters() if p.requires_grad}


def test_the_loss_is_the_distance_to_what_the_teacher_says_of_the_whole_clip() -> None:
    model, clip = make_jepa(), make_clip()
    torch.nn.init.zeros_(model.predictor.out.weight)  # the prediction is 0, whatever is seen
    # mean |t| of a layer-normed target, whichever tokens are asked for: near that of a normal variable, .80
    assert 0.7 < loss_of(model, clip).item() < 0.9
    before = loss_of(model, clip)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.mul_(1.1)
    torch.testing.assert_close(loss_of(model, clip), before)


def test_the_loss_falls_when_the_targets_are_fixed() -> None:
    model, clip = make_jepa(), make_clip()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    first = loss_of(model, clip).item()
    for step in range(60):
        optimizer.zero_grad()
        loss_of(model, clip, step % 4).backward()
        optimizer.step()
    assert loss_of(model, clip).item() < 0.75 * first


def test_the_teacher_starts_as_the_encoder_and_follows_it() -> None:
    model = make_jepa()
    teacher, encoder = model.teacher.norm.weight, model.encoder.norm.weight
    assert torch.equal(teacher, encoder)
    with torch.no_grad():
        encoder.fill_(3.0)
    model.update_teacher(momentum=0.75)
    torch.testing.assert_close(teacher, torch.full_like(teacher, 0.75 * 1 + 0.25 * 3))
    model.update_teacher(momentum=1.0)
    torch.testing.assert_close(teacher, torch.full_like(teacher, 1.5))


def test_masks_are_drawn_to_where_the_clip_varies() -> None:
    clip = torch.zeros(1, 4, 3, 16, 16)
    clip[0, :2, :, 4:8, 8:12] = 1.0  # one patch, that changes in time
    corner = 4 * 1 + 2
    centres = make_jepa(saliency=1.0)._centres(clip)
    assert centres[0, corner] > 0.99
    torch.testing.assert_close(centres.sum(), torch.tensor(1.0))
    torch.testing.assert_close(make_jepa(saliency=0.0)._centres(clip), torch.full((1, 16), 1 / 16))
    mixed = make_jepa(saliency=0.5)._centres(clip)
    torch.testing.assert_close(mixed[0, 0], torch.tensor(0.5 / 16), atol=1e-4, rtol=0)


def test_the_generator_decides_the_loss() -> None:
    model, clip = make_jepa(), make_clip()
    assert loss_of(model, clip, 1) == loss_of(model, clip, 1)
    assert loss_of(model, clip, 1) != loss_of(model, clip, 2)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"target_layers": [1, 3]}, r"target_layers are \[1, 3\]; the encoder's blocks are 1 to 2"),
        ({"target_layers": []}, "target_layers"),
        ({"predictor_heads": 5}, "predictor_width 12 is no multiple of predictor_heads 5"),
        ({"predictor_depth": 0}, "predictor_depth must be at least 1, got 0"),
        ({"masks": []}, "masks must name at least one"),
        ({"saliency": 1.5}, "saliency must be from 0 to 1, got 1.5"),
    ],
)
def test_settings_out_of_range_are_named(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_jepa(**overrides)
