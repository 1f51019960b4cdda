"""The table of results says what the JSON says."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "results_table.py"
script = runpy.run_path(str(SCRIPT))
full_table, short_table, parts = script["full_table"], script["short_table"], script["parts"]


def make_row(**changes) -> dict:
    counts = {"episodes": 100, "success_rate": 0.93, "ci95": [0.8625, 0.9657]}
    return {
        "env": "reacher",
        "protocol": "near",
        "policy": "planner",
        **counts,
        "held_rate": None,
        "held_ci95": None,
        "groups": {},
        "budget": 50,
        "plan_ms_p50": 81.6,
        "plan_ms_p99": 126.6,
        "settings": {"planner": "cem"},
        "seconds": 360.0,
        **changes,
    }


def make_result(*rows: dict) -> dict:
    versions = {"torch": "2.13", "mujoco": "3.17"}
    return {"rows": list(rows), "seed": 1000, "threads": 1, "versions": versions, "wall_s": 5400.0}


def test_a_row_gives_rates_in_per_cent_with_their_intervals() -> None:
    lines = full_table([make_result(make_row())]).splitlines()
    assert lines[2] == "| reacher | near, 50 | **world model + CEM** | 100 | 93 (86 to 97) |  | 82 / 127 |"
    assert lines[-2] == "Seed 1000; CPU threads: 1; torch 2.13, mujoco 3.17."


def test_how_long_it_took_is_the_sum_of_what_every_command_took() -> None:
    text = full_table([make_result(make_row()), make_result(make_row(policy="physics"))])
    assert "- All of it took 3.0 hours of one core, 0.1 of them for true physics." in text


def test_rows_stand_by_task_then_goals_then_who_acts_whatever_the_files_order() -> None:
    rows = [
        make_row(env="two_room"),
        make_row(protocol="far"),
        make_row(policy="random", settings={}),
        make_row(),
    ]
    lines = full_table([make_result(row) for row in rows]).splitlines()[2:6]
    assert [line.split(" | ")[:3] for line in lines] == [
        ["| reacher", "near, 50", "**world model + CEM**"],
        ["| reacher", "near, 50", "random actions"],
        ["| reacher", "far, 50", "**world model + CEM**"],
        ["| two_room", "near, 50", "**world model + CEM**"],
    ]


def test_kinds_of_goals_have_lines_of_their_own() -> None:
    group = {
        "episodes": 48,
        "success_rate": 0.5,
        "ci95": [0.36, 0.64],
        "held_rate": 0.25,
        "held_ci95": [0.15, 0.39],
    }
    text = full_table([make_result(make_row(groups={"other room": group}))])
    assert "|  |  | of these: other room | 48 | 50 (36 to 64) | 25 (15 to 39) |  |" in text


def test_another_look_of_the_goal_is_said() -> None:
    row = make_row(settings={"planner": "cem", "goal_look": "default", "goal_size": 480})
    text = full_table([make_result(row)])
    assert "**world model + CEM**; goal pictures: simulator's own look, 480 px" in text


def test_what_was_learned_from_is_counted_in_env_steps() -> None:
    recipe = {"num_steps": 40, "frame_skip": 4}
    training = {"episodes": {"train": 950, "held_out": 50}, "data": [recipe], "seconds": 480}
    text = full_table([make_result(make_row(settings={"planner": "cem", "training": training}))])
    assert "- reacher's world model: 1,000 logged episodes (160,000 env steps), trained in 8 min." in text


def test_the_short_table_has_a_line_a_task_and_kind_of_goals_with_everyone_side_by_side() -> None:
    held = {"held_rate": 0.9, "held_ci95": [0.825, 0.945]}
    rows = [
        make_row(),
        make_row(settings={"planner": "icem"}, success_rate=0.5),
        make_row(settings={"planner": "cem", "goal_size": 480}, success_rate=0.5),
        make_row(policy="hold", settings={}),
        make_row(protocol="far", budget=200, **held),
        make_row(env="two_room"),
        make_row(env="two_room", policy="gcbc", settings={}, success_rate=0.61, ci95=[0.512, 0.7]),
        make_row(env="two_room", policy="rl_latent", settings={}, success_rate=1.0, ci95=[0.963, 1.0]),
        make_row(env="push_t", policy="rl_latent", settings={}),  # the planner was not measured on it
    ]
    lines = short_table([make_result(*rows)]).splitlines()
    assert (
        lines[0] == "| task | goals, env steps | **world model, planned** | RL, latents | behaviour cloning |"
    )
    assert lines[2] == "| reacher | near, 50 | **93**<br><sub>86–97</sub> |  |  |"
    assert lines[3] == "| reacher | far, 200 | **93 / 90**<br><sub>86–97 / 82–94</sub> |  |  |"
    told = "**93**<br><sub>86–97</sub> | 100<br><sub>96–100</sub> | 61<br><sub>51–70</sub>"
    assert lines[4] == f"| two_room | near, 50 | {told} |"
    assert lines[6].startswith("100 episodes a cell. Seed 1000;")


@pytest.mark.parametrize("sure_first", [False, True])
def test_the_short_table_shows_the_row_of_more_episodes(sure_first: bool) -> None:
    sure = make_result(make_row(episodes=300, success_rate=0.99, ci95=[0.97, 1.0]))
    results = [make_result(make_row()), sure]
    lines = short_table(results[::-1] if sure_first else results).splitlines()
    assert lines[2] == "| reacher | near, 50 | **99**<br><sub>97–100</sub> |"
    assert lines[4].startswith("300 episodes a cell.")


def test_every_change_has_a_line_with_what_it_costs_each_task() -> None:
    rows = [
        make_row(
            protocol="robust", goals="far", change=change, amount=amount, loss=loss, loss_ci95=ends, env=env
        )
        for env in ("push_t", "reacher")
        for change, amount, loss, ends in (
            (None, None, None, None),
            ("mass", "x 2", 0.1, [0.02, 0.2]),
        )
    ]
    lines = full_table([make_result(make_row(), *rows)]).splitlines()
    start = lines.index("### One thing changed")
    assert [line.split(" | ")[1] for line in lines[start + 2 : start + 3]] == [
        "reacher, far: reached, % (interval)"
    ]
    assert lines[start + 4] == "| plain | 93 (86 to 97) |  | 93 (86 to 97) |  |  |"
    assert lines[start + 5] == "| mass | 93 (86 to 97) | 10 (2 to 20) | 93 (86 to 97) | 10 (2 to 20) | x 2 |"


def test_no_results_and_no_markers_are_refused() -> None:
    for table in (full_table, short_table):
        with pytest.raises(ValueError, match="no results were found"):
            table([{"times_ms": {}}])
    with pytest.raises(ValueError, match="markers"):
        parts("nothing here")
    assert parts("a<!-- results -->\nb\n<!-- end of results -->c") == ("a", "b", "c")
