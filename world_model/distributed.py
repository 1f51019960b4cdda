"""One training on several processes that torchrun started: each has its part of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Which of the processes this is; 0 where there is one."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launched_rank() -> int:
    """Which process of torchrun's this is, also before they have joined."""
    return int(os.environ.get("RANK", "0"))


def launched_ranks() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def part_of(batch_size: int) -> slice:
    """This process's part of a batch.

    Raises:
        ValueError: the batch cannot be shared out equally.
    """
    if batch_size % num_ranks():
        raise ValueError(f"a batch of {batch_size} cannot be shared equally by {num_ranks()} processes")
    share = batch_size // num_ranks()
    return slice(rank() * share, (rank() + 1) * share)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started; nothing, where it did not."""
    if launched_ranks() == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """All processes' parts; backwards, what all of them want of this one's."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ANN401
        ctx.size = len(values)
        parts = [torch.empty_like(values) for _ in range(num_ranks())]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        (gradient,) = gradients
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total[rank() * ctx.size : (rank() + 1) * ctx.size]


def gathered(values: Tensor) -> Tensor:
    """The parts of all processes, in their order and equally long; gradients flow back to each.

    A loss that every process computes alike of what it gathered has, after `average_gradients`, the gradient
    that one process with the whole batch would have.
    """
    return values if num_ranks() == 1 else _Gather.apply(values)


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace gradients by their mean over the processes."""
    if num_ranks() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient) / num_ranks())
