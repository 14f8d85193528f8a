"""One job at a time in a run's folder, whatever became of the one before."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from apache_beam.io.filesystem import FileMetadata, FileSystem

from facecluster.pipeline.run import lock as locks
from facecluster.pipeline.run.lock import RunLockedError, run_lock

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


def test_the_second_job_is_told_who_is_there(tmp_path, holder):
    before = time.strftime("since %Y-", time.gmtime())
    with (
        pytest.raises(RunLockedError, match="another facecluster job is at work in") as refused,
        run_lock(str(tmp_path / "run")),
    ):
        pass
    assert f"process {holder.pid} on {socket.gethostname()}, {before}" in str(refused.value)
    with run_lock(str(tmp_path / "another run")):
        pass


def test_a_killed_job_holds_nothing_though_its_children_live(tmp_path, holder):
    holder.kill()
    holder.wait()
    with run_lock(str(tmp_path / "run")):
        assert json.loads((tmp_path / "run" / "run.lock").read_text())["pid"] == os.getpid()


def test_the_lock_ends_with_its_block_also_by_an_error(tmp_path):
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


def sign(store, beat: float) -> None:
    store[LOCK] = json.dumps(
        {"host": "far", "pid": 7, "since": "noon", "token": "t", "beat": beat}
    ).encode()


def test_in_a_store_the_lock_is_an_object_that_goes_with_it(store):
    with run_lock(RUN):
        assert json.loads(store[LOCK])["pid"] == os.getpid()
        with pytest.raises(RunLockedError, match=f"process {os.getpid()}"), run_lock(RUN):
            pass
    assert store == {}


def test_in_a_store_a_beating_lock_counts_and_a_stale_one_does_not(store):
    sign(store, time.time() - locks.SECONDS_TO_STALE + 30)
    with pytest.raises(RunLockedError, match="process 7 on far, since noon"), run_lock(RUN):
        pass
    sign(store, time.time() - locks.SECONDS_TO_STALE - 30)
    with run_lock(RUN):
        assert json.loads(store[LOCK])["host"] == socket.gethostname()


def test_in_a_store_a_held_lock_is_renewed(store, monkeypatch):
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_BEATS", 0.05)
    with run_lock(RUN):
        first = json.loads(store[LOCK])["beat"]
        time.sleep(0.5)
        assert json.loads(store[LOCK])["beat"] > first + 0.2


def test_in_a_store_of_two_that_come_at_once_one_is_refused(store):
    outcomes = []
    start = threading.Barrier(2)
    end = threading.Barrier(2)

    def job():
        start.wait()
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
def test_in_a_store_a_job_whose_lock_was_taken_over_ends(
    store, monkeypatch, set_signal, in_background
):
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_BEATS", 0.05)
    if in_background:  # of a shell, which makes its jobs there ignore Ctrl-C
        set_signal(signal.SIGINT, signal.SIG_IGN)
        set_signal(signal.SIGTERM, signal.default_int_handler)
    else:
        set_signal(signal.SIGINT, signal.default_int_handler)

    def work():
        with run_lock(RUN):
            sign(store, time.time())
            for _ in range(500):
                time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert json.loads(store[LOCK])["host"] == "far"
