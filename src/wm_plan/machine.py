"""What this machine has: devices, CPU threads and how fast they are, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DEVICES = ("cpu", "cuda", "mps")
REPORTED = (
    "wm-plan",
    "torch",
    "mujoco",
    "dm-control",
    "gymnasium",
    "numpy",
    "hydra-core",
    "h5py",
    "imageio",
    "av",
)
"""The distributions whose versions a result records."""


def use_device(name: str = "cpu", threads: int = 1) -> torch.device:
    """Give the torch device and set the number of CPU threads; one thread gives the same bits every time.

    Raises:
        ValueError: an unknown device, one that this machine lacks, or less than one thread.
    """
    import torch

    if name not in DEVICES:
        raise ValueError(f"unknown device {name!r}. Known: {', '.join(DEVICES)}.")
    if threads < 1:
        raise ValueError(f"threads={threads}, must be at least 1.")
    if not available_devices()[name]:
        have = ", ".join(device for device, present in available_devices().items() if present)
        raise ValueError(
            f"device {name!r} is not available to torch {torch.__version__} here. Use --device {have}."
        )
    torch.set_num_threads(threads)
    return torch.device(name)


def available_devices() -> dict[str, bool]:
    """Say which of `DEVICES` torch can use here."""
    import torch

    return {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def device_name(device: torch.device) -> str:
    """Say what a device is: the maker's name of a GPU of NVIDIA's, else its type."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def cpu_count() -> int:
    """Give the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Give the versions of Python, the platform and the packages that a result depends on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in REPORTED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_mb() -> float | None:
    """Give the most memory that this process has held so far [MB], where the system tells."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if platform.system() == "Darwin" else 1e3), 1)


def time_threads(counts: list[int], seconds: float = 0.6) -> dict[int, float]:
    """Time one small planner iteration's worth of torch work with each number of threads [ms, median].

    On busy or small machines two threads can be many times slower than one, so this is measured, not guessed.
    The number of threads is put back afterwards.
    """
    import torch

    before = torch.get_num_threads()
    medians: dict[int, float] = {}
    try:
        for count in counts:
            torch.set_num_threads(count)
            medians[count] = _median_ms(seconds)
    finally:
        torch.set_num_threads(before)
    return medians


def thread_counts() -> list[int]:
    """Give the numbers of threads worth trying here: 1, 2, 4, ... up to all."""
    counts = [1]
    while counts[-1] * 2 <= cpu_count():
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == cpu_count() else [*counts, cpu_count()]


def _median_ms(seconds: float) -> float:
    """Time matrix products of the sizes that an encoder and a predictor use."""
    import torch

    tokens = torch.ones(64, 192)
    candidates = torch.ones(256, 512)
    weight, wide = torch.ones(192, 576), torch.ones(512, 512)
    times: list[float] = []
    end = time.perf_counter() + seconds
    with torch.inference_mode():
        while time.perf_counter() < end or len(times) < 5:
            begin = time.perf_counter()
            for _ in range(8):
                torch.nn.functional.gelu(tokens @ weight)
                torch.nn.functional.silu(candidates @ wide)
            times.append((time.perf_counter() - begin) * 1e3)
    return sorted(times)[len(times) // 2]
