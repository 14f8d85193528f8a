"""Faces cut out of their photo the way the embedding model wants them."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from facecluster.transforms.faces.quality import LUMA_SIZE, quality_of
from facecluster.transforms.records import Photo, step

THUMBNAIL_SIZE = 96  # px
THUMBNAIL_QUALITY = 85  # JPEG


@step("align")
def align_faces(photo: Photo, input_size: int, margin: int) -> Photo:
    """Fills in crop, thumbnail and quality of every face; drops the image.

    Boxes and landmarks come in px of the image and go in px of the photo, which differ where it was
    decoded at a scale.
    """
    faces = []
    scale = np.float32(photo.width / photo.image.width)
    for face in photo.faces:
        crop = crop_face(photo.image, face.box, input_size, margin)
        luma = np.asarray(crop_face(photo.image, face.box, LUMA_SIZE, 0).convert("L"))
        box, landmarks = face.box * scale, face.landmarks * scale
        faces.append(
            replace(
                face,
                box=box,
                landmarks=landmarks,
                crop=np.asarray(crop),
                thumbnail=thumbnail(crop),
                quality=quality_of(box, landmarks, luma),
            )
        )
    return replace(photo, image=None, faces=tuple(faces))


def crop_face(image: Image.Image, box: np.ndarray, input_size: int, margin: int) -> Image.Image:
    """A face's box with some surroundings, at the network's input size.

    The margin is counted in pixels of the crop: the box fills input_size - margin of it, whatever
    the photo's resolution (facenet-pytorch's rule; the original alignment, davidsandberg/facenet
    align/align_dataset_mtcnn.py, counts pixels of the photo, which for its 250 px photos came to
    about the same). What lies outside the photo is left out, and box and surroundings are stretched
    to a square, as in both.

    Args:
      image: the upright photo.
      box: (4,) x0 y0 x1 y1 in its pixels.
      input_size: px, width and height of the crop.
      margin: px of the crop, both sides together.

    Returns:
      An RGB image, input_size x input_size.

    Raises:
      ValueError: the box lies outside the photo.
    """
    x0, y0, x1, y1 = (float(side) for side in box)
    grow = margin / (input_size - margin) / 2
    x_margin, y_margin = (x1 - x0) * grow, (y1 - y0) * grow
    x0, y0 = max(x0 - x_margin, 0), max(y0 - y_margin, 0)
    x1, y1 = min(x1 + x_margin, image.width), min(y1 + y_margin, image.height)
    if x1 - x0 < 1 or y1 - y0 < 1:
        raise ValueError(f"the face box {box.tolist()} lies outside the photo")
    size = (input_size, input_size)
    return image.resize(size, Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))


def thumbnail(crop: Image.Image) -> bytes:
    """A small JPEG of the aligned face, for people to look at."""
    small = crop.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BOX)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=THUMBNAIL_QUALITY)
    return file.getvalue()
