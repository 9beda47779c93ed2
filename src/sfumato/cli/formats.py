"""Pictures that Pillow cannot read by itself, such as HEIC pictures of phones: how they can be read, or what to do."""

from importlib.util import find_spec
from pathlib import Path

HEIC = (".heic", ".heif", ".hif")

BRANDS = {
    "avif": "AVIF",
    "avis": "AVIF",
    "heic": "HEIC",
    "heix": "HEIC",
    "hevc": "HEIC",
    "mif1": "HEIC",
    "msf1": "HEIC",
}
"""The kinds of picture by the first brand of a file in ISO's base media format (ISO/IEC 23008-12, annex B)."""


def open_more_formats() -> None:
    """Let Pillow read HEIC pictures, if the extra `heic` is installed."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def advice(path: Path) -> str:
    """What to do about a picture, or a folder without pictures, that cannot be read; empty if nothing is known."""
    from PIL import features

    if path.is_dir() and any(entry.suffix.lower() in HEIC for entry in path.iterdir()):
        return ". It holds HEIC pictures, which are read only if they are named themselves: write e.g. its path with /*.heic"
    kind = _kind(path) if path.is_file() else ""
    if kind == "HEIC" and find_spec("pillow_heif") is None:
        return ". It is a HEIC picture: run: pip install pillow-heif, or convert it to JPEG"
    if kind == "AVIF" and not features.check("avif"):
        return ". It is an AVIF picture: run: pip install --upgrade pillow, or convert it to JPEG"
    return ""


def _kind(path: Path) -> str:
    """HEIC, AVIF, or an empty text, by the first bytes of the file."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return ""
    return BRANDS.get(head[8:12].decode("latin-1"), "") if head[4:8] == b"ftyp" else ""
