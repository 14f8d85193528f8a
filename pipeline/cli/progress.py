"""Shows the progress of a job on the terminal: one line, rewritten in place."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

from facecluster.pipeline.cli.pace import Pace

SECONDS_BETWEEN_POLLS = 1.0
SECONDS_BETWEEN_LOG_LINES = 30.0  # if the stream is a file and not a terminal


@dataclass(frozen=True)
class Progress:
    """Shows progress: on a terminal as one changing line, in a file as a line now and then.

    Attributes:
      doing: what the job does; the last word names what is counted.
      stream: where to write.
      clock: gives seconds.
    """

    doing: str = "embedding photos"
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic

    def say(self, text: str) -> None:
        """Shows what the job is doing now."""
        self._show(text)
        self._end_line()

    @contextlib.contextmanager
    def watch(
        self, count: Callable[[], int], total: int, doing: str | None = None
    ) -> Iterator[None]:
        """Shows how many of `total` are done while the block runs, as `count` tells.

        Args:
          doing: shown in place of `self.doing`.
        """
        stop = threading.Event()
        arguments = (count, total, stop, doing or self.doing)
        thread = threading.Thread(target=self._poll_until, args=arguments, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._end_line()

    def _poll_until(
        self, count: Callable[[], int], total: int, stop: threading.Event, doing: str
    ) -> None:
        started = last_line = self.clock()
        pace = Pace(started, total)
        while not stop.wait(SECONDS_BETWEEN_POLLS):
            with contextlib.suppress(OSError):  # a failed poll must not fail the job
                done = count()
                now = self.clock()
                pace.observe(now, done)
                if self.stream.isatty() or now - last_line >= SECONDS_BETWEEN_LOG_LINES:
                    last_line = now
                    self._show(format_progress(doing, pace, now))
        done = pace.done
        with contextlib.suppress(OSError):
            done = count()
        self._show(format_end(doing, done, total, self.clock() - started))

    def _show(self, text: str) -> None:
        if self.stream.isatty():
            self.stream.write(f"\r\x1b[K{text}")
        else:
            self.stream.write(f"{text}\n")
        self.stream.flush()

    def _end_line(self) -> None:
        if self.stream.isatty():
            self.stream.write("\n")
            self.stream.flush()


def format_progress(doing: str, pace: Pace, now: float) -> str:
    """A line such as: embedding photos  1,024 / 9,525  10 %  28.4 photos/s  about 4:59 left."""
    text = _format_count(doing, pace.done, pace.total)
    rate, left = pace.rate(), pace.seconds_left()
    if pace.done == 0:
        return f"{text}  starting, {_format_time(now - pace.started)}"
    if rate is None:
        return text
    text += f"  {rate:.1f} {doing.split()[-1]}/s"
    return text if left is None else f"{text}  about {_format_time(left)} left"


def format_end(doing: str, done: int, total: int, seconds: float) -> str:
    """A line such as: embedding photos  9,525 / 9,525  100 %  in 5:37."""
    return f"{_format_count(doing, done, total)}  in {_format_time(seconds)}"


def _format_count(doing: str, done: int, total: int) -> str:
    return f"{doing}  {done:,} / {total:,}  {100 * done // max(total, 1)} %"


def _format_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
