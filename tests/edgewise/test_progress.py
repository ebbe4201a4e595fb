"""Progress: silent when quick, a line now and then in a log, one redrawn line on a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from edgewise.progress import Bar, Log, reporting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def seconds(*values: float) -> Iterator[float]:
    yield from values


def test_a_log_is_silent_for_quick_work() -> None:
    stream = io.StringIO()
    with reporting(stream) as progress:
        assert isinstance(progress, Log)
        progress.say("loading")
        for done in range(101):
            progress(done, 100, "edges measured")
    assert stream.getvalue() == ""


def test_a_log_tells_the_time_left() -> None:
    stream, clock = io.StringIO(), seconds(0, 20, 60, 80, 120)
    log = Log(stream, clock=lambda: next(clock))
    for done in (0, 10, 20, 30, 40):
        log(done, 100, "edges decided")
    assert stream.getvalue().splitlines() == [
        "20 of 100 edges decided, about 4:00 left at this pace",
        "40 of 100 edges decided, about 3:00 left at this pace",
    ]


def test_the_time_left_is_told_from_the_recent_pace() -> None:
    stream, clock = io.StringIO(), seconds(0, 100, 200, 300, 400)
    log = Log(stream, clock=lambda: next(clock))
    for done in (0, 50, 60, 70, 80):
        log(done, 100, "edges decided")
    assert (
        stream.getvalue().splitlines()[-1].endswith("edges decided, about 3:20 left at this pace")
    )


def test_a_step_that_does_not_move_has_no_time_left() -> None:
    stream, clock = io.StringIO(), seconds(0, 60)
    log = Log(stream, clock=lambda: next(clock))
    log(2, 3, "passes timed")
    log(2, 3, "circuits measured")
    assert stream.getvalue() == "2 of 3 circuits measured\n"


def test_a_new_phase_starts_the_clock_anew() -> None:
    stream, clock = io.StringIO(), seconds(0, 100, 110, 140)
    log = Log(stream, clock=lambda: next(clock))
    log(0, 100, "edges decided")
    log(100, 100, "edges decided")
    log(0, 4, "passes timed")
    log(2, 4, "passes timed")
    assert stream.getvalue() == "2 of 4 passes timed, about 0:30 left at this pace\n"


def test_a_terminal_that_cannot_draw_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with reporting(Terminal()) as progress:
        assert isinstance(progress, Log)


def test_a_terminal_shows_a_bar_and_clears_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with reporting(stream) as progress:
        assert isinstance(progress, Bar)
        progress.say("loading [bold]x")
        progress(1, 10, "edges [of] m0")
        progress(4, 10, "edges [of] m0")
        progress(0, 3, "passes")
    assert "edges [of] m0" in stream.getvalue()
    assert "loading [bold]x" in stream.getvalue()
