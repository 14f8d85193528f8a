"""The embed job over real photos: its manifest entry, its counters and its failure limit."""

import contextlib
import hashlib
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from facecluster.errors import InputError, JobError
from facecluster.pipeline.beam.run import run_pipeline
from facecluster.pipeline.failure_limit import FailureLimit
from facecluster.pipeline.jobs import embed
from facecluster.pipeline.jobs.embed import EmbedJob, TooManyFailures
from facecluster.pipeline.options import EmbedOptions
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.pipeline.run.manifest import EmbedCounts
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.inputs.folders import Rules
from facecluster.transforms.inputs.listing import list_photos

N_PHOTOS = 6


@pytest.fixture(scope="module")
def photos(lfw_images, tmp_path_factory):
    """Six photos of one face or more, one of them a second time, and two files that are none."""
    folder = tmp_path_factory.mktemp("photos")
    for photo in sorted(lfw_images.glob("*/*.jpg"))[:N_PHOTOS]:
        shutil.copy(photo, folder)
    shutil.copy(photo, folder / "duplicate.jpg")
    (folder / "broken.jpg").write_text("not a photo")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("text")
    return folder


@pytest.fixture(scope="module")
def make_job(mtcnn_folder, facenet_folder):
    def make(root, **values) -> EmbedJob:
        embedder, detector = SavedModel(facenet_folder), SavedModel(mtcnn_folder)
        return EmbedJob(RunDirectory(str(root)), embedder, detector, EmbedOptions(), **values)

    return make


@contextlib.contextmanager
def no_progress(count_done, total):
    yield


@pytest.fixture(scope="module")
def finished(photos, make_job, tmp_path_factory):
    """A job on two worker processes, its entry, and the manifest while it ran."""
    job = make_job(tmp_path_factory.mktemp("run"), beam_arguments=["--direct_num_workers=2"])
    job = replace(job, options=EmbedOptions(photos_per_shard=4))
    during = []

    @contextlib.contextmanager
    def look_at_the_manifest(count_done, total):
        assert (count_done(), total) == (0, N_PHOTOS + 3)
        during.append(job.run.manifest())
        assert Rules().find_own_output([job.run.path("manifest.json")]) == {job.run.root}
        yield
        assert count_done() == total

    entry = job(list_photos([str(photos)]), look_at_the_manifest)
    return job, entry, during[0]


def test_a_running_job_has_an_entry_without_an_end(finished):
    _, entry, during = finished
    assert during.embed.state == "running"
    assert during.embed.finished_at is None
    assert during.embed.counts is None
    assert during.embed.started_at == entry.started_at


def test_the_entry_of_a_finished_job_agrees_with_the_tables(finished):
    job, entry, _ = finished
    assert entry.state == "done"
    assert entry.finished_at > entry.started_at
    faces = job.run.read_shards("faces", ["face_id"])[0]["face_id"].to_pylist()
    assert entry.counts == EmbedCounts(
        photos=N_PHOTOS + 1,
        new_photos=N_PHOTOS + 1,
        duplicates=1,
        near_duplicates=entry.counts.near_duplicates,
        faces=len(set(faces)),
        failures=2,
        new_failures=2,
        failure_reasons={"empty": 1, "not an image": 1},
        inputs_done_before=0,
        inputs_missing=0,
        n_other_files=1,
        other_files={"not named like photos": 1},
    )
    assert job.run.manifest().embed == entry
    card = job.embedder.card()
    assert entry.models == {card.name: card.sha256}
    assert entry.options["embedding_space"] == card.embedding_space


def test_the_run_has_the_cohort_of_its_model_and_codec(finished):
    job, *_ = finished
    found, expected = job.run.read_cohort(), job.embedder.cohort("pca128")
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    assert (found.level, found.same_person) == (expected.level, expected.same_person)


def test_the_counters_of_all_worker_processes_are_recorded(finished):
    job, entry, _ = finished
    n_faces = len(job.run.read_shards("faces", ["face_id"])[0])
    assert entry.counters == {
        "photos_read": N_PHOTOS + 2,  # of broken.jpg the bytes
        "photos_decoded": N_PHOTOS + 1,
        "photos_failed_read": 1,
        "photos_failed_decode": 1,
        "faces_found": n_faces,
        "faces_embedded": n_faces,
    }
    stages = {"read", "decode", "detect", "align", "embed", "write"}
    assert entry.stage_milliseconds.keys() == stages
    assert entry.stage_milliseconds["embed"] > 0


def test_with_nothing_to_do_there_are_no_counters(finished, photos):
    job, before, _ = finished
    shown = []

    @contextlib.contextmanager
    def show(count_done, total):
        shown.append(total)
        yield

    (photos / "empty.jpg").rename(photos / "moved.txt")  # or it would be read again
    try:
        entry = job(list_photos([str(photos)]), show)
    finally:
        (photos / "moved.txt").rename(photos / "empty.jpg")
    assert shown == []
    assert (entry.counters, entry.stage_milliseconds) == ({}, {})
    assert entry.counts == replace(
        before.counts,
        new_photos=0,
        new_failures=0,
        inputs_done_before=N_PHOTOS + 2,
        n_other_files=2,
        other_files={"not named like photos": 2},
        no_longer_there=1,
    )


def photo_ids(run: RunDirectory) -> dict[str, str]:
    rows = run.read_shards("photos", ["uri", "photo_id"])[0].to_pylist()
    return {row["uri"]: row["photo_id"] for row in rows}


def test_photos_that_change_between_jobs(make_job, lfw_images, tmp_path):
    photos, other = sorted(lfw_images.glob("*/*.jpg"))[:5], tmp_path / "photos"
    (other / "b").mkdir(parents=True)
    first, second, third = (shutil.copy(photo, other) for photo in photos[:3])
    shown = []

    @contextlib.contextmanager
    def show(count_done, total, doing="embedding photos"):
        yield
        shown.append((doing, count_done(), total))

    job = make_job(tmp_path / "run", beam_arguments=["--direct_num_workers=2"])
    job(list_photos([str(other)]), show)
    before = photo_ids(job.run)
    shutil.copy(photos[3], first)
    os.utime(second)
    os.rename(third, other / "b" / "third.jpg")
    shown.clear()
    entry = job(list_photos([str(other)]), show)
    assert shown == [("checking photos", 3, 3), ("embedding photos", 1, 1)]
    assert (entry.counts.changed, entry.counts.moved, entry.counts.new_photos) == (1, 1, 1)
    after = photo_ids(job.run)
    assert after == {
        first: hashlib.sha256(photos[3].read_bytes()).hexdigest(),
        second: before[second],
        str(other / "b" / "third.jpg"): before[third],
    }
    faces = job.run.read_shards("faces", ["photo_id"])[0]["photo_id"].to_pylist()
    assert set(faces) == set(after.values())
    assert not (tmp_path / "run" / "photo_ids").exists()

    os.remove(first)
    entry = job(list_photos([str(other)]), show)
    assert (entry.counts.no_longer_there, entry.counts.photos) == (1, 3)
    entry = replace(job, forget_removed=True)(list_photos([str(other)]), show)
    assert (entry.counts.forgotten, entry.counts.no_longer_there, entry.counts.photos) == (1, 0, 2)
    for photo in (second, other / "b" / "third.jpg"):
        os.remove(photo)
    shutil.copy(photos[4], other)
    with pytest.raises(InputError, match="does not list any of its 2 photos in the run"):
        replace(job, forget_removed=True)(list_photos([str(other)]), show)
    assert job.run.manifest().embed == entry


def test_a_job_has_no_more_processes_than_shards(photos, make_job, tmp_path, monkeypatch):
    chosen = []

    def run(execution, *arguments):
        chosen.append(execution.n_workers)
        return run_pipeline(execution, *arguments)

    monkeypatch.setattr(embed, "run_pipeline", run)
    job = make_job(tmp_path, beam_arguments=["--direct_num_workers=999"])
    job(list_photos([str(photos)]), no_progress)
    assert chosen == [1]  # all photos are in one shard
    assert len(job.run.complete_shards()) == 1


def test_too_many_failures_end_the_job_with_a_failed_entry(photos, make_job, tmp_path):
    job = make_job(tmp_path, max_failures=FailureLimit(1, is_percentage=False))
    with pytest.raises(TooManyFailures, match=r"2 of 9 inputs .* more than --max-failures 1"):
        job(list_photos([str(photos)]), no_progress)
    entry = job.run.manifest().embed
    assert entry.state == "failed"
    assert entry.finished_at is not None


def test_other_settings_are_refused_before_anything_is_written(finished, photos):
    job, _, _ = finished
    before = job.run.manifest()
    other = replace(job, options=EmbedOptions(codec="float32"))
    with pytest.raises(JobError, match=r"made with codec pca128-\w+, now it is float32: faces"):
        other(list_photos([str(photos)]), no_progress)
    assert job.run.manifest() == before


def test_a_retry_of_failures_is_refused_while_other_inputs_are_unfinished(
    photos, make_job, tmp_path
):
    class Stopped(Exception):
        pass

    @contextlib.contextmanager
    def stop(count_done, total):
        raise Stopped
        yield

    with pytest.raises(Stopped):
        make_job(tmp_path)(list_photos([str(photos)]), stop)
    retry = make_job(tmp_path, retry_all=True)
    assert retry.run.manifest().embed.state == "running"  # as of a job that was killed
    with pytest.raises(JobError, match=r"8 inputs of .* are unfinished: first continue"):
        retry(list_photos([str(photos / "broken.jpg")]), no_progress)
