"""A run's tables: on the terminal, in Markdown and in LaTeX, with their marks and what these mean."""

import io
import math
import re

import pytest
from rich.console import Console

from sfumato.cli.tables import fitted
from sfumato.metrics.estimate import FEW, Estimate, Measure, mean
from sfumato.runs.results.export import latex, markdown, records
from sfumato.runs.results.grid import grid, grids
from sfumato.runs.results.summary import Line

METHODS = (
    "gradient",
    "grad-cam",
    "guided-backprop",
    "contrastive-excitation",
    "extremal-map",
    "extremal",
    "rise",
    "meaningful",
    "deconvnet",
    "linear",
    "centre",
    "my own method",
)
MEASURES = (
    Measure("rank correlation", mean("x"), higher_is_better=False),
    Measure("SSIM", mean("x"), higher_is_better=False),
    *(Measure(f"SSIM blocks.{layer}.conv", mean("x"), higher_is_better=False) for layer in range(5)),
    Measure("less than the whole suffices", mean("x"), percent=True),
    Measure("pixels 80", mean("x")),
)


def line(
    method="gradient", value=0.5, low=None, high=None, pictures=50, measure=MEASURES[0], protocol="game", failed=0
):
    low, high = (value - 0.1 if low is None else low), (value + 0.1 if high is None else high)
    return Line("voc", "vgg", method, protocol, measure, Estimate(value, low, high, pictures, pictures), failed)


def many(protocols=("randomisation", "deletion")):
    """Twelve methods with nine measures, all numbers different."""
    return [
        line(method, (place + 12 * number + 1) / 110, measure=measure, protocol=protocol, failed=3 * (method == "rise"))
        for protocol in protocols
        for place, method in enumerate(METHODS)
        for number, measure in enumerate(MEASURES)
    ]


def on_terminal(lines, width):
    """What `sfumato bench table` prints of one protocol."""
    text = io.StringIO()
    screen = Console(file=text, width=width, markup=False, highlight=False, emoji=False)
    whole = grid(lines)
    for title, table in fitted(whole, "{}*", width):
        screen.print(title)
        screen.print(table)
    screen.print(whole.legend("*"))
    return text.getvalue()


@pytest.mark.parametrize("width", [60, 80, 132, 400])
def test_a_terminal_shows_every_name_and_number_whole(width):
    lines = many(["randomisation"])
    shown = on_terminal(lines, width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    parts = shown.count("\nmethod ")
    for method in METHODS:
        assert len(re.findall(rf"(?m)^{method} ", shown)) == parts
    for each in grid(lines).cells:
        assert all(text in shown for text in each)
    assert parts == (1 if width == 400 else len(re.findall(r"randomisation \(\d of \d\)", shown)))
    assert parts <= 9


def test_a_terminal_is_filled_before_a_table_is_parted():
    """Names of 22 and cells of 21 columns, three between: two measures go into 80 columns."""
    assert len(fitted(grid(many(["randomisation"])), "{}*", 80)) == 5
    assert len(fitted(grid(many(["randomisation"])), "{}*", 98)) == 3


def test_a_name_longer_than_the_terminal_is_folded_and_no_number_is_lost():
    long = "a-method-whose-name-is-longer-than-the-terminal-is-wide"
    shown = on_terminal([line(long, 0.25), line("b", 0.125)], 40)
    assert max(map(len, shown.splitlines())) <= 40
    assert "0.250 [0.150, 0.350]" in shown
    assert long in "".join(part[:16].split()[0] for part in shown.splitlines()[3:] if part[:16].strip())


def test_each_protocol_has_a_table_and_wide_ones_are_parted():
    lines = [*many(), *(line(method, 0.3, protocol="one") for method in ("gradient", "rise"))]
    text = markdown(lines)
    heads = re.findall(r"(?m)^#### (.*)$", text)
    assert heads == [*(f"{name} ({part} of 2)" for name in ("randomisation", "deletion") for part in (1, 2)), "one"]
    tables = [part for part in text.split("\n\n") if part.startswith("| method")]
    assert [table.splitlines()[0].count("|") - 2 for table in tables] == [5, 4, 5, 4, 1]
    assert [len(table.splitlines()) - 2 for table in tables] == [12] * 4 + [2]
    assert all(text.count(cell) for each in grids(lines) for row in each.cells for cell in row)
    assert latex(lines).count(r"\begin{tabular}{lrrr}") == 6


def test_a_method_of_which_a_part_says_nothing_is_not_in_it():
    lines = [line(method, 0.3, measure=measure) for measure in MEASURES[:4] for method in "ab"][:-1]
    first, second = grid(lines).split([3, 1])
    assert (first.methods, second.methods) == (("a", "b"), ("a",))
    assert "" not in first.cells[1]


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.25, 0.15, 0.35, "0.250 [0.150, 0.350]"),
        (0.0004, -0.2, 0.201, "0.0004 [-0.2, 0.201]"),
        (6.13129e17, 4.1e17, 8.042e17, "6.13e+17 [4.1e+17, 8.04e+17]"),
        (-3e-17, -1e-17, 0.0, "0.000 [0.000, 0.000]"),
        (-math.inf, math.nan, math.nan, "-inf"),
    ],
)
def test_numbers_of_any_size_are_short_and_say_something(value, low, high, shown):
    assert grid([line("a", value, low, high)]).cells == ((shown,),)


def test_all_that_are_not_settled_worse_are_marked():
    lines = [line("a", 0.2), line("b", 0.3), line("c", 0.9), line("d", math.nan, math.nan, math.nan, 0)]
    by_interval = (
        "| a | **0.200 [0.100, 0.300]** |\n| b | **0.300 [0.200, 0.400]** |\n| c | 0.900 [0.800, 1.000] |\n| d | – |"
    )
    assert by_interval in markdown(lines)  # less is better
    by_pairs = {("voc", "vgg", "game", "rank correlation"): {"a"}}
    assert "| b | 0.300 [0.200, 0.400] |" in markdown(lines, undecided=by_pairs)
    assert "| a | **0.200" in markdown(lines, undecided=by_pairs)
    assert r"a & \textbf{0.200 [0.100, 0.300]} \\" in latex(lines, undecided=by_pairs)
    assert "**" not in markdown(lines[:1])  # nothing to lead
    few = [line("a", 0.2, pictures=FEW - 1), line("c", 0.9)]
    assert "| c | **0.900" in markdown(few)


def test_the_legend_explains_the_marks_that_a_table_has_and_no_others():
    plain = grid([line("a", 0.2)]).legend("*")
    assert plain == "[low, high]: 95 % interval over pictures; ↓ less is better"
    lines = [
        line("a", 0.2, failed=2),
        line("b", 0.3, pictures=FEW - 1),
        line("c", math.nan, math.nan, math.nan, 0),
        line("a", 0.4, measure=MEASURES[7], failed=2),
    ]
    for mark in ("*", "bold"):
        assert grid(lines).legend(mark).split("; ") == [
            f"{mark}: the best of its column, or not settled worse",
            "[low, high]: 95 % interval over pictures",
            "↑ more is better",
            "↓ less is better",
            "–: nothing is known",
            f"few: of fewer than {FEW} pictures, too few for an interval",
            "items that failed, and do not count: a 2",
        ]
    text = markdown(lines)
    assert "| b | **0.300 [0.200, 0.400] few** |" in text
    assert text.count("bold: the best") == text.count("#### ") == 1


def test_a_single_picture_has_no_interval_to_show():
    assert grid([line("a", 0.2, math.nan, math.nan, 1)]).cells == (("0.200 few",),)


def test_latex_is_escaped_once_and_whole():
    name = r"a\b & 50% of $x$ #1_{y} ~z^2 <|>"
    text = latex([line(name, 0.2), line("[b]", 0.9), line("*c", 0.9)], {("voc", "vgg", name): 0.5})
    escaped = (
        r"a\textbackslash{}b \& 50\% of \$x\$ \#1\_\{y\} \textasciitilde{}z\textasciicircum{}2 "
        r"\textless{}\textbar{}\textgreater{}"
    )
    assert f"\n{escaped} & \\textbf{{0.200" in text
    assert rf"Seconds a query: {escaped} 0.5." in text
    assert r"rank correlation $\downarrow$" in text
    assert "\n{}[b] & " in text  # no argument of the row's end before it
    assert "\n{}*c & " in text
    # What is left of the commands, braces in pairs, has none of the characters that LaTeX takes for its own.
    body = text[text.index(r"\toprule") :]
    rest = re.sub(r"\\text\w+\{\}|\\[&%$#_{}\\]|\$\\\w+arrow\$|\\\w+", "", body)
    assert not set(rest) & set("%#_~^\\<>|$")
    assert rest.count("{") == rest.count("}")


def test_names_with_line_breaks_and_bars_stay_in_their_cells():
    text = markdown([line("a|b\nc *d* `e` <f>", 0.2)])
    assert "| a\\|b c \\*d\\* \\`e\\` \\<f> | 0.200" in text
    assert latex([line("a\nb", 0.2)]).startswith("% voc, vgg: game\n")
    assert "\na b & " in latex([line("a\nb", 0.2)])


def test_records_say_how_many_pictures():
    (record,) = records([line("a", pictures=FEW - 1)])
    assert (record["pictures"], record["few"]) == (FEW - 1, True)


@pytest.mark.parametrize("width", [80, 81, 84, 88, 95])
def test_a_long_head_takes_no_room_from_numbers(width):
    """Of columns whose heads may be broken, the terminal's library would rather have cut the last one's cells."""
    measures = [
        Measure(name, mean("x"), percent=True) for name in ("energy", "energy, difficult", "energy above chance")
    ]
    values = {"energy": 0.776, "energy, difficult": math.nan, "energy above chance": 0.271}
    lines = [line(method, values[each.name], measure=each) for method in ("grad-cam", "gradient") for each in measures]
    shown = on_terminal(lines, width)
    assert shown.count("27.1 [17.1, 37.1]") == shown.count("77.6 [67.6, 87.6]") == 2
    assert max(map(len, shown.splitlines())) <= width


def test_nothing_is_less_than_nothing():
    assert grid([line("a", -1e-9, -2e-9, 0.0)]).cells == (("0.000 [0.000, 0.000]",),)
