"""The console command's way in and out."""

import subprocess
import sys

ENDED = "the interpreter took itself down"
PROGRAM = f"""
import atexit, sys
from facecluster.pipeline.cli.main import script
atexit.register(print, {ENDED!r})
sys.argv = ["facecluster", *sys.argv[1:]]
script()
"""


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_leaves_without_taking_down_threads_that_still_run():
    done = run("model", "list")
    assert done.returncode == 0
    assert "mtcnn" in done.stdout  # what was printed came out
    assert ENDED not in done.stdout


def test_the_exit_code_is_the_commands():
    done = run("model", "card", "/no/such/model")
    assert (done.returncode, done.stdout) == (2, "")
    assert "/no/such/model" in done.stderr


def test_wrong_use_says_so():
    done = run("model", "list", "--no-such-option")
    assert done.returncode == 2
    assert "--no-such-option" in done.stderr


def test_a_reader_that_has_had_enough_is_no_error():
    command = [sys.executable, "-c", PROGRAM, "model", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
