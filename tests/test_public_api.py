"""Every public name exists, is documented, and costs nothing before it is used."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import wm_plan

PACKAGES = (
    "wm_plan",
    "wm_plan.envs",
    "wm_plan.planners",
    "wm_plan.data",
    "wm_plan.world_model",
    "wm_plan.configs",
    "wm_plan.evaluation",
)
MODULES = sorted(info.name for info in pkgutil.walk_packages(wm_plan.__path__, "wm_plan."))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_exists_and_says_what_it_is(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__, f"{package} has no public names"
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value) or (inspect.isclass(value) and value.__module__.startswith("wm_plan.")):
            assert value.__doc__, f"{package}.{name} has no docstring"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_by_itself_and_says_what_it_holds(module: str) -> None:
    assert importlib.import_module(module).__doc__, f"{module} has no docstring"


def test_every_folder_is_a_package() -> None:
    for name in ("commands", "configs", "envs", "evaluation", "planners", "world_model"):
        assert f"wm_plan.{name}" in MODULES


def test_importing_the_facade_loads_nothing_heavy_and_changes_nothing() -> None:
    code = (
        "import os, sys; before = dict(os.environ)\n"
        "import wm_plan; dir(wm_plan)\n"
        "heavy = {'torch', 'mujoco', 'gymnasium', 'stable_baselines3', 'hydra'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert dict(os.environ) == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match="Public names: PlanResult, "):
        wm_plan.nothing  # noqa: B018


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert wm_plan.__version__ == version("wm-plan")
