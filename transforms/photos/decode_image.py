"""Decodes a photo's bytes into upright RGB pixels."""

import threading
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pillow_heif
from PIL import AvifImagePlugin, Image

from facecluster.transforms.photos.formats.exif import (
    SIDEWAYS,
    read_date,
    read_exif,
    read_orientation,
)
from facecluster.transforms.photos.formats.jpeg import is_jpeg, load_jpeg
from facecluster.transforms.photos.formats.opening import open_image, open_photo, register_heif
from facecluster.transforms.photos.limits import MAX_PHOTO_PIXELS

MAX_FRAMES = 2**31 - 1  # that the table's column holds; a damaged file may claim more

# Pillow's settings while photos are decoded: max_pixels takes the place of Pillow's own limit, and
# libraries use one thread each, since several photos are decoded at once anyway.
DECODING_SETTINGS: tuple[tuple[Any, str, Any], ...] = (
    (Image, "MAX_IMAGE_PIXELS", None),
    (AvifImagePlugin, "DEFAULT_MAX_THREADS", 1),
    (pillow_heif.options, "DECODE_THREADS", 1),
    (pillow_heif.options, "THUMBNAILS", False),
    (pillow_heif.options, "DEPTH_IMAGES", False),
    (pillow_heif.options, "AUX_IMAGES", False),
)

# The transposition that makes a photo of each EXIF orientation upright. ImageOps.exif_transpose is
# not used: it also rewrites the EXIF, and fails for some that cameras write.
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Formats whose decoders turn photos: HEIF by the file's own orientation, TIFF by EXIF. That of AVIF
# puts the file's own orientation into the EXIF.
TURNED_BY_DECODER = ("HEIF", "TIFF")


class DecodedImage(NamedTuple):
    """A photo as a viewer shows it.

    Attributes:
      image: upright, RGB.
      size: width and height of the upright photo in px; larger than the image's if it was decoded
        at a reduced scale, as JPEGs and RAW photos may be.
      taken_at: date and time from EXIF, if any.
      n_frames: frames or pages of the file.
      damaged: whether the decoder made up pixels that the file lacks.
    """

    image: Image.Image
    size: tuple[int, int]
    taken_at: datetime | None
    n_frames: int
    damaged: bool


def decode_image(
    content: bytes, max_pixels: int = MAX_PHOTO_PIXELS, jpeg_size: int | None = None
) -> DecodedImage:
    """Decodes a photo as a viewer shows it: EXIF orientation applied, alpha over white.

    XMP may also hold an orientation. Programs write there what the photo once had, or had before
    they turned it, and viewers do not turn by it.

    Of animations and files of several pages it decodes the first frame, of a HEIF file the primary
    image, and of a RAW photo the JPEG that the camera made, if that is large.

    Args:
      content: the file's bytes.
      max_pixels: the limit on width times height.
      jpeg_size: JPEGs are decoded at the smallest of the scales 1, 1/2, 1/4 and 1/8 at which the
        longer side has at least this many px. None decodes them in full.

    Raises:
      OSError: the content is not an image, or is damaged; the message says which.
      TooManyPixelsError: the photo has more than max_pixels.
      MissingLibraryError: the photo needs a library that is not installed.
      Exception: decoders raise other errors for damaged files.
    """
    with _decoding_settings, open_photo(content, max_pixels) as photo:
        image, content = photo.image, photo.content
        n_frames = _count_frames(image, content)
        if jpeg_size is not None and is_jpeg(image):
            _reduce_scale(image, jpeg_size)
        is_reduced = image.size != photo.size
        image.info.pop("xmp", None)  # by which Pillow would turn a TIFF while it is loaded
        pixels, damaged = load_jpeg(image, content) if is_jpeg(image) else (image, False)
        pixels.load()  # which turns a TIFF upright and removes its orientation
        exif = read_exif(image)
        is_turned = image.format in TURNED_BY_DECODER
        orientation = photo.orientation or (1 if is_turned else read_orientation(exif))
        transposition = TRANSPOSITIONS.get(orientation)
        upright = _to_rgb(pixels if transposition is None else pixels.transpose(transposition))
        size = upright.size
        if is_reduced:
            width, height = photo.size
            size = (height, width) if orientation in SIDEWAYS else (width, height)
        taken_at = photo.taken_at or read_date(exif)
        return DecodedImage(upright, size, taken_at, n_frames, damaged)


class _DecodingSettings:
    """Applies DECODING_SETTINGS while at least one thread decodes, and then restores the others."""

    def __init__(self):
        self._lock = threading.Lock()
        self._n_decoding = 0
        self._originals: list[Any] = []

    def __enter__(self) -> None:
        with self._lock:
            register_heif()
            if self._n_decoding == 0:
                self._originals = [getattr(owner, name) for owner, name, _ in DECODING_SETTINGS]
                for owner, name, value in DECODING_SETTINGS:
                    setattr(owner, name, value)
            self._n_decoding += 1

    def __exit__(self, *_) -> None:
        with self._lock:
            self._n_decoding -= 1
            if self._n_decoding == 0:
                for (owner, name, _), value in zip(DECODING_SETTINGS, self._originals, strict=True):
                    setattr(owner, name, value)


_decoding_settings = _DecodingSettings()


def _reduce_scale(image: Image.Image, jpeg_size: int) -> None:
    """Makes the decoder of a JPEG halve the sides as often as jpeg_size allows."""
    is_wide = image.width >= image.height
    image.draft(None, (jpeg_size, 1) if is_wide else (1, jpeg_size))


def _count_frames(image: Image.Image, content: bytes) -> int:
    """The number of frames in the file, up to the first that is damaged.

    GIF and TIFF have no count in their headers, so the file is read to its end. That is done on a
    second image, because an error there leaves the first frame of `image` unusable.
    """
    if image.format not in ("GIF", "TIFF"):
        return max(1, min(getattr(image, "n_frames", 1), MAX_FRAMES))
    with open_image(content) as image:
        try:
            return image.n_frames  # pyright: ignore[reportAttributeAccessIssue]
        except Exception:  # Pillow raises many types for damaged files
            return image.tell() + 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel: keep the high byte
        image = Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray(_floats_to_gray(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _floats_to_gray(values: np.ndarray) -> np.ndarray:
    """Floats as gray levels: (height, width) uint8.

    A file does not say what its floats mean. Values between 0 and 1 are taken as intensities, and
    values between 0 and 255 as gray levels; any other range is stretched over all gray levels.
    """
    values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    return np.round((values - low) * (255 / ((high - low) or 1))).astype(np.uint8)
