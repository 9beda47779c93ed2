"""The page of results from the run of `results.toml`: `python bench/results.py RUN PAGE`.

What is said about the numbers stands in `results.md` beside this file; the numbers are the run's.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sfumato.metrics.estimate import FEW
from sfumato.runs.results import record as records
from sfumato.runs.results import summary
from sfumato.runs.results.export import tabulated
from sfumato.runs.results.grid import grids, grouped
from sfumato.runs.results.leaders import results
from sfumato.runs.results.record import Record
from sfumato.runs.stores.store import Store

Place = tuple[str, str, str, str]
"""Data set, model, method and protocol, by their names in the plan."""

LEADER = "extremal-map"
TELLING = ("energy", "insertion", "insertion-logit", "localisation", "pointing")
"""The protocols for which the method is set beside every other."""

MAIN = (
    "all",
    "energy",
    "insertion",
    "deletion",
    "insertion - deletion",
    "error by value",
    "error by energy",
    "error by mean",
)
"""The measures of which the best other method is named; the rest are these for fewer cases or against chance."""


def unfinished(record: Record, store: Store) -> set[Place]:
    """The places of which something is not done: they have no place in a table beside those that rest on all queries."""
    done = dict.fromkeys(record.recipes, 0)
    for each in record.tallies(store):
        done[each.recipe] += each.items
    return {
        (where.data, where.model, where.method, where.protocol)
        for where in record.places
        if done[where.recipe] < record.data[where.data]["queries"]
    }


def methods(record: Record) -> list[str]:
    """The plan's methods that are judged, in its order."""
    return list(dict.fromkeys(where.method for where in record.places))


def place(line: summary.Line) -> Place:
    return line.data, line.model, line.method, line.protocol


def sections(record: Record, store: Store, left_out: set[Place]) -> Iterator[str]:
    """For each data set and model: how many pictures and queries, and a table for each protocol."""
    every, leading, cost = results(record, store)
    whole = (line for line in every if place(line) not in left_out)
    for (data, model), lines in grouped(whole).items():
        queries = max(line.estimate.count for line in lines)
        pictures = record.data[data]["examples"]
        yield f"## {data}, {model}\n\n{pictures} pictures, {queries} queries.\n"
        known = {method: cost[data, model, method] for method in methods(record) if (data, model, method) in cost}
        yield "Seconds a query: " + ", ".join(f"{method} {seconds:.2g}" for method, seconds in known.items()) + ".\n"
        for table in grids(lines, leading):
            body = table.body("**{}**".format)
            yield f"### {table.title}\n\n" + tabulated(table.header, body) + f"\n{table.legend('bold')}\n"


@dataclass(frozen=True)
class Standing:
    """The leader beside one other method, by one measure: the paired difference, with its interval."""

    other: str
    line: summary.Line

    @property
    def verdict(self) -> str:
        """Tied where the interval holds 0."""
        if not self.line.estimate.settled:
            return "tied"
        return "ahead" if self.gain > 0 else "behind"

    @property
    def gain(self) -> float:
        """By how much the leader is better."""
        return self.line.estimate.value if self.line.measure.higher_is_better else -self.line.estimate.value

    @property
    def told(self) -> str:
        scale, unit = (100, " points") if self.line.measure.percent else (1, "")
        value, low, high = (
            scale * each for each in (self.line.estimate.value, self.line.estimate.low, self.line.estimate.high)
        )
        return f"{value:+.3g}{unit} [{low:+.3g}, {high:+.3g}]"


def standings(record: Record, store: Store, left_out: set[Place]) -> list[Standing]:
    """The leader beside every other method by all that tells."""
    found = []
    for other in methods(record):
        if other != LEADER:
            for line in summary.differences(record, store, LEADER, other):
                one, two = place(line), (line.data, line.model, other, line.protocol)
                if line.protocol in TELLING and not line.estimate.few and not {one, two} & left_out:
                    found.append(Standing(other, line))
    return found


def closest(found: list[Standing]) -> str:
    """For each data set, model and measure the method that does best beside the leader."""
    best: dict[tuple[str, str, str, str], Standing] = {}
    for each in found:
        if each.line.measure.name not in MAIN:
            continue
        where = (each.line.data, each.line.model, each.line.protocol, each.line.measure.name)
        if where not in best or each.gain < best[where].gain:
            best[where] = each
    header = ["data, model", "measure", f"{LEADER} is", "beside the best other", "by"]
    return tabulated(
        header,
        [
            [f"{data}, {model}", name, each.verdict, each.other, each.told]
            for (data, model, _, name), each in best.items()
        ],
    )


def told(found: list[Standing]) -> Iterator[str]:
    """In how many comparisons the leader is ahead and behind, and where it is behind."""
    counts = Counter(each.verdict for each in found)
    yield (
        f"Of {len(found)} paired comparisons with another method (each data set, model and measure, on at least {FEW} "
        f"pictures), {LEADER} is ahead in {counts['ahead']}, behind in {counts['behind']}, and tied in {counts['tied']}: the "
        "95 % interval of the difference holds 0. No correction is made for their number.\n"
    )
    yield closest(found).rstrip()
    if counts["behind"]:
        yield "\nBehind:\n"
        for each in found:
            if each.verdict == "behind":
                line = each.line
                yield f"- {line.data}, {line.model}, {line.protocol} ({line.measure.name}): {each.other}, {each.told}"


def main(folder: str, page: str) -> None:
    record = records.found(records.Place(Path(folder)))
    said = (Path(__file__).parent / "results.md").read_text(encoding="utf-8")
    with record.place.store() as store:
        left_out = unfinished(record, store)
        for each in sorted({each[:3] for each in left_out}):
            print("left out, as it is not finished:", *each)
        text = said.replace("{standings}", "\n".join(told(standings(record, store, left_out))))
        text = text.replace("{sections}", "\n".join(sections(record, store, left_out)))
    Path(page).write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
