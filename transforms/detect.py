"""MTCNN as a detector: many photos at a time through the published cascade.

Zhang et al. (arXiv 1604.02878), with the thresholds, overlaps and rounding-free geometry of the
published implementations (davidsandberg/facenet align/detect_face.py). What differs is how the
work is laid out: the pyramid of a photo is packed into one canvas, and canvases of equal size and
the candidates of all photos go through each network together.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import apache_beam as beam
import numpy as np
from PIL import Image

from facecluster.transforms.photo import Face, Photo, failing
from facecluster.transforms.saved_model import SavedModel

P_NET_WINDOW, P_NET_STRIDE = 12, 2  # px
R_NET_SIZE, O_NET_SIZE = 24, 48  # px
PYRAMID_FACTOR = 0.709  # between pyramid levels: half the area
THRESHOLDS = (0.6, 0.7, 0.7)  # least face probability after P-Net, R-Net, O-Net
LEVEL_OVERLAP, MERGED_OVERLAP = 0.5, 0.7  # overlap at which the weaker candidate goes

# How much goes through a network at once: larger calls are no faster on a CPU and need more memory.
CANVAS_PIXELS_PER_CALL = 500_000
CROPS_PER_CALL = {R_NET_SIZE: 128, O_NET_SIZE: 32}

SUPPRESSION_BLOCK = 256  # boxes compared with all others at once, which bounds the memory

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
        boxes = _square(boxes)
        scores, corrections = self._classify("r_net", R_NET_SIZE, images, owners, boxes)
        keep = scores > THRESHOLDS[1]
        owners, boxes, scores = owners[keep], boxes[keep], scores[keep]
        corrections = corrections[keep]
        keep = suppress(boxes, scores, MERGED_OVERLAP, owners)
        return owners[keep], _corrected(boxes[keep], corrections[keep])

    def _output(self, images, owners, boxes):
        """O-Net: faces with landmarks."""
        boxes = _square(boxes)
        scores, corrections, points = self._classify("o_net", O_NET_SIZE, images, owners, boxes)
        keep = scores > THRESHOLDS[2]
        owners, boxes, scores = owners[keep], boxes[keep], scores[keep]
        corrections, points = corrections[keep], points[keep]
        sides = boxes[:, 2:] - boxes[:, :2]
        landmarks = np.stack([points[:, :5], points[:, 5:]], axis=2) * sides[:, None]
        landmarks += boxes[:, None, :2]
        boxes = _corrected(boxes, corrections)
        keep = suppress(boxes, scores, MERGED_OVERLAP, owners, of_smaller=True)
        keep = keep[_touches(boxes[keep], [images[owner].size for owner in owners[keep]])]
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
            outputs.append(self.model.call(endpoint, _stacked(cuts, size)))
        scores, *others = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return scores[:, 0], *others


@dataclass(frozen=True)
class Level:
    """One level of a pyramid: its place in the canvas and its size, in px, and its two scales."""

    x: int
    y: int
    width: int
    height: int
    scale_x: float
    scale_y: float


@dataclass(frozen=True)
class Canvas:
    """A photo's whole pyramid laid out in one picture, so that P-Net sees it in one call.

    Levels stand in rows of columns, first fit. They start at even places, where P-Net's stride
    falls on their own origin, so a window inside a level sees what it would see in it alone.
    """

    width: int
    height: int
    levels: tuple[Level, ...]

    @classmethod
    def of(cls, size: tuple[int, int], min_face_size: int) -> "Canvas":
        """The canvas for photos of one size (width, height)."""
        sides = []  # (width, height) of each level, falling
        scale = P_NET_WINDOW / min_face_size
        while min(size) * scale >= P_NET_WINDOW:
            sides.append(tuple(math.ceil(side * scale) for side in size))
            scale *= PYRAMID_FACTOR
        canvas_height = _even(sides[0][1]) if sides else 0
        columns: list[_Column] = []
        levels = []
        for width, height in sides:
            places = (column.place(width, height, canvas_height) for column in columns)
            place = next((place for place in places if place), None)
            if place is None:
                left = columns[-1].x + columns[-1].width if columns else 0
                columns.append(_Column(left, _even(width)))
                place = columns[-1].place(width, height, canvas_height)
            levels.append(Level(*place, width, height, width / size[0], height / size[1]))
        canvas_width = columns[-1].x + columns[-1].width if columns else 0
        return cls(canvas_width, canvas_height, tuple(levels))

    def draw(self, image: Image.Image) -> np.ndarray:
        """(height, width, 3) uint8: the image at every level's size, area-averaged."""
        canvas = Image.new("RGB", (self.width, self.height))
        drawn: list[Image.Image] = []
        for i, level in enumerate(self.levels):
            # Two levels up is twice the size: averaging that is as good and reads far less.
            source = drawn[i - 2] if i >= 2 else image
            how = _resampling(source.width, level.width)
            drawn.append(source.resize((level.width, level.height), how))
            canvas.paste(drawn[-1], (level.x, level.y))
        return np.asarray(canvas)


@dataclass
class _Column:
    """A column of a canvas, filled row by row."""

    x: int
    width: int
    rows: list[list[int]] = field(default_factory=list)  # [top, height, width used]

    def place(self, width: int, height: int, canvas_height: int) -> tuple[int, int] | None:
        """Where a level of this size goes (x, y), or None when there is no room for it."""
        for row in self.rows:
            if height <= row[1] and row[2] + width <= self.width:
                row[2] += _even(width)
                return self.x + row[2] - _even(width), row[0]
        top = self.rows[-1][0] + self.rows[-1][1] if self.rows else 0
        if width > self.width or top + height > canvas_height:
            return None
        self.rows.append([top, _even(height), _even(width)])
        return self.x, top


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
        return failing(photo, "detect", error)


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


def _even(length: int) -> int:
    return length + length % 2


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
    return _corrected(boxes[keep], corrections[keep]).astype(np.float32)


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


def _share(boxes: np.ndarray, others: np.ndarray, of_smaller: bool) -> np.ndarray:
    """(n, 4) and (m, 4) boxes to the (n, m) shares of their area that they have in common."""
    x0, y0, x1, y1 = boxes.T[:, :, None]
    other_x0, other_y0, other_x1, other_y1 = others.T
    common = np.maximum(np.minimum(x1, other_x1) - np.maximum(x0, other_x0), 0)
    common *= np.maximum(np.minimum(y1, other_y1) - np.maximum(y0, other_y0), 0)
    areas, other_areas = (x1 - x0) * (y1 - y0), (other_x1 - other_x0) * (other_y1 - other_y0)
    whole = np.minimum(areas, other_areas) if of_smaller else areas + other_areas - common
    return common / np.maximum(whole, 1e-9)  # a box may have been corrected to nothing


def _touches(boxes: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """(n,) whether a box has at least a pixel in its photo of that (width, height)."""
    sizes = np.array(sizes, np.float32).reshape(-1, 2)
    inside = np.minimum(boxes[:, 2:], sizes) - np.maximum(boxes[:, :2], 0)
    return (inside >= 1).all(axis=1)


def _corrected(boxes: np.ndarray, corrections: np.ndarray) -> np.ndarray:
    """Moves each side by the network's correction, a fraction of the box's width or height."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes + corrections * np.concatenate([sides, sides], axis=1)


def _square(boxes: np.ndarray) -> np.ndarray:
    """The square around each box's centre with the box's longer side."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def _cut(image: Image.Image, box: Sequence[float], size: int) -> Image.Image:
    """A box of the image at size x size, area-averaged; black where it reaches over the edge."""
    x0, y0, x1, y1 = box
    if x0 < 0 or y0 < 0 or x1 > image.width or y1 > image.height:
        x0, y0 = int(np.floor(x0)), int(np.floor(y0))
        image = image.crop((x0, y0, int(np.ceil(x1)), int(np.ceil(y1))))
        box = (box[0] - x0, box[1] - y0, x1 - x0, y1 - y0)
    # The gap lets Pillow average whole pixels of large boxes first, which is faster.
    return image.resize((size, size), _resampling(x1 - x0, size), box, reducing_gap=2.0)


def _stacked(cuts: Sequence[Image.Image], size: int) -> np.ndarray:
    """(n, size, size, 3) uint8; one picture of all and one conversion, as each has its price."""
    strip = Image.new("RGB", (size, size * len(cuts)))
    for i, cut in enumerate(cuts):
        strip.paste(cut, (0, i * size))
    return np.asarray(strip).reshape(len(cuts), size, size, 3)


def _resampling(length: float, new_length: float) -> Image.Resampling:
    """Area averaging to make smaller; it would make blocks of pixels that are made larger."""
    smaller = new_length <= length
    return Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
