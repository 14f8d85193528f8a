"""Progress is one changing line on a terminal, and a line now and then in a file."""

import io
import os
import re
import threading

import pytest

from facecluster.pipeline.cli import progress
from facecluster.pipeline.cli.pace import Pace
from facecluster.pipeline.cli.progress import Progress, format_end, format_progress

SECONDS_BEFORE_HANGING = 120


class Calls:
    """Counts the calls of a function, and waits for them."""

    def __init__(self):
        self.n, self._called = 0, threading.Condition()

    def add(self) -> int:
        with self._called:
            self.n += 1
            self._called.notify_all()
            return self.n

    def wait_for(self, n: int) -> None:
        with self._called:
            assert self._called.wait_for(lambda: self.n >= n, SECONDS_BEFORE_HANGING)


class Counter(Calls):
    """Gives the number of its calls, up to `last`; the calls that `fails` tells fail."""

    def __init__(self, last: int, fails=lambda call: False):
        super().__init__()
        self.last, self.fails = last, fails

    def __call__(self) -> int:
        call = self.add()
        if self.fails(call):
            raise OSError("the folder cannot be listed now")
        return min(call, self.last)


class Clock(Calls):
    """A clock that advances by `step` seconds whenever it is read."""

    def __init__(self, step: float = 0.0):
        super().__init__()
        self.step = step

    def __call__(self) -> float:
        return (self.add() - 1) * self.step


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_POLLS", 0.01)


@pytest.fixture
def terminal():
    """A real terminal: the stream that programs write to, and a function that reads its screen."""
    screen, keyboard = os.openpty()
    with open(keyboard, "w") as stream:
        assert stream.isatty()

        def seen() -> str:
            stream.write("<end>")
            stream.flush()
            text = b""
            while not text.endswith(b"<end>"):  # it comes in pieces
                text += os.read(screen, 1 << 16)
            return text.decode().removesuffix("<end>").replace("\r\n", "\n")

        yield stream, seen
    os.close(screen)


def watch(stream, count: Counter, total: int, n_polls: int, clock=None) -> None:
    with Progress(stream=stream, clock=clock or Clock()).watch(count, total):
        count.wait_for(n_polls)


def lines_of(text: str) -> list[str]:
    return text.rstrip("\n").split("\r\x1b[K")[1:]


def test_a_terminal_shows_one_line_that_changes(terminal):
    stream, seen = terminal
    watch(stream, Counter(1500), 2000, n_polls=5, clock=Clock(0.1))
    text = seen()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    shown = lines_of(text)
    assert len(shown) > 3
    counts = [int(re.match(r"embedding photos  ([\d,]+) / 2,000", line)[1]) for line in shown]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]
    ends = ("", r"  \d+\.\d photos/s  about \d+:\d\d left", r"  in \d+:\d\d")
    assert all(re.search(rf" %({'|'.join(ends)})$", line) for line in shown)


def test_the_last_line_shows_how_long_it_took(terminal):
    stream, seen = terminal
    clock = Clock(1.5)
    watch(stream, Counter(3), 3, n_polls=4, clock=clock)
    minutes, seconds = divmod(round(1.5 * (clock.n - 1)), 60)
    last = lines_of(seen())[-1]
    assert re.fullmatch(r"embedding photos  3 / 3  100 %  in \d+:\d\d", last)
    assert last.endswith(f"in {minutes}:{seconds:02}")


def test_before_the_first_photo(terminal):
    stream, seen = terminal
    watch(stream, Counter(0), 9, n_polls=1)
    assert lines_of(seen())[0] == "embedding photos  0 / 9  0 %  starting, 0:00"


def test_a_file_gets_a_line_now_and_then():
    def written(clock: Clock, n_polls: int) -> str:
        stream = io.StringIO()
        with Progress(stream=stream, clock=clock).watch(Counter(5), 5):
            clock.wait_for(n_polls + 1)
        return stream.getvalue()

    assert re.fullmatch(r"embedding photos  \d / 5 .*\n", written(Clock(), 5))  # only the last
    clock = Clock(progress.SECONDS_BETWEEN_LOG_LINES / 3)
    text = written(clock, 9)
    n_polls = clock.n - 2  # the clock is also read at the start and at the end
    assert len(text.splitlines()) == n_polls // 3 + 1
    assert "\x1b" not in text
    assert "\r" not in text


def test_a_failed_poll_is_skipped(terminal):
    stream, seen = terminal
    watch(stream, Counter(50, fails=lambda call: call in (1, 3)), 50, n_polls=50)
    assert "50 / 50" in seen()


@pytest.mark.filterwarnings("error")  # an error in the polling thread is only a warning here
def test_a_failed_last_poll_is_no_error(terminal):
    stream, seen = terminal
    watch(stream, Counter(50, fails=lambda call: call >= 3), 50, n_polls=5)
    assert "2 / 50" in lines_of(seen())[-1]


def test_an_error_in_the_block_is_raised(terminal):
    stream, seen = terminal
    with pytest.raises(ValueError, match="broken"), Progress(stream=stream).watch(Counter(5), 5):
        raise ValueError("broken")
    assert seen().endswith("\n")


def test_text_is_shown_at_once(terminal):
    stream, seen = terminal
    Progress(stream=stream).say("reading faces")
    assert seen() == "\r\x1b[Kreading faces\n"
    file = io.StringIO()
    Progress(stream=file).say("reading faces")
    assert file.getvalue() == "reading faces\n"


def test_progress_goes_to_standard_error(capsys):
    Progress().say("reading faces")
    assert capsys.readouterr().err == "reading faces\n"


def shown(total: int, *observations: tuple[float, int]) -> str:
    """What is shown after these observations, (seconds, done)."""
    pace = Pace(0.0, total)
    for seconds, done in observations:
        pace.observe(seconds, done)
    line = format_progress("embedding photos", pace, observations[-1][0])
    return line.removeprefix("embedding photos  ")


def test_lines():
    assert shown(0, (0, 0)) == "0 / 0  0 %  starting, 0:00"
    assert shown(9525, (61.6, 0)) == "0 / 9,525  0 %  starting, 1:02"
    assert shown(9525, (61.6, 32)) == "32 / 9,525  0 %"
    assert shown(9525, (10, 32), (11, 64)) == "64 / 9,525  0 %"  # two workers' first shards
    assert shown(9525, (10, 100), (30, 1100)) == (
        "1,100 / 9,525  11 %  50.0 photos/s  about 2:48 left"
    )
    assert shown(100_000, (1, 1), (11, 11)) == (
        "11 / 100,000  0 %  1.0 photos/s  about 27:46:29 left"
    )
    assert shown(50, (1, 10), (11, 40)) == "40 / 50  80 %  3.0 photos/s"
    assert format_end("cropping photos", 9525, 9525, 100.0) == (
        "cropping photos  9,525 / 9,525  100 %  in 1:40"
    )
