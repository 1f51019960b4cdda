"""Attention to keys in two places, those that all candidates of a row share and those of a candidate's own.

Neither is copied next to the other: each part is attended to by itself, and the two results are weighted by
the log of their sums of exponentials, which is exact.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

Queries = Float[Tensor, "batch head query head_dim"]
Keys = Float[Tensor, "batch head key head_dim"]


def attention(query: Queries, key: Keys, value: Keys) -> Queries:
    """Plain attention of every query to every key."""
    return F.scaled_dot_product_attention(query, key, value)


def attention_with_logsum(
    query: Queries, key: Keys, value: Keys
) -> tuple[Queries, Float[Tensor, "batch head query"]]:
    """Attention and the log of each query's sum of exponentials.

    Torch's fused kernels give both, but no gradient of the second: with gradients on, plain products do.
    """
    if not torch.is_grad_enabled():
        if query.device.type == "cpu":
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)
        if query.device.type == "cuda":
            result = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)
            return result[0], result[1][..., : query.shape[2]]
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return logits.softmax(dim=-1) @ value, logits.logsumexp(dim=-1)


def merged_attention(
    query: Queries,
    key: Keys,
    value: Keys,
    shared_key: Float[Tensor, "row head shared head_dim"],
    shared_value: Float[Tensor, "row head shared head_dim"],
) -> Queries:
    """Attention to a candidate's own keys and to those that its row's candidates share.

    Args:
        query: the batch holds the candidates of the first row, then those of the second, and so on.
        key: each candidate's own.
        value: each candidate's own.
        shared_key: one set a row; all of the row's candidates are asked about it at once, as one long query.
        shared_value: one set a row.
    """
    rows = len(shared_key)
    folded = rearrange(query, "(row c) h q d -> row h (c q) d", row=rows)
    own, own_sum = attention_with_logsum(query, key, value)
    other, other_sum = attention_with_logsum(folded, shared_key, shared_value)
    other = rearrange(other, "row h (c q) d -> (row c) h q d", q=query.shape[2])
    other_sum = rearrange(other_sum, "row h (c q) -> (row c) h q", q=query.shape[2])
    weight = torch.sigmoid(other_sum - own_sum).to(own.dtype).unsqueeze(-1)
    return torch.lerp(own, other, weight)
