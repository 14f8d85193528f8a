"""The faces of a photo as the detector finds them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from facecluster.transforms.faces.turns import turn_back, turn_boxes, turn_points


@dataclass(frozen=True, eq=False)
class Detections:
    """The n faces of a photo, by falling score. Equal if all arrays are.

    Attributes:
      boxes: (n, 4) float32, x0 y0 x1 y1 in px of the image; they may reach beyond it. float64, in
        which turning back is exact, if the faces are not upright.
      landmarks: (n, 5, 2) of the same type, x y in px of the image: left eye, right eye, nose, left
        and right mouth corner, where left and right are those of the image once the face is
        upright.
      scores: (n,) float32, O-Net's face probability.
      turns: (n,) int16, degrees clockwise by which the image has to be turned for the face to be
        upright: 0, 90, 180 or 270.
    """

    boxes: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray
    turns: np.ndarray

    @classmethod
    def of_upright(
        cls, boxes: np.ndarray, landmarks: np.ndarray, scores: np.ndarray
    ) -> "Detections":
        """Detections of upright faces."""
        return cls(boxes, landmarks, scores, np.zeros(len(scores), np.int16))

    @property
    def best_score(self) -> float:
        """The highest score; 0 without faces."""
        return float(self.scores.max(initial=0))

    def take(self, rows: np.ndarray | Sequence[int]) -> "Detections":
        """The faces in these rows, by their index or as booleans."""
        return Detections(
            self.boxes[rows], self.landmarks[rows], self.scores[rows], self.turns[rows]
        )

    def move(self, factor: float, x: float, y: float) -> "Detections":
        """In px of an image of which this one is a part at (x, y), reduced by `factor`."""
        offset = np.array([x, y], np.float32)
        return Detections(
            (self.boxes - np.tile(offset, 2)) * np.float32(factor),
            (self.landmarks - offset) * np.float32(factor),
            self.scores,
            self.turns,
        )

    def turned_back(self, turn: int, size: tuple[int, int]) -> "Detections":
        """Upright faces of a photo that was turned, in px of the photo before it was turned.

        Args:
          turn: degrees clockwise by which it was turned.
          size: (width, height) of the turned photo.
        """
        back = turn_back(turn)
        return Detections(
            turn_boxes(self.boxes, back, size),
            turn_points(self.landmarks, back, size),
            self.scores,
            np.full(len(self.scores), turn, np.int16),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        )
