"""`wm-doctor`: what this machine has, and the exact line that mends what is missing."""

from __future__ import annotations

import os
import sys
from typing import Any

from .front import DONE, WRONG_INPUT, Command, Job


def run(job: Job) -> int:
    """Look at the machine; exit code 2 when something that every run needs is missing."""
    job.say("looking at this machine; this takes a few seconds ...")
    report = examine()
    job.print_result(report, as_text(report))
    return DONE if report["ready"] else WRONG_INPUT


def examine() -> dict[str, Any]:
    """Give everything that the command reports, as plain values."""
    import torch

    from wm_plan import machine

    graphics = _graphics()
    medians = machine.time_threads(machine.thread_counts())
    fastest = min(medians, key=lambda count: medians[count])
    devices = machine.available_devices()
    fixes: list[str] = []
    notes: list[str] = []
    if graphics["chosen"] is None:
        fixes.append(graphics["fix"])
    if fastest != 1:
        gain = medians[1] / medians[fastest]
        notes.append(f"--threads {fastest} is {gain:.1f} times as fast as the default of 1 here")
    if not devices["cuda"] and torch.version.cuda:
        notes.append("torch is a CUDA build but finds no GPU: check the driver with nvidia-smi")
    return {
        "ready": not fixes,
        "graphics": graphics,
        "threads": {"cpus": machine.cpu_count(), "ms": medians, "fastest": fastest},
        "devices": {**devices, "cuda_name": torch.cuda.get_device_name(0) if devices["cuda"] else None},
        "versions": machine.versions(),
        "fixes": fixes,
        "notes": notes,
    }


def as_text(report: dict[str, Any]) -> str:
    """Lay the report out for people."""
    graphics, threads, devices = report["graphics"], report["threads"], report["devices"]
    lines = ["rendering"]
    for name, reason in graphics["backends"].items():
        lines.append(f"  {name:<8}{reason or 'works'}")
    lines.append(
        f"  used    {graphics['chosen'] or 'none'}{' (MUJOCO_GL is set)' if graphics['by_user'] else ''}"
    )
    lines.append(f"CPU threads ({threads['cpus']} CPUs; time of one small step of planning)")
    for count, milliseconds in threads["ms"].items():
        mark = "  fastest" if count == threads["fastest"] else ""
        lines.append(f"  {count:<8}{milliseconds:.2f} ms{mark}")
    lines.append("devices")
    for name in ("cpu", "cuda", "mps"):
        detail = f" ({devices['cuda_name']})" if name == "cuda" and devices["cuda_name"] else ""
        lines.append(f"  {name:<8}{'yes' if devices[name] else 'no'}{detail}")
    lines.append("versions")
    lines += [f"  {name:<12}{version}" for name, version in report["versions"].items()]
    if report["notes"]:
        lines += ["notes", *(f"  {note}" for note in report["notes"])]
    lines += (
        ["to mend", *(f"  {fix}" for fix in report["fixes"])]
        if report["fixes"]
        else ["all that a run needs is here"]
    )
    return "\n".join(lines)


def _graphics() -> dict[str, Any]:
    """Try every GL backend in a process of its own, and the one that a run would use."""
    from wm_plan.envs import gl

    by_user = os.environ.get("MUJOCO_GL", "").strip().lower()
    names = ["glfw", "egl", "osmesa"]
    backends = {name: gl.probe_backend(name) for name in names}
    screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) or sys.platform != "linux"
    if not screen:
        backends["glfw"] = "no screen (DISPLAY is not set)"
    working = [name for name in names if not backends[name]]
    chosen = by_user or next(iter(working), None)
    fix = None
    if backends.get(str(chosen), "") or chosen is None:  # the user's choice fails, or nothing works
        fix = gl.OSMESA_INSTALL_LINE if by_user == "osmesa" else gl.INSTALL_LINE
        if working:
            fix = f"unset MUJOCO_GL (it says {by_user}, which fails here; {working[0]} works)"
        chosen = None
    return {"backends": backends, "chosen": chosen, "by_user": bool(by_user), "fix": fix}


COMMAND = Command(
    "wm-doctor",
    "Say what this machine has (rendering, CPU threads, GPU, versions) and what mends what is missing.",
    run=run,
    examples=("wm-doctor", "wm-doctor --json"),
)
main = COMMAND.main
