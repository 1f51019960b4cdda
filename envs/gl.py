"""Choosing the OpenGL backend that MuJoCo renders with, on a machine with or without a screen."""

import functools
import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path

INSTALL_LINE = "apt-get install -y libegl1 libgl1-mesa-dri libopengl0"
"""What a fresh Debian or Ubuntu without any GL must install for `MUJOCO_GL=egl`."""
OSMESA_INSTALL_LINE = "apt-get install -y libosmesa6"
"""The same for `MUJOCO_GL=osmesa`; one of the two is enough."""

_PROBE = """
import mujoco
from {module} import GLContext
context = GLContext(16, 16)
context.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value).free()
context.free()
"""
_MODULES = {"glfw": "mujoco.glfw", "egl": "mujoco.egl", "osmesa": "mujoco.osmesa"}
_PROBE_TIMEOUT = 60.0


class GraphicsError(ValueError):
    """No OpenGL backend can render here; the message is one line that says what to install."""


def choose_backend(
    environ: MutableMapping[str, str] | None = None, probe: Callable[[str], str] | None = None
) -> str:
    """Name of the backend to render with; sets `MUJOCO_GL` when the user has not.

    The user's own `MUJOCO_GL` is respected and never overwritten. Otherwise glfw (only where there is a
    `DISPLAY`), egl and osmesa are tried in that order, each in a process of its own because a failed one
    cannot be unloaded, and the answer is remembered in the user's cache. Away from Linux, MuJoCo's own
    choice is kept.

    Args:
        environ: the environment to read and to write; `os.environ` when not given.
        probe: gives "" when the backend works and a reason when it does not; tests pass their own.

    Raises:
        GraphicsError: when nothing works; the message holds the line that mends it.
    """
    environ = os.environ if environ is None else environ
    chosen = environ.get("MUJOCO_GL", "").strip().lower()
    if chosen:
        return chosen
    if platform.system() != "Linux":
        return ""
    backend = _remembered(environ) or _first_working(environ, probe or probe_backend)
    environ["MUJOCO_GL"] = backend
    return backend


def probe_backend(backend: str) -> str:
    """Make a context of `backend` in a process of its own: "" when that works, else why not in one line."""
    code = _PROBE.format(module=_MODULES[backend])
    environ = {**os.environ, "MUJOCO_GL": backend}
    environ.pop("PYOPENGL_PLATFORM", None)
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=_PROBE_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_PROBE_TIMEOUT:.0f} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit status {done.returncode}"


def forget_backend() -> None:
    """Drop the remembered backend, so that the next choice is probed afresh."""
    cache_file().unlink(missing_ok=True)


def cache_file(environ: MutableMapping[str, str] | None = None) -> Path:
    """Where the working backend of this machine is remembered."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".cache")
    return Path(base) / "wm-plan" / "gl.json"


def backend_module(backend: str) -> str:
    """The module of MuJoCo with the `GLContext` of `backend`; MuJoCo's own choice for any other name."""
    return _MODULES.get(backend, "mujoco.gl_context")


def import_mujoco() -> None:
    """Import MuJoCo, which already needs GL where the user's `MUJOCO_GL` names a backend.

    Raises:
        GraphicsError: when that backend is unknown or cannot be loaded.
    """
    try:
        importlib.import_module("mujoco")
    except Exception as error:  # each backend fails in its own way
        if not os.environ.get("MUJOCO_GL"):
            raise
        raise broken_backend(os.environ["MUJOCO_GL"], error) from error


def broken_backend(backend: str, error: Exception) -> GraphicsError:
    """The error that says why `backend` cannot render, and what mends it."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    mend = OSMESA_INSTALL_LINE if backend.strip().lower() == "osmesa" else INSTALL_LINE
    return GraphicsError(
        f"MUJOCO_GL={backend or 'unset'} cannot render here ({reason}). "
        f"Unset MUJOCO_GL to have a working backend chosen, or run: {mend}"
    )


def _first_working(environ: MutableMapping[str, str], probe: Callable[[str], str]) -> str:
    reasons: dict[str, str] = {}
    for backend in (*(["glfw"] if environ.get("DISPLAY") else []), "egl", "osmesa"):
        reasons[backend] = probe(backend)
        if not reasons[backend]:
            _remember(backend, environ)
            return backend
    tried = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise GraphicsError(
        f"No OpenGL backend works here ({tried}). Run: {INSTALL_LINE}, or: {OSMESA_INSTALL_LINE}"
    )


def _remembered(environ: MutableMapping[str, str]) -> str | None:
    try:
        entry = json.loads(cache_file(environ).read_text())
        if entry["machine"] == _machine(environ.get("DISPLAY", "")) and entry["backend"] in _MODULES:
            return str(entry["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def _remember(backend: str, environ: MutableMapping[str, str]) -> None:
    """Write the answer in one move; a home that cannot be written to only costs the next probe."""
    path = cache_file(environ)
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps({"machine": _machine(environ.get("DISPLAY", "")), "backend": backend}))
        draft.replace(path)
    except OSError:
        return


@functools.cache
def _machine(display: str) -> str:
    """What the answer depends on: the host, the interpreter and the screen."""
    return f"{platform.node()}|{sys.executable}|{display}"
