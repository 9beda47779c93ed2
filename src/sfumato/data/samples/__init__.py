"""Three photographs in the public domain, to try things on; `SOURCES.md` beside this file says whose they are."""

from pathlib import Path

_FOLDER = Path(__file__).parent


def paths() -> list[Path]:
    """The sample pictures, by name.

    >>> [path.stem for path in paths()]
    ['camera', 'chelsea', 'coffee']
    """
    return sorted(_FOLDER.glob("*.jpg"))


def path(name: str) -> Path:
    """The sample picture of that name.

    >>> path("chelsea").name
    'chelsea.jpg'
    """
    names = [each.stem for each in paths()]
    if name not in names:
        raise ValueError(f"no sample picture {name!r}; expected one of {', '.join(names)}")
    return _FOLDER / f"{name}.jpg"
