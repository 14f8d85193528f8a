"""MTCNN as a face detector for batches of photos.

The cascade of Zhang et al. (arXiv 1604.02878), with the thresholds, overlaps and rounding-free
geometry of the published implementations (davidsandberg/facenet align/detect_face.py). The batching
differs: a photo's pyramid is packed into one canvas, and canvases of equal size and the candidates
of all photos go through each network together. Panoramas go through P-Net in pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from facecluster.transforms.faces.boxes import (
    apply_corrections,
    non_maximum_suppression,
    overlaps_photo,
    square_boxes,
)
from facecluster.transforms.faces.detections import Detections
from facecluster.transforms.faces.pyramid import (
    P_NET_STRIDE,
    P_NET_WINDOW,
    Canvas,
    choose_filter,
    choose_reduction,
    cut_out,
    list_pieces,
)
from facecluster.transforms.faces.saved_model import CROPS_MULTIPLE, SavedModel
from facecluster.transforms.faces.second_look import (
    LIKELY_SCORE,
    SURE_SCORE,
    choose_turns,
    merge_detections,
    search_with_border,
)
from facecluster.transforms.faces.turns import turn_image

R_NET_SIZE, O_NET_SIZE = 24, 48  # px
THRESHOLDS = (0.6, 0.7, 0.7)  # minimum face probability after P-Net, R-Net, O-Net
# Overlap above which the candidate of lower score is removed, within a pyramid level and later.
LEVEL_OVERLAP, MERGED_OVERLAP = 0.5, 0.7

# The size of one network call: larger ones are no faster on a CPU and need more memory.
CANVAS_PIXELS_PER_CALL = 500_000
CROPS_PER_CALL = {R_NET_SIZE: 128, O_NET_SIZE: 32}


@dataclass(frozen=True)
class Detector:
    """MTCNN with its settings.

    Attributes:
      model: the exported MTCNN, with endpoints p_net, r_net, o_net on uint8 pixels.
      min_face_size: px, the smallest face to search for.
      detection_size: px, an image whose longer side is larger is searched on a copy reduced to
        this, and the smallest face grows in proportion. The longer side of a panorama counts as
        twice its shorter side.
    """

    model: SavedModel
    min_face_size: int
    detection_size: int

    def detect(self, images: Sequence[Image.Image]) -> list[Detections]:
        """Finds all faces of each RGB image, also if the image is turned or a face fills it."""
        reductions, copies = self._reduce(images)
        found = self._search_copies(reductions, copies)
        doubtful = [i for i, faces in enumerate(found) if faces.best_score < SURE_SCORE]
        turns = choose_turns(self.search, [copies[i] for i in doubtful])
        for i, turn in zip(doubtful, turns, strict=True):
            if turn is not None:
                found[i] = self._look_again(images[i], turn, found[i])
        return found

    def search(self, images: Sequence[Image.Image], min_face_size: int) -> list[Detections]:
        """Finds the upright faces of images of any size, which are not reduced."""
        owners, boxes = self._propose(images, min_face_size)
        owners, boxes = self._refine(images, owners, boxes)
        owners, boxes, landmarks, scores = self._output(images, owners, boxes)
        rows = [np.flatnonzero(owners == i) for i in range(len(images))]  # by falling score
        return [Detections.of_upright(boxes[r], landmarks[r], scores[r]) for r in rows]

    def _reduce(self, images):
        """(reductions, copies): the copies on which images are searched."""
        reductions = [choose_reduction(image.size, self.detection_size) for image in images]
        return reductions, [_reduce(image, r) for image, r in zip(images, reductions, strict=True)]

    def _search_copies(self, reductions, copies):
        found = self.search(copies, self.min_face_size)
        return [faces.move(r, 0, 0) for faces, r in zip(found, reductions, strict=True)]

    def _look_again(self, image, turn, upright):
        """The faces of an image that has to be turned, or has faces that fill it."""
        if turn:
            image = turn_image(image, turn)
            reductions, copies = self._reduce([image])
            (found,) = self._search_copies(reductions, copies)
        else:
            found = upright
        if found.best_score < LIKELY_SCORE:
            found = merge_detections(found, search_with_border(self.search, image))
        if not turn:
            return found
        surer = found.best_score >= max(LIKELY_SCORE, upright.best_score)
        return found.turned_back(turn, image.size) if surer else upright

    def _propose(self, images, min_face_size):
        """P-Net: (owners, boxes) of the candidates, owners: (n,) indices into images."""
        all_owners, all_boxes = [np.empty(0, int)], [np.empty((0, 4), np.float32)]
        by_size: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        for i, image in enumerate(images):
            for left, top, width, height in list_pieces(image.size, self.detection_size**2):
                by_size.setdefault((width, height), []).append((i, left, top))
        for size, pieces in by_size.items():
            canvas = Canvas.of(size, min_face_size)
            if not canvas.levels:
                continue
            per_call = max(1, CANVAS_PIXELS_PER_CALL // (canvas.height * canvas.width))
            for start in range(0, len(pieces), per_call):
                part = pieces[start : start + per_call]
                cuts = (cut_out(images[i], left, top, *size) for i, left, top in part)
                pixels = np.stack([canvas.draw(cut) for cut in cuts])
                scores, corrections = self.model.call("p_net", pixels)
                for (i, left, top), score, correction in zip(
                    part, scores[..., 0], corrections, strict=True
                ):
                    boxes = _propose_boxes(canvas, score, correction)
                    all_owners.append(np.full(len(boxes), i))
                    all_boxes.append(boxes + np.array([left, top, left, top], np.float32))
        return np.concatenate(all_owners), np.concatenate(all_boxes)

    def _refine(self, images, owners, boxes):
        """R-Net: fewer and more accurate candidates."""
        boxes = square_boxes(boxes)
        scores, corrections = self._classify("r_net", R_NET_SIZE, images, owners, boxes)
        keep = scores > THRESHOLDS[1]
        owners, boxes, scores = owners[keep], boxes[keep], scores[keep]
        corrections = corrections[keep]
        keep = non_maximum_suppression(boxes, scores, MERGED_OVERLAP, owners)
        return owners[keep], apply_corrections(boxes[keep], corrections[keep])

    def _output(self, images, owners, boxes):
        """O-Net: faces with landmarks and scores, by falling score."""
        boxes = square_boxes(boxes)
        scores, corrections, points = self._classify("o_net", O_NET_SIZE, images, owners, boxes)
        keep = scores > THRESHOLDS[2]
        owners, boxes, scores = owners[keep], boxes[keep], scores[keep]
        corrections, points = corrections[keep], points[keep]
        sides = boxes[:, 2:] - boxes[:, :2]
        landmarks = np.stack([points[:, :5], points[:, 5:]], axis=2) * sides[:, None]
        landmarks += boxes[:, None, :2]
        boxes = apply_corrections(boxes, corrections)
        keep = non_maximum_suppression(boxes, scores, MERGED_OVERLAP, owners, of_smaller=True)
        keep = keep[overlaps_photo(boxes[keep], [images[owner].size for owner in owners[keep]])]
        return owners[keep], boxes[keep], landmarks[keep].astype(np.float32), scores[keep]

    def _classify(self, endpoint, size, images, owners, boxes):
        """Runs R-Net or O-Net on square boxes, each cut out of its image at size x size."""
        per_call = CROPS_PER_CALL[size]
        outputs = []
        for start in range(0, max(len(boxes), 1), per_call):
            part = slice(start, start + per_call)
            cuts = [
                _cut(images[owner], box, size)
                for owner, box in zip(owners[part].tolist(), boxes[part].tolist(), strict=True)
            ]
            outputs.append(self.model.call(endpoint, _stack(cuts, size), CROPS_MULTIPLE))
        scores, *others = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return scores[:, 0], *others


def _reduce(image: Image.Image, reduction: float) -> Image.Image:
    if reduction == 1.0:
        return image
    width, height = (max(1, round(side / reduction)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _propose_boxes(canvas: Canvas, scores: np.ndarray, corrections: np.ndarray) -> np.ndarray:
    """P-Net's maps of one canvas to corrected boxes, (n, 4) float32, in px of the photo."""
    rows, columns = np.nonzero(scores > THRESHOLDS[0])
    left, top = columns * P_NET_STRIDE, rows * P_NET_STRIDE
    boxes, levels, kept = [], [], []
    for number, level in enumerate(canvas.levels):
        x, y = left - level.x, top - level.y
        inside = np.flatnonzero(
            (x >= 0) & (x + P_NET_WINDOW <= level.width)
            & (y >= 0) & (y + P_NET_WINDOW <= level.height)
        )  # fmt: skip
        corners = np.stack([x, y, x + P_NET_WINDOW, y + P_NET_WINDOW], 1)[inside]
        boxes.append(corners / np.array([level.scale_x, level.scale_y] * 2))
        levels.append(np.full(len(inside), number))
        kept.append(inside)
    boxes, levels, kept = (np.concatenate(parts) for parts in (boxes, levels, kept))
    scores, corrections = scores[rows, columns][kept], corrections[rows, columns][kept]
    keep = non_maximum_suppression(boxes, scores, LEVEL_OVERLAP, levels)
    keep = keep[non_maximum_suppression(boxes[keep], scores[keep], MERGED_OVERLAP)]
    return apply_corrections(boxes[keep], corrections[keep]).astype(np.float32)


def _cut(image: Image.Image, box: Sequence[float], size: int) -> Image.Image:
    """A box of the image, area-averaged to size x size; black beyond the image's edges."""
    x0, y0, x1, y1 = box
    area = (x0, y0, x1, y1)
    if x0 < 0 or y0 < 0 or x1 > image.width or y1 > image.height:
        x0, y0 = int(np.floor(x0)), int(np.floor(y0))
        image = cut_out(image, x0, y0, int(np.ceil(x1)) - x0, int(np.ceil(y1)) - y0)
        area = (box[0] - x0, box[1] - y0, x1 - x0, y1 - y0)
    # With a gap, Pillow first averages whole pixels of large boxes, which is faster.
    return image.resize((size, size), choose_filter(x1 - x0, size), area, reducing_gap=2.0)


def _stack(cuts: Sequence[Image.Image], size: int) -> np.ndarray:
    """(n, size, size, 3) uint8. One conversion of all cuts is faster than one per cut."""
    strip = Image.new("RGB", (size, size * len(cuts)))
    for i, cut in enumerate(cuts):
        strip.paste(cut, (0, i * size))
    return np.asarray(strip).reshape(len(cuts), size, size, 3)
