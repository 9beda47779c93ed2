"""README, pages and `--help` say the same: every option on a page is one of its command, and every command has a page."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from sfumato import models
from sfumato.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "decisions" not in page.parts),
]
FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
OTHERS = {
    "--clean", "--disable-pip-version-check", "--address",
}  # fmt: skip
"""Options of other programs that pages name without these programs."""


def commands(command, path=()):
    """The options of each command, by its words."""
    if hasattr(command, "commands"):
        for name, part in command.commands.items():
            yield from commands(part, (*path, name))
    else:
        names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        yield path, {name for name in names if name.startswith("-")} | {"--help", "-h"}


COMMANDS = dict(commands(typer.main.get_command(app)))
ALL_OPTIONS = set.union(*COMMANDS.values(), {"--version", "--install-completion", "--show-completion"})


def pieces(page):
    """The code of a page: lines of its blocks, and what stands between backticks."""
    text = page.read_text(encoding="utf-8")
    for block in FENCED.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    yield from (" ".join(code.split()) for code in INLINE.findall(FENCED.sub("", text)))


def words_of(piece):
    """The words after `sfumato` of a command in a piece of code; nothing in others."""
    found = re.search(r"(?:^|[\s/])sfumato (?!=)(.*)", piece.split(" # ")[0])
    if not found:
        return []
    try:
        return shlex.split(re.split(r"\||&&|;|\|\|", found[1])[0], comments=True)
    except ValueError:
        return found[1].split()


def named(piece):
    """The command that a piece of code calls, as its words; None in others."""
    words = words_of(piece)
    for count in (2, 1):
        if tuple(words[:count]) in COMMANDS:
            return tuple(words[:count])
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_on_a_page_are_options_of_the_command(page):
    for piece in pieces(page):
        command = named(piece)
        if command:
            given = {word.partition("=")[0] for word in words_of(piece) if word.startswith("--")}
            assert given <= COMMANDS[command], f"{page.name}: {piece}"
        elif OPTION.match(piece) and page.name not in ("benchmarks.md", "CONTRIBUTING.md"):
            option = OPTION.match(piece)[0]
            assert option in ALL_OPTIONS | OTHERS, f"{page.name} names {option}, which no command has"


def test_every_folder_for_results_has_the_same_short_option():
    assert all("-o" in options for options in COMMANDS.values() if "--out" in options)


def test_every_command_has_a_page_that_names_it():
    shown = {named(piece) for page in PAGES for piece in pieces(page)}
    assert set(COMMANDS) - shown == set()


def test_every_option_is_on_a_page():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    on_pages = set(OPTION.findall(text))
    parameters = [
        (name, parameter) for name, command in leaves(typer.main.get_command(app)) for parameter in command.params
    ]
    options = [(name, {*parameter.opts, *parameter.secondary_opts}) for name, parameter in parameters]
    assert len(options) > 100
    missing = [
        (name, names) for name, names in options if any(one.startswith("--") for one in names) and not names & on_pages
    ]
    assert missing == []


def leaves(command, path=()):
    """The commands, by their words."""
    if hasattr(command, "commands"):
        for name, part in command.commands.items():
            yield from leaves(part, (*path, name))
    else:
        yield path, command


def test_every_choice_of_a_device_is_on_the_page_about_devices():
    from sfumato.cli.device import AUTO, KINDS

    text = (ROOT / "docs/howto/gpu.md").read_text(encoding="utf-8")
    assert all(f"`{kind}`" in text for kind in (AUTO, *KINDS))
    with_device = {" ".join(words) for words, options in COMMANDS.items() if "--device" in options}
    sentence = re.search(
        r"((?:`[a-z-]+`(?:, | and ))+`[a-z-]+`)\nhave it|((?:`[a-z-]+`(?:, | and ))+`[a-z-]+`) have it", text
    )
    assert set(re.findall(r"`([a-z-]+)`", sentence[0])) == with_device


def test_the_reader_of_pages_finds_what_is_wrong():
    assert named("sfumato explain a.png --nothing 3") == ("explain",)
    assert named("sfumato bench run plan.toml") == ("bench", "run")
    assert named("import sfumato") is None
    assert "--nothing" not in COMMANDS["explain",]
    assert words_of("sfumato explain a.png --out b   # a comment --x") == ["explain", "a.png", "--out", "b"]


LOADED = re.compile(r'models\.load\(\s*"([^"]+)"')
WITH_MODEL = re.compile(r"--model ([\w:./]+)")


def test_models_that_pages_name_have_a_source():
    """As "lite0" has a name of its own, and others are "timm:…" or "package.module:factory"; MODEL stands for any."""
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    named = {
        (page.name, name) for page, text in texts.items() for name in LOADED.findall(text) + WITH_MODEL.findall(text)
    }
    assert len(named) > 20
    assert {(page, name) for page, name in named if ":" not in name and name not in (*models.NAMES, "MODEL")} == set()
