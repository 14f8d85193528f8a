"""What P-Net sees of a photo: reduced, in pieces, and at decreasing sizes packed into one image."""

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

P_NET_WINDOW, P_NET_STRIDE = 12, 2  # px
PYRAMID_FACTOR = 0.709  # between pyramid levels: half the area
PANORAMA_RATIO = 2  # of longer to shorter side, beyond which a photo is a panorama


def choose_reduction(size: tuple[int, int], detection_size: int) -> float:
    """How many times smaller the copy is on which a photo of (width, height) px is searched.

    Its longer side is reduced to detection_size. Of a panorama only as much counts as is twice as
    long as its shorter side: the people on it are no smaller because it shows more of them.
    """
    return max(1.0, min(max(size), PANORAMA_RATIO * min(size)) / detection_size)


def list_pieces(size: tuple[int, int], max_pixels: int) -> list[tuple[int, int, int, int]]:
    """Divides a photo along its longer side into equal pieces, which bounds the memory of P-Net.

    Neighboring pieces overlap by at least the photo's shorter side, so that any square within the
    photo is within a piece.

    Args:
      size: (width, height) px.
      max_pixels: of a piece; those of a square at least.

    Returns:
      (left, top, width, height) px of each piece: the photo itself if it is small enough.
    """
    short, long = sorted(size)
    length = min(long, max(max_pixels // short, short + 1))
    n_more = -(-(long - length) // (length - short)) if length < long else 0
    starts = [i * (long - length) // max(n_more, 1) for i in range(n_more + 1)]
    if size[0] >= size[1]:
        return [(start, 0, length, short) for start in starts]
    return [(0, start, short, length) for start in starts]


@dataclass(frozen=True)
class Level:
    """One level of a pyramid.

    Attributes:
      x, y: px, its position in the canvas.
      width, height: px.
      scale_x, scale_y: its width and height as fractions of the photo's.
    """

    x: int
    y: int
    width: int
    height: int
    scale_x: float
    scale_y: float


@dataclass(frozen=True)
class Canvas:
    """The layout of a photo's pyramid in one image, which P-Net processes in one call.

    Levels are placed first-fit in rows of columns. They start at even positions, where P-Net's
    stride coincides with their origin, so a window inside a level sees the same pixels as if the
    level were an image of its own.
    """

    width: int
    height: int
    levels: tuple[Level, ...]

    @classmethod
    def of(cls, size: tuple[int, int], min_face_size: int) -> "Canvas":
        """The canvas for photos of one size (width, height)."""
        sides = []  # (width, height) of each level, decreasing
        scale = P_NET_WINDOW / min_face_size
        while min(size) * scale >= P_NET_WINDOW:
            sides.append((math.ceil(size[0] * scale), math.ceil(size[1] * scale)))
            scale *= PYRAMID_FACTOR
        canvas_height = _round_up_to_even(sides[0][1]) if sides else 0
        columns: list[_Column] = []
        levels = []
        for width, height in sides:
            positions = (column.place(width, height, canvas_height) for column in columns)
            position = next((position for position in positions if position), None)
            if position is None:
                left = columns[-1].x + columns[-1].width if columns else 0
                columns.append(_Column(left, _round_up_to_even(width)))
                position = columns[-1].place(width, height, canvas_height)
                assert position is not None  # the column is as wide as the level
            x, y = position
            levels.append(Level(x, y, width, height, width / size[0], height / size[1]))
        canvas_width = columns[-1].x + columns[-1].width if columns else 0
        return cls(canvas_width, canvas_height, tuple(levels))

    def draw(self, image: Image.Image) -> np.ndarray:
        """(height, width, 3) uint8: the image at the size of every level, area-averaged."""
        canvas = Image.new("RGB", (self.width, self.height))
        drawn: list[Image.Image] = []
        for i, level in enumerate(self.levels):
            # Two levels up is twice the size: averaging it is as accurate and reads far less.
            source = drawn[i - 2] if i >= 2 else image
            resampling = choose_filter(source.width, level.width)
            drawn.append(source.resize((level.width, level.height), resampling))
            canvas.paste(drawn[-1], (level.x, level.y))
        return np.asarray(canvas)


@dataclass
class _Column:
    """A column of a canvas, filled row by row."""

    x: int
    width: int
    rows: list[list[int]] = field(default_factory=list)  # [top, height, used width]

    def place(self, width: int, height: int, canvas_height: int) -> tuple[int, int] | None:
        """Reserves room for a level and returns its position (x, y); None if there is no room."""
        for row in self.rows:
            if height <= row[1] and row[2] + width <= self.width:
                row[2] += _round_up_to_even(width)
                return self.x + row[2] - _round_up_to_even(width), row[0]
        top = self.rows[-1][0] + self.rows[-1][1] if self.rows else 0
        if width > self.width or top + height > canvas_height:
            return None
        self.rows.append([top, _round_up_to_even(height), _round_up_to_even(width)])
        return self.x, top


def choose_filter(length: float, new_length: float) -> Image.Resampling:
    """Area averaging to shrink; to enlarge, where it would give blocks of pixels, bilinear."""
    shrinks = new_length <= length
    return Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR


def cut_out(image: Image.Image, left: int, top: int, width: int, height: int) -> Image.Image:
    """A rectangle of an image, black beyond its edges.

    As Image.crop does, but without Pillow's limit on pixels, which is about files of unknown
    content and not about parts of an image that is in memory.
    """
    if (left, top, width, height) == (0, 0, *image.size):
        return image
    cut = Image.new(image.mode, (width, height))
    cut.paste(image, (-left, -top))
    return cut


def _round_up_to_even(length: int) -> int:
    return length + length % 2
