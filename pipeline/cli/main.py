"""The entry point of the `facecluster` command: prepares the terminal and runs one command."""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import NoReturn

from facecluster.errors import UsageError
from facecluster.pipeline.beam.option_names import RUNNER, stray_values
from facecluster.pipeline.cli.argument_parser import USAGE_ERROR
from facecluster.pipeline.cli.call import call
from facecluster.pipeline.cli.parser import make_parser
from facecluster.pipeline.cli.quiet import redirect_stderr_to_file
from facecluster.transforms.own_output import LOG_NAME

INTERRUPTED = 130  # exit code; what shells give a program that Ctrl-C ended


def script() -> NoReturn:
    """The console script: runs `main` and exits without finalizing the interpreter.

    Threads of Beam may still run C++ code. Before Python 3.14, finalization ends such threads by
    unwinding code that must not be unwound, which aborts a process that had succeeded
    (python/cpython#87135).
    """
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        code = 0
    sys.stderr.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
      The exit code: 0 for success, 1 for a failed job, 2 for wrong use or unusable input.
    """
    arguments, arguments.beam_arguments = make_parser().parse_known_args(argv)
    if arguments.command is None:
        print(arguments.parser.short_help(), file=sys.stderr)
        return USAGE_ERROR
    _check_rest(arguments)
    try:
        with contextlib.ExitStack() as stack:
            if arguments.verbose:
                logging.basicConfig(level=logging.INFO)
            else:
                stack.enter_context(redirect_stderr_to_file(_open_log(arguments)))
            return call(arguments)
    except UsageError as error:
        print(f"facecluster: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to continue", file=sys.stderr)
        return INTERRUPTED


def _check_rest(arguments: argparse.Namespace) -> None:
    """Ends the program if words are left that are neither options of Beam nor their values."""
    rest = arguments.beam_arguments
    if not arguments.parser.passes_to_beam and rest:
        arguments.parser.error(f"unknown argument {rest[0]}")
    _check_workers(arguments)
    names = [word.partition("=")[0] for word in rest]
    strays = stray_values(rest) + [name for name in names if name[:1] == "-" != name[1:2]]
    if strays and RUNNER not in names:
        arguments.parser.error(f"unknown argument {strays[0]}")


def _check_workers(arguments: argparse.Namespace) -> None:
    """Ends the program if a number of worker processes is none, before Beam is imported for it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--direct_num_workers", "--direct-num-workers", default="0", nargs="?")
    value = parser.parse_known_args(arguments.beam_arguments)[0].direct_num_workers
    if not (value or "").isdecimal():
        arguments.parser.error(
            f"--direct_num_workers: {value or 'nothing'} is not a number of processes; "
            "0 takes one per core"
        )


def _open_log(arguments: argparse.Namespace) -> str:
    """The path of the log: in the run's folder if that is local, else in a temporary folder.

    Raises:
      UsageError: it cannot be written.
    """
    folder = getattr(arguments, "output", None)
    if not folder or "://" in folder or not (arguments.makes_run or os.path.isdir(folder)):
        folder = tempfile.gettempdir()
    path = os.path.join(folder, LOG_NAME)
    try:
        os.makedirs(folder, exist_ok=True)
        with open(path, "a"):
            return path
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error
