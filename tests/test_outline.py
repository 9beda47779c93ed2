"""The layers that a network is said to have are those that a pass calls, and the network stays as it was."""

import warnings
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn
from traces import assert_unchanged, state

from sfumato.layers.capture import captured
from sfumato.layers.outline import in_words, outline

SIZE = 32


class Attention(nn.Module):
    def __init__(self, size=12, heads=3):
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(size, 3 * size)
        self.drop = nn.Dropout(0.5)
        self.proj = nn.Linear(size, size)

    def forward(self, tokens):
        shape = (*tokens.shape[:2], 3, self.num_heads, -1)
        query, key, value = self.qkv(tokens).reshape(shape).permute(2, 0, 3, 1, 4)
        weights = self.drop((query @ key.transpose(-2, -1)).softmax(-1))
        return self.proj((weights @ value).transpose(1, 2).flatten(2))


class Small(nn.Module):
    """A small transformer whose parts are made in another order than they are called in."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 5)
        self.unused = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(12), Attention()) for _ in range(2))
        self.act = nn.GELU()
        self.embed = nn.Conv2d(3, 12, 8, 8)
        self.norm = nn.BatchNorm2d(12)

    def forward(self, inputs):
        maps = self.norm(self.act(self.embed(inputs)))
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        for block in self.blocks:
            tokens = tokens + self.act(block(tokens))
        return self.head(tokens[:, 0])


class Moved(nn.Module):
    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, values):
        return values.permute(self.order)


def pictures(count=2):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield


def test_layers_come_as_they_are_called_each_before_its_parts():
    names = [layer.name for layer in outline(Small(), pictures())]
    block = ["{0}", "{0}.0", "{0}.1", "{0}.1.qkv", "{0}.1.drop", "{0}.1.proj"]
    blocks = [name.format(f"blocks.{index}") for index in range(2) for name in block]
    assert names == ["embed", "act", "norm", *blocks, "head"]


def test_shapes_are_what_captured_sees():
    net = Small().eval()
    for layer in outline(net, pictures()):
        with captured(net, layer.name) as capture, torch.no_grad():
            net(pictures(1))
        assert capture.output[0].shape == layer.shape, layer.name


def test_calls_kinds_parameters_and_heads():
    found = {layer.name: layer for layer in outline(Small(), pictures())}
    assert {name: layer.calls for name, layer in found.items() if layer.calls != 1} == {"act": 3}
    assert (found["blocks.0.1"].kind, found["blocks.0.1.qkv"].kind) == ("Attention", "Linear")
    assert found["blocks.1.1.qkv"].parameters == 12 * 36 + 36
    assert found["blocks.1.1"].parameters == 12 * 36 + 36 + 12 * 12 + 12
    assert found["act"].parameters == 0
    joined = {name: layer.heads for name, layer in found.items() if layer.heads is not None}
    assert joined == {"blocks.0.1.proj": 3, "blocks.1.1.proj": 3}


class Ending(nn.Module):
    """A block that ends with a projection, with an attribute and a part of these names."""

    def __init__(self, attribute, number, part, projection):
        super().__init__()
        setattr(self, attribute, number)
        self.part = part
        self.add_module(part, projection)

    def forward(self, inputs):
        return self.get_submodule(self.part)(inputs.flatten(2)[..., :12])


LINEAR = nn.Linear(12, 8)


@pytest.mark.parametrize(
    ("attribute", "number", "part", "projection", "expected"),
    [
        ("num_attention_heads", 4, "dense", LINEAR, {"0.dense": 4}),
        ("n_head", 2, "c_proj", LINEAR, {"0.c_proj": 2}),
        ("h", 1, "o_proj", LINEAR, {"0.o_proj": 1}),
        ("heads", 6, "to_out", nn.Sequential(LINEAR, nn.Dropout()), {"0.to_out.0": 6}),
        ("num_heads", 5, "proj", LINEAR, {}),  # does not divide 12
        ("num_heads", 8, "proj", LINEAR, {}),  # divides what is put out
        ("num_heads", True, "proj", LINEAR, {}),
        ("num_heads", 0, "proj", LINEAR, {}),
        ("num_heads", 3, "fc1", LINEAR, {}),
        ("num_heads", 3, "proj", nn.Identity(), {}),
        ("rows", 3, "proj", LINEAR, {}),
    ],
)
def test_heads_are_told_by_the_names_of_their_block(attribute, number, part, projection, expected):
    net = nn.Sequential(Ending(attribute, number, part, projection))
    found = outline(net, pictures())
    assert f"0.{part}" in {layer.name for layer in found}
    assert {layer.name: layer.heads for layer in found if layer.heads is not None} == expected


def test_what_is_no_batch_of_tensors_has_no_shape():
    class Pair(nn.Module):
        def forward(self, values):
            return values, values

    class Table(nn.Module):
        """One for all inputs, as a table of positions is."""

        def forward(self, values):
            return values.mean(0, keepdim=True)

    class Rows(nn.Module):
        """Several an input, as windows are."""

        def forward(self, values):
            return values.flatten(0, 1)

    class Mean(nn.Module):
        def forward(self, values):
            return values.mean()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.table, self.rows, self.mean, self.whole = Pair(), Table(), Rows(), Mean(), nn.Flatten()

        def forward(self, inputs):
            self.rows(inputs), self.mean(inputs)
            return self.whole(self.pair(inputs)[0] + self.table(inputs))

    shapes = {layer.name: layer.shape for layer in outline(Net(), pictures())}
    assert shapes == {"pair": None, "table": None, "rows": None, "mean": None, "whole": (3 * SIZE * SIZE,)}


def test_shape_of_the_last_call_counts_as_it_does_for_captured():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AvgPool2d(2)

        def forward(self, inputs):
            return self.pool(self.pool(inputs)).flatten(1)

    (layer,) = outline(Twice(), pictures())
    assert (layer.shape, layer.calls) == ((3, SIZE // 4, SIZE // 4), 2)


def test_the_network_and_the_random_state_are_as_they_were():
    net = Small().train()
    net.blocks[0].eval()
    net.embed.weight.requires_grad_(False)
    drawn = []
    net.embed.register_forward_hook(lambda *_: drawn.append(torch.rand(())))
    before = state(net)
    outline(net, pictures())
    assert_unchanged(before, state(net))
    assert len(drawn) == 1


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_nothing_stays_behind_where_the_network_fails(failure):
    net = Small().train()

    def fail(*_):
        raise failure("no")

    net.blocks[1].register_forward_pre_hook(fail)
    before = state(net)
    with pytest.raises(failure, match="no"):
        outline(net, pictures())
    assert_unchanged(before, state(net))


def test_torch_s_own_transformer_shows_its_parts_as_methods_meet_them():
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    net = nn.Sequential(nn.Conv2d(3, 12, 8, 8), nn.Flatten(2), layer).eval()
    found = {layer.name: layer for layer in outline(net, pictures())}
    assert found["2.linear1"].shape == (12, 24)
    assert found["2.self_attn"].shape is None  # a pair
    assert "2.self_attn.out_proj" not in found  # whose weights alone are used


def test_a_network_without_parts_has_no_layers():
    assert outline(nn.Flatten(), pictures()) == ()


def test_what_cannot_be_listed_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    with pytest.raises(ValueError, match="only an nn.Module has layers that can be listed; the model is a function"):
        outline(lambda inputs: inputs, pictures())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        scripted = torch.jit.trace(net, pictures())
    compiled = torch.compile(net, backend="eager")
    in_place = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    in_place[0].compile(backend="eager")
    for model, words in (
        (scripted, "the model is compiled by torch.jit"),
        (compiled, "the model is compiled by torch.compile"),
        (nn.Sequential(compiled), "its part '0' is compiled by torch.compile"),
        (in_place, "its part '0' is compiled by torch.compile"),
    ):
        with pytest.raises(ValueError, match=f"{words}, inside which no layer can be watched"):
            outline(model, pictures())


def test_inputs_are_checked_as_everywhere():
    with pytest.raises(ValueError, match="inputs must be a torch tensor"):
        outline(Small(), [[1.0]])
    for net in (
        Small(),
        nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 4)),
    ):  # of which torch says different things
        with pytest.raises(ValueError, match="add the batch axis"):
            outline(net, pictures()[0])


def test_the_caller_s_autocast_holds():
    found = []
    net = nn.Sequential(nn.Linear(SIZE, 4))
    net[0].register_forward_hook(lambda _module, _inputs, output: found.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outline(net, pictures())
    assert found == [torch.bfloat16]


def test_a_layer_is_a_value():
    first, again = (outline(Small(), pictures()) for _ in range(2))
    assert first == again
    assert hash(first) == hash(again)
    with pytest.raises(FrozenInstanceError):
        first[0].name = "other"


@pytest.mark.parametrize(
    ("net", "shape", "words"),
    [
        (nn.Conv2d(3, 64, 4, 4), (3, 24, 20), "64 × 6 × 5"),
        (nn.Sequential(nn.Conv2d(3, 64, 4, 4), Moved(0, 2, 3, 1)), (3, 24, 20), "6 × 5 × 64, channels last"),
        (nn.Sequential(nn.Conv2d(3, 64, 4, 4), nn.Flatten(2), Moved(0, 2, 1)), (3, 16, 32), "32 tokens × 64: 4 × 8"),
        (nn.Sequential(nn.Conv2d(3, 64, 4, 4), nn.Flatten(2)), (3, 16, 32), "64 × 32 tokens: 4 × 8"),
        (nn.Sequential(nn.Conv1d(3, 64, 4, 4), Moved(0, 2, 1)), (3, 1024), "256 × 64, channels last"),
        (nn.Flatten(), (3, 2, 2), "12"),
        (nn.Flatten(0), (3, 2, 2), "–"),
    ],
)
def test_outputs_in_words(net, shape, words):
    assert in_words(outline(nn.Sequential(net), torch.zeros(2, *shape))[-1]) == words


def test_the_words_say_the_grid_that_methods_lay_tokens_out_on():
    net = Small().eval()
    (norm,) = (layer for layer in outline(net, pictures()) if layer.name == "blocks.1.0")
    assert in_words(norm) == "17 tokens × 12: 4 × 4 + 1"
    with captured(net, norm.name) as capture, torch.no_grad():
        net(pictures(1))
    assert norm.layout.places(capture.output).shape == (1, 12, 4, 4)
