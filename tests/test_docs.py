"""The pages are made of what the library says of itself."""

import doctest
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import sfumato

DOCS = Path(__file__).parents[1] / "docs"


def loaded(name: str):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstrings_become_rest():
    tried = doctest.testmod(loaded("pages"))
    assert tried.attempted
    assert not tried.failed


def test_what_is_between_backticks_is_left_alone():
    text = loaded("pages").as_rest("`$HOME` and `a_b`s, $a$ `b`\n\n>>> print('`$x$`')\n`$x$`")
    assert text == "``$HOME`` and ``a_b``\\ s, :math:`a` ``b``\n\n>>> print('`$x$`')\n`$x$`"


def test_the_reference_has_a_page_for_every_public_name():
    pages = loaded("pages").reference()
    exported = {name: getattr(sfumato, name) for name in sfumato.__all__}
    packages = {name for name, value in exported.items() if isinstance(value, ModuleType)}
    assert sorted(pages) == sorted(f"sfumato.{name}" if name in packages else name for name in exported)
    assert len({name.casefold() for name in pages}) == len(pages), "files of one name on some disks"
    for name, text in pages.items():
        home = exported[name.removeprefix("sfumato.")]
        described = f"automodule:: {home.__name__}\n" if name.startswith("sfumato.") else f":: sfumato.{name}\n"
        assert described in text
        assert text.startswith(f"{name}\n{'=' * len(name)}\n")


def test_the_list_of_the_reference_has_every_page_with_a_sentence():
    pages = loaded("pages")
    text = pages.contents()
    said = dict(re.findall(r"^- :doc:`[\w.]+ <reference/([\w.]+)>`: (.+)$", text, re.MULTILINE))
    assert set(said) == set(pages.reference())
    assert said["ExtremalChannels"] == sfumato.ExtremalChannels.__doc__.partition("\n")[0]
    assert not [sentence for sentence in said.values() if sentence.endswith("et al.")]
    assert "\ncontents\n" in (DOCS / "reference.md").read_text(encoding="utf-8")


def test_the_pages_of_the_reference_are_written_when_they_change(tmp_path):
    pages = loaded("pages")
    (tmp_path / "Gone.rst").touch()
    assert len(pages.write(tmp_path)) == len(pages.reference())
    assert not (tmp_path / "Gone.rst").exists()
    (tmp_path / "RISE.rst").write_text("old")
    assert pages.write(tmp_path) == ["RISE.rst"]


def test_every_page_is_in_the_table_of_contents():
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert page.stem == "index" or re.search(rf"^{page.stem}$", contents, re.MULTILINE), page


METHODS = ("ExtremalPerturbation", "ExtremalOrder", "RISE", "MeaningfulPerturbation", "ExtremalChannels", "invert")


@pytest.mark.parametrize("name", [*METHODS, "LevelSetAscent"])
def test_the_main_methods_say_how_to_choose_their_settings(name):
    value = getattr(sfumato, name)
    advice = value.__doc__.partition("How to choose")[2]
    named = {
        part
        for line in re.findall(r"^\s*- ((?:`\w+`(?:, )?)+)", advice, re.MULTILINE)
        for part in re.findall(r"\w+", line)
    }
    assert len(named) >= 3
    assert named <= set(inspect.signature(value).parameters)


def test_a_page_shows_what_its_code_prints_and_draws(tmp_path):
    pytest.importorskip("sphinx", reason="what builds the documentation needs Sphinx, which `make check` installs")
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    executed = loaded("executed")
    draw = 'from sfumato import plots\nfrom matplotlib.figure import Figure\nfigure = Figure()\nplots.save(figure, "a.png")\n'
    text = f"One.\n\n```python\na = 3\nprint(a, 'é')\n```\n\nTwo.\n\n```python\n{draw}```\n\n```python\na += 1\n```\n"
    shown = executed.shown(text, "page", tmp_path)
    assert "print(a, 'é')\n```\n\n```text\n3 é\n```\n\nTwo." in shown
    assert f"![a.png: a figure that the code above saves]({tmp_path.name}/page/a.png)" in shown
    assert (tmp_path / "page/a.png").stat().st_size > 0
    assert shown.endswith("```python\na += 1\n```\n")
    kept = (tmp_path / "page.json").stat().st_mtime_ns
    assert executed.shown(text, "page", tmp_path) == shown
    assert (tmp_path / "page.json").stat().st_mtime_ns == kept, "it does not run again"
    assert "```text\n4 é" in executed.shown(text.replace("a = 3", "a = 4"), "page", tmp_path)


def test_the_tutorial_shows_outputs_and_figures():
    pytest.importorskip("sphinx", reason="what builds the documentation needs Sphinx, which `make check` installs")
    executed = loaded("executed")
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    assert "tutorial" in executed.PAGES
    assert executed.DRAWN.findall(text) == ["chelsea.png", "smallest.png"]
    assert "print(" in text


def test_the_list_for_language_models_has_sections_with_sentences():
    pytest.importorskip("sphinx", reason="what builds the documentation needs Sphinx, which `make check` installs")
    llms = loaded("llms")
    entries = {
        "tasks": ("Tasks", "tasks.md", "What to write."),
        "reference/RISE": ("RISE", "reference/RISE.html", ""),
        "changelog": ("Changelog", "changelog.md", "What changed."),
    }
    assert llms.text_of(entries, "name", "About it.") == (
        "# name\n\n> About it.\n\n## Start here\n\n- [Tasks](tasks.md): What to write.\n\n"
        "## Reference\n\n- [RISE](reference/RISE.html)\n\n## Optional\n\n- [Changelog](changelog.md): What changed.\n"
    )
    for places in llms.SECTIONS.values():
        for place in places:
            assert place == "auto_examples/" or (DOCS / place).is_dir() or (DOCS / f"{place}.md").is_file()


def test_the_landing_page_has_the_figure_three_lines_and_a_table_of_questions():
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    assert "include} ../README.md" in text
    table = text.partition("## Which method for which question")[2].partition("\n\n## ")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| ") and "?" in line]
    assert len(rows) >= 10
    for _, method, link in rows:
        for name in re.findall(r"`([A-Za-z]+)[`(]", method):
            assert name in sfumato.__all__, name
        page, _, section = re.search(r"\]\(([^)]+)\)", link)[1].partition("#")
        titles = re.findall(r"^#+ (.+)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
        slugs = [re.sub(r"[^\w-]", "", title.casefold().replace(" ", "-")) for title in titles]
        assert not section or section in slugs


@pytest.mark.parametrize(
    ("formula", "parts"),
    [
        (r"f > \tfrac12", r"<mfrac[^>]*>\s*<mn>1</mn>\s*<mn>2</mn>\s*</mfrac>"),
        (r"\frac12 \sum_i x_i", r"<mfrac>\s*<mn>1</mn>\s*<mn>2</mn>\s*</mfrac>"),
        (r"\bar m(v)", r"<mover accent=\"true\">\s*<mi>m</mi>\s*<mo[^>]*>ˉ</mo>"),
        (r"\bar m_t", r"<msub>\s*(<mrow>\s*)?<mover accent=\"true\">"),
    ],
)
def test_formulas_are_set_as_tex_reads_them(formula, parts):
    mathml = pytest.importorskip("sphinx", reason="Sphinx is not installed") and loaded("mathml")
    builder = SimpleNamespace(encode=str)
    assert re.search(parts, mathml._set(builder, nodes_of(formula), as_block=False))


def nodes_of(formula):
    return SimpleNamespace(astext=lambda: formula)
