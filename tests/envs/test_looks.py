"""Looks change pixels, never physics, and leave nothing behind."""

import dataclasses
import functools

import numpy as np
import pytest

from wm_plan.envs import (
    DEFAULT_MUJOCO,
    PLAIN,
    Look,
    LookRanges,
    make,
    sample_look,
    sample_renderer_look,
    task_names,
)

SIZE = 64
every_task = pytest.mark.parametrize("name", task_names())


@functools.cache
def task(name):
    env = make(name, image_size=SIZE)
    env.reset(seed=1)
    return env


def difference(name, **changes):
    """Mean change of a grey level that these fields of a look make."""
    env = task(name)
    changed = env.render(look=dataclasses.replace(PLAIN, **changes))
    return np.abs(changed.astype(int) - env.render(look=PLAIN)).mean()


@every_task
def test_a_look_leaves_the_plain_picture_and_the_model_as_they_were(name):
    env = task(name)
    before, model = (
        env.render(look=PLAIN).tobytes(),
        bytes(env.mj_model.geom_rgba) + bytes(env.mj_model.light_pos),
    )
    rng = np.random.default_rng(0)
    for _ in range(25):
        env.render(look=sample_look(rng))
        assert env.render(look=PLAIN).tobytes() == before
    env.render(look=DEFAULT_MUJOCO, image_size=200)
    assert env.render(look=PLAIN).tobytes() == before
    assert bytes(env.mj_model.geom_rgba) + bytes(env.mj_model.light_pos) == model


@every_task
def test_looks_do_not_touch_physics(name):
    env = task(name)
    action = env.action_space.high
    states = []
    for look in (PLAIN, dataclasses.replace(DEFAULT_MUJOCO, occluder=(0.0, 0.0, 0.1))):
        env.reset(seed=2)
        for _ in range(5):
            env.render(look=look)
            env.advance(action)
        states.append(env.get_state().tobytes())
    assert states[0] == states[1]


@every_task
@pytest.mark.parametrize(
    "changes",
    [
        {"light_direction": (0.6, 0.0, -0.8)},
        {"light_rgb": (0.1, 0.2, 0.1)},
        {"ambient_rgb": (0.0, 0.0, 0.0)},
        {"agent_rgb": (0.0, 1.0, 0.0)},
        {"floor_rgb": (0.9, 0.2, 0.2)},
        {"floor_texture": "checker"},
        {"target_visible": True},
        {"target_visible": True, "target_rgb": (0.0, 0.0, 1.0)},
        {"occluder": (0.1, 0.1, 0.05)},
        {"camera_shift": (0.05, 0.0, 0.0)},
        {"camera_tilt": (0.05, 0.0)},
        {"camera_roll": 0.1},
        {"camera_zoom": 1.1},
        {"gain": (0.8, 1.0, 1.0)},
        {"noise_std": 4.0},
        {"samples": 0},
    ],
    ids="+".join,
)
def test_each_field_of_a_look_shows(name, changes):
    shown = difference(name, **changes)
    if "target_visible" in changes and task(name).parts.target is None:
        assert shown == 0, "what a task does not have cannot be seen"
    else:  # a flat disc is hardly seen from the side
        assert shown > (0.001 if "occluder" in changes else 0.01)


@every_task
def test_the_simulators_own_look_shows_the_target_where_it_is_put(name):
    env = task(name)
    here = env.render(look=dataclasses.replace(DEFAULT_MUJOCO, target_position=(0.1, 0.1)))
    there = env.render(look=dataclasses.replace(DEFAULT_MUJOCO, target_position=(0.1, -0.1)))
    if env.parts.target is None:
        np.testing.assert_array_equal(here, there)
        return
    upper, lower = slice(0, SIZE // 2), slice(SIZE // 2, SIZE)
    changed = np.abs(here.astype(int) - there).max(axis=-1) > 20
    assert changed[upper].any()
    assert changed[lower].any()


def test_the_camera_moves_the_way_its_fields_say():
    """The ball in the middle of point_mass moves left when the camera goes right, and grows with the zoom."""
    env = task("point_mass")
    ball = env.parse_goal("0,0")

    def centre_and_area(**changes):
        pixels = env.render_goal(ball, look=dataclasses.replace(PLAIN, **changes), image_size=256)
        mask = pixels[..., 0] > 150
        rows, columns = np.nonzero(mask)
        return columns.mean() - 127.5, rows.mean() - 127.5, mask.sum()

    x, y, area = centre_and_area()
    assert abs(x) < 1
    assert abs(y) < 1
    assert centre_and_area(camera_shift=(0.1, 0.0, 0.0))[0] < -20
    assert centre_and_area(camera_shift=(0.0, 0.1, 0.0))[1] > 20
    assert centre_and_area(camera_shift=(0.0, 0.0, 0.3))[2] < 0.8 * area
    assert centre_and_area(camera_zoom=1.5)[2] == pytest.approx(2.25 * area, rel=0.15)
    assert centre_and_area(camera_tilt=(0.1, 0.0))[1] > 20
    assert centre_and_area(camera_tilt=(0.0, 0.1))[0] < -20


def test_sensor_gain_and_noise_are_as_stated():
    env = task("two_room")
    plain = env.render(look=PLAIN).astype(float)
    dimmed = env.render(look=dataclasses.replace(PLAIN, gain=(0.5, 1.0, 0.25)))
    np.testing.assert_allclose(dimmed, plain * [0.5, 1.0, 0.25], atol=1)
    dark = dataclasses.replace(PLAIN, gain=(0.5, 0.5, 0.5))
    noisy = env.render(look=dataclasses.replace(dark, noise_std=6.0, noise_seed=1))
    assert (noisy - env.render(look=dark).astype(float)).std() == pytest.approx(6.0, rel=0.05)
    again = env.render(look=dataclasses.replace(dark, noise_std=6.0, noise_seed=1))
    np.testing.assert_array_equal(noisy, again)


def test_sampled_looks_repeat_by_seed_and_differ_from_one_another():
    looks = [sample_look(np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert looks[0] == looks[1] != looks[2]


def test_sampled_looks_stay_in_their_stated_ranges():
    ranges, rng = LookRanges(), np.random.default_rng(0)
    looks = [sample_look(rng) for _ in range(400)]
    assert np.mean([look.shadows for look in looks]) == pytest.approx(ranges.shadow_rate, abs=0.06)
    assert np.mean([look.target_visible for look in looks]) == pytest.approx(ranges.target_rate, abs=0.08)
    for look in looks:
        assert np.abs(look.camera_shift).max() <= ranges.camera_shift
        assert abs(look.camera_roll) <= ranges.camera_roll
        assert ranges.camera_zoom[0] <= look.camera_zoom <= ranges.camera_zoom[1]
        assert np.linalg.norm(look.light_direction) == pytest.approx(1.0)
        assert -look.light_direction[2] >= np.cos(ranges.light_tilt[1]) - 1e-9
        assert ranges.noise_std[0] <= look.noise_std <= ranges.noise_std[1]
        if look.floor_rgb and look.agent_rgb:
            assert np.linalg.norm(np.subtract(look.floor_rgb, look.agent_rgb)) >= ranges.contrast


@every_task
def test_what_moves_stands_out_in_most_sampled_looks(name):
    """Two poses of the task are told apart in a varied look, noise aside."""
    env, rng = task(name), np.random.default_rng(0)
    seen = []
    for _ in range(40):
        look = dataclasses.replace(sample_look(rng), noise_std=0.0)
        first, second = (env.render_goal(env.sample_state(rng), look=look).astype(int) for _ in range(2))
        seen.append(np.abs(first - second).max() > 25)
    assert np.mean(seen) > 0.9


def test_pictures_of_other_sizes_show_the_same_scene():
    env = task("reacher")
    small, large = env.render(), env.render(image_size=4 * SIZE)
    pooled = large.reshape(SIZE, 4, SIZE, 4, 3).mean(axis=(1, 3))
    assert np.abs(pooled - small).mean() < 2


def test_a_look_that_cannot_be_drawn_is_refused():
    with pytest.raises(
        ValueError, match="Unknown floor texture 'marble'. Known floor textures: flat, checker"
    ):
        Look(floor_texture="marble")
    with pytest.raises(ValueError, match="samples must be 0, 2, 4 or 8, got 3"):
        Look(samples=3)


def test_renderer_looks_recolour_nothing_and_show_the_target_and_shadows_often() -> None:
    looks = [sample_renderer_look(np.random.default_rng(seed)) for seed in range(200)]
    for look in looks:
        assert (look.agent_rgb, look.effector_rgb, look.floor_rgb, look.wall_rgb) == (None,) * 4
        assert (look.camera_roll, look.camera_zoom) == (0.0, 1.0)
    assert 0.4 < np.mean([look.shadows for look in looks]) < 0.8
    assert 0.5 < np.mean([look.target_visible for look in looks]) < 0.9
    assert sample_renderer_look(np.random.default_rng(3)) == looks[3]
