"""Tensorboard's scalars are the JSON lines once more."""

import importlib.util
import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wm_plan.tensorboard_scalars import FOLDER_NAME, TensorboardScalars
from wm_plan.world_model.training_state import append_metrics, drop_metrics_after


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder / FOLDER_NAME)).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        metrics = json.loads(line)
        step = metrics.pop("step")
        for name, value in metrics.items():
            found.setdefault(name, []).append((step, pytest.approx(value, rel=1e-6)))
    return found


def test_scalars_follow_the_lines_also_of_a_resumed_run(tmp_path: Path) -> None:
    with TensorboardScalars(tmp_path, wanted=True) as scalars:
        scalars.update()
        assert list(tmp_path.iterdir()) == []
        progress = scalars.following(lambda done, total, metrics: None)
        for step in range(3):
            append_metrics(tmp_path, {"step": 10 * step, "loss": 1 / (step + 1)})
            progress(step, 3, {})
        append_metrics(tmp_path, {"step": 30, "loss": 0.1, "probe/dot/state/mlp": 0.9})
    assert set(curves(tmp_path)) == {"loss", "probe/dot/state/mlp"}
    assert curves(tmp_path) == logged(tmp_path)

    drop_metrics_after(tmp_path, 15)
    with TensorboardScalars(tmp_path, wanted=True) as resumed:
        append_metrics(tmp_path, {"step": 20, "loss": 7.0})
        resumed.update()
        (tmp_path / "metrics.jsonl").open("a").write('{"step": 30, "lo')  # a line that is being written
        resumed.update()
    assert len(list((tmp_path / FOLDER_NAME).iterdir())) == 1
    assert curves(tmp_path) == {"loss": [(0, 1.0), (10, 0.5), (20, 7.0)]}


def test_nothing_is_written_where_it_is_not_wanted(tmp_path: Path) -> None:
    append_metrics(tmp_path, {"step": 0, "loss": 1.0})
    with TensorboardScalars(tmp_path, wanted=False) as scalars:
        scalars.update()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_missing_package_is_named_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else found(name, *rest)
    )
    with pytest.raises(ValueError, match=r"needs tensorboard. Install it: pip install 'wm-plan\[train\]'"):
        TensorboardScalars(tmp_path, wanted=True)
    TensorboardScalars(tmp_path, wanted=False)
