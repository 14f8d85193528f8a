"""Measures how reliably near-duplicates are found, and how often different photos count as such.

    python benchmarks/near_duplicates.py --images FOLDER [--sheet FILE.png] [--n 1000000]

FOLDER holds one folder of photos per person, in halves as in quality.py. The largest distance was
chosen on the tuning half. Photos of each half are modified in many ways; the recall is the fraction
of the modified photos within each distance of their original. The last row counts the pairs of
unmodified photos within each distance: these are different photos, except for a few that the
collection holds twice. --sheet draws the nearest of these pairs in both halves, to be inspected.
Finally, n random hashes are searched, among them slightly changed copies.
"""

import argparse
import io
import resource
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageEnhance
from quality import HALVES, choose_half

from facecluster.transforms.photos.near_duplicates import near_duplicates_table
from facecluster.transforms.photos.perceptual_hash import perceptual_hash

DISTANCES = (0, 2, 4, 6, 8, 10)  # bits
MAX_SHEET_DISTANCE = 8  # bits
NO_HASH = 65  # bits: farther than any two hashes are apart
STRIDE = 5  # every so many photos, one is modified
TILE_PX, COLUMNS, MAX_PAIRS = 125, 6, 48  # of the sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path, help="one folder of photos a person")
    parser.add_argument("--sheet", type=Path, help="draw the nearest pairs here")
    parser.add_argument("--n", type=int, default=1_000_000, help="number of random hashes")
    arguments = parser.parse_args()
    nearest = []
    for half in HALVES:
        people = [p for p in sorted(arguments.images.iterdir()) if choose_half(p.name) == half]
        nearest += measure_half(half, [photo for p in people for photo in sorted(p.iterdir())])
    if arguments.sheet:
        draw_sheet(sorted(nearest, key=lambda pair: pair[0])[:MAX_PAIRS], arguments.sheet)
    measure_scale(arguments.n)


def measure_half(half: str, paths: Sequence[Path]) -> list[tuple[int, Path, Path]]:
    """Prints the table of a half; returns (distance, photo, photo) of its nearest pairs."""
    hashes = [perceptual_hash(Image.open(path).convert("RGB")) for path in paths]
    hashed = [(path, value) for path, value in zip(paths, hashes, strict=True) if value is not None]
    print(f"{half}: {len(paths):,} photos, {len(paths) - len(hashed)} with too little structure")
    print(f"{'within so many bits':28}", *(f"{distance:8}" for distance in DISTANCES))
    for name, modify in MODIFICATIONS.items():
        distances = np.array([distance(path, value, modify) for path, value in hashed[::STRIDE]])
        recalls = [(distances <= limit).mean() for limit in DISTANCES]
        print(f"{name:28}", *(f"{recall:8.4f}" for recall in recalls))

    bits = np.array([value for _, value in hashed]).view(np.uint64)
    counts, nearest = np.zeros(65, np.int64), []
    for row in range(len(bits) - 1):
        distances = np.bitwise_count(bits[row] ^ bits[row + 1 :])
        counts += np.bincount(distances, minlength=65)
        nearest += [
            (int(distances[i]), hashed[row][0], hashed[row + 1 + i][0])
            for i in np.flatnonzero(distances <= MAX_SHEET_DISTANCE)
        ]
    n_within = [counts[: limit + 1].sum() for limit in DISTANCES]
    print(f"{f'of {counts.sum():,} pairs':28}", *(f"{count:8,}" for count in n_within))
    return nearest


def distance(path: Path, value: int, modify: Callable[[Image.Image], Image.Image]) -> int:
    """Bits between the hashes of a photo and of its modification; NO_HASH if that has none."""
    modified = perceptual_hash(modify(Image.open(path).convert("RGB")))
    if modified is None:
        return NO_HASH
    return int(np.bitwise_count(np.uint64((value ^ modified) % 2**64)))


def compress(image: Image.Image, quality: int = 90) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def resize(image: Image.Image, scale: float) -> Image.Image:
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def crop_sides(image: Image.Image, fraction: float) -> Image.Image:
    """Cuts this fraction of the width or height off each side."""
    x, y = round(image.width * fraction), round(image.height * fraction)
    return image.crop((x, y, image.width - x, image.height - y))


def crop_left(image: Image.Image, fraction: float) -> Image.Image:
    return image.crop((round(image.width * fraction), 0, *image.size))


def brighten(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


MODIFICATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    **{f"JPEG quality {q}": lambda image, q=q: compress(image, q) for q in (30, 60, 90)},
    **{
        f"size x {s}": lambda image, s=s: compress(resize(image, s)) for s in (0.25, 0.5, 0.75, 0.9)
    },
    "brightness x 0.8": lambda image: compress(brighten(image, 0.8)),
    "brightness x 1.25": lambda image: compress(brighten(image, 1.25)),
    "contrast x 1.2": lambda image: compress(ImageEnhance.Contrast(image).enhance(1.2)),
    "1 % off each side": lambda image: compress(crop_sides(image, 0.01)),
    "2 % off each side": lambda image: compress(crop_sides(image, 0.02)),
    "2 % off the left": lambda image: compress(crop_left(image, 0.02)),
    "combination": lambda image: compress(brighten(resize(crop_sides(image, 0.01), 0.5), 1.1), 60),
}


def draw_sheet(pairs: Sequence[tuple[int, Path, Path]], path: Path) -> None:
    """Draws a contact sheet of pairs, nearest first, with their distance in bits."""
    rows = -(-len(pairs) // COLUMNS)
    sheet = Image.new("RGB", (2 * TILE_PX * COLUMNS, (TILE_PX + 14) * rows), "white")
    for i, (bits, *photos) in enumerate(pairs):
        x, y = 2 * TILE_PX * (i % COLUMNS), (TILE_PX + 14) * (i // COLUMNS)
        ImageDraw.Draw(sheet).text((x, y), f"{bits} {photos[0].name[:30]}", "black")
        for side, photo in enumerate(photos):
            tile = Image.open(photo).resize((TILE_PX - 2, TILE_PX - 2))
            sheet.paste(tile, (x + side * (TILE_PX - 1), y + 13))
    sheet.save(path)


def measure_scale(n: int) -> None:
    """Prints seconds and memory of the near-duplicates table of n photos with random hashes."""
    random = np.random.default_rng(0)
    for name, n_copies, n_equal in (
        ("5 % are copies with up to 4 bits changed", n // 20, 0),
        ("half have the same hash", 0, n // 2),
    ):
        hashes = random.integers(-(2**63), 2**63, n)
        source = random.integers(n_copies, n, n_copies)
        hashes[:n_copies] = hashes[source]
        for _ in range(4):  # flipping the same bit twice restores it
            hashes[:n_copies] ^= 1 << random.integers(0, 63, n_copies)
        hashes[n - n_equal :] = hashes[-1]
        photos = pa.table({
            "photo_id": [f"{i:064x}" for i in random.permutation(n)],
            "width": pa.array(np.full(n, 4000), pa.int32()),
            "height": pa.array(np.full(n, 3000), pa.int32()),
            "taken_at": pa.array([datetime(2020, 1, 1)] * n, pa.timestamp("ms")),
            "perceptual_hash": hashes,
        })  # fmt: skip
        memory_before, started = peak_mib(), time.monotonic()
        n_found = len(near_duplicates_table(photos))
        print(f"{n:,} photos, {name}: {n_found:,} found in {time.monotonic() - started:.1f} s, "
              f"{peak_mib() - memory_before:,} MiB besides the photos table")  # fmt: skip


def peak_mib() -> int:
    """The peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
