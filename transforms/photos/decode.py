"""A photo's bytes into upright RGB pixels."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pillow_heif
from PIL import AvifImagePlugin, ExifTags, Image, UnidentifiedImageError

from facecluster.transforms.photos.perceptual_hash import perceptual_hash
from facecluster.transforms.records import Photo, step

# A photo above this is refused before its pixels are decoded: four bytes a pixel must fit into a
# worker several times over, and no camera takes more.
MAX_PIXELS = 200_000_000
# What photos are stored as (MPO counts as JPEG). Pillow tells formats by content, and knows some
# that run programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "HEIF", "AVIF", "JPEG2000", "PPM")
MOST_FRAMES = 2**31 - 1  # that the table's column holds; a damaged file may claim more

# Several photos are decoded at a time as it is.
pillow_heif.register_heif_opener(
    decode_threads=1, thumbnails=False, depth_images=False, aux_images=False
)
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit would speak first, and of a bomb

# What makes a photo of each EXIF orientation upright. Not ImageOps.exif_transpose: that writes the
# EXIF anew, and cameras leave some that cannot be written.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED = (5, 6, 7, 8)  # those that exchange width and height


class Decoded(NamedTuple):
    """A photo as a person would see it.

    Attributes:
      image: upright, RGB.
      size: width and height of the upright photo; the image's, but for one decoded at a scale.
      taken_at: when, as far as EXIF says.
      n_frames: of the file.
    """

    image: Image.Image
    size: tuple[int, int]
    taken_at: datetime | None
    n_frames: int


def decode(content: bytes, max_pixels: int = MAX_PIXELS, jpeg_size: int | None = None) -> Decoded:
    """Decodes a photo as a person would see it: EXIF orientation applied, alpha over white.

    Of animations and files of several pages it is the first frame, of a HEIF file the one that it
    names as primary.

    Args:
      jpeg_size: a JPEG is decoded at the smallest scale of 1/2, 1/4 and 1/8 at which its longer
        side still has so many px, by its decoder; None for always in full.

    Raises:
      OSError: it is no image, or is damaged.
      ValueError: it has more than max_pixels.
      Exception: what else the damage led to.
    """
    with _opened(content) as image:
        if image.width * image.height > max_pixels:
            raise ValueError(
                f"{image.width} x {image.height} pixels are more than the limit of {max_pixels:,}"
            )
        n_frames = _n_frames(image, content)
        full, is_scaled = image.size, jpeg_size is not None and _scale(image, jpeg_size)
        image.load()  # a TIFF is upright from here on, and says so
        exif = _exif(image)
        turn = UPRIGHT.get(exif.get(ExifTags.Base.Orientation))
        upright = _rgb(image if turn is None else image.transpose(turn))
        size = upright.size
        if is_scaled:
            size = full if exif.get(ExifTags.Base.Orientation) not in TURNED else full[::-1]
        return Decoded(upright, size, _taken_at(exif), n_frames)


@step("decode")
def decode_photo(photo: Photo, decoder: Callable[[bytes], Decoded] = decode) -> Photo:
    """Fills in image, its size and perceptual_hash, taken_at and n_frames; drops the content."""
    image, (width, height), taken_at, n_frames = decoder(photo.content)
    return replace(
        photo, content=None, image=image, width=width, height=height,
        taken_at=taken_at, n_frames=n_frames, perceptual_hash=perceptual_hash(image),
    )  # fmt: skip


def _scale(image: Image.Image, jpeg_size: int) -> bool:
    """Makes a JPEG's decoder halve the sides as often as it may; whether it does."""
    full = image.size
    if image.format in ("JPEG", "MPO"):
        wide = image.width >= image.height
        image.draft(None, (jpeg_size, 1) if wide else (1, jpeg_size))
    return image.size != full


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:  # Pillow's words hold an address, new in every run
        raise UnidentifiedImageError("it is no image of a known format") from error


def _n_frames(image: Image.Image, content: bytes) -> int:
    """How many frames the file has, as far as they can be found.

    Where the header does not tell, the file is read to its end, opened anew: damage there, which
    ends the count early, must cost the first frame nothing.
    """
    if image.format not in ("GIF", "TIFF"):
        return max(1, min(getattr(image, "n_frames", 1), MOST_FRAMES))
    with _opened(content) as image:
        try:
            return image.n_frames
        except Exception:  # Pillow raises whatever the damage leads to
            return image.tell() + 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel: keep the high byte
        image = Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray(_visible(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _visible(values: np.ndarray) -> np.ndarray:
    """Floats as shades: (height, width) uint8.

    Nothing in a file says what they mean. Between 0 and 1 they are light, up to 255 shades already;
    any others are measurements, and their range is stretched over all shades.
    """
    values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    return np.round((values - low) * (255 / ((high - low) or 1))).astype(np.uint8)


def _exif(image: Image.Image) -> Image.Exif:
    """The EXIF, or an empty one where it is damaged: the photo is worth more than its EXIF."""
    try:
        exif = image.getexif()
        exif.get_ifd(ExifTags.IFD.Exif)
        return exif
    except Exception:  # Pillow raises whatever the damage leads to
        return Image.Exif()


def _taken_at(exif: Image.Exif) -> datetime | None:
    details = exif.get_ifd(ExifTags.IFD.Exif)
    for text in (details.get(ExifTags.Base.DateTimeOriginal), exif.get(ExifTags.Base.DateTime)):
        if isinstance(text, str) and re.match(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d", text):
            try:
                return datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S")
            except ValueError:  # cameras write 0000:00:00 00:00:00
                continue
    return None
