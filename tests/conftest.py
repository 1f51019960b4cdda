"""One thread everywhere, and a rendering backend that works here, before anything loads torch or MuJoCo."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import pytest

from wm_plan.envs import choose_backend

choose_backend()


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    import torch

    torch.set_num_threads(1)
