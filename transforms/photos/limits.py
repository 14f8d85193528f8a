"""Limits on the files and photos that are read and decoded."""

from dataclasses import dataclass

# Cameras write smaller files with fewer pixels. A worker must have memory for several files, and
# for a few copies of one photo's pixels at 4 bytes each.
MAX_PHOTO_BYTES = 100 << 20
MAX_PHOTO_PIXELS = 200_000_000
MAX_DECODE_SECONDS = 60.0

# Memory that decoding needs in addition to that of the process at startup. Lossless WebP with alpha
# needs the most, 31 bytes a pixel by our measurement.
DECODE_BYTES_PER_PIXEL = 40
DECODE_BASE_BYTES = 256 << 20


class TooManyPixelsError(ValueError):
    """A photo has more pixels than the limit."""


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises TooManyPixelsError if a photo has more than max_pixels."""
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"{width} x {height} pixels are more than the limit of {max_pixels:,}"
        )


@dataclass(frozen=True)
class DecodeLimits:
    """What a photo may cost. A photo over a limit becomes a failure.

    Attributes:
      max_bytes: size of the file.
      max_pixels: width times height. Photos over it are refused before their pixels are decoded.
      max_seconds: time to decode it.
      jpeg_size: JPEGs are decoded at the smallest of the scales 1, 1/2, 1/4 and 1/8 at which the
        longer side has at least this many px. None decodes them in full.
    """

    max_bytes: int = MAX_PHOTO_BYTES
    max_pixels: int = MAX_PHOTO_PIXELS
    max_seconds: float = MAX_DECODE_SECONDS
    jpeg_size: int | None = None

    @property
    def max_memory(self) -> int:
        """Bytes that the decoder process may allocate after startup."""
        return DECODE_BYTES_PER_PIXEL * self.max_pixels + 2 * self.max_bytes + DECODE_BASE_BYTES
