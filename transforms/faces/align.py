"""The align step: faces cut out of their photo at the embedding network's input size."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

import apache_beam as beam
import numpy as np
from PIL import Image

from facecluster.transforms.faces.boxes import clip_boxes
from facecluster.transforms.faces.quality import LUMA_SIZE, measure_quality
from facecluster.transforms.faces.turns import turn_upright
from facecluster.transforms.metrics import timed
from facecluster.transforms.records import Photo, step

THUMBNAIL_SIZE = 96  # px
THUMBNAIL_QUALITY = 85  # JPEG


@dataclass(eq=False)
class AlignFaces(beam.PTransform):
    """Cuts faces out of their photos, and measures their quality.

    Element in: a `Photo` with its image and the boxes and landmarks of its faces, as `DetectFaces`
    yields it.
    Element out: the `Photo` with crop, thumbnail and quality of each face, without the image; boxes
    and landmarks in px of the upright photo, boxes inside it.

    Reports the distribution `align_milliseconds`.

    Attributes:
      input_size: px, width and height of a crop; `input_size` of the embedding model's card.
      margin: px of the crop around the box (see `crop_face`); `margin` of that card.
    """

    input_size: int
    margin: int

    def expand(self, photos: beam.PCollection[Photo]) -> beam.PCollection[Photo]:
        align = beam.ParDo(_AlignFn(self.input_size, self.margin))
        return photos | align  # pyright: ignore[reportReturnType]


class _AlignFn(beam.DoFn):
    def __init__(self, input_size: int, margin: int):
        self.input_size, self.margin = input_size, margin

    def process(self, photo: Photo) -> Iterator[Photo]:
        if not photo.failure:
            with timed("align"):
                photo = align_faces(photo, self.input_size, self.margin)
        yield photo


@step("align")
def align_faces(photo: Photo, input_size: int, margin: int) -> Photo:
    """Fills in crop, thumbnail and quality of each face, and drops the image.

    Converts boxes and landmarks from px of the image to px of the photo, which differ if the photo
    was decoded at a reduced scale. Crop and thumbnail show the face upright. Boxes are cut off at
    the photo's edges only once the faces are aligned: the margin of a crop is a fraction of the
    whole face.
    """
    assert photo.image is not None
    assert photo.width is not None
    assert photo.height is not None
    faces = []
    scale = np.float32(photo.width / photo.image.width)
    boxes, turns = ([getattr(face, name) for face in photo.faces] for name in ("box", "turn"))
    upright = turn_upright(photo.image, boxes, turns)
    for face, (image, upright_box) in zip(photo.faces, upright, strict=True):
        crop = crop_face(image, upright_box, input_size, margin)
        luma = np.asarray(crop_face(image, upright_box, LUMA_SIZE, 0).convert("L"))
        box = clip_boxes(face.box * scale, (photo.width, photo.height)).astype(np.float32)
        landmarks = (face.landmarks * scale).astype(np.float32)
        faces.append(
            replace(
                face,
                box=box,
                landmarks=landmarks,
                crop=np.asarray(crop),
                thumbnail=encode_thumbnail(crop),
                quality=measure_quality(box, landmarks, luma),
            )
        )
    return replace(photo, image=None, faces=tuple(faces))


def crop_face(image: Image.Image, box: np.ndarray, input_size: int, margin: int) -> Image.Image:
    """Cuts out a face's box with a margin, resized to the network's input size.

    The margin is in px of the crop: the box fills input_size - margin of it, whatever the photo's
    resolution (facenet-pytorch's rule; the original alignment, davidsandberg/facenet
    align/align_dataset_mtcnn.py, takes px of the photo, which for its 250 px photos is about the
    same). What lies outside the photo is cut off, and the rest is stretched to a square, as both
    do.

    Args:
      image: the photo, turned so that the face is upright.
      box: (4,) x0 y0 x1 y1 in px of the image.
      input_size: px, width and height of the crop.
      margin: px of the crop, both sides together.

    Returns:
      An RGB image, input_size x input_size.

    Raises:
      ValueError: the box lies outside the photo.
    """
    x0, y0, x1, y1 = (float(side) for side in box)
    growth = margin / (input_size - margin) / 2
    x_margin, y_margin = (x1 - x0) * growth, (y1 - y0) * growth
    x0, y0 = max(x0 - x_margin, 0), max(y0 - y_margin, 0)
    x1, y1 = min(x1 + x_margin, image.width), min(y1 + y_margin, image.height)
    if x1 - x0 < 1 or y1 - y0 < 1:
        raise ValueError(f"the face box {box.tolist()} lies outside the photo")
    size = (input_size, input_size)
    return image.resize(size, Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))


def encode_thumbnail(crop: Image.Image) -> bytes:
    """A small JPEG of an aligned face."""
    small = crop.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BOX)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=THUMBNAIL_QUALITY)
    return file.getvalue()
