"""The wheel holds all that a run needs, and works next to folders that are called as ours are."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("configs", "envs", "planners", "world_model")
SHIPPED = (".py", ".xml", ".yaml", ".safetensors", ".json", ".css", ".typed")
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the tree by the environment's own setuptools, without network."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", *FOLDERS):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    options = ("-q", "--no-deps", "--no-build-isolation", "--no-index", "-w")
    built = run(sys.executable, "-m", "pip", "wheel", *options, folder, ".", cwd=copy)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory) -> Path:
    """The Python of a fresh environment that holds the wheel and sees this one's other packages."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder)
    interpreter = folder / "bin" / "python"
    options = ("--no-deps", "--no-index", "-q")
    installed = run(
        sys.executable, "-m", "pip", "--python", interpreter, "install", *options, wheel, cwd=folder
    )
    assert installed.returncode == 0, installed.stderr
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "packages_of_the_test_environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with packages of a robotics repository that are called as ours are, and fail when imported."""
    for name in (*FOLDERS, "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            f"raise RuntimeError('the hostile {name} was imported')\n"
        )
    return tmp_path


def test_the_folders_are_links_in_the_package() -> None:
    for name in FOLDERS:
        link = ROOT / "src" / "wm_plan" / name
        assert link.is_symlink()
        assert os.readlink(link) == f"../../{name}"


def test_the_wheel_holds_every_source_and_data_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = set()
    for name in FOLDERS:
        wanted |= {f"wm_plan/{name}/{path.relative_to(ROOT / name)}" for path in (ROOT / name).rglob("*.*")}
    package = ROOT / "src" / "wm_plan"
    wanted |= {f"wm_plan/{path.relative_to(package)}" for path in package.glob("**/*.*")}
    wanted = {name for name in wanted if name.endswith(SHIPPED) and "__pycache__" not in name}
    assert {"wm_plan/py.typed", "wm_plan/envs/two_room.xml", "wm_plan/configs/plan.yaml"} <= wanted
    assert wanted <= names, sorted(wanted - names)


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    for info in zipfile.ZipFile(wheel).infolist():
        assert info.filename.startswith("wm_plan/") or ".dist-info/" in info.filename, info.filename
        assert info.filename.endswith(SHIPPED) or ".dist-info/" in info.filename, info.filename
        assert info.external_attr >> 28 != 0o12, f"{info.filename} is a link"


def test_an_installed_package_ignores_hostile_folders(python: Path, hostile: Path) -> None:
    modules = ", ".join(f"wm_plan.{name}" for name in (*FOLDERS, "evaluation", "commands.plan"))
    code = f"import sys, wm_plan, {modules}; print(wm_plan.__file__); assert sys.path[0] == ''"
    done = run(python, "-c", code, cwd=hostile)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(python.parents[1])


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_console_script_is_installed_and_answers(script: str, python: Path, hostile: Path) -> None:
    done = run(python.with_name(script), "--help", cwd=hostile)
    assert done.returncode == 0, done.stderr
    assert f"usage: {script}" in done.stdout


def test_an_installed_package_plans_from_a_hostile_folder(python: Path, hostile: Path) -> None:
    state = ("--goal-state", "0.3,-1.2")
    done = run(
        python.with_name("wm-plan"), "--env", "reacher", *state, "--max-steps", "4", "--json", cwd=hostile
    )
    assert done.returncode in (0, 3), done.stderr
    result = json.loads(done.stdout)
    assert len(result["actions"]) == result["steps"] > 0
    for path in result["files"].values():
        assert (hostile / path).stat().st_size > 0
