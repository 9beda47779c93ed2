"""The page of results: a table a question and a figure, from a run's lines."""

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="figures need matplotlib")

from sfumato.metrics.estimate import Estimate, Measure, mean
from sfumato.runs.results.summary import Line

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def results(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    monkeypatch.delitem(sys.modules, "results", raising=False)
    import results

    return results


def line(data, method, value, count=30, protocol="insertion", name="insertion - deletion", percent=False):
    estimate = Estimate(value, value - 0.1, value + 0.1, count)
    return Line(data, "net", method, protocol, Measure(name, mean("x"), percent=percent), estimate, 0, count)


def test_a_table_has_a_row_a_method_and_a_column_a_data_set_and_marks_what_leads(results):
    lines = [
        line("photos", "rise", 0.25),
        line("photos", "order", 0.5),
        line("few", "rise", 0.9, count=9),  # too few to be shown
        line("scenes", "order", math.nan),
        line("photos", "rise", 0.125, protocol="energy", name="energy above chance", percent=True),
        line("photos", "rise", 0.7, name="insertion"),  # no question is answered by it
    ]
    leading = {("photos", "net", "insertion", "insertion - deletion"): {"order"}}
    where, order = results.questions(lines, leading)
    assert where.startswith("## Where is it?")
    assert where.splitlines()[-1] == "| rise | 12.5 |"
    assert order.startswith("## In which order do places matter?")
    assert order.splitlines()[-4:] == [
        "| method | photos, net | scenes, net |",
        "| --- | --- | --- |",
        "| rise | 0.250 |  |",
        "| order | **0.500** | – |",
    ]


def test_the_figure_shows_what_is_known_and_timed(results, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(results, "label", lambda axes, points: drawn.append(points))
    lines = [
        line("photos", "rise", 0.25),
        line("photos", "order", 0.5),
        line("photos", "centre", math.nan),
        line("photos", "untimed", 0.1),
        line("photos", "rise", 0.125, protocol="energy", name="energy above chance", percent=True),
    ]
    results.plot(lines, {("photos", "net", name): 2.0 for name in ("rise", "order", "centre")}, tmp_path / "a.png")
    assert drawn == [{"rise": (2.0, 12.5)}, {"rise": (2.0, 0.25), "order": (2.0, 0.5)}]
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_names_of_near_points_lie_apart_within_the_axis(results, tmp_path):
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    results.label(axes, {"a": (1.0, 5.0), "b": (1.1, 5.01), "c": (0.9, 4.99), "far": (100.0, 0.0), "more": (90.0, 0.0)})
    places = {text.get_text(): text.xyann for text in axes.texts}
    for one, other in (("a", "b"), ("a", "c"), ("b", "c"), ("far", "more")):
        assert abs(places[one][1] - places[other][1]) >= results.GAP - 1e-9
    assert all(0 < x < 1 and 0 < y < 1 for x, y in places.values())
    assert places["far"][0] < 0.9 < 1 - places["a"][0] + 0.3


def lines_of(page):
    """The lines of a run, and the seconds of its methods, from the long tables that `bench/results.py` wrote."""
    lines, seconds = [], {}
    for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        data, model = part.splitlines()[0].split(", ")
        count = int(re.search(r", (\d+) queries", part)[1])
        for method, time in re.findall(r"([\w-]+) ([\d.]+)[,.]", re.search(r"Seconds a query: (.*)", part)[1]):
            seconds[data, model, method] = float(time)
        for table in re.split(r"^### ", part, flags=re.MULTILINE)[1:]:
            rows = [[cell.strip(" *") for cell in row.split("|")[1:-1]] for row in table.splitlines() if row[:1] == "|"]
            for column, title in enumerate(rows[0]):
                name = title.rstrip("↑↓ ")
                for method, *values in rows[2:] if column else ():
                    if value := re.match(r"-?[\d.]+", values[column - 1]):
                        percent = name.endswith("%")
                        measure = Measure(name.removesuffix("%").strip(), mean("x"), percent=percent)
                        estimate = Estimate(float(value[0]) / (100 if percent else 1), 0.0, 0.0, count)
                        lines.append(Line(data, model, method, table.splitlines()[0], measure, estimate, 0, count))
    return lines, seconds


def red_places(path):
    """The places of the red points of a figure, of this library's methods, in pixels."""
    with Image.open(path) as figure:
        red, green, blue = np.moveaxis(np.asarray(figure.convert("RGB"), int), 2, 0)
    return np.argwhere((red > 170) & (green < 100) & (blue < 100)), red.shape


def apart(one, other):
    """How many pixels the red points of two figures of one size are apart, at most."""
    (first, size), (second, other_size) = red_places(one), red_places(other)
    assert size == other_size
    assert len(first) > 300
    distances = np.linalg.norm(first[:, None] - second[None], axis=2)
    return max(distances.min(0).max(), distances.min(1).max())


def test_the_figure_is_drawn_from_the_numbers_of_the_tables(results, tmp_path):
    lines, seconds = lines_of((DOCS / "results_tables.md").read_text(encoding="utf-8"))
    assert len(seconds) > 40
    results.plot(lines, seconds, tmp_path / "drawn.webp")
    kept = DOCS / "_static" / "results.webp"
    assert apart(tmp_path / "drawn.webp", kept) < 4  # the tables have rounded numbers
    seconds["imagenet", "lite0", "order"] *= 1.3
    results.plot(lines, seconds, tmp_path / "other.webp")
    assert apart(tmp_path / "other.webp", kept) > 6
