"""The comparison of encoders loses no row, says what was measured, and counts every matrix product."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import make_encoder

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
comparison = runpy.run_path(str(BENCHMARKS / "encoders.py"))
timing = runpy.run_path(str(BENCHMARKS / "encode_time.py"))


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[dict]], str]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / "encoders_table.py"))["tables"]


def scores(position: float, velocity: float) -> dict[str, float]:
    return {"position": position, "velocity": velocity}


def test_rows_outlive_the_run_and_one_that_fails_is_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = comparison["Rows"](tmp_path / "rows")
    with rows.adding("unseen", "dm_control/acrobot-swingup", "small", 400) as row:
        row["labels"] = 400
    with pytest.raises(RuntimeError), rows.adding("unseen", "pendulum", "small", 400):
        raise RuntimeError
    again = comparison["Rows"](tmp_path / "rows")
    assert again.has("unseen", "dm_control/acrobot-swingup", "small", 400)
    assert not again.has("unseen", "pendulum", "small", 400)
    (kept,) = again.all()
    assert (kept["part"], kept["labels"]) == ("unseen", 400)
    assert kept["cpu_seconds"] >= 0
    assert "acrobot" in capsys.readouterr().err


def test_the_tables_say_what_the_rows_say(tables: Callable[[list[dict]], str]) -> None:
    seen = {"plain": scores(0.91234, 0.5), "light": scores(0.25, -1.0)}
    probed = {"task": "reacher", "encoder": "small", "linear": seen, "mlp": seen, "cpu_seconds": 1800}
    rate = {"success_rate": 0.92, "ci95": [0.812, 0.968]}
    planned = {"part": "planning", "task": "reacher", "encoder": "small", "cpu_seconds": 1800}
    text = tables(
        [
            {"part": "probes", **probed, "labels": 4000},
            {"part": "probes", **probed, "labels": 400},
            {**planned, "fraction": 0.1, "far": rate},
            {**planned, "fraction": 1.0, "far": {"success_rate": 1.0, "ci95": [0.929, 1.0]}},
            {**planned, "part": "robust", "plain": rate, "light": rate},
        ]
    )
    both = " | 0.912 | 0.912 | 0.500 | 0.500"
    assert f"| reacher | small{both}{both} |" in text
    assert "| reacher | small | 400 | 0.912 | 0.250 |" in text
    assert "| reacher | small | 100 (93 to 100) | 92 (81 to 97) |" in text
    assert "| task | encoder | plain | light |" in text
    assert "| reacher | small | 92 (81 to 97) | 92 (81 to 97) |" in text
    assert "Minutes of one core: probes 60, planning 60, robust 30; 150 together." in text
    with pytest.raises(ValueError, match="no rows were found"):
        tables([])


@pytest.mark.slow
def test_it_measures_what_is_missing_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        f"encoders.py --out {tmp_path} --tasks reacher --encoders pixels "
        "--unseen dm_control/pendulum-swingup --episodes 6 --look-episodes 0 --unseen-episodes 4 "
        "--labels 60,20 --tests 20 --fractions 1 "
        f"--training 0.002 --trials 1 --protocols near --gather {tmp_path / 'all.json'}"
    )
    monkeypatch.setattr(sys, "argv", [*words.split(), "--parts", "probes,unseen,planning,robust"])
    comparison["main"]()
    rows = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "rows").iterdir()}
    probed = ("probes-reacher-pixels", "unseen-dm_control-pendulum-swingup-pixels")
    expected = [f"{name}-{number}" for name in probed for number in (60, 20)]
    planned = ["planning-reacher-pixels-1.0", "robust-reacher-pixels"]
    assert sorted(rows) == sorted([*expected, *planned])
    assert rows[planned[0]]["near"]["episodes"] == 1
    assert rows[planned[1]].keys() >= {"plain", *comparison["CHANGES"]}
    assert json.loads((tmp_path / "all.json").read_text()) == [rows[name] for name in sorted(rows)]
    capsys.readouterr()
    comparison["main"]()
    assert capsys.readouterr().err == ""  # there was nothing to measure


def test_every_matrix_product_of_an_encoder_is_counted_once() -> None:
    encoder = make_encoder()
    pixels = encoder.preprocess(np.zeros((1, 1, 16, 16, 3), np.uint8))
    before = encoder(pixels)
    with timing["recorded"]() as products:
        encoder(pixels)
    depth = encoder.config.depth
    assert len(products) == 1 + depth * (4 + 2)  # patches; qkv, out, two of the MLP; two of attention
    assert [product().shape[-1] for product in products[1:4]] == [72, 16 // 4 * 16 // 4, 12]
    assert torch.equal(encoder(pixels), before)
