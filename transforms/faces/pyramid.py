"""A photo at falling sizes, packed into one picture for P-Net."""

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

P_NET_WINDOW, P_NET_STRIDE = 12, 2  # px
PYRAMID_FACTOR = 0.709  # between pyramid levels: half the area


@dataclass(frozen=True)
class Level:
    """One level of a pyramid: its place in the canvas and its size, in px, and its two scales."""

    x: int
    y: int
    width: int
    height: int
    scale_x: float
    scale_y: float


@dataclass(frozen=True)
class Canvas:
    """A photo's whole pyramid laid out in one picture, so that P-Net sees it in one call.

    Levels stand in rows of columns, first fit. They start at even places, where P-Net's stride
    falls on their own origin, so a window inside a level sees what it would see in it alone.
    """

    width: int
    height: int
    levels: tuple[Level, ...]

    @classmethod
    def of(cls, size: tuple[int, int], min_face_size: int) -> "Canvas":
        """The canvas for photos of one size (width, height)."""
        sides = []  # (width, height) of each level, falling
        scale = P_NET_WINDOW / min_face_size
        while min(size) * scale >= P_NET_WINDOW:
            sides.append(tuple(math.ceil(side * scale) for side in size))
            scale *= PYRAMID_FACTOR
        canvas_height = _even(sides[0][1]) if sides else 0
        columns: list[_Column] = []
        levels = []
        for width, height in sides:
            places = (column.place(width, height, canvas_height) for column in columns)
            place = next((place for place in places if place), None)
            if place is None:
                left = columns[-1].x + columns[-1].width if columns else 0
                columns.append(_Column(left, _even(width)))
                place = columns[-1].place(width, height, canvas_height)
            levels.append(Level(*place, width, height, width / size[0], height / size[1]))
        canvas_width = columns[-1].x + columns[-1].width if columns else 0
        return cls(canvas_width, canvas_height, tuple(levels))

    def draw(self, image: Image.Image) -> np.ndarray:
        """(height, width, 3) uint8: the image at every level's size, area-averaged."""
        canvas = Image.new("RGB", (self.width, self.height))
        drawn: list[Image.Image] = []
        for i, level in enumerate(self.levels):
            # Two levels up is twice the size: averaging that is as good and reads far less.
            source = drawn[i - 2] if i >= 2 else image
            how = resampling(source.width, level.width)
            drawn.append(source.resize((level.width, level.height), how))
            canvas.paste(drawn[-1], (level.x, level.y))
        return np.asarray(canvas)


@dataclass
class _Column:
    """A column of a canvas, filled row by row."""

    x: int
    width: int
    rows: list[list[int]] = field(default_factory=list)  # [top, height, width used]

    def place(self, width: int, height: int, canvas_height: int) -> tuple[int, int] | None:
        """Where a level of this size goes (x, y), or None when there is no room for it."""
        for row in self.rows:
            if height <= row[1] and row[2] + width <= self.width:
                row[2] += _even(width)
                return self.x + row[2] - _even(width), row[0]
        top = self.rows[-1][0] + self.rows[-1][1] if self.rows else 0
        if width > self.width or top + height > canvas_height:
            return None
        self.rows.append([top, _even(height), _even(width)])
        return self.x, top


def _even(length: int) -> int:
    return length + length % 2


def resampling(length: float, new_length: float) -> Image.Resampling:
    """Area averaging to make smaller; it would make blocks of pixels that are made larger."""
    smaller = new_length <= length
    return Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
