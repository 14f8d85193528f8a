"""A photo's bytes into upright RGB pixels."""

import io
import re
from dataclasses import replace
from datetime import datetime

from PIL import ExifTags, Image, ImageOps

from facecluster.transforms.photo import Photo, step

# A photo above this is refused before its pixels are decoded: three bytes a pixel must fit into a
# worker several times over, and no camera takes more.
MAX_PIXELS = 200_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


@step("decode")
def decode_photo(photo: Photo) -> Photo:
    """Fills in image, width, height and taken_at; drops the content."""
    image, taken_at = decode(photo.content)
    return replace(
        photo, content=None, image=image, width=image.width, height=image.height, taken_at=taken_at
    )


def decode(content: bytes) -> tuple[Image.Image, datetime | None]:
    """Decodes a photo as a person would see it: EXIF orientation applied, alpha over white.

    Returns:
      (image, taken_at): an RGB image, and when it was taken as far as EXIF says.

    Raises:
      OSError: it is no image, or is damaged.
      ValueError: it has more than MAX_PIXELS.
    """
    with Image.open(io.BytesIO(content)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(
                f"{image.width} x {image.height} pixels are more than the limit of {MAX_PIXELS:,}"
            )
        exif = image.getexif()
        taken_at = _taken_at(exif)
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        upright = ImageOps.exif_transpose(image) if orientation != 1 else image
        return _rgb(upright), taken_at


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits a pixel: keep the high byte
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")  # loads the pixels, so that damage shows here


def _taken_at(exif: Image.Exif) -> datetime | None:
    details = exif.get_ifd(ExifTags.IFD.Exif)
    text = details.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
    if not isinstance(text, str) or not re.match(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d", text):
        return None
    try:
        return datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:  # cameras write 0000:00:00 00:00:00
        return None
