"""How the console command starts and ends."""

import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import pytest

from facecluster.pipeline.cli.call import COMMANDS
from facecluster.pipeline.cli.parser import make_parser

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


@pytest.mark.parametrize("arguments", [[], ["model"], ["evaluate"]])
def test_without_a_command_the_commands_are_listed(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert f"See {' '.join(['facecluster', *arguments])} --help" in done.stderr


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


SLOW_TO_IMPORT = {"apache_beam", "tensorflow", "keras", "torch", "faiss", "hdbscan", "sklearn",
                  "scipy", "pandas", "matplotlib", "jinja2", "PIL.Image", "pyarrow"}  # fmt: skip


def imported(*arguments: str) -> tuple[str, set[str]]:
    """What a command prints, and the modules that are imported when it ends."""
    code = """
import sys
from facecluster.pipeline.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("<modules>", *sys.modules)
"""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    printed, _, modules = done.stdout.partition("<modules>")
    return printed + done.stderr, set(modules.split())


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--help"], "usage: facecluster"),
        (["--version"], version("facecluster")),
        ([], "usage: facecluster"),
        (["model"], "usage: facecluster model"),
        (["run", "--help"], "usage: facecluster run"),
        (["model", "train", "--help"], "usage: facecluster model train"),
        (["model", "list"], "Inception-ResNet-v1"),
        (["cluster", "--output", "run", "--wrong-shares", "7"], "unknown argument --wrong-shares"),
        (["cluster", "--output", "run", "--wrong-share", "7"], "7 is not between 0.001 and 0.5"),
        (["run", "--input", "a", "--output", "b", "stray"], "unknown argument stray"),
        (["run", "--input", "a", "--output", "b", "--direct_num_workers=x"], "x is not a number"),
        (["run", "--input", "a", "--output", "b", "--direct-num-workers", "-1"], "-1 is not a num"),
    ],
)
def test_an_answer_that_needs_no_photos_imports_nothing_slow(arguments, answer):
    printed, modules = imported(*arguments)
    assert answer in printed
    assert "facecluster.pipeline.options" in modules
    assert not SLOW_TO_IMPORT & modules


def test_the_commands_are_those_of_the_parser():
    def leaves(parser):
        for action in parser._subcommands():
            for child in action.choices.values():
                yield from leaves(child) if child._subparsers else [child.get_default("command")]

    assert sorted(COMMANDS) == sorted(leaves(make_parser()))
    for module, function in COMMANDS.values():
        assert callable(getattr(import_module(f"facecluster.pipeline.cli.{module}"), function))
