"""Only one job uses a run's folder at a time, and a killed job does not keep the lock."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from apache_beam.io.filesystem import FileMetadata, FileSystem

from facecluster.pipeline.run import lock as locks
from facecluster.pipeline.run.lock import RunLockedError, run_lock

SECONDS_BEFORE_HANGING = 120

HOLD = """
import os, subprocess, sys, time
from facecluster.pipeline.run.lock import run_lock
with run_lock(sys.argv[1]):
    if os.fork() == 0:
        time.sleep(600)
    child = subprocess.Popen(["sleep", "600"], close_fds=False)
    print(os.getpid(), child.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path / "run", and has children."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    process.stdout.readline()
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_the_second_job_is_refused_with_the_name_of_the_first(tmp_path, holder):
    before = time.strftime("since %Y-", time.gmtime())
    with (
        pytest.raises(RunLockedError, match="another facecluster job is using") as refused,
        run_lock(str(tmp_path / "run")),
    ):
        pass
    assert f"process {holder.pid} on {socket.gethostname()}, {before}" in str(refused.value)
    with run_lock(str(tmp_path / "another run")):
        pass


def test_a_killed_job_loses_the_lock_even_if_its_children_live(tmp_path, holder):
    holder.kill()
    holder.wait()
    with run_lock(str(tmp_path / "run")):
        assert json.loads((tmp_path / "run" / "run.lock").read_text())["pid"] == os.getpid()


def test_the_lock_is_released_at_the_end_of_the_block_and_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), run_lock(str(tmp_path)):
            raise KeyError
    with run_lock(str(tmp_path)), pytest.raises(RunLockedError), run_lock(str(tmp_path)):
        pass


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"), run_lock(str(tmp_path / "file" / "run")):
        pass


class LockStore(FileSystem):
    """An object store: names with contents, written whole."""

    objects: dict[str, bytes] = {}  # noqa: RUF012

    @classmethod
    def scheme(cls):
        return "lockstore"

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        return tuple(path.rsplit("/", 1))

    def exists(self, path):
        return path in self.objects

    def open(self, path, mime_type="", compression_type=None):
        return io.BytesIO(self.objects[path])

    def create(self, path, mime_type="", compression_type=None):
        objects = self.objects

        class Written(io.BytesIO):
            def close(self):
                objects[path] = self.getvalue()
                super().close()

        return Written()

    def delete(self, paths):
        for path in paths:
            del self.objects[path]

    def _list(self, dir_or_prefix):
        for name, content in self.objects.items():
            if name.startswith(dir_or_prefix):
                yield FileMetadata(name, len(content))

    def has_dirs(self):
        return False

    mkdirs = copy = rename = size = last_updated = checksum = metadata = None


RUN, LOCK = "lockstore://b/run", "lockstore://b/run/run.lock"


@pytest.fixture
def store(monkeypatch) -> dict[str, bytes]:
    monkeypatch.setattr(LockStore, "objects", {})
    monkeypatch.setattr(locks, "SECONDS_TO_SETTLE", 0.1)
    return LockStore.objects


def sign(store, renewed_at: float) -> None:
    store[LOCK] = json.dumps(
        {"host": "far", "pid": 7, "since": "noon", "token": "t", "renewed_at": renewed_at}
    ).encode()


def test_in_a_store_the_lock_is_an_object_that_is_deleted_at_the_end(store):
    with run_lock(RUN):
        assert json.loads(store[LOCK])["pid"] == os.getpid()
        with pytest.raises(RunLockedError, match=f"process {os.getpid()}"), run_lock(RUN):
            pass
    assert store == {}


def test_in_a_store_a_renewed_lock_is_respected_and_an_expired_one_is_not(store):
    sign(store, time.time() - locks.SECONDS_TO_EXPIRY + 30)
    with pytest.raises(RunLockedError, match="process 7 on far, since noon"), run_lock(RUN):
        pass
    sign(store, time.time() - locks.SECONDS_TO_EXPIRY - 30)
    with run_lock(RUN):
        assert json.loads(store[LOCK])["host"] == socket.gethostname()


def test_in_a_store_a_held_lock_is_renewed(store, monkeypatch):
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_RENEWALS", 0.05)
    with run_lock(RUN):
        times = [json.loads(store[LOCK])["renewed_at"]]
        deadline = time.monotonic() + SECONDS_BEFORE_HANGING
        while len(times) < 3:
            assert time.monotonic() < deadline, "it is not renewed"
            time.sleep(0.01)
            renewed_at = json.loads(store[LOCK])["renewed_at"]
            if renewed_at != times[-1]:
                times.append(renewed_at)
        assert times == sorted(times)


def test_in_a_store_one_of_two_simultaneous_jobs_is_refused(store, monkeypatch):
    outcomes = []
    both_read, both_written, end = (
        threading.Barrier(2, timeout=SECONDS_BEFORE_HANGING) for _ in range(3)
    )
    read, this_thread = locks._read, threading.local()

    def read_at_the_same_time(path):
        found = read(path)
        if not hasattr(this_thread, "has_read"):
            this_thread.has_read = True
            both_read.wait()
        return found

    monkeypatch.setattr(locks, "_read", read_at_the_same_time)
    settle = SimpleNamespace(time=time.time, sleep=lambda seconds: both_written.wait())
    monkeypatch.setattr(locks, "time", settle)

    def job():
        try:
            with run_lock(RUN):
                outcomes.append("held")
                end.wait()
        except RunLockedError:
            outcomes.append("refused")
            end.wait()

    threads = [threading.Thread(target=job) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "refused"]
    assert store == {}


@pytest.fixture
def set_signal():
    """Sets the handler of a signal for as long as the test runs."""
    before = {}

    def set_handler(number, handler):
        before[number] = signal.signal(number, handler)

    yield set_handler
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("in_background", [False, True])
def test_in_a_store_a_job_that_lost_its_lock_ends(store, monkeypatch, set_signal, in_background):
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_RENEWALS", 0.05)
    if in_background:  # where shells make jobs ignore Ctrl-C
        set_signal(signal.SIGINT, signal.SIG_IGN)
        set_signal(signal.SIGTERM, signal.default_int_handler)
    else:
        set_signal(signal.SIGINT, signal.default_int_handler)

    def work():
        with run_lock(RUN):
            sign(store, time.time())
            for _ in range(100 * SECONDS_BEFORE_HANGING):  # a single sleep is not interrupted
                time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert json.loads(store[LOCK])["host"] == "far"
