"""Results: their parts, equality and devices, their files, and what they say of how they were made."""

import copy
import dataclasses
import importlib
import json
import pickle
import pkgutil
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import jaxtyping
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import sfumato
from sfumato import (
    RISE,
    Attribution,
    Blur,
    Constant,
    Contrastive,
    ExtremalChannels,
    ExtremalPerturbation,
    Fade,
    Gradient,
    GridMask,
    Logit,
    MeaningfulPerturbation,
    Noise,
    SmoothMask,
    invert,
    smallest,
)
from sfumato.about import about_run
from sfumato.attribution import TensorResult
from sfumato.scores import Score
from sfumato.search import ProjectedAscent
from sfumato.settings import PER_QUERY, as_json, from_json
from sfumato.space import MirrorEvenSteps

QUICK = {"areas": (0.2, 0.5), "steps": 2, "mask": SmoothMask(step=3, sigma=6)}
EXTREMAL = ExtremalPerturbation(**QUICK, perturbation=Blur(3, 3))
MEANINGFUL = MeaningfulPerturbation(steps=2, start="ones", mask=GridMask(scale=3, sigma=2))
TWO = replace(MEANINGFUL, perturbation=(Fade(), Noise(0.5, seed=3)))
CHANNELS = ExtremalChannels(layer="first", counts=(1, 3), steps=2)
EVERY = {
    "extremal": EXTREMAL,
    "at a layer": ExtremalPerturbation(**QUICK, layer="first"),
    "meaningful": MEANINGFUL,
    "RISE": RISE(samples=20, cells=4),
    "gradient": Gradient(),
    "channels": CHANNELS,
}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, inputs):
        return self.head(self.first(inputs).relu().mean((2, 3)))


def network():
    """Every score is positive."""
    net = Network().eval()
    with torch.no_grad():
        net.head.weight.abs_()
        net.head.bias.abs_()
    return net


def pictures(count=3):
    return torch.randn(count, 3, 16, 13, generator=torch.Generator().manual_seed(0))


def made(queries=3, **about):
    return Attribution(
        map=torch.rand(queries, 1, 4, 5),
        masks=torch.rand(queries, 2, 1, 4, 5),
        areas=torch.tensor([0.1, 0.3]),
        scores=torch.rand(queries, 2),
        whole=torch.arange(queries).float(),
        about=about,
    )


def same(one, other):
    """Whether two results hold the same."""
    tensors, others = one.tensors(), other.tensors()
    return tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)


# Equality.


def dataclasses_with_tensors():
    """All dataclasses of the package in which a tensor lies, in a field, or in a dataclass in one."""
    classes = []
    for module in pkgutil.walk_packages(sfumato.__path__, "sfumato."):
        if not module.name.endswith("__main__"):
            try:
                members = vars(importlib.import_module(module.name)).values()
            except ModuleNotFoundError:  # of an extra that is not installed
                continue
            classes += [each for each in members if isinstance(each, type) and each.__module__ == module.name]
    classes = [each for each in classes if dataclasses.is_dataclass(each)]
    named = {each.__name__: each for each in classes} | {"Tensor": torch.Tensor}

    def within(hint):
        if isinstance(hint, str):
            return {named[word] for word in re.findall(r"\w+", hint) if word in named}
        if typing.get_origin(hint) is Callable:
            return set()
        if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
            return {hint.array_type}
        return {hint}.union(*map(within, typing.get_args(hint))) if typing.get_args(hint) else {hint}

    holding = {torch.Tensor}
    while True:
        more = {each for each in classes if any(within(entry.type) & holding for entry in dataclasses.fields(each))}
        if more <= holding:
            return sorted(holding - {torch.Tensor}, key=lambda each: (each.__module__, each.__name__))
        holding |= more


def test_whatever_holds_tensors_is_compared_by_identity():
    """`==` of tensors is no truth value, so that a generated `__eq__` raises, and `__hash__` with it."""
    classes = dataclasses_with_tensors()
    assert {"Attribution", "SmallestArea", "Inversion", "Subject", "Step"} <= {each.__name__ for each in classes}
    wrong = [f"{each.__module__}.{each.__name__}" for each in classes if each.__eq__ is not object.__eq__]
    assert wrong == []  # each needs @dataclass(…, eq=False)
    assert [each.__name__ for each in classes if each.__hash__ is None] == []


@pytest.fixture(scope="module")
def results():
    """One of each kind."""
    net, inputs = network(), pictures()
    return {
        "attribution": EXTREMAL(net, inputs, [1, 2, 3]),
        "smallest": smallest(EXTREMAL, net, inputs, 1, keep=0.5, tolerance=0.3),
        "channels": smallest(CHANNELS, net, inputs, 1, keep=0.5),
        "inversion": invert(
            net, "first", net.first(inputs).detach(), shape=(3, 16, 13), mean=None, std=None, steps=2, every=1
        ),
    }


KINDS = ["attribution", "smallest", "channels", "inversion"]


@pytest.mark.parametrize("kind", KINDS)
def test_results_can_be_compared_hashed_copied_and_pickled(results, kind):
    result = results[kind]
    assert result == result  # noqa: PLR0124
    for other in (copy.deepcopy(result), pickle.loads(pickle.dumps(result)), replace(result)):  # noqa: S301
        assert result != other
        assert len({result, other, result}) == 2
        assert same(result, other)


def test_the_part_of_a_result_does_not_take_the_batch_along():
    batch = made(200)
    part = batch[7]
    assert len(pickle.dumps(part)) < len(pickle.dumps(batch)) / 20
    for other in (pickle.loads(pickle.dumps(part)), copy.deepcopy(part)):  # noqa: S301
        assert other.masks.untyped_storage().nbytes() == part.masks.nbytes
        assert same(other, part)
    assert part.masks.untyped_storage().data_ptr() == batch.masks.untyped_storage().data_ptr()


# Parts.


@pytest.mark.parametrize("kind", KINDS)
def test_every_result_comes_apart(results, kind):
    result = results[kind]
    assert len(result) == 3
    parts = list(result)
    assert [len(part) for part in parts] == [1, 1, 1]
    for place, part in enumerate(parts):
        for index in (place, place - 3, np.int64(place), torch.tensor(place)):
            assert same(result[index], part)
        for name, tensor in part.tensors().items():
            whole = result.tensors()[name]
            shared = name.split(".")[-1] in ("areas", "curve_areas")
            assert torch.equal(tensor, whole if shared else whole[place : place + 1])
    assert same(result[1:][0], result[1])
    assert same(result[::-1][0], result[2])
    assert same(result.part(slice(0, 2)), result[:2])
    assert len(result[3:]) == 0
    for place in (3, -4):
        with pytest.raises(IndexError, match=f"query {place} is out of range: there are 3"):
            result[place]
    for key in ("map", 1.0, [0, 1], None, torch.tensor([0, 1])):
        with pytest.raises(TypeError, match=r"as in result\[0\] or result\[1:3\]; got"):
            result[key]


@pytest.mark.parametrize("name", EVERY)
def test_the_part_of_a_result_says_what_that_query_alone_does(name):
    method, net, inputs, targets = EVERY[name], network(), pictures(), [1, 2, 4]
    together = method(net, inputs, targets)
    assert together.about["score"]["target"] == targets
    for place, part in enumerate(together):
        alone = method(net, inputs[place : place + 1], targets[place : place + 1]).about
        # Its last digits depend on how many rows a kernel takes at once.
        errors = [about.pop("standard_error", [0.0]) for about in (alone, part.about)]
        assert errors[1] == pytest.approx(errors[0], rel=1e-3)
        assert part.about == alone
        json.dumps(part.about, allow_nan=False)
    assert together[1:].about["score"]["target"] == [2, 4]


def test_the_lists_of_a_method_are_split():
    result = RISE(samples=20, cells=4)(network(), pictures(), 1)
    assert result.about["per_query"] == ["samples", "standard_error"]
    assert result[2].about["samples"] == [20]
    assert result[2].about["standard_error"] == result.about["standard_error"][2:]
    assert result[::-1].about["standard_error"] == result.about["standard_error"][::-1]
    assert result[1].about["score"]["target"] == 1  # one for all


@dataclass(frozen=True)
class Weighted(Score):
    """A user's own score: a weight for each query, and two classes, which are no queries."""

    weights: tuple[float, ...] = field(metadata=PER_QUERY)
    classes: tuple[int, ...] = (0, 1)

    def __call__(self, outputs, query):
        return outputs[:, list(self.classes)].sum(1) * torch.tensor(self.weights)[query]


def test_targets_within_scores_are_split():
    net, inputs = network(), pictures(2)
    score = Logit((3, 4)) - 0.5 * Contrastive(1, against=(2, 0)) + Weighted((1.0, 2.0))
    about = Gradient()(net, inputs, score).about
    part = Gradient()(net, inputs, score)[1].about["score"]
    assert about["per_query"] == ["score.terms.0.1.terms.0.1.target", "score.terms.0.1.terms.1.1.terms.0.1.against",
                                  "score.terms.1.1.weights"]  # fmt: skip
    (_, difference), (_, weighted) = part["terms"]
    assert difference["terms"][0][1]["target"] == [4]
    assert difference["terms"][1][1]["terms"][0][1] == {
        "class": "sfumato:Contrastive",
        "target": 1,
        "against": [0],
    }
    assert weighted["weights"] == [2.0]
    assert weighted["classes"] == [0, 1]


def test_files_of_before_are_split_where_lists_have_the_queries_length():
    score = {"class": "sfumato.scores:Combined", "terms": [[1.0, {"class": "a:Logit", "target": [1, 2, 3]}]]}
    old = made(
        samples=[7, 8, 9], standard_error=[0.1, 0.2, 0.3], score=score, classes=[1, 2, 3], method={"areas": [1, 2, 3]}
    )
    part = old[1].about
    assert (part["samples"], part["standard_error"]) == ([8], [0.2])
    assert part["score"]["terms"][0][1]["target"] == [2]
    assert (part["classes"], part["method"]) == ([1, 2, 3], {"areas": [1, 2, 3]})
    odd = made(samples=[7, 8], score={"target": [1, 2]}, per_query=["samples", "gone", "score.target.x", "score.0"])
    assert odd[1].about == odd.about


def test_what_is_said_of_one_part_is_not_said_of_another():
    about = {"method": {"areas": [0.1]}, "notes": ["first"]}
    result = made(**about)
    first, second, moved = result[0], result[1], result.cpu()
    first.about["notes"].append("mine")
    first.about["method"]["areas"][0] = 9
    moved.about["new"] = True
    assert result.about == second.about == about


# Devices and types.


@pytest.mark.parametrize("kind", KINDS)
def test_results_move_with_all_that_they_hold(results, kind):
    result = results[kind]
    for moved in (result.to("meta"), result.to(torch.device("meta"))):
        assert {tensor.device.type for tensor in moved.tensors().values()} == {"meta"}
        assert moved.tensors().keys() == result.tensors().keys()
    for half in (result.to(torch.float16), result.to(dtype=torch.float16), result.to("cpu", torch.float16)):
        for name, tensor in half.tensors().items():
            before = result.tensors()[name]
            assert tensor.dtype == (torch.float16 if before.is_floating_point() else before.dtype)
    assert same(result.to(), result)
    assert same(result.cpu(), result)
    assert isinstance(result, TensorResult)
    with pytest.raises(ValueError, match=r"e\.g\. torch\.float16; got torch\.int64"):
        result.to(torch.int64)


def test_tensors_are_named_by_their_fields(results):
    assert set(made().tensors()) == {"map", "masks", "areas", "scores", "whole"}
    assert results["smallest"].tensors()["attribution.masks"] is results["smallest"].attribution.masks
    assert set(results["inversion"].tensors()) == {"pictures", "inputs", "errors", "snapshots.0.1", "snapshots.1.1"}
    assert results["smallest"].to(torch.float64).attribution.map.dtype == torch.float64
    assert results["channels"].to(torch.float64).count.dtype == torch.int64


# What hid places.


@pytest.mark.parametrize(
    ("method", "used"),
    [
        (ExtremalPerturbation(**QUICK), Blur()),
        (ExtremalPerturbation(**QUICK, perturbation=Fade()), Fade()),
        (ExtremalPerturbation(**QUICK, perturbation=Constant((0.1, 0.2, 0.3))), Constant((0.1, 0.2, 0.3))),
        (ExtremalPerturbation(**QUICK, perturbation=Noise(0.5, seed=4)), Noise(0.5, seed=4)),
        (MEANINGFUL, Blur(10, 2)),
        (replace(MEANINGFUL, game="preserve", perturbation=Fade()), Fade()),
    ],
)
def test_the_perturbation_that_was_used_is_given_back(method, used, tmp_path):
    """With it the masks keep what the result says that they keep."""
    net, inputs = network(), pictures(2)
    result = method(net, inputs, Logit(1))
    result.save(tmp_path / "result.safetensors")
    again = sfumato.load(tmp_path / "result.safetensors")
    assert result.perturbation() == again.perturbation() == used
    assert again.perturbations() == (used,)
    perturbed = again.perturbation()(inputs)
    for variant in range(result.masks.shape[1]):
        with torch.no_grad():
            scores = net(perturbed(result.masks[:, variant], torch.arange(2)))[:, 1]
        torch.testing.assert_close(scores, result.scores[:, variant], rtol=1e-4, atol=1e-5)  # in other memory layouts


def test_settings_stay_as_they_were_given():
    result = ExtremalPerturbation(**QUICK)(network(), pictures(1), 1)
    assert result.method["perturbation"] is None
    assert from_json(result.about["perturbation"]) == Blur()
    at_layer = EVERY["at a layer"](network(), pictures(1), 1)
    assert at_layer.layer == "first"
    assert at_layer.perturbation() == Fade()
    assert at_layer.about["jitter"] is None  # nothing moves at a layer
    assert at_layer.method["jitter"] is not None


def test_several_perturbations_are_given_back_together():
    result = TWO(network(), pictures(1), 1)
    assert result.perturbations() == TWO.perturbation
    with pytest.raises(ValueError, match=r"with 2 perturbations together; take one of result\.perturbations\(\)"):
        result.perturbation()


@pytest.mark.parametrize(("name", "used"), [("RISE", Fade()), ("gradient", None), ("channels", Fade())])
def test_methods_that_hide_something_else_or_nothing(name, used):
    assert EVERY[name](network(), pictures(1), 1).perturbation() == used


def test_a_seed_that_is_left_open_is_the_method_s():
    @dataclass(frozen=True)
    class Hide:
        seed: int | None = None

        def __call__(self, x):
            return Fade()(x)

    assert MeaningfulPerturbation(perturbation=(Hide(), Hide(3)), seed=8).used_perturbations() == (Hide(8), Hide(3))
    assert ExtremalPerturbation(perturbation=Hide(), seed=8).used_perturbations() == (Hide(8),)


def test_perturbations_that_are_used_by_default():
    assert ExtremalPerturbation().used_perturbations() == (Blur(), Fade())
    assert ExtremalPerturbation.smooth_masks().used_perturbations() == (Blur(),)
    assert ExtremalPerturbation(layer="first").used_perturbations() == (Fade(),)
    assert Gradient().used_perturbations() == ()


class Mine:
    def __call__(self, x):
        return Fade()(x)


def test_a_user_s_own_perturbation_is_named_and_not_replaced():
    result = replace(EXTREMAL, perturbation=Mine())(network(), pictures(1), 1)
    name = f"'{Mine.__module__}:Mine'"
    for call in (result.perturbation, result.perturbations):
        with pytest.raises(ValueError, match=f"{name}, which cannot be built again from its name"):
            call()


@pytest.mark.parametrize(
    ("method", "used"),
    [
        ({"perturbation": None, "layer": ""}, (Blur(),)),
        ({"perturbation": None}, (Blur(),)),
        ({"perturbation": None, "layer": "features"}, (Fade(),)),
        ({"perturbation": {"class": "sfumato.perturbations:Blur", "max_sigma": 3}}, (Blur(3),)),
        ({"perturbation": [{"class": "sfumato.perturbations:Fade"}, {"class": "sfumato.perturbations:Noise", "seed": 2}]},
         (Fade(), Noise(seed=2))),
        ({"layer": "features"}, ()),
        ({}, ()),
    ],
)  # fmt: skip
def test_files_of_before_it_was_recorded_say_it_by_their_settings(method, used):
    assert made(method=method).perturbations() == used
    assert made(method="RISE").perturbation() is None


@pytest.mark.parametrize(
    "described",
    [
        {"class": "os:system"},
        {"class": 3},
        {"class": "sfumato.perturbations:Blur", "width": 3},
        {"class": "sfumato.perturbations:Missing"},
        {"class": "sfumato.perturbations:towards"},
        {"class": "sfumato.methods.rise:RISE"},
        {},
        7,
    ],
)
def test_a_file_that_names_no_perturbation_is_refused(described):
    with pytest.raises(ValueError, match=r"perturbation|built again|setting"):
        made(perturbation=described).perturbation()


def test_what_json_cannot_hold_is_none():
    about = about_run(Gradient(), Logit(1), {"errors": [0.5, float("nan"), float("inf")]}, jitter=None)
    assert about["errors"] == [0.5, None, None]
    assert about["per_query"] == ["errors"]
    json.dumps(about, allow_nan=False)


# Files.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_files_keep_types_and_what_is_no_number(dtype, tmp_path):
    result = made(notes=["a"]).to(dtype)
    result.map[0, 0, 0, 0] = torch.nan
    result[1:].save(tmp_path / "part")  # without an ending, and views that are no whole storages
    result.save(tmp_path / "whole.safetensors")
    again = sfumato.load(tmp_path / "whole.safetensors")
    assert again.map.dtype == dtype
    assert torch.equal(again.map.isnan(), result.map.isnan())
    assert same(sfumato.load(tmp_path / "part"), result[1:])
    assert sfumato.load(tmp_path / "part", device="meta").map.device.type == "meta"
    assert sfumato.load(tmp_path / "part", device=torch.device("cpu")).about == {"notes": ["a"]}


@pytest.mark.parametrize("name", ["r.png", "R.JPG", "r.npy", "r.pt", "r.json"])
def test_a_result_is_not_saved_as_what_it_is_not(name, tmp_path):
    with pytest.raises(ValueError, match=r'write result\.save\("[rR]\.safetensors"\)'):
        made().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


FORMAT = {"format": "sfumato-attribution-1"}


@pytest.mark.parametrize(
    ("tensors", "metadata", "said"),
    [
        ({"map": torch.ones(1, 1, 2), "ranks": torch.ones(1)}, {"about": '{"versions": {"sfumato": "9.9"}}'},
         r"'ranks', which sfumato .* does not know; it was written by sfumato 9\.9: update"),
        ({"masks": torch.ones(1)}, {"about": "{}"}, "it holds no map"),
        ({"map": torch.ones(1, 1, 2)}, {"about": "{"}, "in no readable form"),
        ({"map": torch.ones(1, 1, 2)}, {"about": "[1]"}, r"must be a JSON object; got \[1\]"),
        ({"map": torch.ones(1, 1, 2)}, {}, "in no readable form"),
    ],
)  # fmt: skip
def test_a_file_that_this_version_cannot_read_says_why(tensors, metadata, said, tmp_path):
    save_file(tensors, tmp_path / "a.safetensors", metadata=FORMAT | metadata)
    with pytest.raises(ValueError, match=said):
        sfumato.load(tmp_path / "a.safetensors")


def test_settings_of_a_later_version_are_named():
    later = {"class": "sfumato.perturbations:Blur", "max_sigma": 3, "shape": "disc"}
    with pytest.raises(ValueError, match="'sfumato.perturbations:Blur' has no setting 'shape' in this version"):
        from_json(later)
    with pytest.raises(ValueError, match=r"cannot be built from .*target"):
        from_json({"class": "sfumato.scores:Logit"})
    with pytest.raises(ValueError, match="names no configuration"):
        from_json({"class": "sfumato.later:Glow"})


def test_what_a_shard_holds_and_this_version_does_not_know_is_a_damaged_shard(tmp_path):
    from sfumato.runs.stores.shards import Shards
    from sfumato.runs.stores.store import StoreError

    shards = Shards(tmp_path)
    name = shards.keep({"a": made(notes=["x"])})
    assert same(shards.read(name, "a"), shards.read(name, "a").cpu())
    with safe_open(tmp_path / name, framework="pt") as file:
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        shard = json.loads(file.metadata()["shard"])
    shard["items"]["a"]["tensors"].append("ranks")
    save_file(tensors | {"a/ranks": torch.ones(1)}, tmp_path / name, metadata={"shard": json.dumps(shard)})
    with pytest.raises(StoreError, match=r"is damaged \(cannot load the item 'a': it holds 'ranks'"):
        shards.read(name, "a")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (torch.float16, "torch.float16"),
        (torch.device("cuda", 1), "cuda:1"),
        (PurePosixPath("a/b"), "a/b"),
        (nn.functional.relu, "torch.nn.functional:relu"),
    ],
)
def test_settings_are_written_by_their_value(value, written):
    assert as_json((value, {"a": value})) == [written, {"a": written}]
    json.dumps(as_json(value), allow_nan=False)


def test_classes_are_named_by_what_exports_them_and_found_by_earlier_names():
    assert as_json(SmoothMask())["class"] == "sfumato:SmoothMask"
    assert as_json(ProjectedAscent())["class"] == "sfumato.search:ProjectedAscent"
    for path in ("sfumato.masks:SmoothMask", "sfumato.masks.smooth:SmoothMask", "sfumato:SmoothMask"):
        assert from_json({"class": path, "step": 7, "sigma": 16}) == SmoothMask(7, 16)
    assert from_json({"class": "sfumato.ascent:ProjectedAscent", "rounds": 3}) == ProjectedAscent(rounds=3)
    assert from_json({"class": "sfumato.jitter:MirrorEvenSteps"}) == MirrorEvenSteps()
