"""The element of the embed pipeline: one photo, from its URI to its faces.

Each input is one element from listing to tables, and each step fills in more of its fields. A step
that cannot process a photo records a `Failure` in it instead of raising, and later steps pass it
on unchanged. Therefore no photo is lost, and the writer knows that a shard is complete once it has
received as many photos as the shard has.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import wraps

import numpy as np
from PIL import Image

from facecluster.errors import JobError
from facecluster.transforms.metrics import count


@dataclass(frozen=True)
class Shard:
    """A part of the input: the name of its output files, and its number of photos."""

    name: str
    n_photos: int


@dataclass(frozen=True)
class Quality:
    """Measurements of a face that tell how well it can be recognized.

    Attributes:
      size_px: geometric mean of the box's width and height, px of the upright photo.
      sharpness: see `measure_sharpness` in faces/quality.py.
      brightness: mean luma of the box, 0 (black) to 1 (white).
      yaw, pitch, roll: degrees, see `estimate_pose` in faces/quality.py.
    """

    size_px: float
    sharpness: float
    brightness: float
    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True, eq=False)
class Face:
    """A detected face. Two faces are equal if all their fields, arrays included, are.

    Attributes:
      box: (4,) float32, x0 y0 x1 y1 in px of the upright photo.
      landmarks: (5, 2) float32, x y in px of the upright photo: left eye, right eye, nose, left and
        right mouth corner, where left and right are the image's once it is turned by `turn`.
      score: the detector's probability that this is a face.
      crop: (size, size, 3) uint8 RGB, the aligned face; None again once it is embedded.
      thumbnail: the aligned face as a JPEG.
      embedding: (dimensions,) float32, a unit vector.
      quality: how well it can be recognized.
      turn: degrees clockwise by which the photo has to be turned for the face to be upright: 0, 90,
        180 or 270. Before aligning, boxes and landmarks are float64 if this is not 0.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float
    crop: np.ndarray | None = None
    thumbnail: bytes | None = None
    embedding: np.ndarray | None = None
    quality: Quality | None = None
    turn: int = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Face):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        )


@dataclass(frozen=True)
class Failure:
    """Why a photo could not be processed: the step that failed, the error's type and message."""

    step: str
    error: str
    message: str


@dataclass(frozen=True)
class Photo:
    """A photo in the embed pipeline. A field is None until a step fills it in.

    Attributes:
      uri: its name in all tables.
      shard: the shard that its rows are written to.
      content: the file's bytes, from reading to decoding.
      image: upright RGB pixels, from decoding to aligning.
      photo_id: SHA-256 of the content, in hexadecimal.
      width, height: px of the upright photo.
      taken_at: EXIF date and time, which has no time zone.
      n_frames: frames or pages of the file, of which the first is used.
      damaged: whether the file lacks some of the pixels, so that the decoder made them up.
      perceptual_hash: of the image; None also if the image has too little structure.
      faces: the faces that were found.
      failure: why it could not be processed.
    """

    uri: str
    shard: Shard
    content: bytes | None = None
    image: Image.Image | None = None
    photo_id: str | None = None
    width: int | None = None
    height: int | None = None
    taken_at: datetime | None = None
    n_frames: int | None = None
    damaged: bool = False
    perceptual_hash: int | None = None
    faces: tuple[Face, ...] = ()
    failure: Failure | None = None


def failure_of(step: str, error: Exception) -> Failure:
    """The failure that an error in a step is recorded as."""
    message = " ".join(str(error).split()) or type(error).__name__
    return Failure(step, type(error).__name__, message)


def mark_failed(photo: Photo, failure: Failure) -> Photo:
    """The photo with its failure, without bytes and pixels; adds 1 to photos_failed_<step>."""
    count(f"photos_failed_{failure.step}")
    return replace(photo, content=None, image=None, faces=(), failure=failure)


def step(name: str) -> Callable[[Callable], Callable]:
    """Makes a function of a photo into a step, which marks photos as failed instead of raising.

    A photo that has failed before is returned as it is. A JobError is raised, since it is not the
    photo's fault and would fail every other photo, too.
    """

    def decorate(function: Callable[..., Photo]) -> Callable[..., Photo]:
        @wraps(function)
        def run_step(photo: Photo, *args, **kwargs) -> Photo:
            if photo.failure:
                return photo
            try:
                return function(photo, *args, **kwargs)
            except JobError:
                raise
            except Exception as error:  # decoders raise anything for a damaged photo
                return mark_failed(photo, failure_of(name, error))

        return run_step

    return decorate
