"""Grouping on workers gives the tables of grouping in memory, even after being killed."""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from facecluster.errors import JobError, UsageError
from facecluster.pipeline.cli import main as cli
from facecluster.pipeline.distributed import group_on_workers, task_layout, tasks
from facecluster.pipeline.distributed.task_layout import TaskLayout
from facecluster.pipeline.distributed.task_runner import TaskRunner
from facecluster.pipeline.distributed.tasks import SearchBlock
from facecluster.pipeline.distributed.work_folder import WorkFolder
from facecluster.pipeline.jobs import cluster as cluster_job
from facecluster.pipeline.jobs.cluster import cluster_run
from facecluster.pipeline.options import WorkerOptions
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.grouping.neighbors import fit_cells
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.photos.write import ShardWriter
from facecluster.transforms.records import Face, Photo, Quality, Shard
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.codec import Codec, unit_rows
from facecluster.transforms.tables.parquet_files import TableError

GROUP_FACES = "facecluster.transforms.grouping.group_faces"
DIMENSIONS = 64
GOOD = Quality(100.0, 0.2, 0.5, 0.0, 0.0, 0.0)
COMMAND = [sys.executable, "-c", "from facecluster.pipeline.cli.main import script; script()"]


def writer_of(dimensions=DIMENSIONS, codec="float32"):
    if codec != "pca128":
        return ShardWriter("", Codec(codec), dimensions, "model a", "space a")
    axes = np.linalg.qr(np.random.default_rng(5).normal(size=(dimensions, 128)))[0]
    pca128 = Codec(codec, np.zeros(dimensions, np.float32), axes.astype(np.float32))
    return ShardWriter("", pca128, dimensions, "model a", "space a")


def photo_of(uri, vectors, content=None):
    """A photo of faces with these embeddings; photos of equal content are duplicates."""
    faces = tuple(
        Face(
            np.zeros(4),
            np.zeros((5, 2)),
            0.9,
            thumbnail=b"",
            quality=GOOD,
            embedding=vector / length,
        )
        for vector in np.asarray(vectors, np.float32)
        for length in [np.linalg.norm(vector)]
    )
    name = hashlib.sha256((content or uri).encode()).hexdigest()
    return Photo(uri, Shard("", 0), photo_id=name, width=10, height=10, n_frames=1, faces=faces)


def album(n_photos=60, dimensions=DIMENSIONS, seed=0, repeat=True):
    """Photos of up to four people each, with all special cases of a collection.

    Some people have many photos and some one. There are photos without faces, faces that a photo
    repeats, faces that are the same to the bit in different photos, and photos in twice or thrice
    under other names.
    """
    rng = np.random.default_rng(seed)
    n_people = n_photos // 2
    centers = rng.normal(size=(n_people, dimensions))
    often = 1 / (1 + np.arange(n_people))
    photos, before = [], None
    for number in range(n_photos):
        people = rng.choice(n_people, rng.integers(0, 5), replace=False, p=often / often.sum())
        vectors = list(centers[people] + rng.normal(size=(len(people), dimensions)) * 0.6)
        if number % 10 == 3 and vectors:  # a face twice in the photo: a mirror
            vectors.append(vectors[0] + rng.normal(size=dimensions) * 0.02)
        if number % 10 == 5 and before is not None:  # the same vector as in an earlier photo
            vectors.append(before)
        before = vectors[0] if vectors else before
        photos.append(photo_of(f"{seed}/{number}.jpg", vectors))
        for copy in range(number % 7 // 5 * 2 if repeat else 0):
            name = f"{seed}/copy {copy} of {number}.jpg"
            photos.append(photo_of(name, vectors, content=f"{seed}/{number}.jpg"))
    return photos


def unfit(photos, fraction):
    """The photos with this fraction of the faces too poor for grouping; the same in duplicates."""

    def one(photo):
        rng = np.random.default_rng(int(photo.photo_id[:8], 16))
        bad = (("size_px", 5.0), ("sharpness", 0.01), ("yaw", 80.0))
        faces = tuple(
            replace(face, quality=replace(GOOD, **dict([bad[rng.integers(3)]])))
            if rng.uniform() < fraction
            else face
            for face in photo.faces
        )
        return replace(photo, faces=faces)

    return [one(photo) for photo in photos]


def write_run(root, photos, n_shards=3, writer=None) -> RunDirectory:
    for number in range(n_shards):
        here = replace(writer or writer_of(), root=str(root))
        here.write(f"shard{number}", photos[number::n_shards])
    return RunDirectory(str(root))


def cluster(run, options=None, distribute=False, beam=()):
    workers = WorkerOptions(distribute, 64)
    entry = cluster_run(run, options or ClusterOptions(), lambda words: None, workers, beam)
    return asdict(entry)


def tables_of(run):
    people, assignments = (run.read(table) for table in ("people", "assignments"))
    return people.sort_by("person_id"), assignments.sort_by("face_id")


def assert_same(found, expected):
    for mine, other in zip(found, expected, strict=True):
        assert mine.column_names == other.column_names
        for name in mine.column_names:
            assert mine[name].to_pylist() == other[name].to_pylist(), name


def assert_as_in_memory(tmp_path, photos, n_shards=3, writer=None, options=None, cohort=None):
    """Groups the photos in memory and on workers; returns the second run."""
    runs = [write_run(tmp_path / name, photos, n_shards, writer) for name in ("memory", "workers")]
    if cohort:
        for run in runs:
            run.write_cohort(cohort)
    expected, found = (cluster(run, options, run is runs[1]) for run in runs)
    assert_same(tables_of(runs[1]), tables_of(runs[0]))
    assert found["counts"] == expected["counts"]
    for entry in (expected, found):
        entry["diagnostics"].pop("seconds")
    assert found["diagnostics"] == expected["diagnostics"]
    return runs[1]


@pytest.fixture
def small_workers(monkeypatch):
    """Many blocks and parts, as if workers had very little memory."""
    monkeypatch.setattr(task_layout, "MEMORY_FACTOR", 5000)


@pytest.fixture
def many_cells(monkeypatch):
    """Several cells even for the few faces of a test."""
    monkeypatch.setattr(f"{GROUP_FACES}.EXACT_UP_TO", 20)
    monkeypatch.setattr(fit_cells, "__defaults__", (20,))


def parts_of(run, table="people"):
    return sorted(os.listdir(run.path(table)))


# ---- the same tables ----


def test_on_one_worker_with_enough_memory(tmp_path):
    run = assert_as_in_memory(tmp_path, album())
    assert parts_of(run) == parts_of(run, "assignments") == ["part-00000-of-00001.parquet"]
    people, assignments = tables_of(run)
    # The example is diverse: large people, unassigned faces, faces repeated in a photo.
    assert len(people) > 10
    assert pc.max(people["n_photos"]).as_py() > 10
    assert assignments["person_id"].null_count > 2
    assert pc.sum(assignments["repeated_in_photo"]).as_py() > 5


OPTIONS = [
    ClusterOptions(probes=4),
    ClusterOptions(probes=0),
    ClusterOptions(probes=3, min_cluster_size=3, wrong_share=0.3),
    ClusterOptions(probes=2, min_cluster_size=1, n_neighbors=4),
    ClusterOptions(probes=5, ignore_photos=True, wrong_share=0.01),
]


@pytest.mark.usefixtures("small_workers", "many_cells")
@pytest.mark.parametrize("options", OPTIONS)
def test_in_many_cells_blocks_and_parts(tmp_path, options):
    run = assert_as_in_memory(tmp_path, album(), options=options)
    assert len(parts_of(run)) > 1


@pytest.mark.usefixtures("small_workers", "many_cells")
def test_with_a_cohort(tmp_path):
    vectors = np.random.default_rng(1).normal(size=(40, DIMENSIONS)).astype(np.float32)
    cohort = Cohort(unit_rows(vectors), level=0.15, same_person=0.7)
    run = assert_as_in_memory(tmp_path, album(), options=ClusterOptions(probes=4), cohort=cohort)
    assert run.manifest().cluster.diagnostics.cohort
    assert len(run.read("people")) > 10


@pytest.mark.usefixtures("small_workers")
def test_in_more_blocks_than_there_are_cells(tmp_path):
    assert_as_in_memory(tmp_path, album(40))


@pytest.mark.usefixtures("many_cells")
@pytest.mark.parametrize(
    ("dimensions", "codec"), [(512, "float32"), (512, "float16"), (160, "pca128")]
)
def test_with_every_codec(tmp_path, monkeypatch, dimensions, codec):
    monkeypatch.setattr(task_layout, "MEMORY_FACTOR", 1000)
    options = ClusterOptions(probes=3)
    writer = writer_of(dimensions, codec)
    run = assert_as_in_memory(tmp_path, album(50, dimensions), 2, writer, options)
    assert len(run.read("people")) > 3


def bursts(photos, n_frames, rng):
    """Further frames of every fifth photo, and smaller copies, which embed differently."""
    frames, rows = [], []
    for number, photo in enumerate(photos[::5]):
        vectors = np.array([face.embedding for face in photo.faces]).reshape(-1, DIMENSIONS)
        noise = rng.normal(size=(n_frames, *vectors.shape)) / np.sqrt(DIMENSIONS)
        frames += [photo_of(f"{number}/{i}.jpg", vectors + 0.1 * x) for i, x in enumerate(noise)]
        copy = photo_of(f"{number}/copy.jpg", vectors + 0.5 * noise[0])
        frames.append(copy)
        rows.append((copy.photo_id, photo.photo_id, 1))
    names = schema.NEAR_DUPLICATES.names
    rows = [dict(zip(names, row, strict=True)) for row in sorted(rows)]
    return frames, pa.Table.from_pylist(rows, schema.stamped(schema.NEAR_DUPLICATES))


@pytest.mark.parametrize("n_neighbors", [4, 64])
def test_bursts_and_near_duplicates(tmp_path, small_workers, many_cells, n_neighbors):
    photos = album(60, repeat=False)
    frames, near_duplicates = bursts(photos, 9, np.random.default_rng(0))
    options, found = ClusterOptions(n_neighbors=n_neighbors), []
    for distribute in (False, True):
        run = write_run(tmp_path / str(distribute), [*photos, *frames])
        run.write("near_duplicates", near_duplicates)
        entry = cluster(run, options, distribute)
        entry["diagnostics"].pop("seconds")
        found.append((tables_of(run), entry["diagnostics"]))
    assert_same(found[1][0], found[0][0])
    assert found[1][1] == found[0][1]
    people = found[0][0][0]
    assert pc.max(pc.subtract(people["size"], people["n_photos"])).as_py() > 20


def test_recall_is_measured_if_not_all_cells_are_probed(tmp_path, many_cells):
    run = write_run(tmp_path, album(90))
    options = ClusterOptions(probes=1)
    assert 0.1 < cluster(run, options, distribute=True)["diagnostics"]["recall"] < 1
    all_cells = replace(options, probes=0)
    assert cluster(run, all_cells, distribute=True)["diagnostics"]["recall"] == 1


@pytest.mark.usefixtures("small_workers", "many_cells")
def test_the_division_into_shards_does_not_matter(tmp_path):
    photos = album(40)
    found = []
    for n_shards, order in ((1, photos), (2, photos[::-1]), (7, photos)):
        run = write_run(tmp_path / str(n_shards), order, n_shards)
        entry = cluster(run, ClusterOptions(probes=3), distribute=True)
        del entry["diagnostics"]["seconds"]
        found.append((tables_of(run), entry["counts"], entry["diagnostics"]))
    for tables, *message in found[1:]:
        assert_same(tables, found[0][0])
        assert message == [*found[0][1:]]


@pytest.mark.slow  # nine jobs of two processes each
def test_in_several_processes(tmp_path, small_workers, many_cells):
    photos = album(40)
    options = ClusterOptions(probes=3)
    alone, several = (write_run(tmp_path / name, photos) for name in ("alone", "several"))
    beam = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    cluster(alone, options, distribute=True)
    cluster(several, options, distribute=True, beam=beam)
    assert_same(tables_of(several), tables_of(alone))


def test_photos_under_two_names_count_once(tmp_path, small_workers):
    alone = write_run(tmp_path / "alone", album(40, repeat=False))
    repeated = write_run(tmp_path / "repeated", album(40), n_shards=4)
    counts = [cluster(run, distribute=True)["counts"] for run in (alone, repeated)]
    assert counts[0] == counts[1]
    assert_same(tables_of(repeated), tables_of(alone))
    face_ids = repeated.read("assignments")["face_id"].to_pylist()
    assert len(face_ids) == len(set(face_ids))


# ---- faces that are left out ----


@pytest.mark.usefixtures("small_workers", "many_cells")
@pytest.mark.parametrize("fraction", [0.2, 0.7])
def test_faces_left_out_are_in_the_same_tables(tmp_path, fraction):
    run = assert_as_in_memory(tmp_path, unfit(album(), fraction), options=ClusterOptions(probes=4))
    rows = run.read("assignments").to_pylist()
    reasons = [row["left_out"] for row in rows]
    assert fraction - 0.15 < 1 - reasons.count(None) / len(rows) < fraction + 0.15
    assert set(reasons) == {None, "size", "sharpness", "pose"}
    assert all(row["person_id"] is None for row in rows if row["left_out"])
    assert len(run.read("people")) > 3
    for part in parts_of(run, "assignments"):
        ids = pq.read_table(run.path("assignments", part))["face_id"].to_pylist()
        assert ids == sorted(ids)


@pytest.mark.usefixtures("many_cells")
def test_a_sample_that_is_too_small_after_filtering_is_taken_again(tmp_path, monkeypatch):
    monkeypatch.setattr(group_on_workers, "_sample_fraction", lambda n: 0.05)
    assert_as_in_memory(tmp_path, unfit(album(), 0.5), options=ClusterOptions(probes=4))


@pytest.mark.parametrize("fraction", [0.5, 1])
def test_limits_may_be_removed_and_set_again(tmp_path, fraction):
    run = write_run(tmp_path, unfit(album(30), fraction))
    every_face = ClusterOptions(min_face_px=0, min_sharpness=0, min_detection_score=0, max_yaw=90)
    found = []
    for options in (every_face, ClusterOptions(), every_face):
        assert cluster(run, options, distribute=True)["counts"]["faces"] > 50
        found.append(tables_of(run))
    assert_same(found[2], found[0])
    assert found[0][1]["left_out"].null_count == len(found[0][1])
    assert found[1][1]["left_out"].null_count < len(found[1][1])
    assert len(found[1][0]) < len(found[0][0])


# ---- no or few faces ----


def test_shards_without_faces(tmp_path, small_workers):
    """Also the first and the last shard, one without photos, and one of duplicates only."""
    photos = album(30)
    bare = [photo_of("bare.jpg", [])]
    shards = {"a": bare, "b": photos[:20], "c": [], "d": photos[15:], "e": photos[:4], "f": bare}
    for way in ("memory", "workers"):
        for name, content in shards.items():
            replace(writer_of(), root=str(tmp_path / way)).write(name, content)
    runs = [RunDirectory(str(tmp_path / way)) for way in ("memory", "workers")]
    for run in runs:
        cluster(run, distribute=run is runs[1])
    assert_same(tables_of(runs[1]), tables_of(runs[0]))


@pytest.mark.parametrize("n_faces", [0, 1, 2])
def test_no_faces_or_very_few(tmp_path, n_faces):
    """The faces are equal, and copies of a photo count as one: they make no person."""
    photos = [photo_of(f"{i}.jpg", [np.eye(DIMENSIONS)[0]]) for i in range(n_faces)]
    run = assert_as_in_memory(tmp_path, [photo_of("bare.jpg", []), *photos], n_shards=2)
    assert len(run.read("assignments")) == n_faces
    assert len(run.read("people")) == 0


def test_more_parts_than_people(tmp_path, monkeypatch):
    monkeypatch.setattr(task_layout, "MEMORY_FACTOR", 1_000_000)
    photos = [photo_of(f"{i}.jpg", [np.eye(DIMENSIONS)[0] + i / 1000]) for i in range(4)]
    run = assert_as_in_memory(tmp_path, photos, options=ClusterOptions(min_cluster_size=1))
    assert len(parts_of(run)) > 8
    assert 0 < len(run.read("people")) <= 4


def test_a_run_that_holds_nothing_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="facecluster embed"):
        cluster(RunDirectory(str(tmp_path / "nothing here")), distribute=True)
    assert not (tmp_path / "nothing here").exists()


# ---- person ids of an earlier grouping ----


def with_earlier_people(root, photos, earlier=40):
    """A run whose first photos have been grouped, into people with names of their own."""
    run = write_run(root, photos[:earlier], 1)
    cluster(run)
    named = run.read("assignments")
    names = {old: f"someone {number}" for number, old in enumerate(
        sorted(filter(None, set(named["person_id"].to_pylist()))))}  # fmt: skip
    column = pa.array([names.get(old) for old in named["person_id"].to_pylist()], pa.string())
    run.write("assignments", named.set_column(2, named.schema.field("person_id"), column))
    return write_run(root, photos, 3)  # shard0 is written anew


@pytest.mark.usefixtures("small_workers", "many_cells")
def test_person_ids_are_kept_as_in_memory(tmp_path):
    options = ClusterOptions(probes=4)
    runs = [with_earlier_people(tmp_path / way, album()) for way in ("memory", "workers")]
    for run in runs:
        cluster(run, options, distribute=run is runs[1])
    people, _ = tables_of(runs[1])
    kept = [name for name in people["person_id"].to_pylist() if name.startswith("someone")]
    assert 5 < len(kept) < len(people)
    assert_same(tables_of(runs[1]), tables_of(runs[0]))
    # Also the ids of a grouping on workers, with options that give other people.
    for run in runs:
        cluster(run, replace(options, wrong_share=0.001), distribute=run is runs[0])
    assert_same(tables_of(runs[1]), tables_of(runs[0]))


@pytest.mark.parametrize("distribute", [False, True])
def test_faces_of_an_earlier_grouping_are_no_python_objects(tmp_path, monkeypatch, distribute):
    """The launching process holds their ids in Arrow or as keys of a few bytes."""
    n = 4000
    directions = np.eye(DIMENSIONS)[np.arange(n) % DIMENSIONS]
    noise = np.random.default_rng(0).normal(size=(n, DIMENSIONS)) * 0.05
    vectors = directions + noise
    photos = [photo_of(f"{i}.jpg", vectors[i : i + 1]) for i in range(n)]
    run = write_run(tmp_path, photos)
    cluster(run)
    kept = set(run.read("people")["person_id"].to_pylist())
    assert len(kept) > DIMENSIONS / 2

    module = group_on_workers if distribute else cluster_job
    choose_names, held = module.name_people, []

    def count_objects(labels, face_ids, previous):
        held.append(tracemalloc.take_snapshot())
        return choose_names(labels, face_ids, previous)

    monkeypatch.setattr(module, "name_people", count_objects)
    monkeypatch.setattr(TaskRunner, "run_tasks", in_one_process)
    tracemalloc.start()
    try:
        cluster(run, distribute=distribute)
    finally:
        tracemalloc.stop()
    ours = held[0].filter_traces([tracemalloc.Filter(True, module.__file__)])
    n_objects = sum(line.count for line in ours.statistics("filename"))
    assert n_objects < n / 10
    assert set(run.read("people")["person_id"].to_pylist()) == kept


# ---- killed ----


class Disk:
    """Calls `before_change` before anything in the process renames or removes a file or folder."""

    before_change = None
    opened: list | None = None

    @classmethod
    def audit(cls, event, arguments):
        if cls.opened is not None and event == "open":
            cls.opened.append(arguments[0])
        if cls.before_change and event in ("os.rename", "os.remove", "os.rmdir"):
            call, cls.before_change = cls.before_change, None
            call()
            cls.before_change = call


sys.addaudithook(Disk.audit)


def in_one_process(runner, kind, task, names):
    """run_tasks without Beam, for a test that runs a job a hundred times."""
    for name in sorted(set(names) - set(runner.work.names(kind))):
        task(name)


@pytest.mark.usefixtures("small_workers", "many_cells")
@pytest.mark.parametrize("every", [15, pytest.param(1, marks=pytest.mark.slow)])
def test_a_job_killed_at_any_moment_can_be_continued(tmp_path, monkeypatch, every):
    """Copies the run before each change that the job makes to the disk, as a job that is killed at
    that moment would leave it. Continued from each copy, the job ends with the same tables."""
    monkeypatch.setattr(TaskRunner, "run_tasks", in_one_process)
    options = ClusterOptions(probes=4)
    run = with_earlier_people(tmp_path / "run", unfit(album(30), 0.1), earlier=20)
    aside, tables_aside = [], set()

    def put_aside():
        tables = (*parts_of(run, "assignments"), "and", *parts_of(run))
        put_aside.calls += 1
        if tables not in tables_aside or put_aside.calls % every == 0:
            tables_aside.add(tables)
            aside.append(tmp_path / f"{len(aside)}")
            shutil.copytree(run.root, aside[-1])

    put_aside.calls = 0
    Disk.before_change = put_aside
    try:
        cluster(run, options, distribute=True)
    finally:
        Disk.before_change = None
    expected = tables_of(run)
    assert len(parts_of(run)) > 1
    assert any(name.startswith("someone") for name in expected[0]["person_id"].to_pylist())
    assert len(tables_aside) == 2 * len(parts_of(run)) + 3  # each part that is added or removed
    for folder in aside:
        left = RunDirectory(str(folder))
        cluster(left, options, distribute=True)
        assert_same(tables_of(left), expected)
        assert not (folder / "grouping").exists()
        assert parts_of(left) == parts_of(run)
        assert parts_of(left, "assignments") == parts_of(run, "assignments")
        shutil.rmtree(folder)


def test_a_job_killed_by_a_signal_can_be_continued(tmp_path):
    photos = album(40)
    run = write_run(tmp_path / "killed", photos)
    undisturbed = write_run(tmp_path / "undisturbed", photos)
    cluster(undisturbed, distribute=True)
    command = [*COMMAND, "cluster", "--output", run.root, "--distribute"]
    for n_files in sorted(np.random.default_rng().choice(np.arange(2, 13), 2, replace=False)):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as job:
            while job.poll() is None and _count_files(run.path("grouping")) < n_files:
                time.sleep(0.001)
            job.send_signal(signal.SIGKILL)
        assert job.returncode == -signal.SIGKILL, f"over before it wrote {n_files} files"
        assert run.manifest().steps == {}
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(tables_of(run), tables_of(undisturbed))
    assert not os.path.exists(run.path("grouping"))
    assert run.manifest().cluster.state == "done"


def _count_files(folder):
    return sum(len(files) for _, _, files in os.walk(folder))


# ---- the work folder of a job that failed ----


@contextlib.contextmanager
def failing(monkeypatch, module, function):
    def fail(*_):
        raise ValueError(f"no {function} today")

    with monkeypatch.context() as patch:
        patch.setattr(module, function, fail)
        yield


def files_of(run):
    """{path: (inode, time)} of the files in the work folder, which change when one is rewritten."""
    return {
        os.path.join(parent, name): (status.st_ino, status.st_mtime_ns)
        for parent, _, names in os.walk(run.path("grouping"))
        for name in names
        for status in [os.stat(os.path.join(parent, name))]
    }


@pytest.fixture
def left_behind(tmp_path, monkeypatch):
    """A run whose grouping failed in its last step, writing the tables."""
    run = write_run(tmp_path, album(30))
    with failing(monkeypatch, tasks, "make_people_tables"), pytest.raises(JobError):
        cluster(run, distribute=True)
    kinds = {path.split(os.sep)[-2] for path in files_of(run)}
    assert {"sample", "partition", "neighbors", "lists", "forests", "flows", "by_person"} <= kinds
    return run


def test_finished_tasks_are_not_run_again(left_behind, monkeypatch):
    before = files_of(left_behind)
    with failing(monkeypatch, tasks, "make_people_tables"), pytest.raises(JobError):
        cluster(left_behind, distribute=True)
    assert files_of(left_behind) == before


def test_other_options_start_anew(left_behind, monkeypatch):
    before = files_of(left_behind)
    other = ClusterOptions(wrong_share=0.01)
    with (
        failing(monkeypatch, group_on_workers, "fit_cells"),
        pytest.raises(ValueError, match="fit_cells"),
    ):
        cluster(left_behind, other, distribute=True)
    after = files_of(left_behind)
    assert after.keys() < before.keys() | after.keys()
    assert not set(after.values()) & set(before.values())
    cluster(left_behind, other, distribute=True)
    found = tables_of(left_behind)
    cluster(left_behind, other)
    assert_same(found, tables_of(left_behind))


def test_more_shards_start_anew(left_behind, tmp_path_factory):
    replace(writer_of(), root=left_behind.root).write("one more", album(20, seed=1))
    cluster(left_behind, distribute=True)
    found = tables_of(left_behind)
    assert len(found[1]) > len(album(30))
    cluster(left_behind)
    assert_same(found, tables_of(left_behind))


def test_a_folder_whose_name_is_a_pattern(tmp_path):
    """Also with an earlier grouping and another work folder, whose files must all be removed."""
    run = write_run(tmp_path / "run[1]", album(20))
    cluster(run)
    expected = tables_of(run)
    WorkFolder(run.path("grouping")).begin("another")
    cluster(run, distribute=True)
    assert_same(tables_of(run), expected)
    assert parts_of(run) == parts_of(run, "assignments") == ["part-00000-of-00001.parquet"]
    assert not os.path.exists(run.path("grouping"))
    cluster(run)
    assert parts_of(run) == ["people.parquet"]
    assert_same(tables_of(run), expected)


# ---- what a task reads ----


@pytest.fixture
def partitioned(tmp_path, monkeypatch, many_cells):
    """The task layout of a job that failed in its search step."""
    monkeypatch.setattr(task_layout, "MEMORY_FACTOR", 20_000)
    run = write_run(tmp_path, album())
    options = ClusterOptions(probes=3)
    with failing(monkeypatch, tasks, "search_cell"), pytest.raises(JobError):
        cluster(run, options, distribute=True)
    work = WorkFolder(run.path("grouping"))
    n_blocks = int(os.listdir(work.path("probing"))[0].split("-of-")[1])
    return TaskLayout(run, work, options, {}, {}, n_blocks, 1, 1)


def test_each_probe_of_each_face_is_in_one_block(partitioned):
    work, setup = partitioned.work, partitioned.read_setup()
    n, cells = setup.n, setup.cells
    assert len(cells.centroids) > 40
    assert partitioned.n_blocks > 4
    n_probes = np.zeros((n, len(cells.centroids)), int)
    n_assigned = np.zeros(n, int)
    for block in partitioned.blocks:
        probing = work.read_concatenated(f"probing/{block}", work.names(f"probing/{block}"))
        n_assigned[probing["numbers"][probing["probed"][:, 0] >= 0]] += 1
        row, column = np.nonzero(probing["probed"] >= 0)
        n_probes[probing["numbers"][row], probing["probed"][row, column]] += 1
        held = np.unique(probing["probed"][row, column])
        assert held[-1] - held[0] < len(cells.centroids) / partitioned.n_blocks + 1
    assert (n_assigned == 1).all()
    assert (n_probes.sum(axis=1) == cells.probes).all()
    assert n_probes.max() == 1


def test_searching_a_block_reads_only_its_own_files(partitioned):
    work = partitioned.work
    for block in partitioned.blocks[:3]:
        Disk.opened = []
        SearchBlock(partitioned)(block)
        opened, Disk.opened = [str(path) for path in Disk.opened], None
        read = {path for path in opened if path.startswith(work.root) and path.endswith(".npz")}
        own = {work.path(f"probing/{block}", f"{s}.npz") for s in work.names(f"probing/{block}")}
        assert own
        assert read == own | {work.path("setup", "setup.npz")}
        assert not any(path.endswith(".parquet") for path in opened)
        assert len(work.read("found", block)["faces"])


# ---- messages ----


def command(run, *arguments):
    return cli.main(["cluster", "--output", run.root, "--distribute", *arguments])


@pytest.fixture
def some_run(tmp_path):
    return write_run(tmp_path / "run", album(20))


def test_the_command_groups_on_workers(some_run, tmp_path, capfd):
    assert command(some_run) == 0
    assert "people" in capfd.readouterr().out
    in_memory = write_run(tmp_path / "memory", album(20))
    cluster(in_memory)
    assert_same(tables_of(some_run), tables_of(in_memory))


def test_the_error_of_a_task_is_one_line(some_run, monkeypatch, capfd):
    with failing(monkeypatch, tasks, "search_cell"):
        assert command(some_run) != 0
    message = capfd.readouterr().err.splitlines()[-1]
    assert message.startswith("facecluster: neighbors: ")
    assert "no search_cell today" in message
    assert not some_run.exists("people")
    with failing(monkeypatch, group_on_workers, "CombineForests"):
        assert command(some_run) != 0
    assert capfd.readouterr().err.splitlines()[-1] == (
        "facecluster: forest: no CombineForests today"
    )


def test_a_runner_that_does_not_exist_is_refused(some_run, capfd):
    assert command(some_run, "--runner=NoSuchRunner") == 2
    message = capfd.readouterr().err.splitlines()[-1]
    assert message.startswith("facecluster: --runner=NoSuchRunner: ")


def test_an_unknown_option_is_refused(some_run, capfd):
    with pytest.raises(SystemExit) as stopped:
        command(some_run, "--no-such-option=1")
    assert stopped.value.code == 2
    assert "--no-such-option" in capfd.readouterr().err


def test_too_little_memory_is_refused(some_run, capfd):
    with pytest.raises(SystemExit) as stopped:
        command(some_run, "--worker-memory", "1")
    assert stopped.value.code == 2
    assert "--worker-memory: 1 is less than 64" in capfd.readouterr().err


def test_help_describes_distribute(capsys):
    with pytest.raises(SystemExit):
        cli.main(["cluster", "--help"])
    message = " ".join(capsys.readouterr().out.split())
    assert "--distribute group on Beam's workers" in message
    assert "the memory of a worker, MiB (default: 2048)" in message


def test_a_damaged_shard_is_named(some_run, capfd):
    path = some_run.shard_path("faces", "shard1")
    with open(path, "r+b") as file:  # its footer is intact, its columns are not
        size = file.seek(0, os.SEEK_END)
        file.seek(4)
        file.write(b"\xff" * (size // 3))
    assert command(some_run) != 0
    message = capfd.readouterr().err.splitlines()[-1]
    assert message.startswith("facecluster: ")
    assert f"{path} cannot be read" in message
    with open(path, "wb") as file:
        file.write(b"PAR1 but no more")
    with pytest.raises(TableError, match=r"shard1\.parquet cannot be read"):
        cluster(some_run, distribute=True)


@pytest.mark.parametrize(
    "other",
    [
        replace(writer_of(), model_sha256="model b", embedding_space="space b"),
        writer_of(codec="float16"),
    ],
)
def test_two_models_or_codecs_are_refused(some_run, other):
    replace(other, root=some_run.root).write("shard9", album(20, seed=3))
    with pytest.raises(TableError, match="cannot be compared"):
        cluster(some_run, distribute=True)
    assert not some_run.exists("people")


def test_progress_and_the_manifest(some_run):
    message = []
    workers = WorkerOptions(True, 64)
    entry = cluster_run(some_run, ClusterOptions(), message.append, workers)
    n = entry.counts.faces
    assert [words.split()[0] for words in message] == [
        "reading", "sorting", "finding", "joining", "grouping", "writing",
    ]  # fmt: skip
    assert all(f"{n:,} faces" in words for words in message[1:])
    recorded = some_run.manifest().cluster
    assert recorded.counts == entry.counts
    assert recorded.options["wrong_share"] == ClusterOptions.wrong_share
    assert schema.ASSIGNMENTS.names == some_run.read("assignments").column_names
