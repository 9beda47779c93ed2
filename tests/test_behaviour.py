"""Explanations as rules: hand-checked on toy networks whose answers to a change are known."""

import csv
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import typer
from factories import importable
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from sfumato import settings as configuration
from sfumato.behaviour import (
    Blurring,
    Brightness,
    Contrast,
    Flip,
    Invariance,
    Levels,
    Noisiness,
    Picture,
    Presence,
    Rotation,
    Scaling,
    Shift,
    Together,
    Watched,
    strongest,
)
from sfumato.behaviour.presence import best_threshold, roc_auc
from sfumato.behaviour.shares import pictures_needed, with_exact_bounds
from sfumato.behaviour.strongest import bisect
from sfumato.behaviour.transformations import TRANSFORMATIONS, Draw
from sfumato.behaviour.written_rules import parse_rule, read_rules
from sfumato.cli import bench_rules
from sfumato.metrics.estimate import Estimate, as_columns
from sfumato.model.effects import device_of
from sfumato.models import Classifier, Preparation

EACH = [
    Rotation(15),
    Shift(0.1),
    Scaling(0.2),
    Flip(),
    Blurring(2),
    Brightness(0.1),
    Contrast(0.3),
    Noisiness(0.05),
    Together(parts=(Rotation(10), Flip(), Noisiness(0.1))),
]


def name(value):
    return type(value).__name__


def test_a_model_is_where_its_parameters_or_buffers_are():
    model = nn.Module()
    assert device_of(model) == device_of(len) == torch.device("cpu")
    model.register_buffer("scale", torch.ones(1, device="meta"))
    assert device_of(model) == torch.device("meta")


def pictures(count, shape=(3, 12, 16), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [Picture(f"picture {index}", torch.rand(shape, generator=generator)) for index in range(count)]


GREY = Draw(torch.Generator(), Levels((0.0,), (1.0,)))


def means(inputs):
    """Logits: each channel's mean. The mean does not mind flips, nor turns of symmetric inputs."""
    return inputs.flatten(2).mean(2)


def corner(inputs):
    """Logits that a flip exchanges: the first and last place of the first row."""
    return torch.stack([inputs[:, 0].flatten(1)[:, 0], inputs[:, 0, 0, -1]], 1)


# transformations


@pytest.mark.parametrize("transformation", EACH, ids=name)
def test_no_strength_changes_nothing(transformation):
    x = pictures(1)[0].inputs[None]
    levels = Levels((0.4,) * 3, (0.6,) * 3)  # narrower than the input: what was beyond them stays
    none = transformation.at(0).__call__(x, Draw(torch.Generator().manual_seed(0), levels))
    assert torch.equal(none, x)


@pytest.mark.parametrize("transformation", EACH, ids=name)
def test_a_draw_depends_on_its_generator_alone_and_moves_the_input(transformation):
    x = pictures(1)[0].inputs[None]
    changed = [transformation(x, Draw(torch.Generator().manual_seed(seed))) for seed in (0, 0, 2)]
    assert changed[0].shape == x.shape
    assert torch.equal(changed[0], changed[1])
    assert not torch.equal(changed[0], x)
    assert torch.equal(changed[0], changed[2]) == (not transformation.drawn)


@pytest.mark.parametrize("transformation", EACH, ids=name)
def test_a_transformation_survives_json(transformation):
    told = json.loads(json.dumps(configuration.as_json(Invariance(transformation))))
    assert configuration.from_json(told) == Invariance(transformation)


def test_a_weaker_draw_is_the_same_change_only_weaker():
    x = torch.zeros(1, 1, 4, 4)
    full, half = (Brightness(s)(x, Draw(torch.Generator().manual_seed(3))) for s in (0.8, 0.4))
    assert torch.allclose(full, 2 * half)
    assert 0 < float(full.abs().max()) <= 0.8


def test_a_quarter_turn_is_a_permutation_of_a_square_and_agrees_with_the_linear_one():
    class Quarter(Draw):
        def either_way(self, count):
            return [1.0] * count

    x = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    turned_picture = Rotation(90)(x, Quarter(torch.Generator()))
    assert torch.allclose(turned_picture, x.rot90(1, (2, 3)), atol=1e-5)


def test_a_shift_is_at_most_its_fraction_and_exact():
    x = torch.arange(100.0).view(1, 1, 100)
    for seed in range(20):
        moved = Shift(0.1)(x, Draw(torch.Generator().manual_seed(seed)))
        distance = float(x[0, 0, 50] - moved[0, 0, 50])
        assert abs(distance) <= 10
        assert distance == int(distance)


def test_brightness_counts_from_black_to_white_and_stays_within():
    class Most(Draw):
        def either_way(self, count):
            return [1.0] * count

    levels = Levels((-2.0, -1.0), (2.0, 1.0))
    x = torch.tensor([0.0, 1.5, 0.0, 0.9]).view(1, 2, 1, 2)
    brighter = Brightness(0.25)(x, Most(torch.Generator(), levels))
    assert brighter.flatten().tolist() == pytest.approx([1.0, 2.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Rotation(-1), "strength is of Rotation, in degrees, at least 0; got -1"),
        (lambda: Rotation(181), "at most 180; got 181"),
        (lambda: Shift(math.nan), "strength is of Shift"),
        (lambda: Flip(0.5), "strength of Flip must be 1, or 0 for none; got 0.5"),
        (lambda: Together(parts=(Flip(),)), "at least two transformations"),
        (lambda: Rotation(5)(torch.zeros(1, 1, 8), Draw(torch.Generator())), "needs inputs with two or three axes of space"),
        (lambda: Brightness()(torch.zeros(1, 3, 2, 2), GREY), "Levels has 1 values for an input with 3 channels"),
        (lambda: Invariance(Flip(), epsilon=0), "epsilon is how large an error may be, more than 0; got 0"),
        (lambda: Invariance(Flip(), draws=0), "draws must be a whole number from 1 up"),
        (lambda: Invariance(Flip(), response="loss"), "response must be one of probability, sigmoid, logit, top1"),
        (lambda: Invariance(Flip(), target=True), "target must be a class index"),
        (lambda: Presence(0, "cat", learn=1.0), "learn is the share of pictures to learn from"),
        (lambda: Presence(0, "cat", threshold="high"), "threshold is in the response's units"),
    ],
)  # fmt: skip
def test_wrong_settings_say_what_is_right(make, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        make()


# invariances


def test_an_invariant_network_is_found_to_be_so():
    rule = Invariance(Flip(), epsilon=1e-5, response="logit")
    found = rule.tested(rule.rows(Watched(means, pictures(10))))
    assert found["change"].value == pytest.approx(0, abs=1e-6)
    assert found["top1"].value == 0
    assert found["top1"].high == pytest.approx(1 - 0.025 ** (1 / 10))  # ten pictures cannot say more
    assert rule.verdict(found["change"]) == "holds"


def test_the_probabilities_of_several_labels_are_each_their_own():
    shown = pictures(3)
    logits, alone, together = (
        torch.stack(list(Watched(means, shown, link=link).whole(response).values()))
        for link, response in (("auto", "logit"), ("sigmoid", "probability"), ("auto", "probability"))
    )
    torch.testing.assert_close(alone, logits.sigmoid())
    torch.testing.assert_close(together, logits.softmax(1))
    one = list(Watched(lambda x: means(x)[:, :1], shown, link="sigmoid").whole("probability").values())
    torch.testing.assert_close(torch.stack(one)[:, 0], logits[:, 0].sigmoid())
    with pytest.raises(ValueError, match="link must be one of auto, softmax, sigmoid; got 'tanh'"):
        Watched(means, shown, link="tanh")


def test_the_change_by_a_flip_is_that_of_the_exchanged_places():
    shown = pictures(8)
    rule = Invariance(Flip(), epsilon=0.3, response="logit", target=0)
    rows = rule.rows(Watched(corner, shown))
    changes = [abs(float(each.inputs[0, 0, 0] - each.inputs[0, 0, -1])) for each in shown]
    assert [row["change"] for row in rows] == pytest.approx(changes)
    assert [row["beyond"] for row in rows] == [float(change > 0.3) for change in changes]
    assert all(row["top1"] == 1 for row in rows)  # the greater of the two is now the other
    found = rule.tested(rows)
    assert found["change"].value == pytest.approx(np.mean(changes))
    assert found["beyond"].value == pytest.approx(np.mean([change > 0.3 for change in changes]))
    assert found["top1"].low == pytest.approx(0.025 ** (1 / 8))
    assert rule.verdict(found["change"]) in ("broken", "undecided")


def test_the_default_target_is_the_top_class_of_the_picture_as_it_is():
    shown = pictures(6)
    rows = Invariance(Flip()).rows(Watched(means, shown))
    assert [row["label"] for row in rows] == [int(means(each.inputs[None]).argmax()) for each in shown]
    assert [row["score"] for row in rows] == pytest.approx(
        [float(means(each.inputs[None]).softmax(1).max()) for each in shown]
    )


def test_rows_do_not_depend_on_order_or_batch_and_the_model_is_left_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in net.parameters():
            nn.init.normal_(parameter)
    net.train()
    shown = pictures(7)
    rule = Invariance(Together(parts=(Rotation(20), Noisiness(0.1))), draws=3)
    before = torch.random.get_rng_state()
    rows = rule.rows(Watched(net, shown, rows=16))
    assert rule.rows(Watched(net, shown, rows=16)) == rows
    other = {row["picture"]: row for row in rule.rows(Watched(net, shown[::-1], rows=1))}
    for row in rows:
        assert other[row["picture"]] == pytest.approx(row, abs=1e-6)
    assert all(row["change"] > 0 for row in rows)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert json.loads(json.dumps(rows)) == rows


def test_pictures_of_several_sizes_and_maps_for_outputs():
    shown = [
        Picture(str(size), torch.rand(2, size, size, generator=torch.Generator().manual_seed(size))) for size in (5, 8)
    ]
    rows = Invariance(Flip(), response="logit", target=1).rows(Watched(lambda x: x, shown))
    assert [row["score"] for row in rows] == pytest.approx([float(each.inputs[1].mean()) for each in shown])


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ([], "needs pictures"),
        ([Picture("a", torch.rand(3, 4, 4))] * 2, "two pictures are called 'a'"),
    ],
)
def test_pictures_that_cannot_be_watched(shown, said):
    with pytest.raises(ValueError, match=said):
        Invariance(Flip()).rows(Watched(means, shown))


def test_a_class_that_the_model_has_not():
    with pytest.raises(ValueError, match=r"target 3 is out of range: the model has 3 outputs"):
        Invariance(Flip(), target=3).rows(Watched(means, pictures(2)))


def test_answers_that_are_not_finite():
    with pytest.raises(ValueError, match="answers are not finite"):
        Invariance(Flip(), response="logit").rows(Watched(lambda x: means(x) / 0, pictures(2)))


# the strongest


def test_bisection_finds_where_the_bound_crosses_epsilon():
    tried = list(bisect(lambda s: Estimate(s, s, 1.25 * s, 9), epsilon=0.1, most=1.0, tolerance=0.01, count=30))
    held = max(look.strength for look in tried if look.holds)
    failed = min(look.strength for look in tried if not look.holds)
    assert held <= 0.08 < failed
    assert failed - held <= 0.01 * failed
    assert tried[0].strength == 1


def test_bisection_stops_where_the_strongest_holds_and_where_nothing_does():
    (only,) = bisect(lambda s: Estimate(0, 0, 0, 9), epsilon=0.1, most=2.0)
    assert only.strength == 2
    assert only.holds
    none = list(bisect(lambda s: Estimate(np.nan, np.nan, np.nan, 0), epsilon=0.1, most=2.0, count=5))
    assert [look.strength for look in none] == [2, 1, 0.5, 0.25, 0.125]
    assert not any(look.holds for look in none)


def ramps(count):
    """A row of 2000 places that rises by 1 from end to end."""
    return [Picture(str(index), torch.linspace(0, 1, 2000)[None]) for index in range(count)]


def test_the_strongest_shift_of_a_network_that_changes_linearly():
    """f reads the middle of a ramp: a shift by a fraction d changes it by d, one of up to s by s · |u|, u in [-1, 1)."""
    watched = Watched(lambda x: x[:, :, 1000], ramps(40))
    rule = Invariance(Shift(), epsilon=0.05, response="logit", target=0, draws=4)
    whole = rule.at(0.4)
    at_once = whole.tested(whole.rows(watched))["change"]
    known = 0.4 * 0.05 / at_once.high  # bounds are in proportion to strength, as changes are
    told = []
    found = strongest(rule, watched, most=0.4, tolerance=0.02, progress=told.append)
    assert found.strength <= known * 1.01
    assert found.strength == pytest.approx(known, rel=0.03)
    assert found.strength == pytest.approx(0.1, rel=0.25)  # twice ε, as |u| is a half on average
    assert found.fails == pytest.approx(known, rel=0.03)
    assert found.tested["change"].high <= 0.05
    assert found.rises
    assert [look.strength for look in found.curve] == sorted(look.strength for look in told)
    for look in found.curve:
        assert look.error.value == pytest.approx(look.strength / 0.4 * at_once.value, abs=0.001)


def test_a_flip_has_no_strength_to_search():
    found = strongest(Invariance(Flip(), epsilon=1e-5, response="logit"), Watched(means, pictures(3)))
    assert (found.strength, found.fails, len(found.curve)) == (1, None, 1)
    broken = strongest(Invariance(Flip(), epsilon=1e-5, response="logit", target=0), Watched(corner, pictures(3)))
    assert (broken.strength, broken.fails, broken.tested) == (0, 1, {})


@pytest.mark.slow
def test_an_answer_is_too_strong_as_seldom_as_its_bound_is_wrong():
    """Changes s · z with z exponential have the mean s: the strongest is ε, and the answer above it in few of many samples."""
    from sfumato.behaviour.invariance import Measure, estimated, mean

    generator = np.random.default_rng(0)
    measure = Measure("change", mean("change"))
    above, runs = 0, 200
    for _ in range(runs):
        z = generator.uniform(0, 2, 60)

        def error(s, z=z):
            return estimated(measure, [{"picture": i, "change": s * each} for i, each in enumerate(z)], resamples=300)

        tried = bisect(error, epsilon=0.1, most=1.0)
        above += max((look.strength for look in tried if look.holds), default=0) > 0.1
    assert above / runs <= 0.06  # 0.025, and three standard errors of 200 runs


# presence

SCORES = [("a", 0.9, True), ("b", 0.7, True), ("c", 0.3, True), ("d", 0.8, False),
          ("e", 0.2, False), ("f", 0.1, False), ("g", 0.3, False)]  # fmt: skip


def rows_of(scores):
    return [{"picture": name, "score": score, "present": present} for name, score, present in scores]


def test_a_rule_on_presence_by_hand():
    found = Presence(0, "cat", threshold=0.5).tested(rows_of(SCORES))
    assert found["error"].value == pytest.approx(2 / 7)  # c is missed, d is a false alarm
    assert found["false alarms"].value == pytest.approx(1 / 4)
    assert found["misses"].value == pytest.approx(1 / 3)
    assert found["balanced error"].value == pytest.approx((1 / 4 + 1 / 3) / 2)
    assert found["roc auc"].value == pytest.approx((4 + 3 + 2.5) / 12)  # c ties with g
    assert (found["error"].count, found["false alarms"].count, found["misses"].count) == (7, 4, 3)
    assert found["error"].low <= 2 / 7 <= found["error"].high


def test_the_weighted_auc_is_that_of_repeated_rows():
    weights = np.array([[1, 2, 0, 1, 3, 1, 1], [0, 1, 2, 2, 0, 0, 1]])
    found = roc_auc(as_columns(rows_of(SCORES)), weights.astype(float))
    for weight, value in zip(weights, found, strict=True):
        repeated = [row for row, times in zip(SCORES, weight, strict=True) for _ in range(times)]
        pairs = [(p, n) for _, p, yes in repeated if yes for _, n, no in repeated if not no]
        assert value == pytest.approx(np.mean([(p > n) + (p == n) / 2 for p, n in pairs]))


def test_a_perfect_rule_is_not_called_certain():
    perfect = [(str(i), float(i), i >= 4) for i in range(10)]
    found = Presence(0, "cat", threshold=3.5).tested(rows_of(perfect))
    assert found["error"].value == 0
    assert found["error"].high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert found["false alarms"].high == pytest.approx(1 - 0.025 ** (1 / 4))
    assert found["balanced error"].high == pytest.approx((2 - 0.025 ** (1 / 4) - 0.025 ** (1 / 6)) / 2)
    alone = Presence(0, "cat", threshold=0.5).tested(rows_of([("a", 1.0, True), ("b", 0.0, False), ("c", 0.1, False)]))
    assert (alone["misses"].low, alone["misses"].high) == (0, pytest.approx(0.975))
    assert pictures_needed(0.05) == 72
    assert with_exact_bounds(Estimate(0.0, 0.0, 0.0, 72), 72).high <= 0.05
    assert with_exact_bounds(Estimate(0.0, 0.0, 0.0, 71), 71).high > 0.05
    assert with_exact_bounds(Estimate(0.5, 0.4, 0.6, 10), 10) == Estimate(0.5, 0.4, 0.6, 10)


def test_what_is_learnt_is_tested_on_other_pictures():
    scores = [(f"{i}", i / 40, i >= 20) for i in range(40)]
    rows = rows_of(scores)
    rule, unseen = Presence(0, "cat").learnt(rows)
    assert len(unseen) == 20
    assert sum(row["present"] for row in unseen) == 10
    seen = [row for row in rows if row not in unseen]
    below = max(row["score"] for row in seen if not row["present"])
    above = min(row["score"] for row in seen if row["present"])
    assert rule.threshold == pytest.approx((below + above) / 2)
    assert Presence(0, "cat").learnt(rows[::-1])[0] == rule  # whatever the order
    assert Presence(0, "cat", seed=1).learnt(rows)[1] != unseen
    given, all_of_them = Presence(0, "cat", threshold=0.4).learnt(rows)
    assert (given.threshold, all_of_them) == (0.4, rows)


def test_the_learnt_threshold_has_the_least_balanced_error():
    generator = np.random.default_rng(0)
    for _ in range(20):
        present = np.arange(30) < 6
        score = generator.normal(size=30).round(1) + present

        def wrong(t, score=score, present=present):
            return (score > t)[~present].mean() + (score <= t)[present].mean()

        candidates = np.linspace(score.min(), score.max(), 2001)
        assert wrong(best_threshold(score, present)) <= min(map(wrong, candidates)) + 1e-9


def test_presence_reads_the_network_and_passes_over_what_is_doubtful():
    shown = [
        Picture("cat", torch.tensor([2.0, 0.0]).view(2, 1, 1), frozenset({"cat"})),
        Picture("dog", torch.tensor([0.0, 1.0]).view(2, 1, 1), frozenset({"dog"})),
        Picture("?", torch.tensor([0.0, 1.0]).view(2, 1, 1), frozenset({"dog"}), frozenset({"cat"})),
    ]
    watched = Watched(means, shown)
    assert Presence(0, "cat", response="logit").rows(watched) == [
        {"picture": "cat", "score": 2.0, "present": True},
        {"picture": "dog", "score": 0.0, "present": False},
    ]
    probability = Presence(0, "cat").rows(watched)
    assert probability[0]["score"] == pytest.approx(1 / (1 + math.exp(-2)))
    first = Presence(0, "cat", response="top1")
    rule, rows = first.learnt(first.rows(watched))
    assert ([row["score"] for row in rows], rule.threshold) == ([1, 0], 0.5)


def test_presence_says_what_it_lacks():
    shown = [Picture(str(i), torch.rand(2, 1, 1), frozenset({"cat"})) for i in range(3)]
    with pytest.raises(ValueError, match="with it and without; 3 of 3 have it"):
        Presence(0, "cat").rows(Watched(means, shown))
    with pytest.raises(ValueError, match="1 picture with 'cat' cannot be parted"):
        Presence(0, "cat").learnt(rows_of([("a", 1.0, True), ("b", 0.0, False), ("c", 0.0, False)]))
    with pytest.raises(ValueError, match="use the rule that learnt"):
        Presence(0, "cat").tested(rows_of(SCORES))


# as people write them


def test_rules_are_read_as_they_are_written():
    assert parse_rule("rotation:15").transformation == Rotation(15)
    assert parse_rule(" Blur : 2 ").transformation == Blurring(2)
    assert parse_rule("shift:0.1+flip").transformation == Together(parts=(Shift(0.1), Flip()))
    texts = ("rotation", "rotation:5", "flip", "shift+flip")
    assert [parse_rule(text).has_strength for text in texts] == [False, True, True, True]
    assert [parse_rule(text).has_search for text in ("rotation", "flip", "shift+flip")] == [True, False, True]
    assert [parse_rule(text, {"strongest": False}).has_search for text in ("rotation", "rotation:5")] == [True, False]
    rule = parse_rule("presence:table lamp=lamp>0.25", {"epsilon": 0.1, "learn": 0.3})
    assert (rule.model_class, rule.data_class, rule.settings) == (
        "table lamp",
        "lamp",
        {"learn": 0.3, "threshold": 0.25},
    )
    assert all(parse_rule(text).transformation == make() for text, make in TRANSFORMATIONS.items())


def test_classes_of_model_and_data_are_matched():
    labels = ("tabby, tabby cat", "table lamp")
    assert parse_rule("presence:tabby").presence(labels, ["dog", "Tabby_cat"]).label == "Tabby_cat"
    assert parse_rule("presence:lamp=dog").presence(labels, ["dog", "x"]) == Presence(1, "dog")
    assert parse_rule("rotation", {"target": "lamp"}).invariance(labels).target == 1
    with pytest.raises(ValueError, match="the data set has no class 'tabby'; did you mean taby.*presence:tabby=NAME"):
        parse_rule("presence:tabby").presence(labels, ["taby", "dog"])
    with pytest.raises(ValueError, match="needs to know what is in the pictures"):
        parse_rule("presence:tabby").presence(labels, [])


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("rotaton:15", {}, "no rule 'rotaton'; did you mean rotation\\?; expected one of presence, rotation, shift"),
        ("rotation:far", {}, "'far' is no number"),
        ("rotation:200", {}, "at most 180; got 200"),
        ("flip+", {}, "no rule ''"),
        ("presence:", {}, "names no class"),
        ("presence:cat=", {}, "names no class"),
        ("presence:cat>much", {}, "'much' is no number"),
        ("rotation:5", {"epsilon": -1}, "epsilon is"),
        ("rotation:5", {"most": 1000}, "at most 180; got 1000"),
        ("rotation:5", {"target": 1.5}, "target must be a class, by index or label"),
        ("presence:cat", {"response": "loss"}, "response must be one of"),
    ],
)
def test_a_rule_that_cannot_be_meant(text, settings, said):
    with pytest.raises(ValueError, match=said):
        parse_rule(text, settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epsilom = 1\n[[rule]]\nrule = 'flip'", "line 1, epsilom: no setting 'epsilom'; did you mean epsilon"),
        ("[[rule]]\nrule = 'flip'\n\n[[rule]]\nrule = 'flip'\ndraw = 2", "line 6, draw: an invariance has no setting 'draw'"),
        ("[[rule]]\nrule = 'flip'\ndraws = 0", "line 3, draws: draws must be a whole number"),
        ("[[rule]]\nrule = 'flop'", "line 2, rule: no rule 'flop'; did you mean flip"),
        ("[[rule]]\nepsilon = 1", "line 1, rule: rule must be a text such as"),
        ("most = 3\n[[rule]]\nrule = 'flip'", "line 1, most: no setting 'most'"),
        ("[[rule]]\nrule = 'presence:cat'\nepsilon = 0.1", "line 3, epsilon: a rule on presence has no setting"),
        ("epsilon = 0.1", "there are no rules"),
        ("rule = ", "expected TOML"),
    ],
)  # fmt: skip
def test_a_file_of_rules_names_the_line_and_the_key(tmp_path, text, said):
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        read_rules(tmp_path / "rules.toml", {})
    assert "rules.toml" in str(error.value)


# the command


class Toy(nn.Module):
    """Logits of red, green and blue: the means of the channels' left halves."""

    def forward(self, inputs):
        return 4 * inputs[..., :16].mean((2, 3))


def classifier():
    return Classifier("toy", Toy(), Preparation(32, 32), ("red, crimson", "green", "blue"))


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Pictures of red and blue, and the toy's factory on the path."""
    importable(monkeypatch, tmp_path, "toy_for_rules", __name__)
    monkeypatch.chdir(tmp_path)
    for colour, shade in (("crimson", (200, 30, 30)), ("blue", (30, 30, 200))):
        (tmp_path / "pictures" / colour).mkdir(parents=True)
        for index in range(6):
            lit = tuple(min(255, value + 7 * index) for value in shade)
            Image.new("RGB", (40, 40), lit).save(tmp_path / "pictures" / colour / f"{index}.png")
    return tmp_path


def run(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(bench_rules.rules)
    return CliRunner().invoke(app, ["--model", "toy_for_rules:classifier", *map(str, arguments)])


def test_the_command_asks_each_of_several_labels_alone(folder, monkeypatch):
    rules = ["pictures", "--rule", "brightness:0.1", "--target", "0", "--draws", "2"]
    found = {}
    for name, more in (("softmax", []), ("sigmoid", ["--response", "sigmoid"])):
        assert run(*rules, *more, "--out", name).exit_code == 0
        found[name] = json.loads((folder / name / "rules.json").read_text())["rules"][0]["tested"]["change"]
    monkeypatch.setattr(sys.modules["toy_for_rules"], "classifier", lambda: replace(classifier(), multi_label=True))
    assert run(*rules, "--out", "tags").exit_code == 0
    assert json.loads((folder / "tags" / "rules.json").read_text())["rules"][0]["tested"]["change"] == found["sigmoid"]
    assert found["softmax"] != found["sigmoid"]


def test_the_command_tests_rules_and_writes_what_it_found(folder):
    done = run("pictures", "--rule", "flip", "--rule", "presence:red", "--rule", "brightness:0.1", "--epsilon", "0.02",
               "--draws", "2", "--out", "found")  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads((folder / "found" / "rules.json").read_text())
    assert (told["model"], told["pictures"], told["unreadable"]) == ("toy", 12, 0)
    flip, presence, brightness = told["rules"]
    assert flip["verdict"] == "holds"  # the pictures are of one colour
    assert flip["tested"]["change"]["value"] == pytest.approx(0, abs=1e-6)
    assert "strongest" not in flip
    assert presence["settings"]["label"] == "crimson"
    assert presence["tested"]["error"]["value"] == 0
    assert presence["pictures"] == 6  # the other six taught the threshold
    assert 0 < brightness["strongest"]["strength"] < 1
    assert (
        brightness["strongest"]["tested"]["change"]["high"]
        <= 0.02
        < max(look["high"] for look in brightness["strongest"]["curve"])
    )
    with (folder / "found" / "rules.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    curve = [line for line in lines if line["part"] == "curve"]
    assert len(curve) == len(brightness["strongest"]["curve"])
    assert {line["rule"] for line in lines} == {"flip", "presence:red", "brightness:0.1"}
    with (folder / "found" / "pictures.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["picture"] for row in rows if row["rule"] == "flip"] == sorted(
        f"{colour}/{index}.png" for colour in ("blue", "crimson") for index in range(6)
    )
    assert "holds, ε 0.02" in done.stdout
    assert "3 results in found" in done.stdout


def test_too_few_pictures_for_a_share_are_called_so(folder):
    done = run("pictures", "--rule", "flip", "--rule", "shift:0.1", "--response", "top1", "--out", "found")
    assert done.exit_code == 0, done.output
    assert "undecided, ε 0.05" in done.stdout
    assert "To show a share of at most 0.05 takes at least 72 pictures; there are 12" in " ".join(done.stdout.split())
    assert all("strongest" not in told for told in json.loads((folder / "found" / "rules.json").read_text())["rules"])
    alone = run("pictures", "--rule", "shift", "--response", "top1", "--out", "found")
    assert alone.exit_code == 2
    assert "rule 'shift': to show a share of at most 0.05 takes at least 72 pictures" in alone.stderr


def test_a_search_alone_has_no_rows_of_pictures(folder):
    (folder / "found").mkdir()
    (folder / "found" / "pictures.csv").write_text("of an earlier run")
    done = run("pictures", "--rule", "brightness", "--draws", "1", "--out", "found")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (folder / "found").iterdir()) == ["rules.csv", "rules.json"]
    (told,) = json.loads((folder / "found" / "rules.json").read_text())["rules"]
    assert set(told) == {"rule", "settings", "strongest"}


def test_a_file_says_rules_and_data(folder):
    (folder / "rules.toml").write_text(
        'epsilon = 0.01\nstrongest = false\n[data]\nuse = "Folder"\npath = "pictures"\n'
        '[[rule]]\nrule = "shift:0.2"\n[[rule]]\nrule = "presence:blue>0.5"\n'
    )
    done = run("--file", "rules.toml", "--sample", "7", "--out", "found")
    assert done.exit_code == 0, done.output
    shift, presence = json.loads((folder / "found" / "rules.json").read_text())["rules"]
    assert shift["settings"]["epsilon"] == 0.01
    assert (shift["pictures"], presence["pictures"]) == (7, 7)
    assert presence["settings"]["threshold"] == 0.5


def test_paths_within_a_file_begin_at_it(folder):
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "rules.toml").write_text(
        '[data]\nuse = "Subset"\nfirst = 5\n[data.data]\nuse = "Folder"\npath = "../pictures"\n[[rule]]\nrule = "flip"\n'
    )
    done = run("--file", "elsewhere/rules.toml", "--out", "found")
    assert done.exit_code == 0, done.output
    assert json.loads((folder / "found" / "rules.json").read_text())["pictures"] == 5


def test_a_broken_picture_is_reported_once_and_the_rest_is_tested(folder):
    (folder / "pictures" / "blue" / "broken.png").write_bytes(b"not a picture")
    done = run("pictures", "--rule", "flip", "--rule", "rotation:5", "--out", "found")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert "broken.png" in line
    assert json.loads((folder / "found" / "rules.json").read_text())["unreadable"] == 1


def test_a_rule_that_cannot_be_tested_leaves_the_others(folder):
    done = run("pictures", "--rule", "presence:red", "--learn", "0.01", "--rule", "flip", "--out", "found")
    assert done.exit_code == 1
    assert "6 pictures with 'crimson' cannot be parted" in done.stderr
    assert sorted(path.name for path in (folder / "found").iterdir()) == ["pictures.csv", "rules.csv", "rules.json"]
    (only,) = json.loads((folder / "found" / "rules.json").read_text())["rules"]
    assert only["rule"] == "flip"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pictures"], "there is no rule to test; expected e.g. --rule rotation:15"),
        (["--rule", "flip"], "there are no pictures; name a folder"),
        (["absent", "--rule", "flip"], "no folder 'absent'"),
        (["pictures/blue", "--rule", "presence:red"], "needs to know what is in the pictures"),
        (["pictures", "--rule", "presence:purple"], "no class is called 'purple'"),
        (["pictures", "--rule", "presence:green"], "the data set has no class 'green'; it has blue, crimson"),
        (["pictures", "--rule", "flop"], "no rule 'flop'; did you mean flip?"),
        (["pictures", "--rule", "flip", "--target", "purple"], "no class is called 'purple'"),
        (["pictures", "--rule", "flip", "--epsilon", "-1"], "epsilon is how large an error may be"),
        (["pictures", "--rule", "flip", "--response", "loss"], "response must be one of"),
        (["pictures", "--rule", "flip", "--file", "absent.toml"], "cannot read 'absent.toml'"),
        (["pictures", "--rule", "flip", "--out", "toy_for_rules.py"], "there is a file of that name"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(folder, arguments, said):
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert said in line
