"""The explorer in a real browser: a box on the picture, a second picture, areas by a slider; with small networks."""

import pytest
from test_explorer import CHROMIUM, browser, finished, paged, pytestmark, serving, settings_opened  # noqa: F401
from test_questions_command import maps, means, squares
from test_web_questions import two

from sfumato.web.app import Explorer
from sfumato.web.guard import Hosts


@pytest.fixture
def page_of(browser, tmp_path):  # noqa: F811  # a fixture
    """A function that opens the page of a network, or of several, with a picture of 96 × 64 pixels."""
    open_pages = []

    def page(classifier, *others, **settings):
        server = serving(Explorer([classifier, *others], Hosts.of("127.0.0.1")))
        address = server.__enter__()
        pages = paged(browser, address, **settings)
        opened = next(pages)
        open_pages.append((server, pages))
        two().save(tmp_path / "two.png")
        opened.set_input_files("#file", tmp_path / "two.png")
        opened.wait_for_selector("#question:not([hidden])")
        settings_opened(opened)
        if opened.locator("#settings input[name=steps]").count():
            opened.fill("#settings input[name=steps]", "2")
        return opened

    yield page
    for server, pages in open_pages:
        assert next(pages, None) is None  # the checks at the end of `paged`
        server.__exit__(None, None, None)


def sides(page):
    return page.eval_on_selector_all("#box .sides input", "inputs => inputs.map((input) => input.value)")


def at(page, x, y):
    """The place in the window of a pixel of the picture."""
    box = page.locator("#upright").bounding_box()
    return box["x"] + box["width"] * x / 96, box["y"] + box["height"] * y / 64


def asked_outline(page):
    """How many pixels of the answer have the colour of what was asked."""
    return page.evaluate(
        """() => { const canvas = document.querySelector('.pane canvas');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        let count = 0;
        for (let at = 0; at < data.length; at += 4) count += data[at] === 31 && data[at + 1] === 195 && data[at + 2] === 232;
        return count; }"""
    )


def test_a_box_is_drawn_with_the_mouse_and_shown_in_the_answer(page_of):
    from playwright.sync_api import expect

    page = page_of(maps())
    expect(page.locator("#box")).to_be_hidden()
    page.check("#top label:has-text('green') input")
    page.select_option("#score", "region")
    page.click("#explain")
    expect(page.locator("#message")).to_contain_text("A region needs a box or a mask; draw a box on the picture")
    page.mouse.move(*at(page, 72, 48))
    page.mouse.down()
    page.mouse.move(*at(page, 60, 30))
    expect(page.locator("#about-box")).to_have_text("Box: 12 × 18 pixels, from 60, 30")  # while it is drawn
    page.mouse.move(*at(page, 56, 16))
    page.mouse.up()
    page.mouse.move(*at(page, 10, 10))
    assert sides(page) == ["56", "16", "72", "48"]
    expect(page.locator("#drawn")).to_be_visible()
    page.click("#explain")
    finished(page)
    expect(page.locator(".pane h2")).to_have_text("green in box 56,16,72,48 (1)")
    assert asked_outline(page) > 40  # around 16 by 8 pixels of the input
    expect(page.locator("#upright")).to_be_visible()  # another box can be drawn
    page.select_option("#score", "logit")
    expect(page.locator("#upright")).to_be_hidden()


def test_a_box_is_written_with_the_keyboard_alone(page_of):
    from playwright.sync_api import expect

    page = page_of(maps())
    page.select_option("#score", "region")
    page.focus("#score")
    page.keyboard.press("Tab")
    for side in ("24", "16", "40", "48"):
        page.keyboard.type(side)
        page.keyboard.press("Tab")
    expect(page.locator("#about-box")).to_have_text("Box: 16 × 32 pixels, from 24, 16")
    assert page.evaluate("document.activeElement.id") == "box-clear"
    page.keyboard.press("Enter")
    assert sides(page) == [""] * 4
    assert page.evaluate("document.activeElement.id") == "box-left"
    expect(page.locator("#drawn")).to_be_hidden()


def test_a_box_is_drawn_with_a_finger(page_of):
    from playwright.sync_api import expect

    page = page_of(maps(), has_touch=True, viewport={"width": 390, "height": 800})
    page.select_option("#score", "region")
    page.locator("#upright").scroll_into_view_if_needed()
    touch = page.context.new_cdp_session(page)
    for kind, place in (("touchStart", (24, 16)), ("touchMove", (30, 20)), ("touchMove", (40, 48)), ("touchEnd", None)):
        points = [] if place is None else [dict(zip("xy", at(page, *place), strict=True))]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    expect(page.locator("#box-right")).to_have_value("40")
    assert sides(page) == ["24", "16", "40", "48"]


def test_a_detector_offers_the_boxes_that_it_finds(page_of):
    from playwright.sync_api import expect

    page = page_of(squares())
    expect(page.locator("#top-name")).to_have_text("What the network finds")
    assert page.input_value("#score") == "box"
    assert page.eval_on_selector_all("#score option:not([disabled])", "options => options.length") == 1
    assert sides(page) == ["24", "16", "40", "48"]
    page.check("#top label:has-text('green') input")
    assert sides(page) == ["56", "16", "72", "48"]
    page.click("#explain")
    finished(page)
    expect(page.locator(".pane h2")).to_have_text("green (2) in the box 56,16,72,48")


def test_two_pictures_are_compared(page_of, tmp_path):
    from playwright.sync_api import expect

    page = page_of(means())
    page.select_option("#score", "similarity")
    assert page.locator("#top input:enabled").count() == 0
    page.click("#explain")
    expect(page.locator("#message")).to_contain_text("A similarity needs a second picture")
    two().rotate(180).save(tmp_path / "turned.png")
    page.set_input_files("#to", tmp_path / "turned.png")
    expect(page.locator("#other-picture")).to_be_visible()
    expect(page.locator("#about-crop")).to_contain_text("two.png")  # the first picture stays
    page.click("#explain")
    finished(page)
    expect(page.locator(".pane h2")).to_have_text("similarity to turned.png")


def test_areas_are_added_by_the_slider_and_its_marks_and_taken_away(page_of):
    from playwright.sync_api import expect

    page = page_of(means())
    text = page.locator("#setting-areas")
    page.fill("#setting-areas", "0.3")
    expect(page.locator(".chosen button")).to_have_text(["30 % ×"])
    for mark in ("Add 1 %", "Add 50 %", "Add 50 %"):
        page.click(f".marks button[aria-label='{mark}']")
    expect(text).to_have_value("0.01, 0.3, 0.5")
    slider = page.locator("#setting-areas-slider")
    slider.focus()
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "0.5 %"
    page.keyboard.press("Tab")  # past the marks
    while page.evaluate("document.activeElement.parentElement.className") == "marks":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(text).to_have_value("0.005, 0.01, 0.3, 0.5")
    page.click(".chosen button[aria-label='Take 30 % away']")
    expect(text).to_have_value("0.005, 0.01, 0.5")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Take 50 % away"  # the focus stays
    page.click("#explain")
    finished(page)
    expect(page.locator("table.numbers tbody tr")).to_have_count(3)


def explained(page, count, areas):
    page.fill("#setting-areas", areas)
    page.click("#explain")
    finished(page, count)


def test_two_answers_of_the_history_stand_side_by_side_at_the_same_area(page_of, tmp_path):
    from playwright.sync_api import expect

    page = page_of(means())
    explained(page, 1, "0.1, 0.2, 0.4")
    page.check("#top label:has-text('green') input")
    explained(page, 2, "0.1, 0.4")
    two().rotate(180).save(tmp_path / "turned.png")
    page.set_input_files("#file", tmp_path / "turned.png")
    expect(page.locator("#about-crop")).to_contain_text("turned.png: the network sees")
    explained(page, 3, "0.2, 0.4")
    expect(page.locator(".pane:visible .file")).to_have_text(["turned.png"])

    ticks = page.locator("#history input")
    ticks.nth(0).focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")  # the tick of the second answer
    expect(page.locator(".pane:visible .file")).to_have_text(["two.png", "two.png"])
    expect(page.locator(".pane:visible h2")).to_have_text(["red", "green"])
    said = page.locator(".pane:visible output")
    page.locator(".pane:visible input[type=range]").first.focus()
    for key, areas in (("Home", ("10", "10")), ("End", ("40", "40")), ("ArrowLeft", ("20", "10"))):  # the nearest area
        page.keyboard.press(key)
        for index, area in enumerate(areas):
            expect(said.nth(index)).to_contain_text(f"{area} % of the picture")
    page.uncheck("#same-area")
    page.keyboard.press("Tab")
    page.locator(".pane:visible input[type=range]").first.focus()
    page.keyboard.press("End")
    expect(said.nth(0)).to_contain_text("40 % of the picture")
    expect(said.nth(1)).to_contain_text("10 % of the picture")

    ticks.nth(2).check()  # the older of the two is let go
    expect(page.locator(".pane:visible .file")).to_have_text(["two.png", "turned.png"])
    assert [ticks.nth(index).is_checked() for index in range(3)] == [False, True, True]
    page.click("#history button:has-text('red')")
    expect(page.locator(".pane:visible")).to_have_count(1)
    assert page.locator("#history input:checked").count() == 0
