"""The predictors of compact latents: one contract, and each held to what it is said to be."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wm_plan.world_model.compact_config import CompactConfig, PredictorKind
from wm_plan.world_model.compact_predictors import TransformerPredictor, fit_scale, make_predictor, scale_of

KINDS = pytest.mark.parametrize("kind", list(PredictorKind))


def make(kind: PredictorKind, *, history: int = 3, trained: bool = True, depth: int = 2) -> nn.Module:
    """A small predictor; `trained` has random weights also where training begins with zeros."""
    torch.manual_seed(0)
    config = CompactConfig(
        latent_dim=4,
        history=history,
        predictor=kind,
        predictor_width=16,
        predictor_depth=depth,
        predictor_heads=2,
    )
    predictor = make_predictor(config, action_dim=2)
    if trained:
        with torch.no_grad():
            for parameter in predictor.parameters():
                parameter.normal_(std=0.2)
    return predictor.requires_grad_(False)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@KINDS
@pytest.mark.parametrize("history", [1, 3])
def test_an_untrained_one_imagines_stillness(kind: PredictorKind, history: int) -> None:
    context = random(5, history, 4)
    imagined = make(kind, history=history, trained=False)(context, random(5, 6, 2))
    torch.testing.assert_close(imagined, context[:, -1:].expand(-1, 6, -1))


@KINDS
def test_what_is_imagined_depends_on_its_own_row_and_on_earlier_actions_alone(kind: PredictorKind) -> None:
    predictor, context, actions = make(kind), random(4, 3, 4), random(4, 6, 2)
    imagined = predictor(context, actions)
    changed = actions.clone()
    changed[1, 3] += 1
    moved = (predictor(context, changed) - imagined).abs().sum(-1) > 1e-6
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[1, 3:] = True
    assert torch.equal(moved, expected)
    torch.testing.assert_close(predictor(context[2:3], actions[2:3]), imagined[2:3])
    torch.testing.assert_close(predictor(context, actions[:, :2]), imagined[:, :2])


@KINDS
def test_every_latent_of_the_context_counts(kind: PredictorKind) -> None:
    predictor, context, actions = make(kind), random(1, 3, 4), random(1, 4, 2)
    for place in range(3):
        changed = context.clone()
        changed[0, place] += 0.5
        assert (predictor(changed, actions) - predictor(context, actions)).abs().max() > 1e-4


@KINDS
def test_it_learns_a_spring_that_actions_push(kind: PredictorKind) -> None:
    """A latent of position and velocity, of which the predictor sees the position only."""
    torch.manual_seed(0)
    config = CompactConfig(latent_dim=1, history=3, predictor=kind, predictor_width=32, predictor_heads=2)
    predictor = make_predictor(config, action_dim=1)
    generator = torch.Generator().manual_seed(1)

    def draw(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        actions = torch.rand(batch, 9, 1, generator=generator) * 2 - 1
        place, speed = torch.randn(batch, 1, generator=generator), torch.randn(batch, 1, generator=generator)
        places = [place]
        for step in range(9):
            speed = 0.95 * speed - 0.3 * place + 0.3 * actions[:, step]
            place = place + 0.5 * speed
            places.append(place)
        return torch.stack(places, dim=1), actions

    optimizer = torch.optim.Adam(predictor.parameters(), lr=3e-3)
    for _ in range(150):
        places, actions = draw(64)
        loss = (predictor(places[:, :3], actions[:, 2:]) - places[:, 3:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    places, actions = draw(200)
    still = (places[:, 2:3] - places[:, 3:]).square().mean()
    missed = (predictor(places[:, :3], actions[:, 2:]) - places[:, 3:]).square().mean()
    assert missed < 0.05 * still


def test_kept_keys_and_values_give_what_one_masked_attention_gives() -> None:
    """Against the whole sequence at once: every position sees itself and the two before it, by a mask."""
    predictor = make(PredictorKind.transformer)
    assert isinstance(predictor, TransformerPredictor)
    context, actions = random(3, 3, 4), random(3, 5, 2)
    imagined = predictor(context, actions)
    latents = torch.cat([context, imagined[:, :-1]], dim=1)
    changes = torch.diff(latents, dim=1, prepend=latents[:, :1])
    codes = torch.cat(
        [predictor.unknown_action.expand(3, 2, -1), predictor.act(actions)], dim=1
    )  # of positions 0 and 1 no action is known
    hidden = predictor.enter(torch.cat([latents, changes], dim=-1))
    steps = torch.arange(7)
    behind = steps[:, None] - steps[None, :]
    for block in predictor.blocks:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = block.modulate(F.silu(codes)).chunk(6, dim=-1)
        seen = F.layer_norm(hidden, hidden.shape[-1:]) * (1 + scale) + shift
        query, key, value = (
            part.unflatten(-1, (2, 8)).transpose(1, 2) for part in block.attend(seen).chunk(3, dim=-1)
        )
        bias = block.distance_bias[behind.clamp(0, 2)].permute(2, 0, 1)
        mask = torch.where((behind >= 0) & (behind < 3), bias, -torch.inf)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.expand(3, -1, -1, -1))
        hidden = hidden + gate * block.merge(attended.transpose(1, 2).flatten(2))
        seen = F.layer_norm(hidden, hidden.shape[-1:]) * (1 + mlp_scale) + mlp_shift
        hidden = hidden + mlp_gate * block.narrow(F.gelu(block.widen(seen)))
    linear = predictor.skip(torch.cat([latents[:, 2:], changes[:, 2:], actions], dim=-1))
    expected = latents[:, 2:] + predictor.leave(predictor.norm(hidden[:, 2:])) + linear
    torch.testing.assert_close(imagined, expected, atol=1e-5, rtol=1e-5)


def test_the_heads_share_the_width() -> None:
    with pytest.raises(ValueError, match="predictor_width 30 cannot be shared by predictor_heads 4"):
        CompactConfig(predictor=PredictorKind.transformer, predictor_width=30)
    CompactConfig(predictor_width=30)  # an MLP has no heads
    with pytest.raises(ValueError, match="must be one of mlp, gated, gru, transformer, got 'lstm'"):
        CompactConfig.of_json({"predictor": "lstm"})


def test_to_a_gated_one_numbers_of_any_size_are_alike() -> None:
    config = CompactConfig(
        latent_dim=4, history=2, predictor=PredictorKind.gated, predictor_width=16, ensemble=2
    )
    torch.manual_seed(0)
    predictor = make_predictor(config, action_dim=2)
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.normal_(std=0.2)
        context, actions, sizes = random(3, 2, 4), random(3, 5, 2), torch.tensor([10.0, 1.0, 0.1, 0.01])
        imagined = predictor(context, actions)
        fit_scale(predictor, random(4000, 4, seed=1) * sizes)
        torch.testing.assert_close(scale_of(predictor), sizes, rtol=0.05, atol=0)
        sizes = scale_of(predictor)
        torch.testing.assert_close(predictor(context * sizes, actions), imagined * sizes)
    assert scale_of(make(PredictorKind.mlp)) == 1


def test_gated_layers_learn_a_product_that_others_do_not() -> None:
    """An angle that turns by a push times a lever: both are numbers of the latent and the action."""

    def error(kind: PredictorKind) -> float:
        torch.manual_seed(0)
        config = CompactConfig(latent_dim=3, history=1, predictor=kind, predictor_width=32, predictor_depth=1)
        predictor = make_predictor(config, action_dim=1)
        optimiser = torch.optim.Adam(predictor.parameters(), 3e-3)
        generator = torch.Generator().manual_seed(1)
        for _ in range(600):
            latent = torch.randn(256, 1, 3, generator=generator)
            push = torch.randn(256, 1, 1, generator=generator)
            turned = latent.clone()
            turned[..., 2:] += push * latent[..., :1] * latent[..., 1:2]
            loss = F.mse_loss(predictor(latent, push), turned)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return loss.item()

    assert error(PredictorKind.gated) < 0.5 * error(PredictorKind.mlp)
