"""The results of a command in its folder: their names, and which of them are there already."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli.files import slug, stems

if TYPE_CHECKING:
    from sfumato.models import Classifier

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that are in the folder already.")]
"""The option --overwrite."""

Resume = Annotated[bool, typer.Option("--resume", help="Skip results that are in the folder already.")]
"""The option --resume."""

MADE_FROM = "made_from"
"""The entry of a summary that says from what it was made."""


def refuse_existing(files: Iterable[Path], overwrite: bool) -> None:
    """Raise `ValueError` if one of the files that a command writes is there already, unless they are to be replaced."""
    for file in files:
        if file.exists() and not overwrite:
            raise ValueError(f"{str(file)!r} is there already. Write --overwrite to replace it, or another --out")


@dataclass(frozen=True, eq=False)
class Outputs:
    """The results of one command for these pictures.

    Each picture and target has files of one stem. Its summary, `stem`.json, is written last, so a result with a summary is
    complete.
    """

    folder: Path
    paths: Sequence[Path]
    labels: Sequence[str]
    """The name of each class."""
    made_from: Mapping[str, Any] = field(default_factory=dict)
    """What all results are made from, besides their pictures: the network and the settings, as JSON."""
    overwrite: bool = False
    resume: bool = False

    def stem(self, path: Path, target: int) -> str:
        """The beginning of the names of the files of one picture and target."""
        return f"{self._stems[path]}-{self._slugs[target]}"

    def check(self, targets: Sequence[int]) -> None:
        """Raise `ValueError` if results of these pictures and targets would be overwritten, before the work begins.

        Without targets, each picture's target is its top class, which is not known yet. Then any class counts.
        """
        if self.overwrite and self.resume:
            raise ValueError("--overwrite replaces results and --resume keeps them; give one of them")
        if self.overwrite or self.resume:
            return
        ends = {f"-{self._slugs[target]}".casefold() for target in targets or range(len(self.labels))}
        beginnings = {stem.casefold() for stem in self._stems.values()}
        for file in sorted(self.folder.glob("*.json")):
            name = file.stem.casefold()
            places = (place for place, letter in enumerate(name) if letter == "-")
            if any(name[:place] in beginnings and name[place:] in ends for place in places):
                raise ValueError(
                    f"{str(file)!r} is there already. Write --overwrite to replace results, --resume to skip those that are "
                    "done, or another --out"
                )

    def about(self, digest: str) -> dict[str, Any]:
        """From what the result of a picture with this hash is made."""
        return {**self.made_from, "picture": digest}

    def is_done(self, path: Path, target: int, digest: str) -> bool:
        """Whether to skip this picture and target, as the result is there. Only --resume skips any.

        Raises `ValueError` if the file there is the result of something else.
        """
        summary = self.folder / f"{self.stem(path, target)}.json"
        if not self.resume or not summary.exists():
            return False
        try:
            made_from = json.loads(summary.read_text(encoding="utf-8")).get(MADE_FROM)
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"{str(summary)!r} is no summary of a result: {error}; move it, or write --overwrite"
            ) from error
        differing = _differing(made_from, self.about(digest))
        if differing:
            raise ValueError(
                f"{str(summary)!r} was made from another {', '.join(differing)}. Write --overwrite to replace results, or "
                "another --out"
            )
        return True

    @cached_property
    def _stems(self) -> dict[Path, str]:
        return stems(self.paths)

    @cached_property
    def _slugs(self) -> list[str]:
        """The name of each class in file names. Classes of the same name get their index too."""
        slugs = [slug(label) for label in self.labels]
        count = Counter(slugs)
        return [f"{name}-{index}" if count[name] > 1 else name for index, name in enumerate(slugs)]


def _differing(one: Any, other: Mapping[str, Any]) -> list[str]:
    """The names of the entries that differ."""
    one = one if isinstance(one, Mapping) else {}
    return [name for name in other if one.get(name) != other[name]]


def made_from(classifier: "Classifier", **settings: Any) -> dict[str, Any]:
    """What results are made from: the network with its weights, the version of sfumato, and the settings."""
    from sfumato.about import own_version
    from sfumato.model.fingerprint import fingerprint
    from sfumato.settings import as_json

    network = fingerprint(classifier.net)
    parts = {"network": network, "preparation": classifier.preparation, "version of sfumato": own_version(), **settings}
    return json.loads(json.dumps(as_json(parts)))


def digest_of(path: Path) -> str:
    """The hash of a picture's file; empty if it cannot be read. Of pipes and devices nothing is read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    except OSError:
        return ""
