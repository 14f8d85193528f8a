"""Near-duplicates equal those found by comparing all pairs, in any order of the rows."""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.transforms.photos import near_duplicates as module
from facecluster.transforms.photos.near_duplicates import (
    MAX_ASPECT_RATIO,
    MAX_DISTANCE,
    find_originals,
    near_duplicates_table,
)
from facecluster.transforms.tables import schema


@st.composite
def collections(draw):
    """(hashes, aspect ratios) around a few centers: many are equal, many differ in few bits."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, n_centers = draw(st.integers(0, 60)), draw(st.integers(1, 6))
    max_flips = draw(st.integers(0, 8))
    centers = random.integers(0, 2**64, n_centers, np.uint64)
    hashes = centers[random.integers(0, n_centers, n)]
    for _ in range(max_flips):
        flip = np.uint64(1) << random.integers(0, 64, n, np.uint64)
        hashes ^= np.where(random.random(n) < 0.5, flip, np.uint64(0))
    return hashes, random.choice([1.5, 1.53, 1.6, 0.75], n, p=[0.7, 0.1, 0.1, 0.1])


def find_originals_by_all_pairs(hashes, aspects, max_distance) -> list[int]:
    original = []
    for row, (code, aspect) in enumerate(zip(hashes.tolist(), aspects, strict=True)):
        near = (
            other for other in range(row)
            if original[other] == other
            and (code ^ int(hashes[other])).bit_count() <= max_distance
            and max(aspect / aspects[other], aspects[other] / aspect) <= MAX_ASPECT_RATIO
        )  # fmt: skip
        original.append(next(near, row))
    return original


@settings(deadline=None, max_examples=200)
@given(collections(), st.sampled_from([0, 2, 3, 4, 5, 8]), st.sampled_from([1, 7, 512]))
def test_originals_equal_those_found_by_all_pairs(collection, max_distance, block):
    hashes, aspects = collection
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        found = find_originals(hashes, aspects, max_distance)
    assert found.tolist() == find_originals_by_all_pairs(hashes, aspects, max_distance)


@pytest.mark.parametrize("n_bits", range(MAX_DISTANCE + 3))
def test_hashes_that_differ_in_any_few_bits_are_found(n_bits):
    random = np.random.default_rng(n_bits)
    code = random.integers(0, 2**64, dtype=np.uint64)
    flips = [random.choice(64, n_bits, replace=False) for _ in range(2000)]
    others = [code ^ np.uint64(sum(1 << int(bit) for bit in bits)) for bits in flips]
    for other in (others[0], *others[-500:]):
        found = find_originals(np.array([code, other]), np.ones(2))
        assert found.tolist() == [0, 0 if n_bits <= MAX_DISTANCE else 1]
    padding = random.integers(
        0, 2**64, module.BLOCK, np.uint64
    )  # so that the others are looked up in the index
    hashes = np.concatenate([[code], padding, others])
    marked = find_originals(hashes, np.ones(len(hashes)))[1 + len(padding) :] == 0
    assert marked.all() if n_bits <= MAX_DISTANCE else not marked.any()


def test_a_chain_does_not_connect_its_ends():
    steps = np.array([(1 << 4 * i) - 1 for i in range(6)], np.uint64)  # 4 bits from one to the next
    assert find_originals(steps, np.ones(6)).tolist() == [0, 0, 2, 2, 4, 4]


def test_many_near_duplicates_of_one_photo_are_not_compared_with_each_other():
    # There are 2e10 pairs, too many for the time and memory of a test.
    assert not find_originals(np.full(200_000, 12345, np.uint64), np.ones(200_000)).any()


# --- the table


def photos_table(random, n: int) -> pa.Table:
    """Photos with few distinct hashes; some have two URIs, some no hash or date."""
    ids = [f"{number:064x}" for number in random.permutation(n)]
    centers = random.integers(-(2**63), 2**63, 5)
    hashes = centers[random.integers(0, 5, n)] ^ (1 << random.integers(0, 62, n))
    rows = [
        {
            "photo_id": ids[i], "uri": f"{i}.jpg", "width": int(width), "height": int(width) // 2,
            "taken_at": None if day == 0 else datetime(2020, 1, 1 + day),
            "n_faces": 0, "perceptual_hash": None if random.random() < 0.1 else int(hashes[i]),
        }
        for i, (width, day) in enumerate(zip(random.choice([400, 800], n),
                                             random.integers(0, 3, n).tolist(), strict=True))
    ]  # fmt: skip
    rows += [row | {"uri": "again/" + row["uri"]} for row in rows[: n // 3]]
    return pa.Table.from_pylist(rows, schema.PHOTOS)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_the_table_has_each_near_duplicate_and_does_not_depend_on_the_order_of_rows(seed, n):
    random = np.random.default_rng(seed)
    photos = photos_table(random, n)
    table = near_duplicates_table(photos)
    assert near_duplicates_table(photos.take(random.permutation(len(photos)))).equals(table)
    assert table.schema.equals(schema.NEAR_DUPLICATES)
    assert schema.stamp_of(table.schema) == {"schema_version": schema.SCHEMA_VERSION}

    photo = {row["photo_id"]: row for row in photos.to_pylist()}
    rows = table.to_pylist()
    listed = {row["photo_id"] for row in rows}
    assert len(listed) == len(rows)
    for row in rows:
        near, original = photo[row["photo_id"]], photo[row["original_photo_id"]]
        assert original["photo_id"] not in listed
        bits = (near["perceptual_hash"] ^ original["perceptual_hash"]) % 2**64
        assert row["distance"] == bits.bit_count() <= MAX_DISTANCE
        assert rank(original) < rank(near)
    others = [p["perceptual_hash"] for name, p in photo.items() if name not in listed]
    others = [code % 2**64 for code in others if code is not None]
    for i, code in enumerate(others):
        assert all((code ^ other).bit_count() > MAX_DISTANCE for other in others[:i])


def rank(photo: dict) -> tuple:
    pixels, taken_at = photo["width"] * photo["height"], photo["taken_at"]
    return -pixels, taken_at is None, taken_at, photo["photo_id"]


def test_the_original_has_most_pixels_then_the_earliest_date_then_the_smallest_id():
    def table(*photos):
        names = ("photo_id", "width", "height", "taken_at", "perceptual_hash")
        rows = [dict(zip(names, photo, strict=True)) for photo in photos]
        fields = pa.schema([schema.PHOTOS.field(name) for name in names])
        found = near_duplicates_table(pa.Table.from_pylist(rows, fields))
        return set(found["original_photo_id"].to_pylist())

    early, late = datetime(2001, 1, 1), datetime(2002, 1, 1)
    assert table(("a", 50_000, 40_000, early, 7), ("b", 60_000, 48_000, None, 7)) == {"b"}
    assert table(("a", 4, 3, late, 7), ("b", 4, 3, early, 7), ("c", 4, 3, None, 7)) == {"b"}
    assert table(("b", 4, 3, None, 7), ("a", 4, 3, None, 7)) == {"a"}
    assert table(("a", 4, 3, None, None), ("b", 4, 3, None, None)) == set()
    assert table(("a", 4, 3, None, 7), ("b", 3, 4, None, 7)) == set()
    assert table() == set()
