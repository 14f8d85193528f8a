"""The element that flows through the embed job: one photo, from its name to its faces.

Every input stays one element from listing to table, and each step fills in more of it. A step that
cannot do its work puts a `Failure` into the photo instead of raising; later steps pass such a photo
on. So nothing is lost on the way, and the writer knows that a shard is complete when it has seen
as many photos as the shard names.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import wraps

import numpy as np
from PIL import Image

from facecluster.errors import JobError


@dataclass(frozen=True)
class Shard:
    """A part of the input: its name, which its output files carry, and its number of photos."""

    name: str
    n_photos: int


@dataclass(frozen=True)
class Quality:
    """What is measured of a face.

    Attributes:
      size_px: geometric mean of the box's width and height, px of the upright photo.
      sharpness: see `sharpness_of` in faces/quality.py.
      brightness: mean luma of the box, 0 (black) to 1 (white).
      yaw, pitch, roll: degrees, see `pose_of` there.
    """

    size_px: float
    sharpness: float
    brightness: float
    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True)
class Face:
    """A detected face.

    Attributes:
      box: (4,) float32, x0 y0 x1 y1 in pixels of the upright photo.
      landmarks: (5, 2) float32, x y in pixels of left eye, right eye, nose, left and right mouth
        corner, left and right as seen in the picture.
      score: the detector's probability that this is a face.
      crop: (size, size, 3) uint8 RGB, the aligned face; gone once it is embedded.
      thumbnail: the aligned face as a JPEG.
      embedding: (dimensions,) float32, a unit vector.
      quality: how well it can be recognised.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float
    crop: np.ndarray | None = None
    thumbnail: bytes | None = None
    embedding: np.ndarray | None = None
    quality: Quality | None = None


@dataclass(frozen=True)
class Failure:
    """Why a photo could not be used: the step that refused it, the error's type, its message."""

    step: str
    error: str
    message: str


@dataclass(frozen=True)
class Photo:
    """A photo on its way through the embed job; None is what no step has filled in yet.

    Attributes:
      content: the file's bytes, from reading to decoding.
      image: upright RGB pixels, from decoding to aligning.
      photo_id: SHA-256 of the content, in hexadecimal.
      taken_at: EXIF date and time, which names no time zone.
      n_frames: frames or pages of the file, of which the first is used.
      perceptual_hash: of the image, None also where that has too little structure.
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
    perceptual_hash: int | None = None
    faces: tuple[Face, ...] = ()
    failure: Failure | None = None


def failing(photo: Photo, step: str, error: Exception) -> Photo:
    """The photo with its failure, and without the bytes and pixels that nobody needs any more."""
    message = " ".join(str(error).split()) or type(error).__name__
    failure = Failure(step, type(error).__name__, message)
    return replace(photo, content=None, image=None, faces=(), failure=failure)


def step(name: str) -> Callable[[Callable], Callable]:
    """Makes a function on a photo total: it skips failed photos and catches what it raises.

    But for JobError.
    """

    def decorate(function: Callable[..., Photo]) -> Callable[..., Photo]:
        @wraps(function)
        def total(photo: Photo, *args, **kwargs) -> Photo:
            if photo.failure:
                return photo
            try:
                return function(photo, *args, **kwargs)
            except JobError:
                raise
            except Exception as error:  # any photo may be broken in any way
                return failing(photo, name, error)

        return total

    return decorate
