"""docs/encoders.md says what commands understand, what was measured, and what settings are called."""

import re
import tomllib
from pathlib import Path

from tests.test_documents import ROOT, check_command, run_benchmark, shell_lines, table_in
from wm_plan.configs.training import PretrainRun
from wm_plan.state_probes import KINDS, PROBES
from wm_plan.world_model.pretraining import OBJECTIVES

TEXT = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")


def test_the_comparison_is_what_its_rows_say() -> None:
    assert table_in(TEXT) == run_benchmark("encoders_table.py").strip()


def test_every_command_is_understood() -> None:
    lines = [line for line in shell_lines(TEXT) if line.startswith("wm-")]
    lines += re.findall(r"`(?:torchrun [^`]*)?(wm-\w+ --data [^`]+)`", TEXT)
    assert len(lines) > 6
    for line in lines:
        check_command(line)


def test_benchmarks_and_examples_that_it_names_are_there() -> None:
    named = set(re.findall(r"python ((?:benchmarks|examples)/\w+\.py)", TEXT))
    assert len(named) >= 5
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_objectives_settings_probes_and_the_extra_have_these_names() -> None:
    table = TEXT.partition("| objective |")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == OBJECTIVES
    pretraining = TEXT.partition("## Pretraining")[2]
    settings = dict.fromkeys(re.findall(r"`([a-z_]+)=", pretraining))
    assert {"objective", "accumulate", "stop_on_collapse", "probe_labels", "tensorboard"} <= set(settings)
    assert [name for name in settings if name not in PretrainRun.__dataclass_fields__] == []
    for kind, probe in re.findall(r'"probe/\w+/(\w+)/(\w+)"', TEXT):
        assert kind in KINDS
        assert probe in PROBES
    extras = tomllib.loads((Path(ROOT) / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"wm-plan\[(\w+)\]", TEXT)) <= set(extras)
