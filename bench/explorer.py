"""The explorer in a browser: its weight, when it can be used, when the first mask is seen, how soon a slider's move is drawn.

`python bench/explorer.py` prints a table. It needs the extras demo and ui, playwright, and a Chromium on the PATH.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

LONG = 600_000  # milliseconds
PICTURES = ("/samples/", "/api/pictures")  # addresses of what is not the page's own

WATCH = """() => {
  window.steps = [];
  window.first = 0;
  new MutationObserver(() => {
    const step = /^Step (\\d+) of/.exec(document.querySelector("#status").textContent);
    if (step) window.steps.push([performance.now(), Number(step[1])]);
  }).observe(document.querySelector("#status"), { childList: true });
  new MutationObserver(() => {
    if (!window.first && document.querySelector(".pane output")?.textContent) window.first = performance.now();
  }).observe(document.querySelector("#panes"), { childList: true, subtree: true });
  window.began = performance.now();
  document.querySelector("#explain").click();
}"""
"""Presses the button, and notes when each step and the first mask are shown."""

MOVES = """async (count) => {
  const slider = document.querySelector(".pane input[type=range]");
  const drawn = [], seen = [];
  for (let move = 0; move < count; move += 1) {
    await new Promise((next) => requestAnimationFrame(() => setTimeout(next)));
    const began = performance.now();
    slider.value = move % (Number(slider.max) + 1);
    slider.dispatchEvent(new Event("input"));
    drawn.push(performance.now() - began);
    await new Promise((next) => requestAnimationFrame(() => setTimeout(next)));
    seen.push(performance.now() - began);
  }
  return [drawn, seen];
}"""
"""Moves the slider, and tells the milliseconds until it is drawn, and until that frame is on its way to the screen."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--times", type=int, default=5, help="how often the page is opened")
    arguments.add_argument("--steps", type=int, default=12)
    arguments.add_argument("--moves", type=int, default=200)
    asked = arguments.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("there is no chromium on the PATH; install Debian's package of that name")
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        ready, weight = zip(*(opened(browser, address) for _ in range(asked.times)), strict=True)
        page = browser.new_page()
        page.goto(address)
        first, iteration = explained(page, asked.steps)
        drawn, seen = page.evaluate(MOVES, asked.moves)
        browser.close()
    told = {
        "the page without pictures": f"{max(weight) / 1000:.0f} KB",
        f"usable, of {asked.times} times": f"median {statistics.median(ready):.2f} s, worst {max(ready):.2f} s",
        "first evolving mask": f"{first:.2f} s after the click, {first / iteration:.1f} iterations of {iteration:.2f} s",
        f"slider, drawn, of {asked.moves} moves": f"median {statistics.median(drawn):.1f} ms, worst {max(drawn):.1f} ms",
        "slider, with the frame": f"median {statistics.median(seen):.1f} ms, worst {max(seen):.1f} ms",
    }
    for what, found in told.items():
        print(f"{what:34} {found}")


@contextmanager
def served() -> Iterator[str]:
    """The address of a server of the demo model, as `sfumato serve` starts it."""
    command = [sys.executable, "-m", "sfumato.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline() if server.stdout else ""
            yield re.findall(r"http://\S+", line)[0]
        finally:
            server.terminate()


def opened(browser: Browser, address: str) -> tuple[float, int]:
    """Seconds until the page can be used, in a browser that has never seen it, and what it loaded for that, in bytes."""
    context = browser.new_context()
    page = context.new_page()
    answers: list[Any] = []
    page.on("response", lambda answer: answers.append(answer))  # noqa: PLW0108  # playwright writes to what it is given
    began = time.perf_counter()
    page.goto(address)
    page.wait_for_selector("body[data-ready=yes]", timeout=LONG)
    took = time.perf_counter() - began
    weight = sum(len(answer.body()) for answer in answers if not any(part in answer.url for part in PICTURES))
    context.close()
    return took, weight


def explained(page: Page, steps: int) -> tuple[float, float]:
    """Seconds from the click to the first evolving mask of a sample, and from each step to the next."""
    page.wait_for_selector("body[data-ready=yes]", timeout=LONG)
    page.click("#samples button:nth-child(2)")
    page.wait_for_selector("#top input", timeout=LONG)
    page.evaluate("document.querySelector('#more').open = true")
    page.fill("#settings input[name=steps]", str(steps))
    page.evaluate(WATCH)
    page.wait_for_selector(".exports button", timeout=LONG)
    began, first, shown = page.evaluate("() => [window.began, window.first, window.steps]")
    (start, low), (end, high) = shown[0], shown[-1]
    return (first - began) / 1000, (end - start) / 1000 / (high - low)


if __name__ == "__main__":
    main()
