"""Gradients of a search in bfloat16: when they are, when they are not, and that scores never are."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import sfumato
from sfumato.model import rounded as module
from sfumato.model.rounded import has_bfloat16, rounded
from sfumato.model.subject import Subject

E = sfumato.ExtremalPerturbation
SHORT = E(areas=(0.25,), steps=4, mask=sfumato.LevelSet(step=4, sigma=4), jitter=None)


class Seen(nn.Module):
    """A linear network that notes the type in which it computed, with and without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layer = nn.Linear(3 * 16 * 16, 4)
        with torch.no_grad():
            self.layer.weight.copy_(torch.rand(self.layer.weight.shape, generator=generator))
        self.types: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layer(inputs.flatten(1))
        self.types[out.requires_grad].add(out.dtype)
        return out


class Cancelling(Seen):
    """In bfloat16 nothing of the input is left beside a number of a million."""

    def forward(self, inputs: Tensor) -> Tensor:
        million = torch.full((len(inputs), 1), 1e6)
        summed = nn.functional.linear(torch.cat([inputs.flatten(1), million], 1), torch.ones(4, 3 * 16 * 16 + 1))
        return (summed - 1e6).abs()


class OneType(Seen):
    """It fails where a product has another type than the inputs."""

    def forward(self, inputs: Tensor) -> Tensor:
        out = torch.zeros(len(inputs), 4)
        out[:, torch.arange(4)] = self.layer(inputs.flatten(1))
        return out


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with instructions for bfloat16, and no network too small for them."""
    monkeypatch.setattr(module, "has_bfloat16", lambda: True)
    monkeypatch.setattr(module, "LEAST_BYTES", 0)


@pytest.fixture
def inputs() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def chosen(
    model: Callable[[Tensor], Tensor], inputs: Tensor, precision: str = "auto", deterministic: bool = False
) -> bool:
    """Whether the gradients would be rounded."""
    with Subject.prepared(model, inputs, 1, deterministic=deterministic) as subject:
        subject.probe(None)
        return rounded(subject, precision) is not None


@pytest.mark.usefixtures("able")
def test_steps_and_windows_are_rounded_and_scores_are_not(inputs: Tensor) -> None:
    net = Seen()
    result = SHORT(net, inputs, 1)
    assert result.about["precision"] == "bfloat16"
    assert torch.bfloat16 in net.types[True]
    net.types[True].clear()
    with torch.no_grad():
        shown = sfumato.Blur()(inputs)(result.masks[:, 0], torch.arange(2))
        grey = sfumato.Fade()(inputs)(result.masks[:, 0], torch.arange(2))
        exact = (net(shown)[:, 1] + net(grey)[:, 1]) / 2
    assert torch.allclose(result.scores[:, 0], exact, rtol=1e-6)
    rough = net.to(torch.bfloat16)(inputs.bfloat16())[:, 1].float()
    assert not torch.allclose(result.whole, rough, rtol=1e-6)


@pytest.mark.usefixtures("able")
def test_full_precision_where_that_is_asked(inputs: Tensor) -> None:
    net = Seen()
    result = replace(SHORT, precision="full")(net, inputs, 1)
    assert "precision" not in result.about
    assert net.types == {True: {torch.float32}, False: {torch.float32}}


@pytest.mark.usefixtures("able")
def test_windows_are_looked_at_in_bfloat16(inputs: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which only say where to begin."""
    net = Seen()
    monkeypatch.setattr(sfumato.LevelSetAscent, "_descend", stopped)
    with pytest.raises(StoppedError):
        SHORT(net, inputs, 1)
    assert net.types[False] == {torch.float32, torch.bfloat16}  # float32: of the probe


class StoppedError(Exception):
    pass


def stopped(*_: object) -> Iterator[object]:
    raise StoppedError
    yield


@pytest.mark.usefixtures("able")
def test_what_speaks_against_it(inputs: Tensor) -> None:
    net = Seen()
    assert chosen(net, inputs)
    assert not chosen(net, inputs, "full")
    assert not chosen(net, inputs, deterministic=True)
    assert not chosen(Seen().double(), inputs.double())
    assert not chosen(net.forward, inputs)
    assert not chosen(torch.compile(net, backend="eager"), inputs)
    assert not chosen(Cancelling(), inputs)
    assert not chosen(OneType(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert not chosen(net, inputs)


def test_small_networks_gain_nothing(inputs: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_bfloat16", lambda: True)
    assert not chosen(Seen(), inputs)
    monkeypatch.setattr(module, "LEAST_BYTES", inputs[0].nbytes)
    assert chosen(Seen(), inputs)


def test_other_processors_compute_in_full_precision(inputs: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_BYTES", 0)
    for names, has in (
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_f": True}, False),
        ({}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda names=names: names)
        assert has_bfloat16() == has
        assert chosen(Seen(), inputs) == has


def test_bfloat16_wherever_it_is_asked(inputs: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_bfloat16", lambda: False)
    assert chosen(Seen(), inputs, "bfloat16")
    with pytest.raises(ValueError, match=r'no gradient in bfloat16: .* Write precision="full"'):
        chosen(OneType(), inputs, "bfloat16")


def test_what_is_no_precision() -> None:
    with pytest.raises(ValueError, match="precision is one of 'auto', 'full', 'bfloat16'; got 'half'"):
        E(precision="half")


@pytest.mark.usefixtures("able")
def test_published_variants_are_computed_in_full(inputs: Tensor) -> None:
    for method in (E.torchray(areas=(0.5,), steps=2), E.smooth_masks(areas=(0.5,), steps=2)):
        assert "precision" not in method(Seen(), inputs, 1).about
        assert replace(method, precision="bfloat16")(Seen(), inputs, 1).about["precision"] == "bfloat16"
