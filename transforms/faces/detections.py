"""The faces of a photo as the detector finds them."""

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, eq=False)
class Detections:
    """The n faces of a photo, by falling score. Equal if all arrays are.

    Attributes:
      boxes: (n, 4) float32, x0 y0 x1 y1 in px of the image; they may reach beyond it.
      landmarks: (n, 5, 2) float32, x y in px of the image: left eye, right eye, nose, left and
        right mouth corner, where left and right are the image's.
      scores: (n,) float32, O-Net's face probability.
    """

    boxes: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        )
