"""The explorer in a real browser, with two networks: one question to both, side by side; and the layout of the question."""

from test_explorer import browser, finished, pytestmark, shot  # noqa: F401
from test_explorer_questions import page_of  # noqa: F401  # a fixture
from test_web import classifier
from test_web_models import other
from test_web_questions import two


def test_one_question_to_two_networks(page_of):  # noqa: F811
    from playwright.sync_api import expect

    page = page_of(classifier(), other())
    page.fill("#settings input[name=areas]", "0.2, 0.5")
    page.check("#top label:has-text('red') input")
    page.select_option("#also", label="other")
    page.click("#explain")
    finished(page, 2)
    panes = page.locator(".pane:visible")
    expect(panes).to_have_count(2)
    shown = classifier()
    share = shown.logits(shown.prepare(two())[None]).softmax(1).max()
    expect(panes.nth(0).locator(".file")).to_have_text(f"two.png · toy sees red ({100 * share:.1f} %)")
    expect(panes.nth(1).locator(".file")).to_contain_text("two.png · other sees ")
    expect(page.locator("#history li button").nth(1)).to_have_text("red · Extremal perturbations · other")
    expect(page.locator("#together")).to_be_visible()
    expect(page.locator("#history input:checked")).to_have_count(2)
    shot(page, "two-networks")

    # A class that the second network lacks: nothing is asked, and both answers stay.
    page.check("#top label:has-text('green') input")
    page.click("#explain")
    expect(page.locator("#message")).to_have_text(
        "Other has no class of the name 'green', so it cannot be asked about it; choose a class that both networks have, or "
        "ask one network alone."
    )
    expect(panes).to_have_count(2)


def test_another_network_is_asked_about_the_same_picture(page_of):  # noqa: F811
    from playwright.sync_api import expect

    page = page_of(classifier(), other())
    page.select_option("#method", "ExtremalOrder")
    page.fill("#settings input[name=steps]", "3")
    page.select_option("#network", label="other")
    expect(page.locator("#top label")).to_have_count(4)
    expect(page.locator("#model")).to_have_text("other, with its 4 classes,")
    expect(page.locator("#method")).to_have_value("ExtremalOrder")
    expect(page.locator("#settings input[name=steps]")).to_have_value("3")
    expect(page.locator("#also option")).to_have_text(["(no other network)", "toy"])
    page.click("#explain")
    finished(page)
    expect(page.locator(".pane .file")).to_contain_text("other sees")


def test_one_network_has_no_choice_of_networks(page_of):  # noqa: F811
    from playwright.sync_api import expect

    page = page_of(classifier())
    expect(page.locator("#networks")).to_be_hidden()
    expect(page.locator("#second")).to_be_hidden()


def test_settings_do_not_scroll_under_the_buttons(page_of):  # noqa: F811
    page = page_of(classifier(), viewport={"width": 1280, "height": 720})
    fields = page.locator("#question :is(input, select, summary):visible")
    for index in range(fields.count()):
        fields.nth(index).focus()
        field, buttons = fields.nth(index).bounding_box(), page.locator("#question > .buttons").bounding_box()
        assert field["y"] + field["height"] <= buttons["y"]
        assert buttons["y"] + buttons["height"] <= 720
    covered = page.evaluate(
        """() => { const { x, y, width, height } = document.querySelector('#question > .buttons').getBoundingClientRect();
        document.querySelector('#fields').scrollTop = 0;
        return document.querySelector('#fields').getBoundingClientRect().bottom > y + 1 || !width || !height || x < 0; }"""
    )
    assert not covered
