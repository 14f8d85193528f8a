"""What a person sees on the terminal while a job runs: one line, rewritten in place."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LOG_LINES = 30.0  # where the output is a file and no terminal


@dataclass
class Progress:
    """Shows progress on a terminal as one changing line, in a file as a line now and then."""

    doing: str = "embedding photos"  # what is watched; the last word is what is counted
    stream: TextIO = field(default_factory=lambda: sys.stderr)

    def say(self, text: str) -> None:
        """Says what is being done now."""
        self._show(text)
        self._end()

    @contextlib.contextmanager
    def watch(self, count: Callable[[], int], total: int) -> Iterator[None]:
        """While the block runs, asks `count` how many of `total` photos are done, and shows it."""
        stop = threading.Event()
        watcher = threading.Thread(target=self._look, args=(count, total, stop), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            self._end()

    def _look(self, count, total, stop):
        started = last_line = time.monotonic()
        last_done, moved_at = 0, started
        while not stop.wait(SECONDS_BETWEEN_LOOKS):
            now = time.monotonic()
            if not self.stream.isatty() and now - last_line < SECONDS_BETWEEN_LOG_LINES:
                continue
            last_line = now
            with contextlib.suppress(OSError):  # a look that fails is no reason to fail the job
                done = count()
                if done != last_done:
                    last_done, moved_at = done, now
                self._show(_line(self.doing, last_done, total, moved_at - started, now - started))
        with contextlib.suppress(OSError):
            last_done = count()
        seconds = time.monotonic() - started
        self._show(_line(self.doing, last_done, total, seconds, seconds))

    def _show(self, text: str) -> None:
        if self.stream.isatty():
            self.stream.write(f"\r\x1b[K{text}")
        else:
            self.stream.write(f"{text}\n")
        self.stream.flush()

    def _end(self) -> None:
        if self.stream.isatty():
            self.stream.write("\n")
            self.stream.flush()


def _line(doing: str, done: int, total: int, moving_seconds: float, seconds: float) -> str:
    """As in: embedding photos  1,024 / 9,525  11 %  28.4 photos/s  4:59 left."""
    text = f"{doing}  {done:,} / {total:,}  {100 * done // max(total, 1)} %"
    if done == 0:
        return f"{text}  starting, {_clock(seconds)}"
    rate = done / max(moving_seconds, 1e-9)
    text += f"  {rate:.1f} {doing.split()[-1]}/s"
    if done < total:
        return f"{text}  {_clock((total - done) / rate)} left"
    return f"{text}  in {_clock(seconds)}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
