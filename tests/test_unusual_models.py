"""Models that do what a method does not expect: each gets the right answer, or a clear error."""

import concurrent.futures
import copy
import io
import threading
import warnings
from dataclasses import replace

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

import sfumato
from sfumato import (
    RISE,
    Blur,
    Captum,
    Centre,
    ExtremalChannels,
    ExtremalPerturbation,
    GradCAM,
    Gradient,
    GridMask,
    MeaningfulPerturbation,
    Output,
    SmoothMask,
    activations,
    metrics,
)
from sfumato.behaviour.watched import Picture, Watched

SEARCH = ExtremalPerturbation(areas=(0.2,), steps=3, perturbation=Blur(3, 3), mask=SmoothMask(step=3, sigma=6))
OF_THE_INPUT = {
    "extremal": SEARCH,
    "log-odds": replace(SEARCH, areas=(0.05, 0.2, 0.5), steps=2, score="log-odds", evenly=True),
    "meaningful": MeaningfulPerturbation(steps=3, mask=GridMask(scale=3)),
    "rise": RISE(samples=40, cells=4),
    "gradient": Gradient(),
}
AT_A_LAYER = {
    "extremal": ExtremalPerturbation(areas=(0.2,), steps=3, layer="first", mask=SmoothMask(step=3, sigma=6)),
    "channels": ExtremalChannels(layer="second", counts=(2,), steps=3),
    "grad-cam": GradCAM(layer="second"),
}
of_the_input = pytest.mark.parametrize("method", OF_THE_INPUT.values(), ids=OF_THE_INPUT)
every = pytest.mark.parametrize(
    "method", [*OF_THE_INPUT.values(), *AT_A_LAYER.values()], ids=[*OF_THE_INPUT, *AT_A_LAYER]
)


def pictures(count=2, channels=3, seed=0):
    return torch.randn(count, channels, 16, 13, generator=torch.Generator().manual_seed(seed))


class Plain(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(channels, 1, 3), nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, values):
        values = self.first(values - 0.5) * 2
        return self.head(torch.relu(self.second(values)).mean((2, 3)))


class InPlace(Plain):
    """The same, changing its input and what its layers put out."""

    def forward(self, values):
        values -= 0.5
        values = self.first(values).mul_(2)
        return self.head(self.second(values).relu_().mean((2, 3)))


def same(method, one, other, inputs, rows=None):
    """The results of two models agree."""
    result, wanted = method(one, inputs, 1), method(other, inputs, 1)
    for name in ("map", "masks", "scores", "complements", "whole", "blank"):
        if getattr(wanted, name) is not None:
            torch.testing.assert_close(getattr(result, name), getattr(wanted, name), atol=1e-4, rtol=1e-4)


@every
@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_that_changes_its_input_in_place(method, channels):
    x = pictures(channels=channels)
    before = x.clone()
    same(method, InPlace(channels).eval(), Plain(channels).eval(), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("layer", ["", "first", "second"])
def test_activations_of_a_model_that_changes_its_input_in_place(layer):
    for channels in (1, 3):
        x = pictures(channels=channels)
        before = x.clone()
        torch.testing.assert_close(
            activations(InPlace(channels).eval(), layer, x), activations(Plain(channels).eval(), layer, x)
        )
        assert torch.equal(x, before)


def test_metrics_of_a_model_that_changes_its_input_in_place():
    x = pictures(1)
    result = Centre()(Plain().eval(), x, 1)
    before = x.clone()
    for protocol in (metrics.InsertionDeletion(steps=4), metrics.DeletionGame(), metrics.Randomisation(looks=1)):
        rows = []
        for kind in (InPlace, Plain):
            case = metrics.Case(result, model=kind().eval(), inputs=x, target=1, method=Gradient())
            rows.append(protocol.measure(case))
        assert rows[0] == pytest.approx(rows[1], rel=1e-4, abs=1e-5, nan_ok=True)
        assert torch.equal(x, before)


def scripted(net, how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit as a whole
        module = torch.jit.script(net)
        if how == "optimised":
            return torch.jit.optimize_for_inference(module)
        if how != "script":
            module = torch.jit.freeze(module)
        if how == "loaded":
            file = io.BytesIO()
            torch.jit.save(module, file)
            file.seek(0)
            module = torch.jit.load(file)
        return module


@of_the_input
@pytest.mark.parametrize("how", ["script", "frozen", "loaded"])
def test_torchscript(method, how):
    same(method, scripted(Plain().eval(), how), Plain().eval(), pictures())


@pytest.mark.parametrize("how", ["script", "frozen"])
def test_a_layer_of_torchscript_is_refused_in_words(how):
    with pytest.raises(ValueError, match=r"no layer can be watched|has no layer|did not call its layer"):
        GradCAM(layer="first")(scripted(Plain().eval(), how), pictures(), 1)


def test_torchscript_for_inference_has_no_gradients():
    net = scripted(Plain().eval(), "optimised")
    same(RISE(samples=40, cells=4), net, Plain().eval(), pictures())
    with pytest.raises(ValueError, match="no gradient with respect to the input"):
        SEARCH(net, pictures(), 1)


@of_the_input
def test_a_program_exported_for_a_batch_of_one(method):
    x = pictures(3)
    program = torch.export.export(Plain().eval(), (x[:1],)).module()
    with pytest.raises(Exception, match="(?i)guard"):
        program(x)
    same(method, program, Plain().eval(), x)


def test_captum_of_a_program_exported_for_a_batch_of_one():
    pytest.importorskip("captum")
    x = pictures(3)
    same(Captum("Saliency"), torch.export.export(Plain().eval(), (x[:1],)).module(), Plain().eval(), x)


class Neighbours(nn.Module):
    """Normalises by the statistics of the batch, in evaluation mode too."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
        self.second, self.head = nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

    def forward(self, values):
        return self.head(torch.relu(self.second(self.norm(self.first(values)))).mean((2, 3)))


@every
def test_a_model_whose_rows_change_one_another(method):
    """Each row goes alone, so that a query has the same result in any batch, and each mask the score that it has."""
    net, x = Neighbours().eval(), pictures(3)
    together, alone = method(net, x, 1), [method(net, x[row : row + 1], 1) for row in range(3)]
    for name in ("map", "scores", "whole", "blank"):
        if getattr(together, name) is not None:
            rows = torch.cat([getattr(result, name) for result in alone])
            torch.testing.assert_close(getattr(together, name), rows, atol=1e-4, rtol=1e-4)


def test_masks_of_a_model_whose_rows_change_one_another_have_their_own_scores():
    net, x = Neighbours().eval(), pictures(1)
    result = ExtremalPerturbation(areas=(0.2, 0.5), steps=3, perturbation=sfumato.Fade(), mask=SmoothMask(3, 6))(
        net, x, 1
    )
    scores = torch.stack([net(x * mask)[0, 1] for mask in result.masks[0]])
    torch.testing.assert_close(result.scores[0], scores, atol=1e-5, rtol=1e-4)


class Unmoved(Plain):
    """Answers the same whatever it sees, though a gradient flows."""

    def forward(self, values):
        return super().forward(0 * values)


@every
def test_a_score_that_nothing_moves_is_said_to_be_such(method):
    x = pictures()
    layer = getattr(method, "layer", "")
    if layer:  # below it nothing counts, above it something does
        net = Plain().eval()
        with torch.no_grad():
            net.second.weight.zero_()
            net.head.weight.zero_()
    else:
        net = Unmoved().eval()
    where = f"the places of layer '{layer}'" if layer else "the input"
    with pytest.warns(UserWarning, match=f"score of input 0, 1 does not change with {where}"):
        method(net, x, 1)


class Noisy(Plain):
    """With a dropout that nobody can turn off."""

    def forward(self, values):
        return super().forward(nn.functional.dropout(values, 0.5, training=True))


def test_a_model_that_draws_has_one_result_for_a_seed():
    net, x = Noisy().eval(), pictures(1)
    results = []
    for state in (1, 2):
        torch.manual_seed(state)
        results.append(SEARCH(net, x, 1))
        assert torch.initial_seed() == state
    assert torch.equal(results[0].masks, results[1].masks)
    assert not torch.equal(replace(SEARCH, seed=1)(net, x, 1).whole, results[0].whole)


def test_a_model_that_draws_is_not_taken_for_one_whose_rows_meet():
    sizes = []
    net = Noisy().eval()
    net.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    RISE(samples=40, cells=4)(net, pictures(1), 1)
    assert max(sizes) > 2


class Patches(nn.Module):
    """Reads its input by the strides that contiguous inputs have."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(12, 5)

    def forward(self, values):
        n, c, h, w = values.shape
        size, strides = (n, h // 2, w // 2, c, 2, 2), (c * h * w, 2 * w, 2, h * w, w, 1)
        return self.embed(values.as_strided(size, strides).reshape(n, -1, 4 * c)).square().mean(1)


@of_the_input
def test_a_model_that_reads_strides(method):
    """A plain function gets its inputs as they are; a module may get them as is faster, if that changes nothing."""
    x = pictures()[..., :12].contiguous()
    net = Patches().eval()
    same(method, net, net.forward, x)
    if method.score == "logit":
        torch.testing.assert_close(method(net, x, 1).whole, net(x)[:, 1].detach())


def test_inversion_of_a_model_that_reads_strides():
    """The errors told are those of what the layer makes of the pictures, as `activations` has it."""
    net, x = Patches().eval(), pictures()[..., :12].contiguous()
    target = activations(net, "embed", x)
    result = sfumato.invert(net, "embed", target, shape=x.shape[1:], steps=3, mean=None, std=None)
    seen = activations(net, "embed", result.inputs)
    errors = (seen - target).square().sum((1, 2)) / target.square().sum((1, 2))
    torch.testing.assert_close(result.errors, errors, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:the score of input 0 does not change")
@of_the_input
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_picture_of_one_colour_hides_no_layout(method, value):
    """It reads the same in any order, so that the first input cannot tell how the model takes the others."""
    x = pictures()[..., :12].contiguous()
    x[0] = value
    net = Patches().eval()
    wanted = method(net, x[1:], 1)
    result = method(net, x, 1)
    torch.testing.assert_close(result.whole[1:], wanted.whole, rtol=1e-4, atol=1e-5)


def test_metrics_and_rules_of_a_model_that_reads_strides():
    """What only asks for a model's outputs gets those that the model gives."""
    net, x = Patches().eval(), pictures(8)[..., :12].contiguous()
    logits = net(x).detach()
    for row, logit in zip(x, logits, strict=True):
        case = metrics.Case(Centre()(net, row[None], 1), model=net, inputs=row[None], target=1)
        assert metrics.Accuracy().measure(case)["rank"] == 1 + int((logit > logit[1]).sum())
    for first in (x[0], torch.zeros_like(x[0])):
        seen = [Picture("first", first), *(Picture(f"{row}", picture) for row, picture in enumerate(x))]
        answers = Watched(net, seen).whole("logit")
        torch.testing.assert_close(torch.stack([answers[f"{row}"] for row in range(8)]), logits, rtol=1e-4, atol=1e-5)


class Findings:
    """Outputs of a kind that torch does not know."""

    def __init__(self, values):
        self.values = values


class PatchesAsFindings(Patches):
    def forward(self, values):
        return Findings(super().forward(values))


def test_outputs_that_cannot_be_compared_leave_the_layout_as_it_is():
    x = pictures()[..., :12].contiguous()
    score = Output(lambda outputs: outputs.values[:, 1])
    result = RISE(samples=40, cells=4)(PatchesAsFindings().eval(), x, score)
    torch.testing.assert_close(result.whole, Patches().eval()(x)[:, 1].detach(), rtol=1e-4, atol=1e-5)


class Viewing(Plain):
    """Takes channels-last inputs of one row and no more."""

    def forward(self, values):
        values = self.first(values - 0.5)
        values = self.second(values * 2).relu()
        n, c, h, w = values.shape
        return self.head(values.view(n * c, h, w).mean((1, 2)).view(n, c))


@of_the_input
def test_views_that_fit_a_single_row_only(method):
    same(method, Viewing().eval(), Plain().eval(), pictures())


class Counting(Plain):
    """Counts its calls in two buffers, one changed in place and one replaced."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("more", torch.zeros(()), persistent=False)

    def forward(self, values):
        self.calls += 1
        self.more = self.more + 1
        return super().forward(values)


@every
def test_buffers_come_out_as_they_went_in(method):
    net = Counting().eval()
    calls, more = net.calls, net.more
    same(method, net, Plain().eval(), pictures())
    assert net.calls is calls
    assert net.more is more
    assert calls == more == 0


class Sparse(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", self.head.weight.detach().to_sparse())

    def forward(self, values):
        values = torch.relu(self.second(self.first(values - 0.5) * 2)).mean((2, 3))
        return torch.sparse.mm(self.weight, values.T).T + self.head.bias


@every
def test_a_sparse_layer(method):
    same(method, Sparse().eval(), Plain().eval(), pictures())


class Checkpointed(Plain):
    reentrant = False

    def forward(self, values):
        values = torch.utils.checkpoint.checkpoint(
            lambda values: torch.relu(self.second(self.first(values - 0.5) * 2)), values, use_reentrant=self.reentrant
        )
        return self.head(values.mean((2, 3)))


@of_the_input
def test_a_model_that_computes_parts_again(method):
    same(method, Checkpointed().eval(), Plain().eval(), pictures())


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # as torch says of the reentrant kind
def test_a_layer_that_is_computed_again_is_refused():
    for method in AT_A_LAYER.values():
        with pytest.raises(ValueError, match="turn checkpointing off"):
            method(Checkpointed().eval(), pictures(), 1)
    net = Checkpointed().eval()
    net.reentrant = True
    with pytest.raises(ValueError, match="turn checkpointing off"):
        Gradient()(net, pictures(), 1)


class Mapped(Plain):
    def forward(self, values):
        values = torch.vmap(lambda value: torch.relu(self.second(self.first(value - 0.5) * 2)))(values)
        return self.head(values.mean((2, 3)))


@of_the_input
def test_a_model_under_vmap(method):
    same(method, Mapped().eval(), Plain().eval(), pictures())


def test_a_layer_under_vmap_is_refused():
    for method in AT_A_LAYER.values():
        with pytest.raises(ValueError, match=r"runs under torch\.vmap"):
            method(Mapped().eval(), pictures(), 1)


class InAnotherThread(Plain):
    def forward(self, values):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(super().forward, values).result()


def test_a_layer_that_runs_in_another_thread_is_refused():
    same(SEARCH, InAnotherThread().eval(), Plain().eval(), pictures())
    with pytest.raises(ValueError, match="did not call its layer 'first'.*in another thread"):
        AT_A_LAYER["extremal"](InAnotherThread().eval(), pictures(), 1)


class Doubled(Plain):
    """What a hook makes of the plain one."""

    def forward(self, values):
        values = self.first(values - 0.5) * 2
        return self.head(torch.relu(2 * self.second(values)).mean((2, 3)))


@of_the_input
def test_hooks_of_the_user_that_change_outputs(method):
    net = Plain().eval()
    net.second.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    same(method, net, Doubled().eval(), pictures())


class Tied(Plain):
    def __init__(self):
        super().__init__()
        self.third = nn.Conv2d(1, 4, 3)
        self.third.weight, self.third.bias = self.second.weight, self.second.bias

    def forward(self, values):
        return self.head(torch.relu(self.third(self.first(values - 0.5) * 2)).mean((2, 3)))


class Spectral(Plain):
    """There and back through complex numbers."""

    def __init__(self):
        super().__init__()
        self.unit = nn.Parameter(torch.ones((), dtype=torch.complex64))

    def forward(self, values):
        return super().forward(torch.fft.ifft2(torch.fft.fft2(values) * self.unit).real)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Plain()

    def forward(self, values):
        return torch.func.functional_call(self.inner, dict(self.inner.named_parameters()), (values,))


class Normed(Plain):
    """Weights that are computed anew from others at each pass, and a power iteration that only training may advance."""

    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.second)
        nn.utils.parametrizations.spectral_norm(self.first)
        self.eval()


@of_the_input
@pytest.mark.parametrize("kind", [Tied, Spectral, Functional], ids=lambda kind: kind.__name__)
def test_what_computes_the_same_is_explained_alike(method, kind):
    same(method, kind().eval(), Plain().eval(), pictures())


@every
def test_parametrised_weights_in_training_mode(method):
    net = Normed()
    wanted = method(net, pictures(), 1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    torch.testing.assert_close(method(net, pictures(), 1).map, wanted.map)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.first.parametrizations.weight[0].training


def test_the_copy_of_a_model_that_is_being_explained_is_whole():
    """Made by another part of the program meanwhile, it computes what the model does, with nothing put in its way."""
    net, copies = Plain().eval(), []
    method = AT_A_LAYER["extremal"]

    class Copying(Plain):
        def forward(self, values):
            if len(copies) < 8:
                copies.append(copy.deepcopy(self))
            return super().forward(values)

    copying = Copying().eval()
    method(copying, pictures(), 1)
    GradCAM(layer="second")(copying, pictures(), 1)
    for each in copies:
        torch.testing.assert_close(Plain.forward(each, pictures()), net(pictures()))
        same(GradCAM(layer="second"), each, net, pictures())
        same(method, each, net, pictures())


FLAGS = {
    "matmul": lambda: torch.backends.cuda.matmul.allow_tf32,
    "convolutions": lambda: torch.backends.cudnn.allow_tf32,
    "kernels": lambda: torch.backends.cudnn.deterministic,
    "search for kernels": lambda: torch.backends.cudnn.benchmark,
    "algorithms": torch.are_deterministic_algorithms_enabled,
}


class Watching(Plain):
    """Notes how precisely it is computed."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, values):
        self.seen.append({name: flag() for name, flag in FLAGS.items()})
        return super().forward(values)


@pytest.mark.parametrize("method", [SEARCH, AT_A_LAYER["channels"]], ids=["extremal", "channels"])
def test_full_precision_and_deterministic_kernels_where_that_is_asked(method):
    before = {name: flag() for name, flag in FLAGS.items()}
    torch.backends.cuda.matmul.allow_tf32 = True  # so that a change shows
    try:
        mine = {name: flag() for name, flag in FLAGS.items()}
        net = Watching().eval()
        method(net, pictures(), 1)
        assert all(seen == mine for seen in net.seen)
        net = Watching().eval()
        threads = [
            threading.Thread(target=replace(method, deterministic=True), args=(net, pictures(), 1)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wanted = {
            "matmul": False,
            "convolutions": False,
            "kernels": True,
            "search for kernels": False,
            "algorithms": True,
        }
        assert net.seen
        assert all(seen == wanted for seen in net.seen)
        assert {name: flag() for name, flag in FLAGS.items()} == mine
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before["matmul"]


def test_what_is_no_answer_to_whether_it_is_deterministic():
    with pytest.raises(ValueError, match="deterministic is True or False; got 1"):
        replace(SEARCH, deterministic=1)


class Stacked(nn.Module):
    """One answer for each of several heads, the heads first: `(T, N, K)`."""

    def __init__(self, heads, flat=False):
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(616, 5)) for _ in range(heads)
        )
        self.flat = flat

    def forward(self, values):
        outputs = [head(values) for head in self.heads]
        return torch.cat(outputs) if self.flat else torch.stack(outputs)


@of_the_input
@pytest.mark.parametrize("flat", [False, True], ids=["T N K", "T · N"])
@pytest.mark.parametrize("count", [2, 3])
def test_outputs_with_other_rows_than_the_inputs(method, flat, count):
    """Also where there are as many heads as inputs, by chance."""
    with pytest.raises(ValueError, match=r"shape \(.*for 1 input"):
        method(Stacked(3, flat).eval(), pictures(count), 1)


def test_outputs_with_other_rows_can_be_explained():
    net, x = Stacked(3).eval(), pictures(2)
    result = SEARCH(net, x, Output(lambda outputs: outputs.mean(0)[:, 1]))
    torch.testing.assert_close(result.whole, net(x).mean(0)[:, 1])


class Heads(Stacked):
    """Three heads over two layers, the heads first."""

    def __init__(self):
        super().__init__(3)
        self.first = nn.Conv2d(3, 3, 1)

    def forward(self, values):
        return super().forward(torch.tanh(self.first(values)))


@pytest.mark.parametrize("count", [2, 3])
def test_heads_first_at_a_layer(count):
    net, x = Heads().eval(), pictures(count)
    method = AT_A_LAYER["extremal"]
    result = method(net, x, Output(lambda outputs: outputs.mean(0)[:, 1]))
    torch.testing.assert_close(result.whole, net(x).mean(0)[:, 1].detach())
    alone = method(net, x[:1], Output(lambda outputs: outputs.mean(0)[:, 1]))
    torch.testing.assert_close(result.masks[:1], alone.masks, atol=1e-4, rtol=1e-4)
