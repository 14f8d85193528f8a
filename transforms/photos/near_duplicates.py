"""Photos that show what another shows: saved again, made smaller, a little brighter or cropped.

They are marked and not dropped: a hash of 64 bits can err.
"""

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from threadpoolctl import threadpool_limits

from facecluster.transforms.tables import schema
from facecluster.transforms.tables.distinct import distinct_rows

# Bits. The nearest photos of LFW's tuning half: up to 4 bits the same picture under two names, from
# 6 bits on portraits of two people against alike backgrounds (benchmarks/near_duplicates.py).
MAX_DISTANCE = 4
# Widths over heights differ by no more than this factor: a little border lost on one side.
MAX_ASPECT_RATIO = 1.05

# Multi-index hashing (Norouzi, Punjani, Fleet, 2012): of two hashes' bands at least one differs in
# no more than its share of max_distance bits, so looking up every band's few neighbours finds all.
# Few of a million photos share a band of 21 bits by chance; 16 bits take ten times as long.
BITS, BANDS = 64, 3
BLOCK = 512  # photos compared with each other at once


def near_duplicates(
    hashes: np.ndarray, aspect_ratios: np.ndarray, max_distance: int = MAX_DISTANCE
) -> np.ndarray:
    """Finds for every photo the one that it is a near-duplicate of.

    Going from the best photo to the worst, one that is near no original yet is an original, and any
    other belongs to the best original that it is near. So marks form stars and not chains, which
    would join two scenes of a film over the frames between: each photo is near its original.
    Only originals are compared with what follows, so n copies of a picture take time linear in n.

    Args:
      hashes: (n,) uint64, the best photo first.
      aspect_ratios: (n,) float, width / height.
      max_distance: in bits.

    Returns:
      (n,) int64: the row of each photo's original, an original's own.
    """
    codes, aspects = hashes.view(np.uint8).reshape(-1, BITS // 8), np.log(aspect_ratios)
    index = faiss.IndexBinaryMultiHash(BITS, BANDS, BITS // BANDS)
    index.nflip = max_distance // BANDS
    indexed = np.empty(len(hashes), np.int64)  # the rows in the index, which are all originals
    original = np.arange(len(hashes))

    def agree(rows, others):
        return abs(aspects[rows] - aspects[others]) <= np.log(MAX_ASPECT_RATIO)

    for start in range(0, len(hashes), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(hashes)))
        with threadpool_limits(1):  # threads for so short a search cost more than they save
            limits, _, found = index.range_search(codes[rows], max_distance + 1)  # less than that
        copies, earlier = np.repeat(rows, np.diff(limits.astype(np.int64))), indexed[found]
        agreeing = agree(copies, earlier)
        np.minimum.at(original, copies[agreeing], earlier[agreeing])

        left = rows[original[rows] == rows]
        near = np.bitwise_count(hashes[left, None] ^ hashes[left]) <= max_distance
        first, second = (left[side] for side in np.nonzero(np.triu(near, 1)))
        agreeing = agree(first, second)
        _mark(original, first[agreeing], second[agreeing])

        new = left[original[left] == left]
        indexed[index.ntotal : index.ntotal + len(new)] = new
        index.add(codes[new])
    return original


def _mark(original: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Marks photos as copies of others; first < second, ordered by first, pairs within a block."""
    rows, starts = np.unique(first, return_index=True)
    stops = np.append(starts, len(second))[1:]
    for row, start, stop in zip(rows, starts, stops, strict=True):
        if original[row] == row:
            copies = second[start:stop]
            original[copies[original[copies] == copies]] = row


def near_duplicates_table(photos: pa.Table) -> pa.Table:
    """The near_duplicates table of a photos table, the same in whatever order its rows are.

    Of photos that show the same, the original is the one with most pixels, then the one taken
    first, then that of the smallest photo_id.

    Args:
      photos: columns photo_id, width, height, taken_at and perceptual_hash.
    """
    photos = distinct_rows(photos, "photo_id")
    photos = photos.filter(pc.is_valid(photos["perceptual_hash"]))
    pixels = pc.multiply(photos["width"].cast(pa.int64()), photos["height"])
    photos = photos.append_column("pixels", pixels).sort_by(
        [("pixels", "descending"), ("taken_at", "ascending"), ("photo_id", "ascending")]
    )
    hashes = photos["perceptual_hash"].to_numpy().view(np.uint64)
    original = near_duplicates(hashes, photos["width"].to_numpy() / photos["height"].to_numpy())
    marked = np.flatnonzero(original != np.arange(len(original)))
    columns = {
        "photo_id": photos["photo_id"].take(marked),
        "original_photo_id": photos["photo_id"].take(original[marked]),
        "distance": np.bitwise_count(hashes[marked] ^ hashes[original[marked]]).astype(np.int32),
    }
    table = pa.table(columns, schema=schema.stamped(schema.NEAR_DUPLICATES))
    return table.sort_by("photo_id")
