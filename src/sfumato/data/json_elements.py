"""Reads a large JSON file piece by piece: the elements of its lists, with their positions in the file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sfumato.data.reading import unreadable

CHUNK = 1 << 20  # bytes in one read
DECODER = json.JSONDecoder()
SPACE = " \t\n\r"


def elements(path: Path) -> Iterator[tuple[str, int, int, Any]]:
    """Yield each element of each list in the file's object: the list's name, the first byte, the number of bytes, the value.

    Text in the value was decoded as Latin-1: to get the text itself, read the bytes again with `element`. Memory stays at a few
    megabytes, as long as the file is undamaged. Raises `ValueError` for a damaged file.
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
    """The element at these bytes."""
    source.seek(start)
    return json.loads(source.read(length))


class _Pieces:
    """A window of the file, and a parser in it. In Latin-1 a byte is a character, so that positions are byte numbers."""

    def __init__(self, path: Path, source: BinaryIO) -> None:
        self.path, self.source = path, source
        self.text, self.at, self.before, self.lines = "", 0, 0, 0

    def more(self, size: int = CHUNK) -> bool:
        """Read more of the file, and drop the part already parsed; False at the end of the file."""
        chunk = self.source.read(size)
        self.lines += self.text.count("\n", 0, self.at)
        self.before += self.at
        self.text, self.at = self.text[self.at :] + chunk.decode("latin-1"), 0
        return bool(chunk)

    def next(self) -> str:
        """The next character that is no space, without consuming it; empty at the end of the file."""
        while True:
            while self.at < len(self.text):
                character = self.text[self.at]
                if character not in SPACE:
                    return character
                self.at += 1
            if not self.more():
                return ""

    def take(self, expected: str) -> None:
        """Consume this character. Raises `ValueError` if another one comes."""
        character = self.next()
        if character != expected:
            raise self.error(f"got {character!r} instead of {expected!r}" if character else "the file ends")
        self.at += 1

    def comma(self, end: str) -> None:
        """Consume a comma, unless the list or object ends here."""
        if self.next() != end:
            self.take(",")
            if self.next() == end:
                raise self.error(f"got {end!r} after a comma")

    def value(self) -> tuple[Any, int, int]:
        """The next value, its first byte and its length."""
        self.next()
        value, end = self.parse()
        start, length = self.before + self.at, end - self.at
        self.at = end
        return value, start, length

    def parse(self) -> tuple[Any, int]:
        """The next value and its end in the text. Reads more of the file until the value is complete."""
        size, ended = CHUNK, False
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if ended:
                    self.at = min(error.pos, len(self.text))
                    raise self.error(error.msg) from None
            except RecursionError:
                raise self.error("nested too deeply") from None
            else:
                if end < len(self.text) or ended:  # else a number may continue
                    return value, end
            ended = not self.more(size)
            size *= 2  # so that a damaged file is not parsed again and again

    def error(self, reason: str) -> ValueError:
        line = 1 + self.lines + self.text.count("\n", 0, self.at)
        return ValueError(
            f"{str(self.path)!r}, line {line}, byte {self.before + self.at}: {reason}; expected a JSON object of lists"
        )
