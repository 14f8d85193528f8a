"""A step never raises for a photo and passes failed photos on; faces that hold arrays compare."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from facecluster.errors import JobError
from facecluster.transforms.records import (
    Face,
    Failure,
    Photo,
    Quality,
    Shard,
    failure_of,
    mark_failed,
    step,
)

PHOTO = Photo("a.jpg", Shard("s", 1), content=b"bytes", image=Image.new("RGB", (1, 1)))


@step("rename")
def rename_photo(photo: Photo, uri: str) -> Photo:
    """Gives it another name."""
    if not uri:
        raise ValueError("no\n  name")
    return replace(photo, uri=uri)


def make_face(**changes) -> Face:
    fields = {
        "box": np.arange(4, dtype=np.float32),
        "landmarks": np.arange(10, dtype=np.float32).reshape(5, 2),
        "score": 0.5,
        "crop": np.zeros((3, 3, 3), np.uint8),
        "thumbnail": b"jpeg",
        "embedding": np.ones(8, np.float32),
        "quality": Quality(1, 2, 3, 4, 5, 6),
    }
    return Face(**fields | changes)


# --- steps


def test_a_step_does_its_work():
    assert rename_photo(PHOTO, "b.jpg").uri == "b.jpg"
    assert rename_photo.__doc__ == "Gives it another name."


def test_an_error_in_a_step_becomes_the_photos_failure():
    failed = rename_photo(replace(PHOTO, faces=(Face(None, None, 1.0),)), "")
    assert failed.failure == Failure("rename", "ValueError", "no name")
    assert (failed.uri, failed.shard) == ("a.jpg", PHOTO.shard)
    assert failed.content is None
    assert failed.image is None
    assert failed.faces == ()


def test_a_step_passes_a_failed_photo_on():
    failed = rename_photo(PHOTO, "")
    assert rename_photo(failed, "b.jpg") is failed


def test_a_failure_without_a_message_has_the_errors_name():
    assert failure_of("read", MemoryError()) == Failure("read", "MemoryError", "MemoryError")


def test_a_photo_is_marked_as_failed():
    failure = Failure("read", "OSError", "gone")
    assert mark_failed(PHOTO, failure) == Photo("a.jpg", Shard("s", 1), failure=failure)


@pytest.mark.parametrize("error", [KeyboardInterrupt, JobError])
def test_an_interrupt_and_an_error_of_the_job_are_no_failure_of_a_photo(error):
    @step("wait")
    def wait(photo):
        raise error

    with pytest.raises(error):
        wait(PHOTO)


def test_importing_records_does_not_import_beam():
    program = (
        "import sys; import facecluster.transforms.records; assert 'apache_beam' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --- equality


def test_faces_of_equal_arrays_are_equal():
    assert make_face() == make_face()
    assert make_face(crop=None, embedding=None) == make_face(crop=None, embedding=None)
    assert Face(None, None, 1.0) == Face(None, None, 1.0)
    assert make_face() != "a face"


@pytest.mark.parametrize(
    "changes",
    [
        {"box": np.zeros(4, np.float32)},
        {"landmarks": np.zeros((5, 2), np.float32)},
        {"score": 0.25},
        {"crop": None},
        {"crop": np.zeros((2, 2, 3), np.uint8)},
        {"thumbnail": b"other"},
        {"embedding": np.zeros(8, np.float32)},
        {"embedding": None},
        {"quality": Quality(1, 2, 3, 4, 5, 7)},
        {"quality": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_faces_that_differ_in_any_field_are_not_equal(changes):
    assert make_face() != make_face(**changes)


def test_photos_with_faces_are_compared():
    one, other = (replace(PHOTO, faces=(make_face(), make_face(score=0.7))) for _ in range(2))
    assert one == other
    assert one != replace(other, faces=(make_face(), make_face(score=0.8)))
