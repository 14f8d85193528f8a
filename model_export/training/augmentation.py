"""Random augmentation of training images: flip, random crop, rotation, color."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

# The random numbers that augmenting an image takes, each uniform in [0, 1).
DRAWS = ("flip", "top", "left", "angle", "brightness", "contrast", "saturation")
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601)


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied; by default they are not.

    Attributes:
      flip: mirrors every image left to right with a probability of one half.
      random_crop: takes a random window of a larger crop instead of the central one.
      rotation: degrees; rotates by up to this angle in either direction.
      color: 0 to 1; scales brightness, contrast and saturation by 1 - color to 1 + color.
    """

    flip: bool = False
    random_crop: bool = False
    rotation: float = 0.0
    color: float = 0.0

    def __post_init__(self):
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation is {self.rotation}: give 0 to 180 degrees")
        if not 0 <= self.color <= 1:
            raise ValueError(f"color is {self.color}: give a strength from 0 to 1")


def augment(
    image: tf.Tensor, draws: tf.Tensor, input_size: int, augmentation: Augmentation
) -> tf.Tensor:
    """Rotates an image, cuts it to the input size, mirrors it, changes its color; in this order.

    The first three and their order are those of the published training (davidsandberg/facenet,
    src/facenet.py, create_input_pipeline).

    Args:
      image: (height, width, 3) uint8, both sides at least input_size.
      draws: (len(DRAWS),) float32 in [0, 1), the random numbers.

    Returns:
      (input_size, input_size, 3) uint8.
    """
    draw = dict(zip(DRAWS, tf.unstack(draws), strict=True))
    room = tf.shape(image)[:2] - input_size
    corner = room // 2
    if augmentation.random_crop:
        position = tf.stack([draw["top"], draw["left"]])
        corner = tf.cast(position * tf.cast(room + 1, tf.float32), tf.int32)
    if augmentation.rotation:
        angle = _symmetric(draw["angle"], augmentation.rotation) * np.pi / 180
        image = _rotated_window(image, angle, corner, input_size)
    else:
        image = tf.slice(image, [corner[0], corner[1], 0], (input_size, input_size, 3))
    if augmentation.flip:
        image = tf.where(draw["flip"] < 0.5, image[:, ::-1], image)
    if augmentation.color:
        factors = [
            1 + _symmetric(draw[name], augmentation.color)
            for name in ("brightness", "contrast", "saturation")
        ]
        image = _change_color(tf.cast(image, tf.float32), *factors)
    return tf.saturate_cast(tf.round(image), tf.uint8) if image.dtype != tf.uint8 else image


def _symmetric(draw: tf.Tensor, limit: float) -> tf.Tensor:
    """Maps [0, 1) to [-limit, limit)."""
    return (2 * draw - 1) * limit


def _rotated_window(image: tf.Tensor, angle: tf.Tensor, corner: tf.Tensor, size: int) -> tf.Tensor:
    """A window, (size, size, 3) float32, of the image rotated about its center by radians.

    Pixels from outside the image are filled by reflection.
    """
    center = tf.cast(tf.shape(image)[:2] - 1, tf.float32) / 2
    y, x = tf.unstack(tf.cast(corner, tf.float32) - center)
    cos, sin = tf.cos(angle), tf.sin(angle)
    # Maps a pixel of the window to its source: the rows of a projective map without the last 1.
    origin = [
        *(cos, -sin, cos * x - sin * y + center[1]),
        *(sin, cos, sin * x + cos * y + center[0]),
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


def _change_color(image: tf.Tensor, brightness, contrast, saturation) -> tf.Tensor:
    """Scales relative to black, to the image's mean gray and to each pixel's gray."""
    image = tf.clip_by_value(image * brightness, 0, 255)
    mean = tf.reduce_mean(tf.tensordot(image, LUMA, 1))
    image = tf.clip_by_value(mean + (image - mean) * contrast, 0, 255)
    gray = tf.tensordot(image, LUMA, 1)[..., tf.newaxis]
    return gray + (image - gray) * saturation
