"""The comparison of encoders labels rightly, loses nothing of a stopped run, and counts every product."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import make_encoder

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
comparison = runpy.run_path(str(BENCHMARKS / "encoders.py"))
timing = runpy.run_path(str(BENCHMARKS / "encode_time.py"))


def test_angles_are_labelled_by_sine_and_cosine_and_places_by_themselves() -> None:
    state = np.array([[0.5, -3.0, 7.0, 8.0]])
    by_angle = comparison["label_of"]("reacher", 2)(state)
    np.testing.assert_allclose(by_angle, [[np.sin(0.5), np.cos(0.5), np.sin(-3.0), np.cos(-3.0), 7, 8]])
    np.testing.assert_array_equal(comparison["label_of"]("point_mass", 2)(state), state)


def test_results_outlive_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = comparison["Results"](tmp_path / "new" / "results.json")
    scores = {"plain": {"position": 0.91234, "velocity": 0.5}}
    row = {"task": "reacher", "encoder": "small", "labels": 400, "linear": scores, "mlp": scores}
    results.add("probe reacher small 400", row)
    rate = {"successes": 46, "episodes": 50, "success_rate": 0.92, "ci95": [0.812, 0.968]}
    results.add(
        "plan reacher small 0.1", {"task": "reacher", "encoder": "small", "fraction": 0.1, "far": rate}
    )
    again = comparison["Results"](tmp_path / "new" / "results.json")
    assert again.rows == results.rows
    text = comparison["tables"](again.rows)
    assert "| reacher | small | 400 | 0.912 | 0.912 | 0.500 | 0.500 |" in text
    assert "| reacher | small | 10% | 92% (81% to 97%) |" in text
    assert "probe reacher small 400" in capsys.readouterr().err


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
