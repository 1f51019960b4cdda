"""The choice of a GL backend: the user's, else what works, remembered; one clear line when nothing does."""

import os
import subprocess
import sys

import pytest

from wm_plan.envs import gl


def run_python(code, **environ):
    kept = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def probing(**reasons):
    """A probe that knows the answers, and the list of what it was asked."""
    asked = []

    def probe(backend):
        asked.append(backend)
        return reasons.get(backend, "no library")

    return probe, asked


def test_the_users_choice_is_kept_and_nothing_is_probed(tmp_path):
    probe, asked = probing(egl="")
    environ = {"MUJOCO_GL": "osmesa", "XDG_CACHE_HOME": str(tmp_path)}
    assert gl.choose_backend(environ, probe) == "osmesa"
    assert environ["MUJOCO_GL"] == "osmesa"
    assert asked == []


def test_without_a_screen_egl_is_tried_before_osmesa(tmp_path):
    probe, asked = probing(osmesa="")
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    assert gl.choose_backend(environ, probe) == "osmesa"
    assert asked == ["egl", "osmesa"]
    assert environ["MUJOCO_GL"] == "osmesa"


def test_with_a_screen_glfw_comes_first(tmp_path):
    probe, asked = probing(glfw="", egl="")
    assert gl.choose_backend({"DISPLAY": ":0", "XDG_CACHE_HOME": str(tmp_path)}, probe) == "glfw"
    assert asked == ["glfw"]


def test_the_answer_is_remembered_for_the_same_screen_only(tmp_path):
    probe, asked = probing(egl="")
    gl.choose_backend({"XDG_CACHE_HOME": str(tmp_path)}, probe)
    assert gl.choose_backend({"XDG_CACHE_HOME": str(tmp_path)}, probe) == "egl"
    assert asked == ["egl"]
    gl.choose_backend({"XDG_CACHE_HOME": str(tmp_path), "DISPLAY": ":0"}, probe)
    assert asked == ["egl", "glfw", "egl"]


def test_a_spoilt_memory_is_probed_again(tmp_path):
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    gl.cache_file(environ).parent.mkdir(parents=True)
    gl.cache_file(environ).write_text("not json")
    probe, asked = probing(egl="")
    assert gl.choose_backend(environ, probe) == "egl"
    assert asked == ["egl"]


def test_a_home_that_cannot_be_written_to_still_gets_an_answer(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    probe, _ = probing(egl="")
    assert gl.choose_backend({"XDG_CACHE_HOME": str(blocked)}, probe) == "egl"


def test_when_nothing_works_one_line_says_what_to_install(tmp_path):
    probe, _ = probing()
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    with pytest.raises(
        gl.GraphicsError, match="apt-get install -y libegl1 libgl1-mesa-dri libopengl0"
    ) as caught:
        gl.choose_backend(environ, probe)
    assert "\n" not in str(caught.value)
    assert "MUJOCO_GL" not in environ
    assert not gl.cache_file(environ).exists()


def test_the_real_probe_says_why_a_backend_does_not_work():
    assert gl.probe_backend("glfw") != "" or os.environ.get("DISPLAY")
    assert "\n" not in gl.probe_backend("glfw")


def test_importing_the_envs_loads_no_mujoco_and_sets_nothing():
    code = (
        "import os, sys, wm_plan.envs\n"
        "assert 'mujoco' not in sys.modules and 'torch' not in sys.modules\n"
        "assert 'MUJOCO_GL' not in os.environ"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_pixels_come_out_when_mujoco_was_imported_first_and_nothing_was_chosen(tmp_path):
    code = (
        "import mujoco, wm_plan.envs as envs\n"
        "observation, _ = envs.make('two_room', image_size=32).reset(seed=0)\n"
        "assert observation['pixels'].std() > 1"
    )
    done = run_python(code, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "noise at exit"


@pytest.mark.parametrize("backend", ["nonsense", "off"])
def test_a_users_choice_that_cannot_render_is_named_in_one_line(backend):
    code = (
        "import wm_plan.envs as envs\n"
        "try:\n    envs.make('two_room').reset(seed=0)\n"
        "except envs.GraphicsError as error:\n    print(error)"
    )
    done = run_python(code, MUJOCO_GL=backend)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"MUJOCO_GL={backend} cannot render here (")
    assert "apt-get install" in done.stdout
    assert done.stdout.count("\n") == 1
