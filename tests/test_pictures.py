"""Pictures in every form that people have them, written with Pillow and read back."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from sfumato import samples
from sfumato.data import pictures

RAMP = np.linspace(0, 255, 12 * 8).reshape(8, 12)  # 8 high, 12 wide, dark to bright
GREY = Image.fromarray(RAMP.astype(np.uint8))


def read_back(tmp_path, picture, name="picture.png", **options):
    path = tmp_path / name
    picture.save(path, **options)
    result = pictures.read(path)
    assert result.mode == "RGB"
    return np.asarray(result).astype(int)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_png_mode_is_read(tmp_path, mode):
    expected = np.asarray(GREY.convert(mode).convert("RGB"))
    assert np.array_equal(read_back(tmp_path, GREY.convert(mode)), expected)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "L"])
def test_jpeg_modes_are_read(tmp_path, mode):
    values = read_back(tmp_path, GREY.convert("RGB").convert(mode), "picture.jpg", quality=95)
    assert np.abs(values - RAMP[..., None]).max() < 12


@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        ((RAMP * 257).astype(np.uint16), "png"),
        ((RAMP * 257).astype(np.uint16), "tif"),
        ((RAMP * 257).astype(np.int32), "tif"),
        (RAMP.astype(np.int32), "tif"),
        ((RAMP / 255).astype(np.float32), "tif"),
        (RAMP.astype(np.float32), "tif"),
    ],
)
def test_wide_values_are_scaled_not_clipped(tmp_path, values, suffix):
    result = read_back(tmp_path, Image.fromarray(values), f"picture.{suffix}")
    assert np.abs(result - RAMP[..., None]).max() <= 1


def test_a_dark_16_bit_picture_stays_dark(tmp_path):
    assert read_back(tmp_path, Image.fromarray(np.full((4, 4), 200, np.uint16))).max() == 1


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_values_without_a_scale_are_refused(tmp_path, bad):
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = bad
    Image.fromarray(values).save(tmp_path / "bad.tif")
    with pytest.raises(ValueError, match="cannot read picture .*its values lie between"):
        pictures.read(tmp_path / "bad.tif")


def test_transparent_parts_are_white(tmp_path):
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    half.putpixel((1, 0), (255, 0, 0, 0))
    assert read_back(tmp_path, half).tolist() == [[[255, 0, 0], [255, 255, 255]]]

    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert read_back(tmp_path, palette, transparency=1).tolist() == [[[255, 0, 0], [255, 255, 255]]]

    assert read_back(tmp_path, Image.new("LA", (1, 1), (0, 127))).tolist() == [[[128, 128, 128]]]


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    assert read_back(tmp_path, GREY, "turned.jpg", exif=exif).shape == (12, 8, 3)


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_of_several_frames_the_first_is_read_with_a_warning(tmp_path, suffix):
    path = tmp_path / f"frames.{suffix}"
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="holds 2 pictures; only the first is used") as caught:
        picture = pictures.read(path)
    assert caught[0].filename == __file__
    red, _, blue = picture.getpixel((1, 1))
    assert red > 240
    assert blue < 10


def encoded(picture, **options):
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"", "not a picture of a known kind"),
        (b"hello, world" * 100, "not a picture of a known kind"),
        (encoded(Image.effect_noise((64, 64), 90), format="JPEG")[:-800], "expected an undamaged picture"),
        (encoded(Image.effect_noise((64, 64), 90), format="PNG")[:-800], "expected an undamaged picture"),
    ],
    ids=["missing", "empty", "text", "truncated JPEG", "truncated PNG"],
)
def test_one_clear_error_whatever_is_wrong(tmp_path, content, message):
    path = tmp_path / "picture.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^cannot read picture '.*picture.jpg': .*{message}"):
        pictures.read(path)


def test_a_folder_is_not_a_picture(tmp_path):
    with pytest.raises(ValueError, match="it is a folder; expected a picture file"):
        pictures.read(tmp_path)


@pytest.mark.parametrize("limit", [70, 40])  # Pillow warns over its limit and refuses over twice that
def test_decompression_bombs_are_refused(tmp_path, monkeypatch, limit):
    GREY.save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever the caller's filters say
        with pytest.raises(ValueError, match=f"claims to be huge; expected at most {limit} pixels"):
            pictures.read(tmp_path / "bomb.png")


@pytest.fixture
def folder(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", "._a.jpg", "inner/c.webp", ".cache/d.png", "picture.png/e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_finds_files_and_folders_in_order_once(folder):
    found = pictures.find([folder / "notes.txt", folder, str(folder / "a.jpg")])
    assert found == [folder / "notes.txt", folder / "a.jpg", folder / "b.PNG"]
    assert pictures.find(str(folder)) == [folder / "a.jpg", folder / "b.PNG"]


def test_finds_in_subfolders_when_asked(folder):
    names = [path.name for path in pictures.find(folder, recursive=True)]
    assert names == ["a.jpg", "b.PNG", "c.webp", "e.png"]


def test_finding_nothing_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no file or folder '.*absent.jpg'"):
        pictures.find([tmp_path / "absent.jpg"])
    with pytest.raises(ValueError, match="holds no pictures"):
        pictures.find([tmp_path])


def test_the_samples_are_small_pictures():
    for path in samples.paths():
        assert max(pictures.read(path).size) == 384
        assert path.stat().st_size < 60_000
        assert path.name in (path.parent / "SOURCES.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="no sample picture 'dog'; expected one of camera, chelsea, coffee"):
        samples.path("dog")
