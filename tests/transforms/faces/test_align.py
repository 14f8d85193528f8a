"""Crops show the box and its margin at the positions that the geometry gives."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facecluster.transforms.faces.align import (
    THUMBNAIL_SIZE,
    align_faces,
    crop_face,
    encode_thumbnail,
)
from facecluster.transforms.faces.quality import LUMA_SIZE, MEAN_FACE, measure_quality
from facecluster.transforms.records import Face, Photo, Shard

SIDE = 256


def ramp(side: int = SIDE) -> Image.Image:
    """An image whose red is the pixel's column and whose green is its row, from 0 to 255."""
    values = (np.arange(side) * 256 // side).astype(np.uint8)
    columns, rows = np.meshgrid(values, values)
    return Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], axis=2))


def part_centers(low: float, high: float, size: int) -> np.ndarray:
    """The centers of `size` equal parts of [low, high] on a ramp of 256 px."""
    return low + (np.arange(size) + 0.5) * (high - low) / size - 0.5


RAMP = ramp()
corners = st.floats(0, SIDE)
lengths = st.floats(8, 200)


@given(
    corners, corners, lengths, lengths, st.sampled_from([(160, 32), (160, 0), (112, 20), (64, 8)])
)
@settings(max_examples=100, deadline=None)
def test_a_crop_shows_box_and_margin_clipped_to_the_photo(x, y, width, height, sizes):
    input_size, margin = sizes
    box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    crop = crop_face(RAMP, box, input_size, margin)
    assert crop.size == (input_size, input_size)
    assert crop.mode == "RGB"
    # The box fills input_size - margin of the crop, except at the photo's border.
    scale = input_size / (input_size - margin)
    pixels = np.asarray(crop).astype(float)
    for channel, (center, length) in enumerate([(x, width), (y, height)]):
        low = max(center - length * scale / 2, 0)
        high = min(center + length * scale / 2, SIDE)
        expected = part_centers(low, high, input_size)
        seen = pixels[..., channel].mean(axis=channel)
        # At the photo's border, a pixel averages over one side only.
        blur = max((high - low) / input_size, 1) / 2
        np.testing.assert_allclose(seen, np.clip(expected, 0, SIDE - 1), atol=0.6 + blur / 2)
        inner = (expected > 2 * blur) & (expected < SIDE - 1 - 2 * blur)
        np.testing.assert_allclose(seen[inner], expected[inner], atol=0.6)
        # Columns are constant along y and rows along x: the crop is not rotated.
        np.testing.assert_array_equal(np.ptp(pixels[..., channel], axis=channel), 0)


def test_a_crop_of_the_published_size():
    # A face of 128 px in a crop of 160 with a margin of 32: 16 px on each side, not resized.
    crop = np.asarray(crop_face(RAMP, np.array([50, 60, 178, 188]), 160, 32))
    np.testing.assert_array_equal(crop, np.asarray(RAMP)[44:204, 34:194])


def test_a_crop_without_margin_or_resizing_is_the_box():
    crop = np.asarray(crop_face(RAMP, np.array([10.0, 20, 74, 84]), 64, 0))
    np.testing.assert_array_equal(crop, np.asarray(RAMP)[20:84, 10:74])


def test_the_crop_of_a_box_larger_than_the_photo_is_the_photo():
    crop = crop_face(RAMP, np.array([-500, -500, 900, 900]), SIDE, 32)
    np.testing.assert_array_equal(np.asarray(crop), np.asarray(RAMP))


@pytest.mark.parametrize(
    "box",
    [(-50, 10, -30, 30), (10, -50, 30, -30), (300, 10, 320, 30), (10, 300, 30, 320),
     (50, 50, 50, 90), (50, 50, 90, 50), (90, 90, 50, 50)],
)  # fmt: skip
def test_a_box_outside_the_photo_is_an_error(box):
    with pytest.raises(ValueError, match="outside the photo"):
        crop_face(RAMP, np.array(box, np.float32), 160, 32)


@pytest.mark.parametrize("person", ["George_W_Bush", "Colin_Powell", "Serena_Williams"])
@pytest.mark.parametrize("scale", [2, 5])
def test_the_same_face_in_a_larger_photo_gives_the_same_crop(lfw_images, person, scale):
    photo = Image.open(sorted((lfw_images / person).iterdir())[0]).convert("RGB")
    large = photo.resize([side * scale for side in photo.size], Image.Resampling.BICUBIC)
    box = np.array([80.0, 70, 170, 185])
    crops = [
        np.asarray(crop_face(image, box * s, 160, 32)).astype(float)
        for image, s in [(photo, 1), (large, scale)]
    ]
    assert np.abs(crops[0] - crops[1]).mean() < 2
    # Crops of different boxes differ.
    other = np.asarray(crop_face(photo, box + np.array([20, 0, 20, 0]), 160, 32)).astype(float)
    assert np.abs(crops[0] - other).mean() > 10


def test_a_thumbnail_is_a_small_jpeg_of_the_crop():
    crop = crop_face(RAMP, np.array([0, 0, 256, 256]), 160, 0)
    small = Image.open(io.BytesIO(encode_thumbnail(crop)))
    assert small.format == "JPEG"
    assert small.size == (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    expected = np.asarray(crop.resize(small.size, Image.Resampling.BILINEAR)).astype(float)
    assert np.abs(np.asarray(small).astype(float) - expected).mean() < 3


PHOTO = Photo("a.jpg", Shard("s", 1), image=RAMP, photo_id="id", width=SIDE, height=SIDE)


def face(*box: float) -> Face:
    return Face(np.array(box, np.float32), MEAN_FACE[:, :2].astype(np.float32), 0.9)


def test_faces_are_aligned_in_order_and_the_image_is_dropped():
    faces = (face(10, 10, 60, 60), face(100, 120, 180, 220))
    photo = align_faces(replace(PHOTO, faces=faces), 160, 32)
    assert photo.failure is None
    assert photo.image is None
    assert photo.photo_id == "id"
    for before, after in zip(faces, photo.faces, strict=True):
        expected = crop_face(RAMP, before.box, 160, 32)
        np.testing.assert_array_equal(after.crop, np.asarray(expected))
        assert after.crop.dtype == np.uint8
        assert after.thumbnail == encode_thumbnail(expected)
        assert after.score == before.score
        luma = np.asarray(crop_face(RAMP, before.box, LUMA_SIZE, 0).convert("L"))
        assert after.quality == measure_quality(before.box, before.landmarks, luma)
        np.testing.assert_array_equal(after.box, before.box)


def test_a_photo_without_faces():
    photo = align_faces(PHOTO, 160, 32)
    assert (photo.faces, photo.image, photo.failure) == ((), None, None)


def test_a_face_outside_the_photo_fails_the_photo():
    photo = align_faces(replace(PHOTO, faces=(face(300, 300, 400, 400),)), 160, 32)
    assert photo.failure.step == "align"
    assert align_faces(photo, 160, 32) is photo


@given(st.tuples(*[st.floats(-150, SIDE - 9, width=32)] * 2), st.tuples(*[st.floats(160, 300)] * 2))
@settings(max_examples=50, deadline=None)
def test_boxes_end_at_the_photos_edges_and_the_crops_do_not_change(corner, size):
    x, y, width, height = *corner, *size
    found = face(x, y, x + width, y + height)
    (done,) = align_faces(replace(PHOTO, faces=(found,)), 160, 32).faces
    x0, y0, x1, y1 = done.box.tolist()
    assert 0 <= x0 < x1 <= SIDE
    assert 0 <= y0 < y1 <= SIDE
    inside = np.float32([max(x, 0), max(y, 0), min(x + width, SIDE), min(y + height, SIDE)])
    np.testing.assert_allclose(done.box, inside, rtol=1e-5)
    assert done.quality.size_px == pytest.approx(np.sqrt((x1 - x0) * (y1 - y0)))
    np.testing.assert_array_equal(done.crop, np.asarray(crop_face(RAMP, found.box, 160, 32)))


def test_boxes_of_a_photo_decoded_at_a_reduced_scale_are_in_px_of_the_photo():
    def aligned(reduction):
        size = SIDE // reduction
        image = RAMP.resize((size, size), Image.Resampling.BOX)
        box = np.array([40, 30, 80, 90], np.float32) / reduction
        landmarks = np.array([[50, 50], [70, 50], [60, 60], [52, 80], [68, 80]], np.float32)
        face = Face(box, landmarks / reduction, 1.0)
        photo = Photo("a.jpg", Shard("s", 1), image=image, width=SIDE, height=SIDE, faces=(face,))
        return align_faces(photo, 32, 8).faces[0]

    full, scaled = aligned(1), aligned(2)
    np.testing.assert_array_equal(full.box, scaled.box)
    np.testing.assert_array_equal(full.landmarks, scaled.landmarks)
    assert np.abs(full.crop.astype(int) - scaled.crop).max() < 8
    assert full.quality.size_px == scaled.quality.size_px == pytest.approx(np.sqrt(40 * 60))
