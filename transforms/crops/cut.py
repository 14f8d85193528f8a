"""The steps of the crops pipeline: labeled photos to aligned crops of the faces they are about."""

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from facecluster.transforms.faces.align import crop_face
from facecluster.transforms.faces.boxes import clip_boxes, prominence
from facecluster.transforms.faces.turns import turn_upright
from facecluster.transforms.records import Failure, Photo, mark_failed, step

NO_FACE = Failure("detect", "NoFace", "no face was found")


@dataclass(frozen=True)
class LabeledPhoto(Photo):
    """A photo in the crops pipeline.

    Attributes:
      names: of its crops, PERSON/NAME, one for each requested face.
      known_as: the photo_id under which its faces were found before; None if they are still to be
        detected.
      crops: the aligned faces as PNG, one for each name, from cutting on.
    """

    names: tuple[str, ...] = ()
    known_as: str | None = None
    crops: tuple[bytes, ...] = ()


@step("read")
def check_unchanged(photo: LabeledPhoto) -> LabeledPhoto:
    """Fails a photo whose file has changed since its faces were found."""
    if photo.known_as not in (None, photo.photo_id):
        raise ValueError(
            "the photo has changed since its faces were found: bring the run up to date with "
            "`facecluster run`, then cut the crops into another folder"
        )
    return photo


@step("detect")
def keep_central_face(photo: Photo) -> Photo:
    """Keeps the most prominent face, which the label is about; of equal ones the first.

    A photo without faces fails with NO_FACE.
    """
    if not photo.faces:
        return mark_failed(photo, NO_FACE)
    assert photo.width is not None
    assert photo.height is not None
    boxes = clip_boxes(np.stack([face.box for face in photo.faces]), (photo.width, photo.height))
    best = np.argmax(prominence(boxes, photo.width, photo.height))
    return replace(photo, faces=(photo.faces[best],))


@step("align")
def cut_crops(photo: LabeledPhoto, size: int, margin: int) -> LabeledPhoto:
    """Fills in the crops (see `align.crop_face`); drops the image and the faces.

    Boxes are cut off at the photo's edges, as those in the tables of a run are.
    """
    image = photo.image
    assert image is not None
    boxes = [clip_boxes(face.box, image.size) for face in photo.faces]
    upright = turn_upright(image, boxes, [face.turn for face in photo.faces])
    crops = [_encode_png(crop_face(turned, box, size, margin)) for turned, box in upright]
    return replace(photo, image=None, faces=(), crops=tuple(crops))


def _encode_png(crop: Image.Image) -> bytes:
    file = io.BytesIO()
    crop.save(file, "PNG")
    return file.getvalue()
