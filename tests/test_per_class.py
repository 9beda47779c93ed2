"""A class's channels, on networks whose channels are known; breaking off and going on; what is cut out of pictures."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sfumato import Contrastive, ExtremalChannels, ExtremalPerturbation, Logit, Output, Probability
from sfumato.behaviour.peaks import peaks_of
from sfumato.behaviour.per_class import Finished, class_channels
from sfumato.model.fingerprint import fingerprint
from sfumato.models import Classifier, Preparation

SIZE = 16
PLAIN = Preparation(size=SIZE, resize=None, mean=(0, 0, 0), std=(1, 1, 1))
METHOD = ExtremalChannels(layer="channels", steps=12)


class Colours(nn.Module):
    """Channels that are red, green, blue, black and grey; class 1 adds up the colours, class 0 is their negative."""

    WEIGHTS = ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (0, 0, 0), (0.1, 0.1, 0.1))

    def __init__(self):
        super().__init__()
        self.channels = nn.Conv2d(3, 5, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(5, 3, bias=False)
        self.calls, self.broken = 0, None
        with torch.no_grad():
            self.channels.weight.copy_(torch.tensor(self.WEIGHTS)[:, :, None, None])
            self.head.weight.copy_(torch.tensor([[-1.0, -1, -1, 0, 0], [1.0, 1, 1, 0, 0], [0, 0, 0, 1.0, 1]]))

    def forward(self, x):
        self.calls += 1
        if self.calls == self.broken:
            raise KeyboardInterrupt
        return self.head(self.flatten(self.pool(self.channels(x))))


def classifier(net=None, labels=("dark", "bright", "grey")):
    return Classifier("toy", (net or Colours()).eval(), PLAIN, labels)


def write(path, colour, spot=None, strength=255):
    """A picture of a colour; a spot (row, column) is one brighter point."""
    values = np.zeros((SIZE, SIZE, 3), np.uint8)
    values[:] = colour
    if spot:
        values[spot] = [strength if each else 0 for each in colour]
    Image.fromarray(values).save(path)
    return path


RED, GREEN, BLUE = (100, 0, 0), (0, 100, 0), (0, 0, 100)


@pytest.fixture
def folder(tmp_path):
    """Two red pictures, a green and a blue one, which differ by their spots."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    write(folder / "1.png", RED, (3, 12))
    write(folder / "2.png", RED, (9, 5), 200)
    write(folder / "3.png", GREEN, (8, 8))
    write(folder / "4.png", BLUE, (15, 0))
    return folder


def assert_same(one, other):
    for name in ("masks", "mean", "spread", "counts", "scores", "whole"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(one.peaks.values, other.peaks.values)
    assert torch.equal(one.peaks.around, other.peaks.around)
    assert torch.equal(one.peaks.places.nan_to_num(-1), other.peaks.places.nan_to_num(-1))
    assert (one.pictures, one.left_out, one.peaks.pictures) == (other.pictures, other.left_out, other.peaks.pictures)
    assert one.about == other.about


def named(out, kind):
    return sorted(out.glob(f"{kind}-*.safetensors"))


def contents(out):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}


# What is found.


class Parts(nn.Module):
    """Eight channels that are copies of the red one, of which class 1 counts numbers 2, 5 and 6."""

    def __init__(self):
        super().__init__()
        self.channels = nn.Conv2d(3, 8, 1, bias=False)
        self.head = nn.Linear(8, 3, bias=False)
        with torch.no_grad():
            self.channels.weight.zero_()[:, 0] = 1
            self.head.weight.zero_()[1, [2, 5, 6]] = torch.tensor([1.0, 3, 2])

    def forward(self, x):
        return self.head(self.channels(x).mean((2, 3)))


@pytest.mark.parametrize(("keep", "wanted"), [(0.9, [2, 5, 6]), (0.8, [5, 6]), (0.5, [5])])
def test_the_mean_is_one_on_the_channels_that_count(tmp_path, keep, wanted):
    paths = [write(tmp_path / f"{value}.png", (value, 0, 0), (1, 1)) for value in (50, 90, 170)]
    found = class_channels(METHOD, classifier(Parts()), paths, 1, keep=keep)
    expected = torch.zeros(8)
    expected[wanted] = 1
    assert torch.equal(found.mean, expected)
    assert torch.equal(found.spread, torch.zeros(8))
    assert found.counts.tolist() == [len(wanted)] * 3
    assert found.pictures == tuple(paths)
    assert len(found) == 3
    assert not found.left_out
    assert (found.scores >= keep * found.whole - 1e-6).all()
    indices, weights = found.top(4)
    assert indices[: len(wanted)].tolist() == wanted
    assert weights.tolist() == [1.0] * len(wanted) + [0.0] * (4 - len(wanted))


def test_the_mean_and_spread_over_pictures_that_differ(folder):
    found = class_channels(METHOD, classifier(), folder, 1)
    shares = torch.tensor([0.5, 0.25, 0.25, 0, 0])
    torch.testing.assert_close(found.mean, shares)
    torch.testing.assert_close(found.spread, (shares * (1 - shares)).sqrt())
    assert found.masks.tolist() == [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]]
    assert found.counts.tolist() == [1, 1, 1, 1]
    torch.testing.assert_close(found.scores, found.whole)
    assert [path.name for path in found.pictures] == ["1.png", "2.png", "3.png", "4.png"]
    assert found.about["method"]["layer"] == "channels"
    assert found.about["score"] == {"class": "sfumato:Logit", "target": 1}
    assert (found.about["keep"], found.about["model"]) == (0.9, "toy")
    assert json.loads(json.dumps(found.about)) == found.about
    assert type(found.about["preparation"]["resampling"]) is int


def test_without_a_share_to_keep_it_is_the_largest_count(folder):
    method = replace(METHOD, counts=(1, 2))
    found = class_channels(method, classifier(), folder, 1, keep=None)
    direct = method(classifier().net, PLAIN(Image.open(folder / "3.png"))[None], 1)
    assert found.counts.tolist() == [2] * 4
    assert found.masks.sum(1).tolist() == [2] * 4
    assert torch.equal(found.masks[2], direct.masks[0, 1, :, 0, 0])
    torch.testing.assert_close(found.scores[2], direct.scores[0, 1])
    # A score below zero has no share to keep, but a best mask: any that hides the colour.
    dark = class_channels(method, classifier(), folder, 0, keep=None)
    assert len(dark) == 4
    assert (dark.whole < 0).all()
    assert dark.scores.abs().max() < 1e-6


def test_scores_of_any_kind(folder):
    for score in (Probability(1), Contrastive(1, against=2), Output(lambda outputs: outputs[:, 1])):
        assert class_channels(METHOD, classifier(), folder, score).masks[2, 1] == 1


def test_groups(tmp_path):
    """Channels 2 and 3 are one group, 4 and 5, 6 and 7 too; of each the largest activation counts."""
    path = write(tmp_path / "red.png", RED, (3, 12))
    net = Parts()
    with torch.no_grad():
        net.channels.weight[3] *= 2
    found = class_channels(replace(METHOD, groups=4), classifier(net), [path], 1)
    assert found.mean.tolist() == [0, 1, 1, 1]
    assert found.counts.tolist() == [3]
    torch.testing.assert_close(found.peaks.values, torch.tensor([[1.0, 2, 1, 1]]))
    assert found.peaks.places.shape == (1, 4, 2)
    assert found.crops(1, 1)[0].activation == 2
    with pytest.raises(ValueError, match="no channel 4; expected an index from 0 to 3"):
        found.crops(4, 1)


def test_the_model_comes_out_as_it_went_in(folder):
    net = Colours().train()
    net.head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    class_channels(METHOD, replace(classifier(), net=net), folder, 1)
    assert net.training
    assert net.channels.weight.requires_grad
    assert not net.head.weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.channels._forward_hooks


@pytest.mark.parametrize("mode", [pytest.param(torch.no_grad, marks=pytest.mark.slow), torch.inference_mode])
def test_in_any_grad_mode(folder, mode, tmp_path):
    expected = class_channels(METHOD, classifier(), folder, 1)
    toy = classifier()
    with mode():
        found = class_channels(METHOD, toy, folder, 1, out=tmp_path / "out")
    assert_same(expected, found)


# What excites the channels.


def test_peaks_and_crops_are_about_the_spots(folder):
    found = class_channels(METHOD, classifier(), folder, 1)
    places = found.peaks.places
    for row, (channel, spot) in enumerate([(0, (3, 12)), (0, (9, 5)), (1, (8, 8)), (2, (15, 0))]):
        assert places[row, channel].tolist() == [(spot[0] + 0.5) / SIZE, (spot[1] + 0.5) / SIZE]
    assert places[:, 3].isnan().all(), "what is the same everywhere has no place"
    torch.testing.assert_close(found.peaks.values[:2, 0], torch.tensor([1, 200 / 255]))

    one, two = found.crops(0, 5, side=0.3)
    assert (one.path.name, two.path.name) == ("1.png", "2.png"), "best first; the others show no red"
    assert one.activation == 1
    assert two.activation == pytest.approx(200 / 255)
    for crop, strength in ((one, 255), (two, 200)):
        values = np.asarray(crop.picture).astype(int)
        assert values.shape == (5, 5, 3)
        assert [index.tolist() for index in np.nonzero(values[..., 0] == strength)] == [[2], [2]], "in its middle"
        assert (np.delete(values[..., 0].ravel(), 12) == 100).all()
        assert not values[..., 1:].any()
    corner = found.crops(2, 1, side=0.25)[0].picture
    assert np.argwhere(np.asarray(corner)[..., 2] == 255).tolist() == [[3, 0]], "within the picture"
    whole = found.crops(2, 1, side=1)[0].picture
    assert np.array_equal(np.asarray(whole), np.asarray(Image.open(folder / "4.png")))
    assert len(found.crops(0, 1)) == 1
    assert found.crops(3, 2) == []


def test_among_equals_the_surroundings_decide(tmp_path):
    """As with ReLU6, whose largest value many places and many pictures reach."""
    values = np.zeros((3, SIZE, SIZE, 3), np.uint8)
    values[..., 0] = 20
    values[0, 2, 2] = (255, 0, 0)
    values[1, 2, 2] = values[1, 9:12, 9:12] = (255, 0, 0)
    values[2, 4:9, 4:9] = (255, 0, 0)
    paths = [tmp_path / f"{row}.png" for row in range(3)]
    for path, each in zip(paths, values, strict=True):
        Image.fromarray(each).save(path)
    for given in (paths, paths[::-1]):
        found = class_channels(METHOD, classifier(), given, 1)
        assert found.peaks.values[:, 0].tolist() == [1, 1, 1]
        assert [crop.path.name for crop in found.crops(0, 3)] == ["2.png", "1.png", "0.png"]
        places = dict(zip((path.name for path in given), found.peaks.places[:, 0].tolist(), strict=True))
        assert places["1.png"] == [10.5 / SIZE, 10.5 / SIZE], "the middle of the larger spot"
        assert places["2.png"] == [6.5 / SIZE, 6.5 / SIZE]


def test_the_largest_comes_before_its_surroundings(tmp_path):
    lone = write(tmp_path / "lone.png", RED, (2, 12))
    values = np.asarray(Image.open(lone)).copy()
    values[6:12, 2:8, 0] = 250
    Image.fromarray(values).save(lone)
    weak = write(tmp_path / "weak.png", (240, 0, 0), (3, 3))
    weaker = write(tmp_path / "weaker.png", (250, 0, 0), (3, 3), 254)
    found = class_channels(METHOD, classifier(), [weaker, weak, lone], 1)
    assert found.peaks.places[2, 0].tolist() == [2.5 / SIZE, 12.5 / SIZE]
    assert [crop.path.name for crop in found.crops(0, 3)] == ["weak.png", "lone.png", "weaker.png"]


def test_crops_are_of_the_picture_as_the_network_sees_it(tmp_path):
    wide = Image.new("RGB", (60, 20), RED)
    wide.paste((255, 0, 0), (30, 8, 34, 12))  # in the middle third
    wide.save(tmp_path / "wide.png")
    seen = Preparation(size=SIZE, resize=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
    net = Colours()
    with torch.no_grad():
        net.head.weight[1, 3:] = 0
    toy = Classifier("toy", net.eval(), seen, ("dark", "bright", "grey"))
    found = class_channels(METHOD, toy, [tmp_path / "wide.png"], Output(lambda outputs: outputs[:, 1] + 10), keep=0.1)
    crop = np.asarray(found.crops(0, 1, side=1)[0].picture).astype(int)
    expected = seen.restore(seen(wide)).permute(1, 2, 0).numpy() * 255
    assert np.abs(crop - expected).max() <= 0.5


def test_among_others(folder, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    write(more / "a.png", RED, (1, 1), 230)
    write(more / "b.png", RED, (2, 2), 210)
    (more / "1.png").write_bytes((folder / "1.png").read_bytes())
    (more / "broken.png").write_bytes(b"no picture")
    toy = classifier()
    found = class_channels(METHOD, toy, folder, 1, among=more)
    assert [path.name for path in found.peaks.pictures] == ["1.png", "2.png", "3.png", "4.png", "a.png", "b.png"]
    assert found.peaks.pictures[:4] == found.pictures
    assert found.masks.shape == (4, 5)
    assert [crop.path.name for crop in found.crops(0, 3)] == ["1.png", "a.png", "b.png"]
    assert [path.name for path, _ in found.left_out] == ["broken.png"]

    # Each goes once through the network; before that it runs once, to count how often it calls the layer.
    alone = classifier()
    class_channels(METHOD, alone, folder, 1)
    assert toy.net.calls == alone.net.calls + 2

    none = classifier()
    with pytest.raises(ValueError, match="no picture of the class can be used"):
        class_channels(METHOD, none, [more / "broken.png"], 1, among=more)
    assert none.net.calls == 0, "where there is nothing to show examples of, none are looked for"


def test_a_picture_that_is_left_out_can_still_be_an_example(folder):
    write(folder / "0.png", (0, 0, 0))
    found = class_channels(METHOD, classifier(), folder, 1, among=folder)
    assert [path.name for path in found.pictures] == ["1.png", "2.png", "3.png", "4.png"]
    assert [path.name for path in found.peaks.pictures] == ["1.png", "2.png", "3.png", "4.png", "0.png"]


@pytest.mark.parametrize("layer", ["pool", "flatten"])
def test_layers_without_places_have_masks_but_no_crops(folder, layer):
    found = class_channels(replace(METHOD, layer=layer), classifier(), folder, 1)
    torch.testing.assert_close(found.mean, torch.tensor([0.5, 0.25, 0.25, 0, 0]))
    assert found.peaks.values.shape == (4, 5)
    assert found.peaks.places.shape == (4, 5, 2)
    with pytest.raises(ValueError, match=f"the layer '{layer}' has no places"):
        found.crops(0, 1)


def test_peaks_of_tokens():
    """(1, tokens, C): the class token has no place; a number of tokens that is no grid has none at all."""
    tokens = torch.zeros(1, 17, 3)
    tokens[0, 0] = 9.0
    tokens[0, 1 + 4 * 2 + 3, 0] = 5.0
    tokens[0, 1 + 4 * 1 + 0, 1] = 4.0
    record = peaks_of(tokens, (16, 16), ExtremalChannels(layer="x"))
    assert record["values"].tolist() == [5, 4, 0]
    assert record["places"][:2].tolist() == [[2.5 / 4, 3.5 / 4], [1.5 / 4, 0.5 / 4]]
    assert record["places"][2].isnan().all()
    grouped = peaks_of(tokens, (16, 16), ExtremalChannels(layer="x", groups=1))
    assert grouped["values"].tolist() == [5]
    assert grouped["places"].tolist() == [[2.5 / 4, 3.5 / 4]]
    loose = peaks_of(torch.rand(1, 300, 3), (16, 16), ExtremalChannels(layer="x", layout="BNC"))
    assert loose["places"].isnan().all()
    assert loose["values"].shape == (3,)


# What is left out.


def test_pictures_that_cannot_be_used_are_left_out_with_the_reason(folder, tmp_path):
    write(folder / "black.png", (0, 0, 0))
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    (tmp_path / "empty").mkdir()
    paths = [folder, folder / "missing.png", tmp_path / "empty"]
    expected = class_channels(METHOD, classifier(), [folder / f"{name}.png" for name in "1234"], 1)
    for out in (None, tmp_path / "out", tmp_path / "out"):
        found = class_channels(METHOD, classifier(), paths, 1, out=out)
        assert torch.equal(found.mean, expected.mean)
        reasons = {path.name: reason for path, reason in found.left_out}
        assert set(reasons) == {"black.png", "broken.png", "copy.png", "missing.png", "empty"}
        assert "black.png', 0, is not positive, so no share of it can be kept" in reasons["black.png"]
        assert "not a picture of a known kind" in reasons["broken.png"]
        assert "is the same picture as" in reasons["copy.png"]
        assert "1.png" in reasons["copy.png"]
        assert "no file or folder" in reasons["missing.png"]
        assert "holds no pictures" in reasons["empty"]


@dataclass(frozen=True)
class Halved:
    """Even where a mask keeps all, only half is left."""

    def __call__(self, seen):
        return lambda masks, query: masks * seen[query] / 2


@pytest.mark.filterwarnings("ignore:the score of input")  # of the picture without blue
def test_where_no_count_keeps_enough(folder, tmp_path):
    """The score is the blue channel and a number that needs none, which suffices for pictures without blue."""
    net = Colours()
    toy, method = classifier(net), replace(METHOD, perturbation=Halved())
    score = Output(lambda outputs: outputs[:, 1])
    with torch.no_grad():
        net.head.weight[1] = torch.tensor([0.0, 0, 1, 0, 0])
        net.head.bias = nn.Parameter(torch.tensor([0.0, 0.1, 0.0]))
    found = class_channels(method, toy, folder, score)
    assert [path.name for path in found.pictures] == ["1.png", "2.png", "3.png"]
    ((path, reason),) = found.left_out
    assert path.name == "4.png"
    assert "no count of channels keeps 90 % of the score" in reason
    with torch.no_grad():
        net.head.bias.zero_()
        net.head.weight[1] = 1
    with pytest.raises(ValueError, match="no picture of the class can be used: no count of channels keeps 90 %"):
        class_channels(method, toy, folder, 1, out=tmp_path / "out")
    calls = net.calls
    with pytest.raises(ValueError, match="no picture of the class can be used: no count of channels keeps 90 %"):
        class_channels(method, toy, folder, 1, out=tmp_path / "out")
    assert net.calls == calls, "that is written down, too"


# Breaking off and going on.


def test_a_second_call_does_not_run_the_network(folder, tmp_path):
    out, more = tmp_path / "out", tmp_path / "more.png"
    write(more, RED, (7, 7), 140)
    write(folder / "black.png", (0, 0, 0))
    undisturbed = class_channels(METHOD, classifier(), folder, 1, among=[more])
    toy = classifier()
    first = class_channels(METHOD, toy, folder, 1, among=[more], out=out)
    before, calls = contents(out), toy.net.calls
    assert calls > 0
    second = class_channels(METHOD, toy, folder, 1, among=[more], out=str(out))
    assert toy.net.calls == calls
    assert contents(out) == before
    assert len(before) == 5 + 5, "a mask for each picture of the class, peaks for each that is used or among the others"
    assert_same(undisturbed, first)
    assert_same(undisturbed, second)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize(
    "finished", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow), 5]
)
def test_going_on_does_only_what_is_missing(folder, tmp_path, finished):
    more = write(tmp_path / "more.png", RED, (7, 7), 140)
    undisturbed = class_channels(METHOD, classifier(), folder, 1, among=[more])
    seen = []

    def stop(done):
        seen.append(done)
        if len(seen) == finished:
            raise StoppedError

    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        class_channels(METHOD, classifier(), folder, 1, among=[more], out=out, progress=stop)
    assert len(named(out, "peaks")) == finished
    before = contents(out)

    toy, calls = classifier(), []
    found = class_channels(
        METHOD, toy, folder, 1, among=[more], out=out, progress=lambda _: calls.append(toy.net.calls)
    )
    assert_same(undisturbed, found)
    assert calls[:finished] == [0] * finished, "what was finished is not computed again"
    assert len(set(calls[finished:])) == 5 - finished, "the others are"
    assert before.items() <= contents(out).items()


@pytest.mark.parametrize(
    "broken",
    [1, 4, 11, 40, 96, *(pytest.param(call, marks=pytest.mark.slow) for call in (2, 3, *range(5, 11), 26, 27, 76))],
)
def test_broken_off_anywhere(folder, tmp_path, broken):
    """Within the network's call of that number, as by Ctrl-C."""
    out, toy = tmp_path / "out", classifier()
    toy.net.broken = broken
    with pytest.raises(KeyboardInterrupt):
        class_channels(METHOD, toy, folder, 1, out=out)
    assert not [path for path in out.iterdir() if path.suffix != ".safetensors"]
    assert_same(class_channels(METHOD, toy, folder, 1, out=out), class_channels(METHOD, classifier(), folder, 1))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_broken_off_while_writing(folder, tmp_path, monkeypatch, error):
    out = tmp_path / "out"
    replaced, done = Path.replace, []

    def failing(self, target):
        if len(done) == 3:
            raise error
        done.append(target)
        return replaced(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", failing)
        with pytest.raises(error):
            class_channels(METHOD, classifier(), folder, 1, out=out)
    assert sorted(out.iterdir()) == sorted(done), "whole files only"
    assert_same(
        class_channels(METHOD, classifier(), folder, 1, out=out), class_channels(METHOD, classifier(), folder, 1)
    )


def test_the_order_and_the_company_change_nothing(folder, tmp_path):
    together = class_channels(METHOD, classifier(), folder, 1)
    turned = class_channels(METHOD, classifier(), sorted(folder.iterdir(), reverse=True), 1, out=tmp_path / "out")
    assert torch.equal(turned.masks.flip(0), together.masks)
    torch.testing.assert_close(turned.scores.flip(0), together.scores)
    torch.testing.assert_close(turned.mean, together.mean)
    for row, path in enumerate(together.pictures):
        alone = class_channels(METHOD, classifier(), path, 1)
        assert torch.equal(alone.masks[0], together.masks[row])
        torch.testing.assert_close(alone.whole[0], together.whole[row])
        torch.testing.assert_close(alone.peaks.values[0], together.peaks.values[row])


def test_results_of_other_settings_lie_side_by_side(folder, tmp_path):
    out, method = tmp_path / "out", replace(METHOD, steps=4)
    for name in ("3.png", "4.png"):
        (folder / name).unlink()
    class_channels(method, classifier(), folder, 1, out=out)

    def added(method=method, toy=None, target=1, keep=0.9):
        """How many files of masks and of peaks another call adds; it finds what it would find without the folder."""
        before = len(named(out, "mask")), len(named(out, "peaks"))
        found = class_channels(method, toy or classifier(), folder, target, keep=keep, out=out)
        assert_same(found, class_channels(method, toy or classifier(), folder, target, keep=keep))
        return len(named(out, "mask")) - before[0], len(named(out, "peaks")) - before[1]

    assert added() == (0, 0)
    assert added(target=Logit(1)) == (0, 0), "a class means its logit"
    # What is sought does not change what excites the channels.
    assert added(replace(method, steps=5)) == (2, 0)
    assert added(replace(method, seed=1)) == (2, 0)
    assert added(target=Probability(1)) == (2, 0)
    assert added(keep=0.5) == (2, 0)
    assert added(replace(method, counts=(1, 2)), keep=None) == (2, 0)
    assert added(replace(method, counts=(2,)), keep=None) == (0, 0), "only the largest count is sought"
    assert added(replace(method, layer="pool")) == (2, 2)
    assert added(replace(method, groups=1)) == (2, 2)

    changed = Colours()
    with torch.no_grad():
        changed.head.weight[1, 0] = 1.5
    assert added(toy=classifier(changed)) == (2, 2)
    buffered = Colours()
    buffered.register_buffer("scale", torch.ones(2), persistent=False)
    assert added(toy=classifier(buffered)) == (2, 2)
    assert added(toy=replace(classifier(), name="another")) == (2, 2)
    assert added(toy=replace(classifier(), preparation=replace(PLAIN, std=(2, 2, 2)))) == (2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert added() == (2, 2)

    write(folder / "2.png", RED, (9, 5), 201)
    assert added() == (1, 1), "another picture under an old name"
    (folder / "2.png").rename(folder / "20.png")
    assert added() == (0, 0), "an old picture under another name"


def test_the_same_weights_in_other_parts_are_another_network():
    one, two = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.ReLU6())
    two.load_state_dict(one.state_dict())
    assert fingerprint(one) != fingerprint(two)
    two[1] = nn.ReLU()
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(one) != fingerprint(two.bfloat16())


def damaged(path, how, others):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-3])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "foreign":
        path.write_text("not a record")
    elif how == "swapped":  # a sound record of another picture
        path.write_bytes(others[0].read_bytes())
    elif how == "another's":
        replace(METHOD, counts=(1,))(Colours(), torch.rand(1, 3, 4, 4), 1).save(path)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["truncated", "empty", "foreign", "swapped", "another's", "gone"])
@pytest.mark.parametrize("kind", ["mask", "peaks"])
def test_files_that_are_no_good_are_made_again(folder, tmp_path, how, kind):
    out, toy = tmp_path / "out", classifier()
    first = class_channels(METHOD, toy, folder, 1, out=out)
    before, calls = contents(out), toy.net.calls
    bad, *others = named(out, kind)
    damaged(bad, how, others)
    (out / f".{bad.name}.1.partial").write_bytes(b"of a process that was killed")
    (out / "notes.txt").write_text("someone's own")
    assert_same(first, class_channels(METHOD, toy, folder, 1, out=out))
    assert toy.net.calls > calls
    assert before.items() <= contents(out).items(), "as it was, to the bit"


def test_progress_is_told_of_each_picture(folder, tmp_path):
    write(folder / "black.png", (0, 0, 0))
    more = write(tmp_path / "more.png", RED, (7, 7))
    seen = []
    class_channels(METHOD, classifier(), folder, 1, among=[more], progress=seen.append)
    assert [(each.path.name, each.index, each.pictures, each.count) for each in seen] == [
        ("1.png", 0, 6, 1), ("2.png", 1, 6, 1), ("3.png", 2, 6, 1), ("4.png", 3, 6, 1),
        ("black.png", 4, 6, None), ("more.png", 5, 6, None),
    ]  # fmt: skip
    assert all(isinstance(each, Finished) for each in seen)
    assert "not positive" in seen[4].reason
    assert seen[5].reason == ""


# What is no good.


def test_settings_that_cannot_be(folder, tmp_path):
    toy, empty = classifier(), tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").write_text("")

    def expect(message, *, method=METHOD, toy=toy, pictures=folder, target=1, **options):
        with pytest.raises(ValueError, match=message):
            class_channels(method, toy, pictures, target, **options)

    expect("method must be one that masks channels", method=ExtremalPerturbation())
    expect("classifier must be a sfumato.models.Classifier.*got a Colours", toy=toy.net)
    expect("folder .*empty' holds no pictures", pictures=empty)
    expect("no file or folder", pictures=tmp_path / "nowhere")
    expect("pictures names no picture", pictures=[])
    expect("among names no picture", among=iter(()))
    expect("no picture of the class can be used: no file or folder", pictures=[tmp_path / "nowhere"])
    expect("no picture of the class can be used: .*is not positive", target=0)
    expect(r"is not positive[^;]*;[^;]*;[^;]*is not positive, so .* be kept, and 1 more$", target=0)
    expect("target 3 is out of range: the model has 3 outputs", target=3, out=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    expect("a class index from 0 up; got -1", target=-1)
    expect("got 2 targets for 1 inputs", target=(1, 2))
    for keep in (0, 1.5, 90, True, "all"):
        expect(r"keep is a share of the whole picture's score, in \(0, 1\], or None", keep=keep)
    expect('the smallest sufficient area is defined for game="preserve"', method=replace(METHOD, game="dual"))
    expect("no layer 'chanels'. Did you mean 'channels'", method=replace(METHOD, layer="chanels"))
    expect("out must be a folder, or the name of a new one; got the file", out=tmp_path / "file")
    expect("with out=…, target must be made of .* it holds <function", target=Output(lambda outputs: 0), out=empty)
    expect(
        "with out=…, method must be made of",
        method=replace(METHOD, perturbation=Halved().__call__),
        out=empty,
    )

    found = class_channels(METHOD, toy, folder, 1)
    for call, message in (
        (lambda: found.top(0), "count must lie between 1 and the 5 channels; got 0"),
        (lambda: found.top(6), "count must lie between 1 and the 5 channels; got 6"),
        (lambda: found.crops(-1, 1), "there is no channel -1; expected an index from 0 to 4"),
        (lambda: found.crops(0, 0), "count must be a number of pictures, from 1; got 0"),
        (lambda: found.crops(0, 1, side=0), r"side must be a share of the picture's shorter side, in \(0, 1\]; got 0"),
        (lambda: found.crops(0, 1, side=40), "side must be a share"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_model_that_fails_is_no_reason_to_leave_a_picture_out(folder):
    class Failing(Colours):
        def forward(self, x):
            if self.calls > 3:
                raise RuntimeError("out of memory")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="out of memory"):
        class_channels(METHOD, classifier(Failing()), folder, 1)


def test_paths_may_be_given_once_only(folder):
    found = class_channels(METHOD, classifier(), (str(path) for path in sorted(folder.iterdir())), 1)
    assert all(isinstance(path, Path) for path in found.pictures)
    assert len(found) == 4
