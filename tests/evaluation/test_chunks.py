"""Evaluations in chunks: whoever runs them, in one go or not, the outcomes are the same."""

import json
from pathlib import Path

import pytest

from wm_plan.configs.schema import EvalConfig
from wm_plan.evaluation.chunk_folder import ChunkFolder, difference
from wm_plan.evaluation.contestants import find_contestants
from wm_plan.evaluation.side_by_side import Evaluation, evaluate, put_together, settings_of
from wm_plan.evaluation.work import EvaluationJob, find_cells
from wm_plan.planners.cem import CEMConfig


def make_job(**overrides: object) -> EvaluationJob:
    config = EvalConfig(
        **{
            "env": "point_mass",
            "planner": CEMConfig(),
            "protocols": ["far"],
            "policies": ["random", "hold"],
            "episodes": 7,
            "batch_size": 2,
            "plans_timed": 1,
            "report": False,
        }
        | overrides
    )
    return EvaluationJob(config, find_contestants({"cem": config}), find_cells(config, print))


def begun(out: Path, job: EvaluationJob, shard: str | None = None) -> tuple[ChunkFolder, dict]:
    policies = {one.name: one.make() for one in job.contestants}
    folder = ChunkFolder(out)
    folder.begin(settings_of(job, policies), shard)
    return folder, policies


def outcomes(found: list[Evaluation]) -> list[list[dict]]:
    return [[end.as_json() for end in one.outcomes] for one in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict]]:
    job = make_job()
    folder, policies = begun(tmp_path_factory.mktemp("whole"), job)
    assert evaluate(job, policies, folder)
    found = outcomes(put_together([folder])[1])
    assert [[end["index"] for end in row] for row in found] == [list(range(7))] * 2
    return found


@pytest.mark.slow
def test_processes_change_nothing(tmp_path: Path, whole: list) -> None:
    job = make_job(workers=2)
    folder, policies = begun(tmp_path, job)
    assert evaluate(job, policies, folder)
    assert outcomes(put_together([folder])[1]) == whole


def test_shards_are_disjoint_and_give_the_whole_when_merged(tmp_path: Path, whole: list) -> None:
    job = make_job()
    folders = []
    for number in (1, 2, 3):
        folder, policies = begun(tmp_path / str(number), job, f"{number}/3")
        assert evaluate(job, policies, folder, shard=(number, 3))
        folders.append(folder)
    done = [folder.finished() for folder in folders]
    assert sorted(number for one in done for number in one) == list(range(8))
    assert outcomes(put_together(folders[::-1])[1]) == whole
    with pytest.raises(ValueError, match="3 of 8 chunks are missing; given were the shards 1/3, 3/3"):
        put_together([folders[0], folders[2]])
    other, _ = begun(tmp_path / "other", make_job(seed=1), "2/3")
    with pytest.raises(ValueError, match="different evaluations: seed is 0, not 1 in the second"):
        put_together([folders[0], other])


def test_what_is_finished_is_not_run_again(tmp_path: Path, whole: list) -> None:
    job = make_job()
    folder, policies = begun(tmp_path, job)
    assert evaluate(job, policies, folder)
    for number in (1, 6):
        (folder.path / f"{number:06d}.json").unlink()
    kept = folder.read(0)
    kept["outcomes"][0]["steps"] = -1
    folder.write(0, kept)
    told = []
    assert evaluate(job, policies, folder, on_progress=lambda *progress: told.append(progress))
    again = outcomes(put_together([folder])[1])
    assert again[0][0].pop("steps") == -1
    again[0][0]["steps"] = whole[0][0]["steps"]
    assert again == whole
    assert told[-1][:3] in {("far", "random", 7.0), ("far", "hold", 7.0)}


def test_another_evaluation_is_not_gone_on_with(tmp_path: Path) -> None:
    job = make_job()
    folder, policies = begun(tmp_path, job)
    folder.check_resumable(settings_of(job, policies), None)
    other = make_job(episodes=9)
    with pytest.raises(ValueError, match="begun otherwise: episodes is 7, not 9"):
        folder.check_resumable(settings_of(other, policies), None)
    with pytest.raises(ValueError, match="shard is None, not 1/2"):
        folder.check_resumable(settings_of(job, policies), "1/2")
    with pytest.raises(ValueError, match="no evaluation was begun in"):
        ChunkFolder(tmp_path / "nowhere").manifest()
    (folder.path / "evaluation.json").write_text(json.dumps({"format": "x"}))
    with pytest.raises(ValueError, match="is no evaluation"):
        folder.manifest()


def test_differences_are_named_with_their_way() -> None:
    assert difference({"a": {"b": 1}}, {"a": {"b": 1}}) is None
    assert difference({"a": {"b": 1}}, {"a": {"b": [2]}}) == "a.b is 1, not [2]"
    assert difference({}, {"a": "x" * 100}) == f'a is null, not "{"x" * 56}...'


@pytest.mark.slow
def test_the_robust_protocol_compares_with_the_plain_run_of_the_same_trials(tmp_path: Path) -> None:
    told: list[str] = []
    config = {"env": "two_room", "protocols": ["robust"], "changes": ["mass", "friction", "light"]}
    job = make_job(**config, policies=["hold", "random"], episodes=3)
    assert [cell.name for cell in find_cells(job.config, told.append)] == [
        "robust plain",
        "robust mass",
        "robust light",
    ]
    assert told == ["two_room cannot have the change 'friction': it moves as before; it is left out"]
    folder, policies = begun(tmp_path, job)
    assert evaluate(job, policies, folder)
    _, found = put_together([folder])
    assert [(one.row["change"], one.row["name"]) for one in found] == [
        (change, name) for change in (None, "mass", "light") for name in ("hold", "random")
    ]
    for one in found:
        row = one.row
        assert (row["protocol"], row["goals"]) == ("robust", "far")
        assert (row["loss"] is None) == (row["amount"] is None) == (row["change"] is None)
        plain = next(other.row for other in found if other.row["name"] == row["name"])
        if row["change"] is not None:
            assert row["loss"] == pytest.approx(plain["success_rate"] - row["success_rate"], abs=5e-5)
            assert row["loss_ci95"][0] <= row["loss"] <= row["loss_ci95"][1]
    ends = outcomes(found)
    assert ends[4] == ends[0], "who does nothing does not mind the light"
    with pytest.raises(ValueError, match="two_room can have none of the changes friction"):
        make_job(**{**config, "changes": ["friction"]})
