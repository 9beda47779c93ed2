"""A run on many machines: workers on a Ray cluster compute, and one driver claims, sends and commits.

The cluster keeps nothing: workers and machines may die at any time and are replaced. When the driver dies, its claims
become free, and the same command continues from the last commit. The driver also writes the masks, instead of the
workers to a shared folder: a row must be written after its file, and only the driver knows that its file is on the
disk.
"""

import logging
import os
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

from sfumato.runs.execution.crew import PATIENCE, Crew
from sfumato.runs.execution.driver import drive, portable, windows_left
from sfumato.runs.execution.execute import Progress, renewed_claims
from sfumato.runs.execution.session import Session, current
from sfumato.runs.plans.cluster import Cluster
from sfumato.runs.stores.processes import this_process

LOCAL = "ray"
"""The address that means: start a cluster on this machine, for this run alone."""


def spread(session: Session, address: str, cluster: Cluster | None = None, looked: bool = False) -> Generator[Progress]:
    """Do the session's work on a Ray cluster, and yield the progress now and then. `looked` says that `Session.look` was called
    just now, so that not all files need be looked at again.

    `address` is "ray" for a new cluster on this machine, which ends with the run, and "auto", "HOST:PORT" or
    "ray://HOST:PORT" for one that runs already. Each machine needs the same packages, and the models' files and the pictures
    under the same paths; only the driver reads annotations. Raises `RuntimeError` if workers fail; what is done is kept.
    """
    cluster = cluster or Cluster()
    cluster.check_device(session.plan.device)
    if session.bench is not None:
        session.bench.unload()
    with session.place.store() as store:
        if (windows := windows_left(session, store, looked)) is None:
            return  # no cluster is needed to do nothing
        with connect(address, cluster) as (ray, ours):
            hello = (portable(session.plan), dict(session.weights), session.code, current())
            me = this_process("ray")
            with renewed_claims(store, me), closing(Crew(ray, cluster, hello, 0 if ours else PATIENCE)) as crew:
                yield from drive(session, store, me, crew, windows)
        session.note_measures(store)


@contextmanager
def connect(address: str, cluster: Cluster) -> Iterator[tuple[Any, bool]]:
    """Connect Ray to a cluster. Returns Ray, and whether the cluster was started here. A process that is connected stays so."""
    ray = _import_ray()
    if ray.is_initialized():
        yield ray, False
        return
    ours = address == LOCAL
    settings = {"log_to_driver": cluster.logs, "logging_level": logging.ERROR}
    try:
        if ours:
            ray.init("local", include_dashboard=False, **settings)
        else:
            ray.init(address, **settings)
    except (ConnectionError, ValueError) as error:
        message = " ".join(str(error).split())
        raise ValueError(
            f'no Ray cluster answers at {address!r} ({message}); start one with: ray start --head, or use "ray" for one that '
            "is this machine"
        ) from error
    try:
        yield ray, ours
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers; read at the import
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a run on a cluster needs Ray; install it with: pip install 'sfumato[ray]'"
        ) from error
    return ray
