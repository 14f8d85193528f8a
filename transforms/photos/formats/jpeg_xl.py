"""Reads JPEG XL, by pillow-jxl-plugin.

Its decoder is called directly: as a plugin of Pillow it would decode all pixels before their number
is known.
"""

import re
from typing import Any, NamedTuple

from PIL import Image

# First bytes of a file (ISO/IEC 18181-2): the pixels alone, or boxes that hold them.
PIXELS_START, BOXES_START = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
# The ratios of width to height that have a code in the header (18181-1, size header).
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
HEADER_BYTES = 12  # that hold the size


class JpegXl(NamedTuple):
    """A decoded JPEG XL. Of one that was made of a JPEG without loss, this is the JPEG.

    Attributes:
      jpeg: the JPEG's bytes, or None.
      image: pixels, upright already, or None; its info has the EXIF.
    """

    jpeg: bytes | None
    image: Image.Image | None


def is_jpeg_xl(content: bytes) -> bool:
    return content.startswith((PIXELS_START, BOXES_START))


def read_size(content: bytes) -> tuple[int, int]:
    """Width and height of a JPEG XL by its header, before it is turned upright.

    Raises:
      OSError: it has no header.
    """
    start = content if content.startswith(PIXELS_START) else _find_pixels(content)
    bits = int.from_bytes(start[len(PIXELS_START) :][:HEADER_BYTES], "little")

    def take(n: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << n) - 1), bits >> n
        return value

    def take_side() -> int:
        return 8 * (take(5) + 1) if is_multiple_of_8 else take((9, 13, 18, 30)[take(2)]) + 1

    is_multiple_of_8 = take(1)
    height = take_side()
    ratio = take(3)
    if not ratio:
        return take_side(), height
    numerator, denominator = RATIOS[ratio - 1]
    return height * numerator // denominator, height


def decode_jpeg_xl(content: bytes) -> JpegXl:
    """Decodes a JPEG XL; the first frame of an animation.

    Raises:
      OSError: it is damaged.
    """
    from pillow_jxl import Decoder  # slow, and not installed everywhere

    try:
        is_jpeg, header, data, _, boxes = Decoder(num_threads=0)(content)
    except RuntimeError as error:  # whose message is how to build the library
        raise OSError("JPEG XL, but it is damaged") from error
    if is_jpeg:
        return JpegXl(data, None)
    mode, size = header.mode, (header.width, header.height)
    image = Image.frombytes(mode, size, data, "raw", mode)
    image.info["exif"] = _read_exif(boxes)
    return JpegXl(None, image)


def _read_exif(boxes: Any) -> bytes:
    """The EXIF, which most programs but not all put behind four bytes; empty if there is none.

    One that is compressed is not read.
    """
    for box in boxes:
        if box.box_type == b"Exif" and (header := re.search(rb"II\*\0|MM\0\*", box.data[:32])):
            return box.data[header.start() :]
    return b""


def _find_pixels(content: bytes) -> bytes:
    """The beginning of the pixels within the boxes."""
    place = 0
    while header := content[place : place + 16]:
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        n = 8
        if size == 1:
            size, n = int.from_bytes(header[8:], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            start = place + n + (4 if kind == b"jxlp" else 0)  # behind the part's number
            return content[start : start + len(PIXELS_START) + HEADER_BYTES]
        if size < n:
            break
        place += size
    raise OSError("JPEG XL, but it holds no pixels")
