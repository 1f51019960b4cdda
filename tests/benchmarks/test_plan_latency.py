"""A replan's floor is made of the products that the replan makes."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "plan_latency.py"
plan_latency = runpy.run_path(str(SCRIPT))
SINGLE = torch.float32
recorded, floor_of = plan_latency["recorded"], plan_latency["floor_of"]


def test_products_are_noted_with_their_sizes() -> None:
    linear, convolution = nn.Linear(4, 5), nn.Conv2d(3, 6, kernel_size=2, stride=2)
    tokens, query = torch.ones(2, 3, 4), torch.ones(1, 2, 7, 8)
    attention = nn.functional.scaled_dot_product_attention
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert recorded(lambda: linear(torch.ones(3, 4))) == [(1, 3, 4, 5, SINGLE)]
            assert recorded(lambda: linear(tokens)) == [(1, 6, 4, 5, SINGLE)]
            assert recorded(lambda: tokens @ tokens.transpose(1, 2)) == [(2, 3, 4, 3, SINGLE)]
            assert recorded(lambda: convolution(torch.ones(1, 3, 8, 8))) == [(1, 16, 12, 6, SINGLE)]
            assert recorded(lambda: attention(query, query, query)) == [
                (2, 7, 8, 7, SINGLE),
                (2, 7, 7, 8, SINGLE),
            ]
            assert recorded(lambda: tokens.exp() + 1) == []


def test_the_floor_runs_the_same_products() -> None:
    sizes = [(1, 3, 4, 5, SINGLE), (2, 3, 4, 3, torch.bfloat16), (1, 3, 4, 5, SINGLE)]
    floor = floor_of(sizes)
    assert recorded(floor) == sizes


def test_a_replan_is_slower_than_its_floor() -> None:
    words = ["--repeats", "5", "--json", "planner.num_iterations=2", "planner.num_samples=128"]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["planner"] == {
        "name": "cem",
        "num_samples": 128,
        "num_iterations": 2,
        "horizon": result["planner"]["horizon"],
    }
    assert result["replan_over_floor"] > 1
    assert result["times_ms"]["replan"]["p50"] <= result["times_ms"]["replan"]["p99"]
