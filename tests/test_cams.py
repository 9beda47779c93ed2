"""Score-CAM and LayerCAM against naive loops and known answers."""

import numpy as np
import pytest
import torch
from networks import network
from torch import nn

from sfumato import Blur, Constant, Fade, GradCAM, LayerCAM, Logit, Probability, ScoreCAM
from sfumato.methods.score_cam import flat, scaled

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def inputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def resized(maps, shape):
    return nn.functional.interpolate(maps, shape, mode=MODES[len(shape)], align_corners=False)


@pytest.mark.parametrize("shape", [(20,), (12, 15), (6, 8, 7)])
@pytest.mark.parametrize("weights", ["increase", "softmax"])
def test_score_cam_agrees_with_loops_over_the_maps(shape, weights):
    model, x = network(len(shape)), inputs(2, 3, *shape)
    result = ScoreCAM(layer="1", weights=weights)(model, x, [1, 3])
    for row, target in enumerate([1, 3]):
        with torch.no_grad():
            maps = model[:2](x[row : row + 1])[0].double()
            nothing = model(torch.zeros_like(x[:1])).softmax(1)[0, target].item()
            alphas = []
            for k in range(len(maps)):
                mask = resized(maps[k][None, None].float(), shape)[0, 0].numpy()
                mask = (mask - mask.min()) / (mask.max() - mask.min())
                score = model(x[row : row + 1] * torch.from_numpy(mask)).softmax(1)[0, target].item()
                alphas.append(score - nothing)
        if weights == "softmax":
            alphas = np.exp(alphas) / np.exp(alphas).sum()
        total = sum(alpha * values for alpha, values in zip(alphas, maps, strict=True))
        expected = resized(total.clamp(min=0)[None, None].float(), shape)
        torch.testing.assert_close(result.map[row : row + 1], expected, rtol=1e-3, atol=1e-5)
        assert result.blank[row].item() == pytest.approx(nothing, rel=1e-4)


@pytest.mark.parametrize("shape", [(20,), (12, 15), (6, 8, 7)])
def test_layer_cam_agrees_with_loops_over_places(shape):
    model, x = network(len(shape)), inputs(2, 3, *shape)
    result = LayerCAM(layer="1", resize=False)(model, x, [1, 3])
    for row, target in enumerate([1, 3]):
        maps = model[:2](x[row : row + 1]).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model[2:](maps)[0, target], maps)
        expected = np.zeros(maps.shape[2:])
        for place in np.ndindex(*expected.shape):
            values = [
                max(0.0, gradient[(0, k, *place)].item()) * maps[(0, k, *place)].item() for k in range(maps.shape[1])
            ]
            expected[place] = max(0.0, sum(values))
        torch.testing.assert_close(result.map[row, 0].double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-6)
    enlarged = LayerCAM(layer="1")(model, x, [1, 3])
    torch.testing.assert_close(enlarged.map, resized(result.map, shape))


class Halves(nn.Module):
    """Two maps, the left and the right half of pictures, and the sum of what is seen on the left, weighted by `weights`."""

    def __init__(self, weights=(1.0, 1.0)):
        super().__init__()
        self.layer = nn.Identity()
        self.weights = torch.tensor(weights)

    def forward(self, x):
        maps = self.layer(x)
        return (maps[..., :4].sum((2, 3)) * self.weights).sum(1, keepdim=True)


def halves():
    x = torch.zeros(1, 2, 8, 8)
    x[:, 0, :, :4] = 1
    x[:, 1, :, 4:] = 1
    return x


def test_score_cam_weighs_a_map_by_what_it_shows():
    """The left map shows 32 places of the score, the right one none of them."""
    expected = torch.zeros(1, 1, 8, 8)
    expected[..., :4] = 32
    result = ScoreCAM(layer="layer")(Halves(), halves(), Logit(0))
    torch.testing.assert_close(result.map, expected)
    assert result.blank.item() == 0
    # With the softmax of 32 and 0 over both maps the left one has all the weight.
    torch.testing.assert_close(
        ScoreCAM(layer="layer", weights="softmax")(Halves(), halves(), Logit(0)).map, expected / 32
    )


def test_layer_cam_takes_each_place_s_own_positive_gradient():
    """The gradient is 2 and -3 on the left and 0 on the right: what remains is twice the left map; Grad-CAM has the means."""
    model = Halves((2.0, -3.0))
    x = halves() + 1
    expected = torch.zeros(1, 1, 8, 8)
    expected[..., :4] = 2 * 2
    torch.testing.assert_close(LayerCAM(layer="layer")(model, x, Logit(0)).map, expected)
    whole = (1.0 * x[:, :1] - 1.5 * x[:, 1:]).clamp(min=0)
    torch.testing.assert_close(GradCAM(layer="layer")(model, x, Logit(0)).map, whole)


class Dead(nn.Module):
    """Maps of which the first is the picture, the others flat."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.layer = nn.Identity()
        self.gain, self.rows = gain, 0

    def forward(self, x):
        self.rows += len(x)
        flat_map = torch.full_like(x, 0.3)
        maps = self.layer(torch.cat([self.gain * x, flat_map, flat_map], 1))
        return maps.sum((2, 3))


def test_flat_maps_have_no_weight_and_cost_nothing():
    model = Dead().eval()
    x = inputs(2, 1, 8, 8).abs()
    result = ScoreCAM(layer="layer", score="logit")(model, x, 0)
    probe = 12  # rows alone and in pairs, also for the axes, and the inputs
    assert model.rows <= 2 + 2 + 2 + probe  # the inputs for their maps, one map each, and nothing shown
    assert (result.map > 0).any()
    model = Dead(gain=0.0).eval()
    with pytest.warns(UserWarning, match="does not change with the places of layer 'layer'"):
        result = ScoreCAM(layer="layer", weights="softmax")(model, x, 0)
    assert torch.equal(result.map, torch.zeros(2, 1, 8, 8))


def test_maps_of_rounding_alone_are_flat():
    maps = torch.stack([torch.full((4, 4), 0.3), torch.zeros(4, 4), inputs(4, 4)])[None]
    maps[0, 0, 2, 2] += 3e-8
    assert flat(maps).tolist() == [[True, True, False]]
    between = scaled(inputs(3, 1, 5, 5))
    assert between.amin((1, 2, 3)).tolist() == [0, 0, 0]
    assert between.amax((1, 2, 3)).tolist() == [1, 1, 1]
    assert torch.equal(scaled(torch.ones(1, 1, 3, 3)), torch.zeros(1, 1, 3, 3))


class Barred(nn.Module):
    """A network that cannot be differentiated."""

    def __init__(self):
        super().__init__()
        self.net = network(2)

    def forward(self, x):
        with torch.no_grad():
            return self.net(x.detach())


def test_score_cam_needs_no_gradients():
    x = inputs(2, 3, 12, 15)
    barred = ScoreCAM(layer="net.1")(Barred().eval(), x, 1)
    torch.testing.assert_close(barred.map, ScoreCAM(layer="1")(network(2), x, 1).map)
    with pytest.raises(ValueError, match="depend on the layer"):
        LayerCAM(layer="net.1")(Barred().eval(), x, 1)


def test_score_cam_in_batches_and_alone():
    model, x = network(2), inputs(3, 3, 12, 15)
    steps = []
    together = ScoreCAM(layer="1")(model, x, [1, 0, 3], steps.append).map
    assert [(step.index, step.steps) for step in steps] == [(0, 1)]
    assert steps[0].values.shape == steps[0].areas.shape == (12,)
    assert ((steps[0].areas > 0) & (steps[0].areas < 1)).all()
    for batch in (1, 5):
        torch.testing.assert_close(
            ScoreCAM(layer="1", batch=batch)(model, x, [1, 0, 3]).map, together, rtol=1e-4, atol=1e-6
        )
    for row, target in enumerate([1, 0, 3]):
        alone = ScoreCAM(layer="1")(model, x[row : row + 1], Probability(target)).map
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-6)


def test_score_cam_hides_with_any_perturbation():
    """With a constant that is the picture itself nothing is hidden, so that no map has a weight."""
    x = torch.full((1, 1, 8, 8), 2.0)
    x[..., 0] = 2.5

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            return self.layer(x).sum((2, 3))

    faded = ScoreCAM(layer="layer", perturbation=Constant(2.0))(Sum(), x, Logit(0))
    assert faded.blank.item() == 128
    torch.testing.assert_close(faded.map, 4 * x)  # eight places, each half a unit above the constant
    blurred = ScoreCAM(layer="layer", perturbation=Blur(2, 2))(Sum(), x, Logit(0))
    torch.testing.assert_close(blurred.blank, x.sum()[None], rtol=1e-4, atol=0)  # a blur keeps the sum


class Against(nn.Module):
    """Whatever its layer sees speaks against the score."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x):
        return -self.layer(x).square().sum((2, 3))


@pytest.mark.parametrize("kind", [GradCAM, LayerCAM, ScoreCAM])
def test_a_map_that_is_cut_off_everywhere_says_so(kind):
    x = torch.arange(1.0, 17).view(1, 1, 4, 4)
    method = kind(layer="layer")
    with pytest.warns(UserWarning, match=f"the map of {kind.__name__} is 0 everywhere for input .*LinearApproximation"):
        assert not method(Against(), x, Logit(0)).map.any()


@pytest.mark.parametrize("name", ["ScoreCAM", "LayerCAM", "GradCAM"])
def test_a_layer_has_a_name_and_places(name):
    method = {"ScoreCAM": ScoreCAM, "LayerCAM": LayerCAM, "GradCAM": GradCAM}[name]
    with pytest.raises(ValueError, match="the model has no layer 'nowhere'"):
        method(layer="nowhere")(network(2), inputs(1, 3, 12, 12), 1)
    with pytest.raises(ValueError, match="has no places to show"):
        method(layer="4")(network(2), inputs(1, 3, 12, 12), 1)
    with pytest.raises(ValueError, match="calls its layer '1' 1 time"):
        method(layer="1", call=3)(network(2), inputs(1, 3, 12, 12), 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "mean"}, "weights must be one of increase, softmax; got 'mean'"),
        ({"perturbation": (Fade(), Fade())}, "ScoreCAM hides places with one perturbation"),
        ({"batch": 0}, "batch must be a whole number from 1 up; got 0"),
        ({"smooth": -1}, "smooth is a fraction of the map's shortest side"),
        ({"memory": 0}, "memory is in GiB, more than 0; got 0"),
        ({"layer": 3}, "layer is the dotted name of a module"),
        ({"score": "odds"}, "score"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        ScoreCAM(**settings)
