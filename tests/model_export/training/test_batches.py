"""Tests of the training and evaluation batches."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from facecluster.errors import InputError
from facecluster.model_export.training.augmentation import Augmentation
from facecluster.model_export.training.batches import (
    batch_rows,
    evaluation_batches,
    training_batches,
)
from facecluster.model_export.training.sampling import identity_batches, shuffled_batches
from tests.model_export.training.synthetic_crops import (
    ALL_AUGMENTATIONS,
    make_face,
    take_batches,
    write_crops,
    write_twelve_crops,
)


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    return write_twelve_crops(tmp_path_factory.mktemp("crops"))


def test_resumed_batches_equal_uninterrupted_ones(crops):
    def indices(step):
        return identity_batches(crops.labels, 2, 3, 9, step)

    whole = take_batches(crops, indices, seed=1, n=6)
    for step in (1, 4):
        resumed = take_batches(crops, indices, seed=1, first_step=step, n=2)
        for ours, expected in zip(resumed, whole[step:], strict=False):
            np.testing.assert_array_equal(ours[0], expected[0])
            np.testing.assert_array_equal(ours[1], expected[1])
    for (images, labels), step in zip(whole, range(6), strict=True):
        assert images.shape == (6, 32, 32, 3)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(labels, crops.labels[indices(step)])


def test_augmentation_differs_by_seed_step_and_position(crops):
    repeated = [take_batches(crops, lambda _: np.zeros(4, int), seed=seed, n=3) for seed in (0, 1)]
    images = np.concatenate([pixels for batches in repeated for pixels, _ in batches])
    assert len({image.tobytes() for image in images}) == 24


def test_batch_follows_the_order_of_its_indices(crops):
    shuffled = np.random.default_rng(0).permutation(len(crops))
    ((images, labels),) = take_batches(
        crops, lambda _: shuffled, Augmentation(), n=1, input_size=40
    )
    whole = np.concatenate(list(evaluation_batches(crops, 40, 5)))
    np.testing.assert_array_equal(images, whole[shuffled])
    np.testing.assert_array_equal(labels, crops.labels[shuffled])
    names = [f"{person}/{image}" for person in range(4) for image in range(3)]
    assert list(crops.names) == names
    expected = [make_face(10 * int(name[0]) + int(name[2])) for name in names]
    np.testing.assert_array_equal(whole, expected)


def test_dataset_declares_static_shapes(crops):
    dataset = training_batches(crops, lambda _: np.arange(5), 32, ALL_AUGMENTATIONS, 0, 0)
    pixels, labels = dataset.element_spec
    assert (pixels.shape, pixels.dtype) == ((5, 32, 32, 3), tf.uint8)
    assert (labels.shape, labels.dtype) == ((5,), tf.int32)


def test_batch_of_another_size_is_refused(crops):
    with pytest.raises(tf.errors.InvalidArgumentError, match="step 1 has 3 crops, the first had 2"):
        take_batches(crops, lambda step: np.arange(2 + step))


def test_evaluation_takes_the_central_window_in_order(crops):
    batches = list(evaluation_batches(crops, 31, 5))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    expected = [make_face(10 * p + i)[4:35, 4:35] for p in range(4) for i in range(3)]
    np.testing.assert_array_equal(np.concatenate(batches), expected)


def test_images_of_other_sizes_and_modes(tmp_path):
    large, small, wide, gray = (
        make_face(1, 50),
        make_face(2, 20),
        make_face(3)[:25],
        make_face(4)[..., 0],
    )
    made = write_crops(
        tmp_path, {"a/1.png": large, "a/2.png": small, "a/3.png": wide, "b/4.png": gray}
    )

    def stretched(pixels):
        return np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR))

    expected = np.stack(
        [
            large[9:41, 9:41],
            stretched(small),
            stretched(wide),
            np.repeat(gray[4:36, 4:36, None], 3, axis=2),
        ]
    )
    (evaluated,) = evaluation_batches(made, 32, 4)
    ((trained, _),) = take_batches(made, lambda _: np.arange(4), Augmentation(), n=1)
    np.testing.assert_array_equal(evaluated, expected)
    np.testing.assert_array_equal(trained, expected)


@pytest.mark.parametrize(
    "damage", [lambda whole: b"no image", lambda whole: whole[: len(whole) // 2]]
)
def test_error_names_the_damaged_image(tmp_path, damage):
    made = write_crops(tmp_path, {"Ann/1.png": make_face(1), "Ann/2.jpg": make_face(2)})
    (tmp_path / "Ann/2.jpg").write_bytes(damage((tmp_path / "Ann/2.jpg").read_bytes()))
    sentence = r"Ann/2 of .*Ann/2\.jpg cannot be decoded: .*leave it out"
    with pytest.raises(InputError, match=sentence):
        list(evaluation_batches(made, 32, 2))
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        take_batches(made, lambda _: np.arange(2))


# --- what arrays hold for the same batches


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.uint8, np.float16])
@pytest.mark.parametrize("shape", [(), (5,), (4, 3)])
@pytest.mark.parametrize("first_step", [0, 3])
def test_batch_rows_follow_the_indices(dtype, shape, first_step):
    array = np.random.default_rng(0).integers(0, 200, (12, *shape)).astype(dtype)

    def indices(step):
        return shuffled_batches(12, 5, 7, step)

    dataset = batch_rows(array, indices, first_step)
    assert (dataset.element_spec.shape, dataset.element_spec.dtype) == ((5, *shape), dtype)
    batches = list(itertools.islice(dataset.as_numpy_iterator(), 10))
    for step, batch in enumerate(batches, first_step):
        np.testing.assert_array_equal(batch, array[indices(step)])


def test_batch_rows_align_with_training_batches(crops):
    def indices(step):
        return identity_batches(crops.labels, 2, 3, 9, step)

    both = tf.data.Dataset.zip(
        training_batches(crops, indices, 32, ALL_AUGMENTATIONS, 0, 2),
        batch_rows(crops.labels, indices, 2),
    )
    for (_, labels), again in itertools.islice(both.as_numpy_iterator(), 4):
        np.testing.assert_array_equal(labels, again)


def test_batch_rows_of_another_size_are_refused():
    batches = batch_rows(np.arange(9), lambda step: np.arange(2 + step), 0).as_numpy_iterator()
    np.testing.assert_array_equal(next(batches), [0, 1])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[3\].*\[2\]"):
        next(batches)
