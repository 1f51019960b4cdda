"""Configs: presets, overrides, and what is said about a wrong one."""

from pathlib import Path

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from wm_plan.configs.schema import PlanConfig
from wm_plan.configuration import CONFIG_FOLDER, as_values, as_yaml, compose
from wm_plan.controller import check_settings, planner_name
from wm_plan.envs import task_names
from wm_plan.planners import CEMConfig, planner_names
from wm_plan.planners.registry import PLANNERS


@pytest.mark.parametrize("task", task_names())
@pytest.mark.parametrize("planner", planner_names())
def test_every_planner_goes_with_every_task(task: str, planner: str) -> None:
    config = compose("plan", base=[f"planner={planner}", f"task={task}"])
    assert config.env == task
    assert planner_name(config) == planner
    assert isinstance(OmegaConf.to_object(config).planner, PLANNERS[planner].config_class)
    check_settings(config)


def test_defaults_live_beside_the_class() -> None:
    planner = as_values(compose("plan", base=["task=point_mass"]))["planner"]
    assert planner == as_values(OmegaConf.structured(CEMConfig()))


def test_presets_hold_only_differences() -> None:
    for task in task_names():
        preset = yaml.safe_load((CONFIG_FOLDER / "task" / f"{task}.yaml").read_text())
        given = {"env": task, "planner": {}, "objective": {}, "control": {}} | preset
        plain = as_values(OmegaConf.structured(PlanConfig(env=task, planner=CEMConfig())))
        for section in ("planner", "objective", "control"):
            same = {key for key, value in given[section].items() if plain[section][key] == value}
            assert not same, f"{task}.yaml repeats defaults: {same}"


def test_the_yaml_of_a_config_composes_to_the_same(tmp_path: Path) -> None:
    config = compose("plan", ["planner.num_samples=17", "objective.distance=l1"])
    assert yaml.safe_load(as_yaml(config)) == as_values(config)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("planner=cme", "unknown planner 'cme'. Did you mean 'cem'? Known planners: cem, "),
        ("task=reachr", "unknown task 'reachr'. Did you mean 'reacher'?"),
        ("planner.horizn=3", "unknown override 'planner.horizn=3'. Did you mean 'planner.horizon'?"),
        ("planer.horizon=3", "unknown override 'planer.horizon=3'. Did you mean 'planner.horizon'?"),
        ("horizon=3", "unknown override 'horizon=3'."),
        ("planner.horizon=abc", "bad override 'planner.horizon=abc': Value 'abc' of type 'str' could not be"),
        ("planner.horizon=[", "bad override 'planner.horizon=['"),
        ("+planner.speed=3", "bad override '+planner.speed=3': nothing can be added"),
        ("~objective=", "bad override '~objective=': nothing can be added to the config or deleted"),
        ("objective.distance=l3", "Invalid value 'l3', expected one of [l1, l2, cosine]"),
    ],
)
def test_a_wrong_override_is_one_line_with_what_is_right(override: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        compose("plan", ["seed=3", override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["planner.horizon=0"], "horizon=0 is not allowed"),
        (["planner.num_samples=8", "planner.num_elites=9"], "num_elites=9 is more than num_samples=8"),
    ],
)
def test_a_setting_out_of_range_is_refused_before_any_model_is_loaded(
    overrides: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check_settings(compose("plan", overrides))


def test_a_hydra_application_that_composes_keeps_its_own_state() -> None:
    from hydra import initialize_config_dir

    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_FOLDER)):
        before = GlobalHydra.instance().hydra
        compose("plan")
        assert GlobalHydra.instance().hydra is before
