"""A step on a photo never raises, and leaves failed photos alone."""

from dataclasses import replace

import pytest
from PIL import Image

from facecluster.transforms.records import Face, Failure, Photo, Shard, failing, step

PHOTO = Photo("a.jpg", Shard("s", 1), content=b"bytes", image=Image.new("RGB", (1, 1)))


@step("rename")
def renamed(photo: Photo, uri: str) -> Photo:
    """Gives it another name."""
    if not uri:
        raise ValueError("no\n  name")
    return replace(photo, uri=uri)


def test_a_step_does_its_work():
    assert renamed(PHOTO, "b.jpg").uri == "b.jpg"
    assert renamed.__doc__ == "Gives it another name."


def test_what_a_step_raises_becomes_the_photos_failure():
    failed = renamed(replace(PHOTO, faces=(Face(None, None, 1.0),)), "")
    assert failed.failure == Failure("rename", "ValueError", "no name")
    assert (failed.uri, failed.shard) == ("a.jpg", PHOTO.shard)
    assert failed.content is None
    assert failed.image is None
    assert failed.faces == ()


def test_a_failed_photo_passes_by():
    failed = renamed(PHOTO, "")
    assert renamed(failed, "b.jpg") is failed


def test_an_error_without_words_is_named():
    assert failing(PHOTO, "read", MemoryError()).failure == Failure(
        "read", "MemoryError", "MemoryError"
    )


def test_stopping_the_program_is_no_failure():
    @step("wait")
    def wait(photo):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait(PHOTO)
