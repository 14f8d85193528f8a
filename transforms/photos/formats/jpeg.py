"""Decodes JPEGs, and tells whether libjpeg had to make up some of the pixels.

libjpeg conceals damage: it reports a warning, which Pillow does not pass on, and fills the place
with gray or with whatever the bytes happen to mean. TurboJPEG, which is the same library and gives
the same pixels, stops at a warning when asked to. So it decodes first, and only a photo that it
refuses is decoded by Pillow, too. Where a hole has bytes that mean a marker, Pillow gives up, and
TurboJPEG decodes the rest. Damage that libjpeg does not notice is not found, nor is any in
CMYK with subsampling, which TurboJPEG does not read.
"""

import io
import re
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

START, END = b"\xff\xd8", b"\xff\xd9"
# Marker codes (ITU-T T.81, table B.1). Besides the frame header, the tables of Huffman codes (DHT),
# of arithmetic coding (DAC) and quantization (DQT) and the restart interval (DRI) are needed to
# decode pixels.
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
NEEDED = FRAMES | {0xC4, 0xCC, 0xDB, 0xDD}
SCAN = 0xDA
# Not a marker: 0xFF 0x00, a stuffed byte. Restart markers belong to a scan.
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
# Beginnings of the warnings after which libjpeg makes up pixels (jerror.h). Others concern headers.
DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG file", "Inconsistent progression sequence")
LAST_BYTES = 1024  # of a file, in which its end mark is looked for
MAX_BUFFER_BYTES = 64 << 20  # of 16 megapixels
_thread = threading.local()


def is_jpeg(image: Image.Image) -> bool:
    """Whether an opened image is a JPEG; MPO is one that has others behind it."""
    return image.format in ("JPEG", "MPO")


def load_jpeg(image: Image.Image, content: bytes) -> tuple[Image.Image, bool]:
    """Decodes an opened JPEG at the scale that `image.draft` has set.

    Returns:
      The pixels, not turned upright, and whether some of them are made up.

    Raises:
      OSError: the file is damaged beyond that, or ends before its last pixel.
    """
    fast = _decode(image, content)
    if fast is not None:
        return fast, False
    size = image.size
    try:
        image.load()
    except OSError:
        whole = _complete(content)
        if whole is None:
            has_end = END in content[-LAST_BYTES:]  # in pixels, these bytes never stand together
            rest = _decode(image, content, strict=False) if has_end else None
            if rest is None or _has_one_color(rest):
                raise
            return rest, True
        image = Image.open(io.BytesIO(whole), formats=("JPEG",))
        image.draft(None, size)
        image.load()
        return image, False
    return image, _is_damaged(_split(content))


def _decode(image: Image.Image, content: bytes, strict: bool = True) -> Image.Image | None:
    """The pixels; None if TurboJPEG cannot decode this kind, or if it reports an error.

    Args:
      strict: whether a warning counts as an error. Otherwise what it could not decode is gray.
    """
    if image.mode not in ("RGB", "L"):
        return None
    width, height = image.size
    try:
        pixels = simplejpeg.decode_jpeg(
            content, "RGBX", min_height=height, min_width=width, strict=strict,
            buffer=_buffer(4 * width * height),
        )  # fmt: skip
    except ValueError:
        return None
    if pixels.shape[:2] != (height, width):
        return None
    return Image.frombytes("RGB", image.size, pixels.data, "raw", "RGBX")


def _has_one_color(image: Image.Image) -> bool:
    extrema = np.array(image.getextrema()).reshape(-1, 2)
    return bool((extrema[:, 0] == extrema[:, 1]).all())


def _buffer(n_bytes: int) -> np.ndarray | None:
    """Memory for a photo's pixels, which this thread uses for the next photo, too.

    Getting new memory from the system takes a tenth of the time to decode. Large photos get new
    memory nevertheless, None, so that it is not held.
    """
    if n_bytes > MAX_BUFFER_BYTES:
        return None
    buffer = getattr(_thread, "buffer", None)
    if buffer is None or len(buffer) < n_bytes:
        buffer = _thread.buffer = np.empty(n_bytes, np.uint8)
    return buffer[:n_bytes]


def _complete(content: bytes) -> bytes | None:
    """A JPEG that has all its pixels and lacks only its end mark, with it; None for another."""
    parts = _split(content)
    is_whole = parts.has_all_scans and not parts.has_end and "" in _strict_errors(parts)
    return content + END if is_whole else None


def _is_damaged(parts: "_Parts") -> bool:
    """Whether a JPEG that TurboJPEG refuses lacks pixels."""
    errors = _strict_errors(parts)
    return errors[0].startswith(DAMAGE) and "" not in errors


def _strict_errors(parts: "_Parts") -> list[str]:
    """The errors or warnings of a JPEG's pixels, with and without what may be padding.

    Warnings about headers are avoided by leaving those headers out. Bytes that are left after the
    last pixel are a sign of damage before them, except for repetitions of one byte, with which some
    cameras pad the pixels.
    """
    padding = parts.pixels[-1:]
    return [
        _strict_error(parts.headers + pixels + END)
        for pixels in (parts.pixels, parts.pixels.rstrip(padding))
    ]


def _strict_error(content: bytes) -> str:
    """The first error or warning of a JPEG, empty for none."""
    try:
        simplejpeg.decode_jpeg(content, "GRAY", min_factor=8, fastdct=True, fastupsample=True)
    except ValueError as error:
        return str(error)
    return ""


class _Parts(NamedTuple):
    """The parts of a JPEG.

    Attributes:
      headers: the start mark and the segments that are needed to decode the pixels.
      pixels: all scans, up to the end mark.
      has_end: whether the end mark is there.
      has_all_scans: whether there is a scan for each bit of each coefficient of each component. A
        progressive JPEG has ten or so, and one that is cut between two of them causes no warning.
    """

    headers: bytes
    pixels: bytes
    has_end: bool
    has_all_scans: bool


def _split(content: bytes) -> _Parts:
    headers, first_scan, end = START, None, None
    missing: set[tuple[int, int]] = set()  # (component, coefficient)
    for code, place in _find_markers(content):
        length = int.from_bytes(content[place + 2 : place + 4], "big")
        segment = content[place : place + 2 + length]
        if code == END[1]:
            end = place
        elif code == SCAN:
            first_scan = place if first_scan is None else first_scan
            missing -= _finished_by(segment)
        elif first_scan is None and code in NEEDED:
            headers += segment
            if code in FRAMES:
                missing = {(component, k) for component in segment[10::3] for k in range(64)}
    pixels = b"" if first_scan is None else content[first_scan:end]
    return _Parts(headers, pixels, end is not None, first_scan is not None and not missing)


def _find_markers(content: bytes) -> Iterator[tuple[int, int]]:
    """Yields the code and the place of each marker up to the end mark, except those of restarts."""
    place = len(START)
    while match := MARKER.search(content, place):
        code, place = match[1][0], match.end() - 2
        yield code, place
        if code == END[1]:
            return
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")


def _finished_by(scan: bytes) -> set[tuple[int, int]]:
    """The coefficients of which a scan has the last bit, by the scan's header (T.81, B.2.3)."""
    n = scan[4] if len(scan) > 4 else 0
    if len(scan) < 8 + 2 * n or scan[7 + 2 * n] & 15:
        return set()
    first, last = scan[5 + 2 * n], scan[6 + 2 * n]
    return {(component, k) for component in scan[5 : 5 + 2 * n : 2] for k in range(first, last + 1)}
