"""How the console command starts and ends."""

import subprocess
import sys
from importlib.metadata import version

import pytest

ENDED = "the interpreter was finalized"
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


def test_the_command_exits_without_finalizing_the_interpreter():
    done = run("model", "list")
    assert done.returncode == 0
    assert "mtcnn" in done.stdout  # what was printed came out
    assert ENDED not in done.stdout


def test_the_exit_code_is_the_commands():
    done = run("model", "card", "/no/such/model")
    assert (done.returncode, done.stdout) == (2, "")
    assert "/no/such/model" in done.stderr


def test_an_unknown_option_is_named():
    done = run("model", "list", "--no-such-option")
    assert done.returncode == 2
    assert "--no-such-option" in done.stderr


def test_a_closed_output_is_no_error():
    command = [sys.executable, "-c", PROGRAM, "model", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_version():
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == version("facecluster")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["model", "train", "--help"]])
def test_help_imports_neither_beam_nor_tensorflow(arguments):
    code = """
import sys
from facecluster.pipeline.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(*sys.modules, file=sys.stderr)
"""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "usage: facecluster" in done.stdout
    loaded = done.stderr.split()
    assert "facecluster.pipeline.options" in loaded
    assert not {"apache_beam", "tensorflow", "faiss", "PIL.Image"} & set(loaded)
