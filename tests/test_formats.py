"""Pictures that Pillow cannot read by itself: the message says in one sentence what they are and what to do."""

import sys
from types import SimpleNamespace

import pytest
from PIL import Image, features

from sfumato.data import formats, pictures


def file_of(folder, brand, name="picture.jpg"):
    (folder / name).write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1" + bytes(64))
    return folder / name


@pytest.fixture
def without_package(monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda _: None)


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"hevc"])
def test_a_heic_picture_is_known_by_its_first_bytes(tmp_path, without_package, brand):
    with pytest.raises(ValueError, match="it is a HEIC picture, which needs pillow-heif") as error:
        pictures.read(file_of(tmp_path, brand))
    assert str(error.value).endswith('; run: pip install "sfumato[heic]", or convert it to JPEG')


def test_with_the_package_it_is_read(tmp_path, monkeypatch):
    shown = Image.new("RGB", (3, 2), "red")
    path = file_of(tmp_path, b"heic", "x.heic")

    def opened(file, _):
        file.close()
        return shown

    def register():
        Image.register_open("HEIF", opened, lambda head: head[4:12] == b"ftypheic")

    monkeypatch.setattr(formats, "find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    monkeypatch.setattr(Image, "ID", [*Image.ID])
    monkeypatch.setattr(Image, "OPEN", {**Image.OPEN})
    assert pictures.read(path).getpixel((0, 0)) == (255, 0, 0)
    assert pictures.find(tmp_path) == [path]


def test_a_damaged_one_is_no_matter_of_installation(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=lambda: None))
    with pytest.raises(ValueError, match="it is not a picture of a known kind"):
        pictures.read(file_of(tmp_path, b"heic"))


@pytest.mark.parametrize("readable", [True, False])
def test_an_avif_picture(tmp_path, monkeypatch, readable):
    monkeypatch.setattr(features, "check", lambda _: readable)
    assert ("upgrade pillow" in formats.missing(file_of(tmp_path, b"avif").read_bytes())) == (not readable)


def test_a_folder_of_heic_pictures_only(tmp_path, without_package):
    file_of(tmp_path, b"heic", "IMG_1.HEIC")
    with pytest.raises(ValueError, match=r'holds only HEIC pictures, .* run: pip install "sfumato\[heic\]"'):
        pictures.find(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\0\0\0\x18ftypisom"])
def test_of_others_nothing_is_said(tmp_path, without_package, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"it is not a picture of a known kind; expected e\.g\. a JPEG") as error:
        pictures.read(tmp_path / "a.png")
    assert "pip" not in str(error.value)
