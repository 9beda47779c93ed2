"""What is explained: a class of one output, of several labels, or of a softmax; rows; and numbers that are none."""

import gc
import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from networks import PATHS
from torch import nn

from sfumato import (
    RISE,
    Cells,
    Constant,
    Contrastive,
    EvolutionAscent,
    ExtremalChannels,
    ExtremalPerturbation,
    Fade,
    GradCAM,
    Gradient,
    GridMask,
    GuidedBackprop,
    Jitter,
    LevelSet,
    Logit,
    LogOdds,
    MeaningfulPerturbation,
    Output,
    Probability,
    Score,
    Sigmoid,
    SmoothMask,
    captum,
    load,
    methods,
    smallest,
)
from sfumato.behaviour import Picture, Watched
from sfumato.games import DUAL, PRESERVE
from sfumato.metrics import Accuracy, DeletionGame, InsertionDeletion
from sfumato.metrics.case import Case
from sfumato.model.evaluate import Evaluation
from sfumato.model.subject import Subject
from sfumato.models import Classifier, Preparation
from sfumato.scores import OF_A_CLASS, OfClass, differing, link_of, probabilities, quantity, top_class
from sfumato.settings import as_json, from_json
from sfumato.space.jitter import Move

SETTINGS = {
    "ExtremalPerturbation": {"areas": (0.3,), "steps": 3, "mask": SmoothMask(step=3, sigma=6)},
    "ExtremalOrder": {"areas": (0.3,), "steps": 3, "mask": LevelSet(3, 3)},
    "MeaningfulPerturbation": {"steps": 3, "mask": GridMask(scale=3, sigma=2)},
    **dict.fromkeys(("IGOS", "IGOSPlus"), PATHS),
    "RISE": {"samples": 24, "cells": 3},
    "Captum": {"name": "Saliency"},
    "ExtremalChannels": {"layer": "0", "counts": (2,), "steps": 3},
    "Sobol": {"designs": 4, "cells": 2},
    "HSIC": {"samples": 24, "cells": 2},
    "GreedyOrder": {"regions": Cells(2)},
    "GradCAM": {"layer": "0"},
    "LayerCAM": {"layer": "0"},
    "ScoreCAM": {"layer": "0"},
    "LinearApproximation": {"layer": "0"},
    "ExcitationBackprop": {"layer": "0"},
    "ContrastiveExcitationBackprop": {"layer": "0"},
}


def every_method():
    for name in methods.__all__:
        marks = [pytest.mark.skipif(not _has_captum(), reason="captum is not installed")] if name == "Captum" else []
        yield pytest.param(getattr(methods, name)(**SETTINGS.get(name, {})), id=name, marks=marks)


def _has_captum():
    try:
        import captum.attr  # noqa: F401
    except ImportError:
        return False
    return True


EVERY = list(every_method())


def network(outputs, head=nn.Identity):
    """A small one whose logits lie far enough from 0 that what is made of them differs."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, outputs),
            head(),
        )
    with torch.no_grad():
        net[4].weight.mul_(6)
    return net.eval()


def pictures(count=2):
    return torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(0))[:count].clone()


def logits(net, inputs=None):
    with torch.no_grad():
        return net(pictures() if inputs is None else inputs).double()


def of(score, outputs):
    """The scores of outputs, one query a row."""
    return score(outputs, torch.arange(len(outputs))).tolist()


Z = torch.tensor([[2.0], [-1.0]])
"""Outputs of a model that has one."""
P = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))]


class TestOneOutput:
    """Class 0 is the output, class 1 its complement, wherever a class is meant."""

    @pytest.mark.parametrize(
        ("score", "expected"),
        [
            (Probability(0), P),
            (Probability(1), [1 - P[0], 1 - P[1]]),
            (Probability(0, link="sigmoid"), P),
            (Sigmoid(0), P),
            (Sigmoid(1), [1 - P[0], 1 - P[1]]),
            (Sigmoid([0, 1]), [P[0], 1 - P[1]]),
            (LogOdds(0), [2, -1]),
            (LogOdds(1), [-2, 1]),
            (Logit(0), [2, -1]),
            (-Logit(0), [-2, 1]),
            (Contrastive(0), [2, -1]),
            (Contrastive(1), [-2, 1]),
            (Contrastive([0, 1], against=[1, 0]), [2, 1]),
            (Logit(0) + 2 * Probability(1), [2 + 2 * (1 - P[0]), -1 + 2 * (1 - P[1])]),
        ],
        ids=str,
    )
    def test_values(self, score, expected):
        assert of(score, Z) == pytest.approx(expected, rel=1e-5)

    def test_a_map_of_one_output_counts_by_its_mean(self):
        places = torch.tensor([2.0, -1.0]).view(1, 1, 1, 2)
        assert of(Probability(0), places) == pytest.approx([sum(P) / 2])
        assert of(Probability(1), places) == pytest.approx([1 - sum(P) / 2])
        assert of(LogOdds(1), places) == pytest.approx([-0.5])

    def test_certain_outputs_stay_exact(self):
        """`1 - sigmoid(z)` would be 0 for what float32 can tell: the complement is computed by itself."""
        sure = torch.tensor([[40.0]])
        assert of(Sigmoid(1), sure)[0] == pytest.approx(math.exp(-40), rel=1e-4)
        assert of(Probability(1), torch.tensor([[torch.inf]])) == [0]

    @pytest.mark.parametrize(
        ("score", "says"),
        [
            (Logit(1), r"class 1 its complement\. For the complement write targets=-Logit\(0\), Probability\(1\)"),
            (Logit(2), "target 2 is out of range: the model has one output per input"),
            (Probability(2), "target 2 is out of range: the model has one output per input"),
            (Contrastive(0, against=2), "target 2 is out of range: the model has one output per input"),
            (Probability(0, link="softmax"), "is 1 whatever the input"),
            (LogOdds(0, link="softmax"), "is 1 whatever the input"),
        ],
        ids=str,
    )
    def test_what_there_is_not_is_refused(self, score, says):
        with pytest.raises(ValueError, match=says):
            of(score, Z)

    @pytest.mark.parametrize("method", EVERY)
    @pytest.mark.parametrize(
        ("meaning", "target"), [("probability", 0), ("probability", 1), ("log-odds", 1), ("logit", 0)]
    )
    def test_every_method_explains_the_same(self, method, meaning, target):
        net = network(1)
        z = logits(net)[:, 0]
        sign = 1 - 2 * target
        expected = {"probability": (sign * z).sigmoid(), "log-odds": sign * z, "logit": z}[meaning]
        result = replace(method, score=meaning)(net, pictures(), target)
        torch.testing.assert_close(result.whole.double(), expected, rtol=1e-4, atol=1e-5)
        assert result.map.isfinite().all()
        assert result.about["score"].get("link", "sigmoid") == "sigmoid"
        assert from_json(result.about["method"]).score == meaning

    def test_masks_change_the_probability(self):
        """It was 1 whatever the mask."""
        net = network(1)
        for method in (RISE(samples=64, cells=3), MeaningfulPerturbation(steps=3, mask=GridMask(scale=3, sigma=2))):
            assert method(net, pictures(), 0).map.flatten(1).std(1).min() > 1e-4
        found = ExtremalPerturbation(areas=(0.3,), steps=3, score="probability", mask=SmoothMask(3, 6))(
            net, pictures(), 0
        )
        assert (found.scores[:, 0] - found.complements[:, 0]).abs().min() > 1e-4

    def test_log_odds_of_an_answer_with_the_whole_and_the_smallest_area(self):
        """Both said that the score was infinite, or found that nothing is needed."""
        net = network(1)
        target = int(logits(net)[0, 0] < 0)
        method = ExtremalPerturbation(steps=3, score="log-odds", mask=SmoothMask(3, 6))
        assert method(net, pictures(1), target).whole[0] == pytest.approx(abs(float(logits(net)[0, 0])), rel=1e-4)
        found = smallest(replace(method, perturbation=Fade()), net, pictures(1), target, keep=0.9, tolerance=0.3)
        assert found.wanted[0] == pytest.approx(0.9 * abs(float(logits(net)[0, 0])), rel=1e-4)

    def test_accuracy_ranks_the_two_classes(self):
        for value, target, rank in ((2.0, 0, 1), (2.0, 1, 2), (-2.0, 0, 2), (-2.0, 1, 1)):
            row = Accuracy().measure(case(lambda x, value=value: torch.full((len(x), 1), value), target))
            assert (row["rank"], row["first"]) == (rank, rank == 1)
        with pytest.raises(ValueError, match="target 2 is out of range"):
            Accuracy().measure(case(lambda x: torch.zeros(len(x), 1), 2))

    def test_protocols_use_the_sigmoid(self):
        net = network(1)
        z = float(logits(net)[0, 0])
        row = InsertionDeletion(steps=2).measure(case(net, 0))
        assert row["whole"] == pytest.approx(1 / (1 + math.exp(-z)), rel=1e-4)
        row = DeletionGame().measure(case(net, 1))
        assert row["whole"] == pytest.approx(1 / (1 + math.exp(z)), rel=1e-4)
        assert DeletionGame(score="logit").measure(case(net, 0))["whole"] == pytest.approx(z, rel=1e-4)

    def test_behaviour_sees_two_classes(self):
        net = network(1)
        watched = Watched(net, [Picture("a", pictures()[0]), Picture("b", pictures()[1])])
        for response in ("probability", "sigmoid", "top1"):
            answers = torch.stack(list(watched.whole(response).values()))
            expected = torch.cat([logits(net).sigmoid(), (-logits(net)).sigmoid()], 1)
            torch.testing.assert_close(answers.double(), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(torch.stack(list(watched.whole("logit").values())).double(), logits(net))

    def test_a_table_of_probabilities(self):
        assert probabilities(Z).flatten().tolist() == pytest.approx(P)
        assert top_class(probabilities(Z)[1]) == 0


def case(net, target, inputs=None):
    inputs = pictures(1) if inputs is None else inputs
    result = Gradient()(network(3), pictures(1), 0)
    return Case(result, model=net, inputs=inputs, target=target)


class TestSeveralLabels:
    """Heads with a yes or no for each class."""

    Y = torch.tensor([[2.0, 1.0, -1.0], [0.5, -3.0, 4.0]])

    @pytest.mark.parametrize("score", [Sigmoid(1), Probability(1, link="sigmoid")], ids=str)
    def test_a_class_s_own_sigmoid(self, score):
        assert of(score, self.Y) == pytest.approx(self.Y[:, 1].sigmoid().tolist())

    def test_log_odds_are_the_logit(self):
        assert of(LogOdds([0, 2], link="sigmoid"), self.Y) == [2, 4]

    def test_by_default_the_softmax(self):
        softmax = self.Y.softmax(1)[:, 1].tolist()
        assert of(Probability(1), self.Y) == of(Probability(1, link="softmax"), self.Y) == pytest.approx(softmax)
        p = self.Y.double().softmax(1)[:, 1]
        assert of(LogOdds(1), self.Y) == pytest.approx((p / (1 - p)).log().tolist(), rel=1e-4)

    @pytest.mark.parametrize("method", EVERY)
    def test_every_method_can_be_told(self, method):
        net = network(3)
        result = replace(method, score="sigmoid")(net, pictures(), 2)
        torch.testing.assert_close(result.whole.double(), logits(net)[:, 2].sigmoid(), rtol=1e-4, atol=1e-5)
        assert result.about["score"] == {"class": "sfumato:Sigmoid", "target": 2}

    @pytest.mark.parametrize("method", EVERY)
    def test_the_result_says_which_was_used(self, method, tmp_path):
        for outputs, link in ((3, "softmax"), (1, "sigmoid")):
            result = method(network(outputs), pictures(), Logit(0) * 0.5 + Probability(0))
            result.save(tmp_path / "result.safetensors")
            assert '"auto"' not in str(result.about["score"]).replace("'", '"')
            assert load(tmp_path / "result.safetensors").about["score"]["terms"][1][1]["link"] == link
        result = method(network(3), pictures(), Probability(0, link="sigmoid"))
        assert result.about["score"]["link"] == "sigmoid"

    def test_files_from_before_load(self):
        assert from_json({"class": "sfumato.scores:Probability", "target": 3}) == Probability(3)
        assert from_json({"class": "sfumato.scores:LogOdds", "target": [1, 2]}) == LogOdds((1, 2))
        assert from_json(as_json(Probability(3, link="sigmoid"))) == Probability(3, link="sigmoid")
        assert from_json(as_json(RISE())) == RISE()

    def test_an_unknown_link_is_refused(self):
        with pytest.raises(ValueError, match="link must be one of auto, softmax, sigmoid; got 'logistic'"):
            Probability(0, link="logistic")
        assert (link_of("auto", 1), link_of("auto", 2), link_of("sigmoid", 5)) == ("sigmoid", "softmax", "sigmoid")

    def test_behaviour_can_be_told(self):
        net = network(3)
        answers = torch.stack(list(Watched(net, [Picture("a", pictures()[0])]).whole("sigmoid").values()))
        torch.testing.assert_close(answers.double(), logits(net, pictures(1)).sigmoid(), rtol=1e-4, atol=1e-6)


class TestOneQuantity:
    """A class index means one quantity in one comparison, or the comparison says otherwise."""

    @pytest.mark.parametrize("method", EVERY)
    @pytest.mark.parametrize("meaning", OF_A_CLASS)
    def test_every_method_has_the_setting(self, method, meaning):
        net = network(3)
        expected = of(OF_A_CLASS[meaning](1), logits(net))
        result = replace(method, score=meaning)(net, pictures(), 1)
        assert result.whole.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)

    @pytest.mark.parametrize("method", EVERY)
    def test_an_unknown_meaning_is_refused(self, method):
        with pytest.raises(
            ValueError, match="score must be one of logit, probability, log-odds, sigmoid; got 'chance'"
        ):
            replace(method, score="chance")

    def test_defaults_are_as_published(self):
        published = dict.fromkeys(
            ("ExtremalOrder", "RISE", "MeaningfulPerturbation", "IGOS", "IGOSPlus", "GreedyOrder", "ScoreCAM"),
            "probability",
        )
        assert {name: getattr(methods, name).score for name in methods.__all__} == {
            name: published.get(name, "logit") for name in methods.__all__
        }

    def test_the_map_follows_the_setting(self):
        net, inputs = network(3), pictures(1)
        for method in (
            Gradient(score="probability"),
            GradCAM(layer="0", score="probability"),
            GuidedBackprop(score="probability"),
        ):
            expected = replace(method, score="logit")(net, inputs, Probability(1)).map
            torch.testing.assert_close(method(net, inputs, 1).map, expected)

    def test_quantities_in_words(self):
        assert [
            quantity(as_json(score))
            for score in (Logit(0), Sigmoid(0), LogOdds(0), Contrastive(0), -Logit(0), Output(len))
        ] == [
            "logit",
            "sigmoid probability",
            "log-odds",
            "contrast with a rival",
            "sum of scores",
            "function of the outputs",
        ]
        assert quantity(as_json(Probability(0, "softmax"))) == "softmax probability"
        assert quantity(as_json(Probability(0, "sigmoid"))) == quantity(as_json(Sigmoid(0)))
        assert quantity(as_json(LogOdds(0, "sigmoid"))) == "logit", "it is the same number"
        assert differing({"a": "logit", "b": "logit"}) == ""
        assert differing({"a": "logit", "b": "probability"}).endswith("a the logit, b the probability.")


class Twice(nn.Module):
    """Answers with other rows than it is asked for."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = network(4), change

    def forward(self, inputs):
        return self.change(self.net(inputs))


ROWS = {
    "two for each": (lambda outputs: torch.cat([outputs, -outputs]), r"outputs\[:len\(outputs\) // 2, 3\]"),
    "time first": (lambda outputs: outputs[None].expand(5, -1, -1), r"outputs\.mean\(0\)\[:, 3\]"),
    "one for all": (lambda outputs: outputs.mean(0, keepdim=True), "answer each input of a batch by itself"),
}


class TestRows:
    @pytest.mark.parametrize("rows", ["two for each", "time first"])
    @pytest.mark.parametrize("method", EVERY)
    @pytest.mark.parametrize(
        "score", [0, Contrastive(0), Probability(0), LogOdds(0), Sigmoid(0), captum.Entry(((0,),))], ids=str
    )
    def test_other_rows_are_refused_with_a_line_to_write(self, method, rows, score):
        change, line = ROWS[rows]
        model = Twice(change)
        method = replace(method, layer="net.0") if getattr(method, "layer", "") else method
        with pytest.raises(ValueError, match=rf"of shape \(\d.*\) for \d inputs?, not one row for each; .*{line}"):
            method(model, pictures(3), score)

    def test_the_line_works(self):
        inputs = pictures(3)
        expected = Gradient()(network(4), inputs, 3)
        for rows, pick in (
            ("two for each", lambda outputs: outputs[: len(outputs) // 2, 3]),
            ("time first", lambda outputs: outputs.mean(0)[:, 3]),
        ):
            result = Gradient()(Twice(ROWS[rows][0]), inputs, Output(pick))
            torch.testing.assert_close(result.whole, expected.whole)
            torch.testing.assert_close(result.map, expected.map)

    def test_a_function_of_other_rows(self):
        """It is the model that has other rows, not the function that is wrong."""
        with pytest.raises(
            ValueError, match=r"of shape \(6, 4\) for 3 inputs, not one row for each; .*len\(outputs\) // 2, 3"
        ):
            Output(lambda outputs: outputs[:, 3])(torch.zeros(6, 4), torch.arange(3))
        with pytest.raises(ValueError, match="a score function must return one number per evaluation"):
            Output(lambda outputs: outputs)(torch.zeros(3, 4), torch.arange(3))

    def test_a_score_of_one_s_own_with_other_rows(self):
        """Only functions were looked at, not classes: `(N, 1)` spread over the batch, `(2N,)` was cut or failed later."""

        class Column(Score):
            def __call__(self, outputs, query):
                return outputs[:, 3:]

        with pytest.raises(
            ValueError, match=r"must return one number per evaluation, a tensor of shape \(\d,\); got shape \(\d, 1\)"
        ):
            Gradient()(network(4), pictures(3), Column())
        with pytest.raises(ValueError, match="for 1 input, not one row for each"):
            RISE(samples=8, cells=3)(Twice(ROWS["two for each"][0]), pictures(1), Column())

    def test_one_row_for_a_batch(self):
        with pytest.raises(
            ValueError, match=r"of shape \(1, 4\) for 3 inputs, .* answer each input of a batch by itself"
        ):
            Logit(0)(torch.zeros(1, 4), torch.arange(3))

    def test_protocols_behaviour_and_classifiers(self):
        model = Twice(ROWS["two for each"][0])
        says = r"for 1 input, not one row for each"
        with pytest.raises(ValueError, match=says):
            Accuracy().measure(case(model, 0))
        with pytest.raises(ValueError, match=says):
            Watched(model, [Picture("a", pictures()[0])]).whole("probability")
        with pytest.raises(ValueError, match=says):
            Classifier("twice", model, Preparation(), ("a", "b", "c", "d")).logits(pictures(1))


def undefined_where_blank(inputs):
    """Divides by the deviation, as a normalisation without an epsilon does: a constant picture has none."""
    return torch.stack(
        [(inputs - inputs.mean((2, 3), keepdim=True)).div(inputs.std((2, 3), keepdim=True)).amax((1, 2, 3))] * 2, 1
    )


MASKED = {
    "extremal": ExtremalPerturbation(areas=(0.3,), steps=2, perturbation=Fade(), mask=SmoothMask(3, 6), jitter=None),
    "evolution": ExtremalPerturbation(
        areas=(0.3,), steps=2, perturbation=Fade(), mask=SmoothMask(3, 6), ascent=EvolutionAscent(pairs=1)
    ),
    "channels": ExtremalChannels(layer="0", counts=(1,), steps=2),
    "meaningful": MeaningfulPerturbation(steps=2, perturbation=Constant(0.5), mask=GridMask(scale=3, sigma=2)),
    "rise": RISE(samples=64, cells=3, keep=0.05),
}


class TestNumbers:
    @pytest.mark.parametrize("name", MASKED)
    def test_a_blank_input_without_a_score_is_named(self, name):
        model = nn.Sequential(nn.Identity(), Function(undefined_where_blank))
        shown = r"0\.33" if name == "channels" else "none"  # a channel that is hidden is constant already
        with pytest.raises(
            ValueError, match=f"the score of a masked input is not finite: nan for input 0, with {shown} of it shown"
        ):
            MASKED[name](model, pictures(1), 0)

    def test_the_input_and_how_much_of_it_was_shown(self):
        inputs = torch.stack([torch.ones(1, 8, 8), torch.full((1, 8, 8), 2.0)])

        def model(seen):
            """Undefined for the second input between a fifth and two fifths of its brightness."""
            mean = seen.mean((1, 2, 3))
            return torch.where((mean > 0.4) & (mean < 0.8), torch.nan, mean)[:, None].expand(-1, 2)

        with Subject.prepared(model, inputs, 0) as subject:
            evaluation = Evaluation(subject, (Fade()(subject.inputs),), torch.tensor([0, 1]), 2)
            masks = torch.full((2, 1, 8, 8), 0.3)
            with pytest.raises(ValueError, match=r"nan for input 1, with 0\.3 of it shown"):
                evaluation.scores(masks)

    def test_a_gradient_that_is_none(self):
        """The square root's slope at 0 is infinite, which the chain makes NaN: the map was NaN without a word."""

        def model(inputs):
            return (inputs - inputs).abs().sqrt().flatten(1).sum(1, keepdim=True).expand(-1, 2) + 1

        for method in (Gradient(), methods.LinearApproximation(layer="input")):
            with pytest.raises(ValueError, match="the signal that flows back from the score is not finite"):
                method(model, pictures(1), 0)

    def test_the_whole_input_s_score(self):
        for method in (Gradient(), RISE(samples=8, cells=3), MASKED["extremal"]):
            with pytest.raises(
                ValueError, match="the score of the whole inputs is not finite: nan for input 1; check the model"
            ):
                method(
                    lambda x: (
                        x.mean((1, 2, 3))[:, None] * torch.where(x[:, :1, 0, 0] > 3, torch.nan, 1.0).expand(-1, 2)
                    ),
                    two(),
                    0,
                )

    def test_the_dual_game_keeps_one_graph_at_a_time(self):
        """At once the two passes would keep twice what `memory` allows."""
        net, inputs = network(2), pictures(1)
        peaks = {}
        for name, game in (("preserve", PRESERVE), ("dual", DUAL)):
            with Subject.prepared(net, inputs, 0) as subject:
                evaluation = Evaluation(subject, (Fade()(subject.inputs),), torch.zeros(4, dtype=torch.long), 4)
                masks = torch.full((4, 1, 12, 10), 0.4)
                with Kept() as kept:
                    values, gradients = evaluation.gradients(masks, game, Move())
                peaks[name] = kept.peak
                leaf = masks.clone().requires_grad_()
                value = net(inputs * leaf)[:, 0] - game.drop * net(inputs * (1 - leaf))[:, 0]
                (expected,) = torch.autograd.grad(value.sum(), leaf)
                torch.testing.assert_close(values, value.detach(), rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)
        assert peaks["preserve"] > 0
        assert peaks["dual"] < 1.2 * peaks["preserve"]  # the sign's change of the mask is a little more

    @pytest.mark.parametrize(
        ("values", "target", "row"),
        [
            ([math.nan] * 3, 0, {"rank": 3, "first": False, "in_five": False, "nan": 3}),
            ([math.nan], 0, {"rank": 2, "first": False, "in_five": False, "nan": 1}),
            ([1.0, math.nan, 0.0], 0, {"rank": 2, "first": False, "in_five": True, "nan": 1}),
            ([1.0, 2.0, 3.0], 0, {"rank": 3, "first": False, "in_five": True, "nan": 0}),
            ([-math.inf, 2.0, math.inf], 2, {"rank": 1, "first": True, "in_five": True, "nan": 0}),
            ([1.0, 1.0, 0.0], 1, {"rank": 1, "first": True, "in_five": True, "nan": 0}),
            ([5.0, 4.0, 3.0, 2.0, 1.0, 0.0], 4, {"rank": 5, "first": False, "in_five": True, "nan": 0}),
            ([5.0, 4.0, 3.0, 2.0, 1.0, 0.0], 5, {"rank": 6, "first": False, "in_five": False, "nan": 0}),
        ],
    )
    def test_accuracy_of_what_is_no_number(self, values, target, row):
        assert Accuracy().measure(case(lambda x: torch.tensor([values]).expand(len(x), -1), target)) == row

    def test_no_class_comes_first_among_nan(self):
        with pytest.raises(ValueError, match="1 of the model's 3 outputs are NaN, so that no class comes first"):
            top_class(torch.tensor([0.0, math.nan, 1.0]))
        assert top_class(torch.tensor([0.0, 3.0, -math.inf])) == 1

    def test_masked_classes(self):
        """Minus infinity for classes that cannot be: they have no probability, and take part in no contrast."""
        outputs = torch.tensor([[1.0, 0.0, -math.inf]], requires_grad=True)
        query = torch.tensor([0])
        for score, expected in (
            (Probability(0), 1 / (1 + math.exp(-1))),
            (Probability(2), 0.0),
            (Sigmoid(2), 0.0),
            (LogOdds(0), 1.0),
            (Contrastive(0), 1.0),
        ):
            value = score(outputs, query)
            assert value.item() == pytest.approx(expected)
            (slope,) = torch.autograd.grad(value, outputs)
            assert slope.isfinite().all()

    @pytest.mark.parametrize(
        "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
    )
    def test_other_types(self, dtype):
        """In float16 the sum of the exponentials of 60000 would overflow; integers have no softmax of their own."""
        large = 60000.0 if dtype == torch.float16 else 1.0
        outputs = torch.tensor([[large, 0.0, large]]).to(dtype)
        assert of(LogOdds(0), outputs) == pytest.approx(
            [0.0 if dtype == torch.float16 else -math.log1p(math.exp(-1))], abs=1e-2
        )
        assert of(Probability(0), outputs) == pytest.approx(
            [0.5 if dtype == torch.float16 else math.e / (2 * math.e + 1)]
        )
        assert of(Contrastive(1), outputs) == pytest.approx([-large], rel=1e-2)

    def test_sparse_and_quantised_outputs(self):
        dense = torch.tensor([[0.0, 2.0, 0.0]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such tensors are on their way out
            quantised = torch.quantize_per_tensor(dense, 0.5, 0, torch.qint8)
        for outputs in (dense.to_sparse(), quantised):
            assert of(Logit(1), outputs) == [2]
            assert of(Probability(1), outputs) == pytest.approx(dense.softmax(1)[:, 1].tolist())

    def test_complex_outputs_are_refused(self):
        with pytest.raises(ValueError, match=r"complex numbers .*, which have no order; .*outputs\[:, 281\]\.abs\(\)"):
            of(Logit(0), torch.zeros(1, 3, dtype=torch.complex64))

    def test_many_classes(self):
        outputs = torch.zeros(1, 300_000)
        outputs[0, 299_999] = 20
        assert of(Probability(299_999), outputs)[0] == pytest.approx(1 / (1 + 299_999 * math.exp(-20)), rel=1e-4)
        with pytest.raises(
            ValueError, match=r"target 300000 is out of range: the model has 300000 outputs \(0 to 299999\)"
        ):
            of(Logit(300_000), outputs)
        with pytest.raises(ValueError, match="is out of range"):
            of(Logit(2**70), outputs)

    def test_the_smallest_area_where_the_blank_input_has_the_score(self):
        def bright(inputs):
            return inputs.mean((1, 2, 3))[:, None].expand(-1, 2) + 20

        method = ExtremalPerturbation(steps=2, perturbation=Fade(), mask=SmoothMask(3, 6), jitter=None)
        found = smallest(method, bright, torch.ones(1, 1, 12, 12), 0, tolerance=0.2)
        assert (found.reached.item(), found.blank_suffices.item(), found[0].blank_suffices.item()) == (True, True, True)
        dark = smallest(method, lambda x: bright(x) - 20, torch.ones(1, 1, 12, 12), 0, tolerance=0.2)
        assert (dark.reached.item(), dark.blank_suffices.item()) == (True, False)


def two():
    """Two inputs, of which the second begins with a large value."""
    inputs = pictures(2).clamp(-2, 2)
    inputs[1, :, 0, 0] = 4
    return inputs


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function(inputs)


class Kept:
    """How many bytes graphs keep for their backward passes, at the most."""

    class Box:
        def __init__(self, tensor, count):
            self.tensor, self.count = tensor, count
            count(tensor.nbytes)

        def __del__(self):
            self.count(-self.tensor.nbytes)

    def __init__(self):
        self.now = self.peak = 0

    def _count(self, size):
        self.now += size
        self.peak = max(self.peak, self.now)

    def __enter__(self):
        gc.collect()
        self.hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: self.Box(tensor.detach(), self._count), lambda box: box.tensor
        )
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)


class TestTargets:
    @pytest.mark.parametrize(
        "target",
        [
            np.int64(2),
            np.array(2, np.uint8),
            [np.int32(2), np.int64(2)],
            (torch.tensor(2), 2),
            np.array([2, 2]),
            torch.tensor([2, 2], dtype=torch.uint8),
            range(2, 3).__class__(2, 4, 1),
        ],
        ids=repr,
    )
    def test_integers_of_any_kind(self, target):
        score = Logit(target)
        assert score.target in (2, (2, 2), (2, 3))
        assert all(
            type(index) is int for index in (score.target if isinstance(score.target, tuple) else (score.target,))
        )
        assert from_json(as_json(score)) == score
        assert Gradient()(network(4), pictures(), score).map.isfinite().all()

    @pytest.mark.parametrize(
        "target", [True, [np.True_], [torch.tensor(True)], [1.0], [np.float64(1)], b"1", ["1"], -1, [np.int64(-1)]]
    )
    def test_others_are_refused(self, target):
        with pytest.raises(ValueError, match="target"):
            Logit(target)

    def test_a_score_of_one_s_own(self):
        """Written before scores could be resolved, or from the base of those of a class."""

        @dataclass(frozen=True)
        class Margin(Score):
            over: float

            def __call__(self, outputs, query):
                return outputs[:, 0] - self.over

        class Squared(OfClass):
            def __call__(self, outputs, query):
                return outputs.gather(1, self.column(outputs, query))[:, 0] ** 2

        net = network(3)
        for score, expected in (
            (Margin(0.5), logits(net)[:, 0] - 0.5),
            (Squared([1, 2]), logits(net)[[0, 1], [1, 2]] ** 2),
        ):
            result = Gradient()(net, pictures(), score)
            torch.testing.assert_close(result.whole.double(), expected, rtol=1e-4, atol=1e-5)
            total = Gradient()(net, pictures(), score + Probability(0))
            torch.testing.assert_close(
                total.whole.double(), expected + logits(net).softmax(1)[:, 0], rtol=1e-4, atol=1e-5
            )
            assert total.about["score"]["terms"][1][1]["link"] == "softmax"


def test_jitter_moves_do_not_hide_which_input_it_was():
    """A score that is NaN only where the moved input is seen stops the ascent, too."""

    def model(inputs):
        return torch.where(inputs[:, 0, 0, 0] == inputs[:, 0, 0, 1], torch.nan, inputs.mean((1, 2, 3)))[:, None].expand(
            -1, 2
        )

    inputs = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    method = ExtremalPerturbation(
        areas=(0.3,), steps=4, perturbation=Constant(0.0), mask=SmoothMask(3, 6), jitter=Jitter(4)
    )
    with pytest.raises(ValueError, match="masked input is not finite"):
        method(model, inputs, 0)


def test_a_score_and_a_number_do_not_add():
    with pytest.raises(TypeError, match="unsupported operand"):
        Logit(1) + 3
    with pytest.raises(TypeError, match="unsupported operand"):
        Logit(1) - 3


@pytest.mark.parametrize("method", EVERY)
def test_a_result_says_where_its_score_is_a_mean_over_places(method, tmp_path):
    """A segmentation's class means the mean of its map; outputs without places, or with one, and own functions say nothing."""

    class Segmenting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network(4)[:2].append(nn.Conv2d(8, 4, 1))

        def forward(self, inputs):
            return self.net(inputs)

    net, lone = Segmenting().eval(), nn.Sequential(network(4), nn.Unflatten(1, (4, 1, 1))).eval()
    if hasattr(method, "layer") and method.layer:
        method = replace(method, layer="net.0")
    result = method(net, pictures(), Logit(1))
    assert result.about["mean_over_places"] == [12, 10]
    with torch.no_grad():
        torch.testing.assert_close(result.whole, net(pictures())[:, 1].mean((1, 2)), rtol=1e-4, atol=1e-5)
    assert method(net, pictures(), 1).about["mean_over_places"] == [12, 10]
    assert method(net, pictures(), Logit(1) - Logit(0)).about["mean_over_places"] == [12, 10]
    assert "mean_over_places" not in method(net, pictures(), lambda outputs: outputs[:, 0].sum((1, 2))).about
    result[0].save(tmp_path / "one.safetensors")
    assert load(tmp_path / "one.safetensors").about["mean_over_places"] == [12, 10]
    if not getattr(method, "layer", ""):
        assert "mean_over_places" not in method(lone, pictures(), 1).about
