"""`sfumato explain` on clips and volumes: from a file of each kind to results, and what is refused."""

import json

import numpy as np
import pytest
import torch
from factories import importable
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import sfumato
from sfumato import cli
from sfumato.data.clips import find_clips, read_clip
from sfumato.models import Classifier, ClipPreparation, Preparation

pytest.importorskip("matplotlib", reason="figures need matplotlib")

FRAMES, SIDE = 6, 16
GREY = ClipPreparation(FRAMES, Preparation(SIDE, SIDE, (0.5,), (0.5,)))
COLOURED = ClipPreparation(FRAMES, Preparation(SIDE, SIDE, (0.5,) * 3, (0.25,) * 3))


class Change(nn.Module):
    """How bright a clip is, and how much it changes from frame to frame."""

    def forward(self, clips):
        means = clips.mean((1, 3, 4))
        return torch.stack([means.mean(1), (means[:, 1:] - means[:, :-1]).abs().sum(1)], 1)


def grey():
    return Classifier("grey", Change(), GREY, ("bright", "changes"))


def coloured():
    return Classifier("coloured", Change(), COLOURED, ("bright", "changes"))


def of_pictures():
    return Classifier("pictures", nn.AdaptiveAvgPool2d(1), COLOURED.frame, ("red", "green", "blue"))


def alone():
    return nn.Sequential(nn.Conv3d(3, 2, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten())


def flashing(count=12, side=32):
    """Frames (T, H, W, 3) of 8 bits, of which the last third is bright on the left."""
    clip = np.full((count, side, side, 3), 40, np.uint8)
    clip[2 * count // 3 :, :, : side // 2] = (240, 120, 0)
    return clip


@pytest.fixture(autouse=True)
def clips(monkeypatch, tmp_path):
    importable(monkeypatch, tmp_path, "clips", __name__)
    monkeypatch.chdir(tmp_path)
    frames = flashing()
    np.save("frames.npy", frames)
    np.savez("frames.npz", frames=frames)
    pictures = [Image.fromarray(frame) for frame in frames]
    for name in ("moving.gif", "moving.webp"):
        pictures[0].save(name, save_all=True, append_images=pictures[1:], duration=100, loop=0, lossless=True)
    pictures[0].save("still.png")
    np.save("grey.npy", frames[..., 0])
    np.save("dark.npy", frames // 4)
    np.save("few.npy", frames[:4])
    np.save("whole.npy", frames.astype(np.int64))
    np.save("doubtful.npy", np.zeros((3, 9, 9, 3), np.uint8))
    np.save("colours.npy", np.zeros((9, 9, 9, 9), np.uint8))
    np.save("objects.npy", np.array([{}]), allow_pickle=True)
    np.save("prepared.npy", GREY(torch.from_numpy(frames[..., 0])).numpy())
    np.save("wrong.npy", np.zeros((1, 3, SIDE, SIDE), np.float32))
    np.save("nan.npy", np.full((1, FRAMES, SIDE, SIDE), np.nan, np.float32))
    np.savez("two.npz", a=frames, b=frames)
    save_file({"clip": GREY(torch.from_numpy(frames[..., 0])).contiguous()}, "prepared.safetensors")
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(40))
    (tmp_path / "bird.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt " + bytes(40))
    (tmp_path / "text.gif").write_text("no clip")


def explained(*options):
    return CliRunner().invoke(cli.app, ["explain", *options])


def expected():
    """The inputs of the clip: its frames 1, 3, 5, 7, 9 and 11, at half their size, normalised."""
    frames = torch.from_numpy(flashing())[1::2, ::2, ::2].movedim(-1, 0) / 255
    return (frames - 0.5) / 0.25


@pytest.mark.parametrize("name", ["frames.npy", "frames.npz", "moving.gif", "moving.webp"])
def test_frames_of_eight_bits_are_chosen_resized_and_normalised(name):
    inputs = COLOURED(read_clip(name))
    assert inputs.shape == COLOURED.shape == (3, FRAMES, SIDE, SIDE)
    left = inputs[..., : SIDE // 2 - 1]  # the filter mixes what lies at the edge
    assert torch.allclose(left, expected()[..., : SIDE // 2 - 1], atol=0.05)  # a GIF has few colours
    assert torch.allclose(COLOURED.normalised(COLOURED.restore(inputs)), inputs, atol=1e-5)


def test_colours_may_come_first_and_grey_has_none():
    frames = torch.from_numpy(flashing())
    assert torch.equal(COLOURED(frames.movedim(-1, 0)), COLOURED(frames))
    assert torch.equal(GREY(frames[..., 0]), GREY(frames[..., :1]))
    assert torch.equal(COLOURED(frames[..., :1]), COLOURED(frames[..., :1].expand(-1, -1, -1, 3)))


def test_a_clip_is_explained(tmp_path):
    run = explained("moving.gif", "--model", "clips:coloured", "--target", "changes", "--areas", "0.2", "--steps", "2")
    assert run.exit_code == 0, run.output
    result = sfumato.load(tmp_path / "sfumato-out/moving-changes.safetensors")
    assert result.masks.shape == (1, 1, 1, FRAMES, SIDE, SIDE)
    whole = float(Change()(COLOURED(read_clip("moving.gif"))[None])[0, 1])
    assert float(result.whole) == pytest.approx(whole, rel=1e-5)
    assert json.loads((tmp_path / "sfumato-out/moving-changes.json").read_text())["target"]["label"] == "changes"
    with Image.open(tmp_path / "sfumato-out/moving-changes.png") as figure:
        assert figure.width > 600  # six frames side by side


@pytest.mark.parametrize("name", ["prepared.npy", "prepared.safetensors", "grey.npy"])
def test_an_input_that_is_prepared_already_is_taken_as_it_is(tmp_path, name):
    run = explained(
        name, "--model", "clips:grey", "--method", "gradient,rise", "--target", "bright", "--set", "samples=8"
    )
    assert run.exit_code == 0, run.output
    stem = f"{name.partition('.')[0]}-bright"
    result = sfumato.load(tmp_path / f"sfumato-out/{stem}-gradient.safetensors")
    assert result.map.shape == (1, 1, FRAMES, SIDE, SIDE)
    assert float(result.whole) == pytest.approx(float(np.load("prepared.npy").mean()), rel=1e-4)
    assert (tmp_path / f"sfumato-out/{stem}.png").exists()


def test_other_questions_about_clips(tmp_path):
    options = ("--model", "clips:coloured", "--method", "gradient")
    run = explained("moving.gif", *options, "--score", "similarity", "--to", "dark.npy")
    assert run.exit_code == 0, run.output
    run = explained("moving.gif", *options, "--score", "region", "--box", "0,0,9,9", "--out", "other")
    assert run.exit_code == 2
    assert "model 'coloured' takes clips; give the mask (T, H, W) of a region in Python" in run.stderr


EXPECTED = "expected an animated GIF or WebP, or an array in .npy, .npz or .safetensors"


@pytest.mark.parametrize(
    ("model", "file", "says"),
    [
        ("coloured", "still.png", f"it holds one picture, and the model takes clips; {EXPECTED}"),
        ("coloured", "film.mp4", f"it is a video, whose frames sfumato does not decode; {EXPECTED}"),
        ("coloured", "text.gif", f"it is no array and no animation; {EXPECTED}"),
        ("coloured", "two.npz", "it holds 2 arrays (a, b), and a file of one clip holds one"),
        ("coloured", "objects.npy", "it holds Python objects"),
        ("coloured", "few.npy", "the clip has 4 frames, and the model takes 6; give a longer clip, or repeat frames"),
        (
            "coloured",
            "whole.npy",
            "a clip is of 8 bits (uint8), or real numbers as the model takes them; got torch.int64",
        ),
        (
            "coloured",
            "doubtful.npy",
            "got (3, 9, 9, 3), of which its first and its last length could both be the colours",
        ),
        ("coloured", "colours.npy", "got (9, 9, 9, 9), of which neither end has 1 or 3 colours"),
        (
            "grey",
            "wrong.npy",
            "is the model's input, of shape (1, 6, 16, 16); got (1, 3, 16, 16). Give frames (T, H, W, C)",
        ),
        ("grey", "nan.npy", "the clip has values that are not finite numbers"),
        ("of_pictures", "frames.npy", "cannot read picture 'frames.npy': it is an array, and the model takes pictures"),
        ("of_pictures", "film.mp4", "it is a video, and the model takes pictures; save one of its frames as a picture"),
        (
            "of_pictures",
            "bird.wav",
            "it is a sound, which is explained in Python: method(model, sound, target) with a tensor",
        ),
        (
            "alone",
            "frames.npy",
            "return a sfumato.models.Classifier from its factory, with a Preparation, or a ClipPreparation",
        ),
    ],
)
def test_what_is_refused(tmp_path, model, file, says):
    run = explained(file, "--model", f"clips:{model}", "--method", "gradient")
    assert run.exit_code
    assert says in run.stderr
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "sfumato-out").exists()


def test_the_clips_of_a_folder(tmp_path):
    names = [path.name for path in find_clips(tmp_path)]
    assert "moving.gif" in names
    assert "prepared.safetensors" in names
    assert "film.mp4" not in names
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no clips; expected files such as"):
        find_clips("empty")


@pytest.mark.parametrize(
    "command",
    [
        ["explain", "frames.npy", "--certificate", "--model", "clips:coloured"],
        ["explain", "frames.npy", "--bundle", "packed", "--model", "clips:coloured"],
        ["channels", "frames.npy", "--layer", "x", "--model", "clips:coloured"],
        ["calibrate", "clips:coloured", "frames.npy"],
        ["compare-models", "clips:coloured", "clips:coloured", "frames.npy"],
        ["serve", "--port", "0", "--model", "clips:coloured"],
    ],
)
def test_commands_for_pictures_refuse_a_model_of_clips(command):
    run = CliRunner().invoke(cli.app, command)
    assert run.exit_code == 2
    assert "is for pictures, and model 'coloured' takes clips of shape (3, 6, 16, 16)" in run.stderr


def test_clips_in_python(tmp_path):
    """A path, an array or an input, as for pictures."""
    classifier = coloured()
    inputs = classifier.inputs_of("frames.npy")
    assert torch.equal(inputs, classifier.inputs_of(flashing()))
    result = sfumato.Gradient()(classifier, tmp_path / "frames.npy", "changes")
    assert torch.equal(result.map, sfumato.Gradient()(classifier, inputs, "changes").map)
    with pytest.raises(
        ValueError, match=r"a clip is a tensor or an array; got Image.* sfumato\.data\.clips\.read_clip"
    ):
        classifier.prepare(Image.new("RGB", (9, 9)))


def test_a_clip_preparation_has_whole_frames_of_a_size():
    with pytest.raises(ValueError, match="frames is how many frames an input has, a whole number from 1 up; got 0"):
        ClipPreparation(0)
    with pytest.raises(ValueError, match="frame is a Preparation with a size in pixels"):
        ClipPreparation(4, Preparation(size=None))
