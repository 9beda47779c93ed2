"""Several workers on one machine: processes that share a run's store, and nothing else."""

import multiprocessing
import os
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import fields
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from sfumato.runs.record import Record
from sfumato.runs.session import Session, resumed

POLL = 0.5
"""Seconds between looks at how far the workers are."""


DEATHS = 3
"""Workers that may be killed, by want of memory for instance, and are replaced: one more ends the run."""


def spread(session: Session, workers: int) -> Generator[None]:
    """Do the session's work in so many processes of one thread each, and yield now and then meanwhile.

    A worker that is killed is replaced. Raises `RuntimeError` with what a worker said when it failed, or where too many are
    killed; the others then stop, and what is done is kept.
    """
    if session.bench is not None:
        session.bench.let_go()
    context = multiprocessing.get_context("spawn")
    told = Record(**{each.name: getattr(session, each.name) for each in fields(Record)})
    running: dict[Connection, Any] = {}

    def start() -> None:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_worker, args=(there, told), daemon=True)
        process.start()
        there.close()
        running[here] = process

    try:
        for _ in range(workers):
            start()
        deaths = 0
        while running:
            yield
            for connection in wait(list(running), timeout=POLL):
                assert isinstance(connection, Connection)  # noqa: S101  # for the type checker
                if _was_killed(connection, running.pop(connection)):
                    deaths += 1
                    if deaths > DEATHS:
                        raise RuntimeError(
                            f"{deaths} workers were killed, maybe for want of memory; take fewer workers"
                        )
                    start()
    finally:
        for connection, process in running.items():
            process.terminate()
            process.join()
            connection.close()


def _was_killed(connection: Connection, process: Any) -> bool:
    """Whether a worker that is no more was killed; raises `RuntimeError` where it failed and could say why."""
    try:
        reason = connection.recv()
    except EOFError:
        reason = None
    connection.close()
    process.join()
    if reason:
        raise RuntimeError(f"a worker failed: {reason}")
    return reason is None


def _worker(connection: Connection, record: Record) -> None:
    """A worker process, from its start to its end."""
    _end_with(os.getppid())
    try:
        with one_thread():
            for _ in resumed(record).work():
                pass
        connection.send("")
    except KeyboardInterrupt:
        connection.send("")  # its parent was interrupted too, and says so
    except Exception as error:  # noqa: BLE001  # the parent says it
        connection.send(" ".join(str(error).split()) or type(error).__name__)


def _end_with(parent: int) -> None:
    """End this process when its parent has died, which a killed parent cannot see to."""

    def watch() -> None:
        while not threading.Event().wait(1):
            if os.getppid() != parent:
                os._exit(1)

    threading.Thread(target=watch, name="sfumato-parent", daemon=True).start()


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread meanwhile: so the digits are the same however many workers there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
