"""Keeps what TensorFlow and Beam say off the terminal, in a log file instead."""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def noise_to_file(path: str) -> Iterator[None]:
    """While the block runs, standard error of C++ code and of child processes goes to `path`.

    TensorFlow writes there before any setting of its own is looked at, so the file descriptor has
    to move. Python's sys.stderr still reaches the terminal; log records go to the file.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    log = open(path, "a", buffering=1, encoding="utf-8", errors="replace")  # noqa: SIM115
    sys.stderr.flush()
    terminal = os.dup(2)
    python_stderr = sys.stderr
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before = logging.root.handlers[:]
    os.dup2(log.fileno(), 2)
    sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, errors="replace")
    logging.root.handlers[:] = [handler]
    # On a full disk the log cannot be written either, and Python would say so on the terminal.
    raises, logging.raiseExceptions = logging.raiseExceptions, False
    thread_hook, threading.excepthook = threading.excepthook, _log_thread_error
    try:
        yield
    finally:
        threading.excepthook = thread_hook
        logging.raiseExceptions = raises
        logging.root.handlers[:] = before
        sys.stderr.close()
        sys.stderr = python_stderr
        os.dup2(terminal, 2)
        os.close(terminal)
        with contextlib.suppress(OSError):
            log.close()


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    """Beam's threads fail when their workers are stopped; what matters reaches the main thread."""
    error = (args.exc_type, args.exc_value, args.exc_traceback)
    logging.getLogger(__name__).error("a thread failed", exc_info=error)
