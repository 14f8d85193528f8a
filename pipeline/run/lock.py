"""The lock of a run's folder, which lets only one job use the folder at a time.

On a local disk the kernel holds the lock and releases it when the process ends, in whatever way. An
object store has no such locks. There the lock is an object that its holder renews every minute; a
holder that stops renewing it, because it was killed, loses the lock after a few minutes.
"""

import _thread
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from apache_beam.io.filesystems import FileSystems

from facecluster.errors import JobError
from facecluster.transforms.own_output import LOCK_NAME

HAS_FILE_LOCKS = sys.platform != "win32"
if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_RENEWALS = 60.0
SECONDS_TO_EXPIRY = 300.0  # five renewals, as the store may be slow and the clocks may differ
# Two jobs that both found no lock have both written theirs within this time.
SECONDS_TO_SETTLE = 2.0
UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}  # errors of file systems without locks

_held: set[int] = set()  # file descriptors


class RunLockedError(JobError):
    """Another job is using the folder."""


@contextlib.contextmanager
def run_lock(root: str) -> Iterator[None]:
    """Holds the lock of a folder, which is created if it does not exist.

    Raises:
      RunLockedError: another job holds it.
      OSError: it cannot be written.
    """
    path = FileSystems.join(root, LOCK_NAME)
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with contextlib.ExitStack() as stack:
        if FileSystems.get_scheme(root) is not None or not HAS_FILE_LOCKS:
            stack.enter_context(_lock_object(root, path, holder))
        else:
            os.makedirs(root, exist_ok=True)
            try:
                stack.enter_context(_lock_file(root, path, holder))
            except OSError as error:  # some network file systems
                if error.errno not in UNSUPPORTED:
                    raise
                stack.enter_context(_lock_object(root, path, holder))
        yield


@contextlib.contextmanager
def _lock_file(root: str, path: str, holder: dict[str, Any]) -> Iterator[None]:
    assert fcntl is not None
    # The file is never deleted: otherwise two jobs could lock two files of the same name.
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _locked_error(root, _parse(os.pread(file, 4096, 0))) from error
        with contextlib.suppress(OSError):  # on a full disk the lock is held, but not signed
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(holder).encode(), 0)
        _held.add(file)
        yield
    finally:
        _held.discard(file)
        os.close(file)


def _close_in_child() -> None:
    """Closes the locks in a forked process, which would keep them after its parent was killed."""
    for file in _held:
        with contextlib.suppress(OSError):
            os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def _lock_object(root: str, path: str, holder: dict[str, Any]) -> Iterator[None]:
    other = _read(path)
    if other and time.time() - other.get("renewed_at", 0) < SECONDS_TO_EXPIRY:
        raise _locked_error(root, other)
    mine = {**holder, "token": uuid.uuid4().hex}
    _renew(path, mine)
    time.sleep(SECONDS_TO_SETTLE)  # of two jobs, the one that wrote last holds the lock
    other = _read(path)
    if other.get("token") != mine["token"]:
        raise _locked_error(root, other)
    stop = threading.Event()
    thread = threading.Thread(target=_keep_renewing, args=(path, mine, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(Exception):  # a lock that cannot be deleted expires
            if _read(path).get("token") == mine["token"]:
                FileSystems.delete([path])


def _keep_renewing(path: str, mine: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(SECONDS_BETWEEN_RENEWALS):
        try:
            if _read(path).get("token", mine["token"]) != mine["token"]:
                logger.error("another job holds %s, as this one did not renew it in time", path)
                _interrupt_this_job()
                return
            _renew(path, mine)
        except Exception:  # the store may be available at the next renewal
            logger.warning("%s could not be renewed", path, exc_info=True)


def _interrupt_this_job() -> None:
    """Sends SIGINT, or SIGTERM if SIGINT is ignored, as in the background of a shell."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        _thread.interrupt_main()


def _renew(path: str, mine: dict[str, Any]) -> None:
    with FileSystems.create(path, mime_type="application/json") as file:
        file.write(json.dumps({**mine, "renewed_at": time.time()}).encode())


def _read(path: str) -> dict[str, Any]:
    if not FileSystems.exists(path):
        return {}
    with FileSystems.open(path, mime_type="application/json") as file:
        return _parse(file.read())


def _parse(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:  # its holder is writing it at this moment
        return {}
    return found if isinstance(found, dict) else {}


def _locked_error(root: str, holder: dict[str, Any]) -> RunLockedError:
    who = "process {pid} on {host}, since {since}".format(
        **{"pid": "?", "host": "?", "since": "?", **holder}
    )
    return RunLockedError(
        f"another facecluster job is using {root} ({who}): wait until it ends, or stop it"
    )
