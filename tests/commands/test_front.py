"""The front that all commands share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wm_plan.commands.front import (
    BUG,
    DONE,
    INTERRUPTED,
    WRONG_INPUT,
    Command,
    Job,
    as_json,
    did_you_mean,
    positive_int,
)

CONSOLE_SCRIPTS = (
    "wm-plan",
    "wm-collect",
    "wm-data",
    "wm-pretrain",
    "wm-train",
    "wm-eval",
    "wm-baseline",
    "wm-doctor",
)
HEAVY = ("torch", "mujoco", "transformers", "stable_baselines3", "dm_control", "gymnasium", "matplotlib")


def make_command(run=lambda job: DONE, **overrides) -> Command:
    def add_flags(parser) -> None:
        parser.add_argument("--episodes", type=positive_int, default=1)
        parser.add_argument("--goal-state", metavar="VALUES")

    return Command(
        **{"name": "wm-toy", "summary": "A toy.", "run": run, "add_flags": add_flags, "flags": ("seed",)}
        | overrides
    )


def raise_from_our_code(job: Job) -> int:
    from wm_plan.output_folder import check_output_folder

    check_output_folder(Path(__file__))
    return DONE


def raise_from_elsewhere(job: Job) -> int:
    raise ValueError("made outside the package")


def stop(job: Job) -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize("script", CONSOLE_SCRIPTS)
def test_help_answers_without_loading_anything_heavy(script: str) -> None:
    module = script.removeprefix("wm-")
    code = (
        f"import sys, time; begin = time.process_time()\n"
        f"from wm_plan.commands.{module} import main\n"
        f"code = main(['--help'])\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        f"assert code == 0, code\n"
        f"assert not loaded, loaded\n"
        f"assert time.process_time() - begin < 1.0, time.process_time() - begin\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: {script}" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--sed", "3"], "unknown flag '--sed'. Did you mean '--seed'?"),
        (["--seed", "-3"], "seeds go from 0 to 2147483647"),
        (["--seed", "x"], "'x' is not a whole number"),
        (["--episodes", "0"], "0 is too small; it must be at least 1"),
        (["--episodes"], "expected one argument"),
        (["reacher"], "unexpected argument 'reacher'"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(argv: list[str], said: str, capfd) -> None:
    assert make_command().main(argv) == WRONG_INPUT
    out, err = capfd.readouterr()
    assert said in err
    assert err.count("\n") == 1
    assert out == ""


def test_a_value_error_raised_by_our_code_is_wrong_input(capfd) -> None:
    assert make_command(raise_from_our_code).main([]) == WRONG_INPUT
    assert capfd.readouterr().err.count("\n") == 1


def test_a_value_error_raised_elsewhere_is_a_bug_with_a_traceback(capfd) -> None:
    assert make_command(raise_from_elsewhere).main([]) == BUG
    assert "Traceback" in capfd.readouterr().err


def test_ctrl_c_is_one_line(capfd) -> None:
    assert make_command(stop).main([]) == INTERRUPTED
    assert capfd.readouterr().err == "wm-toy: stopped by Ctrl-C\n"


def test_with_json_stdout_holds_one_object_whatever_is_printed(capfd) -> None:
    def run(job: Job) -> int:
        sys.stdout.write("a library that prints\n")
        os.system("echo a C library that prints")
        job.print_result({"cost": float("inf"), "path": Path("a b")}, "text")
        return DONE

    assert make_command(run).main(["--json"]) == DONE
    out, err = capfd.readouterr()
    assert json.loads(out) == {"cost": None, "path": "a b"}
    assert "a library that prints" in err
    assert "a C library that prints" in err


def test_without_json_stdout_holds_the_text(capfd) -> None:
    def run(job: Job) -> int:
        job.print_result({"a": 1}, "a table")
        return DONE

    make_command(run).main([])
    assert capfd.readouterr().out == "a table\n"


def test_quiet_silences_messages_but_no_warnings(capfd) -> None:
    def run(job: Job) -> int:
        job.say("hello")
        job.warn("look\nhere")
        return DONE

    make_command(run).main(["--quiet"])
    assert capfd.readouterr().err == "warning: look here\n"


def test_a_negative_first_value_is_no_flag() -> None:
    flags, _ = make_command().parse(["--goal-state", "-.3,1.2", "--seed", "4"])
    assert (flags.goal_state, flags.seed) == ("-.3,1.2", 4)


def test_flags_and_overrides_stand_in_any_order() -> None:
    flags, overrides = make_command(config="plan").parse(
        ["planner.horizon=4", "--seed", "2", "control.replan_every=2"]
    )
    assert flags.seed == 2
    assert overrides == ["planner.horizon=4", "control.replan_every=2"]


def test_did_you_mean_names_only_what_is_near() -> None:
    assert did_you_mean("cme", ["cem", "mppi"]) == " Did you mean 'cem'?"
    assert did_you_mean("xyz", ["cem", "mppi"]) == ""


def test_as_json_takes_arrays_and_refuses_what_has_no_json() -> None:
    import numpy as np

    assert as_json({"a": np.array([1.0, np.nan]), "b": np.float32(0.5), 3: (True, None)}) == {
        "a": [1.0, None],
        "b": 0.5,
        "3": [True, None],
    }
    with pytest.raises(TypeError, match="object"):
        as_json(object())
