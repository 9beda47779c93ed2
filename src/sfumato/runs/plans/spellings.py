"""What names of classes have in common: spellings that count as one, synonyms, and the labels that a name may mean."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

from sfumato.data.labels import synonyms

NAME, PLURAL = "by name", "by a plural"
"""How a name means a label."""

WORDNET_ID = re.compile(r"(?<![a-z0-9])n\d{8}(?!\d)", re.IGNORECASE)
NUMBER_IN_FRONT = re.compile(r"^\d+[\s._:-]+(?=\D)")

Candidates = Mapping[int, tuple[frozenset[int], str]]
"""By class, the labels that its name may mean, and how."""


class Spellings:
    """The labels by all that they may be called."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._exact: dict[str, set[int]] = {}
        self._plain: dict[str, set[int]] = {}
        self._parts: dict[str, set[int]] = {}
        for index, label in enumerate(labels):
            self._exact.setdefault(label, set()).add(index)
            self._plain.setdefault(plain(label), set()).add(index)
            for part in parts(label):
                self._parts.setdefault(part, set()).add(index)

    def candidates(self, names: Mapping[int, str]) -> Candidates:
        """The labels that each name may mean. Where all names are labels to the letter, these are meant, whatever synonyms they
        share with others: ImageNet has the garment "cardigan" beside the dog "Cardigan, Cardigan Welsh corgi"."""
        if all(name in self._exact for name in names.values()):
            return {place: (frozenset(self._exact[name]), NAME) for place, name in names.items()}
        return {place: self.fitting(name) for place, name in names.items()}

    def fitting(self, name: str) -> tuple[frozenset[int], str]:
        """The labels that a name may mean, by the strictest reading that any label fits, and the way of that."""
        own = parts(name)
        readings: tuple[tuple[str, list[set[int]]], ...] = (
            (NAME, [self._plain.get(plain(name), set()) if len(synonyms(name)) > 1 else set()]),
            (NAME, [self._parts.get(part, set()) for part in own]),
            (PLURAL, [self._parts.get(other, set()) for part in own for other in plurals(part)]),
        )
        for way, fitting in readings:
            if indices := frozenset[int]().union(*fitting):
                return indices, way
        return frozenset(), ""


def plain(name: str) -> str:
    """A name's letters and digits in small, those of Latin without accents.

    >>> plain("Crème_brûlée"), plain("T-Shirt"), plain("tv monitor")
    ('cremebrulee', 'tshirt', 'tvmonitor')
    """
    characters: list[str] = []
    vowels = False
    for _ in range(2):  # Unicode's "alike but for case": folding uncovers what can be taken apart, and the reverse
        name = unicodedata.normalize("NFKD", name).casefold()
    for character in unicodedata.normalize("NFKD", name):
        mark = unicodedata.category(character).startswith("M")
        if not mark:
            vowels = character.isalnum() and not character.isascii()
        if character.isalnum() or (mark and vowels):  # in scripts other than Latin, a mark may be a vowel
            characters.append(character)
    return "".join(characters)


def parts(name: str) -> tuple[str, ...]:
    """The plain synonyms of a name, without WordNet ids and numbers in front, and such ids themselves.

    >>> parts("n02085620-Chihuahua"), parts("001.Black_footed_Albatross")
    (('n02085620', 'chihuahua'), ('001blackfootedalbatross', 'blackfootedalbatross'))
    """
    names: dict[str, None] = {}
    for synonym in synonyms(name):
        ids = WORDNET_ID.findall(synonym)
        rest = WORDNET_ID.sub(" ", synonym)
        names |= dict.fromkeys(plain(one) for one in (*ids, rest, NUMBER_IN_FRONT.sub("", rest)))
    return tuple(part for part in names if part)


def plurals(part: str) -> tuple[str, ...]:
    """What a plain name is in the plural, and what it may be the plural of.

    >>> plurals("puppies")
    ('puppiess', 'puppieses', 'puppie', 'puppi', 'puppy')
    """
    if len(part) < 3 or not part.isalpha():
        return ()
    forms = [part + "s", part + "es"]
    for ending, other in (("y", "ies"), ("s", ""), ("es", ""), ("ies", "y")):
        if part.endswith(ending):
            forms.append(part.removesuffix(ending) + other)
    return tuple(forms)
