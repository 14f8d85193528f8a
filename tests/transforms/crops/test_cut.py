"""Crops show the face that the photo's label is about."""

import io
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facecluster.transforms.crops.cut import (
    NO_FACE,
    LabeledPhoto,
    check_unchanged,
    cut_crops,
    keep_central_face,
)
from facecluster.transforms.faces.align import crop_face
from facecluster.transforms.faces.boxes import clip_boxes, prominence
from facecluster.transforms.records import Face, Shard

SHARD = Shard("shard0", 4)


def face(*box) -> Face:
    return Face(np.array(box, np.float32), np.zeros((5, 2), np.float32), 1.0)


def pixels_of(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


COORDINATE = st.integers(-20, 120)
BOX = st.tuples(COORDINATE, COORDINATE, st.integers(1, 60), st.integers(1, 60)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(st.lists(BOX, min_size=1, max_size=5), st.integers(1, 150), st.integers(1, 150))
def test_the_largest_central_face_is_kept(boxes, width, height):
    def score(box):  # of the part inside the photo, as in the tables of a run
        x0, x1 = (min(max(x, 0), width) for x in box[::2])
        y0, y1 = (min(max(y, 0), height) for y in box[1::2])
        off_center = ((x0 + x1) / 2 - width / 2) ** 2 + ((y0 + y1) / 2 - height / 2) ** 2
        return (x1 - x0) * (y1 - y0) - 2 * off_center

    expected = [score(box) for box in boxes]
    inside = clip_boxes(np.array(boxes), (width, height))
    assert prominence(inside, width, height).tolist() == expected
    photo = LabeledPhoto("a.jpg", SHARD, width=width, height=height)
    photo = replace(photo, faces=tuple(face(*box) for box in boxes))
    (kept,) = keep_central_face(photo).faces
    assert kept is photo.faces[expected.index(max(expected))]


def test_a_photo_without_a_face_fails():
    photo = LabeledPhoto("a.jpg", SHARD, image=Image.new("RGB", (9, 9)), width=9, height=9)
    failed = keep_central_face(photo)
    assert failed.failure == NO_FACE
    assert failed.image is None
    assert cut_crops(failed, 16, 4) is failed


def test_crops_are_the_aligned_faces_losslessly():
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    image = Image.fromarray(pixels)
    faces = (face(10, 20, 50, 60), face(40, 0, 99, 70))
    photo = LabeledPhoto("a.jpg", SHARD, image=image, faces=faces, names=("p/a_0", "p/a_1"))
    done = cut_crops(photo, 182, 44)
    assert done.image is None
    assert done.names == photo.names
    for content, found in zip(done.crops, faces, strict=True):
        expected = np.asarray(crop_face(image, found.box, 182, 44))
        assert expected.shape == (182, 182, 3)
        np.testing.assert_array_equal(pixels_of(content), expected)


def test_a_box_outside_the_photo_fails_the_photo():
    photo = LabeledPhoto("a.jpg", SHARD, image=Image.new("RGB", (50, 50)))
    failed = cut_crops(replace(photo, faces=(face(60, 60, 90, 90),)), 182, 44)
    assert failed.failure.step == "align"
    assert "outside the photo" in failed.failure.message


def test_a_changed_photo_fails():
    photo = LabeledPhoto("a.jpg", SHARD, photo_id="new", known_as="old")
    assert check_unchanged(photo).failure.step == "read"
    assert "has changed" in check_unchanged(photo).failure.message
    for same in (replace(photo, known_as=None), replace(photo, known_as="new")):
        assert check_unchanged(same) is same
