"""bfloat16 arithmetic where the machine multiplies it faster than float32."""

from __future__ import annotations

from functools import cache

import torch


@cache
def has_fast_bfloat16(device_type: str = "cpu") -> bool:
    """Whether matrix products in bfloat16 are faster there than in float32.

    On a CPU: whether it has instructions for them (AVX512-BF16 or AMX); elsewhere they would be emulated.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type != "cpu":
        return False
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported is not None and supported())


def fast_products(device: torch.device) -> torch.autocast:
    """A context in which matrix products of `device` are done in bfloat16 where that is faster.

    Sums, losses and whatever is kept stay in float32.
    """
    fast = has_fast_bfloat16(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)
