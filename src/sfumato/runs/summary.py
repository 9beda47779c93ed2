"""What a run's rows come down to: a line for each measure of each protocol, with its interval, and what each method cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sfumato.metrics.estimate import Estimate, Measure, estimates
from sfumato.runs.session import Session
from sfumato.runs.store import Done, Store
from sfumato.scores import differing


@dataclass(frozen=True)
class Line:
    """A measure of a method on a model and a data set, by their names in the plan."""

    data: str
    model: str
    method: str
    protocol: str
    measure: Measure
    estimate: Estimate
    failed: int
    """Items that failed, and do not count."""


@dataclass(frozen=True)
class Where:
    """A place in a run's table, and the recipe of its rows."""

    data: str
    model: str
    method: str
    protocol: str
    recipe: str


def places(session: Session) -> list[Where]:
    """The places of the run's plan, in its order."""
    return [Where(each.data, each.model, each.method, name, recipe) for (each, name), recipe in session.names.items()]


def lines(session: Session, store: Store) -> Iterator[Line]:
    """Each measure of each place."""
    for where in places(session):
        done = _sorted(session.done(store, where.recipe))
        rows = [each.row for each in done if each.row is not None]
        failed = len(done) - len(rows)
        measures = session.plan.protocols[where.protocol].protocol.measures(rows)
        for measure, estimate in zip(measures, estimates(measures, rows), strict=True):
            yield Line(where.data, where.model, where.method, where.protocol, measure, estimate, failed)


def differences(session: Session, store: Store, one: str, other: str) -> Iterator[Line]:
    """The paired differences, one less the other: of two methods, or of two models, by their names in the plan.

    They rest on the queries in which neither failed. Raises `ValueError` for names that the run has not.
    """
    everywhere = places(session)
    kind = next(
        (kind for kind in ("method", "model") if {one, other} <= {getattr(each, kind) for each in everywhere}), None
    )
    if kind is None:
        known = sorted({each.method for each in everywhere} | {each.model for each in everywhere})
        raise ValueError(
            f"compare two methods or two models of the run; got {one!r} and {other!r}, it has {', '.join(known)}"
        )
    others = {_but(each, kind): each for each in everywhere if getattr(each, kind) == other}
    for where in everywhere:
        if getattr(where, kind) == one and _but(where, kind) in others:
            first, second = (
                {(each.example, each.target): each.row for each in session.done(store, recipe) if each.row is not None}
                for recipe in (where.recipe, others[_but(where, kind)].recipe)
            )
            both = sorted(first.keys() & second.keys())
            rows, against = [first[key] for key in both], [second[key] for key in both]
            measures = session.plan.protocols[where.protocol].protocol.measures(rows)
            for measure, estimate in zip(measures, estimates(measures, rows, against), strict=True):
                yield Line(where.data, where.model, where.method, where.protocol, measure, estimate, 0)


def seconds(session: Session, store: Store) -> dict[tuple[str, str, str], float]:
    """What a method took for a query, by data set, model and method: the median."""
    found: dict[tuple[str, str, str], float] = {}
    for where in places(session):
        key = (where.data, where.model, where.method)
        if key not in found:
            taken = [each.seconds for each in session.done(store, where.recipe) if each.row is not None]
            if taken:
                found[key] = float(np.median(taken))
    return found


def quantities(session: Session, data: str, model: str) -> str:
    """A sentence that says what a class means to each method of a table, where that is not the same to all; else empty."""
    methods = {
        each.method: session.plan.methods[each.method]
        for each in places(session)
        if (each.data, each.model) == (data, model)
    }
    return differing({name: method.score for name, method in methods.items() if hasattr(method, "score")})


def rows(session: Session, store: Store) -> Iterator[dict[str, object]]:
    """Every item of the plan, by place: what it is, and what was measured or why it failed. Without times: these differ."""
    for where in places(session):
        for each in _sorted(session.done(store, where.recipe)):
            yield {
                "data": where.data,
                "model": where.model,
                "method": where.method,
                "protocol": where.protocol,
                "example": each.example,
                "target": each.target,
                "failed": each.reason,
                **{name: value for name, value in (each.row or {}).items() if name != "picture"},
            }


def failures(session: Session, store: Store) -> dict[str, int]:
    """Why items failed, and how many of each reason."""
    found: dict[str, int] = {}
    for where in places(session):
        for each in session.done(store, where.recipe):
            if each.row is None:
                found[each.reason] = found.get(each.reason, 0) + 1
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))


def _sorted(done: Iterator[Done]) -> Sequence[Done]:
    """In an order that does not depend on keys: that of names and targets."""
    return sorted(done, key=lambda each: (each.example, each.target))


def _but(where: Where, kind: str) -> tuple[str, ...]:
    return tuple(getattr(where, name) for name in ("data", "model", "method", "protocol") if name != kind)


__all__ = ["Line", "Where", "differences", "failures", "lines", "places", "quantities", "rows", "seconds"]
