"""MTCNN as a detector: many photos at a time through the published cascade.

Zhang et al. (arXiv 1604.02878), with the thresholds, overlaps and rounding-free geometry of the
published implementations (davidsandberg/facenet align/detect_face.py). What differs is how the
work is laid out: the pyramid of a photo is packed into one canvas, and canvases of equal size and
the candidates of all photos go through each network together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import apache_beam as beam
import numpy as np
from PIL import Image

from facecluster.transforms.faces.boxes import corrected, square, suppress, touches
from facecluster.transforms.faces.pyramid import P_NET_STRIDE, P_NET_WINDOW, Canvas, resampling
from facecluster.transforms.faces.saved_model import CROPS_MULTIPLE, SavedModel
from facecluster.transforms.records import Face, Photo, failure_of, mark_failed

R_NET_SIZE, O_NET_SIZE = 24, 48  # px
THRESHOLDS = (0.6, 0.7, 0.7)  # least face probability after P-Net, R-Net, O-Net
LEVEL_OVERLAP, MERGED_OVERLAP = 0.5, 0.7  # overlap at which the weaker candidate goes

# How much goes through a network at once: larger calls are no faster on a CPU and need more memory.
CANVAS_PIXELS_PER_CALL = 500_000
CROPS_PER_CALL = {R_NET_SIZE: 128, O_NET_SIZE: 32}

# A batch of photos for the detector: at most this many, and fewer when they are large.
PHOTOS_PER_BATCH = 32
BYTES_PER_BATCH = 256 << 20  # of decoded pixels


@dataclass(frozen=True)
class Detections:
    """The n faces of a photo, surest first.

    Attributes:
      boxes: (n, 4) float32, x0 y0 x1 y1 in pixels of the upright photo.
      landmarks: (n, 5, 2) float32, x y in the same pixels.
      scores: (n,) float32, O-Net's face probability.
    """

    boxes: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Detector:
    """MTCNN with its settings.

    Attributes:
      model: the exported MTCNN, with endpoints p_net, r_net, o_net on uint8 pixels.
      min_face_size: px, the smallest face searched for in a photo of at most `max_side`.
      max_side: px, a photo whose longer side is larger is searched on a copy reduced to this, and
        the smallest face grows in proportion.
    """

    model: SavedModel
    min_face_size: int
    max_side: int

    def detect(self, images: Sequence[Image.Image]) -> list[Detections]:
        """Finds all faces of each RGB image."""
        reductions = [max(1.0, max(image.size) / self.max_side) for image in images]
        searched = [_reduced(image, r) for image, r in zip(images, reductions, strict=True)]
        owners, boxes = self._propose(searched)
        owners, boxes = self._refine(searched, owners, boxes)
        owners, boxes, landmarks, scores = self._output(searched, owners, boxes)
        found = []
        for i, reduction in enumerate(reductions):
            mine = np.flatnonzero(owners == i)  # still surest first
            found.append(
                Detections(boxes[mine] * reduction, landmarks[mine] * reduction, scores[mine])
            )
        return found

    def _propose(self, images):
        """P-Net: (owners, boxes) of candidates, owners: (n,) index into images."""
        all_owners, all_boxes = [np.empty(0, int)], [np.empty((0, 4), np.float32)]
        by_size: dict[tuple[int, int], list[int]] = {}
        for i, image in enumerate(images):
            by_size.setdefault(image.size, []).append(i)
        for size, members in by_size.items():
            canvas = Canvas.of(size, self.min_face_size)
            if not canvas.levels:
                continue
            per_call = max(1, CANVAS_PIXELS_PER_CALL // (canvas.height * canvas.width))
            for start in range(0, len(members), per_call):
                part = members[start : start + per_call]
                pixels = np.stack([canvas.draw(images[i]) for i in part])
                scores, corrections = self.model.call("p_net", pixels)
                for i, score, correction in zip(part, scores[..., 0], corrections, strict=True):
                    boxes = _proposals(canvas, score, correction)
                    all_owners.append(np.full(len(boxes), i))
                    all_boxes.append(boxes)
        return np.concatenate(all_owners), np.concatenate(all_boxes)

    def _refine(self, images, owners, boxes):
        """R-Net: fewer and better candidates."""
        boxes = square(boxes)
        scores, corrections = self._classify("r_net", R_NET_SIZE, images, owners, boxes)
        keep = scores > THRESHOLDS[1]
        owners, boxes, scores = owners[keep], boxes[keep], scores[keep]
        corrections = corrections[keep]
        keep = suppress(boxes, scores, MERGED_OVERLAP, owners)
        return owners[keep], corrected(boxes[keep], corrections[keep])

    def _output(self, images, owners, boxes):
        """O-Net: faces with landmarks."""
        boxes = square(boxes)
        scores, corrections, points = self._classify("o_net", O_NET_SIZE, images, owners, boxes)
        keep = scores > THRESHOLDS[2]
        owners, boxes, scores = owners[keep], boxes[keep], scores[keep]
        corrections, points = corrections[keep], points[keep]
        sides = boxes[:, 2:] - boxes[:, :2]
        landmarks = np.stack([points[:, :5], points[:, 5:]], axis=2) * sides[:, None]
        landmarks += boxes[:, None, :2]
        boxes = corrected(boxes, corrections)
        keep = suppress(boxes, scores, MERGED_OVERLAP, owners, of_smaller=True)
        keep = keep[touches(boxes[keep], [images[owner].size for owner in owners[keep]])]
        return owners[keep], boxes[keep], landmarks[keep].astype(np.float32), scores[keep]

    def _classify(self, endpoint, size, images, owners, boxes):
        """Runs R-Net or O-Net on the square boxes, each cut out of its image at size x size."""
        per_call = CROPS_PER_CALL[size]
        outputs = []
        for start in range(0, max(len(boxes), 1), per_call):
            part = slice(start, start + per_call)
            cuts = [
                _cut(images[owner], box, size)
                for owner, box in zip(owners[part].tolist(), boxes[part].tolist(), strict=True)
            ]
            outputs.append(self.model.call(endpoint, _stacked(cuts, size), CROPS_MULTIPLE))
        scores, *others = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return scores[:, 0], *others


class DetectFaces(beam.PTransform):
    """From decoded photos to photos with their faces (box, landmarks, score)."""

    def __init__(self, model: SavedModel, min_face_size: int, max_side: int):
        self.do_fn = _DetectFn(Detector(model, min_face_size, max_side))

    def expand(self, photos):
        full_share = BYTES_PER_BATCH // PHOTOS_PER_BATCH
        return (
            photos
            | beam.BatchElements(
                min_batch_size=BYTES_PER_BATCH,
                max_batch_size=BYTES_PER_BATCH,
                element_size_fn=lambda photo: max(full_share, _n_bytes(photo)),
            )
            | beam.ParDo(self.do_fn)
        )


class _DetectFn(beam.DoFn):
    def __init__(self, detector: Detector):
        self.detector = detector

    def setup(self):
        self.detector.model.load()

    def process(self, photos: Sequence[Photo]) -> Iterable[Photo]:
        return detect_faces(self.detector, photos)


def detect_faces(detector: Detector, photos: Sequence[Photo]) -> list[Photo]:
    """Fills in the faces of photos; should a batch fail, each of its photos is tried alone.

    Raises:
      Exception: what the detector raised, when it did so for each of several photos: then it is
        not the photos that are broken.
    """
    usable = [photo for photo in photos if not photo.failure]
    try:
        done = _with_faces(detector, usable)
    except Exception as error:
        done = [_tried_alone(detector, photo) for photo in usable]
        if len(done) > 1 and all(photo.failure for photo in done):
            raise error
    return [*(photo for photo in photos if photo.failure), *done]


def _tried_alone(detector: Detector, photo: Photo) -> Photo:
    try:
        return _with_faces(detector, [photo])[0]
    except Exception as error:
        return mark_failed(photo, failure_of("detect", error))


def _with_faces(detector: Detector, photos: Sequence[Photo]) -> list[Photo]:
    return [
        replace(
            photo,
            faces=tuple(
                Face(box, landmarks, float(score))
                for box, landmarks, score in zip(
                    found.boxes, found.landmarks, found.scores, strict=True
                )
            ),
        )
        for photo, found in zip(photos, detector.detect([p.image for p in photos]), strict=True)
    ]


def _n_bytes(photo: Photo) -> int:
    return 3 * photo.image.width * photo.image.height if photo.image else 0


def _reduced(image: Image.Image, reduction: float) -> Image.Image:
    if reduction == 1.0:
        return image
    size = tuple(max(1, round(side / reduction)) for side in image.size)
    return image.resize(size, Image.Resampling.BOX)


def _proposals(canvas: Canvas, scores: np.ndarray, corrections: np.ndarray) -> np.ndarray:
    """P-Net's map of one canvas into corrected boxes of the photo, (n, 4)."""
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
    keep = suppress(boxes, scores, LEVEL_OVERLAP, levels)
    keep = keep[suppress(boxes[keep], scores[keep], MERGED_OVERLAP)]
    return corrected(boxes[keep], corrections[keep]).astype(np.float32)


def _cut(image: Image.Image, box: Sequence[float], size: int) -> Image.Image:
    """A box of the image at size x size, area-averaged; black where it reaches over the edge."""
    x0, y0, x1, y1 = box
    if x0 < 0 or y0 < 0 or x1 > image.width or y1 > image.height:
        x0, y0 = int(np.floor(x0)), int(np.floor(y0))
        image = image.crop((x0, y0, int(np.ceil(x1)), int(np.ceil(y1))))
        box = (box[0] - x0, box[1] - y0, x1 - x0, y1 - y0)
    # The gap lets Pillow average whole pixels of large boxes first, which is faster.
    return image.resize((size, size), resampling(x1 - x0, size), box, reducing_gap=2.0)


def _stacked(cuts: Sequence[Image.Image], size: int) -> np.ndarray:
    """(n, size, size, 3) uint8; one picture of all and one conversion, as each has its price."""
    strip = Image.new("RGB", (size, size * len(cuts)))
    for i, cut in enumerate(cuts):
        strip.paste(cut, (0, i * size))
    return np.asarray(strip).reshape(len(cuts), size, size, 3)
