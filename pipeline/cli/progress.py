"""Shows the progress of a job on the terminal: one line, rewritten in place."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

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
        last_done, moved_at = 0, started
        while not stop.wait(SECONDS_BETWEEN_POLLS):
            now = self.clock()
            if not self.stream.isatty() and now - last_line < SECONDS_BETWEEN_LOG_LINES:
                continue
            last_line = now
            with contextlib.suppress(OSError):  # a failed poll must not fail the job
                done = count()
                if done != last_done:
                    last_done, moved_at = done, now
                self._show(
                    format_progress(doing, last_done, total, moved_at - started, now - started)
                )
        with contextlib.suppress(OSError):
            last_done = count()
        seconds = self.clock() - started
        self._show(format_progress(doing, last_done, total, seconds, seconds))

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


def format_progress(
    doing: str, done: int, total: int, moving_seconds: float, seconds: float
) -> str:
    """A line such as: embedding photos  1,024 / 9,525  11 %  28.4 photos/s  4:59 left.

    Args:
      moving_seconds: from the start until the count changed last, which gives the rate.
      seconds: from the start until now.
    """
    text = f"{doing}  {done:,} / {total:,}  {100 * done // max(total, 1)} %"
    if done == 0:
        return f"{text}  starting, {_format_time(seconds)}"
    rate = done / max(moving_seconds, 1e-9)
    text += f"  {rate:.1f} {doing.split()[-1]}/s"
    if done < total:
        return f"{text}  {_format_time((total - done) / rate)} left"
    return f"{text}  in {_format_time(seconds)}"


def _format_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
