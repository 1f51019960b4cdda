"""One thread everywhere, and a rendering backend that works here, before any test loads torch or MuJoCo."""

import os
import signal
import sys
from contextlib import suppress

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")


def pytest_sessionstart() -> None:
    """Set up only now: jaxtyping's hook must come before the package is first imported."""
    import torch

    import tests.type_checker  # noqa: F401  (the hook looks it up as an attribute of `tests`)
    from wm_plan.envs import choose_backend

    choose_backend()
    # dm_control brings absl, whose log handler keeps pytest's own stderr; hydra's jobs would close that.
    with suppress(ImportError):
        from absl import logging

        logging.get_absl_handler().python_handler.stream = sys.__stderr__
    # A shell that starts tests in the background ignores SIGINT; what they interrupt must not inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
