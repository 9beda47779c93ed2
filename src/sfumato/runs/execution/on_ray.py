"""A run on many machines: Ray's workers compute; one driver claims, sends, and commits what comes back.

Nothing that matters lives on the cluster: workers and machines may die at any time and are replaced, and when the driver dies
its claims are free, so that another, or the same command again, goes on from what was committed. The driver also writes the
results, where they are kept, in place of the workers on a folder that all share: it has to write the row after the file, and so
needs no other machine's word that a file is on the disk.
"""

import logging
import os
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

from sfumato.runs.execution.crew import PATIENCE, Crew
from sfumato.runs.execution.driver import drive, portable
from sfumato.runs.execution.execute import Progress, renewed
from sfumato.runs.execution.session import Session, current
from sfumato.runs.plans.cluster import Cluster
from sfumato.runs.stores.processes import present

LOCAL = "ray"
"""The address of a cluster that is started on this machine, for this run alone."""


def spread(session: Session, address: str, cluster: Cluster | None = None) -> Generator[Progress]:
    """Do the session's work on a Ray cluster, and yield now and then meanwhile.

    `address` is "ray" for a cluster of this machine's own, which ends with the run; "auto", "HOST:PORT" or "ray://HOST:PORT"
    for one that runs. Each machine needs the same packages, and the models' files and the pictures under the same paths; only
    the driver reads the data sets' annotations. Raises `RuntimeError` where workers fail; what is done is kept.
    """
    cluster = cluster or Cluster()
    cluster.check_device(session.plan.device)
    if session.bench is not None:
        session.bench.let_go()
    with session.place.store() as store:
        if next(session.undone(store), None) is None:
            return  # no cluster is needed to do nothing
        with connected(address, cluster) as (ray, ours):
            hello = (portable(session.plan), dict(session.weights), current())
            me = present("ray")
            with renewed(store, me), closing(Crew(ray, cluster, hello, 0 if ours else PATIENCE)) as crew:
                yield from drive(session, store, me, crew)


@contextmanager
def connected(address: str, cluster: Cluster) -> Iterator[tuple[Any, bool]]:
    """Ray, connected to a cluster, and whether that was started here and ends here. A process that is connected stays so."""
    ray = _imported()
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
        said = " ".join(str(error).split())
        raise ValueError(
            f'no Ray cluster answers at {address!r} ({said}); start one with: ray start --head, or use "ray" for one that '
            "is this machine"
        ) from error
    try:
        yield ray, ours
    finally:
        ray.shutdown()


def _imported() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers; read at the import
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a run on a cluster needs Ray; install it with: pip install 'sfumato[ray]'"
        ) from error
    return ray
