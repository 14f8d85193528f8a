"""Sums of unit vectors by group, the same bits for any division of the faces into parts."""

import numpy as np
import pytest

from facecluster.transforms.similarity.group_sums import group_sums
from facecluster.transforms.tables.codec import unit_rows

N, DIMENSIONS, GROUPS = 1000, 32, 7


@pytest.fixture
def faces():
    """Vectors with components of very different sizes, and groups of which one is none."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(N, DIMENSIONS)) * 10 ** rng.uniform(-9, 1, size=(N, DIMENSIONS))
    return vectors.astype(np.float32), rng.integers(-1, GROUPS, N)


def test_sums_are_those_of_plain_python(faces):
    vectors, group = faces
    units = unit_rows(vectors)
    expected = [units[group == number].sum(axis=0) for number in range(GROUPS)]
    found = group_sums([(slice(None), vectors)], group, GROUPS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("n_parts", [1, 3, 200])
def test_parts_in_any_order_give_the_same_bits(faces, n_parts):
    vectors, group = faces
    parts = np.array_split(np.random.default_rng(1).permutation(N), n_parts)
    found = group_sums(((part, vectors[part]) for part in parts), group, GROUPS)
    assert np.array_equal(found, group_sums([(slice(None), vectors)], group, GROUPS))
