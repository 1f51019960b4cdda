"""Work shared out to processes of this machine: each asks for one task after another."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

POLL_SECONDS = 0.2
_GOODBYE_SECONDS = 30.0

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_in_processes(
    open_work: Callable[[], AbstractContextManager[Callable[[Task], Result]]],
    tasks: Sequence[Task],
    num_workers: int,
    stop: threading.Event,
) -> Generator[Result | None, None, None]:
    """Yield None once, when the first worker is ready, then each task's result, in the order they come.

    Args:
        open_work: called in each process; what it yields is called with one task after another. Sent to the
            processes, as tasks and results are.
        tasks: none of them may be None.
        num_workers: processes; not more than there are tasks are started.
        stop: set it, and no further task is handed out.

    Raises:
        ValueError: a task raised one, or a worker was killed.
    """
    todo = iter(tasks)
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, Any] = {}
    for _ in range(min(num_workers, len(tasks))):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, open_work), daemon=True)
        with _interrupts_ignored():
            process.start()
        theirs.close()
        workers[ours] = process
    started = False
    try:
        while workers:
            for connection in wait(list(workers), timeout=POLL_SECONDS):
                assert isinstance(connection, Connection)
                kind, answer = _receive(connection, workers[connection])
                if not started:
                    yield None
                    started = True
                if kind == "finished":
                    yield answer
                task = None if stop.is_set() else next(todo, None)
                connection.send(task)
                if task is None:
                    workers.pop(connection).join(_GOODBYE_SECONDS)
                    connection.close()
    finally:
        for connection, process in workers.items():
            process.terminate()
            process.join()
            connection.close()


def _receive(connection: Connection, process: Any) -> tuple[str, Any]:  # noqa: ANN401
    """What a worker says: that it is ready, or what came of a task."""
    try:
        kind, value = connection.recv()
    except (EOFError, ConnectionError):
        process.join(_GOODBYE_SECONDS)
        raise ValueError(
            f"a worker process died (exit code {process.exitcode}; -9 is often a lack of memory); "
            "use fewer workers and resume"
        ) from None
    if kind == "refused":
        raise ValueError(value)
    if kind == "failed":
        raise RuntimeError(f"a worker failed:\n{value}")
    return kind, value


def _work(
    connection: Connection, open_work: Callable[[], AbstractContextManager[Callable[[Any], Any]]]
) -> None:
    """The body of a worker process; it ends when told so, and when the parent is gone."""
    try:
        with open_work() as work:
            connection.send(("ready", None))
            while (task := connection.recv()) is not None:
                connection.send(("finished", work(task)))
    except (EOFError, ConnectionError):
        return
    except ValueError as error:
        connection.send(("refused", str(error)))
    except Exception:
        connection.send(("failed", traceback.format_exc()))


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second raises KeyboardInterrupt as ever."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let a process that starts now ignore Ctrl-C, which the terminal sends to it as well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
