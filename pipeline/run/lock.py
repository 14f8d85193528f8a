"""One job at a time in a run's folder: the second is refused, and told who is there.

On a local disk the kernel keeps the lock, and drops it when the job ends in whatever way. Where no
kernel does, in an object store, the lock is an object that its holder writes anew every minute; who
stops doing so, for he was killed, has lost it some minutes later.
"""

import _thread
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from apache_beam.io.filesystems import FileSystems

from facecluster.errors import JobError

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None

logger = logging.getLogger(__name__)

LOCK_NAME = "run.lock"
SECONDS_BETWEEN_BEATS = 60.0
SECONDS_TO_STALE = 300.0  # five missed beats: a slow store or a clock that is off is no reason
SECONDS_TO_SETTLE = 2.0  # in which a second job that saw no lock either has written its own
NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}

_held: set[int] = set()  # file descriptors


class RunLockedError(JobError):
    """Another job is at work in the folder."""


@contextlib.contextmanager
def run_lock(root: str) -> Iterator[None]:
    """Holds the lock of a folder, which is made if it is not there.

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
        if FileSystems.get_scheme(root) is not None or fcntl is None:
            stack.enter_context(_beating_object(root, path, holder))
        else:
            os.makedirs(root, exist_ok=True)
            try:
                stack.enter_context(_locked_file(root, path, holder))
            except OSError as error:  # some network file systems
                if error.errno not in NO_LOCKS_HERE:
                    raise
                stack.enter_context(_beating_object(root, path, holder))
        yield


@contextlib.contextmanager
def _locked_file(root: str, path: str, holder: dict[str, Any]) -> Iterator[None]:
    # The file stays when the lock goes: were it deleted, two could lock two files of one name.
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _refusal(root, _parsed(os.pread(file, 4096, 0))) from error
        with contextlib.suppress(OSError):  # a full disk: the lock is held, only not signed
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(holder).encode(), 0)
        _held.add(file)
        yield
    finally:
        _held.discard(file)
        os.close(file)


def _close_in_child() -> None:
    """A forked process must not keep the lock of one that was killed."""
    for file in _held:
        with contextlib.suppress(OSError):
            os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def _beating_object(root: str, path: str, holder: dict[str, Any]) -> Iterator[None]:
    other = _read(path)
    if other and time.time() - other.get("beat", 0) < SECONDS_TO_STALE:
        raise _refusal(root, other)
    mine = {**holder, "token": uuid.uuid4().hex}
    _beat(path, mine)
    time.sleep(SECONDS_TO_SETTLE)  # of two who found no lock, the one who wrote last has it
    other = _read(path)
    if other.get("token") != mine["token"]:
        raise _refusal(root, other)
    stop = threading.Event()
    heart = threading.Thread(target=_keep_beating, args=(path, mine, stop), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        with contextlib.suppress(Exception):  # a lock that is left is stale soon
            if _read(path).get("token") == mine["token"]:
                FileSystems.delete([path])


def _keep_beating(path: str, mine: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(SECONDS_BETWEEN_BEATS):
        try:
            if _read(path).get("token", mine["token"]) != mine["token"]:
                logger.error("%s was taken over: this job stood still too long, and ends", path)
                _end_this_job()
                return
            _beat(path, mine)
        except Exception:  # the store may be back at the next beat
            logger.warning("%s could not be renewed", path, exc_info=True)


def _end_this_job() -> None:
    """As Ctrl-C would; as SIGTERM where Ctrl-C is ignored, as in the background of a shell."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        _thread.interrupt_main()


def _beat(path: str, mine: dict[str, Any]) -> None:
    with FileSystems.create(path, mime_type="application/json") as file:
        file.write(json.dumps({**mine, "beat": time.time()}).encode())


def _read(path: str) -> dict[str, Any]:
    if not FileSystems.exists(path):
        return {}
    with FileSystems.open(path, mime_type="application/json") as file:
        return _parsed(file.read())


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:  # it is just being written
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(root: str, holder: dict[str, Any]) -> RunLockedError:
    who = "process {pid} on {host}, since {since}".format(
        **{"pid": "?", "host": "?", "since": "?", **holder}
    )
    return RunLockedError(
        f"another facecluster job is at work in {root} ({who}): wait until it has ended, or stop it"
    )
