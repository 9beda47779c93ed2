"""Intervals that hold what they say: of shares, of few pictures and of very many; and which methods they leave undecided."""

import math
import tracemalloc
import weakref
from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pytest

from sfumato.metrics import Measure
from sfumato.metrics import estimate as module
from sfumato.metrics.estimate import FEW, Estimate, estimated, estimates, estimates_of, mean, mean_of_classes
from sfumato.metrics.intervals import Z, effective, levels, paired_shares, wilson
from sfumato.metrics.undecided import aligned, undecided, undecided_by
from sfumato.metrics.weak_localisation import TunedError, tunes

SHARE = Measure("hits", mean("hit"), percent=True)
CLASSES = Measure("all", mean_of_classes("hit"), percent=True)
VALUE = Measure("value", mean("value"))
LESS = Measure("less", mean("value"), higher_is_better=False)


def hits(*values, each=1, labels=2):
    """A row a value, `each` rows a picture."""
    return [
        {"hit": value, "picture": f"{index // each:04}", "label": index % labels} for index, value in enumerate(values)
    ]


# Shares


@pytest.mark.parametrize("count", [5, 12, 40])
@pytest.mark.parametrize("share", [0.03, 0.2, 0.5, 0.9])
def test_wilson_s_interval_is_where_the_normal_approximation_is_within_its_bounds(count, share):
    """Its bounds are the shares p with |found - p| = z sqrt(p (1 - p) / n); on average it holds the share as it says."""
    for number in range(count + 1):
        for bound in wilson(number / count, count):
            if 0 < bound < 1:
                distance = Z * math.sqrt(bound * (1 - bound) / count)
                assert abs(number / count - bound) == pytest.approx(distance, rel=1e-9)
    held = sum(
        math.comb(count, number) * share**number * (1 - share) ** (count - number)
        for number in range(count + 1)
        if (low := wilson(number / count, count))[0] <= share <= low[1]
    )
    assert held > 0.83  # percentiles of the bootstrap hold a share of .03 in .14 of the tables of five


def test_no_hit_in_thirty_is_not_known_to_the_digit():
    none, every = (estimated(SHARE, hits(*[value] * 30)) for value in (False, True))
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(Z**2 / (30 + Z**2))  # .11
    assert (every.value, every.high) == (1, 1)
    assert every.low == pytest.approx(1 - none.high)
    some = estimated(SHARE, hits(*[True] * 12, *[False] * 18))
    assert (some.low, some.high) == pytest.approx(wilson(0.4, 30))


@pytest.mark.parametrize("kind", [bool, int, float])
def test_hits_are_known_however_they_are_stored(kind):
    found = estimated(SHARE, hits(*map(kind, [True, False] * 10)))
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 20))
    missing = estimated(SHARE, [*hits(*map(kind, [True, False] * 10)), {"hit": None, "picture": "x", "label": 0}])
    assert astuple(missing) == pytest.approx(astuple(found))


def test_rows_of_one_picture_count_as_what_they_are():
    """Ten pictures with three rows each: alike they are ten hits or none, independent of each other thirty."""
    alike = estimated(SHARE, hits(*np.repeat([1, 0, 1, 1, 0, 0, 1, 0, 1, 1], 3).tolist(), each=3))
    assert (alike.low, alike.high) == pytest.approx(wilson(0.6, 10))
    assert (alike.count, alike.pictures) == (30, 10)
    apart = estimated(SHARE, hits(*[1, 0, 1] * 10, each=3))
    assert (apart.low, apart.high) == pytest.approx(wilson(2 / 3, 30))
    nothing = estimated(SHARE, hits(*[0] * 30, each=3))
    assert (nothing.low, nothing.high) == pytest.approx(wilson(0, 10))
    unequal = [{"hit": 0, "picture": name} for name in "aaaaaaaabc"]  # nearly one picture
    assert estimated(SHARE, unequal).high == pytest.approx(wilson(0, 100 / 66)[1])


def test_the_effective_number_of_rows_is_that_of_the_variance():
    """Of pictures with beta-distributed shares: the variance of the mean over many tables, against that of single rows."""
    draw = np.random.default_rng(0)
    of = np.repeat(np.arange(50), 4)
    weights = np.full(200, 1 / 200)
    means, counts = [], []
    for _ in range(400):
        hit = (draw.random(200) < draw.beta(1, 2, 50)[of]).astype(float)
        means.append(hit.mean())
        counts.append(effective(hit.mean() * (1 - hit.mean()), weights, hit - hit.mean(), of))
    expected = (1 / 3) * (2 / 3) / np.var(means)
    assert np.mean(counts) == pytest.approx(expected, rel=0.15)  # the variance of 400 tables is known to 7 %


def test_the_mean_of_classes_without_a_hit_is_not_known_either():
    found = estimated(CLASSES, hits(*[False] * 30, labels=3))
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(wilson(0, 30)[1])
    uneven = [{"hit": 0, "label": label, "picture": str(index)} for index, label in enumerate([0] * 28 + [1] * 2)]
    assert estimated(CLASSES, uneven).high == pytest.approx(wilson(0, 4 / (1 / 28 + 1 / 2))[1])


def test_what_is_localised_nowhere_is_not_known_either():
    rows = [{"value": [0.1, 0.2], "picture": str(index)} for index in range(40)]
    held_out = sum(not tunes(str(index)) for index in range(40))
    error = Measure("error", TunedError("value", 0.5), higher_is_better=False, percent=True)
    found = estimated(error, rows)
    assert (found.value, found.count, found.high) == (1, held_out, 1)
    assert found.low == pytest.approx(wilson(1, held_out)[0])


def test_numbers_that_are_no_hits_keep_their_interval():
    """A column of one number alone is known to the digit, unless it is a share."""
    constant = [{"value": 1.0, "picture": str(index)} for index in range(20)]
    found = estimated(VALUE, constant)
    assert (found.low, found.high) == (1, 1)
    assert estimated(Measure("area", mean("value"), percent=True), constant).low < 1


def test_paired_shares_by_hand():
    one, other = [1] * 6 + [0] * 24, [1] * 2 + [0] * 28
    found = estimated(SHARE, hits(*one), hits(*other))
    p, q, n = 5 / 32, 1 / 32, 32  # one more of each kind of difference
    half = Z * math.sqrt((p + q - (p - q) ** 2) / n)
    assert (found.value, found.low, found.high) == pytest.approx((4 / 30, p - q - half, p - q + half))
    assert not found.settled  # by the exact test of McNemar, p = .125
    assert estimated(SHARE, hits(*[1] * 8, *[0] * 22), hits(*other)).settled  # p = .03
    same = estimated(SHARE, hits(*one), hits(*one))
    assert (same.value, same.low, same.high) == pytest.approx((0, -same.high, paired_shares(0, 0, 30)[1]))
    opposite = estimated(SHARE, hits(*[1] * 30), hits(*[0] * 30))
    assert (opposite.value, opposite.high) == (1, 1)
    assert 0.7 < opposite.low < 1


# Few pictures


def test_the_interval_of_few_pictures_holds_the_mean():
    """Of six normal pictures; percentiles alone hold it in .86."""
    draw = np.random.default_rng(6)
    held = 0
    for table in range(600):
        found = estimates_of([VALUE], {"value": draw.normal(1, 1, 6)}, resamples=400, seed=table)[0]
        held += found.low <= 1 <= found.high
    assert 0.89 <= held / 600 <= 0.96  # .92 in simulations of 2000, with 2.7 standard deviations


def test_levels_move_out_for_few_pictures_and_are_the_usual_ones_for_many():
    lows = [levels(count)[0] for count in (2, 5, 10, 20, 50, 200, 10**6)]
    assert all(first < second for first, second in pairwise(lows))
    assert lows[0] >= 0
    assert lows[-1] == pytest.approx(2.5, abs=1e-3)
    assert all(sum(levels(count)) == pytest.approx(100) for count in (2, 7, 1000))


def test_few_is_counted_in_pictures():
    rows = [{"value": float(index % 7), "picture": str(index // 20)} for index in range(20 * (FEW - 1))]
    found = estimated(VALUE, rows)
    assert (found.count, found.pictures, found.few) == (20 * (FEW - 1), FEW - 1, True)
    assert not estimated(VALUE, [*rows, {"value": 1.0, "picture": "x"}]).few
    of_some = estimated(Measure("some", mean("value", "hard")), [row | {"hard": row["picture"] < "3"} for row in rows])
    assert (of_some.count, of_some.pictures) == (60, 3)
    assert Estimate(0.5, 0.4, 0.6, 12).pictures == 12  # where it is not said, each row is a picture


def test_what_rests_on_one_picture_has_no_interval():
    rows = [{"value": float(index), "picture": str(index), "hard": index == 3} for index in range(20)]
    found = estimated(Measure("hard", mean("value", "hard")), rows)
    assert (found.value, found.pictures) == (3, 1)
    assert math.isnan(found.low)
    assert not found.settled


# Pairs


def test_a_row_whose_partner_is_unknown_is_no_pair():
    one = [{"value": float(index), "other": 1.0, "picture": str(index)} for index in range(20)]
    two = [row | ({"value": math.nan} if index % 4 == 0 else {}) for index, row in enumerate(one)]
    both = [VALUE, Measure("other", mean("other"))]
    for first, second in ((one, two), (two, one)):
        difference, complete = estimates(both, first, second)
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)
        assert (difference.count, difference.pictures) == (15, 15)
        assert complete.count == 20
    nothing = estimated(VALUE, one, [row | {"value": math.nan} for row in one])
    assert math.isnan(nothing.value)
    assert nothing.count == 0


# Columns and large tables


def test_columns_give_what_rows_do_and_pictures_may_be_numbers():
    draw = np.random.default_rng(3)
    value, hit, label, picture = (
        draw.normal(size=90),
        draw.random(90) < 0.4,
        draw.integers(0, 4, 90),
        np.arange(90) // 2,
    )
    names = np.array([f"{number:03}.jpg" for number in picture])
    measures = [VALUE, SHARE, CLASSES, Measure("classes", mean_of_classes("value"))]
    columns = {"value": value, "hit": hit, "label": label}
    rows = [
        {"value": float(a), "hit": bool(b), "label": int(c), "picture": str(d)}
        for a, b, c, d in zip(value, hit, label, names, strict=True)
    ]
    expected = estimates(measures, rows)
    for pictures in (names, picture, 10**12 + 7 * picture, picture - 500):
        found = estimates_of(measures, {**columns, "picture": pictures})
        for one, other in zip(found, expected, strict=True):
            assert astuple(one) == pytest.approx(astuple(other), rel=1e-12)
    assert [found.count for found in estimates_of(measures, {})] == [0] * 4


def large_table(pictures, seed=0):
    """Pictures with one to three rows, that go together."""
    draw = np.random.default_rng(seed)
    picture = np.repeat(np.arange(pictures), draw.integers(1, 4, pictures))
    count = len(picture)
    effect = draw.normal(size=pictures)[picture]
    return {
        "picture": picture,
        "label": draw.integers(0, 20, count),
        "value": effect + draw.exponential(size=count),
        "weight": 1 + draw.random(count),
        "hard": draw.random(count) < 0.2,
        "rare": picture < 300,
        "hit": effect + draw.normal(size=count) > 0.5,
        "tuning": picture % 2 == 0,
        "overlap": np.clip((0.45 + 0.1 * effect + draw.normal(0, 0.1, count))[:, None] - [0.1, 0.02, 0, 0.05], 0, 1),
    }


def ratio(columns, weights):
    return (weights @ columns["value"]) / (weights @ columns["weight"])


LARGE_MEASURES = [
    VALUE,
    Measure("classes", mean_of_classes("value")),
    Measure("hard", mean("value", "hard")),
    Measure("rare", mean("value", "rare")),
    CLASSES,
    Measure("ratio", ratio),
    Measure("error", TunedError("overlap", 0.5), higher_is_better=False, percent=True),
]


@pytest.mark.parametrize("paired", [False, True])
def test_large_tables_have_the_intervals_of_the_bootstrap(monkeypatch, paired):
    """On a middle-sized table, to which both ways are open."""
    columns = large_table(4000)
    noise = np.random.default_rng(1)
    against = None
    if paired:
        against = columns | {
            "value": columns["value"] * noise.normal(0.9, 0.2, len(columns["value"])),
            "overlap": np.clip(columns["overlap"] + noise.normal(0, 0.05, columns["overlap"].shape), 0, 1),
            "hit": columns["hit"] ^ (noise.random(len(columns["hit"])) < 0.1),
        }
    expected = estimates_of(LARGE_MEASURES, columns, against)
    monkeypatch.setattr(module, "LARGE", 1000)
    found = estimates_of(LARGE_MEASURES, columns, against)
    for measure, one, other in zip(LARGE_MEASURES, found, expected, strict=True):
        width = other.high - other.low
        assert (one.value, one.count, one.pictures) == (other.value, other.count, other.pictures)
        # A thousand resamplings know each bound to about 4 % of the width.
        assert one.low == pytest.approx(other.low, abs=0.15 * width), measure.name
        assert one.high == pytest.approx(other.high, abs=0.15 * width), measure.name


def test_bags_draw_as_many_pictures_as_the_table_has(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1000)
    columns = large_table(2000)
    drawn = []

    def statistic(some, weights):
        if len(weights) > 1:
            _, first = np.unique(some["picture"], return_index=True)
            drawn.extend(weights[:, first].sum(1))
            assert len(first) == round(2000**0.7)
        return weights @ some["value"] / weights.sum(1)

    found = estimates_of([Measure("own", statistic)], columns)[0]
    assert set(drawn) == {2000}
    assert len(drawn) == 1000
    assert found.low < found.value < found.high


def test_nothing_is_known_to_the_digit_in_large_tables_either(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1000)
    columns = large_table(2000)
    count = len(columns["hit"])
    nowhere = columns | {"hit": np.zeros(count, bool), "overlap": np.zeros((count, 4))}
    hit, classes, error = estimates_of([SHARE, CLASSES, LARGE_MEASURES[-1]], nowhere)
    assert hit.high == pytest.approx(wilson(0, count**2 / (np.bincount(columns["picture"]) ** 2).sum())[1])
    assert 0 < hit.high <= classes.high < 1.1 * hit.high
    assert (error.value, error.high) == (1, 1)
    assert 0.99 < error.low < 1


def test_small_tables_are_resampled_whole():
    """None of what is for large tables changes them."""
    columns = large_table(60)
    for measure in (VALUE, Measure("classes", mean_of_classes("value"))):
        found = estimates_of([measure], columns)[0]
        drawn = np.concatenate(
            [measure.statistic(columns, weights) for weights in module._resampled(columns["picture"], 60, 1000, 0)]
        )
        assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, levels(60))))


@pytest.mark.slow
def test_a_million_pictures_need_little_memory():
    draw = np.random.default_rng(0)
    columns = {
        "picture": np.arange(10**6),
        "label": draw.integers(0, 1000, 10**6),
        "value": draw.normal(size=10**6),
        "weight": 1 + draw.random(10**6),
        "hit": draw.random(10**6) < 0.3,
    }
    tracemalloc.start()
    try:
        found = estimates_of([VALUE, CLASSES, Measure("ratio", ratio)], columns)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300e6
    assert found[0].high - found[0].low == pytest.approx(2 * Z / 1000, rel=0.01)
    assert found[1].high - found[1].low == pytest.approx(2 * Z * math.sqrt(0.21) / 1000, rel=0.02)


# Undecided


def table(values, pictures=None, **more):
    pictures = np.arange(len(values)) if pictures is None else pictures
    return {"value": np.asarray(values, float), "picture": np.asarray(pictures), **more}


def test_all_that_are_not_settled_worse_are_undecided():
    """Pictures differ much more than methods do: only pairs can tell."""
    draw = np.random.default_rng(0)
    hard = draw.normal(0, 5, 60)
    methods = {
        "best": table(hard + 1),
        "near": table(hard + 1 + draw.normal(-0.02, 0.5, 60)),
        "worse": table(hard + 0.5 + draw.normal(0, 0.3, 60)),
        "unknown": table(np.full(60, math.nan)),
        "empty": {},
    }
    assert undecided(VALUE, methods) == {"best", "near"}
    assert undecided(LESS, methods) == {"worse"}
    assert undecided_by([VALUE, LESS], methods) == [undecided(VALUE, methods), undecided(LESS, methods)]
    assert undecided(VALUE, {"best": methods["best"], "empty": {}}) == frozenset()


def test_two_methods_are_held_at_a_time():
    """Columns may be read when they are asked for, as those of a large table."""

    alive = weakref.WeakSet()

    class Held(dict):
        __hash__ = object.__hash__

    class Reading(dict):
        def __getitem__(self, method):
            assert len(alive) < 2
            columns = Held(table(np.random.default_rng(len(method)).normal(len(method), 1, 50)))
            alive.add(columns)
            return columns

    methods = Reading.fromkeys(["a", "bb", "ccc", "dddddd"])
    assert undecided_by([VALUE, LESS], methods) == [{"dddddd"}, {"a"}]


def test_pairs_are_found_by_picture_and_label_whatever_their_order():
    draw = np.random.default_rng(1)
    hard, label = draw.normal(0, 5, 60), np.arange(60) % 2
    order = draw.permutation(60)[:40]
    best = table(hard + 1, np.arange(60) // 2, label=label)
    worse = table((hard + 0.5 + draw.normal(0, 0.3, 60))[order], (np.arange(60) // 2)[order], label=label[order])
    one, other = aligned(best, worse)
    assert len(one["value"]) == 40
    np.testing.assert_array_equal(one["picture"], other["picture"])
    np.testing.assert_array_equal(one["label"], other["label"])
    assert undecided(VALUE, {"best": best, "worse": worse}) == {"best"}


def test_where_rows_are_no_pairs_intervals_are_set_side_by_side():
    draw = np.random.default_rng(2)
    near, far = draw.normal(1, 1, 50), draw.normal(-2, 1, 50)
    best = table(draw.normal(1.1, 1, 50))
    for pictures in (np.arange(100, 150), np.arange(50) % 25):  # others; two rows of one picture, of no label
        found = undecided(VALUE, {"best": best, "near": table(near, pictures), "far": table(far, pictures)})
        assert found == {"best", "near"}
        assert aligned(best, table(near, pictures)) is None


def test_nothing_is_settled_on_few_pictures():
    values = np.arange(FEW - 1)
    assert undecided(VALUE, {"a": table(values + 5), "b": table(values)}) == {"a", "b"}
    values = np.arange(FEW)
    assert undecided(VALUE, {"a": table(values + 5), "b": table(values)}) == {"a"}


def test_a_difference_that_is_not_known_is_a_dash():
    assert Measure("a", mean("x")).signed(Estimate(np.nan, np.nan, np.nan, 0)) == ("–", "–")


@pytest.mark.parametrize("statistic", [mean("value"), mean_of_classes("value")], ids=["mean", "classes"])
def test_what_is_infinite_has_no_interval_and_settles_nothing(statistic, recwarn):
    measure = Measure("value", statistic)
    values = np.where(np.arange(20) % 5 == 0, np.inf, 1.0)
    columns = {"value": values, "label": np.arange(20) % 2, "picture": np.arange(20)}
    one = estimates_of([measure], columns)[0]
    assert (one.value, np.isnan(one.low), one.settled) == (np.inf, True, False)
    for other in (values, np.ones(20)):
        difference = estimates_of([measure], columns, {**columns, "value": other})[0]
        assert not difference.settled
        assert np.isnan(difference.low)
    weights = np.where(np.isinf(values), 0.0, 1.0)[None]
    assert np.isnan(statistic(columns, weights)[0])  # 0 times infinite, and not 0
    assert not recwarn.list
