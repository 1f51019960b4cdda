"""Predictors over tokens against a small reference written here: one masked attention, no cache."""

import math

import pytest
import torch

from wm_plan.world_model.dino_wm import DinoWMConfig, DinoWMPredictor
from wm_plan.world_model.frame_causal import FrameCache
from wm_plan.world_model.merged_attention import merged_attention
from wm_plan.world_model.token_predictor import TokenPredictor
from wm_plan.world_model.vjepa2_ac import NextState, VJEPA2ACConfig, VJEPA2ACPredictor

GRID, DIM, PATCHES = 3, 12, 9
KINDS = {
    "vjepa2_ac as published": {"next_state": NextState.add},
    "vjepa2_ac without proprio": {"next_state": NextState.learned, "residual": True, "state_dim": 0},
    "vjepa2_ac with learned poses": {"next_state": NextState.learned, "residual": True},
    "dino_wm as published": {"residual": False},
    "dino_wm of changes": {"residual": True},
    "dino_wm without proprio": {"residual": True, "state_dim": 0},
}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_predictor(kind: str) -> TokenPredictor:
    """Random weights everywhere, also where training would begin with zeros, and fitted normalisers."""
    torch.manual_seed(0)
    sizes = {"token_dim": DIM, "grid_size": GRID, "action_dim": 2, "state_dim": 2, "max_steps": 10}
    sizes.update(KINDS[kind], depth=2, num_heads=2)
    predictor: TokenPredictor
    if kind.startswith("vjepa2_ac"):
        predictor = VJEPA2ACPredictor(VJEPA2ACConfig(**{**sizes, "width": 28}))
    else:
        predictor = DinoWMPredictor(DinoWMConfig(**{**sizes, "head_dim": 8, "mlp_width": 40}))
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    states = random(50, sizes["state_dim"], seed=3) if sizes["state_dim"] else None
    predictor.fit_normalisers(random(40, PATCHES, DIM, seed=1) + 1, 3 * random(50, 2, seed=2), states)
    return predictor.eval().requires_grad_(False)


def layer_norm(x, module):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt()
    return scaled * module.weight + module.bias


def turned(x, positions, dim):
    """V-JEPA 2's rotation of one axis' part, number by number: neighbours pair, frequencies are tiled."""
    out = x.clone()
    for i in range(0, dim, 2):
        for here, other, sign in ((i, i + 1, -1.0), (i + 1, i, 1.0)):
            angle = positions / 10_000 ** ((here % (dim // 2)) / (dim / 2))
            out[..., here] = x[..., here] * angle.cos() + sign * x[..., other] * angle.sin()
    return out


def first_codes(predictor, states):
    """What is carried of proprio: the pose itself, or its embedding."""
    if isinstance(predictor, VJEPA2ACPredictor) or states is None:
        return states
    return predictor.state_encoder((states - predictor.state_offset) * predictor.state_scale)


def reference(predictor, tokens, actions, codes):
    """Tokens (B, T, P, D) that follow, before any layer norm, and codes; with one mask over all tokens."""
    config, steps = predictor.config, tokens.shape[1]
    standard = (tokens - predictor.token_offset) * predictor.token_scale
    acted = predictor.action_encoder((actions - predictor.action_offset) * predictor.action_scale)
    if isinstance(predictor, VJEPA2ACPredictor):
        conditions = [acted[:, :, None]]
        if codes is not None:
            felt = predictor.state_encoder((codes - predictor.state_offset) * predictor.state_scale)
            conditions.append(felt[:, :, None])
        patches = predictor.predictor_embed(standard)
        x = torch.cat([*conditions, patches + predictor.places if config.residual else patches], dim=2)
        head_dim = config.width // config.num_heads
        dim = 2 * math.floor(head_dim / 3 / 2)
        count = len(conditions)
        time = torch.arange(steps).repeat_interleave(count + PATCHES).float()
        row = torch.tensor([[0.0] * count + [p // GRID for p in range(PATCHES)]]).repeat(steps, 1).flatten()
        column = torch.tensor([[0.0] * count + [p % GRID for p in range(PATCHES)]]).repeat(steps, 1).flatten()
        axes = (time, row, column)
    else:
        tiled = [part[:, :, None].expand(-1, -1, PATCHES, -1) for part in (codes, acted) if part is not None]
        x = torch.cat([standard, *tiled], dim=-1) + predictor.places + predictor.times[:steps]
        head_dim, dim, axes = config.head_dim, 0, ()
    size = x.shape[2]
    x = x.flatten(1, 2)
    step_of = torch.arange(steps).repeat_interleave(size)
    allowed = step_of[:, None] >= step_of[None, :]
    for block in predictor.blocks:
        qkv = block.attn.qkv(layer_norm(x, block.norm1)).unflatten(-1, (3, config.num_heads, head_dim))
        query, key, value = (part.clone() for part in qkv.permute(2, 0, 3, 1, 4))
        for number, positions in enumerate(axes):
            part = slice(number * dim, (number + 1) * dim)
            for which in (query, key):
                which[..., part] = turned(which[..., part].clone(), positions, dim)
        logits = (query @ key.transpose(-1, -2) / math.sqrt(head_dim)).masked_fill(~allowed, -torch.inf)
        mixed = (logits.softmax(-1) @ value).permute(0, 2, 1, 3).flatten(2)
        x = x + block.attn.proj(mixed)
        hidden = block.mlp.fc1(layer_norm(x, block.norm2))
        x = x + block.mlp.fc2(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))
    x = x.unflatten(1, (steps, size))
    if isinstance(predictor, VJEPA2ACPredictor):
        x = layer_norm(x, predictor.predictor_norm)
        change = predictor.predictor_proj(x[:, :, size - PATCHES :])
        following = tokens + change / predictor.token_scale if config.residual else change
        if codes is None or config.next_state is NextState.add:
            return following, None if codes is None else codes + actions
        return following, codes + predictor.state_head(x[:, :, 1]) / predictor.state_scale
    x = layer_norm(x, predictor.norm)
    x = predictor.change(x) if config.residual else x
    following = x[..., :DIM] / predictor.token_scale
    following = following + (tokens if config.residual else predictor.token_offset)
    if codes is None:
        return following, None
    felt = x[..., DIM : DIM + config.state_width].mean(2)
    return following, codes + felt if config.residual else felt


def recomputed(predictor, context, past, states, actions):
    """What one candidate imagines, everything computed again for every step."""
    seen, acted, codes, imagined = context, past, first_codes(predictor, states), []
    for step in range(actions.shape[1]):
        acted = torch.cat([acted, actions[:, step : step + 1]], dim=1)
        following, next_codes = reference(predictor, seen, acted, codes)
        latest = following[:, -1:]
        if isinstance(predictor, VJEPA2ACPredictor):
            centred = latest - latest.mean(-1, keepdim=True)
            latest = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        if codes is not None:
            codes = torch.cat([codes, next_codes[:, -1:]], dim=1)
        seen = torch.cat([seen, latest], dim=1)
        imagined.append(latest)
    return torch.cat(imagined, dim=1)


def inputs(predictor, steps: int, batch: int = 2):
    tokens = random(batch, steps, PATCHES, DIM, seed=4) + 1
    states = random(batch, steps, 2, seed=6) if predictor.state_dim else None
    return tokens, random(batch, steps, 2, seed=5), states


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 4])
def test_every_step_at_once_is_what_one_masked_attention_gives(kind: str, steps: int) -> None:
    predictor = make_predictor(kind)
    tokens, actions, states = inputs(predictor, steps)
    expected, _ = reference(predictor, tokens, actions, first_codes(predictor, states))
    given = predictor(tokens.flatten(1, 2), actions, states)
    torch.testing.assert_close(given, expected.flatten(1, 2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("context", "horizon"), [(1, 1), (1, 4), (2, 1), (3, 5), (4, 2)])
def test_imagining_with_kept_keys_is_what_recomputing_gives(kind: str, context: int, horizon: int) -> None:
    predictor = make_predictor(kind)
    tokens, past, states = inputs(predictor, context)
    actions = random(2, 3, horizon, 2, seed=7)
    for gradients in (False, True):  # two ways to attend: torch's fused kernel has no gradient of its sums
        with torch.set_grad_enabled(gradients):
            imagined, _ = predictor.imagine(tokens, past[:, :-1], states, actions)
        assert imagined.shape == (2, 3, horizon, PATCHES, DIM)
        for candidate in range(3):
            expected = recomputed(predictor, tokens, past[:, :-1], states, actions[:, candidate])
            torch.testing.assert_close(imagined[:, candidate], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["vjepa2_ac as published", "dino_wm of changes"])
def test_gradients_reach_the_actions_as_they_do_without_a_cache(kind: str) -> None:
    predictor = make_predictor(kind)
    tokens, past, states = inputs(predictor, 3, batch=1)
    actions = random(1, 1, 3, 2, seed=7).requires_grad_()
    weights = random(1, 3, PATCHES, DIM, seed=8)
    imagined, _ = predictor.imagine(tokens, past[:, :-1], states, actions)
    (given,) = torch.autograd.grad((imagined[:, 0] * weights).sum(), actions)
    expected_tokens = recomputed(predictor, tokens, past[:, :-1], states, actions[:, 0])
    (expected,) = torch.autograd.grad((expected_tokens * weights).sum(), actions)
    assert expected.abs().min() > 0
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-3)


def test_shared_keys_are_not_copied_for_candidates() -> None:
    predictor = make_predictor("vjepa2_ac as published")
    tokens, past, states = inputs(predictor, 4)
    cache = FrameCache(2)
    predictor.run(tokens, past, states, cache)
    branch = cache.branch()
    assert branch.num_steps == 4
    assert branch.num_bytes == 0
    for mine, theirs in zip(branch.layers, cache.layers, strict=True):
        assert mine.shared[0] is theirs.own[0]
    _, few = predictor.imagine(tokens, past[:, :-1], states, random(2, 1, 2, 2))
    _, many = predictor.imagine(tokens, past[:, :-1], states, random(2, 11, 2, 2))
    step = predictor.cache_numbers_per_step() * 4
    assert (few, many) == (2 * (3 + 2) * step, 2 * (3 + 11 * 2) * step)


def test_merged_attention_is_attention_to_all_keys_at_once_also_where_one_part_rules() -> None:
    query, key, value = (random(6, 2, 5, 8, seed=seed) for seed in (1, 2, 3))
    shared_key, shared_value = (random(2, 2, 7, 8, seed=seed) for seed in (4, 5))
    for scale in (1.0, 40.0):
        for gradients in (False, True):
            with torch.set_grad_enabled(gradients):
                merged = merged_attention(query, scale * key, value, scale * shared_key, shared_value)
            keys = torch.cat([scale * key, scale * shared_key.repeat_interleave(3, 0)], dim=2)
            values = torch.cat([value, shared_value.repeat_interleave(3, 0)], dim=2)
            weights = (query @ keys.transpose(-1, -2) / math.sqrt(8)).softmax(-1)
            torch.testing.assert_close(merged, weights @ values, atol=1e-5, rtol=0)


def test_a_frame_knows_nothing_of_later_ones() -> None:
    for kind in KINDS:
        predictor = make_predictor(kind)
        tokens, actions, states = inputs(predictor, 3)
        before = predictor(tokens.flatten(1, 2), actions, states)[:, : 2 * PATCHES]
        tokens[:, 2] += 5
        actions[:, 2] += 5
        after = predictor(tokens.flatten(1, 2), actions, states)[:, : 2 * PATCHES]
        torch.testing.assert_close(after, before, atol=1e-6, rtol=0)


def test_a_new_predictor_of_changes_imagines_stillness() -> None:
    sizes = {"token_dim": DIM, "grid_size": GRID, "action_dim": 2, "state_dim": 0, "depth": 2, "num_heads": 2}
    still = torch.nn.functional.layer_norm(random(2, 1, PATCHES, DIM), (DIM,))
    for predictor in (
        VJEPA2ACPredictor(VJEPA2ACConfig(**sizes, width=28, next_state=NextState.learned, residual=True)),
        DinoWMPredictor(DinoWMConfig(**sizes, head_dim=8, mlp_width=40)),
    ):
        predictor.fit_normalisers(random(40, PATCHES, DIM, seed=1), random(50, 2, seed=2))
        imagined, _ = predictor.imagine(still, random(2, 0, 2), None, random(2, 3, 4, 2))
        torch.testing.assert_close(imagined, still[:, None].expand_as(imagined), atol=1e-4, rtol=0)


def test_what_does_not_fit_is_named() -> None:
    predictor = make_predictor("vjepa2_ac as published")
    tokens, actions, states = inputs(predictor, 4)
    with pytest.raises(ValueError, match="4 actions and 9 patches a frame need"):
        predictor(tokens[:, :3].flatten(1, 2), actions, states)
    with pytest.raises(ValueError, match="proprio is None; this predictor needs"):
        predictor(tokens.flatten(1, 2), actions)
    with pytest.raises(ValueError, match="11 steps of context and plan are too many: .* positions for 10"):
        predictor.imagine(tokens, actions[:, :-1], states, random(2, 1, 8, 2))
    for sizes, message in (
        ({"width": 30, "num_heads": 4}, "width 30 must be a multiple of twice num_heads 4"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"action_dim": 2}, "'gripper' needs 7 actions and 7 numbers of proprio"),
        ({"action_dim": 2, "next_state": NextState.add}, "'add' needs as many actions"),
    ):
        with pytest.raises(ValueError, match=message):
            VJEPA2ACConfig(**sizes)
    with pytest.raises(ValueError, match="head_dim must be at least 1, got 0"):
        DinoWMConfig(head_dim=0)
