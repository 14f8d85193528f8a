"""A second look at photos without a sure face: turned, and with a border around.

MTCNN finds upright faces that lie within the picture. Photos without EXIF may lie on their side or
head down, and the face of a selfie may be larger than the picture. So a photo in which no face is
sure is drawn once more, small and in all four orientations, on one gray sheet. Where the sheet
shows a sure face, the photo is searched again in that orientation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from facecluster.transforms.faces.boxes import non_maximum_suppression
from facecluster.transforms.faces.detections import Detections
from facecluster.transforms.faces.pyramid import cut_out, list_pieces
from facecluster.transforms.faces.turns import TURNS, turn_image

# A photo whose best face has at least this score is not looked at again: 98 % of 300 photos of
# LFW's tuning half, and at most 1 % of their turned copies.
SURE_SCORE = 0.995
SHEET_SCORE = 0.9  # of a face on a sheet whose orientation is searched
LIKELY_SCORE = 0.98  # of the best face of a turned photo; and of one that needs no border
BORDERED_SCORE = 0.95  # of a face that is found only with a border

SHEET_REDUCTION = 5  # the sheet then costs a third of the first look
SHEET_MIN_SIDE = 40  # px, the shorter side of a photo on the sheet, if the photo is that large
SHEET_MIN_FACE_SIZE = 20  # px on the sheet
SHEET_GAP = 0.25  # between photos on the sheet, as a fraction of their shorter side
BORDER = 0.5  # around a photo, as a fraction of its shorter side
BORDERED_SIDE = 160  # px, the shorter side of a photo that is searched with a border
BORDERED_MIN_FACE = 0.5  # of the photo's shorter side: smaller faces need no border
# Zero to the networks. With a black border, a third of the faces are found that are 1.7 times as
# high as their photo; with gray, nine tenths.
BORDER_COLOR = (127, 127, 127)
SAME_FACE_OVERLAP = 0.7  # of the smaller box, as after O-Net

# Searches images as they are, for faces of at least so many px.
Search = Callable[[Sequence[Image.Image], int], list[Detections]]


@dataclass(frozen=True)
class Sheet:
    """A photo, small and in all four orientations, on one picture.

    Attributes:
      image: the picture.
      corners: {turn: (left, top)} px of each copy.
      size: (width, height) px of the copy that is not turned.
    """

    image: Image.Image
    corners: dict[int, tuple[int, int]]
    size: tuple[int, int]

    @classmethod
    def draw(cls, photo: Image.Image) -> "Sheet":
        """The sheet of a photo; copies are placed like the sails of a windmill."""
        reduction = max(1, min(SHEET_REDUCTION, min(photo.size) / SHEET_MIN_SIDE))
        width, height = (max(1, round(side / reduction)) for side in photo.size)
        small = photo.resize((width, height), Image.Resampling.BOX)
        gap = round(SHEET_GAP * min(width, height))
        near, right, below = gap, 2 * gap + width, 2 * gap + height
        corners = {0: (near, near), 90: (right, near), 180: (below, right), 270: (near, below)}
        side = 3 * gap + width + height
        image = Image.new("RGB", (side, side), BORDER_COLOR)
        for turn, corner in corners.items():
            image.paste(turn_image(small, turn), corner)
        return cls(image, corners, (width, height))

    def best_scores(self, found: Detections) -> dict[int, float]:
        """{turn: highest score of a face whose center is on that copy, 0 without}."""
        centers = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        scores = {}
        for turn, corner in self.corners.items():
            size = self.size if turn % 180 == 0 else self.size[::-1]
            inside = np.all((centers >= corner) & (centers < np.add(corner, size)), axis=1)
            scores[turn] = float(found.scores[inside].max(initial=0))
        return scores


def choose_turns(search: Search, copies: Sequence[Image.Image]) -> list[int | None]:
    """The orientation in which each photo shows its surest face; None if it shows no sure one.

    Panoramas are drawn in pieces, since the sheet of a long strip would be nearly empty.
    """
    sheets, owners = [], []
    for owner, copy in enumerate(copies):
        for left, top, width, height in list_pieces(copy.size, 2 * min(copy.size) ** 2):
            sheets.append(Sheet.draw(cut_out(copy, left, top, width, height)))
            owners.append(owner)
    best = np.zeros((len(copies), len(TURNS)))
    found = search([sheet.image for sheet in sheets], SHEET_MIN_FACE_SIZE)
    for owner, sheet, faces in zip(owners, sheets, found, strict=True):
        scores = sheet.best_scores(faces)
        best[owner] = np.maximum(best[owner], [scores[turn] for turn in TURNS])
    return [TURNS[int(scores.argmax())] if scores.max() >= SHEET_SCORE else None for scores in best]


def search_with_border(search: Search, photo: Image.Image) -> Detections:
    """The faces that fill a photo, or are larger than it, by falling score."""
    reduction = max(1.0, min(photo.size) / BORDERED_SIDE)
    width, height = (max(1, round(side / reduction)) for side in photo.size)
    border = round(BORDER * min(width, height))
    framed = Image.new("RGB", (width + 2 * border, height + 2 * border), BORDER_COLOR)
    framed.paste(photo.resize((width, height), Image.Resampling.BOX), (border, border))
    min_face_size = max(SHEET_MIN_FACE_SIZE, round(BORDERED_MIN_FACE * min(width, height)))
    (found,) = search([framed], min_face_size)
    return found.take(found.scores >= BORDERED_SCORE).move(reduction, border, border)


def merge_detections(first: Detections, second: Detections) -> Detections:
    """The faces of both, by falling score; of two boxes of one face, that of the higher score."""
    both = Detections(
        *(
            np.concatenate([getattr(first, name), getattr(second, name)])
            for name in ("boxes", "landmarks", "scores", "turns")
        )
    )
    kept = non_maximum_suppression(both.boxes, both.scores, SAME_FACE_OVERLAP, of_smaller=True)
    return both.take(kept)
