"""Redirects the messages of TensorFlow and Beam from the terminal to a log file."""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def redirect_stderr_to_file(path: str) -> Iterator[None]:
    """Appends standard error of C++ code and child processes to a file while the block runs.

    TensorFlow writes to standard error before it reads any of its settings, so the file descriptor
    itself is redirected. Python's sys.stderr still reaches the terminal; log records go to the
    file.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    log = open(path, "a", buffering=1, encoding="utf-8", errors="replace")  # noqa: SIM115
    sys.stderr.flush()
    terminal = os.dup(2)
    python_stderr = sys.stderr
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handlers_before = logging.root.handlers[:]
    os.dup2(log.fileno(), 2)
    sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, errors="replace")
    logging.root.handlers[:] = [handler]
    # On a full disk the log cannot be written, and Python would report that on the terminal.
    raise_before, logging.raiseExceptions = logging.raiseExceptions, False
    hook_before, threading.excepthook = threading.excepthook, _log_thread_error
    try:
        yield
    finally:
        threading.excepthook = hook_before
        logging.raiseExceptions = raise_before
        logging.root.handlers[:] = handlers_before
        sys.stderr.close()
        sys.stderr = python_stderr
        os.dup2(terminal, 2)
        os.close(terminal)
        with contextlib.suppress(OSError):
            log.close()


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    """Logs an error of a thread; Beam's threads fail whenever their workers are stopped."""
    logging.getLogger(__name__).error("a thread failed", exc_info=args.exc_value)
