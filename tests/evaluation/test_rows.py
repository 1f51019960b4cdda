"""What a row says of its outcomes, counted by hand."""

import numpy as np

from wm_plan.evaluation import Outcome, Trial, make_row, make_table, wilson_interval


def outcome(index: int, reached_at: int | None, held: bool | None, group: str | None = None) -> Outcome:
    trial = Trial(index, 2**63, np.zeros(4), np.ones(4), 200, group)
    return Outcome(trial, reached_at, held, least_error=0.5 * index, final_error=float(index), steps=200)


def row_of(outcomes: list[Outcome], **values: object) -> dict:
    given = {
        "plan_ms": [3.0, 1.0, 2.0],
        "encode_ms": [4.0],
        "seconds": 1.5,
        "threads": 1,
        "settings": {"a": 1},
    }
    return make_row("two_room", "far", "planner", outcomes, **{**given, **values})


def test_a_row_counts_what_was_reached_and_held_by_kind_of_goal() -> None:
    outcomes = [
        outcome(0, 10, True, "same room"),
        outcome(1, 30, False, "same room"),
        outcome(2, 50, True, "other room"),
        outcome(3, None, False, "other room"),
    ]
    row = row_of(outcomes)
    assert (row["episodes"], row["successes"], row["success_rate"], row["held_rate"]) == (4, 3, 0.75, 0.5)
    np.testing.assert_allclose(row["ci95"], wilson_interval(3, 4), atol=5e-5)
    np.testing.assert_allclose(row["held_ci95"], wilson_interval(2, 4), atol=5e-5)
    assert row["groups"]["other room"]["success_rate"] == 0.5
    assert row["groups"]["same room"]["success_rate"] == 1.0
    assert row["groups"]["same room"]["held_rate"] == 0.5
    assert (row["reached_at_p50"], row["final_error_p50"], row["budget"]) == (30.0, 1.5, 200)
    assert (row["plan_ms_p50"], row["plans_timed"], row["encode_ms_p50"]) == (2.0, 3, 4.0)


def test_what_was_not_measured_is_none_and_not_zero() -> None:
    row = row_of([outcome(0, None, None)], plan_ms=[], encode_ms=[])
    assert [row[name] for name in ("held", "held_rate", "held_ci95", "plan_ms_p50", "plan_ms_p99")] == [
        None
    ] * 5
    assert row["reached_at_p50"] is None
    assert row["groups"] == {}


def test_the_table_shows_rates_with_their_intervals() -> None:
    outcomes = [outcome(index, 5, index > 0, "same room") for index in range(4)]
    header, line, group = make_table([row_of(outcomes)]).splitlines()
    assert "reached %" in header
    assert "100 (51 to 100)" in line
    assert "75 (30 to 95)" in line
    assert group.split() == ["same", "room", "4", "100", "(51", "to", "100)", "75", "(30", "to", "95)"]
