"""Messages of libraries and child processes go to the file, our own to the terminal."""

import subprocess
import sys
import textwrap


def run(program: str, *arguments: str) -> subprocess.CompletedProcess:
    start = (
        "import logging, os, subprocess, sys\n"
        "from facecluster.pipeline.cli.quiet import redirect_stderr_to_file\n"
    )
    return subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )


def test_library_messages_go_to_the_file_and_ours_to_the_terminal(tmp_path):
    path = tmp_path / "logs" / "facecluster.log"
    done = run(
        """
        print("before", file=sys.stderr)
        os.write(2, b"C before\\n")
        with redirect_stderr_to_file(sys.argv[1]):
            os.write(2, b"C++ speaks\\n")
            print("ours", file=sys.stderr)
            subprocess.run([sys.executable, "-c", "import sys; print('child', file=sys.stderr)"])
            logging.getLogger("some.library").warning("careful")
            print("result")
        print("after", file=sys.stderr)
        os.write(2, b"C after\\n")
        """,
        str(path),
    )
    assert done.stderr.splitlines() == ["before", "C before", "ours", "after", "C after"]
    assert done.stdout == "result\n"
    log = path.read_text()
    assert "C++ speaks\n" in log
    assert "child\n" in log
    assert "WARNING some.library: careful\n" in log
    assert "ours" not in log


def test_everything_is_restored_after_an_error_too(tmp_path):
    done = run(
        """
        stream, handlers = sys.stderr, logging.root.handlers[:]
        n_open = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
        try:
            with redirect_stderr_to_file(sys.argv[1]):
                raise ValueError("broken")
        except ValueError:
            print("caught", file=sys.stderr)
        assert sys.stderr is stream
        assert logging.root.handlers == handlers
        if n_open:
            assert len(os.listdir("/proc/self/fd")) == n_open
        logging.getLogger("some.library").warning("aloud again")
        """,
        str(tmp_path / "facecluster.log"),
    )
    assert done.stderr.splitlines() == ["caught", "aloud again"]


def test_an_existing_file_is_appended_to(tmp_path):
    path = tmp_path / "facecluster.log"
    path.write_text("earlier\n")
    run("with redirect_stderr_to_file(sys.argv[1]): os.write(2, b'later\\n')", str(path))
    assert path.read_text() == "earlier\nlater\n"


def test_a_path_without_a_folder(tmp_path):
    program = """
        os.chdir(sys.argv[1])
        with redirect_stderr_to_file("facecluster.log"):
            os.write(2, b"noise")
        """
    assert run(program, str(tmp_path)).stderr == ""
    assert (tmp_path / "facecluster.log").read_text() == "noise"


def test_a_file_that_cannot_be_written_changes_nothing(tmp_path):
    done = run(
        """
        try:
            with redirect_stderr_to_file(sys.argv[1]):
                print("never")
        except OSError:
            os.write(2, b"still here")
        """,
        str(tmp_path),  # a folder
    )
    assert (done.stdout, done.stderr) == ("", "still here")


def test_text_that_is_not_ascii(tmp_path):
    path = tmp_path / "facecluster.log"
    done = run(
        """
        with redirect_stderr_to_file(sys.argv[1]):
            print("Zoë \\udce9", file=sys.stderr)
            logging.warning("Zoë \\udce9")
        """,
        str(path),
    )
    assert "Zo" in done.stderr
    assert "Zoë ?" in path.read_text(encoding="utf-8")


def test_an_error_of_a_thread_goes_to_the_file(tmp_path):
    code = """
import sys, threading
from facecluster.pipeline.cli.quiet import redirect_stderr_to_file
with redirect_stderr_to_file(sys.argv[1]):
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
"""
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", code, log], capture_output=True, text=True)
    assert done.stderr == ""
    assert "ZeroDivisionError" in log.read_text()
