"""A black box: what its function is given, how often it is called, what that costs, and that no answer is lost."""

import threading
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import sfumato
from sfumato import (
    RISE,
    BlackBox,
    BudgetSpentError,
    CallFailedError,
    EvolutionAscent,
    ExtremalPerturbation,
    Gradient,
    GreedyOrder,
    Logit,
    SmoothMask,
    WithArguments,
    smallest,
)
from sfumato.masks.regions import Cells
from sfumato.model import black_box

RISES = RISE(samples=64, cells=3, score="logit")
EVOLVES = ExtremalPerturbation(
    (0.3,), steps=12, ascent=EvolutionAscent(pairs=2), mask=SmoothMask(step=4, sigma=6), perturbation=sfumato.Fade()
)
ORDERS = GreedyOrder(regions=Cells(3), score="logit")
METHODS = {"rise": RISES, "evolution": EVOLVES, "order": ORDERS}
WEIGHTS = torch.randn(3 * 16 * 16, 4, generator=torch.Generator().manual_seed(1)) / 10


def pictures(count=2):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def network(inputs):
    return torch.tanh(inputs.flatten(1) @ WEIGHTS) + 2


class Counting:
    """A function that counts its calls and inputs, takes at most `most` inputs, and fails at some calls."""

    def __init__(self, most=1000, fails=(), error=ConnectionError, function=network):
        self.most, self.fails, self.error, self.function = most, fails, error, function
        self.sizes = []

    def __call__(self, inputs):
        self.sizes.append(len(inputs))
        if len(inputs) > self.most:
            raise ValueError("too many inputs")
        if len(self.sizes) in self.fails:
            raise self.error("no connection")
        return self.function(inputs)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Time passes only where it is waited for."""
    now = [0.0]
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(black_box.time, "sleep", sleep)
    monkeypatch.setattr(black_box.time, "monotonic", lambda: now[0])
    return slept


@pytest.mark.parametrize("most", [1, 3, 1000])
@pytest.mark.parametrize("name", METHODS)
def test_a_result_is_that_of_the_function_whatever_the_batch(name, most):
    counting = Counting(most)
    box = BlackBox(counting)
    result = METHODS[name](box, pictures(), [1, 2])
    plain = METHODS[name](network, pictures(), [1, 2])
    torch.testing.assert_close(result.map, plain.map, rtol=1e-3, atol=1e-3)  # other batches round differently
    spent = result.about["black_box"]
    assert spent["inputs"] == sum(counting.sizes)
    assert spent["calls"] == len(counting.sizes)
    refused = [size for size in counting.sizes if size > most]
    assert spent["failed"] == len(refused) <= 4  # 16, 8, 4 and 2
    assert max(counting.sizes) <= 16
    assert spent["batch"] == {1: 1, 3: 2, 1000: 16}[most]
    assert "black_box" not in plain.about


def test_the_smallest_area_is_found_by_one_input_at_a_time():
    counting = Counting(1)
    found = smallest(EVOLVES, BlackBox(counting), pictures(), 1, areas=(0.3, 0.7), tolerance=0.2, keep=0.5)
    assert found.reached.all()
    assert found.attribution.about["black_box"]["inputs"] == sum(counting.sizes)


def test_equal_inputs_are_sent_once():
    counting = Counting()
    box = BlackBox(counting, batch=4)
    inputs = pictures(3)[[0, 1, 0, 2, 1]]
    torch.testing.assert_close(box(inputs), network(inputs))
    torch.testing.assert_close(box(inputs[:2]), network(inputs[:2]))
    assert counting.sizes == [3]
    assert box.spent == sfumato.Spent(inputs=3, calls=1, repeated=4)
    kept_none = BlackBox(Counting(), cache=False)
    torch.testing.assert_close(kept_none(inputs), network(inputs))
    assert kept_none.spent.inputs == 5
    almost = pictures(1)
    almost[0, 0, 0, 0] += 1e-6
    assert not torch.equal(box(almost), box(pictures(1)))


def test_a_batch_is_never_larger_than_said():
    counting = Counting()
    RISES(BlackBox(counting, batch=5), pictures(), 1)
    assert max(counting.sizes) == 5


def test_a_batch_size_once_known_is_not_given_up_for_another_failure():
    """After a call with several inputs has succeeded, a failure is not due to their number."""
    counting = Counting(fails=(2,), error=KeyError)
    box = BlackBox(counting, batch=None)
    box(pictures(8))
    with pytest.raises(
        CallFailedError, match=r"failed on inputs of shape \(4, 3, 16, 16\) \(KeyError: 'no connection'\)"
    ):
        box(pictures(4) + 1.0)
    assert counting.sizes == [8, 4]


@pytest.mark.parametrize("name", METHODS)
def test_a_spent_budget_keeps_what_was_found(name):
    full = BlackBox(Counting())
    whole = METHODS[name](full, pictures(), [1, 2])
    need = full.spent.inputs
    counting = Counting()
    box = BlackBox(counting, budget=need // 2)
    with pytest.warns(UserWarning, match=rf"the budget of {need // 2} inputs is spent.*The result is what was found"):
        part = METHODS[name](box, pictures(), [1, 2])
    assert sum(counting.sizes) <= need // 2
    assert part.about["black_box"]["stopped"].startswith(f"the budget of {need // 2} inputs is spent")
    assert part.map.flatten(1).std(1).min() > 0
    if part.masks is not None:
        kept = network(pictures() * part.masks[:, 0])[[0, 1], [1, 2]]
        torch.testing.assert_close(part.scores[:, 0], kept, rtol=1e-4, atol=1e-4)
        assert part.achieved.flatten().tolist() == pytest.approx([0.3, 0.3], abs=1e-3)
        assert part.complements is not None
    box.budget += need
    again = METHODS[name](box, pictures(), [1, 2])
    torch.testing.assert_close(again.map, whole.map, rtol=1e-4, atol=1e-4)
    assert sum(counting.sizes) < 1.1 * need  # the last answers of the part are not those of the whole
    assert "stopped" not in again.about["black_box"]


def test_a_spent_budget_ends_the_search_for_the_smallest_area():
    settings = {"areas": (0.3, 0.7), "tolerance": 0.02, "keep": 0.6}
    full = BlackBox(network)
    whole = smallest(EVOLVES, full, pictures(1), 1, **settings)
    with pytest.warns(UserWarning, match="is spent"):
        part = smallest(EVOLVES, BlackBox(network, budget=full.spent.inputs * 2 // 3), pictures(1), 1, **settings)
    assert part.reached.all()
    assert whole.area <= part.area <= 0.7
    assert part.attribution.scores[0, 0] >= part.wanted[0]
    assert "stopped" in part.attribution.about["black_box"]


def test_too_small_a_budget_says_what_to_write():
    with pytest.raises(BudgetSpentError, match=r"budget of 1 inputs is spent.*box.budget \+= 1000"):
        RISES(BlackBox(network, budget=1), pictures(), 1)
    with pytest.raises(BudgetSpentError, match=r"of which 10 are kept for the scores of the result"):
        EVOLVES(BlackBox(network, budget=12), pictures(), 1)


@pytest.mark.parametrize("name", METHODS)
def test_a_service_that_fails_for_good_loses_nothing(name):
    whole = METHODS[name](network, pictures(), [1, 2])
    full = BlackBox(Counting(), batch=4)
    METHODS[name](full, pictures(), [1, 2])
    middle = full.spent.calls // 2
    counting = Counting(fails=range(middle, middle + 10**6))
    box = BlackBox(counting, batch=4)
    with pytest.warns(UserWarning, match=r"\(ConnectionError: no connection\)"):
        part = METHODS[name](box, pictures(), [1, 2])
    assert part.map.flatten(1).std(1).min() > 0
    assert part.about["black_box"]["failed"] >= 4
    if part.masks is not None:
        assert part.scores is None
    sent = sum(counting.sizes)
    counting.fails = ()
    again = METHODS[name](box, pictures(), [1, 2])
    torch.testing.assert_close(again.map, whole.map, rtol=1e-3, atol=1e-3)
    assert sum(counting.sizes) - sent < 0.75 * full.spent.inputs


def test_a_failure_before_anything_is_found_is_an_error():
    with pytest.raises(CallFailedError, match="no connection"):
        RISES(BlackBox(Counting(fails=range(1, 1000)), retries=1), pictures(), 1)


def test_errors_that_pass_are_waited_for(no_waiting):
    counting = Counting(fails=(2, 3))
    box = BlackBox(counting, batch=2, retries=2, wait=0.5)
    torch.testing.assert_close(box(pictures(4)), network(pictures(4)))
    assert counting.sizes == [2, 2, 2, 2]
    assert no_waiting == [0.5, 1.0]
    assert box.spent == sfumato.Spent(inputs=8, calls=4, failed=2)
    own = BlackBox(Counting(fails=(1,), error=KeyError), batch=2, retry_on=(KeyError, OSError))
    assert own(pictures()).shape == (2, 4)


def test_calls_keep_their_rate(no_waiting):
    box = BlackBox(Counting(), batch=1, rate=4)
    box(pictures(3))
    assert no_waiting == [0, 0.25, 0.25]


def test_a_file_keeps_answers_for_later_processes(tmp_path):
    first = Counting()
    box = BlackBox(first, budget=40, cache=tmp_path / "answers.sqlite")
    with pytest.warns(UserWarning, match="is spent"):
        RISES(box, pictures(), 1)
    second = Counting()
    later = BlackBox(second, cache=tmp_path / "answers.sqlite")
    result = RISES(later, pictures(), 1)
    torch.testing.assert_close(result.map, RISES(network, pictures(), 1).map, rtol=1e-4, atol=1e-5)
    fresh = BlackBox(Counting())
    RISES(fresh, pictures(), 1)
    assert sum(first.sizes) == 40
    assert sum(second.sizes) == fresh.spent.inputs - 40
    with pytest.raises(ValueError, match=r"holds the answers of .*Counting, not of .*network"):
        BlackBox(network, cache=tmp_path / "answers.sqlite")
    (tmp_path / "note.txt").write_text("no answers " * 100)
    with pytest.raises(ValueError, match="give the path of a new file"):
        BlackBox(network, cache=tmp_path / "note.txt")


def test_functions_without_a_name_are_told_apart_by_their_code(tmp_path):
    def served(scale):
        return lambda inputs: scale * torch.as_tensor(inputs).sum((2, 3))

    file = tmp_path / "answers.sqlite"
    BlackBox(served(2), cache=file)(pictures(1))
    BlackBox(served(2), cache=file)  # the same code, made again as in a later process
    with pytest.raises(ValueError, match=r"holds the answers of .*<lambda> \(\w{12}\), not of .*<lambda> \(\w{12}\)"):
        BlackBox(lambda inputs: [str(value) for value in inputs], cache=file)


class Heads(NamedTuple):
    """Two outputs, as some sessions return them."""

    scores: np.ndarray
    boxes: np.ndarray


OUTPUTS = {
    "tensor": lambda inputs: network(torch.as_tensor(inputs)),
    "array": lambda inputs: network(torch.as_tensor(inputs)).numpy(),
    "lists": lambda inputs: network(torch.as_tensor(inputs)).tolist(),
    "dict": lambda inputs: {"scores": network(torch.as_tensor(inputs)).numpy(), "version": "1.2"},
    "tuple": lambda inputs: (network(torch.as_tensor(inputs)), torch.zeros(len(inputs))),
    "tuple of arrays": lambda inputs: (network(torch.as_tensor(inputs)).numpy(), np.zeros((len(inputs), 3))),
    "named tuple": lambda inputs: Heads(network(torch.as_tensor(inputs)).numpy(), np.zeros((len(inputs), 3))),
    "nested": lambda inputs: {"heads": [{"scores": network(torch.as_tensor(inputs)).numpy()}]},
    "json": lambda inputs: {"scores": network(torch.as_tensor(inputs)).tolist(), "size": [16, 16]},
    "items": lambda inputs: [{"scores": row[:1], "boxes": row} for row in network(torch.as_tensor(inputs))],
}
READ = {
    "dict": lambda outputs: outputs["scores"][:, 1],
    "tuple": lambda outputs: outputs[0][:, 1],
    "tuple of arrays": lambda outputs: outputs[0][:, 1],
    "named tuple": lambda outputs: outputs[0][:, 1],
    "nested": lambda outputs: outputs["heads"][0]["scores"][:, 1],
    "json": lambda outputs: outputs["scores"][:, 1],
    "items": lambda outputs: torch.stack([row["boxes"][1] for row in outputs]),
}


@pytest.mark.parametrize("kept", ["memory", "file", "none"])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_of_many_forms_are_split_and_joined(kind, kept, tmp_path):
    if (kind, kept) == ("named tuple", "file"):
        with pytest.raises(ValueError, match="in lists, tuples and dicts; the function returns a Heads"):
            BlackBox(OUTPUTS[kind], cache=tmp_path / "answers")(pictures())
        return
    cache = {"memory": True, "file": tmp_path / "answers", "none": False}[kept]
    box = BlackBox(
        OUTPUTS[kind], takes="numpy" if kind == "array" else "tensor", batch=2 if "tuple" in kind else 3, cache=cache
    )
    result = RISES(box, pictures(), READ.get(kind, Logit(1)))
    torch.testing.assert_close(result.map, RISES(network, pictures(), 1).map, rtol=1e-3, atol=1e-4)
    if kept == "file":
        again = BlackBox(OUTPUTS[kind], batch=3, cache=cache)
        torch.testing.assert_close(RISES(again, pictures(), READ.get(kind, Logit(1))).map, result.map)
        assert again.spent.inputs == 0


def test_a_function_of_arrays_gets_arrays():
    def function(inputs):
        assert isinstance(inputs, np.ndarray)
        assert inputs.dtype == np.float32
        inputs *= 0  # what it does to them is its own affair
        return inputs.sum((2, 3))

    inputs = pictures()
    assert BlackBox(function, takes="numpy")(inputs).shape == (2, 3)
    assert torch.equal(inputs, pictures())


def test_a_function_of_pictures_gets_pictures():
    def function(seen):
        assert [picture.size for picture in seen] == [(16, 12)] * len(seen)
        return np.stack([np.asarray(picture).reshape(12, 16, -1).mean((0, 1)) for picture in seen])

    inputs = pictures()[:, :, :12]
    box = BlackBox(function, takes="pil")
    torch.testing.assert_close(box(inputs) / 255, inputs.mean((2, 3)), atol=2e-3, rtol=0)
    torch.testing.assert_close(box(inputs[:, :1]) / 255, inputs[:, :1].mean((2, 3)), atol=2e-3, rtol=0)
    normalised = BlackBox(function, takes="pil", restore=lambda inputs: inputs / 2 + 0.5)
    torch.testing.assert_close(normalised(2 * inputs - 1) / 255, inputs.mean((2, 3)), atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match=r"needs values in \[0, 1\]; got -0.9.*restore=classifier.restore"):
        BlackBox(function, takes="pil")(2 * inputs - 1)
    with pytest.raises(ValueError, match=r"Give restore"):
        BlackBox(function, takes="pil")(torch.rand(1, 4, 8, 8))


def test_further_arguments_belong_to_their_inputs():
    ages = torch.tensor([0.5, 2.0])
    shared = sfumato.Shared(torch.arange(2.0))

    def function(inputs, ages, extra):
        return network(inputs) * ages[:, None] + extra.sum()

    box = BlackBox(function)
    model = WithArguments(box, ages, shared)
    result = RISES(model, pictures(), 1)
    for row in range(2):
        alone = RISES(WithArguments(function, ages[row : row + 1], shared), pictures()[row : row + 1], 1)
        torch.testing.assert_close(result[row].map, alone.map, rtol=1e-4, atol=1e-4)
    spent = box.spent
    RISES(model, pictures(), 1)
    assert (box.spent - spent).inputs == 0


def test_answers_are_kept_by_the_names_and_the_places_of_further_arguments():
    """Of equal values under other names, or split in another way, the answers are others."""

    def function(inputs, first=0.0, second=0.0):
        return inputs.sum((2, 3)) + float(first) + 100 * float(second)

    box, inputs = BlackBox(function), pictures(1)
    for arguments, named in (((1, 23), {}), ((12, 3), {}), ((), {"first": 1.0}), ((), {"second": 1.0})):
        assert torch.equal(box(inputs, *arguments, **named), function(inputs, *arguments, **named))


def test_a_dataclass_is_refused_with_what_to_return():
    @dataclass
    class Found:
        logits: torch.Tensor

    with pytest.raises(CallFailedError, match=r"e\.g\. outputs\.logits"):
        BlackBox(lambda inputs: Found(network(inputs)))(pictures())


def test_methods_that_need_gradients_say_so():
    with pytest.raises(ValueError, match="gradient"):
        Gradient()(BlackBox(network), pictures(), 1)


def test_threads_may_share_a_box():
    box = BlackBox(Counting())
    results = {}
    threads = [
        threading.Thread(target=lambda row=row: results.update({row: RISES(box, pictures()[row : row + 1], 1)}))
        for row in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    both = RISES(network, pictures(), 1)
    for row in range(2):
        torch.testing.assert_close(results[row].map, both[row].map, rtol=1e-4, atol=1e-5)


def test_a_budget_that_suffices_warns_of_nothing():
    full = BlackBox(network)
    EVOLVES(full, pictures(), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EVOLVES(BlackBox(network, budget=full.spent.inputs + 10), pictures(), 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlackBox(3), "is made of a function of a batch of inputs; got 3"),
        (lambda: BlackBox(BlackBox(network)), "is made of a function"),
        (lambda: BlackBox(nn.Identity()), r"write BlackBox\(net.eval\(\)\)"),
        (lambda: BlackBox(network, takes="jax"), "takes must be one of tensor, numpy, pil"),
        (lambda: BlackBox(network, cache=None), "cache must be True, False or the path of a file; got None"),
        (lambda: BlackBox(network, retry_on="OSError"), "retry_on must be a class of errors"),
        (lambda: BlackBox(network, retry_on=(OSError, 3)), "retry_on must be a class of errors"),
        (lambda: BlackBox(network, restore=3), "restore must be a function"),
        (lambda: BlackBox(network, batch=0), "batch must be a whole number from 1 up"),
        (lambda: BlackBox(network, budget=1.5), "budget must be a whole number from 0 up"),
        (lambda: BlackBox(network, rate=0), "rate is calls in a second, more than 0"),
        (lambda: BlackBox(network, retries=-1), "retries must be a whole number from 0 up"),
        (lambda: BlackBox(network, wait=-1), "wait is in seconds, at least 0"),
        (
            lambda: BlackBox(lambda x: network(x)[0])(pictures(1)),
            r"write outputs\[None\] for the answer to a single input",
        ),
        (lambda: BlackBox(lambda x: network(x).mean(0))(pictures(1)), "one row for each of 1 inputs"),
        (lambda: BlackBox(lambda x: None)(pictures(1)), "got NoneType"),
    ],
)
def test_what_is_no_black_box_is_refused(make, message):
    with pytest.raises((ValueError, CallFailedError), match=message):
        make()
