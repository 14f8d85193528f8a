"""How surely photos saved again are marked as near-duplicates, and how often different ones are.

    python benchmarks/near_duplicates.py --images FOLDER [--sheet FILE.png] [--n 1000000]

FOLDER holds one folder of photos per person, cut into halves as in quality.py; the largest distance
was chosen on the tuning half. Photos of each half are saved again in many ways, and the share of
them within each distance of their original is their recall. All pairs of photos of a half, as they
are, are of different photos but for some that the collection holds twice: --sheet draws the nearest
of them, both halves', to be looked at. Then n random hashes are searched, with copies planted.
"""

import argparse
import io
import resource
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageEnhance
from quality import HALVES, half_of

from facecluster.transforms.photos.near_duplicates import near_duplicates_table
from facecluster.transforms.photos.perceptual_hash import perceptual_hash

DISTANCES = (0, 2, 4, 6, 8, 10)
EVERY = 5  # a photo in so many is saved again
TILE, COLUMNS, SHOWN = 125, 6, 48  # px; pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--sheet", type=Path, help="draw the nearest pairs here")
    parser.add_argument("--n", type=int, default=1_000_000, help="random hashes")
    arguments = parser.parse_args()
    nearest = []
    for half in HALVES:
        people = [p for p in sorted(arguments.images.iterdir()) if half_of(p.name) == half]
        nearest += report_half(half, [photo for p in people for photo in sorted(p.iterdir())])
    if arguments.sheet:
        draw(sorted(nearest, key=lambda pair: pair[0])[:SHOWN], arguments.sheet)
    report_scale(arguments.n)


def report_half(half: str, paths: list[Path]) -> list[tuple[int, Path, Path]]:
    """Prints a half's figures; (distance, photo, photo) of its nearest pairs."""
    hashes = [perceptual_hash(Image.open(path).convert("RGB")) for path in paths]
    known = [(path, found) for path, found in zip(paths, hashes, strict=True) if found is not None]
    print(f"{half}: {len(paths):,} photos, {len(paths) - len(known)} of too little structure")
    print(f"{'bits, at most':24}", *(f"{distance:8}" for distance in DISTANCES))
    for name, save in WAYS.items():
        distances = np.array([distance(path, found, save) for path, found in known[::EVERY]])
        shares = [(distances <= most).mean() for most in DISTANCES]
        print(f"{name:24}", *(f"{share:8.4f}" for share in shares))

    bits = np.array([found for _, found in known]).view(np.uint64)
    counts, nearest = np.zeros(65, np.int64), []
    for row in range(len(bits) - 1):
        distances = np.bitwise_count(bits[row] ^ bits[row + 1 :])
        counts += np.bincount(distances, minlength=65)
        nearest += [
            (int(distances[i]), known[row][0], known[row + 1 + i][0])
            for i in np.flatnonzero(distances <= DISTANCES[-2])
        ]
    within = [counts[: most + 1].sum() for most in DISTANCES]
    print(f"{f'of {counts.sum():,} pairs':24}", *(f"{count:8,}" for count in within))
    return nearest


def distance(path: Path, found: int, save: Callable[[Image.Image], Image.Image]) -> int:
    """Bits between a photo's hash and that of its copy; 65 where that has none."""
    again = perceptual_hash(save(Image.open(path).convert("RGB")))
    return 65 if again is None else int(np.bitwise_count(np.uint64((found ^ again) % 2**64)))


def saved(image: Image.Image, quality: int = 90) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def resized(image: Image.Image, scale: float) -> Image.Image:
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float, right: bool = True) -> Image.Image:
    """Without this share of the picture on every side, or on the left alone."""
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y) if right else (x, 0, *image.size))


def brightened(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


WAYS: dict[str, Callable[[Image.Image], Image.Image]] = {
    **{f"JPEG quality {q}": lambda image, q=q: saved(image, q) for q in (30, 60, 90)},
    **{f"size x {s}": lambda image, s=s: saved(resized(image, s)) for s in (0.25, 0.5, 0.75, 0.9)},
    "brightness x 0.8": lambda image: saved(brightened(image, 0.8)),
    "brightness x 1.25": lambda image: saved(brightened(image, 1.25)),
    "contrast x 1.2": lambda image: saved(ImageEnhance.Contrast(image).enhance(1.2)),
    "1 % off each side": lambda image: saved(cropped(image, 0.01)),
    "2 % off each side": lambda image: saved(cropped(image, 0.02)),
    "2 % off the left": lambda image: saved(cropped(image, 0.02, right=False)),
    "1 % off, half, x 1.1, 60": lambda image: saved(
        brightened(resized(cropped(image, 0.01), 0.5), 1.1), 60
    ),
}


def draw(pairs: list[tuple[int, Path, Path]], path: Path) -> None:
    """A contact sheet of pairs, nearest first, with their distance in bits."""
    rows = -(-len(pairs) // COLUMNS)
    sheet = Image.new("RGB", (2 * TILE * COLUMNS, (TILE + 14) * rows), "white")
    for i, (bits, *photos) in enumerate(pairs):
        x, y = 2 * TILE * (i % COLUMNS), (TILE + 14) * (i // COLUMNS)
        ImageDraw.Draw(sheet).text((x, y), f"{bits} {photos[0].name[:30]}", "black")
        for side, photo in enumerate(photos):
            tile = Image.open(photo).resize((TILE - 2, TILE - 2))
            sheet.paste(tile, (x + side * (TILE - 1), y + 13))
    sheet.save(path)


def report_scale(n: int) -> None:
    """Seconds and memory of the table of n photos: random hashes, and many of one."""
    random = np.random.default_rng(0)
    for name, n_copies, n_equal in (
        ("5 % are copies, of 0 to 4 bits", n // 20, 0),
        ("half are of one hash", 0, n // 2),
    ):
        hashes = random.integers(-(2**63), 2**63, n)
        source = random.integers(n_copies, n, n_copies)
        hashes[:n_copies] = hashes[source]
        for _ in range(4):  # a bit flipped twice is as before
            hashes[:n_copies] ^= 1 << random.integers(0, 63, n_copies)
        hashes[n - n_equal :] = hashes[-1]
        photos = pa.table({
            "photo_id": [f"{i:064x}" for i in random.permutation(n)],
            "width": pa.array(np.full(n, 4000), pa.int32()),
            "height": pa.array(np.full(n, 3000), pa.int32()),
            "taken_at": pa.array([datetime(2020, 1, 1)] * n, pa.timestamp("ms")),
            "perceptual_hash": hashes,
        })  # fmt: skip
        before, started = peak_mib(), time.monotonic()
        n_marked = len(near_duplicates_table(photos))
        print(f"{n:,} photos, {name}: {n_marked:,} marked in {time.monotonic() - started:.1f} s, "
              f"{peak_mib() - before:,} MiB beside the photos table")  # fmt: skip


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
