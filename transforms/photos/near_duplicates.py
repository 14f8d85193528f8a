"""Finds near-duplicates: photos that were saved again, made smaller, or slightly changed.

They are listed in a table and not dropped, because a hash of 64 bits can be wrong.
"""

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from threadpoolctl import threadpool_limits

from facecluster.transforms.tables import schema
from facecluster.transforms.tables.distinct import distinct_rows

# Bits. In the tuning half of LFW, photos up to 4 bits apart are one photo under two names; from 6
# bits on they are portraits of two people with similar backgrounds (benchmarks/near_duplicates.py).
MAX_DISTANCE = 4
# Near-duplicates' ratios of width to height differ by at most this factor: a small border cropped.
MAX_ASPECT_RATIO = 1.05

# Multi-index hashing (Norouzi, Punjani, Fleet, 2012): if a hash is cut into bands, two near hashes
# differ in at most max_distance / BANDS bits in at least one band, so looking up each band's
# neighbors finds all. Few of a million photos have a band of 21 bits in common by chance; with
# bands of 16 bits the search takes ten times as long.
BITS, BANDS = 64, 3
BLOCK = 512  # photos compared with each other at once


def find_originals(
    hashes: np.ndarray, aspect_ratios: np.ndarray, max_distance: int = MAX_DISTANCE
) -> np.ndarray:
    """Finds for each photo its original, the photo that it is a near-duplicate of.

    From the best photo to the worst, a photo without a near original becomes an original, and any
    other is assigned to the best original that is near. Each photo is therefore near its original,
    and there are no chains, which would connect two scenes of a film through the frames between.
    Photos are compared with originals only, so n near-duplicates of one photo take time linear in
    n.

    Args:
      hashes: (n,) uint64 perceptual hashes, the best photo first.
      aspect_ratios: (n,) float, width / height.
      max_distance: in bits.

    Returns:
      (n,) int64: the row of each photo's original. An original has its own row.
    """
    codes, aspects = hashes.view(np.uint8).reshape(-1, BITS // 8), np.log(aspect_ratios)
    index = faiss.IndexBinaryMultiHash(BITS, BANDS, BITS // BANDS)
    index.nflip = max_distance // BANDS
    indexed = np.empty(len(hashes), np.int64)  # rows of the originals in the index
    original = np.arange(len(hashes))

    def have_similar_aspects(rows, others):
        return abs(aspects[rows] - aspects[others]) <= np.log(MAX_ASPECT_RATIO)

    for start in range(0, len(hashes), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(hashes)))
        with threadpool_limits(1):  # the search is too short to gain from threads
            # FAISS finds distances below the radius.
            limits, _, found = index.range_search(codes[rows], max_distance + 1)
        later, earlier = np.repeat(rows, np.diff(limits.astype(np.int64))), indexed[found]
        similar = have_similar_aspects(later, earlier)
        np.minimum.at(original, later[similar], earlier[similar])

        unassigned = rows[original[rows] == rows]
        near = np.bitwise_count(hashes[unassigned, None] ^ hashes[unassigned]) <= max_distance
        earlier, later = (unassigned[side] for side in np.nonzero(np.triu(near, 1)))
        similar = have_similar_aspects(earlier, later)
        _assign_within_block(original, earlier[similar], later[similar])

        new = unassigned[original[unassigned] == unassigned]
        indexed[index.ntotal : index.ntotal + len(new)] = new
        index.add(codes[new])
    return original


def _assign_within_block(original: np.ndarray, earlier: np.ndarray, later: np.ndarray) -> None:
    """Assigns originals, in place, given the near pairs of a block.

    Args:
      original: (n,) int64 as `find_originals` returns it.
      earlier, later: (n_pairs,) int64 rows, earlier < later, sorted by `earlier`.
    """
    rows, starts = np.unique(earlier, return_index=True)
    stops = np.append(starts, len(later))[1:]
    for row, start, stop in zip(rows, starts, stops, strict=True):
        if original[row] == row:
            near = later[start:stop]
            original[near[original[near] == near]] = row


def near_duplicates_table(photos: pa.Table) -> pa.Table:
    """Makes the near_duplicates table of a photos table. The order of its rows does not matter.

    Of near-duplicates the original is the one with the most pixels, then the earliest taken_at,
    then the smallest photo_id.

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
    original = find_originals(hashes, photos["width"].to_numpy() / photos["height"].to_numpy())
    rows = np.flatnonzero(original != np.arange(len(original)))
    columns = {
        "photo_id": photos["photo_id"].take(rows),
        "original_photo_id": photos["photo_id"].take(original[rows]),
        "distance": np.bitwise_count(hashes[rows] ^ hashes[original[rows]]).astype(np.int32),
    }
    table = pa.table(columns, schema=schema.stamped(schema.NEAR_DUPLICATES))
    return table.sort_by("photo_id")
