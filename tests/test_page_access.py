"""Who can use the page: contrast of its colours, order of its headings, names of its fields, and the keyboard alone."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from test_explorer import browser, finished  # noqa: F401
from test_explorer import pytestmark as needs_chromium
from test_explorer_questions import page_of  # noqa: F401  # a fixture
from test_questions_command import maps

import sfumato

PACKAGE = Path(sfumato.__file__).parent
STYLES = [PACKAGE / "figures/report/style.css", PACKAGE / "web/page/style.css"]
RULES = "\n".join(path.read_text() for path in STYLES)
GROUNDS = ("paper", "raised", "mark")


def schemes():
    """The colours by name, for light and for dark."""
    light, dark = {}, {}
    for block, scheme in re.findall(
        r":root \{([^}]*)\}()", re.sub(r"@media[^{]*dark[^{]*\{\s*:root[^}]*\}", "", RULES)
    ):
        light |= dict(re.findall(r"--([\w-]+):\s*(#\w+)", block + scheme))
    for block in re.findall(r"@media[^{]*dark[^{]*\{\s*:root \{([^}]*)\}", RULES):
        dark |= dict(re.findall(r"--([\w-]+):\s*(#\w+)", block))
    return {"light": light, "dark": {**light, **dark}}


def luminance(colour):
    """WCAG 2's relative luminance."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_wcag():
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(scheme):
    colours = schemes()[scheme]
    assert set(GROUNDS) <= set(colours)
    used = set(re.findall(r"(?<![-\w])color:\s*var\(--([\w-]+)\)", RULES)) - {"on-kept"}
    assert {"ink", "soft", "kept"} <= used
    low = {
        (text, ground): round(contrast(colours[text], colours[ground]), 2) for text in used for ground in GROUNDS
    } | {("on-kept", "kept"): contrast(colours["on-kept"], colours["kept"])}
    assert {pair: value for pair, value in low.items() if value < 4.5} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_borders_of_fields_lines_and_the_focus_have_contrast(scheme):
    colours = schemes()[scheme]
    pairs = [(line, ground) for line in ("bound", "left", "kept", "least") for ground in ("paper", "raised")]
    values = {pair: contrast(*(colours[name] for name in pair)) for pair in pairs}
    assert {pair: value for pair, value in values.items() if value < 3} == {}


def test_dark_is_another_scheme():
    assert schemes()["light"]["paper"] != schemes()["dark"]["paper"]


NAMELESS = """() => [...document.querySelectorAll('input, select, button, progress, img, canvas, summary')].filter((each) =>
  !(each.labels?.length || each.ariaLabel || each.alt || each.textContent.trim() || each.closest('label')
    || each.querySelector('img[alt]'))).map((each) => each.outerHTML)"""

TWICE = """() => [...document.querySelectorAll('[id]')].map((each) => each.id)
  .filter((id, index, all) => all.indexOf(id) !== index)"""

LEVELS = """() => [...document.querySelectorAll('h1, h2, h3, h4')].filter((each) => each.checkVisibility())
  .map((each) => Number(each.tagName[1]))"""

FIELDS = """() => { const groups = new Set();
  return [...document.querySelectorAll('button, input, select, summary, [tabindex]')].filter((each) => {
    if (!each.checkVisibility() || each.disabled || each.closest('fieldset:disabled')) return false;
    if (each.type !== 'radio') return true;
    if (groups.has(each.name)) return false;
    return groups.add(each.name);
  }).length; }"""

FOCUS = """() => { const each = document.activeElement;
  if (each === document.body) return null;
  if (!each.dataset.visit) each.dataset.visit = String(document.querySelectorAll('[data-visit]').length + 1);
  const shown = each.closest('.drop') || each;
  const { outlineStyle, outlineWidth } = getComputedStyle(shown);
  return [each.dataset.visit, outlineStyle !== 'none' && outlineWidth !== '0px', each.outerHTML]; }"""


@needs_chromium
def test_everything_has_a_name_headings_are_in_order_and_the_keyboard_reaches_all(page_of):  # noqa: F811
    page = page_of(maps())
    page.select_option("#score", "region")
    for side, value in zip(("left", "top", "right", "bottom"), (24, 16, 40, 48), strict=True):
        page.fill(f"#box-{side}", str(value))
    for count in (1, 2):
        page.click("#explain")
        finished(page, count)
    page.check("#history li:nth-child(1) input")
    page.check("#history li:nth-child(2) input")
    assert page.locator(".pane:visible").count() == 2
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate(TWICE) == []
    levels = page.evaluate(LEVELS)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.get_attribute("html", "lang") == "en"

    page.click("h1")  # where the keyboard begins
    visited = {}
    for _ in range(200):
        page.keyboard.press("Tab")
        here = page.evaluate(FOCUS)
        if here is None or here[0] in visited:
            break
        visited[here[0]] = here[1:]
    assert [html for shown, html in visited.values() if not shown] == []  # the focus is seen
    assert len(visited) == page.evaluate(FIELDS)


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page_of, scheme):  # noqa: F811
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    page = page_of(maps(), color_scheme=scheme)
    page.select_option("#score", "region")
    for side, value in zip(("left", "top", "right", "bottom"), (24, 16, 40, 48), strict=True):
        page.fill(f"#box-{side}", str(value))
    assert axe.run(page).response["violations"] == []
    for count in (1, 2):  # the same question twice
        page.click("#explain")
        finished(page, count)
    page.check("#history li:nth-child(1) input")
    page.check("#history li:nth-child(2) input")
    assert axe.run(page).response["violations"] == []
