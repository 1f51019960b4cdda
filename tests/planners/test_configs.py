"""Planner configs: defaults, overrides, and OmegaConf."""

import dataclasses

import pytest
from omegaconf import OmegaConf

from tests.worlds import UNIT_BOX
from wm_plan.planners import CEM, CEMConfig, DiscreteCEMConfig, MPPIConfig, Smoothness, make_planner
from wm_plan.planners.registry import PLANNERS

CONFIGS = [*(planner.config_class for planner in PLANNERS.values()), DiscreteCEMConfig]


@pytest.mark.parametrize("config_class", CONFIGS)
def test_every_config_goes_through_omegaconf_and_back(config_class):
    merged = OmegaConf.merge(
        OmegaConf.structured(config_class),
        OmegaConf.from_dotlist(["horizon=12", "smoothness=linear", "num_knots=3", "result=mean"]),
    )
    config = OmegaConf.to_object(merged)
    assert isinstance(config, config_class)
    assert (config.horizon, config.num_knots, config.smoothness) == (12, 3, Smoothness.linear)


@pytest.mark.parametrize("name", PLANNERS)
def test_a_planner_is_built_from_its_config_a_mapping_or_single_settings(name):
    config = PLANNERS[name].config_class(horizon=3)
    built = [
        make_planner(name, UNIT_BOX, config),
        make_planner(name, UNIT_BOX, {"horizon": 3}),
        make_planner(name, UNIT_BOX, OmegaConf.structured(config)),
        make_planner(name, UNIT_BOX, horizon=3),
    ]
    assert all(planner.config == config for planner in built)


def test_overrides_leave_the_given_config_as_it_is():
    config = CEMConfig(horizon=3)
    planner = CEM(UNIT_BOX, config, horizon=7, rate_limit=[0.1, 0.2])
    assert (config.horizon, planner.horizon) == (3, 7)
    assert dataclasses.asdict(config) == dataclasses.asdict(CEMConfig(horizon=3))


def test_an_override_is_checked_together_with_the_rest():
    with pytest.raises(ValueError, match="num_elites=32 is more than num_samples=16"):
        CEM(UNIT_BOX, CEMConfig(), num_samples=16)


def test_importance_correction_and_cost_normalisation_exclude_each_other():
    with pytest.raises(ValueError, match="switch one of them off"):
        MPPIConfig(importance_correction=True)


def test_something_that_is_no_config_is_refused():
    with pytest.raises(ValueError, match="Cannot read settings from int; give a CEMConfig or a mapping"):
        CEM(UNIT_BOX, 3)
