"""Windows arrive in one order whatever the number of workers, and each rank sees its own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.trajectories import RECIPE
from wm_plan.world_model.loading import WindowBatches
from wm_plan.world_model.shuffling import Shuffle
from wm_plan.world_model.store import TrajectoryStore
from wm_plan.world_model.store_writer import StoreWriter

LENGTHS = (7, 3, 9, 12)


def numbered_store(root: Path) -> Path:
    """Row r of the whole store has action (r, -r), and r in every pixel; an episode's last action is NaN."""
    row = 0
    with StoreWriter(root, RECIPE, len(LENGTHS), episodes_per_shard=2) as writer:
        for index, length in enumerate(LENGTHS):
            numbers = np.arange(row, row + length)
            action = np.stack([numbers, -numbers], axis=1).astype(np.float32)
            action[-1] = np.nan
            pixels = np.broadcast_to(numbers[:, None, None, None], (length, 4, 4, 3)).astype(np.uint8)
            writer.write(index, {"pixels": pixels, "action": action})
            row += length
    return root


def make_batches(
    root: Path, batch_size: int = 3, *, stride: int = 1, pad: int = 0, **options
) -> WindowBatches:
    store = TrajectoryStore(root)
    windows = store.windows(1, 2, stride=stride, pad=pad)
    return WindowBatches(store, windows, batch_size, **options)


def test_a_step_holds_its_frame_and_the_action_that_follows(tmp_path: Path) -> None:
    for batch in make_batches(numbered_store(tmp_path / "data")):
        frames = batch["pixels"][..., 0, 0, 0].float()
        assert batch["pixels"].shape == (3, 3, 4, 4, 3)
        there = ~batch["action_is_padding"]
        torch.testing.assert_close(batch["action"][..., 0][there], frames[there])
        assert (batch["action"][~there] == 0).all()
        ends = torch.isin(frames, torch.tensor([6.0, 9.0, 18.0, 30.0]))
        assert torch.equal(ends, batch["action_is_padding"])
        assert not batch["is_padding"].any()


def test_a_block_holds_all_actions_of_its_step_in_order(tmp_path: Path) -> None:
    seen = 0
    for batch in make_batches(numbered_store(tmp_path / "data"), 1, stride=3, action_block=True):
        first = batch["pixels"][0, 0, 0, 0, 0].item()
        assert batch["pixels"][0, :, 0, 0, 0].tolist() == [first, first + 3, first + 6]
        assert batch["action"].shape == (1, 3, 6)
        assert batch["action"][0, 0].tolist() == [first, -first, first + 1, -first - 1, first + 2, -first - 2]
        assert batch["action"][0, 1, 0].item() == first + 3
        seen += 1
    assert seen == 1 + 3 + 6


def test_padding_repeats_the_last_row_and_takes_no_action(tmp_path: Path) -> None:
    found = {}
    for batch in make_batches(numbered_store(tmp_path / "data"), 1, stride=2, pad=9, action_block=True):
        rows = batch["pixels"][0, :, 0, 0, 0].tolist()
        found[rows[0]] = (rows, batch["is_padding"][0].tolist(), batch["action"][0].tolist())
    assert len(found) == sum(LENGTHS)
    rows, padding, actions = found[8]
    assert rows == [8, 9, 9]
    assert padding == [False, True, True]
    assert actions == [[8, -8, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_any_number_of_workers_gives_the_same_batches_in_the_same_order(tmp_path: Path) -> None:
    batches = make_batches(numbered_store(tmp_path / "data"), seed=3)
    orders = []
    for workers in (0, 1, 2):
        loader = DataLoader(batches, batch_size=None, num_workers=workers)
        orders.append([batch["pixels"][:, 0, 0, 0, 0].tolist() for batch in loader])
    assert orders[0] == orders[1] == orders[2]
    assert len(orders[0]) == len(batches)


def test_workers_that_live_on_hear_of_the_next_epoch(tmp_path: Path) -> None:
    batches = make_batches(numbered_store(tmp_path / "data"))
    loader = DataLoader(batches, batch_size=None, num_workers=2, persistent_workers=True)
    orders = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        orders.append([batch["pixels"][:, 0, 0, 0, 0].tolist() for batch in loader])
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]
    assert sorted(sum(orders[0], [])) != sorted(range(len(orders[0])))


RANK = """
import json, sys
import torch
from torch.utils.data import DataLoader
from wm_plan.world_model.loading import WindowBatches
from wm_plan.world_model.store import TrajectoryStore
torch.distributed.init_process_group("gloo")
store = TrajectoryStore(sys.argv[1])
batches = WindowBatches(store, store.windows(1, 2), 2, ("pixels",))
seen = [b["pixels"][:, 0, 0, 0, 0].tolist() for b in DataLoader(batches, batch_size=None, num_workers=1)]
total = torch.tensor(len(seen))
torch.distributed.all_reduce(total)
print(json.dumps({"seen": sum(seen, []), "batches": int(total), "len": len(batches)}))
torch.distributed.destroy_process_group()
"""


def test_two_processes_share_the_windows(tmp_path: Path) -> None:
    root = numbered_store(tmp_path / "data")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in (0, 1):
        rendezvous = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": "2",
            "RANK": str(rank),
        }
        command = [sys.executable, "-c", RANK, str(root)]
        processes.append(
            subprocess.Popen(
                command,
                env={**os.environ, **rendezvous},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    found = []
    for process in processes:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        found.append(json.loads(out.splitlines()[-1]))
    one, two = (set(f["seen"]) for f in found)
    num_windows = sum(length - 2 for length in LENGTHS)
    assert not one & two
    assert len(one) == len(two) == 2 * (num_windows // 2 // 2)
    assert found[0]["batches"] == found[0]["len"] + found[1]["len"]


@pytest.mark.parametrize("count", [1, 2, 3, 64, 65, 1000, 4097])
def test_a_shuffle_is_a_permutation_that_seed_and_epoch_decide(count: int) -> None:
    places = np.arange(count)
    order = Shuffle(count, 0)(places)
    assert sorted(order) == list(range(count))
    np.testing.assert_array_equal(order, Shuffle(count, 0, 0)(places))
    if count > 60:
        assert (order != Shuffle(count, 0, 1)(places)).mean() > 0.9
        assert (order != Shuffle(count, 1)(places)).mean() > 0.9


def test_a_shuffle_leaves_no_order() -> None:
    count = 50_000
    order = Shuffle(count, 5)(np.arange(count)) / count
    steps = np.diff(order)
    assert abs(np.corrcoef(np.arange(count), order)[0, 1]) < 0.02
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.02
    assert abs((steps > 0).mean() - 0.5) < 0.01
    blocks = order.reshape(50, 1000).mean(axis=1)
    assert abs(blocks.std() / (1 / np.sqrt(12 * 1000)) - 1) < 0.4


def test_a_shuffle_of_a_trillion_needs_no_table() -> None:
    order = Shuffle(10**12, 0)(np.arange(1000))
    assert len(np.unique(order)) == 1000
    assert 0.4 < order.mean() / 10**12 < 0.6
    with pytest.raises(ValueError, match="places must be 0 to 9"):
        Shuffle(10, 0)(np.array([10]))


def test_what_makes_no_batch_is_refused(tmp_path: Path) -> None:
    root = numbered_store(tmp_path / "data")
    with pytest.raises(ValueError, match="make no batch of 100: lower batch_size"):
        make_batches(root, 100)
    with pytest.raises(ValueError, match="no column 'depth'"):
        make_batches(root, columns=("depth",))
