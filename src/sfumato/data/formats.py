"""Files that Pillow cannot read by itself, such as HEIC pictures of phones: how they are read, or what to do."""

from importlib.util import find_spec
from pathlib import Path

HEIC = (".heic", ".heif", ".hif")
"""The endings of HEIC pictures."""

ARRAYS = (".npy", ".npz", ".safetensors")
"""The endings of files with arrays."""

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
"""The endings of videos."""

SOUNDS = (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav", ".wma")
"""The endings of sounds."""

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

HEAD = 12
"""How many bytes at the beginning of a file tell its kind."""

INSTALL = 'pip install "sfumato[heic]"'


def reads_heic() -> bool:
    """Whether the extra `heic` is installed."""
    return find_spec("pillow_heif") is not None


def open_more(head: bytes) -> None:
    """Let Pillow read HEIC pictures, if a file with this `head` is one and the extra `heic` is installed."""
    if kind(head) == "HEIC" and reads_heic():
        import pillow_heif

        pillow_heif.register_heif_opener()


def missing(head: bytes) -> str:
    """What a file with this `head` needs to be read, and what to do; empty if nothing is known.

    >>> missing(b"\\x89PNG\\r\\n\\x1a\\n")
    ''
    """
    from PIL import features

    if kind(head) == "HEIC" and not reads_heic():
        return f"it is a HEIC picture, which needs pillow-heif; run: {INSTALL}, or convert it to JPEG"
    if kind(head) == "AVIF" and not features.check("avif"):
        return "it is an AVIF picture, which needs a newer Pillow; run: pip install --upgrade pillow, or convert it to JPEG"
    return ""


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its name.

    >>> is_video(Path("cat.MP4")), is_video(Path("cat.gif"))
    (True, False)
    """
    return path.suffix.lower() in VIDEOS


def no_picture(path: Path) -> str:
    """Why a file is no picture, and what to do, if it is an array, a video or a sound by its name; else empty."""
    if path.suffix.lower() in ARRAYS:
        return "it is an array, and the model takes pictures; give a picture, or a model that takes clips or volumes"
    if is_video(path):
        return "it is a video, and the model takes pictures; save one of its frames as a picture"
    if path.suffix.lower() in SOUNDS:
        return (
            "it is a sound, which is explained in Python: method(model, sound, target) with a tensor (1, 1, samples), see the "
            'guide "Explain a sound or a time series"'
        )
    return ""


def kind(head: bytes) -> str:
    """HEIC, AVIF, or an empty text, by the first bytes of a file.

    >>> kind(b"\\x00\\x00\\x00\\x18ftypheic")
    'HEIC'
    """
    return BRANDS.get(head[8:HEAD].decode("latin-1"), "") if head[4:8] == b"ftyp" else ""
