"""Factors of variation: what is drawn, what it does to pictures and physics, and what is stored of it."""

import dataclasses
import json

import mujoco
import numpy as np
import pytest

from wm_plan.envs import PLAIN, collect_episode, make, make_policy
from wm_plan.envs.factors import FACTOR_NAMES, GROUPS, FactorRanges, Factors, parse_factors
from wm_plan.envs.looks import MAX_DISTRACTORS, Look, sample_look
from wm_plan.envs.physics import Physics, PhysicsRanges, sample_physics

EVERYTHING = ",".join([*GROUPS, "gravity", "length"])


def roll_out(factors, name="reacher", seed=0, num_steps=4):
    env = make(name, image_size=32)
    policy = make_policy("random:held", env, np.random.default_rng(seed))
    episode = collect_episode(env, policy, num_steps, seed, factors=factors)
    env.close()
    return episode


def drawn(text, seed=0):
    return parse_factors(text).sample(np.random.default_rng(seed))


def test_groups_single_names_and_ranges_are_read():
    ranges = parse_factors("camera, mass=.5:3, noise_std=2, num_distractors=2:5,camera_roll=.2")
    assert ranges.names == (*GROUPS["camera"], "mass", "noise_std", "num_distractors")
    assert ranges.physics == PhysicsRanges(mass=(0.5, 3.0))
    assert (ranges.look.noise_std, ranges.look.camera_roll) == ((2.0, 2.0), 0.2)
    assert ranges.clutter.num_distractors == (2, 5)
    assert FactorRanges.from_json(json.loads(json.dumps(ranges.as_json()))) == ranges


@pytest.mark.parametrize(
    "text, message",
    [
        ("lihgt", "Unknown factor 'lihgt'. Did you mean 'light'. Known factors: light, shadow"),
        ("", "no factors in ''"),
        ("camera=.1:.2", "camera is a group of factors.*camera_shift, camera_tilt"),
        ("mass=2:1", "the range of mass must rise"),
        ("mass=heavy", "the range of mass is LOW:HIGH, such as 0.5:2; got 'heavy'"),
        ("mass=1:2:3", "LOW:HIGH"),
        ("mass=0:2", "the factor on mass must be from 0.001"),
        ("friction=-1:2", "not be negative"),
        ("camera_roll=.1:.2", "the range of camera_roll is a number, such as 0.04"),
        ("num_distractors=1:99", "from 0 to 8"),
        ("length=nan:1", "LOW:HIGH"),
    ],
)
def test_what_is_no_factor_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_factors(text)


def test_every_name_can_be_drawn_alone():
    for name in FACTOR_NAMES:
        factors = drawn(name)
        assert factors.look or factors.physics_names == GROUPS.get(name, (name,))
        assert factors.look_of(PLAIN) != PLAIN or factors.physics != Physics() or name in ("shadow", "target")


def test_a_factor_does_not_depend_on_which_others_are_drawn():
    alone = {name: drawn(name, seed=4) for name in ("light", "camera", "distractors", "mass", "damping")}
    together = drawn(EVERYTHING, seed=4)
    for name, factors in alone.items():
        assert factors.look.items() <= together.look.items()
        if factors.physics_names:
            assert getattr(factors.physics, name) == getattr(together.physics, name)


def test_draws_stay_in_their_stated_ranges():
    ranges = parse_factors("mass=.5:2,friction=0:4,camera_zoom=.8:.9,num_distractors=2:3,light_level=.3:.4")
    samples = [ranges.sample(np.random.default_rng(seed)) for seed in range(300)]
    masses = np.array([sample.physics.mass for sample in samples])
    assert 0.5 <= masses.min() < 0.55
    assert 1.9 < masses.max() <= 2.0
    assert np.mean(masses < 1) == pytest.approx(0.5, abs=0.08)  # halves are as likely as doubles
    assert np.mean([sample.physics.friction for sample in samples]) == pytest.approx(2, abs=0.25)
    for sample in samples:
        assert 0.8 <= sample.look["camera_zoom"] <= 0.9
        assert len(sample.look["distractors"]) in (2, 3)
        assert set(sample.look) == {"camera_zoom", "distractors", "light_rgb"}
        assert sample.physics.damping == 1.0


def test_what_was_drawn_is_stored_in_every_row_and_read_back():
    for seed in range(5):
        factors = drawn(EVERYTHING, seed=seed)
        columns = factors.columns(3)
        assert {len(values) for values in columns.values()} == {3}
        assert columns["factor_distractors"].shape == (3, MAX_DISTRACTORS, 6)
        read = Factors.from_columns({name: values[1] for name, values in columns.items()})
        assert read == factors


def test_an_episode_with_the_same_factors_is_the_same_and_another_differs():
    first, again, other = (roll_out(drawn(EVERYTHING, seed=seed)) for seed in (1, 1, 2))
    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert first.state.tobytes() == again.state.tobytes()
    assert np.abs(first.pixels.astype(int) - other.pixels).mean() > 3
    assert not np.allclose(first.state[-1], other.state[-1])


def test_factors_of_the_look_leave_the_states_and_factors_of_physics_the_first_picture():
    plain = roll_out(None)
    looks, masses = roll_out(drawn("light,colour,camera,distractors")), roll_out(drawn("mass,damping"))
    assert looks.state.tobytes() == plain.state.tobytes()
    assert np.abs(looks.pixels.astype(int) - plain.pixels).mean() > 3
    np.testing.assert_array_equal(masses.pixels[0], plain.pixels[0])
    assert not np.allclose(masses.state[-1], plain.state[-1], atol=1e-3)


def test_other_environments_of_the_task_keep_their_physics():
    changed, other = (make("reacher", render=False) for _ in range(2))
    before = other.mj_model.body_mass.copy()
    changed.set_physics(Physics(mass=2.0))
    moving = other.mj_model.body_weldid != 0
    np.testing.assert_allclose(changed.mj_model.body_mass[moving], 2 * before[moving])
    np.testing.assert_array_equal(other.mj_model.body_mass, before)
    changed.set_physics(None)
    np.testing.assert_array_equal(changed.mj_model.body_mass, before)


def test_a_pendulum_swings_as_its_gravity_and_length_say():
    """Small swings of a point on a rod last 2 pi sqrt(length / gravity), whatever the mass."""
    xml = """<mujoco><option timestep="0.001"/><worldbody><body><joint name="j" axis="0 1 0"/>
        <geom name="rod" type="sphere" size="0.01" pos="0 0 -1" mass="1"/></body></worldbody></mujoco>"""
    nominal = mujoco.MjModel.from_xml_string(xml)

    def period(physics):
        from wm_plan.envs.physics import own_copy, scale_physics

        model = own_copy(nominal)
        scale_physics(model, nominal, physics)
        data = mujoco.MjData(model)
        data.qpos[0] = 0.05
        while data.qpos[0] > 0:
            mujoco.mj_step(model, data)
        return 4 * data.time

    expected = 2 * np.pi / np.sqrt(9.81)
    assert period(Physics()) == pytest.approx(expected, rel=0.01)
    assert period(Physics(mass=3.0)) == pytest.approx(expected, rel=0.01)
    assert period(Physics(gravity=4.0)) == pytest.approx(expected / 2, rel=0.01)
    assert period(Physics(length=2.25)) == pytest.approx(expected * 1.5, rel=0.01)


def test_twice_the_strength_and_mass_move_alike():
    """All forces and all inertias doubled: the same motion (reacher's joints have damping and armature)."""
    states = []
    for physics in (Physics(), Physics(mass=2.0, strength=2.0, damping=2.0, friction=2.0)):
        env = make("two_room", render=False)
        env.set_physics(physics)
        env.reset(seed=3)
        env.advance(env.action_space.high, 10)
        states.append(env.get_state())
    assert not np.allclose(states[0][2:], 0)
    np.testing.assert_allclose(states[0], states[1], rtol=0.02)


def test_longer_links_are_drawn_longer():
    env = make("reacher", image_size=64)
    env.reset(options={"state": env.parse_goal("0,0")})
    areas = []
    for length in (1.0, 1.3):
        env.set_physics(Physics(length=length))
        areas.append((np.abs(env.render().astype(int) - env.render()[0, 0]).max(axis=-1) > 40).sum())
    env.close()
    assert areas[1] > 1.2 * areas[0]


def test_a_robot_of_meshes_has_no_length_to_vary():
    xml = """<mujoco><asset><mesh name="m" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/></asset>
        <worldbody><body><joint/><geom type="mesh" mesh="m"/></body></worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(xml)
    from wm_plan.envs.physics import own_copy, scale_physics

    with pytest.raises(ValueError, match="length needs a robot of plain shapes.*vary mass"):
        scale_physics(own_copy(model), model, Physics(length=1.1))
    scale_physics(own_copy(model), model, Physics(mass=1.1))


def test_distractors_show_where_they_are_said_to_be():
    env = make("point_mass", image_size=64)
    env.reset(options={"state": env.parse_goal("0,0")})
    plain = env.render().astype(int)
    ball = (0.5, -0.5, 0.2, 0.0, 1.0, 0.0)
    changed = np.abs(env.render(look=Look(distractors=(ball,))).astype(int) - plain).max(axis=-1) > 30
    env.close()
    rows, columns = np.nonzero(changed)
    assert columns.mean() == pytest.approx(31.5 + 16, abs=2)
    assert rows.mean() == pytest.approx(31.5 + 16, abs=2)
    assert changed.sum() == pytest.approx(np.pi * 6.4**2, rel=0.3)


def test_too_many_distractors_are_refused():
    with pytest.raises(ValueError, match="at most 8 distractors, got 9"):
        Look(distractors=((0.0, 0.0, 0.1, 1.0, 0.0, 0.0),) * 9)


def test_a_narrow_range_of_colours_ends():
    ranges = dataclasses.replace(parse_factors("colour=.4:.41").look, own_colour_rate=0.0)
    assert sample_look(np.random.default_rng(0), ranges).agent_rgb is None


def test_factors_of_physics_are_drawn_one_by_one():
    names = ("mass", "gravity")
    physics = sample_physics(np.random.default_rng(0), names)
    assert physics.mass == sample_physics(np.random.default_rng(0), ("mass",)).mass
    assert (physics.friction, physics.length) == (1.0, 1.0)


def test_the_colours_of_any_robot_are_its_own_and_not_those_of_what_it_handles(tmp_path):
    file = tmp_path / "arm.xml"
    file.write_text("""<mujoco><worldbody><camera name="top" pos="0 0 2"/><geom type="plane" size="1 1 .1"/>
        <body pos="-.4 0 .2"><joint name="j"/><geom type="sphere" size=".2"/></body>
        <body pos=".4 0 .2"><freejoint/><geom type="sphere" size=".2"/></body></worldbody>
        <actuator><motor joint="j" ctrlrange="-1 1"/></actuator></mujoco>""")
    env = make(str(file), image_size=64)
    env.reset(seed=0)
    plain = env.render().astype(int)
    changed = np.abs(env.render(look=Look(agent_rgb=(0.0, 1.0, 0.0))).astype(int) - plain).max(axis=-1) > 30
    env.close()
    assert changed[:, :32].sum() > 100
    assert not changed[:, 32:].any()
