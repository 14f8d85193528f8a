"""Geometry of face boxes: (n, 4) arrays of x0 y0 x1 y1 in pixels."""

from collections.abc import Sequence

import numpy as np

SUPPRESSION_BLOCK = 256  # boxes compared with all others at once, which bounds the memory


def suppress(
    boxes: np.ndarray,
    scores: np.ndarray,
    overlap: float,
    groups: np.ndarray | None = None,
    of_smaller: bool = False,
) -> np.ndarray:
    """Non-maximum suppression.

    Args:
      boxes: (n, 4), x0 y0 x1 y1.
      scores: (n,).
      overlap: a box goes when it shares more than this with a surer box that stays.
      groups: (n,) numbers; only boxes of one group compete. None: all do.
      of_smaller: measure the intersection against the smaller box and not against the union.

    Returns:
      (m,) indices of the boxes that stay, surest first.
    """
    if groups is not None and len(boxes):  # moved apart, groups cannot overlap
        extent = boxes.max() - boxes.min() + 1
        boxes = boxes + (groups * extent)[:, None]
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order].astype(np.float64)
    alive = np.ones(len(boxes), bool)
    for start in range(0, len(boxes), SUPPRESSION_BLOCK):
        rows = start + np.flatnonzero(alive[start : start + SUPPRESSION_BLOCK])
        goes = _share(boxes[rows], boxes[start:], of_smaller) > overlap
        for row, loses in zip(rows.tolist(), goes, strict=True):
            if alive[row]:
                loses[: row - start + 1] = False  # surer boxes, and itself
                alive[start:] &= ~loses
    return order[alive]


def prominence(boxes: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """How large and central faces are: of a labelled photo, the highest is the one that is meant.

    That is the box's area minus twice the squared distance of its centre from the photo's centre
    (davidsandberg/facenet, src/align/align_dataset_mtcnn.py).

    Args:
      boxes: (n, 4), x0 y0 x1 y1 in pixels of the upright photo.
      width, height: (n,) or one number, the photo's, px.

    Returns:
      (n,) float64, square pixels.
    """
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).T
    off_centre = ((x0 + x1 - width) / 2) ** 2 + ((y0 + y1 - height) / 2) ** 2
    return (x1 - x0) * (y1 - y0) - 2 * off_centre


def _share(boxes: np.ndarray, others: np.ndarray, of_smaller: bool) -> np.ndarray:
    """(n, 4) and (m, 4) boxes to the (n, m) shares of their area that they have in common."""
    x0, y0, x1, y1 = boxes.T[:, :, None]
    other_x0, other_y0, other_x1, other_y1 = others.T
    common = np.maximum(np.minimum(x1, other_x1) - np.maximum(x0, other_x0), 0)
    common *= np.maximum(np.minimum(y1, other_y1) - np.maximum(y0, other_y0), 0)
    areas, other_areas = (x1 - x0) * (y1 - y0), (other_x1 - other_x0) * (other_y1 - other_y0)
    whole = np.minimum(areas, other_areas) if of_smaller else areas + other_areas - common
    return common / np.maximum(whole, 1e-9)  # a box may have been corrected to nothing


def touches(boxes: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """(n,) whether a box has at least a pixel in its photo of that (width, height)."""
    sizes = np.array(sizes, np.float32).reshape(-1, 2)
    inside = np.minimum(boxes[:, 2:], sizes) - np.maximum(boxes[:, :2], 0)
    return (inside >= 1).all(axis=1)


def corrected(boxes: np.ndarray, corrections: np.ndarray) -> np.ndarray:
    """Moves each side by the network's correction, a fraction of the box's width or height."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes + corrections * np.concatenate([sides, sides], axis=1)


def square(boxes: np.ndarray) -> np.ndarray:
    """The square around each box's centre with the box's longer side."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([centres - half, centres + half], axis=1)
