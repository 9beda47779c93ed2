"""A large JSON file piece by piece: the elements of its lists, and where in the file each of them lies."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sfumato.data.reading import unreadable

CHUNK = 1 << 20  # bytes read at once
DECODER = json.JSONDecoder()
SPACE = " \t\n\r"


def elements(path: Path) -> Iterator[tuple[str, int, int, Any]]:
    """Each element of each list that the file's object has: the list's name, the first byte, the number of bytes, and the
    value (text in it has been read as Latin-1: read it again from its bytes where that matters).

    Never more than some megabytes are held, as long as the file is sound. Raises `ValueError` where it is not.
    """
    try:
        with path.open("rb") as source:
            pieces = _Pieces(path, source)
            pieces.take("{")
            while pieces.next() != "}":
                name, _, _ = pieces.value()
                pieces.take(":")
                if pieces.next() == "[":
                    pieces.take("[")
                    while pieces.next() != "]":
                        value, start, length = pieces.value()
                        yield str(name), start, length, value
                        pieces.comma("]")
                    pieces.take("]")
                else:
                    pieces.value()
                pieces.comma("}")
    except OSError as error:
        raise unreadable(path, error) from error


def element(source: BinaryIO, start: int, length: int) -> Any:
    """The element that lies there."""
    source.seek(start)
    return json.loads(source.read(length))


class _Pieces:
    """The part of the file that is being read. As Latin-1 each byte is one character, so that positions are bytes."""

    def __init__(self, path: Path, source: BinaryIO) -> None:
        self.path, self.source = path, source
        self.text, self.at, self.before, self.lines = "", 0, 0, 0

    def more(self, size: int = CHUNK) -> bool:
        chunk = self.source.read(size)
        self.lines += self.text.count("\n", 0, self.at)
        self.before += self.at
        self.text, self.at = self.text[self.at :] + chunk.decode("latin-1"), 0
        return bool(chunk)

    def next(self) -> str:
        """The next character that is no space, without passing it; nothing at the end."""
        while True:
            while self.at < len(self.text):
                character = self.text[self.at]
                if character not in SPACE:
                    return character
                self.at += 1
            if not self.more():
                return ""

    def take(self, expected: str) -> None:
        found = self.next()
        if found != expected:
            raise self.broken(f"found {found!r} where {expected!r} should be" if found else "the file ends")
        self.at += 1

    def comma(self, end: str) -> None:
        """Pass a comma, unless the list or object ends here."""
        if self.next() != end:
            self.take(",")
            if self.next() == end:
                raise self.broken(f"found {end!r} after a comma")

    def value(self) -> tuple[Any, int, int]:
        """The next value, its first byte and its length."""
        self.next()
        value, end = self.whole()
        start, length = self.before + self.at, end - self.at
        self.at = end
        return value, start, length

    def whole(self) -> tuple[Any, int]:
        """The next value and its end in the text, for which more of the file is read as needed."""
        size, ended = CHUNK, False
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if ended:
                    self.at = min(error.pos, len(self.text))
                    raise self.broken(error.msg) from None
            except RecursionError:
                raise self.broken("nested too deeply") from None
            else:
                if end < len(self.text) or ended:  # else a number may go on
                    return value, end
            ended = not self.more(size)
            size *= 2  # so that a damaged file is not read over and over

    def broken(self, reason: str) -> ValueError:
        line = 1 + self.lines + self.text.count("\n", 0, self.at)
        return ValueError(
            f"{str(self.path)!r}, line {line}, byte {self.before + self.at}: {reason}; expected a JSON object of lists"
        )
