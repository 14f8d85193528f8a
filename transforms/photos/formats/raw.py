"""Reads the RAW photos of cameras, by rawpy (LibRaw).

Most hold a JPEG, developed by the camera, which is read if it is large enough. Otherwise the pixels
are developed here.
"""

import io
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

from PIL import Image, TiffImagePlugin

from facecluster.transforms.photos.formats.exif import SIDEWAYS, read_date_of_tiff
from facecluster.transforms.photos.limits import check_size

# First bytes of photos by Canon, Fujifilm, Olympus, Panasonic and Leica, Sigma, Minolta, Phase One.
START = re.compile(
    rb"II\*\0....CR|....ftypcrx |II\x1a\0\0\0HEAPCCDR|FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\0|FOVb|"
    rb"\0MRM|II\*\0....IIII",
    re.DOTALL,
)
# Those of others are TIFFs that have a version of DNG, or undeveloped pixels: of one color each
# (CFA), or of all colors (linear raw).
TIFF_START = (b"II*\0", b"MM\0*")
DNG_VERSION, SUB_DIRECTORIES, PHOTOMETRIC = 50706, 330, 262
CFA, LINEAR_RAW = 32803, 34892
MAX_DIRECTORIES = 20
# A preview with this many px on its longer side is large enough: faces are searched at about this
# size (--detection-size), and those that are found have enough pixels for the network. Photos of
# twice this size are developed at half size.
ENOUGH_PX = 1600
UNSET_YEAR = 1970  # of a clock that was not set
# The orientations in EXIF of LibRaw's flips, of which each bit exchanges something: left and right,
# top and bottom, rows and columns.
ORIENTATION_OF_FLIP = {0: 1, 1: 2, 2: 4, 3: 3, 4: 5, 5: 8, 6: 6, 7: 7}


class RawPhoto(NamedTuple):
    """A RAW photo: the JPEG in it, or its developed pixels.

    Attributes:
      jpeg: the JPEG's bytes, or None.
      image: the pixels, RGB, not turned upright, or None.
      size: width and height of the photo before it is turned upright; the pixels may be half of it.
      orientation: of either, as in EXIF, whatever the JPEG's own EXIF says.
      taken_at: None if it is not known, or if the JPEG's EXIF has it.
    """

    jpeg: bytes | None
    image: Image.Image | None
    size: tuple[int, int]
    orientation: int
    taken_at: datetime | None = None


def is_raw(content: bytes) -> bool:
    """Whether a file is a RAW photo, by its content."""
    if START.match(content):
        return True
    return content.startswith(TIFF_START) and any(
        DNG_VERSION in directory or directory.get(PHOTOMETRIC) in (CFA, LINEAR_RAW)
        for directory in _read_directories(content)
    )


def read_raw(content: bytes, max_pixels: int) -> RawPhoto:
    """Extracts the JPEG in a RAW photo, or develops the photo.

    Raises:
      TooManyPixelsError: the photo has more than max_pixels.
      OSError: it is damaged, or of an unknown kind.
    """
    import rawpy  # not installed everywhere

    with rawpy.RawPy() as raw:
        try:
            raw.open_buffer(io.BytesIO(content))
            size = raw.sizes.width, raw.sizes.height
            check_size(*size, max_pixels)
            orientation = ORIENTATION_OF_FLIP[raw.sizes.flip]
            preview = _extract_jpeg(raw)
            if preview:
                preview_size = _jpeg_size(preview)
                if max(preview_size) >= min(ENOUGH_PX, max(size)):
                    turned = _is_turned(preview_size, size, orientation)
                    orientation = 1 if turned else orientation
                    date = read_date_of_tiff(content)
                    return RawPhoto(preview, None, preview_size, orientation, date)
            raw.unpack()
            pixels = raw.postprocess(
                use_camera_wb=True, user_flip=0, half_size=max(size) >= 2 * ENOUGH_PX
            )
            taken_at = raw.other.timestamp
        except rawpy.LibRawError as error:
            reason = error.args[0] if error.args else ""
            reason = reason.decode() if isinstance(reason, bytes) else str(reason)
            raise OSError(f"RAW photo, but {reason}") from error
    is_set = taken_at.year > UNSET_YEAR
    return RawPhoto(None, Image.fromarray(pixels), size, orientation, taken_at if is_set else None)


def _extract_jpeg(raw: Any) -> bytes | None:
    """The largest JPEG in the photo, None if there is none."""
    import rawpy

    try:
        preview = raw.extract_thumb()
    except rawpy.LibRawError:
        return None
    return preview.data if preview.format == rawpy.ThumbFormat.JPEG else None


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """Width and height of a JPEG by its header; 0 if it is damaged."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            return image.size
    except Exception:  # Pillow raises many types for damaged files
        return 0, 0


def _is_turned(preview: tuple[int, int], size: tuple[int, int], orientation: int) -> bool:
    """Whether the preview is upright already: its long side is where the upright photo's is."""
    is_wide, was_wide = preview[0] > preview[1], size[0] > size[1]
    return orientation in SIDEWAYS and is_wide != was_wide and preview[0] != preview[1]


def _read_directories(content: bytes) -> Iterator[TiffImagePlugin.ImageFileDirectory_v2]:
    """The directories of a TIFF and their subdirectories, up to the first that is damaged."""
    file = io.BytesIO(content)
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        places = [directory.next]
        for place in islice(places, MAX_DIRECTORIES):  # which may be in a circle
            file.seek(place)
            directory.load(file)
            yield directory
            more = directory.get(SUB_DIRECTORIES, ())
            places += more if isinstance(more, tuple) else (more,)
            if directory.next:
                places.append(directory.next)
    except Exception:  # see above
        return
