"""wm-doctor tells what there is, and mends nothing by itself."""

import json

import pytest

from wm_plan import machine
from wm_plan.commands import doctor
from wm_plan.commands.front import DONE, WRONG_INPUT
from wm_plan.envs.gl import OSMESA_INSTALL_LINE


def test_it_reports_what_a_run_here_uses(capfd) -> None:
    assert doctor.main(["--json", "--quiet"]) == DONE
    report = json.loads(capfd.readouterr().out)
    assert report["ready"]
    assert report["fixes"] == []
    assert report["graphics"]["backends"][report["graphics"]["chosen"]] == ""
    assert str(report["threads"]["fastest"]) in report["threads"]["ms"]
    assert report["devices"]["cpu"]
    assert report["versions"]["torch"]


def test_its_page_names_what_a_person_looks_for(capfd) -> None:
    doctor.main([])
    page = capfd.readouterr().out
    for word in ("rendering", "egl", "osmesa", "CPU threads", "cuda", "mujoco"):
        assert word in page


def test_a_backend_that_fails_comes_with_the_line_that_mends_it(monkeypatch, capfd) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(
        "wm_plan.envs.gl.probe_backend", lambda name: "no library"
    )  # a machine without any GL
    assert doctor.main(["--json", "--quiet"]) == WRONG_INPUT
    report = json.loads(capfd.readouterr().out)
    assert not report["ready"]
    assert report["fixes"] == [OSMESA_INSTALL_LINE]


def test_threads_are_measured_and_put_back() -> None:
    import torch

    before = torch.get_num_threads()
    medians = machine.time_threads([1, 2], seconds=0.02)
    assert set(medians) == {1, 2}
    assert min(medians.values()) > 0
    assert torch.get_num_threads() == before


def test_thread_counts_double_up_to_all() -> None:
    counts = machine.thread_counts()
    assert counts[0] == 1
    assert counts[-1] == machine.cpu_count()
    assert counts == sorted(set(counts))


@pytest.mark.parametrize(
    ("device", "threads", "said"),
    [("gpu", 1, "unknown device 'gpu'. Known: cpu, cuda, mps"), ("cpu", 0, "threads=0, must be at least 1")],
)
def test_a_device_that_is_not_there_is_refused(device: str, threads: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        machine.use_device(device, threads)
