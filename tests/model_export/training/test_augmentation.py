"""Tests of the augmentation of training images."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from facecluster.model_export.training.augmentation import DRAWS, Augmentation, augment
from facecluster.model_export.training.batches import evaluation_batches
from tests.model_export.training.synthetic_crops import (
    make_face,
    take_batches,
    write_twelve_crops,
)

seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    return write_twelve_crops(tmp_path_factory.mktemp("crops"))


def augmented(
    image: np.ndarray, size: int, augmentation: Augmentation, **draws: float
) -> np.ndarray:
    """`augment` with these draws, 0.5 for all others: no rotation, mirroring or color change."""
    values = [draws.get(name, 0.5) for name in DRAWS]
    return augment(tf.constant(image), tf.constant(values), size, augmentation).numpy()


def test_default_augmentation_changes_nothing(crops):
    batches = take_batches(crops, lambda _: np.arange(len(crops)), Augmentation())
    (expected,) = evaluation_batches(crops, 32, 100)
    for images, _ in batches:
        np.testing.assert_array_equal(images, expected)


def test_flip_mirrors_half_of_the_images(crops):
    ((images, _),) = take_batches(crops, lambda _: np.zeros(200, int), Augmentation(flip=True), n=1)
    (plain,) = evaluation_batches(crops.select(np.arange(len(crops)) == 0), 32, 1)
    mirrored = [np.array_equal(image, plain[0][:, ::-1]) for image in images]
    straight = [np.array_equal(image, plain[0]) for image in images]
    assert np.all(np.logical_xor(mirrored, straight))
    assert 60 <= np.sum(mirrored) <= 140  # six standard deviations


def test_random_crop_yields_every_window(crops):
    only = Augmentation(random_crop=True)
    ((images, _),) = take_batches(crops, lambda _: np.zeros(300, int), only, n=1, input_size=38)
    windows = [
        make_face(0)[top : top + 38, left : left + 38] for top in range(3) for left in range(3)
    ]
    assert {image.tobytes() for image in images} == {window.tobytes() for window in windows}
    last = augmented(make_face(0), 38, only, top=np.float32(1 - 2**-24), left=0.0)
    np.testing.assert_array_equal(last, windows[6])


@pytest.mark.parametrize("degrees", [-30, -5, 10])
def test_rotation_matches_pillow(degrees):
    """Pillow rotates counterclockwise about the center and fills with black."""
    image = make_face(1, 60)
    draw = (degrees / 30 + 1) / 2
    ours = augmented(image, 30, Augmentation(rotation=30), angle=draw).astype(int)
    picture = Image.fromarray(image)
    both = [
        np.asarray(picture.rotate(sign * degrees, Image.Resampling.BILINEAR))[15:45, 15:45]
        for sign in (1, -1)
    ]
    differences = [np.abs(ours - theirs.astype(int)).max() for theirs in both]
    assert min(differences) <= 2
    assert max(differences) > 20


def test_rotation_goes_both_ways_up_to_its_limit():
    image = make_face(1, 60)
    limit = Augmentation(rotation=20)
    rotated = [augmented(image, 60, limit, angle=draw) for draw in (0.0, 0.25, 0.5, 0.75)]
    half = [augmented(image, 60, Augmentation(rotation=10), angle=draw) for draw in (0.0, 0.5)]
    np.testing.assert_array_equal(rotated[2], image)
    np.testing.assert_array_equal(rotated[1], half[0])
    assert len({pixels.tobytes() for pixels in rotated}) == 4


def test_window_of_a_rotated_image_equals_window_of_the_full_rotation():
    image = make_face(1, 61)[:47]
    both = Augmentation(rotation=30, random_crop=True)
    square = np.pad(image, ((7, 7), (0, 0), (0, 0)), mode="symmetric")  # the same center
    for draw, top, left in ((0.2, 0, 0), (0.9, 15, 20), (0.7, 5, 29)):
        draws = {"angle": draw, "top": (top + 0.5) / 16, "left": (left + 0.5) / 30}
        window = augmented(image, 32, both, **draws)
        whole = augmented(square, 61, Augmentation(rotation=30), angle=draw)
        assert window.shape == (32, 32, 3)
        expected = whole[7 + top : 39 + top, left : left + 32].astype(int)
        np.testing.assert_allclose(window.astype(int), expected, atol=1)


def test_corners_of_a_rotated_image_are_filled_by_reflection():
    image = np.full((40, 40, 3), (200, 100, 150), np.uint8)
    for angle in (0.0, 0.1, 0.8):
        rotated = augmented(image, 40, Augmentation(rotation=45), angle=angle)
        np.testing.assert_array_equal(rotated, image)


@pytest.mark.parametrize(
    ("draw", "enhancer"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("value", [0.0, 0.2, 0.9])
def test_color_changes_match_pillow(draw, enhancer, value):
    image = make_face(2)
    ours = augmented(image, 40, Augmentation(color=0.6), **{draw: value})
    theirs = enhancer(Image.fromarray(image)).enhance(1 + (2 * value - 1) * 0.6)
    np.testing.assert_allclose(ours.astype(int), np.asarray(theirs).astype(int), atol=2)
    assert not np.array_equal(ours, image)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=7, max_size=7), seeds)
def test_pixel_values_do_not_overflow(draws, seed):
    """An integer overflow would turn white into black."""
    augmentation = Augmentation(flip=True, random_crop=True, rotation=180, color=1)
    white = augment(tf.fill((40, 40, 3), np.uint8(255)), tf.constant(draws), 32, augmentation)
    assert white.dtype == tf.uint8
    brightness = min(2 * draws[DRAWS.index("brightness")], 1)
    np.testing.assert_allclose(white, np.full((32, 32, 3), 255 * brightness), atol=1)
    black = augment(tf.zeros((40, 40, 3), tf.uint8), tf.constant(draws), 32, augmentation)
    assert np.max(black) == 0
    other = augment(tf.constant(make_face(seed)), tf.constant(draws), 32, augmentation)
    assert other.shape == (32, 32, 3)


def test_invalid_augmentation_is_refused():
    with pytest.raises(ValueError, match="rotation is 200: give 0 to 180 degrees"):
        Augmentation(rotation=200)
    with pytest.raises(ValueError, match=r"color is -0\.1: give a strength from 0 to 1"):
        Augmentation(color=-0.1)
