"""What EXIF says of a photo: its orientation and when it was taken."""

import re
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

SIDEWAYS = (5, 6, 7, 8)  # orientations whose width and height are exchanged


def read_exif(image: Image.Image) -> Image.Exif:
    """The EXIF of a loaded image, empty if it is damaged: a photo is usable without it.

    `Image.getexif` is not used, because it takes an orientation from XMP if EXIF has none.
    """
    exif = Image.Exif()
    try:
        if image.format == "TIFF":
            return image.getexif()
        content = image.info.get("exif")
        if content is None:  # ImageMagick writes it to a PNG as text, after three lines
            text = image.info.get("Raw profile type exif", "")
            content = bytes.fromhex("".join(text.split("\n")[3:]))
        exif.load(content)
    except Exception:  # Pillow raises many types for damaged EXIF
        return Image.Exif()
    return exif


def read_orientation(exif: Image.Exif) -> int:
    """The orientation of the stored pixels, from 1, upright, to 8; 1 unless EXIF says another."""
    orientation = _read_tag(exif, ExifTags.Base.Orientation)
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def read_date(exif: Image.Exif) -> datetime | None:
    """When the photo was taken, or else last changed."""
    for text in (
        _read_tag(exif, ExifTags.Base.DateTimeOriginal, ExifTags.IFD.Exif),
        _read_tag(exif, ExifTags.Base.DateTime),
    ):
        if isinstance(text, str) and re.match(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d", text):
            try:
                return datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S")
            except ValueError:  # cameras without a set clock write 0000:00:00 00:00:00
                continue
    return None


def read_date_of_tiff(content: bytes) -> datetime | None:
    """The date in a TIFF, or in a RAW photo that is one; None for other files."""
    exif = Image.Exif()
    try:
        exif.load(content)
    except Exception:  # see above
        return None
    return read_date(exif)


def _read_tag(exif: Image.Exif, tag: int, directory: int | None = None) -> Any:
    """A value in EXIF; None also if it is damaged, which Pillow finds out when asked for it."""
    try:
        return (exif if directory is None else exif.get_ifd(directory)).get(tag)
    except Exception:  # see above
        return None
