"""Two processes on this machine that train together, as torchrun would start them."""

import os
import socket
from collections.abc import Callable

import torch
import torch.multiprocessing as mp


def in_two_processes(work: Callable[..., object], *arguments: object) -> None:
    """Call `work(*arguments)` in both; it must be a function that can be imported."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    mp.spawn(_joined, (port, work, arguments), nprocs=2)


def _joined(rank: int, port: int, work: Callable[..., object], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)
    }  # fmt: skip
    work(*arguments)
