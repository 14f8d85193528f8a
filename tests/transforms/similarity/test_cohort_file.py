"""Cohorts are written and read back, and damaged files are noticed."""

import numpy as np
import pytest

from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.similarity.cohort_file import pack_cohorts, unpack_cohorts
from facecluster.transforms.tables.codec import unit_rows


def random_cohort(n: int = 192, d: int = 128) -> Cohort:
    vectors = np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)
    return Cohort(unit_rows(vectors), 0.38, 0.7)


def test_cohorts_are_read_back():
    cohort, other = random_cohort(), random_cohort(10, 4)
    content = pack_cohorts({"pca128-5a": cohort, "float32": other})
    assert len(content) < 192 * 128 + 2000
    read = unpack_cohorts(content)
    assert list(read) == ["pca128-5a", "float32"]
    found = read["pca128-5a"]
    assert (found.level, found.same_person) == (0.38, 0.7)
    assert found.vectors.dtype == np.float32
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(1)
    assert np.sum(found.vectors * cohort.vectors, axis=1).min() > 0.999  # 8 bits
    assert read["float32"].vectors.shape == (10, 4)
    # Vectors that have been rounded once stay as they are.
    again = unpack_cohorts(pack_cohorts(read))
    np.testing.assert_array_equal(again["pca128-5a"].vectors, found.vectors)
    assert unpack_cohorts(pack_cohorts({})) == {}


@pytest.mark.parametrize("length", [0, 5, 500, 20_000, -1])
def test_a_file_that_is_cut_off_is_damaged(length):
    with pytest.raises(ValueError, match=r"."):
        unpack_cohorts(pack_cohorts({"float32": random_cohort()})[:length])


def test_a_file_with_one_wrong_byte_is_damaged():
    content = bytearray(pack_cohorts({"float32": random_cohort()}))
    content[5000] ^= 255
    with pytest.raises(ValueError, match=r"."):
        unpack_cohorts(bytes(content))


def test_too_small_a_cohort_is_refused():
    with pytest.raises(ValueError, match=r"\(9, 128\) int8 is not a cohort"):
        unpack_cohorts(pack_cohorts({"float32": random_cohort(9)}))
