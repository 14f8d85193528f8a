"""A photo's bytes into upright RGB pixels."""

import io
import re
from dataclasses import replace
from datetime import datetime

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from facecluster.transforms.perceptual_hash import perceptual_hash
from facecluster.transforms.photo import Photo, step

# A photo above this is refused before its pixels are decoded: three bytes a pixel must fit into a
# worker several times over, and no camera takes more.
MAX_PIXELS = 200_000_000
# What photos are stored as (MPO counts as JPEG). Pillow tells formats by content, and knows some
# that run programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")
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


@step("decode")
def decode_photo(photo: Photo) -> Photo:
    """Fills in image, width, height, taken_at and perceptual_hash; drops the content."""
    image, taken_at = decode(photo.content)
    return replace(
        photo, content=None, image=image, width=image.width, height=image.height, taken_at=taken_at,
        perceptual_hash=perceptual_hash(image),
    )  # fmt: skip


def decode(content: bytes) -> tuple[Image.Image, datetime | None]:
    """Decodes a photo as a person would see it: EXIF orientation applied, alpha over white.

    Returns:
      (image, taken_at): an RGB image, and when it was taken as far as EXIF says.

    Raises:
      OSError: it is no image, or is damaged.
      ValueError: it has more than MAX_PIXELS.
    """
    with _opened(content) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(
                f"{image.width} x {image.height} pixels are more than the limit of {MAX_PIXELS:,}"
            )
        image.load()  # a TIFF is upright from here on, and says so
        exif = _exif(image)
        turn = UPRIGHT.get(exif.get(ExifTags.Base.Orientation))
        return _rgb(image if turn is None else image.transpose(turn)), _taken_at(exif)


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:  # Pillow's words hold an address, new in every run
        raise UnidentifiedImageError("it is no image of a known format") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel: keep the high byte
        image = Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


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
