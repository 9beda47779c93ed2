"""Every ready-made score with the ways of searching and sampling: two queries at once as each alone, saved and read again."""

import pytest
import torch
from torch import nn

from sfumato import (
    RISE,
    Box,
    Detections,
    Entropy,
    EvolutionAscent,
    ExtremalPerturbation,
    GreedyOrder,
    LevelSet,
    Region,
    Regression,
    Similarity,
    SmoothMask,
    Tokens,
    load,
    smallest,
)
from sfumato.figures.report import html
from sfumato.masks.regions import Cells
from sfumato.scores import quantity
from sfumato.settings import as_json, from_json

SIDE = 24


class Maps(nn.Module):
    """A convolution's maps `(N, 3, H / 2, W / 2)`, and what heads make of them."""

    def __init__(self, head):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.maps = nn.Conv2d(3, 3, 5, stride=2, padding=2)
        self.head = head
        with torch.no_grad():
            self.maps.weight.copy_(torch.rand(self.maps.weight.shape, generator=generator) / 10)
            self.maps.bias.fill_(0.1)
        self.mix = torch.randn(3, 5, generator=generator)

    def forward(self, pictures):
        return self.head(self, self.maps(pictures).relu())


def as_maps(net, maps):
    return maps


def as_vectors(net, maps):
    weights = torch.linspace(0, 1, maps.shape[3])
    return (maps * weights).mean((2, 3)) @ net.mix


def as_places(net, maps):
    """Log-probabilities of five tokens at four places."""
    return (maps.unfold(3, 3, 3).mean((2, 4)).transpose(1, 2) @ net.mix).log_softmax(2)


def found(outputs):
    """Detections of two boxes, as sure as the maps are there."""
    boxes = torch.tensor([[0.0, 0, 12, 12], [12.0, 12, 24, 24]])
    for maps in outputs:
        classes = torch.stack([maps[:, :6, :6].mean((1, 2)), maps[:, 6:, 6:].mean((1, 2))])
        yield Detections(boxes, classes, classes.sum(1))


def detections(outputs):
    return list(found(outputs))


def half(left):
    mask = torch.zeros(SIDE, SIDE)
    mask[:, : SIDE // 2] = left
    mask[:, SIDE // 2 :] = 1 - left
    return mask


GENERATOR = torch.Generator().manual_seed(7)
SCORES = {
    "Region": (as_maps, Region([0, 1], [half(1), half(0)])),
    "Box": (as_maps, Box([(1, 1, 11, 12), (12, 12, 22, 22)], [0, 1], detections)),
    "Similarity": (as_vectors, None),
    "Tokens": (as_places, Tokens([[1, 4], [0, 0]], "per-token")),
    "Regression": (as_vectors, Regression([0, 1], reference=[0.1, 0.3], scale=0.5)),
    "Entropy": (as_vectors, Entropy()),
}
METHODS = {
    "ExtremalPerturbation": ExtremalPerturbation((0.3,), steps=6, mask=LevelSet(3, 3)),
    "smooth": ExtremalPerturbation((0.3,), steps=6, mask=SmoothMask(step=4, sigma=6)),
    "RISE": RISE(samples=16, cells=3),
    "EvolutionAscent": ExtremalPerturbation(
        (0.3,), steps=4, ascent=EvolutionAscent(pairs=2), mask=SmoothMask(step=4, sigma=6)
    ),
    "GreedyOrder": GreedyOrder(regions=Cells(2)),
    "layer": ExtremalPerturbation((0.3,), steps=4, layer="maps", mask=SmoothMask()),
}


def pictures():
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


def subject(name):
    head, score = SCORES[name]
    net = Maps(head).eval()
    if score is None:  # to the same pictures, upside down
        score = Similarity.to(net, pictures().flip(2) + 0.3 * torch.rand(2, 3, SIDE, SIDE, generator=GENERATOR))
    return net, score


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SCORES)
def test_queries_keep_their_own_references(name, method, tmp_path):
    net, score = subject(name)
    result = METHODS[method](net, pictures(), score)
    torch.testing.assert_close(result.whole, score(net(pictures()), torch.arange(2)), rtol=1e-4, atol=1e-5)
    assert torch.isfinite(result.map).all()
    assert result.map.flatten(1).std(1).min() > 0
    result.save(tmp_path / "result.safetensors")
    about = load(tmp_path / "result.safetensors")[1].about
    if name == "Box":  # the reader is the test's own function, of which a file holds the path
        assert about["score"]["detections"].endswith(":detections")
        assert about["score"]["box"] == [[12, 12, 22, 22]]
        return
    alone = from_json(about["score"])
    again = METHODS[method](net, pictures()[1:], alone)
    torch.testing.assert_close(again.whole, result.whole[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again.map, result.map[1:], rtol=1e-3, atol=1e-3)  # other batches round differently


@pytest.mark.parametrize("name", SCORES)
def test_the_smallest_area_is_found(name):
    net, score = subject(name)
    method = ExtremalPerturbation(steps=4, mask=SmoothMask(step=4, sigma=6))
    result = smallest(method, net, pictures(), score, keep=0.8, tolerance=0.2, areas=(0.2, 0.5, 0.9))
    assert result.reached.any()
    torch.testing.assert_close(result.wanted, 0.8 * score(net(pictures()), torch.arange(2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_they_have_names_in_tables_and_reports(name):
    net, score = subject(name)
    words = quantity(as_json(score))
    assert words
    assert words != name
    assert name in html(METHODS["RISE"](net, pictures(), score))
