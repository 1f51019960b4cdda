"""Several policies on the same starts and goals: run, resumed, shared out, and put together."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from wm_plan.machine import versions
from wm_plan.worker_processes import run_in_processes, stop_on_interrupt

from .changes import CHANGES
from .chunk_folder import ChunkFolder, difference, joined
from .policies import EvaluationPolicy
from .rows import add_losses, make_row
from .runner import Outcome
from .work import Cell, Chunk, EvaluationJob, EvaluationWorker, open_worker, plan_chunks

DECIDING_VERSIONS = ("wm-plan", "torch", "mujoco", "numpy")
Progress = Callable[[str, str, float, int], None]


def no_progress(cell: str, contestant: str, finished: float, reached: int) -> None:
    """Tell nobody."""


@dataclass
class Evaluation:
    """One policy in one cell."""

    row: dict[str, Any]
    outcomes: list[Outcome]
    curves: list[dict[str, Any]] = field(default_factory=list)
    """See `recordings.Curve`; one a trial, empty where nothing was recorded."""
    videos: list[dict[str, Any]] = field(default_factory=list)
    plan_ms: list[float] = field(default_factory=list)


def settings_of(job: EvaluationJob, policies: dict[str, EvaluationPolicy]) -> dict[str, Any]:
    """Give everything that decides the outcomes, as JSON; two runs with the same may share their chunks."""
    config = job.config
    named = ("env", "camera", "episodes", "seed", "batch_size", "threads", "device", "plans_timed", "videos")
    found = {
        **{name: getattr(config, name) for name in (*named, "report")},
        "cells": [dataclasses.asdict(cell) for cell in job.cells],
        "contestants": {
            one.name: {"policy": one.policy, "settings": policies[one.name].settings}
            for one in job.contestants
        },
        "versions": {name: found for name, found in versions().items() if name in DECIDING_VERSIONS},
    }
    return json.loads(json.dumps(found))


def evaluate(
    job: EvaluationJob,
    policies: dict[str, EvaluationPolicy],
    folder: ChunkFolder,
    *,
    shard: tuple[int, int] = (1, 1),
    on_progress: Progress = no_progress,
) -> bool:
    """Run the chunks that are missing in a folder that was begun; tells whether all of the shard are there.

    The first Ctrl-C ends it after the chunks at hand, a second one at once.

    Args:
        policies: what each contestant makes, by its name.
        shard: the i-th of n parts of the chunks, (i, n).
        on_progress: called with cell, contestant, episodes done and episodes that have reached their goals.

    Raises:
        ValueError: a policy that does not fit, or a worker process that was killed.
    """
    mine = job.chunks()[shard[0] - 1 :: shard[1]]
    done = folder.finished()
    counter = _Counter(on_progress)
    for chunk in mine:
        if chunk.number in done:
            counter.add(chunk, folder.read(chunk.number))
    missing = [chunk for chunk in mine if chunk.number not in done]
    with closing(EvaluationWorker(job, policies)) as worker:
        if job.config.workers > 1 and len(missing) > 1:
            with stop_on_interrupt() as stop:
                found = run_in_processes(partial(open_worker, job), missing, job.config.workers, stop)
                with closing(found):
                    for answer in found:
                        if answer is not None:
                            folder.write(answer[0].number, answer[1])
                            counter.add(*answer)
        else:
            for chunk in missing:
                data = worker.run(chunk, partial(counter.tell, chunk))
                folder.write(chunk.number, data)
                counter.add(chunk, data)
        complete = folder.finished() >= {chunk.number for chunk in mine}
        if complete and shard[0] == 1:
            _take_times(job, worker, folder)
    return complete


def _take_times(job: EvaluationJob, worker: EvaluationWorker, folder: ChunkFolder) -> None:
    """Time every contestant's replans, in cells without a change, when nothing else runs any more."""
    for at, cell in enumerate(job.cells):
        for number, contestant in enumerate(job.contestants):
            if cell.change is None and folder.read_times(at, number) is None:
                folder.write_times(at, number, worker.time(cell, contestant.name))


def put_together(folders: Sequence[ChunkFolder]) -> tuple[dict[str, Any], list[Evaluation]]:
    """Give the settings and the rows of an evaluation whose chunks lie in one folder, or in several.

    Raises:
        ValueError: folders of different evaluations, or chunks that are in none.
    """
    manifests = [folder.manifest() for folder in folders]
    settings = manifests[0]["settings"]
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        problem = difference(settings, manifest["settings"])
        if problem is not None:
            raise ValueError(
                f"{str(folders[0].out)!r} and {str(folder.out)!r} are of different evaluations:"
                f" {problem} in the second"
            )
    cells = [Cell(**cell) for cell in settings["cells"]]
    names = list(settings["contestants"])
    chunks = plan_chunks(cells, names, settings["episodes"], settings["batch_size"])
    where, missing = joined(folders, len(chunks))
    if missing:
        shards = ", ".join(str(manifest["shard"]) for manifest in manifests)
        raise ValueError(
            f"{len(missing)} of {len(chunks)} chunks are missing; given were the shards {shards}."
            " Run the others, or go on with those that were stopped (--resume), then merge again."
        )
    found = []
    for at, cell in enumerate(cells):
        for number, name in enumerate(names):
            datas = [
                where[chunk.number].read(chunk.number)
                for chunk in chunks
                if chunk.cell == cell and chunk.contestant == name
            ]
            times = [folder.read_times(at, number) for folder in folders]
            found.append(_joined_row(settings, cell, name, datas, next(filter(None, times), {})))
    add_losses([one.row for one in found], [one.outcomes for one in found])
    return settings, found


def _joined_row(
    settings: dict[str, Any], cell: Cell, name: str, datas: list[dict[str, Any]], times: dict[str, Any]
) -> Evaluation:
    contestant = settings["contestants"][name]
    outcomes = [Outcome.from_json(one) for data in datas for one in data["outcomes"]]
    change = cell.find_change()
    row = make_row(
        settings["env"],
        cell.protocol,
        contestant["policy"],
        outcomes,
        name=name,
        goals=cell.goals,
        change=None if change is None else change.name,
        amount=None if change is None else CHANGES[change.name].amount,
        plan_ms=times.get("plan_ms", []),
        encode_ms=times.get("encode_ms", []),
        seconds=sum(data["seconds"] for data in datas),
        threads=settings["threads"],
        settings=contestant["settings"],
    )
    return Evaluation(
        row,
        outcomes,
        [curve for data in datas for curve in data.get("curves", [])],
        [video for data in datas for video in data.get("videos", [])],
        times.get("plan_ms", []),
    )


class _Counter:
    """Counts episodes of each contestant in each cell, and tells."""

    def __init__(self, on_progress: Progress) -> None:
        self._on_progress = on_progress
        self._counts: dict[tuple[str, str], tuple[int, int]] = {}

    def add(self, chunk: Chunk, data: dict[str, Any]) -> None:
        """Count a finished chunk."""
        finished, reached = self._counts.get(self._key(chunk), (0, 0))
        reached += sum(one["reached_at"] is not None for one in data["outcomes"])
        self._counts[self._key(chunk)] = (finished + chunk.count, reached)
        self.tell(chunk, 0.0, 0)

    def tell(self, chunk: Chunk, done: float, reached: int) -> None:
        """Say how far a contestant is, with so much of a chunk that is under way."""
        before = self._counts.get(self._key(chunk), (0, 0))
        self._on_progress(*self._key(chunk), before[0] + done, before[1] + reached)

    @staticmethod
    def _key(chunk: Chunk) -> tuple[str, str]:
        return chunk.cell.name, chunk.contestant
