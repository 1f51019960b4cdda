"""Names, gymnasium ids and clear errors for wrong ones."""

import gymnasium
import pytest

import wm_plan.envs
from wm_plan.envs import gymnasium_id, make, register_envs, task_names


def test_the_tasks_and_their_ids():
    names = "reacher point_mass two_room push_t pusher cartpole cube_reach cube_push"
    assert task_names() == tuple(names.split())
    ids = [gymnasium_id(name) for name in task_names()]
    assert ids == [
        "wm_plan/Reacher-v0",
        "wm_plan/PointMass-v0",
        "wm_plan/TwoRoom-v0",
        "wm_plan/PushT-v0",
        "wm_plan/Pusher-v0",
        "wm_plan/Cartpole-v0",
        "wm_plan/CubeReach-v0",
        "wm_plan/CubePush-v0",
    ]
    assert set(ids) <= set(gymnasium.registry)


def test_registering_twice_changes_nothing(recwarn):
    before = dict(gymnasium.registry)
    register_envs()
    assert gymnasium.registry == before
    assert not recwarn.list


def test_gymnasium_makes_the_task_and_passes_arguments_on():
    env = gymnasium.make("wm_plan/TwoRoom-v0", image_size=32, render_mode="rgb_array")
    assert env.unwrapped.name == "two_room"
    assert env.reset(seed=0)[0]["pixels"].shape == (32, 32, 3)
    assert env.render().shape == (32, 32, 3)
    env.close()


def test_gymnasium_finds_the_tasks_by_module_and_id():
    env = gymnasium.make("wm_plan.envs:wm_plan/TwoRoom-v0", render=False)
    assert set(env.reset(seed=0)[0]) == {"proprio"}
    env.close()


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(
        ValueError, match="Unknown env 'reachr'. Did you mean 'reacher'. Known envs: reacher, point"
    ):
        make("reachr")
    with pytest.raises(ValueError, match="Unknown env 'zzz'. Known envs"):
        make("zzz")


@pytest.mark.parametrize("size", [0, 15, 5000, True])
def test_an_image_size_that_cannot_be_drawn_is_refused(size):
    with pytest.raises(ValueError, match="image_size must be a whole number of pixels from 16 to 2048, got"):
        make("two_room", image_size=size)


def test_every_public_name_is_there():
    assert wm_plan.envs.__all__ == sorted(wm_plan.envs.__all__, key=lambda name: (not name.isupper(), name))
    for name in wm_plan.envs.__all__:
        assert getattr(wm_plan.envs, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = wm_plan.envs.nothing_of_the_kind
