"""Writes small RAW photos in Adobe's DNG, uncompressed, for tests."""

import struct
from dataclasses import dataclass, field

import numpy as np

BYTE, ASCII, SHORT, LONG, RATIONAL, SIGNED_RATIONAL = 1, 2, 3, 4, 5, 10
SIZES = {BYTE: 1, ASCII: 1, SHORT: 2, LONG: 4, RATIONAL: 8, SIGNED_RATIONAL: 8}
XYZ_TO_SRGB = (3.24, -1.54, -0.5, -0.97, 1.88, 0.04, 0.06, -0.2, 1.06)

Tags = dict[int, tuple[int, bytes]]  # {tag: (type, data)}


def write_dng(
    pixels: np.ndarray,
    orientation: int = 1,
    preview: bytes | None = None,
    preview_size: tuple[int, int] = (0, 0),
    date: str = "2019:01:02 03:04:05",
) -> bytes:
    """A DNG of (h, w, 3) uint8 sRGB pixels, of which each keeps one color; h and w are even.

    Args:
      preview: a JPEG of preview_size.
    """
    height, width = pixels.shape[:2]
    linear = ((pixels / 255.0) ** 2.2 * 65535).astype("<u2")
    mosaic = linear[..., 1].copy()
    mosaic[::2, ::2], mosaic[1::2, 1::2] = linear[::2, ::2, 0], linear[1::2, 1::2, 2]
    file = _Tiff()
    tags: Tags = {
        254: longs(0), 256: longs(width), 257: longs(height), 258: shorts(16), 259: shorts(1),
        262: shorts(32803), 271: text("Maker"), 272: text("Model"),
        273: longs(file.put(mosaic.tobytes())), 274: shorts(orientation), 277: shorts(1),
        278: longs(height), 279: longs(mosaic.nbytes), 306: text(date), 33421: shorts(2, 2),
        33422: (BYTE, bytes([0, 1, 1, 2])), 50706: (BYTE, bytes([1, 4, 0, 0])),
        50708: text("Maker Model"), 50714: longs(0), 50717: longs(65535),
        50721: rationals(SIGNED_RATIONAL, *XYZ_TO_SRGB), 50728: rationals(RATIONAL, 1, 1, 1),
        50778: shorts(21),
    }  # fmt: skip
    if preview is not None:
        tags[330] = longs(file.put_directory({
            254: longs(1), 256: longs(preview_size[0]), 257: longs(preview_size[1]),
            258: shorts(8, 8, 8), 259: shorts(7), 262: shorts(6), 273: longs(file.put(preview)),
            277: shorts(3), 278: longs(preview_size[1]), 279: longs(len(preview)),
        }))  # fmt: skip
    return file.finish(tags)


def longs(*values: int) -> tuple[int, bytes]:
    return LONG, struct.pack(f"<{len(values)}I", *values)


def shorts(*values: int) -> tuple[int, bytes]:
    return SHORT, struct.pack(f"<{len(values)}H", *values)


def text(value: str) -> tuple[int, bytes]:
    return ASCII, value.encode() + b"\0"


def rationals(kind: int, *values: float) -> tuple[int, bytes]:
    pair = "<2I" if kind == RATIONAL else "<2i"
    return kind, b"".join(struct.pack(pair, round(value * 10000), 10000) for value in values)


@dataclass
class _Tiff:
    content: bytearray = field(default_factory=lambda: bytearray(b"II*\0\0\0\0\0"))

    def put(self, data: bytes) -> int:
        """Adds data at an even place, which it returns."""
        self.content += b"\0" * (len(self.content) % 2)
        place = len(self.content)
        self.content += data
        return place

    def put_directory(self, tags: Tags) -> int:
        entries = struct.pack("<H", len(tags))
        for tag, (kind, data) in sorted(tags.items()):
            value = struct.pack("<I", self.put(data)) if len(data) > 4 else data.ljust(4, b"\0")
            entries += struct.pack("<HHI", tag, kind, len(data) // SIZES[kind]) + value
        return self.put(entries + bytes(4))

    def finish(self, tags: Tags) -> bytes:
        struct.pack_into("<I", self.content, 4, self.put_directory(tags))
        return bytes(self.content)
