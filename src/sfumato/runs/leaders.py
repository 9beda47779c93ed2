"""Which methods lead a run's tables: by paired differences, from the rows of the store."""

from sfumato.metrics.statistic import Columns, turned
from sfumato.metrics.undecided import undecided_by
from sfumato.runs.grid import Undecided
from sfumato.runs.session import Session
from sfumato.runs.store import Store
from sfumato.runs.summary import Where, places


def leaders(session: Session, store: Store) -> Undecided:
    """For each measure of each table the best method and all that are not settled worse."""
    tables: dict[tuple[str, str, str], list[Where]] = {}
    for where in places(session):
        tables.setdefault((where.data, where.model, where.protocol), []).append(where)
    found = {}
    for (data, model, name), methods in tables.items():
        if len(methods) < 2:
            continue
        rows = {
            where.method: [each.row for each in session.done(store, where.recipe) if each.row is not None]
            for where in methods
        }
        measures = session.plan.protocols[name].protocol.measures([row for some in rows.values() for row in some])
        columns: dict[str, Columns] = {method: turned(some) for method, some in rows.items()}
        for measure, leading in zip(measures, undecided_by(measures, columns), strict=True):
            found[data, model, name, measure.name] = leading
    return found
