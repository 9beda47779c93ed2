"""Pictures that Pillow cannot read by itself: the message says what they are and what to do."""

from pathlib import Path

import pytest
from PIL import features

from sfumato.cli import formats


def file_of(folder, brand, name="picture.jpg"):
    (folder / name).write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1" + bytes(64))
    return folder / name


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"hevc"])
def test_a_heic_picture_is_known_by_its_first_bytes(tmp_path, monkeypatch, brand):
    monkeypatch.setattr(formats, "find_spec", lambda _: None)
    assert "run: pip install pillow-heif, or convert it to JPEG" in formats.advice(file_of(tmp_path, brand))


def test_with_the_package_a_damaged_picture_is_no_matter_of_installation(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda _: object())
    assert formats.advice(file_of(tmp_path, b"heic")) == ""


@pytest.mark.parametrize("readable", [True, False])
def test_an_avif_picture(tmp_path, monkeypatch, readable):
    monkeypatch.setattr(features, "check", lambda _: readable)
    assert ("upgrade pillow" in formats.advice(file_of(tmp_path, b"avif"))) == (not readable)


def test_a_folder_of_heic_pictures_only(tmp_path):
    file_of(tmp_path, b"heic", "IMG_1.HEIC")
    assert "It holds HEIC pictures" in formats.advice(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\0\0\0\x18ftypisom"])
def test_of_others_nothing_is_said(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    assert formats.advice(tmp_path / "a.png") == formats.advice(tmp_path) == formats.advice(Path("absent")) == ""
