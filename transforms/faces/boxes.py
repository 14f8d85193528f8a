"""Geometry of face boxes: (n, 4) arrays of x0 y0 x1 y1 in pixels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

SUPPRESSION_BLOCK = 256  # boxes that are compared with all others at once, which bounds the memory
LARGEST_BOX = 2  # times the longer side of a photo: the box of a face that fills it is smaller


def non_maximum_suppression(
    boxes: np.ndarray,
    scores: np.ndarray,
    overlap: float,
    groups: np.ndarray | None = None,
    of_smaller: bool = False,
) -> np.ndarray:
    """Selects the boxes that do not overlap a selected box of a higher score.

    Args:
      boxes: (n, 4), x0 y0 x1 y1.
      scores: (n,).
      overlap: the fraction of overlap above which the box of the lower score is removed.
      groups: (n,) numbers; only boxes of the same group are compared. None: all are.
      of_smaller: divide the intersection by the smaller box's area, instead of by the union's.

    Returns:
      (m,) indices of the selected boxes, by falling score.
    """
    if groups is not None and len(boxes):  # shift each group so that groups cannot overlap
        extent = boxes.max() - boxes.min() + 1
        boxes = boxes + (groups * extent)[:, None]
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order].astype(np.float64)
    alive = np.ones(len(boxes), bool)
    for start in range(0, len(boxes), SUPPRESSION_BLOCK):
        rows = start + np.flatnonzero(alive[start : start + SUPPRESSION_BLOCK])
        too_close = _overlap_fractions(boxes[rows], boxes[start:], of_smaller) > overlap
        for row, suppressed in zip(rows.tolist(), too_close, strict=True):
            if alive[row]:
                suppressed[: row - start + 1] = False  # boxes of a higher score, and itself
                alive[start:] &= ~suppressed
    return order[alive]


def prominence(boxes: np.ndarray, width: ArrayLike, height: ArrayLike) -> np.ndarray:
    """Ranks faces by size and closeness to the center: a photo's label is about the highest.

    The box's area minus twice the squared distance of its center from the photo's center
    (davidsandberg/facenet, src/align/align_dataset_mtcnn.py).

    Args:
      boxes: (n, 4), x0 y0 x1 y1 in px of the upright photo.
      width, height: (n,) or one number, px of the photo.

    Returns:
      (n,) float64, square pixels.
    """
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).T
    width, height = np.asarray(width), np.asarray(height)
    off_center = ((x0 + x1 - width) / 2) ** 2 + ((y0 + y1 - height) / 2) ** 2
    return (x1 - x0) * (y1 - y0) - 2 * off_center


def is_possible(boxes: np.ndarray, width: ArrayLike, height: ArrayLike) -> np.ndarray:
    """(n,) bool: which boxes may be of faces; not those of a damaged table.

    A face's box has an area, overlaps its photo, and is at most LARGEST_BOX times as long as its
    photo's longer side.

    Args:
      boxes: (n, 4), x0 y0 x1 y1 in px of the upright photo.
      width, height: (n,) or one number, px of the photo.
    """
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).T
    longest = LARGEST_BOX * np.maximum(width, height)
    has_area = (x1 > x0) & (y1 > y0) & (x1 - x0 <= longest) & (y1 - y0 <= longest)
    return has_area & (x1 > 0) & (y1 > 0) & (x0 < width) & (y0 < height)


def overlaps_photo(boxes: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """(n,) whether at least 1 x 1 px of each box lies inside its photo of (width, height)."""
    corners = np.array(sizes, np.float32).reshape(-1, 2)
    inside = np.minimum(boxes[:, 2:], corners) - np.maximum(boxes[:, :2], 0)
    return np.all(inside >= 1, axis=1)


def clip_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The parts of boxes, (..., 4), that lie inside their photo of (width, height) px."""
    return np.clip(boxes, 0, np.array([*size, *size], boxes.dtype))


def apply_corrections(boxes: np.ndarray, corrections: np.ndarray) -> np.ndarray:
    """Moves each side by the network's correction, a fraction of the box's width or height."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes + corrections * np.concatenate([sides, sides], axis=1)


def square_boxes(boxes: np.ndarray) -> np.ndarray:
    """Extends the shorter sides to the length of the longer ones, around the same centers."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([centers - half, centers + half], axis=1)


def _overlap_fractions(boxes: np.ndarray, others: np.ndarray, of_smaller: bool) -> np.ndarray:
    """(n, m) intersections of (n, 4) and (m, 4) boxes, as fractions of the union or smaller box."""
    x0, y0, x1, y1 = boxes.T[:, :, None]
    other_x0, other_y0, other_x1, other_y1 = others.T
    common = np.maximum(np.minimum(x1, other_x1) - np.maximum(x0, other_x0), 0)
    common *= np.maximum(np.minimum(y1, other_y1) - np.maximum(y0, other_y0), 0)
    areas, other_areas = (x1 - x0) * (y1 - y0), (other_x1 - other_x0) * (other_y1 - other_y0)
    whole = np.minimum(areas, other_areas) if of_smaller else areas + other_areas - common
    return common / np.maximum(whole, 1e-9)  # corrections can shrink a box to nothing
