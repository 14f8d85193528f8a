"""A command that is killed continues, and ends with the bytes of a run that was not interrupted."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.command import COMMAND

TABLES = ("photos", "faces", "failures", "near_duplicates", "people", "assignments")
TWO_PROCESSES = ("--direct_num_workers=2", "--photos-per-shard=4")
N_KILLS = 20
PATIENCE = 900  # seconds; only a command that hangs takes longer, also on a busy machine


@pytest.fixture(scope="module")
def few_photos(copy_people, tmp_path_factory) -> Path:
    """24 photos of 6 people, a duplicate of one of them, and two files that are not photos."""
    folder = tmp_path_factory.mktemp("few")
    copy_people(folder, 6, 4)
    shutil.copy(next(folder.glob("*/*.jpg")), folder / "again.jpg")
    (folder / "broken.jpg").write_text("no photo")
    (folder / "empty.jpg").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def few_run(few_photos, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "few"
    done = start(few_photos, run)
    assert finish(done) == 0
    return run


class Job:
    """A running `facecluster run` in a process group of its own."""

    def __init__(self, arguments, log: Path):
        self.log = log
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                [COMMAND, *map(str, arguments)], stdout=file, stderr=file, start_new_session=True
            )

    def workers(self) -> list[int]:
        """The ids of its worker processes."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:  # the process has just ended
                continue
            if command[1:4] == [
                b"-m",
                b"facecluster.pipeline.beam.worker",
                b"%d" % self.process.pid,
            ]:
                found.append(int(folder.name))
        return sorted(found)

    def kill(self, target: str, rng: random.Random) -> None:
        """Sends SIGKILL to the driver, a worker or the whole group."""
        workers = self.workers()
        if target == "worker" and workers:
            os.kill(rng.choice(workers), signal.SIGKILL)
        elif target == "driver":
            self.process.kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)


def start(photos: Path, run: Path, *options) -> Job:
    log = run.with_suffix(".log")
    return Job(["run", "--input", photos, "--output", run, *options], log)


def finish(job: Job) -> int:
    code = job.process.wait(timeout=PATIENCE)
    assert "Traceback" not in job.log.read_text()
    return code


def wait_for_shards(job: Job, run: Path, n: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(list((run / "photos").glob("*.parquet"))) < n:
        assert job.process.poll() is None, job.log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_end_of_workers(job: Job) -> None:
    deadline = time.monotonic() + PATIENCE
    while job.workers():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_equal(run: Path, other: Path) -> None:
    """Compares all columns of all rows, bit for bit. The order of rows depends on the shards."""
    for table in TABLES:
        rows, others = (
            sorted(pq.read_table(folder / table).to_pylist(), key=repr) for folder in (run, other)
        )
        assert rows == others, table


def test_a_run_killed_in_three_ways_gives_the_same_tables(few_photos, few_run, tmp_path):
    run, rng = tmp_path / "run", random.Random(0)

    job = start(few_photos, run, *TWO_PROCESSES)
    wait_for_shards(job, run, 1)
    job.kill("worker", rng)
    assert finish(job) == 1
    assert "a worker process ended in the middle of its work" in job.log.read_text()
    wait_for_end_of_workers(job)

    job = start(few_photos, run, *TWO_PROCESSES)
    while str(job.process.pid) not in (run / "run.lock").read_text():
        assert job.process.poll() is None, job.log.read_text()
        time.sleep(0.05)
    second = start(few_photos, run.with_name("second"), "--output", run)
    assert finish(second) == 1
    wait_for_shards(job, run, 3)
    assert (
        f"another facecluster job is using {run} (process {job.process.pid} on "
        in second.log.read_text()
    )
    job.kill("driver", rng)
    job.process.wait()
    wait_for_end_of_workers(job)

    shards = {path: path.stat().st_mtime_ns for path in (run / "photos").iterdir()}
    job = start(few_photos, run, "--photos-per-shard=9")  # in one process
    assert finish(job) == 0, job.log.read_text()
    for path, written_at in shards.items():
        if path.suffix == ".parquet" and pq.read_metadata(path).num_rows == 4:
            assert path.stat().st_mtime_ns == written_at
    assert_equal(run, few_run)


def test_a_duplicate_photo_has_a_row_and_its_faces_are_assigned_once(few_run):
    photos = pq.read_table(few_run / "photos").to_pylist()
    (twice,) = {row["photo_id"] for row in photos if row["uri"].endswith("again.jpg")}
    assert sum(row["photo_id"] == twice for row in photos) == 2
    assigned = pq.read_table(few_run / "assignments")["face_id"].to_pylist()
    found = pq.read_table(few_run / "faces")["face_id"].to_pylist()
    assert len(assigned) == len(set(assigned))
    assert set(assigned) == set(found)
    assert len(found) > len(set(found))


def test_grouping_on_workers_assigns_the_faces_of_duplicates_once(few_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(few_run, run)
    job = Job(["cluster", "--output", run, "--distribute"], tmp_path / "log")
    assert finish(job) == 0, job.log.read_text()
    assigned = pq.read_table(run / "assignments")["face_id"].to_pylist()
    assert len(assigned) == len(set(assigned))
    assert set(assigned) == set(pq.read_table(run / "faces")["face_id"].to_pylist())


def test_failures_can_be_retried_in_the_same_run(few_photos, few_run, tmp_path):
    photos, run = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(few_photos, photos)
    good = next(photos.glob("*/*.jpg"))
    hidden = good.read_bytes()
    good.write_text("damaged")
    job = start(photos, run)
    assert finish(job) == 0, job.log.read_text()
    before = pq.read_table(run / "failures").to_pylist()
    assert {Path(row["uri"]).name for row in before} == {"broken.jpg", "empty.jpg", good.name}

    good.write_bytes(hidden)
    job = Job(["run", "--input", run / "failures", "--output", run, "--max-failures=5%"],
              tmp_path / "log")  # fmt: skip
    assert finish(job) == 1
    assert "2 of 27 inputs (7.4%) could not be used, more than --max-failures 5% allows (" in (
        job.log.read_text()
    )
    job = start(photos, run, "--max-failures=2")
    assert finish(job) == 0, job.log.read_text()
    for table in TABLES:
        rows, others = (
            sorted(({**row, "uri": Path(row.get("uri", "")).name} for row in rows), key=repr)
            for rows in (pq.read_table(folder / table).to_pylist() for folder in (run, few_run))
        )
        assert rows == others, table


def test_only_a_run_can_be_overwritten(few_photos, tmp_path):
    run, photos = tmp_path / "run", tmp_path / "photos"
    shutil.copytree(next(few_photos.glob("*/")), photos)
    assert finish(start(photos, run)) == 0
    (run / "notes.txt").write_text("mine")
    assert finish(start(photos, run, "--codec=float32")) == 1
    job = start(photos, run, "--codec=float32", "--overwrite")
    assert finish(job) == 0, job.log.read_text()
    assert pq.read_schema(next((run / "faces").iterdir())).field("embedding").type.list_size == 512
    assert (run / "notes.txt").read_text() == "mine"
    job = start(photos, photos, "--overwrite")
    assert finish(job) == 2
    assert f"{photos} is not a facecluster run and holds other files" in job.log.read_text()
    assert len(list(photos.glob("*.jpg"))) == 4


FULL_DISK = """
disk=$1 kept=$2; shift 2
mount -t tmpfs -o size=96k none "$disk"
"$@"; echo "code $?"
find "$disk" -name "*.tmp"
mount -o remount,size=64m "$disk"
"$@"; echo "code $?"
cp -r "$disk/run" "$kept"
"""


def test_a_full_disk_fails_the_job_which_continues_when_there_is_space(
    few_photos, few_run, tmp_path
):
    if not shutil.which("unshare"):
        pytest.skip("unshare is needed to mount a small disk")
    disk, run = tmp_path / "disk", tmp_path / "run"
    disk.mkdir()
    command = [COMMAND, "run", "--input", few_photos, "--output", disk / "run",
               "--photos-per-shard", "16"]  # fmt: skip
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", FULL_DISK, "-", disk, run, *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert "cannot be written: No space left on device" in done.stdout
    codes = [line for line in done.stdout.splitlines() if line.startswith("code ")]
    assert codes == ["code 1", "code 0"], done.stdout
    assert "Traceback" not in done.stdout
    assert ".tmp" not in done.stdout
    assert_equal(run, few_run)


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_moments_gives_the_same_tables(
    lfw_images, group_photos, tmp_path
):
    photos, undisturbed, run, rng = (
        tmp_path / "photos",
        tmp_path / "undisturbed",
        tmp_path / "run",
        random.Random(0),
    )
    shutil.copytree(group_photos, photos)
    for person in sorted(lfw_images.iterdir())[:40]:
        shutil.copy(next(iter(sorted(person.iterdir()))), photos)
    began = time.monotonic()
    job = start(photos, undisturbed, *TWO_PROCESSES)
    assert finish(job) == 0, job.log.read_text()
    duration = time.monotonic() - began

    kills = 0
    while kills < N_KILLS:
        job = start(photos, run, *TWO_PROCESSES)
        try:
            job.process.wait(timeout=rng.uniform(0, duration))
        except subprocess.TimeoutExpired:
            job.kill(("driver", "worker", "group")[kills % 3], rng)
            kills += 1
            finish(job)
        else:  # the run was complete before it was killed: start a new one
            assert job.process.returncode == 0, job.log.read_text()
            assert_equal(run, undisturbed)
            shutil.rmtree(run)
    job = start(photos, run, *TWO_PROCESSES)
    assert finish(job) == 0, job.log.read_text()
    assert_equal(run, undisturbed)
