"""Batches of decoded crops, for training and for evaluation.

    def indices(step):
        return identity_batches(crops.labels, 45, 40, seed, step)

    mirrored = Augmentation(flip=True)
    for pixels, labels in training_batches(crops, indices, 160, mirrored, seed, first_step=0):
        ...

A training batch is a function of the seed and the step number alone. A training that is resumed at
step s therefore sees the same batches as one that was never interrupted.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf
from PIL import Image

from facecluster.errors import InputError
from facecluster.model_export.crops import Crops
from facecluster.model_export.training.augmentation import DRAWS, Augmentation, augment
from facecluster.transforms.photos.decode_image import decode_image


def training_batches(
    crops: Crops,
    batch_indices: Callable[[int], np.ndarray],
    input_size: int,
    augmentation: Augmentation,
    seed: int,
    first_step: int,
) -> tf.data.Dataset:
    """The batches of steps first_step, first_step + 1, ... without end.

    A crop smaller than the input on a side is stretched to it; of a larger one a window is taken.

    Args:
      batch_indices: maps a step to the (b,) indices of its crops, b the same for every step.
      input_size: px, width and height of the network's input.
      seed: of the augmentation.

    Returns:
      A dataset of ((b, input_size, input_size, 3) uint8 RGB, (b,) int32 labels). If a crop cannot
      be read or decoded, taking its batch raises tf.errors.InvalidArgumentError, which names the
      crop and its file.
    """
    batch_size = len(batch_indices(first_step))

    def indices_of(step: np.ndarray) -> np.ndarray:
        indices = np.asarray(batch_indices(int(step)), np.int64)
        if len(indices) != batch_size:
            raise ValueError(f"step {step} has {len(indices)} crops, the first had {batch_size}")
        return indices

    def batch(step):
        indices = tf.numpy_function(indices_of, [step], tf.int64)
        draws = tf.random.stateless_uniform((batch_size, len(DRAWS)), tf.stack([seed, step]))
        return tf.ensure_shape(indices, (batch_size,)), draws

    def load(index):
        try:
            return _load_crop(crops, index, input_size)
        except InputError as error:  # only a ValueError becomes TensorFlow's InvalidArgumentError
            raise ValueError(f"InputError: {error}") from error

    def example(index, draws):
        image = tf.numpy_function(load, [index], tf.uint8)
        image = tf.ensure_shape(image, (None, None, 3))
        return augment(image, draws, input_size, augmentation), tf.gather(crops.labels, index)

    return (
        tf.data.Dataset.counter(first_step)
        .map(batch)
        .unbatch()
        .map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def batch_rows(
    array: np.ndarray, batch_indices: Callable[[int], np.ndarray], first_step: int
) -> tf.data.Dataset:
    """The rows of an array, (n, ...), for the crops of steps first_step, first_step + 1, ..."""
    shape = (len(batch_indices(first_step)), *array.shape[1:])

    def batch(step):
        found = tf.numpy_function(lambda s: array[batch_indices(int(s))], [step], array.dtype)
        return tf.ensure_shape(found, shape)

    return tf.data.Dataset.counter(first_step).map(batch).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(crops: Crops, input_size: int, batch_size: int) -> Iterator[np.ndarray]:
    """All crops in order, without augmentation; of a larger crop the central window, as published.

    Yields:
      (b, input_size, input_size, 3) uint8 RGB; b is batch_size, or less in the last batch.

    Raises:
      InputError: a crop cannot be read or decoded; the message names it.
    """

    def load(index):
        image = _load_crop(crops, index, input_size)
        top, left = ((side - input_size) // 2 for side in image.shape[:2])
        return image[top : top + input_size, left : left + input_size]

    with ThreadPoolExecutor() as pool:
        pending = []  # one batch is decoded while the caller uses the one before it
        for start in range(0, len(crops), batch_size):
            indices = range(start, min(start + batch_size, len(crops)))
            pending.append([pool.submit(load, index) for index in indices])
            if len(pending) == 2:
                yield np.stack([image.result() for image in pending.pop(0)])
        for last in pending:
            yield np.stack([image.result() for image in last])


def _load_crop(crops: Crops, index: int, input_size: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB, both sides at least input_size."""
    content = crops.read(index)
    try:
        image = decode_image(content).image
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        raise InputError(
            f"{crops.names[index]} of {crops.locations[index].path} cannot be decoded: {error}. "
            "Replace it or leave it out"
        ) from error
    if min(image.size) < input_size:
        image = image.resize((input_size, input_size), Image.Resampling.BILINEAR)
    return np.asarray(image)
