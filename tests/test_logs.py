"""What a run says of itself: lines in a log, and its failures by cause."""

import io
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.cli.progress_of_runs import FIRST, INTERVAL, Log, duration, progress, rate
from sfumato.runs.stores.causes import LONGEST, cause


class Clock:
    """A time that goes on when it is told to."""

    now = 100.0

    def __call__(self):
        return self.now


def log(total=1000, before=0, **more):
    clock = Clock()
    return Log(total, before, io.StringIO(), clock=clock, **more), clock


def test_a_line_has_the_rate_the_time_left_and_the_failures():
    lines, clock = log(before=100)
    assert lines.line() == "100 of 1000 items (10 %), none done yet"
    clock.now += 60
    lines.note(220, 3)
    assert lines.line() == "220 of 1000 items (22 %), 2 a second, 6 min left, 3 failed"
    clock.now += 60
    lines.note(1000, 4)
    assert lines.line(last=True) == "1000 of 1000 items (100 %), 7.5 a second, 4 failed, 2 min in all"


def test_a_run_that_lacks_one_item_is_not_at_100_percent():
    lines, _ = log(total=100_000)
    lines.note(99_999, 0)
    assert lines.line().startswith("99999 of 100000 items (99.9 %)")


def test_nothing_to_do_divides_by_nothing():
    lines, _ = log(total=0)
    lines.note(0, 0)
    assert lines.line(last=True) == "0 of 0 items, 0 failed, 0 s in all"


def test_lines_come_though_nothing_is_done():
    lines, _ = log(first=0.0, interval=0.001)
    with lines.lines():
        deadline = time.monotonic() + 600
        while lines.stream.getvalue().count("\n") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    assert threading.active_count() < 50
    assert "none done yet, 0 s in all" in lines.stream.getvalue().splitlines()[-1]


def test_the_last_line_comes_however_it_ends():
    lines, _ = log(first=600)

    def broken_off():
        with lines.lines():
            lines.note(5, 5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert lines.stream.getvalue().count("\n") == 1
    assert "5 of 1000 items (0.5 %), 5 failed" in lines.stream.getvalue()


def test_a_closed_log_stops_no_run():
    lines, _ = log()
    lines.stream.close()
    with lines.lines():
        lines.note(1, 0)


def test_a_file_gets_lines_and_nothing_that_is_drawn():
    stream = io.StringIO()
    with progress(10, 0, stream) as report:
        report(10, 2)
    assert stream.getvalue().count("\n") == 1
    assert "10 of 10 items (100 %)" in stream.getvalue()
    assert "2 failed" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress(10, 2) as report:
        report(10, 2)
    assert "10/10" in terminal.getvalue()
    assert "2 failed" in terminal.getvalue()
    terminal.truncate(0)
    monkeypatch.setenv("TERM", "dumb")  # one that cannot move its cursor
    with progress(10, 2):
        pass
    assert "10/10" not in terminal.getvalue()


def test_the_first_line_comes_soon_and_others_each_minute():
    assert FIRST <= 30
    assert INTERVAL == 60


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"), (0.3, "0.3 s"), (9.7, "10 s"), (42, "42 s"), (599, "10 min"), (3599, "1 h 0 min"), (7260, "2 h 1 min"),
        (1e6, "11 d 14 h"),
    ],
)  # fmt: skip
def test_durations_are_said_in_words(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(12.34, "12.3 a second"), (12345, "12345 a second"), (0.5, "30 a minute"), (1e-3, "3.6 an hour")],
)
def test_rates_have_a_unit_that_suits_them(value, said):
    assert rate(value) == said


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (
            ("cannot read picture '/data/a b/3.png': no such file", "3"),
            ("cannot read picture '/data/a b/n01/44.png': no such file", "n01/44"),
            "cannot read picture …: no such file",
        ),
        (
            ("nothing says where class 5 is in 'square-12'; take another", "square-12"),
            ("nothing says where class 11 is in 'cat'; take another", "cat"),
            "nothing says where class N is in …; take another",
        ),
        (
            ("TypeError: <Box object at 0x7f00aa> is wrong", "a"),
            ("TypeError: <Box object at 0x55c9d1> is wrong", "b"),
            "TypeError: <Box object at …> is wrong",
        ),
        (
            ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 79.15GiB", "a"),
            ("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 3 has 7GiB", "b"),
            "CUDA out of memory. Tried to allocate N GiB. GPU N has NGiB",
        ),
        (
            ("shapes cannot be multiplied (1x512 and 2048x1000)", "a"),
            ("shapes cannot be multiplied (12x32 and 8x1)", "b"),
            "shapes cannot be multiplied (N and N)",
        ),
        (
            ("layer4.0 puts out [1, 2, 3] in float32", "a"),
            ("layer4.0 puts out [11, 2, 3, 4] in float32", "b"),
            "layer4.0 puts out [N, …] in float32",
        ),
        (
            (r"C:\data\one.jpg is damaged and/or empty", "one"),
            (r"C:\data\two.jpg is damaged and/or empty", "two"),
            "… is damaged and/or empty",
        ),
        (
            ("the file of img_0001 has the hash deadbeef01", "img_0001.jpg"),
            ("the file of img_0002 has the hash 3f2a9c1b7", "img_0002.jpg"),
            "the file of … has the hash …",
        ),
    ],
)
def test_reasons_of_one_cause_are_one(one, other, said):
    assert cause(*one) == cause(*other) == said


def test_reasons_of_different_causes_stay_apart():
    reasons = ["no such file: '/a/b.png'", "not a picture: '/a/b.png'", "layer3 has no maps", "layer4 has no maps"]
    assert len({cause(reason, "b") for reason in reasons}) == 4


def test_a_picture_named_by_a_word_does_not_tear_a_sentence():
    assert cause("the class is not the class of 'the'", "the") == "the class is not the class of …"


@given(st.text("ab1f 09.,/\\'\"xe-([…N:\n", max_size=60) | st.text(max_size=30), st.text("a1/.", max_size=10))
def test_a_cause_is_its_own_cause(reason, name):
    assert cause(cause(reason, name), name) == cause(reason, name)


def test_a_cause_is_no_novel():
    assert len(cause("very " * 1000)) <= LONGEST
