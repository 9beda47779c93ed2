"""BibTeX of the papers behind methods, metrics and their parts.

Each paper is written once, in the docstring of the class or function, or of its module, as `F. Author, S. Author: *Title*,
venue year, arXiv number`. If a setting chooses among several papers, the module has a dict `PAPERS`. It maps each value of the
setting to such a text, or to another value that has the same paper; for a setting that is on or off the keys are such as
"binary=True". The files are read and not imported, so that torch is not needed.
"""

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import sfumato
from sfumato.settings import CLASS, ROOT

NAME = r"(?:[A-Z]\.[ -]?)+(?:[a-z]+ )*[A-Z][\w'’-]+"
DEFINITION = (ast.ClassDef, ast.FunctionDef)
JOURNALS = ("Journal", "Distill", "IEEE Transactions")
"""How the names of journals begin. Other venues are conferences."""

REFERENCE = re.compile(
    rf"(?P<authors>{NAME}(?:(?:,| &| and) {NAME})*)(?P<et_al> et al\.)?: \*(?P<title>[^*]+)\*,? ?"
    r"(?P<publication>(?:[^.;()]|\.\d)*)"
)


def citation(*used: Any) -> str:
    """The BibTeX entries of what was used, and of sfumato itself. Each entry is there once.

    Each of `used` is a method, a metric, a part of one such as a mask family, a class of these, a function of sfumato such as
    `invert`, or a result, whose `about` names its method. Settings count too: an ascent or a perturbation with a paper of its
    own has an entry. Raises `ValueError` for anything else.

    >>> print(citation("sfumato:RISE").partition("@software")[0].strip())
    @inproceedings{petsiuk2018rise,
      author = {V. Petsiuk and A. Das and K. Saenko},
      title = {RISE: Randomized Input Sampling for Explanation of Black-box Models},
      booktitle = {BMVC},
      year = {2018},
      eprint = {1806.07421},
      archiveprefix = {arXiv},
    }
    """
    entries: dict[str, None] = {}
    for thing in used:
        for module, name, settings in _classes(thing):
            entries |= dict.fromkeys(_entries(module, name, settings))
    return "\n\n".join([*entries, _software()])


def _classes(thing: Any) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The module, name and settings of a thing's class, then those of the classes in its settings."""
    about = getattr(thing, "about", None)
    if isinstance(thing, type):
        yield thing.__module__, thing.__qualname__, {}
        if is_dataclass(thing):
            for entry in fields(thing):
                yield from _parts(entry.default)
    elif isinstance(thing, FunctionType) and thing.__module__.split(".")[0] == ROOT:
        yield thing.__module__, thing.__qualname__, {}
        yield from _parts([parameter.default for parameter in inspect.signature(thing).parameters.values()])
    elif isinstance(about, Mapping):
        if "prior" in about:  # of an inversion
            yield type(thing).__module__, type(thing).__qualname__, {}
            yield from _parts(about["prior"])
            return
        if "method" not in about:
            raise ValueError("the result's `about` does not name its method; give citation() the method itself")
        yield from _classes(about["method"])
        yield from _parts(about.get("perturbation"))
    elif isinstance(thing, str):
        if not _names_class(thing):
            raise ValueError(
                f"citation() knows no class or function {thing!r}; give its path, e.g. 'sfumato:RISE', or the class itself"
            )
        yield from _parts(thing)
    elif is_dataclass(thing) or (isinstance(thing, Mapping) and CLASS in thing):
        yield from _parts(thing)
    else:
        raise ValueError(
            f"citation() takes methods, metrics, their parts, classes and functions, and results; got {thing!r}"
        )


def _parts(value: Any) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The same as `_classes` for a setting, which is an object or the JSON of one."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from _parts(item)
    elif is_dataclass(value) and not isinstance(value, type):
        settings = {entry.name: getattr(value, entry.name) for entry in fields(value)}
        yield type(value).__module__, type(value).__qualname__, settings
        yield from _parts(tuple(settings.values()))
    elif isinstance(value, Mapping):
        if isinstance(value.get(CLASS), str):
            yield (*_defining_module(value[CLASS]), value)
        yield from _parts([item for key, item in value.items() if key != CLASS])
    elif (
        isinstance(value, str)
        and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value)
        and _source_file(_defining_module(value)[0])
    ):
        yield (*_defining_module(value), {})


def _defining_module(path: str) -> tuple[str, str]:
    """The module that defines a class, and the name of the class, from its dotted path "package.module:Name".

    A package of sfumato that only exports the class is followed to the module that defines it.
    """
    module, _, name = path.partition(":")
    table: Mapping[str, tuple[str, str]] = sfumato._table()  # type: ignore[attr-defined]
    if module == ROOT and name in table:
        return table[name]
    if module.split(".")[0] == ROOT and (file := _source_file(module)) and file.name == "__init__.py":
        return dict(sfumato._exports(file)).get(name, (module, name))  # type: ignore[attr-defined]
    return module, name


def _names_class(path: str) -> bool:
    """Whether a text is the path of a class, or of a function, "package.module:Name"."""
    module, name = _defining_module(path)
    file = _source_file(module) if name else None
    statements = ast.parse(file.read_text(encoding="utf-8")).body if file else []
    return any(isinstance(statement, DEFINITION) and statement.name == name for statement in statements)


def _source_file(module: str) -> Path | None:
    """The Python file of a module, or `None`. Modules of sfumato are not imported for it."""
    first, *parts = module.split(".")
    if first == ROOT:
        stem = Path(__file__).parent.joinpath(*parts)
        candidates = (stem.with_suffix(".py"), stem / "__init__.py")
        return next((candidate for candidate in candidates if candidate.is_file()), None)
    if module in sys.modules:
        file = getattr(sys.modules[module], "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            return None
        file = spec.origin if spec else None
    return Path(file) if file and file.endswith(".py") and Path(file).is_file() else None


def _entries(module: str, name: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """The BibTeX entries of a class with its settings."""
    path = _source_file(module)
    if path is None:
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [ast.get_docstring(tree)]
    for statement in tree.body:
        if isinstance(statement, DEFINITION) and statement.name == name:
            texts.append(ast.get_docstring(statement))
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == "PAPERS" for target in targets):
            papers = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
            values = [value.rpartition(":")[2] for value in settings.values() if isinstance(value, str)]
            values += [f"{setting}={value}" for setting, value in settings.items() if isinstance(value, bool)]
            texts += [papers.get(text, text) for text in map(papers.get, values)]
    for text in texts:
        yield from map(_bibtex, REFERENCE.finditer(" ".join((text or "").split())))


def _bibtex(reference: re.Match[str]) -> str:
    """The BibTeX entry of a paper, from a match of `REFERENCE`."""
    authors = [author.strip() for author in re.split(r", | & | and ", reference["authors"])]
    number = re.search(r"arXiv (\d{4}\.\d{4,5})", reference["publication"])
    publication = re.sub(r"arXiv \d{4}\.\d{4,5}", "", reference["publication"])
    year = re.search(r"\b(?:19|20)\d\d\b", publication)
    venue = publication[: year.start()].strip(" ,") if year else ""
    if year and publication[year.end() :].startswith(" workshop"):
        venue += " workshop"
    title = reference["title"]
    word = next((word for word in re.findall(r"[a-z]+", title.casefold()) if word not in ("a", "an", "the", "on")), "")
    surname = re.sub(r"\W", "", authors[0].rpartition(" ")[2]).casefold()
    journal = venue.startswith(JOURNALS)
    entry = {
        "author": " and ".join([*authors, *(["others"] if reference["et_al"] else [])]),
        "title": title,
        "journal" if journal else "booktitle": venue,
        "year": year[0] if year else "",
        "eprint": number[1] if number else "",
        "archiveprefix": "arXiv" if number else "",
    }
    kind = "article" if journal else "inproceedings" if venue else "misc"
    return _entry(kind, f"{surname}{entry['year']}{word}", entry)


def _software() -> str:
    """The entry of sfumato itself, the same as in CITATION.cff."""
    entry = {"author": "{sfumato contributors}", "title": "sfumato", "version": sfumato.__version__}
    return _entry("software", "sfumato", entry)


def _entry(kind: str, key: str, values: Mapping[str, str]) -> str:
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in values.items() if value)
    return f"@{kind}{{{key},\n{lines}}}"
