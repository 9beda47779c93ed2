"""Sets that hold where a transformer gets no tokens of hidden places, and where they are pasted on another picture."""

from typing import Any

import pytest
import torch
from spots import certificate, ones, rectangle, result_of, spots
from torch import nn

import sfumato
from sfumato.evidence import HoldsElsewhere
from sfumato.layers.dropping import first_block
from sfumato.model.subject import Subject

NAME = "Holds elsewhere"


class Block(nn.Module):
    """Attention of one head without weights, and a weighted sum of what it brings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(width, width), nn.Tanh())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        weights = (tokens @ tokens.mT / 10).softmax(-1)
        return tokens + self.mix(3 * weights @ tokens)


class Transformer(nn.Module):
    """Patches of eight places, a class token before them, positions, two blocks, and a score of the class token."""

    def __init__(self, width: int = 6, side: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(1, width, 8, stride=8)
        nn.init.normal_(self.patches.weight, std=0.3)
        self.first = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, side**2 + 1, width))
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.head = nn.Linear(width, 2)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patches(x).flatten(2).mT
        return torch.cat([self.first.expand(len(x), -1, -1), patches], 1) + self.positions

    def rest(self, tokens: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, 0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.tokens(x))


class Counting(Transformer):
    """Takes all its tokens or none: positions are added within each block."""

    def rest(self, tokens: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            tokens = block(tokens) + self.positions
        return self.head(tokens[:, 0])


class Averaging(Transformer):
    """Without a class token: the mean of all tokens is scored."""

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        return self.patches(x).flatten(2).mT + self.positions[:, 1:]

    def rest(self, tokens: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(1))


def places_of(kept: list[int]) -> torch.Tensor:
    """The places `(32, 32)` of some of the 4 × 4 patches."""
    cells = torch.zeros(16, dtype=torch.bool)
    cells[kept] = True
    return cells.view(4, 1, 4, 1).expand(4, 8, 4, 8).reshape(32, 32)


def found_tokens(net: nn.Module) -> Any:
    with Subject.prepared(net, torch.rand(1, 1, 32, 32), 0) as subject:
        return first_block(subject)


def test_a_transformer_runs_on_the_first_block_shown_places_alone() -> None:
    net, x = Transformer().eval(), torch.rand(3, 1, 32, 32)
    tokens = found_tokens(net)
    assert tokens.layer == "blocks.0"
    kept = [0, 5, 6]
    expected = net.rest(net.tokens(x)[:, [0, *(place + 1 for place in kept)]])
    with tokens.shown(places_of(kept)):
        torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net(x), net.rest(net.tokens(x)))
    assert not torch.allclose(net(x), expected, atol=1e-3)


def test_a_token_stays_if_half_of_its_places_are_shown() -> None:
    net, x = Transformer().eval(), torch.rand(1, 1, 32, 32)
    half, less = torch.zeros(2, 32, 32, dtype=torch.bool)
    half[8:16, 8:12], less[8:16, 8:12] = True, True
    less[8, 8] = False
    for shown, expected in ((half, net.rest(net.tokens(x)[:, [0, 6]])), (less, net.rest(net.tokens(x)[:, [0]]))):
        with found_tokens(net).shown(shown):
            torch.testing.assert_close(net(x), expected)


def test_only_a_network_of_tokens_in_blocks_has_any() -> None:
    convolutions = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert found_tokens(convolutions) is None
    assert found_tokens(torch.compile(Transformer().eval(), backend="eager")) is None
    with Subject.prepared(spots((8, 8)), ones(), 0) as subject:
        assert first_block(subject) is None


def test_a_block_that_takes_in_something_else_is_refused() -> None:
    net = Transformer().eval()
    with found_tokens(net).shown(places_of([0])), pytest.raises(ValueError, match=r"takes in shape \(1, 5, 6\)"):
        net.blocks[0](torch.zeros(1, 5, 6))


@pytest.mark.parametrize("game", ["preserve", "delete"])
def test_the_worth_of_a_set_without_the_other_tokens(game: str) -> None:
    net, x = Transformer().eval(), torch.rand(1, 1, 32, 32)

    def score(kept: list[int]) -> float:
        return float(net.rest(net.tokens(x)[:, [0, *(place + 1 for place in kept)]])[0, target])

    everything, set_ = list(range(16)), [5, 6, 9]
    with torch.no_grad():
        target = int((net(x) - net.rest(net.tokens(x)[:, :1]))[0].argmax())  # the class that tokens speak for
        whole, hidden = score(everything), score([])
        shown = (score(set_) - hidden) / (whole - hidden)
        lost = 1 - (score([place for place in everything if place not in set_]) - hidden) / (whole - hidden)
    method = sfumato.ExtremalPerturbation(areas=(0.2,), steps=1, game=game, mask=sfumato.LevelSet(4, 3, edge=0.0))
    result = result_of(net, places_of(set_)[None, None].float(), inputs=x, target=target, method=method)
    (found,) = sfumato.Certify((HoldsElsewhere(),))(result, net, x, target)
    assert found[NAME].numbers["dropped tokens"] == pytest.approx(shown if game == "preserve" else lost, abs=1e-4)
    assert "dropped tokens" in found[NAME].sentence
    (without,) = sfumato.Certify((HoldsElsewhere(tokens=False),))(result, net, x, target)
    assert "dropped tokens" not in without[NAME].numbers


@pytest.mark.parametrize("network", [Counting, Averaging])
def test_a_network_that_needs_its_tokens_is_not_asked(network: type[Transformer]) -> None:
    net, x = network().eval(), torch.rand(1, 1, 32, 32)
    result = result_of(net, places_of([5, 6])[None, None].float(), inputs=x)
    (found,) = sfumato.Certify((HoldsElsewhere(),))(result, net, x, 0)
    assert "dropped tokens" not in found[NAME].numbers


# On other pictures.


def test_a_set_is_pasted_on_other_pictures() -> None:
    model = spots((8, 8))
    empty, full = torch.zeros(1, 1, 32, 32), ones() / 2
    found = certificate(model, rectangle(8, 8, 8, 6), claims=(HoldsElsewhere(),), backgrounds=torch.cat([empty, full]))[
        NAME
    ]
    assert found.holds
    assert found.numbers["another picture"] == pytest.approx(0.75)
    assert found.numbers["another picture 2"] == pytest.approx(0.75)
    assert "another picture 75 %, another picture 2 75 %" in found.sentence


def test_a_set_that_another_picture_outdoes_does_not_hold() -> None:
    """A score of the brightest place: what is pasted on a bright picture adds nothing."""

    def model(x: torch.Tensor) -> torch.Tensor:
        value = x.amax((1, 2, 3)) + x[:, 0, 8:16, 8:16].mean((1, 2))
        return torch.stack([value, -value], 1)

    claims = (HoldsElsewhere(),)
    bright = torch.zeros(1, 1, 32, 32)
    bright[..., 30, 30] = 1.6
    found = certificate(model, rectangle(20, 20, 8, 8), claims=claims, backgrounds=bright)[NAME]
    assert not found.holds
    assert found.numbers["another picture"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("backgrounds", "says"),
    [
        (torch.zeros(1, 1, 32, 31), r"backgrounds are other pictures, .*\(K, 1, 32, 32\); got shape \(1, 1, 32, 31\)"),
        (torch.zeros(0, 1, 32, 32), r"got shape \(0, 1, 32, 32\)"),
        ("other.jpg", "got a str"),
    ],
)
def test_other_things_are_no_backgrounds(backgrounds: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        certificate(spots((8, 8)), rectangle(8, 8, 8, 8), backgrounds=backgrounds)
