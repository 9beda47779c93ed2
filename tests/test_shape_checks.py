"""Signatures say shapes and kinds of tensors, and the tests check them at every function that says so."""

import ast
import dataclasses
import importlib
import pkgutil
import warnings
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import shape_checks
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import sfumato
from sfumato import Attribution, GradCAM, Gradient, activations
from sfumato.attribution import saliency
from sfumato.behaviour.watched import Picture
from sfumato.figures.report.encoding import jpeg
from sfumato.layers.flow import Flow, ForwardResult
from sfumato.masks.penalties import area_penalty
from sfumato.masks.smooth import SmoothMask
from sfumato.methods.natural import Fourier
from sfumato.metrics.case import Case
from sfumato.metrics.likeness import overlap
from sfumato.metrics.statistic import mean
from sfumato.metrics.weak_localisation import overlaps
from sfumato.models.caffe import Bottleneck
from sfumato.perturbations import Blur, towards
from sfumato.scores import mean_over_space
from sfumato.search.loop import Look, Step
from sfumato.space.normalisation import Normalisation

ROOT = Path(sfumato.__file__).parent


def modules():
    """The names of all modules that are checked."""
    return [entry.name for entry in pkgutil.walk_packages([str(ROOT)], "sfumato.") if covered(entry.name)]


def covered(name):
    return any(f"{name}.".startswith(f"{package}.") for package in shape_checks.CHECKED)


@pytest.mark.parametrize("name", modules())
def test_the_checks_are_on(name):
    loader = importlib.import_module(name).__spec__.loader
    assert type(loader).__name__ == shape_checks.CheckingLoader.__name__


NORMALISATION = Normalisation(None, None)


def numbers(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


class Average(nn.Module):
    """The mean of each channel."""

    def forward(self, x):
        return x.flatten(2).mean(2)


WRONG = {
    "one area for two masks, which would broadcast": lambda: area_penalty(numbers(2, 1, 4, 4), numbers(1)),
    "masks of which the axis of length one is missing": lambda: saliency(numbers(2, 3, 4, 4)),
    "parameters for too few axes": lambda: SmoothMask(step=3, sigma=5).on((14, 17)).areas(numbers(2, 8)),
    "whole numbers where fractions are meant": lambda: mean_over_space(numbers(2, 1, 3, dtype=torch.long)),
    "a background of other channels": lambda: towards(numbers(1, 2, 4, 4), numbers(1, 1, 4, 4)),
    "a query of fractions, in a function within one": lambda: Blur()(numbers(1, 1, 4, 4))(
        numbers(1, 1, 4, 4), numbers(1)
    ),
    "a map without its axis of channels, in a dataclass": lambda: Attribution(map=numbers(2, 4, 4)),
    "other queries than the map's, in a dataclass": lambda: Attribution(map=numbers(2, 1, 4, 4), whole=numbers(3)),
    "a value too many, in a named tuple": lambda: Look(numbers(3), numbers(2, 1, 4), numbers(2)),
    "a gradient at other places, which would be averaged": lambda: GradCAM().read(numbers(2, 3, 4), numbers(2, 3, 5)),
    "a gradient of another shape, in a flow": lambda: Flow(numbers(2, 3, 4), numbers(2, 3, 1), numbers(2)),
    "scores of other rows, in the result of a pass": lambda: ForwardResult(None, numbers(3), numbers(2, 4), []),
    "numbers without an imaginary part": lambda: Fourier().pictures(numbers(2, 3, 4, 1), (3, 6), NORMALISATION),
    "a box without its ends": lambda: overlaps(numbers(2, 2), numbers(2, 4)),
    "a query as a batch, in a case": lambda: Case(Attribution(map=numbers(1, 1, 4, 4)), inputs=numbers(2, 3, 4, 4)),
    "weights of other rows": lambda: mean("hit")({"hit": np.ones(3)}, np.ones(3)),
    "a picture of whole numbers": lambda: Picture("a", numbers(3, 4, dtype=torch.uint8)),
    "a grey picture where one of three channels is drawn": lambda: jpeg(numbers(1, 4, 4)),
    "an area too few, in a step": lambda: Step(0, 1, numbers(2, 1, 4), numbers(2), numbers(1)),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_shape_or_kind_is_an_error(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


REFUSED = {
    "inputs without places": lambda: Gradient()(Average(), numbers(2, 4), 0),
    "inputs of numpy": lambda: Gradient()(Average(), np.ones((2, 3, 4, 4)), 0),
    "whole numbers": lambda: activations(Average(), "", numbers(2, 3, 4, dtype=torch.long)),
    "maps of other sizes": lambda: overlap(numbers(2, 4), numbers(2, 3), 0.5),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_what_a_function_refuses_itself_has_the_error_that_users_see(call):
    with pytest.raises(ValueError, match="got"):
        call()


def test_a_module_of_ours_may_be_scripted():
    """torch.jit knows no annotation but `Tensor`."""
    network = Bottleneck(8, 2, stride=2, downsample=True).eval()
    x = torch.rand(1, 8, 6, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(network)
    torch.testing.assert_close(scripted(x), network(x))


@shape_checks.checked
def doubled(values: Float[Tensor, " N"], query: Int[Tensor, " N"], right: bool = True) -> Float[Tensor, " 2*N"]:
    return torch.cat([values, values if right else values[:1]]) + query[0]


def test_what_comes_out_is_checked_too():
    query = numbers(3, dtype=torch.long)
    assert len(doubled(numbers(3), query)) == 6
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        doubled(numbers(3), query, right=False)


def test_a_call_is_checked_that_differs_from_those_before_in_a_shape_or_a_kind():
    query = numbers(3, dtype=torch.long)
    doubled(numbers(3), query)
    for values, rows in ((numbers(2), query), (numbers(3), query.double()), (numbers(3, dtype=torch.long), query)):
        with pytest.raises(jaxtyping.TypeCheckError, match="parameters"):
            doubled(values, rows)
        with pytest.raises(jaxtyping.TypeCheckError, match="parameters"):  # and again, as no wrong call is remembered
            doubled(values, rows)


def test_what_is_no_tensor_is_left_to_the_type_checker():
    assert len(doubled(numbers(3), numbers(3, dtype=torch.long), right="yes")) == 6


def test_a_decorated_class_stays_itself():
    assert dataclasses.replace(Step(0, 1, numbers(2, 4), numbers(2), numbers(2)), index=3).index == 3
    assert Look(numbers(2), numbers(2, 4), numbers(2))._replace(counts=False).counts is False


def bare(annotation):
    """Whether a hint is a tensor or array of any shape, or `None`, or a tuple that begins with one. Containers may hold any."""
    match annotation:
        case ast.Name(id="Tensor" | "Array") | ast.Attribute(attr="ndarray"):
            return True
        case ast.BinOp(left=left, right=right):
            return bare(left) or bare(right)
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=parts)):
            return any(map(bare, parts))
    return False


ANY_TENSORS = ("sfumato.layers.axes", "sfumato.model.backward")
"""Where functions take the tensors of any operation of a network, of any kind and shape."""


def definitions(node):
    """Functions and classes, except two kinds of functions.

    One within another is made at each call, and then its annotations too. `forward` of a module may be compiled by
    torch.jit.script, which knows `Tensor` only.
    """
    module = isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Module") for base in node.bases)
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.ClassDef):
            yield inner
        if not isinstance(inner, ast.FunctionDef):
            yield from definitions(inner)
        elif not (module and inner.name == "forward"):
            yield inner


@pytest.mark.parametrize("name", [name for name in modules() if not name.startswith(ANY_TENSORS)])
def test_every_tensor_in_a_signature_has_its_shape(name):
    path = ROOT.joinpath(*name.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    without = []
    for node in definitions(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            without += [node.name for hint in (*(entry.annotation for entry in arguments), node.returns) if bare(hint)]
        elif isinstance(node, ast.ClassDef):
            fields = [entry for entry in node.body if isinstance(entry, ast.AnnAssign)]
            without += [f"{node.name}.{ast.unparse(entry.target)}" for entry in fields if bare(entry.annotation)]
    assert without == []
