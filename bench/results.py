"""The page of results from the run of `results.toml`: `python bench/results.py RUN PAGE`.

What is said about the numbers stands in `results.md` beside this file; the numbers are the run's.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from sfumato.runs import session as sessions
from sfumato.runs import summary
from sfumato.runs.export import grid, grouped, tabulated
from sfumato.runs.session import Session
from sfumato.runs.store import Store

Place = tuple[str, str, str, str]
"""Data set, model, method and protocol, by their names in the plan."""

FEW = 10
"""Queries of which an interval says little."""

LEADER = "extremal"
TELLING = ("energy", "insertion", "insertion-logit", "localisation", "pointing")
"""The protocols for which the method is set beside every other."""


def unfinished(session: Session, store: Store) -> set[Place]:
    """The places of which something is not done: they have no place in a table beside those that rest on all queries."""
    return {
        (where.data, where.model, where.method, where.protocol)
        for where in summary.places(session)
        if len(store.known(keys := session.keys(where.recipe))) < len(keys)
    }


def place(line: summary.Line) -> Place:
    return line.data, line.model, line.method, line.protocol


def sections(session: Session, store: Store, left_out: set[Place]) -> Iterator[str]:
    """For each data set and model: how many pictures and queries, and a table for each protocol."""
    cost = summary.seconds(session, store)
    whole = (line for line in summary.lines(session, store) if place(line) not in left_out)
    for (data, model), lines in grouped(whole).items():
        queries = max(line.estimate.count for line in lines)
        pictures = len(session.plan.data[data].data)
        yield f"## {data}, {model}\n\n{pictures} pictures, {queries} queries.\n"
        known = {method: cost[data, model, method] for method in session.plan.methods if (data, model, method) in cost}
        yield "Seconds a query: " + ", ".join(f"{method} {seconds:.2g}" for method, seconds in known.items()) + ".\n"
        for protocol in dict.fromkeys(line.protocol for line in lines):
            header, body = grid([line for line in lines if line.protocol == protocol])
            yield f"### {protocol}\n\n" + tabulated([words.removeprefix(f"{protocol}: ") for words in header], body)


def standings(session: Session, store: Store, left_out: set[Place]) -> Iterator[str]:
    """Where the leader is behind, by paired differences whose interval does not hold 0, and where ahead."""
    counts: dict[str, list[str]] = {"ahead": [], "tied": [], "behind": []}
    for other in session.plan.methods:
        if other == LEADER:
            continue
        for line in summary.differences(session, store, LEADER, other):
            one, two = place(line), (line.data, line.model, other, line.protocol)
            if line.protocol in TELLING and line.estimate.count >= FEW and not {one, two} & left_out:
                low, high = line.estimate.low, line.estimate.high
                sign = 1 if line.measure.higher_is_better else -1
                stands = (
                    "tied" if not (low > 0 or high < 0) else "ahead" if sign * line.estimate.value > 0 else "behind"
                )
                scale, unit = (100, " points") if line.measure.percent else (1, "")
                counts[stands].append(
                    f"{line.data}, {line.model}, {line.protocol} ({line.measure.name}): {other}, "
                    f"{scale * line.estimate.value:+.3g}{unit} [{scale * low:+.3g}, {scale * high:+.3g}]"
                )
    total = sum(map(len, counts.values()))
    yield (
        f"Of {total} paired comparisons with another method (each data set, model and measure, on at least {FEW} queries), "
        f"{LEADER} is ahead in "
        f"{len(counts['ahead'])}, behind in {len(counts['behind'])}, and tied in {len(counts['tied'])}: the 95 % interval of "
        "the difference holds 0. No correction is made for their number."
    )
    if counts["behind"]:
        yield "\nBehind:\n\n" + "\n".join(f"- {each}" for each in counts["behind"])


def main(folder: str, page: str) -> None:
    session = sessions.found(sessions.Place(Path(folder)))
    said = (Path(__file__).parent / "results.md").read_text(encoding="utf-8")
    with session.place.store() as store:
        left_out = unfinished(session, store)
        for each in sorted({each[:3] for each in left_out}):
            print("left out, as it is not finished:", *each)
        text = said.replace("{standings}", "\n".join(standings(session, store, left_out)))
        text = text.replace("{sections}", "\n".join(sections(session, store, left_out)))
    Path(page).write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
