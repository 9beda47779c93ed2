"""Sheets of channels: what they draw, and what is said when they cannot."""

import pytest
import torch
from PIL import Image
from torch import nn

from sfumato import ExtremalChannels, ExtremalPerturbation, SmoothMask, class_channels, plots, sheets, smallest
from sfumato.figures import panels
from sfumato.models import Classifier, Preparation

pytest.importorskip("matplotlib", reason="figures need matplotlib")


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 12, 3)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.layer(x).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def picture():
    return torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network():
    """Every score is positive."""
    net = Network().eval()
    with torch.no_grad():
        net.head.weight.abs_()
    return net


METHOD = ExtremalChannels(layer="layer", counts=(2, 4), steps=6)


def test_a_sheet_has_the_overlay_the_inversions_the_curve_and_the_channels(network, picture, tmp_path):
    inputs = torch.stack([picture, picture.flip(2)])
    result = METHOD(network, inputs, 1)
    found = smallest(METHOD, network, inputs, 1)
    inversions = {"of all": torch.rand(3, 20, 24), "of the set": torch.rand(3, 20, 24)}
    figure = sheets.channels(result[1], picture, count=5, found=found[1], inversions=inversions, title="mine")
    titles = [axes.get_title() for axes in figure.axes]
    indices, weights = result[1].channels(5)
    assert titles[:4] == ["the input", "overlay of 4 of 12 channels", "of all", "of the set"]
    expected = [f"channel {i}\nweight {w:.2g}" for i, w in zip(indices[0].tolist(), weights[0].tolist(), strict=True)]
    assert titles[5:] == expected
    curve = figure.axes[4]
    drawn = {line.get_label(): line for line in curve.get_lines()}
    assert {"all 12", "none", "counts tried", "90 % of all", "these channels alone", "all but these"} == set(drawn)
    assert drawn["these channels alone"].get_ydata() == pytest.approx(result.scores[1].tolist())
    assert list(drawn["counts tried"].get_xdata()) == [1, 2, 5, 10, 12]
    assert drawn["counts tried"].get_ydata() == pytest.approx(found.curve_scores[1].tolist())
    panels.save(figure, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_sheet_of_one_set_without_a_search(network, picture):
    result = METHOD(network, picture[None], 1)
    figure = sheets.channels(result, picture, variant=0)
    assert figure.axes[1].get_title() == "overlay of 2 of 12 channels"
    assert "90 % of all" not in {line.get_label() for line in figure.axes[2].get_lines()}


def test_what_cannot_be_drawn(network, picture):
    result = METHOD(network, picture.expand(2, -1, -1, -1), 1)
    with pytest.raises(ValueError, match="of 2 queries"):
        sheets.channels(result, picture)
    with pytest.raises(ValueError, match=r"draw them with sfumato\.sheets\.channels"):
        plots.figure(result, picture)
    at_a_layer = ExtremalPerturbation((0.3,), steps=2, layer="layer", mask=SmoothMask(3, 6))(network, picture[None], 1)
    with pytest.raises(ValueError, match="no masks of channels"):
        sheets.channels(at_a_layer, picture)
    assert plots.figure(at_a_layer, picture).axes, "masks of a layer's places are enlarged"


def test_a_sheet_of_a_class_has_its_channels_with_their_examples(tmp_path):
    class Bright(nn.Module):
        """Class 1 adds up three channels, each a colour; a fourth one plays no part."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 1, bias=False)
            with torch.no_grad():
                self.layer.weight.copy_(torch.eye(4, 3)[:, :, None, None])

        def forward(self, x):
            values = self.layer(x).mean((2, 3))[:, :3].sum(1)
            return torch.stack([-values, values], 1)

    pictures = []
    for number in range(3):
        values = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(number))
        pictures.append(tmp_path / f"{number}.png")
        Image.fromarray((255 * values).byte().numpy()).save(pictures[-1])
    classifier = Classifier("bright", Bright().eval(), Preparation(16, None, (0, 0, 0), (1, 1, 1)), ("dark", "bright"))
    found = class_channels(ExtremalChannels(layer="layer", steps=6), classifier, pictures, 1)
    figure = sheets.of_class(found, count=2, examples=3, inversions={0: torch.rand(3, 16, 16)}, title="bright")
    words = [text.get_text() for text in figure.texts]
    indices, weights = found.top(2)
    for channel, weight in zip(indices.tolist(), weights.tolist(), strict=True):
        assert any(text.startswith(f"channel {channel}\nweight {weight:.2f}\n± ") for text in words)
    titles = [axes.get_title() for axes in figure.axes]
    expected = [f"{crop.activation:.3g}" for crop in found.crops(int(indices[0]), 3)]
    assert titles[:3] == expected
    assert titles.count("alone") == 1
    assert figure.axes[-1].get_xlabel() == "channels that each of 3 pictures needs"
    panels.save(figure, tmp_path / "class.png")
