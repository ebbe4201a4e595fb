"""Progress on standard error: on a terminal a bar with the time left, which is gone in the end.

Elsewhere (a file, a pipe, CI) a line is written every half minute at most: quick work is silent.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from .graphs.calls.text import visible

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

SILENCE_SECONDS = 30.0  # between two lines of a log
RECENT_SECONDS = 120.0  # whose pace tells the time left

Progress = Callable[[int, int, str], None]
"""Called with what is done, the total, and a word of what is being done."""


class Reporter:
    """Receive reports, and show nothing.

    `on_prompts`: called with where prompt pairs are from as soon as they are there.
    """

    on_prompts: Callable[[Mapping[str, object]], None] | None = None

    def __call__(self, done: int, total: int, what: str) -> None:
        """Take a report."""

    def say(self, what: str) -> None:
        """Tell what begins, of unknown length."""


SILENT = Reporter()


def prompts_are_there(progress: Progress | None, origin: Mapping[str, object]) -> None:
    """Tell whoever listens where prompt pairs are from, before they are worked with."""
    tell = getattr(progress, "on_prompts", None)
    if tell is not None:
        tell(origin)


def named(progress: Progress | None, where: str) -> Progress:
    """Return a callback that says where the work is done, as in a model called so."""
    report = progress or SILENT
    return lambda done, total, what: report(done, total, f"{where}: {what}")


def repeated(progress: Progress | None, number: int, count: int, what: str) -> Progress:
    """Return a callback for one of so many equal parts, called `what`, of one piece of work."""
    report = progress or SILENT
    return lambda done, total, doing: report(
        (number - 1) * total + done, count * total, f"{doing}, {what} {number} of {count}"
    )


class Bar(Reporter):
    """Redraw one line of a terminal."""

    def __init__(self, progress: Bars) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._total = self._done = 0

    def __call__(self, done: int, total: int, what: str) -> None:
        """Move the bar; another total, or less done, begins a new one."""
        if self._task is None or total != self._total or done < self._done:
            self._task = self._begin(total, what)
        self._done = done
        words = f"left {done:,} of {total:,} {visible(what)}"
        self._progress.update(self._task, completed=done, description=words)

    def say(self, what: str) -> None:
        """Show a bar without an end."""
        self._task = self._begin(None, what)

    def _begin(self, total: int | None, what: str) -> TaskID:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._total, self._done = total or 0, 0
        return self._progress.add_task(visible(what), total=total)


class Log(Reporter):
    """Write a line at most every so many seconds.

    >>> class Out:
    ...     def write(self, text): print(text, end="")
    ...     def flush(self): pass
    >>> times = iter([0.0, 10.0, 40.0])
    >>> log = Log(Out(), clock=lambda: next(times))
    >>> log(0, 100, "edges decided")
    >>> log(10, 100, "edges decided")
    >>> log(25, 100, "edges decided")
    25 of 100 edges decided, about 2:00 left at this pace
    """

    def __init__(self, stream: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._total, self._done, self._last = -1, 0, 0.0
        self._recent: deque[tuple[float, int]] = deque()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Write a line if the last one is long ago."""
        now = self._clock()
        if total != self._total or done < self._done:
            self._total = total
            self._recent.clear()
            self._last = max(self._last, now) if self._last else now
        self._done = done
        self._recent.append((now, done))
        while len(self._recent) > 2 and now - self._recent[1][0] >= RECENT_SECONDS:
            self._recent.popleft()
        if now - self._last < SILENCE_SECONDS or done == total:
            return
        self._last = now
        start, first = self._recent[0]
        left = ""
        if done > first:
            seconds = (now - start) / (done - first) * (total - done)
            left = f", about {clock_time(seconds)} left at this pace"
        self._stream.write(f"{done:,} of {total:,} {visible(what)}{left}\n")
        self._stream.flush()


def clock_time(seconds: float) -> str:
    """Write a duration as people read it.

    >>> clock_time(75), clock_time(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def reporting(
    stream: TextIO | None = None,
    on_prompts: Callable[[Mapping[str, object]], None] | None = None,
) -> Iterator[Reporter]:
    """Give a reporter that suits standard error (or another stream)."""
    stream = sys.stderr if stream is None else stream
    reporter: Reporter
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        reporter = Log(stream)
        reporter.on_prompts = on_prompts
        yield reporter
        return
    from rich import progress as rich
    from rich.console import Console

    bars = rich.Progress(
        rich.SpinnerColumn(),
        rich.BarColumn(bar_width=24),
        rich.TaskProgressColumn(),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.description}", markup=False),
        console=Console(file=stream), transient=True, refresh_per_second=4,
        speed_estimate_period=RECENT_SECONDS,
    )  # fmt: skip
    with bars:
        reporter = Bar(bars)
        reporter.on_prompts = on_prompts
        yield reporter
