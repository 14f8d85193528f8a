"""Geometry of turning a photo by quarter turns, clockwise and in degrees: its pixels and points."""

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

TURNS = (0, 90, 180, 270)
_TRANSPOSES = {
    90: Image.Transpose.ROTATE_270,  # Pillow turns counterclockwise
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}


def turn_image(image: Image.Image, turn: int) -> Image.Image:
    """The image turned clockwise; the image itself for 0."""
    return image.transpose(_TRANSPOSES[turn]) if turn else image


def turn_points(points: np.ndarray, turn: int, size: tuple[int, int]) -> np.ndarray:
    """Where points of an image are once it is turned clockwise.

    Args:
      points: (..., 2) x y, px of the image.
      turn: one of TURNS.
      size: (width, height) of the image before it is turned.

    Returns:
      (..., 2): `points` itself for 0, otherwise float64, in which turning and turning back is exact
      for the coordinates of photos in float32.
    """
    if not turn:
        return points
    x, y = np.moveaxis(np.asarray(points, np.float64), -1, 0)
    width, height = size
    turned = {90: (height - y, x), 180: (width - x, height - y), 270: (y, width - x)}[turn]
    return np.stack(turned, axis=-1)


def turn_boxes(boxes: np.ndarray, turn: int, size: tuple[int, int]) -> np.ndarray:
    """Like `turn_points`, for (..., 4) boxes x0 y0 x1 y1."""
    if not turn:
        return boxes
    corners = turn_points(np.reshape(boxes, (*np.shape(boxes)[:-1], 2, 2)), turn, size)
    return np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)


def turn_back(turn: int) -> int:
    """The turn that undoes a turn."""
    return -turn % 360


def turn_upright(
    image: Image.Image, boxes: Iterable[np.ndarray], turns: Iterable[int]
) -> Iterator[tuple[Image.Image, np.ndarray]]:
    """For each face, the photo turned so that the face is upright, and the face's box in it.

    The whole photo is turned, once for all its faces, and not what is cut out of it: Pillow
    resizes by columns after rows, so cutting first would give other bits than those of the upright
    photo.

    Args:
      image: the photo.
      boxes: (4,) of each face, px of the image.
      turns: of each face, one of TURNS.
    """
    turned = {0: image}
    for box, turn in zip(boxes, turns, strict=True):
        if turn not in turned:
            turned = {0: image, turn: turn_image(image, turn)}
        yield turned[turn], turn_boxes(box, turn, image.size)
