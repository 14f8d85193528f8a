"""Batches of crops: for training, each a function of seed and step alone, and for evaluation.

    def indices(step):
        return identity_batches(crops.labels, 45, 40, seed, step)

    mirrored = Augmentation(flip=True)
    for pixels, labels in training_batches(crops, indices, 160, mirrored, seed, first_step=0):
        ...

A training that is stopped and taken up again at step s sees what it would have seen.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import tensorflow as tf
from PIL import Image

from facecluster.errors import InputError
from facecluster.model_export.crops import Crops
from facecluster.transforms.photos.decode import decode

# What is drawn for each image, uniformly in [0, 1).
DRAWS = ("flip", "top", "left", "angle", "brightness", "contrast", "saturation")
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied; nothing is, unless asked for.

    Attributes:
      flip: mirrors every second image left to right.
      random_crop: takes the window anywhere out of a larger crop, not from its middle.
      rotation: degrees; turns by up to as much either way.
      colour: 0 to 1; scales brightness, contrast and saturation by 1 - colour to 1 + colour.
    """

    flip: bool = False
    random_crop: bool = False
    rotation: float = 0.0
    colour: float = 0.0

    def __post_init__(self):
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation is {self.rotation}: give 0 to 180 degrees")
        if not 0 <= self.colour <= 1:
            raise ValueError(f"colour is {self.colour}: give a strength from 0 to 1")


def shuffled_batches(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Batch number `step`: all n images once in a random order, then again in another.

    Batches run on across the end of such an epoch, so that all have the same size.

    Returns:
      (batch_size,) int64 indices below n.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"{n} images in batches of {batch_size}: both must be at least 1")
    places = step * batch_size + np.arange(batch_size)
    epochs = range(places[0] // n, places[-1] // n + 1)
    orders = np.concatenate([_permutation(n, seed, epoch) for epoch in epochs])
    return orders[places - epochs[0] * n]


def identity_batches(
    labels: np.ndarray, n_people: int, n_images: int, seed: int, step: int
) -> np.ndarray:
    """Batch number `step`: some images each of some people, for the mining of triplets.

    Section 3.2 of the FaceNet paper (arXiv 1503.03832), which takes about 40 images per person.
    The people are drawn at random among those who have two images at least, and n_images of each,
    without repetition. Where somebody has fewer, all are taken and further people fill the batch.
    The last one may add fewer too, but hardly ever one alone: only an odd number of places among
    people with two images each leaves no other way. Where everybody is in the batch before it is
    full, each gives further images, and when there are no more, images repeat.

    Args:
      labels: (n,) int, the person of each image.
      n_people, n_images: at least 2 each.

    Returns:
      (n_people * n_images,) int64 indices below n.

    Raises:
      InputError: fewer than two people have two images.
    """
    if n_people < 2 or n_images < 2:
        raise ValueError(f"{n_people} people with {n_images} images: triplets need 2 of each")
    random = np.random.default_rng([seed, step])
    by_person = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[by_person], return_index=True, return_counts=True)
    eligible = random.permutation(np.flatnonzero(counts >= 2))
    if len(eligible) < 2:
        raise InputError(
            f"{len(eligible)} of {len(counts)} people have two images or more, and triplets need "
            "two such people: give more crops"
        )
    size = n_people * n_images
    takes = _takes(counts[eligible], n_images, size)
    chosen = [
        by_person[starts[person] + random.permutation(counts[person])[:take]]
        for person, take in zip(eligible, takes, strict=False)  # as many people as are needed
    ]
    return np.concatenate(chosen) if np.sum(takes) == size else _in_turn(chosen, size)


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
      batch_indices: from a step to the (b,) indices of its crops, b the same for every step.
      input_size: px, width and height of the network's input.
      seed: of the augmentation.

    Returns:
      A dataset of ((b, input_size, input_size, 3) uint8 RGB, (b,) int32 labels). Taking a batch
      raises tf.errors.InvalidArgumentError, with the name of the crop and its file, where one
      cannot be read or decoded.
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
            return _load(crops, index, input_size)
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


def rows(
    array: np.ndarray, batch_indices: Callable[[int], np.ndarray], first_step: int
) -> tf.data.Dataset:
    """What an array, (n, ...), holds for the crops of steps first_step, first_step + 1, ..."""
    shape = (len(batch_indices(first_step)), *array.shape[1:])

    def batch(step):
        found = tf.numpy_function(lambda s: array[batch_indices(int(s))], [step], array.dtype)
        return tf.ensure_shape(found, shape)

    return tf.data.Dataset.counter(first_step).map(batch).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(crops: Crops, input_size: int, batch_size: int) -> Iterator[np.ndarray]:
    """All crops in order, as they are: of a larger one the central window, as published.

    Yields:
      (b, input_size, input_size, 3) uint8 RGB; b is batch_size but for what is left at the end.

    Raises:
      InputError: a crop cannot be read or decoded; names it.
    """

    def load(index):
        image = _load(crops, index, input_size)
        top, left = ((side - input_size) // 2 for side in image.shape[:2])
        return image[top : top + input_size, left : left + input_size]

    with ThreadPoolExecutor() as pool:
        waiting = []  # one batch is decoded while the one before it is used
        for start in range(0, len(crops), batch_size):
            indices = range(start, min(start + batch_size, len(crops)))
            waiting.append([pool.submit(load, index) for index in indices])
            if len(waiting) == 2:
                yield np.stack([image.result() for image in waiting.pop(0)])
        for last in waiting:
            yield np.stack([image.result() for image in last])


def augment(
    image: tf.Tensor, draws: tf.Tensor, input_size: int, augmentation: Augmentation
) -> tf.Tensor:
    """One image, varied: turned, cut to the input's size, mirrored, coloured, in this order.

    The first three and their order are the published training's (davidsandberg/facenet,
    src/facenet.py, create_input_pipeline).

    Args:
      image: (height, width, 3) uint8, both sides at least input_size.
      draws: (len(DRAWS),) float32 in [0, 1), what chance decides.

    Returns:
      (input_size, input_size, 3) uint8.
    """
    draw = dict(zip(DRAWS, tf.unstack(draws), strict=True))
    room = tf.shape(image)[:2] - input_size
    corner = room // 2
    if augmentation.random_crop:
        place = tf.stack([draw["top"], draw["left"]])
        corner = tf.cast(place * tf.cast(room + 1, tf.float32), tf.int32)
    if augmentation.rotation:
        angle = _spread(draw["angle"], augmentation.rotation) * np.pi / 180
        image = _turned_window(image, angle, corner, input_size)
    else:
        image = tf.slice(image, [corner[0], corner[1], 0], (input_size, input_size, 3))
    if augmentation.flip:
        image = tf.where(draw["flip"] < 0.5, image[:, ::-1], image)
    if augmentation.colour:
        factors = [
            1 + _spread(draw[name], augmentation.colour)
            for name in ("brightness", "contrast", "saturation")
        ]
        image = _coloured(tf.cast(image, tf.float32), *factors)
    return tf.saturate_cast(tf.round(image), tf.uint8) if image.dtype != tf.uint8 else image


def _spread(draw: tf.Tensor, most: float) -> tf.Tensor:
    """From [0, 1) to [-most, most)."""
    return (2 * draw - 1) * most


def _turned_window(image: tf.Tensor, angle: tf.Tensor, corner: tf.Tensor, size: int) -> tf.Tensor:
    """A window, (size, size, 3) float32, of the image turned about its centre by radians.

    What comes from outside the image is filled by reflection.
    """
    centre = tf.cast(tf.shape(image)[:2] - 1, tf.float32) / 2
    y, x = tf.unstack(tf.cast(corner, tf.float32) - centre)
    cos, sin = tf.cos(angle), tf.sin(angle)
    # Where a pixel of the window comes from: the rows of a projective map but for the last 1.
    origin = [
        *(cos, -sin, cos * x - sin * y + centre[1]),
        *(sin, cos, sin * x + cos * y + centre[0]),
        *(0.0, 0.0),
    ]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[tf.newaxis],
        transforms=tf.stack(origin)[tf.newaxis],
        output_shape=(size, size),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )[0]


def _coloured(image: tf.Tensor, brightness, contrast, saturation) -> tf.Tensor:
    """Scaled towards (below 1) or away from black, its mean grey, and each pixel's own grey."""
    image = tf.clip_by_value(image * brightness, 0, 255)
    mean = tf.reduce_mean(tf.tensordot(image, LUMA, 1))
    image = tf.clip_by_value(mean + (image - mean) * contrast, 0, 255)
    grey = tf.tensordot(image, LUMA, 1)[..., tf.newaxis]
    return grey + (image - grey) * saturation


def _load(crops: Crops, index: int, input_size: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB, both sides at least input_size."""
    content = crops.read(index)
    try:
        image = decode(content).image
    except Exception as error:  # Pillow raises whatever the damage leads to
        raise InputError(
            f"{crops.names[index]} of {crops.locations[index].path} cannot be decoded: {error}. "
            "Replace it or leave it out"
        ) from error
    if min(image.size) < input_size:
        image = image.resize((input_size, input_size), Image.Resampling.BILINEAR)
    return np.asarray(image)


@lru_cache(maxsize=4)  # the steps of an epoch share one, and two at its end
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


def _takes(counts: np.ndarray, n_images: int, size: int) -> np.ndarray:
    """How many images each of the first people gives, `size` in all; all they have if too few."""
    takes = np.minimum(counts, n_images)
    filled = np.cumsum(takes)
    if filled[-1] < size:
        return counts
    takes = takes[: np.searchsorted(filled, size) + 1]
    takes[-1] -= filled[len(takes) - 1] - size
    if takes[-1] == 1 and takes.max() > 2:  # one image alone makes no pair
        takes[takes.argmax()] -= 1
        takes[-1] = 2
    return takes


def _in_turn(images: list[np.ndarray], size: int) -> np.ndarray:
    """Everybody's first image, everybody's second, and so on; when there are no more, again."""
    turns = np.concatenate([np.arange(len(own)) for own in images])
    return np.resize(np.concatenate(images)[np.argsort(turns, kind="stable")], size)
