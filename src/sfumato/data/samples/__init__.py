"""Three photographs in the public domain, for trials. `SOURCES.md` next to this file names their authors."""

from pathlib import Path

_FOLDER = Path(__file__).parent


def paths() -> list[Path]:
    """The sample pictures, sorted by name.

    >>> [path.stem for path in paths()]
    ['camera', 'chelsea', 'coffee']
    """
    return sorted(_FOLDER.glob("*.jpg"))


def path(name: str) -> Path:
    """The sample picture of this name. Raises `ValueError` if there is none.

    >>> path("chelsea").name
    'chelsea.jpg'
    """
    names = [picture.stem for picture in paths()]
    if name not in names:
        raise ValueError(f"no sample picture {name!r}; expected one of {', '.join(names)}")
    return _FOLDER / f"{name}.jpg"
