"""Means with error bars: against loops, against known distributions, and where there is nothing to say."""

import math
from dataclasses import astuple

import numpy as np
import pytest

from sfumato.metrics import Measure
from sfumato.metrics import estimate as module
from sfumato.metrics.estimate import Selective, as_columns, estimated, mean, mean_of_classes

VALUE = Measure("value", mean("value"))


def rows_of(values, **more):
    names = list(more)
    return [
        {"value": value, **dict(zip(names, rest, strict=True))}
        for value, *rest in zip(values, *more.values(), strict=True)
    ]


def test_means_count_by_hand():
    rows = rows_of([1.0, 2.0, 6.0, math.nan], label=[0, 0, 1, 2], hard=[True, False, True, True])
    once = np.ones((1, 4))
    columns = as_columns(rows)
    assert mean("value")(columns, once) == pytest.approx([3.0])
    assert mean("value", "hard")(columns, once) == pytest.approx([3.5])
    assert mean_of_classes("value")(columns, once) == pytest.approx([3.75])  # of 1.5 and 6; class 2 has no value
    assert mean_of_classes("value", "hard")(columns, once) == pytest.approx([3.5])
    assert mean("value")(columns, np.array([[0, 3, 1, 9.0]])) == pytest.approx([3.0])
    assert mean_of_classes("value")(columns, np.array([[0, 0, 1.0, 0]])) == pytest.approx([6.0])


@pytest.mark.parametrize("where", [None, "hard"])
def test_means_are_those_of_loops(where):
    draw = np.random.default_rng(1)
    rows = rows_of(
        [math.nan if draw.random() < 0.2 else float(draw.normal()) for _ in range(60)],
        label=draw.choice(["cat", "dog", "owl", "yak"], 60).tolist(),
        hard=(draw.random(60) < 0.5).tolist(),
    )
    weights = draw.integers(0, 3, (20, 60)).astype(float)
    weights[0, [row["label"] == "owl" for row in rows]] = 0
    by_row, by_class = [], []
    for line in weights:
        drawn = [row for row, times in zip(rows, line, strict=True) for _ in range(int(times))]
        drawn = [row for row in drawn if not math.isnan(row["value"]) and (where is None or row[where])]
        by_row.append(sum(row["value"] for row in drawn) / len(drawn))
        means = []
        for label in {row["label"] for row in drawn}:
            own = [row["value"] for row in drawn if row["label"] == label]
            means.append(sum(own) / len(own))
        by_class.append(sum(means) / len(means))
    np.testing.assert_allclose(mean("value", where)(as_columns(rows), weights), by_row)
    np.testing.assert_allclose(mean_of_classes("value", where)(as_columns(rows), weights), by_class)


def test_where_nothing_is_known_the_answer_is_nan():
    rows = rows_of([math.nan, math.nan], label=[0, 1], picture=["a", "b"])
    for statistic in (mean("value"), mean_of_classes("value"), mean("value", "label")):
        found = estimated(Measure("value", statistic), rows)
        assert all(map(math.isnan, (found.value, found.low, found.high)))
        assert found.count == 0
    empty = estimated(VALUE, [])
    assert math.isnan(empty.value)
    assert empty.count == 0


def test_a_row_that_does_not_say_whether_it_is_difficult_is_not():
    rows = [{"value": 1.0, "hard": True}, {"value": 5.0}]
    assert estimated(Measure("value", mean("value", "hard")), rows).value == 1.0


def test_the_count_is_of_the_rows_that_it_rests_on():
    rows = rows_of([1.0, 2.0, math.nan, 4.0], hard=[True, True, True, False])
    assert estimated(VALUE, rows).count == 3
    assert estimated(Measure("hard", mean("value", "hard")), rows).count == 2
    assert isinstance(mean("value"), Selective)
    unselective = Measure("sum", lambda columns, weights: weights @ np.nan_to_num(columns["value"]))
    assert estimated(unselective, rows).count == 4


def test_one_picture_has_no_interval_and_says_its_value():
    found = estimated(VALUE, rows_of([1.0, 3.0], picture=["a", "a"]))
    assert found.value == 2.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_picture_is_drawn_with_all_its_rows():
    """Ten rows of one value for each picture say no more than one."""
    draw = np.random.default_rng(0)
    values, pictures = draw.normal(size=40), [f"picture {number}" for number in range(40)]
    once = estimated(VALUE, rows_of(values.tolist(), picture=pictures))
    often = estimated(VALUE, rows_of(np.repeat(values, 10).tolist(), picture=np.repeat(pictures, 10).tolist()))
    alone = estimated(VALUE, rows_of(np.repeat(values, 10).tolist()))
    assert often.value == pytest.approx(once.value)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert alone.high - alone.low < 0.5 * (once.high - once.low)


def test_every_resampling_draws_as_many_pictures_as_there_are():
    drawn = []
    pictures = list("abbcc")

    def statistic(columns, weights):
        drawn.append(weights)
        return weights.sum(1)

    estimated(Measure("all", statistic), rows_of([1.0] * 5, picture=pictures), resamples=200)
    weights = np.concatenate([each for each in drawn if len(each) > 1])
    assert weights.shape == (200, 5)
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()
    assert (weights[:, 1] == weights[:, 2]).all()
    assert (weights[:, 3] == weights[:, 4]).all()


def test_the_same_rows_give_the_same_interval_however_many_weights_are_held_at_once(monkeypatch):
    rows = rows_of(np.random.default_rng(3).normal(size=50).tolist(), label=[number % 7 for number in range(50)])
    measures = [VALUE, Measure("classes", mean_of_classes("value"))]
    expected = [estimated(measure, rows) for measure in measures]
    assert [estimated(measure, rows) for measure in measures] == expected
    monkeypatch.setattr(module, "WEIGHTS", 333)
    for measure, known in zip(measures, expected, strict=True):  # up to the order in which sums are taken
        assert astuple(estimated(measure, rows)) == pytest.approx(astuple(known), rel=1e-12)
    assert estimated(VALUE, rows, seed=1).low != expected[0].low


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    """Normal pictures with two rows each, that go together: 95 % intervals of 400 tables of 60 pictures."""
    draw = np.random.default_rng(5)
    names = [f"{number}" for number in range(60) for _ in range(2)]
    held = 0
    for table in range(400):
        values = np.repeat(draw.normal(1, 1, 60), 2) + draw.normal(0, 0.3, 120)
        found = estimated(VALUE, rows_of(values.tolist(), picture=names), resamples=300, seed=table)
        held += found.low <= 1 <= found.high
    # 3.5 standard deviations of a share of 400 around 95 %, which percentiles of few pictures stay a little below.
    assert 0.91 <= held / 400 <= 0.985


def test_the_interval_is_that_of_theory():
    values = np.random.default_rng(7).normal(size=900)
    found = estimated(VALUE, rows_of(values.tolist()), resamples=4000)
    half = 1.96 * values.std() / 30
    assert found.low == pytest.approx(values.mean() - half, abs=0.08 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.08 * half)


def test_paired_differences_draw_the_same_pictures_for_both():
    draw = np.random.default_rng(9)
    hard = draw.normal(0, 5, 80)
    names = [f"{number}" for number in range(80)]
    better = rows_of((hard + 1 + draw.normal(0, 0.1, 80)).tolist(), picture=names)
    worse = rows_of(hard.tolist(), picture=names)
    found = estimated(VALUE, better, worse)
    assert 0.9 < found.low < found.value < found.high < 1.1
    assert found.value == pytest.approx(estimated(VALUE, better).value - estimated(VALUE, worse).value)
    alone = estimated(VALUE, better)
    assert alone.high - alone.low > 10 * (found.high - found.low)
    same = estimated(VALUE, worse, worse)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    turned_round = estimated(VALUE, worse, better)
    assert (turned_round.low, turned_round.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize(
    "against",
    [
        rows_of([1.0, 2.0], picture=["b", "a"], label=[0, 1]),
        rows_of([1.0, 2.0], picture=["a", "b"], label=[0, 2]),
        rows_of([1.0, 2.0, 3.0], picture=["a", "b", "c"], label=[0, 1, 2]),
        [],
    ],
    ids=["order", "labels", "more", "none"],
)
def test_what_is_not_paired_is_refused(against):
    with pytest.raises(ValueError, match="paired"):
        estimated(VALUE, rows_of([1.0, 2.0], picture=["a", "b"], label=[0, 1]), against)


def test_lists_become_columns_with_an_axis_more_and_missing_ones_are_nan():
    columns = as_columns([{"x": [1.0, 2.0]}, {}, {"x": (3.0, 4.0), "y": True}])
    np.testing.assert_array_equal(columns["x"], [[1, 2], [math.nan] * 2, [3, 4]])
    np.testing.assert_array_equal(columns["y"], [math.nan, math.nan, 1])
    with pytest.raises(ValueError, match=r"'x': \[1, 2\]"):
        as_columns([{"x": [1.0]}, {"x": [1.0, 2.0]}])


@pytest.mark.slow
def test_large_tables_have_their_interval():
    draw = np.random.default_rng(0)
    rows = rows_of(draw.normal(size=100_000).tolist(), label=draw.integers(0, 1000, 100_000).tolist())
    found = estimated(Measure("classes", mean_of_classes("value")), rows)
    assert found.low < 0.02
    assert found.high > -0.02
