"""The pages of results from the run of `results.toml`: `python bench/results.py RUN DOCS`.

`results.md` in the folder DOCS has a table for each question and a figure, `results_tables.md` a table for each protocol. What
is said about the numbers stands in `results.md` beside this file; the numbers are the run's.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sfumato.metrics.estimate import FEW
from sfumato.runs.results import record as records
from sfumato.runs.results import summary
from sfumato.runs.results.export import markdown_table
from sfumato.runs.results.grid import UNKNOWN, Undecided, by_data_and_model, grids
from sfumato.runs.results.leaders import results
from sfumato.runs.results.record import Record
from sfumato.runs.stores.store import Store

Place = tuple[str, str, str, str]
"""Data set, model, method and protocol, by their names in the plan."""

LEADERS = {
    "energy": "extremal",
    "pointing": "extremal",
    "localisation": "extremal",
    "insertion": "order",
    "insertion-logit": "order",
}
"""For each protocol that tells, the method of ours that is set beside every other: one for where, one for the order."""

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


@dataclass(frozen=True)
class Question:
    """What a reader asks, and the measure that answers it."""

    title: str
    measure: str
    protocols: tuple[str, ...]
    told: str


QUESTIONS = (
    Question(
        "Where is it?",
        "energy above chance",
        ("energy",),
        "The share of the map's positive values that lies in the object's boxes, less the share of the picture that the boxes "
        "cover, in points.",
    ),
    Question(
        "Does the highest place lie on it?",
        "all",
        ("pointing",),
        "The pointing game: hits in per cent, the mean over classes.",
    ),
    Question(
        "In which order do places matter?",
        "insertion - deletion",
        ("insertion", "insertion-logit"),
        "The mean score while places are shown in the map's order, less the mean score while they are hidden in it.",
    ),
    Question(
        "How little suffices?",
        "smallest area",
        ("sufficient",),
        "The smallest share of the picture, in the map's order, that keeps 90 % of the probability, in per cent; less is "
        "better.",
    ),
)

LEAST = 10
"""Queries that a column of these tables rests on, at least."""

PLOTTED = ("energy above chance", "insertion - deletion")
"""What the figure shows against the time."""


def question_table(question: Question, lines: Iterable[summary.Line], leading: Undecided) -> str:
    """A row a method, a column a data set and model; empty if the run says nothing of it."""
    cells: dict[str, dict[tuple[str, str], str]] = {}
    columns: dict[tuple[str, str], None] = {}
    for line in lines:
        if line.measure.name != question.measure or line.protocol not in question.protocols:
            continue
        if line.estimate.count < LEAST:
            continue
        where = line.data, line.model
        columns[where] = None
        value = line.estimate.value
        scale, digits = (100, 1) if line.measure.percent else (1, 3)
        text = UNKNOWN if math.isnan(value) else f"{scale * value:z.{digits}f}"
        best = line.method in leading.get((*where, line.protocol, question.measure), ())
        cells.setdefault(line.method, {})[where] = f"**{text}**" if best else text
    if not columns:
        return ""
    header = ["method", *(f"{data}, {model}" for data, model in columns)]
    body = [[method, *(row.get(where, "") for where in columns)] for method, row in cells.items()]
    return markdown_table(header, body)


def questions(lines: Sequence[summary.Line], leading: Undecided) -> Iterator[str]:
    """A section for each question that the run answers."""
    for question in QUESTIONS:
        if table := question_table(question, lines, leading):
            yield f"## {question.title}\n\n{question.told}\n\n{table}"


def label(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Draw points over a logarithmic axis, with their names beside them, one above the other where they would overlap."""
    axes.set_xscale("log")
    for method, point in points.items():
        axes.scatter(*point, s=10, color="tab:red" if method.startswith(FAMILY) else "tab:gray")
    (left, width), (bottom, height) = (
        around(values) for values in ([math.log(x) for x, _ in points.values()], [y for _, y in points.values()])
    )
    axes.set_xlim(math.exp(left), math.exp(left + width))
    axes.set_ylim(bottom, bottom + height)
    places = {method: ((math.log(x) - left) / width, (y - bottom) / height) for method, (x, y) in points.items()}
    for right in (False, True):
        above = -math.inf
        for method in sorted((name for name in places if (places[name][0] > 0.5) == right), key=lambda n: places[n][1]):
            x, y = places[method]
            above = max(y, above + GAP)
            axes.annotate(
                method,
                points[method],
                xytext=(x - 0.04 if right else x + 0.04, above),
                textcoords="axes fraction",
                ha="right" if right else "left",
                va="center",
                fontsize=6,
                arrowprops={"arrowstyle": "-", "lw": 0.3, "color": "gray", "shrinkA": 0, "shrinkB": 2},
            )


def around(values: Sequence[float], margin: float = 0.2) -> tuple[float, float]:
    """Where an axis begins, and how long it is, for these values with a margin on both sides."""
    length = (max(values) - min(values)) or 1.0
    return min(values) - margin * length, (1 + 2 * margin) * length


GAP = 0.06
"""Between the names of points, as a share of the axis' height."""


def plot(lines: Sequence[summary.Line], seconds: Mapping[tuple[str, str, str], float], path: Path) -> None:
    """Draw quality against the time of a query: a row of panels a measure, a column a data set and model, a point a method."""
    wanted: dict[tuple[str, str, str], dict[str, summary.Line]] = {}
    for line in lines:
        timed = seconds.get((line.data, line.model, line.method), 0) > 0
        known = line.estimate.count >= LEAST and not math.isnan(line.estimate.value)
        if line.measure.name in PLOTTED and timed and known:
            wanted.setdefault((line.measure.name, line.data, line.model), {})[line.method] = line
    places = list(dict.fromkeys(key[1:] for key in wanted))
    with mpl.rc_context({"font.size": 7, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(3.2 * len(places), 2.6 * len(PLOTTED)), layout="constrained")
        for row, measure in enumerate(PLOTTED):
            for column, (data, model) in enumerate(places):
                axes = figure.add_subplot(len(PLOTTED), len(places), 1 + row * len(places) + column)
                found = wanted.get((measure, data, model), {})
                points = {
                    method: (seconds[data, model, method], (100 if line.measure.percent else 1) * line.estimate.value)
                    for method, line in found.items()
                }
                label(axes, points)
                axes.set_title(f"{data}, {model}", fontsize=7)
                if column == 0:
                    axes.set_ylabel(measure)
                if row == len(PLOTTED) - 1:
                    axes.set_xlabel("seconds a query, one thread")
        figure.savefig(path, dpi=130)


FAMILY = ("extremal", "smooth", "order")
"""How the names of this library's own methods begin, which the figure colours."""


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


def sections(
    record: Record, whole: Iterable[summary.Line], leading: Undecided, cost: Mapping[tuple[str, str, str], float]
) -> Iterator[str]:
    """For each data set and model: how many pictures and queries, and a table for each protocol."""
    for (data, model), lines in by_data_and_model(whole).items():
        queries = max(line.estimate.count for line in lines)
        pictures = record.data[data]["examples"]
        yield f"## {data}, {model}\n\n{pictures} pictures, {queries} queries.\n"
        known = {method: cost[data, model, method] for method in methods(record) if (data, model, method) in cost}
        yield "Seconds a query: " + ", ".join(f"{method} {seconds:.2g}" for method, seconds in known.items()) + ".\n"
        for table in grids(lines, leading):
            body = table.body("**{}**".format)
            yield f"### {table.title}\n\n" + markdown_table(table.header, body) + f"\n{table.legend('bold')}\n"


@dataclass(frozen=True)
class Standing:
    """A leader beside one other method, by one measure: the paired difference, with its interval."""

    leader: str
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
    """The leaders beside every other method by all that tells."""
    found = []
    for leader in dict.fromkeys(LEADERS.values()):
        for other in methods(record):
            for line in summary.differences(record, store, leader, other) if other != leader else ():
                one, two = place(line), (line.data, line.model, other, line.protocol)
                if LEADERS.get(line.protocol) == leader and not line.estimate.few and not {one, two} & left_out:
                    found.append(Standing(leader, other, line))
    return found


def closest(found: list[Standing]) -> str:
    """For each data set, model and measure the method that does best beside its leader."""
    best: dict[tuple[str, str, str, str], Standing] = {}
    for each in found:
        if each.line.measure.name not in MAIN:
            continue
        where = (each.line.data, each.line.model, each.line.protocol, each.line.measure.name)
        if where not in best or each.gain < best[where].gain:
            best[where] = each
    header = ["data, model", "measure", "method", "is", "beside the best other", "by"]
    return markdown_table(
        header,
        [
            [f"{data}, {model}", name, each.leader, each.verdict, each.other, each.told]
            for (data, model, _, name), each in best.items()
        ],
    )


def told(found: list[Standing]) -> Iterator[str]:
    """In how many comparisons each leader is ahead and behind, and where it is behind."""
    for leader in dict.fromkeys(LEADERS.values()):
        its = [each for each in found if each.leader == leader]
        counts = Counter(each.verdict for each in its)
        about = " and ".join(protocol for protocol, its_leader in LEADERS.items() if its_leader == leader)
        yield (
            f"Of {len(its)} paired comparisons in {about} with another method (each data set, model and measure, on at least "
            f"{FEW} pictures), {leader} is ahead in {counts['ahead']}, behind in {counts['behind']}, and tied in "
            f"{counts['tied']}: the 95 % interval of the difference holds 0. No correction is made for their number.\n"
        )
    yield closest(found).rstrip()
    behind = [each for each in found if each.verdict == "behind"]
    if behind:
        yield "\nBehind:\n"
    for each in behind:
        where = f"{each.line.data}, {each.line.model}, {each.line.protocol} ({each.line.measure.name})"
        yield f"- {where}: {each.leader} behind {each.other}, {each.told}"


def main(folder: str, docs: str) -> None:
    record = records.read_record(records.Place(Path(folder)))
    said = (Path(__file__).parent / "results.md").read_text(encoding="utf-8")
    with record.place.store() as store:
        left_out = unfinished(record, store)
        for each in sorted({each[:3] for each in left_out}):
            print("left out, as it is not finished:", *each)
        every, leading, cost = results(record, store)
        whole = [line for line in every if place(line) not in left_out]
        text = said.replace("{standings}", "\n".join(told(standings(record, store, left_out))))
        tables = "\n".join(sections(record, whole, leading, cost))
    text = text.replace("{questions}", "\n".join(questions(whole, leading)))
    plot(whole, cost, Path(docs) / "_static" / "results.webp")
    (Path(docs) / "results.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    (Path(docs) / "results_tables.md").write_text(TABLES + tables.rstrip() + "\n", encoding="utf-8")


TABLES = """# Tables of results

All measures of the [results](results.md), with 95 % intervals over pictures.

"""


if __name__ == "__main__":
    main(*sys.argv[1:])
