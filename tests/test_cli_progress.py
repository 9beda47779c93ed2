"""How long a search will take: on a terminal, and in a log."""

import io

import torch
from rich.console import Console

from sfumato.cli import progress
from sfumato.search.loop import Stage, Step


def steps(total):
    return (
        Step(index, total, torch.zeros(1, 1, 4), torch.tensor([3.0]), torch.tensor([0.25])) for index in range(total)
    )


def lines(total, seconds, left=1, terminal=False, searches=1):
    """What is written of searches of so many steps, each of which takes so many seconds."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)
    now = [0.0]
    with progress.progress_bar("cat.jpg: tabby", console, left, clock=lambda: now[0]) as show:
        for _ in range(searches):
            for step in steps(total):
                now[0] += seconds
                show(step)
    return [line for line in out.getvalue().splitlines() if line]


def test_the_first_steps_tell_how_long_it_takes():
    written = lines(150, 0.25, left=20)
    assert written[0] == "cat.jpg: tabby takes about 38 s, and 12 min for all that is left"


def test_in_a_log_there_is_a_line_now_and_then():
    written = lines(150, 0.25)
    assert written[0] == "cat.jpg: tabby takes about 38 s"
    assert written[1] == "cat.jpg: tabby: step 43 of 150, about 27 s left"
    assert len(written) == 4


def test_what_is_soon_done_says_nothing():
    assert lines(10, 0.01) == []


def test_after_one_step_nothing_is_known_yet():
    assert not any("step 1 of" in line for line in lines(5, 60))


def test_it_is_told_once_for_several_searches():
    assert sum("takes about" in line for line in lines(150, 0.25, searches=3)) == 1


def test_on_a_terminal_the_estimate_stays_and_the_bar_goes():
    assert any("takes about 38 s" in line for line in lines(150, 0.25, terminal=True))


def windows(terminal, seconds):
    """What is written while 49 windows are looked at."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)
    now = [0.0]
    with progress.progress_bar("cat.jpg: tabby", console, clock=lambda: now[0]) as show:
        for done in range(0, 49, 7):
            now[0] += seconds
            show.stage(Stage("looking at windows", done, 49))
            show.bar.refresh()
    return out.getvalue()


def test_what_comes_before_the_first_step_is_shown():
    assert "cat.jpg: tabby · looking at windows" in windows(True, 0.1)
    assert "42/49" in windows(True, 0.1)
    assert windows(False, 0.1) == ""
    assert windows(False, 6).splitlines() == [
        f"cat.jpg: tabby: looking at windows, {done} of 49" for done in (7, 21, 35)
    ]
