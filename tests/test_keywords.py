"""Words of other libraries, and misspelt ones, as settings and arguments: one sentence says what to write instead."""

import copy
import inspect
import pickle
from dataclasses import dataclass, is_dataclass, replace

import pytest
import torch
from torch import nn

import sfumato
from sfumato.attribution import TensorResult
from sfumato.settings import Settings, words

SEARCH = sfumato.ExtremalPerturbation(areas=(0.3,), steps=1)
INPUTS = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


@pytest.mark.parametrize(
    ("made", "settings", "said"),
    [
        (sfumato.ExtremalPerturbation, {"max_iter": 800}, "has no setting 'max_iter'; did you mean steps?"),
        (sfumato.ExtremalPerturbation, {"area": 0.1}, "did you mean areas?"),
        (sfumato.ExtremalPerturbation, {"variant": "delete"}, "did you mean game?"),
        (sfumato.ExtremalPerturbation, {"target": 5}, r"write ExtremalPerturbation\(…\)\(model, inputs, targets\)"),
        (sfumato.ExtremalPerturbation, {"device": "cuda"}, r"write model\.to\(device\)"),
        (sfumato.ExtremalPerturbation.smooth_masks, {"max_iter": 800}, "did you mean steps?"),
        (sfumato.ExtremalPerturbation.torchray, {"max_iter": 800}, "did you mean steps?"),
        (sfumato.RISE, {"n_samples": 100}, "did you mean samples?"),
        (sfumato.GradCAM, {"model": None, "target_layers": []}, r"GradCAM\(…\)\(model, inputs, targets\)"),
        (sfumato.GradCAM, {"target_layers": []}, "did you mean layer?"),
        (sfumato.Captum, {"name": "Saliency", "abs": False}, r"arguments=\{'abs': …\}"),
        (sfumato.Blur, {"sigma": 20}, "did you mean max_sigma?"),
        (sfumato.LevelSet, {"size": 7}, "it takes step, sigma, edge and detail"),
        (sfumato.Logit, {"cls": 3}, "did you mean target?"),
        (sfumato.Certify, {"claim": ()}, "did you mean claims?"),
        (sfumato.metrics.PointingGame, {"radius": 15}, "did you mean tolerance?"),
        (sfumato.data.VOC, {"pathh": "."}, "did you mean path?"),
    ],
)
def test_a_setting_that_there_is_not(made, settings, said):
    with pytest.raises(TypeError, match=said) as error:
        made(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda net: SEARCH(net, INPUTS, 0, target=5),
            "a call of ExtremalPerturbation takes no 'target'; did you mean targets?",
        ),
        (
            lambda net: SEARCH(net, INPUTS, areas=0.1),
            r"write ExtremalPerturbation\(areas=…\)\(model, inputs, targets\)",
        ),
        (lambda net: SEARCH(net, INPUTS, 0, max_iter=3), r"write ExtremalPerturbation\(steps=…\)"),
        (lambda net: SEARCH(net, INPUTS, 0, colour=3), "it takes model, inputs, targets and progress"),
        (
            lambda net: sfumato.smallest(SEARCH, net, INPUTS, target=0),
            "smallest takes no 'target'; did you mean targets?",
        ),
        (
            lambda net: sfumato.models.load("lite0", weights="w.pth"),
            "load takes no 'weights'; did you mean checkpoint?",
        ),
    ],
)
def test_an_argument_that_there_is_not(call, said):
    with pytest.raises(TypeError, match=said):
        call(network())


@pytest.mark.parametrize("method", [sfumato.GradCAM, sfumato.RISE, sfumato.ExtremalPerturbation, sfumato.Captum])
def test_a_model_is_given_to_the_call(method):
    net = network()
    for values in (
        (net,),
        (net, net[0]),
        (sfumato.models.Classifier("toy", net, sfumato.models.Preparation(16, None), ("one",)),),
    ):
        with pytest.raises(ValueError, match=rf"give it to the call: {method.__name__}\(…\)\(model, inputs, targets\)"):
            method(*values)


def test_a_module_in_the_place_of_its_name_is_told_in_a_line():
    with pytest.raises(ValueError, match="layer is the dotted name of a module") as error:
        sfumato.GradCAM(layer=network())
    assert "\n" not in str(error.value)


def test_other_calls_and_parts_of_results():
    with pytest.raises(
        AttributeError, match=r"'attribute'; a method is called itself: method\(model, inputs, targets\)"
    ):
        _ = SEARCH.attribute
    result = sfumato.Attribution(map=torch.rand(1, 1, 4, 4))
    for word, said in (
        ("attributions", "result.map"),
        ("mask", "result.masks"),
        ("show", r"plots.figure\(result, picture\)"),
    ):
        with pytest.raises(AttributeError, match=said):
            getattr(result, word)
    for thing in (SEARCH, result):
        assert getattr(thing, "layer_of_nothing", 3) == 3
        assert not hasattr(thing, "_repr_svg_")
        assert type(copy.deepcopy(thing)) is type(pickle.loads(pickle.dumps(thing))) is type(thing)  # noqa: S301


def test_a_figure_of_a_picture_and_a_result_in_the_wrong_order():
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    result = sfumato.Attribution(map=torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"Write plots\.figure\(result, picture\)"):
        sfumato.plots.figure(INPUTS[0], result)
    with pytest.raises(ValueError, match="a figure shows the result of a method"):
        sfumato.plots.comparison([result.map], INPUTS[0], ["one"])


def test_methods_of_captum():
    pytest.importorskip("captum", reason="Captum is not installed")
    with pytest.raises(AttributeError, match=r"write sfumato\.Captum\('IntegratedGradients'\)"):
        _ = sfumato.IntegratedGradients


def test_signatures_stay():
    assert list(inspect.signature(sfumato.GradCAM).parameters)[:3] == ["layer", "layout", "smooth"]
    assert list(inspect.signature(SEARCH).parameters) == ["model", "inputs", "targets", "progress"]
    assert list(inspect.signature(sfumato.smallest).parameters)[:3] == ["method", "model", "inputs"]
    assert replace(SEARCH, steps=2).steps == 2


def test_classes_of_one_s_own():
    @dataclass(frozen=True)
    class Brightness(sfumato.Method):
        factor: float = 1.0

        def explain(self, subject, progress):
            return sfumato.Attribution(map=self.factor * subject.inputs.sum(1, keepdim=True), about=self.about(subject))

    class Either(Settings):
        def __init__(self, one, **others):
            self.both = (one, others)

    class Darkness(Brightness):
        def __init__(self, amount):
            super().__init__(factor=-amount)

    with pytest.raises(TypeError, match="Brightness has no setting 'faktor'; did you mean factor?"):
        Brightness(faktor=2)
    with pytest.raises(TypeError, match="Darkness has no setting 'factor'; it takes amount"):
        Darkness(factor=2)
    assert Darkness(amount=2).factor == -2
    assert Either(1, more=2).both == (1, {"more": 2})


RESULTS = ("Certificate", "ClassChannels", "Shared", "Spent")


def test_every_configuration_answers():
    classes = [getattr(sfumato, name) for name in sfumato.__all__]
    plain = {
        each.__name__
        for each in classes
        if isinstance(each, type) and is_dataclass(each) and not issubclass(each, Settings | TensorResult)
    }
    assert plain == set(RESULTS)


def test_words_of_other_libraries_lead_to_words_that_there_are():
    made = [each for each in map(sfumato.__getattr__, sfumato.__all__) if isinstance(each, type) and is_dataclass(each)]
    made += [sfumato.metrics.PointingGame, sfumato.data.COCO]
    called = [sfumato.Method.__call__, sfumato.models.load, sfumato.plots.figure, sfumato.plots.overview]
    known = {name for each in made for name in each.__dataclass_fields__}
    known |= {name for each in called for name in inspect.signature(each).parameters}
    assert {other for others in words.SYNONYMS.values() for other in others} <= known
