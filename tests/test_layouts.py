"""Which axis of a layer's values is which: as the network computes it, as the user says, or asked for; never guessed."""

import importlib
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sfumato
from sfumato.cli.layers import _remarks
from sfumato.layers.above import above
from sfumato.layers.axes import Axis
from sfumato.layers.capture import captured
from sfumato.layers.flow import axes_at
from sfumato.layers.outline import in_words, outline
from sfumato.layers.tokens import LayoutError, channel_layout, check_axes, layout
from sfumato.model.subject import Subject
from sfumato.settings import as_json, from_json

METHODS = (
    sfumato.ExtremalPerturbation,
    sfumato.ExtremalChannels,
    sfumato.GradCAM,
    sfumato.Gradient,
    sfumato.GuidedBackprop,
    sfumato.Deconvnet,
    sfumato.LinearApproximation,
    sfumato.ExcitationBackprop,
    sfumato.ContrastiveExcitationBackprop,
)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield


def values_of(net, inputs, layer):
    with captured(net, layer) as capture, torch.no_grad():
        net(inputs)
    return capture.output.detach()


def read(net, inputs, layer, channels=False, told=""):
    """How the layer's values are read, as a value of `layout`."""
    net = net.eval()
    space = tuple(inputs.shape[2:])
    with torch.no_grad():
        axes = axes_at(net, layer, "output", inputs, net, told)
    shape = values_of(net, inputs, layer).shape
    if channels:
        return channel_layout(shape, space, layer, axes, told).channels
    return layout(shape, space, layer, axes, told).letters(len(space))


# Small networks built as the well-known ones are.


class Windows(nn.Module):
    """Attention within windows, of maps padded to multiples of these, and shifted: Swin."""

    def __init__(self, channels, window, shift):
        super().__init__()
        self.window, self.shift = window, shift
        self.qkv, self.weights = nn.Linear(channels, 3 * channels), nn.Identity()
        self.proj = nn.Linear(channels, channels)

    def forward(self, x):
        batch, *size, channels = x.shape
        last = len(size)
        pads = [(-side) % self.window for side in size]
        x = nn.functional.pad(x, (0, 0, *[n for pad in reversed(pads) for n in (0, pad)]))
        padded = x.shape[1:-1]
        axes = tuple(range(1, last + 1))
        x = x.roll((-self.shift,) * last, axes)
        cut = [n for side in padded for n in (side // self.window, self.window)]
        outer, inner = list(range(1, 2 * last, 2)), list(range(2, 2 * last + 1, 2))
        x = x.view(batch, *cut, channels).permute(0, *outer, *inner, 2 * last + 1)
        q, k, v = self.qkv(x.reshape(-1, self.window**last, channels)).chunk(3, -1)
        x = self.proj(self.weights((q @ k.mT).softmax(-1)) @ v)
        x = x.view(batch, *[n // self.window for n in padded], *[self.window] * last, channels)
        order = [axis for pair in zip(range(1, last + 1), range(last + 1, 2 * last + 1), strict=True) for axis in pair]
        x = x.permute(0, *order, 2 * last + 1).reshape(batch, *padded, channels).roll((self.shift,) * last, axes)
        return x[(slice(None), *[slice(side) for side in size])]


class SwinBlock(nn.Module):
    def __init__(self, channels, window, shift):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(channels), Windows(channels, window, shift)
        self.norm2, self.mlp = (
            nn.LayerNorm(channels),
            nn.Sequential(nn.Linear(channels, 12), nn.GELU(), nn.Linear(12, channels)),
        )

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Merging(nn.Module):
    """Half as many places along the last two axes, rounded up."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * channels), nn.Linear(4 * channels, 2 * channels)

    def forward(self, x):
        x = nn.functional.pad(x, (0, 0, 0, x.shape[-2] % 2, 0, x.shape[-3] % 2))
        quarters = [x[..., i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(quarters, -1)))


class Swin(nn.Module):
    def __init__(self, axes=2, window=3):
        super().__init__()
        embed = (nn.Conv2d, nn.Conv3d)[axes - 2]
        self.embed = embed(3, 8, (4, 4) if axes == 2 else (2, 4, 4), (4, 4) if axes == 2 else (2, 4, 4))
        self.norm = nn.LayerNorm(8)
        self.stage1 = nn.Sequential(SwinBlock(8, window, 0), SwinBlock(8, window, 1))
        self.merging = Merging(8)
        self.stage2 = nn.Sequential(SwinBlock(16, window, 0), SwinBlock(16, window, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.norm(self.embed(x).movedim(1, -1))
        return self.head(self.stage2(self.merging(self.stage1(x))).flatten(1, -2).mean(1))


class MixerBlock(nn.Module):
    def __init__(self, tokens, channels, hidden):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.fc1, self.fc2 = nn.Linear(tokens, hidden), nn.Linear(hidden, tokens)
        self.mlp = nn.Sequential(nn.Linear(channels, 20), nn.GELU(), nn.Linear(20, channels))

    def forward(self, x):
        mixed = self.fc2(nn.functional.gelu(self.fc1(self.norm1(x).mT)))
        x = x + mixed.mT
        return x + self.mlp(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self, size=(14, 14), patch=4, channels=25, hidden=16):
        super().__init__()
        tokens = math.prod(side // patch for side in size)
        self.embed = nn.Conv2d(3, channels, patch, patch)
        self.blocks = nn.Sequential(MixerBlock(tokens, channels, hidden), MixerBlock(tokens, channels, hidden))
        self.head = nn.Linear(channels, 5)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x).flatten(2).mT).mean(1))


class Attention(nn.Module):
    def __init__(self, channels, heads=2):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.weights, self.values = nn.Identity(), nn.Identity()

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = self.weights((q @ k.mT).softmax(-1))
        return self.proj(self.values(weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(channels), Attention(channels)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(channels), nn.Linear(channels, 16), nn.Linear(16, channels)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class Wave(nn.Module):
    """Sound: convolutions without padding, then a transformer over time, with a convolution for positions: wav2vec 2.0."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(1, 24, 10, 5), nn.GELU(), nn.Conv1d(24, 32, 3, 2), nn.GELU())
        self.norm, self.positions = nn.LayerNorm(32), nn.Conv1d(32, 32, 4, padding=2, groups=4)
        self.layers = nn.Sequential(Block(32), Block(32))
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.norm(self.features(x).mT)
        x = x + nn.functional.gelu(self.positions(x.mT)[:, :, :-1]).mT
        return self.head(self.layers(x).mean(1))


class Transformer(nn.Module):
    """Of pictures; `before` and `behind` are tokens without a place, and the patches may overlap."""

    def __init__(self, patch=4, stride=4, before=1, behind=0, channels=8, token_first=False):
        super().__init__()
        self.embed = nn.Conv2d(3, channels, patch, stride)
        self.before, self.behind = (nn.Parameter(torch.randn(1, count, channels)) for count in (before, behind))
        self.layers, self.head, self.token_first = (
            nn.Sequential(Block(channels), Block(channels)),
            nn.Linear(channels, 5),
            token_first,
        )
        self.turned = nn.Identity()

    def forward(self, x):
        x = self.embed(x).flatten(2).mT
        x = torch.cat([self.before.expand(len(x), -1, -1), x, self.behind.expand(len(x), -1, -1)], 1)
        if self.token_first:  # as in CLIP
            x = self.turned(x.permute(1, 0, 2)).permute(1, 0, 2)
        return self.head(self.layers(x).mean(1))


class Frames(nn.Module):
    """A network of pictures for each frame of a video."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.joined, self.head = nn.Identity(), nn.Linear(4, 5)

    def forward(self, x):
        frames = self.net(x.transpose(1, 2).flatten(0, 1))
        return self.head(self.joined(frames.unflatten(0, (len(x), -1))).mean((1, 3, 4)))


class Recurrent(nn.Module):
    def __init__(self, kind, batch_first):
        super().__init__()
        self.embed, self.batch_first = nn.Conv1d(2, 6, 4, 4), batch_first
        self.steps = kind(6, 10, batch_first=batch_first, bidirectional=True)
        self.norm, self.head = nn.LayerNorm(20), nn.Linear(20, 5)

    def forward(self, x):
        x = self.embed(x).permute(*((0, 2, 1) if self.batch_first else (2, 0, 1)))
        return self.head(self.norm(self.steps(x)[0]).mean(1 if self.batch_first else 0))


class Fourier(nn.Module):
    """A filter of frequencies between tokens: GFNet."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.out = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 8)
        self.filtered, self.head = nn.Identity(), nn.Linear(8, 5)

    def forward(self, x):
        x = self.embed(x).permute(0, 2, 3, 1)
        y = torch.fft.irfft2(torch.fft.rfft2(self.norm(x), dim=(1, 2)) * 0.5, s=x.shape[1:3], dim=(1, 2))
        return self.head(self.out(x + self.filtered(y)).mean((1, 2)))


class Pruned(nn.Module):
    """A quarter of the tokens go on, those with the largest values."""

    def __init__(self):
        super().__init__()
        self.embed, self.layers, self.head = nn.Conv2d(3, 8, 4, 4), nn.Sequential(Block(8)), nn.Linear(8, 5)

    def forward(self, x):
        x = self.embed(x).flatten(2).mT
        best = x.norm(dim=2).topk(x.shape[1] // 4, dim=1).indices
        x = x.gather(1, best[:, :, None].expand(-1, -1, x.shape[2]))
        return self.head(self.layers(x).mean(1))


class Hidden(nn.Module):
    """What happens between the modules happens in numpy, where nothing can be watched."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.layer, self.head = shape, nn.Identity(), nn.Linear(math.prod(shape), 5)

    def forward(self, x):
        x = torch.from_numpy(np.resize(x.numpy(), (len(x), *self.shape)))
        return self.head(self.layer(x).flatten(1))


def pictures(height, width, count=2):
    return torch.randn(count, 3, height, width)


KNOWN = {
    "Swin, a grid in proportion": (
        Swin,
        (3, 48, 48),
        {"stage1.1": "BHWC", "merging": "BHWC", "stage2.0.mlp.0": "BHWC"},
    ),
    "Swin, padded windows": (
        Swin,
        (3, 40, 52),
        {
            "embed": "BCHW",
            "norm": "BHWC",
            "stage1.0.attn": "BHWC",
            "stage1.1": "BHWC",
            "merging.norm": "BHWC",
            "merging.reduction": "BHWC",
            "stage2.1.attn": "BHWC",
            "stage2": "BHWC",
        },
    ),
    "video Swin": (
        lambda: Swin(3, 2),
        (3, 8, 20, 12),
        {"embed": "BCTHW", "norm": "BTHWC", "stage1.1.attn": "BTHWC", "merging": "BTHWC", "stage2": "BTHWC"},
    ),
    "token mixer": (
        lambda: Mixer((16, 20)),
        (3, 16, 20),
        {
            "blocks.0": "B(4*5)C",
            "blocks.0.mlp.0": "B(4*5)C",
            "blocks.0.fc2": "BC(4*5)",  # 25 channels: a square, as one of tokens would be
            "blocks.1.fc2": "BC(4*5)",
        },
    ),
    "sound": (
        Wave,
        (1, 275),
        {"features": "BCL", "norm": "BLC", "positions": "BCL", "layers.0.fc1": "BLC", "layers": "BLC"},
    ),
    "class token": (Transformer, (3, 16, 24), {"layers.0": "B(1+4*6)C", "layers.1.fc1": "B(1+4*6)C"}),
    "patches that overlap": (lambda: Transformer(5, 3, 5), (3, 17, 30), {"layers.0": "B(5+5*9)C"}),
    "tokens on both sides": (lambda: Transformer(4, 4, 1, 2), (3, 16, 16), {"layers.0.norm1": "B(1+4*4+2)C"}),
    "no leading token": (lambda: Transformer(4, 4, 0), (3, 12, 20), {"layers.1.attn.proj": "B(3*5)C"}),
    "frequencies": (Fourier, (3, 16, 24), {"filtered": "BHWC", "out": "BHWC"}),
    "frames, put together": (Frames, (3, 2, 8, 12), {}),
    "recurrent": (lambda: Recurrent(nn.LSTM, True), (2, 48), {"norm": "BLC"}),
    "gated recurrent": (lambda: Recurrent(nn.GRU, True), (2, 48), {"norm": "BLC"}),
}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", KNOWN)
def test_axes_are_known_by_how_the_network_computes_them(name, count):
    make, shape, layers = KNOWN[name]
    net, inputs = make().eval(), torch.randn(count, *shape)
    assert {layer: read(net, inputs, layer) for layer in layers} == layers
    last = {layer: -1 if letters.endswith("C") else 1 for layer, letters in layers.items()}
    assert {layer: read(net, inputs, layer, channels=True) for layer in layers} == last


@pytest.mark.parametrize("size", [(97, 131), (224, 300), (33, 64)])
def test_convolutions_of_any_size(size):
    """Floors, ceilings and lost borders."""
    net = nn.Sequential(
        *(
            nn.Conv2d(3, 24, 7, 2, 3),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(24, 12, 3),
        ),
        *(nn.AvgPool2d(2), nn.Conv2d(12, 30, 3, 2, 1, groups=6), nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(30, 5)),
    )
    inputs = pictures(*size)
    assert {read(net, inputs, str(place)) for place in range(9)} == {"BCHW"}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_torch_s_own_transformer(axes):
    """Also where it computes a layer as one operation."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](3, 8, 4, 4)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.encoder(self.embed(x).flatten(2).mT).mean(1))

    inputs = torch.randn(2, 3, *(8, 12, 20)[:axes])
    expected = {1: "BLC", 2: "B(2*3)C", 3: "B(2*3*5)C"}[axes]
    assert {read(Net(), inputs, layer) for layer in ("encoder", "encoder.layers.0")} == {expected}


def test_what_is_read_is_what_lies_there():
    """The places of a map are those of the picture: a bright patch of it is bright at its place at every layer."""
    net = Swin().eval()
    inputs = torch.zeros(1, 3, 40, 52)
    inputs[:, :, 24:28, 36:40] = 1.0
    net.embed.weight.data.fill_(0.1)
    net.embed.bias.data.zero_()
    with torch.no_grad():
        axes = axes_at(net, "norm", "output", inputs, net)
    net.norm = nn.Identity()  # which would make all places alike
    maps = layout((1, 10, 13, 8), (40, 52), "norm", axes).places(net.embed(inputs).movedim(1, -1))
    assert maps.shape == (1, 8, 10, 13)
    assert (maps[0, 0] > 0).nonzero().tolist() == [[6, 9]]


@pytest.mark.parametrize(
    ("make", "shape", "layer", "message"),
    [
        (Swin, (3, 40, 52), "stage1.1.attn.qkv", "first axis counts the batch and places, not the batch alone"),
        (Swin, (3, 40, 52), "stage1.1.attn.weights", "first axis counts the batch and places"),
        (
            Transformer,
            (3, 16, 16),
            "layers.0.attn.weights",
            r"\(2, 2, 17, 17\), of which two axes count the same places",
        ),
        (lambda: Transformer(4, 4, 0), (3, 16, 16), "layers.0.attn.weights", "two axes count the same places"),
        (Transformer, (3, 16, 16), "layers.0.attn.values", "batch · channels · places .* · channels"),
        (
            lambda: Transformer(token_first=True),
            (3, 16, 24),
            "turned",
            "first axis counts places.*the batch is its axis 1",
        ),
        (lambda: Recurrent(nn.LSTM, False), (2, 48), "norm", "first axis counts places.*the batch is its axis 1"),
        (Frames, (3, 4, 8, 12), "net", "first axis counts the batch and places"),
        (Frames, (3, 4, 8, 12), "joined", r"batch · places \(4\) · channels · places \(4\) · places \(6\)"),
        (lambda: Mixer((16, 16)), (3, 16, 16), "blocks.0.fc1", "sums or a choice of places"),
        (Pruned, (3, 16, 16), "layers", "sums or a choice of places"),
        (Swin, (3, 40, 52), "head", "batch · channels"),
    ],
)
def test_what_is_no_map_is_refused(make, shape, layer, message):
    net, inputs = make().eval(), torch.randn(2, *shape)
    with pytest.raises(LayoutError, match=message) as caught:
        read(net, inputs, layer)
    assert not caught.value.readings, "there is nothing to ask"
    with pytest.raises(ValueError, match=layer):
        sfumato.GradCAM(layer=layer)(net, inputs, 1)


@pytest.mark.parametrize("layer", ["stage1.1.attn.qkv", "stage1.1.attn.weights"])
def test_channels_of_windows_are_refused(layer):
    with pytest.raises(LayoutError, match="not the batch alone"):
        sfumato.ExtremalChannels(layer=layer, counts=(1,), steps=1)(Swin().eval(), pictures(40, 52), 1)


def test_attention_is_no_map_for_channels_either():
    with pytest.raises(LayoutError, match="two axes count the same places.*groups"):
        sfumato.ExtremalChannels(layer="layers.0.attn.weights", counts=(1,), steps=1)(
            Transformer().eval(), pictures(16, 16), 1
        )


@pytest.mark.parametrize(
    ("layer", "told", "message"),
    [
        (
            "0",
            "BLC",
            r"layout='BLC' does not fit: the layer '0' takes in, as its first .* argument, shape \(1, 3, 8, 8\)",
        ),
        ("2", "BLC", r"layout='BLC' does not fit: the layer '2' takes in, as its first .* argument, shape \(1, 144\)"),
        (
            "2",
            "",
            r"the layer '2' takes in, as its first .* argument, shape \(1, 144\).*name a layer whose input has places",
        ),
    ],
)
def test_messages_about_an_input_say_input(layer, told, message):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    with pytest.raises(LayoutError, match=message), Subject.prepared(net, pictures(8, 8)[:1], 1) as subject:
        above(subject, layer, "input", letters=told)


def test_axes_of_an_input_are_said_of_the_input():
    places, channels = Axis("places", size=4), Axis("channels", size=3)
    with pytest.raises(LayoutError, match=r"'head' takes in, .* shape \(4, 3\), whose first axis.* whose input is"):
        check_axes((places, channels), "head", at="input")


HIDDEN = {
    (24, 24, 24): ("BCHW", "BHWC"),
    (16, 16): ("B(4*4)C", "BC(4*4)"),
    (2, 16, 16): ("BCHW",),  # or attention
}


@pytest.mark.parametrize("shape", HIDDEN)
def test_where_several_readings_fit_the_layout_is_asked_for(shape):
    net, inputs = Hidden(shape).eval(), pictures(64, 64)
    with pytest.raises(LayoutError, match=r'say which, e\.g\. layer=\'layer\', layout="') as caught:
        read(net, inputs, "layer")
    assert caught.value.readings == HIDDEN[shape]
    for told in HIDDEN[shape]:
        assert read(net, inputs, "layer", told=told) == told


def test_a_sound_s_axes_are_asked_for():
    with pytest.raises(
        LayoutError, match=r'"BCL" \(24 channels at 32 places\) or layout="BLC" \(32 channels at 24'
    ) as caught:
        read(Hidden((24, 32)).eval(), torch.randn(1, 1, 32), "layer")
    assert caught.value.readings == ("BCL", "BLC")


@pytest.mark.parametrize(
    ("shape", "letters"),
    [((128, 7, 7), "BCHW"), ((7, 7, 96), "BHWC"), ((50, 96), "B(1+7*7)C"), ((96, 49), "BC(7*7)")],
)
def test_where_one_reading_fits_nothing_is_asked(shape, letters):
    assert read(Hidden(shape).eval(), pictures(56, 56), "layer") == letters


def test_a_hint_is_heeded_by_every_method_and_written_down():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 4, 4), nn.ReLU(), Turn(), Hidden((6, 6, 6)).layer, nn.Flatten(1), nn.Linear(216, 5)
    ).eval()
    inputs = pictures(24, 24)
    for kind in METHODS:
        options = {"counts": (2,)} if kind is sfumato.ExtremalChannels else {}
        method = kind(layer="3", layout="BHWC", **options)
        assert from_json(json.loads(json.dumps(as_json(method)))) == method
        with pytest.raises(ValueError, match=r'layout="BHWC"\?'):
            kind(layer="3", layout="NHWC", **options)
    first, last = (sfumato.Gradient(layer="3", layout=told, resize=False)(net, inputs, 1) for told in ("BCHW", "BHWC"))
    assert not torch.equal(first.map, last.map)
    torch.testing.assert_close(last.map, sfumato.Gradient(layer="3", resize=False)(net, inputs, 1).map)
    assert last.about["method"]["layout"] == "BHWC"


class Turn(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("BHW", "B for the batch first, C for the channels"),
        ("HWCB", "B for the batch first"),
        ("bchw", "B for the batch first"),
        ("NCHW", r'Did you mean layout="BCHW"\?'),
        ("BCXY", "THW or DHW, or N for tokens"),
        ("B(4x4)C", "B for the batch first"),
        (3, "layout names the axes.*got 3"),
    ],
)
def test_hints_that_are_none(told, message):
    with pytest.raises(ValueError, match=message):
        sfumato.GradCAM(layer="x", layout=told)


@pytest.mark.parametrize("told", ["BLC", "BNC", "BTHWC", "B(4*4)C"])
def test_hints_that_do_not_fit(told):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    with pytest.raises(
        LayoutError, match=r"does not fit: the layer '0' puts out shape \(1, 4, 6, 6\).*or leave it out"
    ):
        sfumato.GradCAM(layer="0", layout=told)(net, pictures(8, 8), 1)


def test_tokens_as_the_user_writes_them():
    net, inputs = Transformer(4, 4, 1, 2).eval(), pictures(16, 16)
    plain = sfumato.GradCAM(layer="layers.0", resize=False)(net, inputs, 1).map
    for told in ("BNC", "B(1+4*4+2)C"):
        torch.testing.assert_close(
            sfumato.GradCAM(layer="layers.0", layout=told, resize=False)(net, inputs, 1).map, plain
        )
    with pytest.raises(LayoutError, match="does not fit"):
        sfumato.GradCAM(layer="layers.0", layout="B(2+4*4)C")(net, inputs, 1)


@pytest.mark.parametrize("make", [lambda: Transformer(4, 4, 1, 2), lambda: Mixer((16, 20)), Swin])
def test_masks_at_a_layer_hide_the_places_that_they_show(make):
    """What the mask leaves, by hand in the layer's own form, scores the same."""
    net, inputs = make().eval(), pictures(16, 20)
    layer, grid = {Transformer: ("layers.0", (4, 5)), Mixer: ("blocks.0.fc2", (4, 5)), Swin: ("stage1", (4, 5))}[
        type(net)
    ]
    method = sfumato.ExtremalPerturbation(layer=layer, areas=(0.4,), steps=3, mask=sfumato.SmoothMask(3, 6))
    result = method(net, inputs, 1)
    assert result.masks.shape == (2, 1, 1, *grid)
    masks = result.masks[:, 0, 0]

    def hidden(_module: nn.Module, _given: object, output: Tensor) -> Tensor:
        if type(net) is Transformer:  # its class token before, two behind
            return output * nn.functional.pad(masks.flatten(1), (1, 2), value=1.0)[:, :, None]
        return output * (masks.flatten(1)[:, None] if type(net) is Mixer else masks[..., None])

    handle = net.get_submodule(layer).register_forward_hook(hidden)
    torch.testing.assert_close(result.scores[:, 0], net(inputs)[:, 1].detach(), rtol=1e-4, atol=1e-5)
    handle.remove()


def test_channels_of_transposed_tokens_and_of_sound():
    """(N, C, tokens), (N, time, C): the channels, and their overlay as a map."""
    mixed = sfumato.ExtremalChannels(layer="blocks.0.fc2", counts=(3,), steps=2)(
        Mixer((16, 20)).eval(), pictures(16, 20), 1
    )
    assert mixed.masks.shape == (2, 1, 25, 1)
    assert mixed.activation.shape == (2, 25, 4, 5)
    heard = sfumato.ExtremalChannels(layer="layers.0", counts=(3,), steps=2)(Wave().eval(), torch.randn(2, 1, 275), 1)
    assert heard.masks.shape[:3] == (2, 1, 32)
    assert heard.activation.shape == (2, 32, 26)


def test_the_outline_says_how_outputs_are_read_and_where_it_must_be_told():
    net = nn.Sequential(Swin().embed, Turn(), Hidden((6, 6, 6)), nn.ReLU()).eval()
    found = {layer.name: layer for layer in outline(net, pictures(24, 24))}
    assert in_words(found["1"]) == "6 × 6 × 8, channels last"
    assert (found["1"].reason, found["1"].readings) == ("as the network computes it", ())
    assert in_words(found["2.layer"]) == "6 × 6 × 6"
    assert found["2.layer"].readings == ("BCHW", "BHWC")
    assert _remarks(found["2.layer"], {}) == 'ask: layout="BCHW" or layout="BHWC"'
    tokens = {layer.name: in_words(layer) for layer in outline(Mixer((16, 20)), pictures(16, 20))}
    assert tokens["blocks.0.fc2"] == "25 × 20 tokens: 4 × 5"
    windows = {layer.name: layer for layer in outline(Transformer(), pictures(16, 24))}
    assert windows["layers.0.attn.weights"].reason == "two axes count the same places"
    assert _remarks(windows["layers.0.attn.weights"], {}) == "no map: two axes count the same places"
    assert windows["layers.0"].layout.grid == (4, 6)


def test_a_network_that_cannot_be_watched_is_read_by_sizes():
    class Stern(nn.Module):
        def forward(self, x):
            if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
                raise RuntimeError("no watching")
            return x

    net = nn.Sequential(nn.Conv2d(3, 12, 4, 4), Stern(), nn.Flatten(), nn.Linear(12 * 36, 5)).eval()
    assert read(net, pictures(24, 24), "0") == "BCHW"
    assert {layer.name: layer.reason for layer in outline(net, pictures(24, 24))}["0"] == "by its sizes"


class Biased(nn.Module):
    """A bias computed from weights by modules, and an output filled into what was made empty."""

    def __init__(self):
        super().__init__()
        self.embed, self.table = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(2, 6, 6, 2))
        self.bias, self.filled, self.head = nn.Linear(2, 8), nn.Identity(), nn.Linear(8, 5)

    def forward(self, x):
        x = self.embed(x) + self.bias(self.table).movedim(-1, 1)[: len(x)]
        out = torch.empty(x.shape)
        out[:, :4], out[:, 4:] = x[:, 4:], x[:, :4]
        return self.head(self.filled(out).mean((2, 3)))


def test_weights_are_no_map_and_what_is_filled_later_is_read_by_its_sizes():
    net, inputs = Biased().eval(), pictures(24, 24)
    assert read(net, inputs, "embed") == "BCHW"
    with pytest.raises(LayoutError, match="first axis counts weights"):
        read(net, inputs, "bias")
    assert read(net, inputs, "filled") == "BCHW"


REAL = {
    ("torchvision", "swin_t", (3, 96, 130)): {"features.1": "BHWC", "features.2": "BHWC", "features.5.1.attn": "BHWC"},
    ("torchvision", "swin_v2_t", (3, 96, 130)): {"features.3": "BHWC", "features.7.0.mlp.0": "BHWC"},
    ("torchvision", "convnext_tiny", (3, 97, 131)): {"features.3": "BCHW", "features.1.0.block.2": "BHWC"},
    ("torchvision", "vit_b_16", (3, 224, 224)): {"encoder.layers.encoder_layer_3": "B(1+14*14)C"},
    ("torchvision", "mobilenet_v3_small", (3, 97, 131)): {"features.4": "BCHW", "features.12": "BCHW"},
    ("timm", "mixer_s16_224", (3, 224, 224)): {"blocks.0": "B(14*14)C", "blocks.0.mlp_tokens.fc2": "BC(14*14)"},
    ("timm", "swin_tiny_patch4_window7_224", (3, 224, 224)): {"layers.1.downsample": "BHWC", "layers.1": "BHWC"},
    ("timm", "pit_ti_224", (3, 224, 224)): {"transformers.0.blocks.0": "B(1+27*27)C"},
}


@pytest.mark.parametrize(("package", "name", "shape"), REAL)
def test_architectures_of_other_packages(package, name, shape):
    pytest.importorskip(package)
    if package == "torchvision":
        net = importlib.import_module("torchvision.models").get_model(name, weights=None)
    else:
        net = importlib.import_module("timm").create_model(name, pretrained=False)
    expected = REAL[package, name, shape]
    assert {layer: read(net, torch.randn(1, *shape), layer) for layer in expected} == expected
