"""Progress is one changing line on a terminal, and a line now and then in a file."""

import io
import os
import re
import time

import pytest

from facecluster.pipeline.cli import progress
from facecluster.pipeline.cli.progress import Progress


class Counter:
    """Counts one photo more each time it is asked, and can be told to fail."""

    def __init__(self, last: int, failing: tuple[int, ...] = ()):
        self.asked, self.last, self.failing = 0, last, failing

    def __call__(self) -> int:
        self.asked += 1
        if self.asked in self.failing:
            raise OSError("the folder cannot be listed now")
        return min(self.asked, self.last)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOOKS", 0.01)


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


def watch(stream, count, total: int, seconds: float = 0.3) -> None:
    with Progress(stream=stream).watch(count, total):
        time.sleep(seconds)


def test_a_terminal_shows_one_line_that_changes(terminal):
    stream, seen = terminal
    watch(stream, Counter(1500), 2000)
    text = seen()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    shown = text.rstrip("\n").split("\r\x1b[K")[1:]
    assert len(shown) > 3
    counts = [int(re.match(r"embedding photos  ([\d,]+) / 2,000", line)[1]) for line in shown]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]
    assert all(re.search(r"\d+\.\d photos/s  \d+:\d\d(:\d\d)? left$", line) for line in shown)


def test_the_last_line_tells_how_long_it_took(terminal):
    stream, seen = terminal
    watch(stream, Counter(3), 3)
    last = seen().rstrip("\n").split("\r\x1b[K")[-1]
    assert re.fullmatch(r"embedding photos  3 / 3  100 %  \d+\.\d photos/s  in 0:00", last)


def test_before_the_first_photo(terminal):
    stream, seen = terminal
    watch(stream, lambda: 0, 9)
    first = seen().split("\r\x1b[K")[1]
    assert first.rstrip("\n") == "embedding photos  0 / 9  0 %  starting, 0:00"


def test_a_file_gets_a_line_now_and_then(monkeypatch):
    stream = io.StringIO()
    watch(stream, Counter(5), 5)
    assert re.fullmatch(r"embedding photos  \d / 5 .*\n", stream.getvalue())  # only the last
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOG_LINES", 0.1)
    stream = io.StringIO()
    watch(stream, Counter(5), 5, seconds=0.5)
    lines = stream.getvalue().splitlines()
    assert 2 <= len(lines) <= 6
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_a_look_that_fails_is_not_the_end(terminal):
    stream, seen = terminal
    watch(stream, Counter(50, failing=(1, 3)), 50, seconds=1)
    assert "50 / 50" in seen()


@pytest.mark.filterwarnings("error")  # an error in the watching thread is only a warning here
def test_a_last_look_that_fails_is_no_error(terminal):
    stream, seen = terminal
    watch(stream, Counter(50, failing=tuple(range(3, 1000))), 50)
    assert "2 / 50" in seen().split("\r\x1b[K")[-1]


def test_an_error_in_the_block_comes_through(terminal):
    stream, seen = terminal
    with pytest.raises(ValueError, match="broken"), Progress(stream=stream).watch(Counter(5), 5):
        raise ValueError("broken")
    assert seen().endswith("\n")


def test_saying_something(terminal):
    stream, seen = terminal
    Progress(stream=stream).say("reading faces")
    assert seen() == "\r\x1b[Kreading faces\n"
    file = io.StringIO()
    Progress(stream=file).say("reading faces")
    assert file.getvalue() == "reading faces\n"


def test_standard_error_is_where_it_goes(capsys):
    Progress().say("reading faces")
    assert capsys.readouterr().err == "reading faces\n"


@pytest.mark.parametrize(
    ("done", "total", "moving", "seconds", "line"),
    [
        (1024, 9525, 36.0, 40.0, "1,024 / 9,525  10 %  28.4 photos/s  4:59 left"),
        (1, 100_000, 1.0, 1.0, "1 / 100,000  0 %  1.0 photos/s  27:46:39 left"),
        (9525, 9525, 100.0, 100.0, "9,525 / 9,525  100 %  95.2 photos/s  in 1:40"),
        (0, 9525, 0.0, 61.6, "0 / 9,525  0 %  starting, 1:02"),
        (0, 0, 0.0, 0.0, "0 / 0  0 %  starting, 0:00"),
    ],
)
def test_lines(done, total, moving, seconds, line):
    shown = progress._line("embedding photos", done, total, moving, seconds)
    assert shown == f"embedding photos  {line}"
