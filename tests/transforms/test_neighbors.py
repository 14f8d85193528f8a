import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from facecluster.transforms import neighbors as neighbors_module
from facecluster.transforms.neighbors import nearest_neighbors


def unit(vectors):
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# Few small whole numbers, so that many vectors are the same or in the same direction.
VECTORS = st.integers(1, 4).flatmap(
    lambda dimensions: st.lists(
        st.lists(st.integers(-2, 2), min_size=dimensions, max_size=dimensions).filter(any),
        min_size=2,
        max_size=40,
    ).map(unit)
)


def squared_distances(vectors):
    """By differences rather than by cosines, in float64; a vector is infinitely far from itself."""
    squares = cdist(vectors, vectors, "sqeuclidean")
    np.fill_diagonal(squares, np.inf)
    return squares


def check_form(found, n, k):
    """What holds of any graph, exact or not."""
    assert (found.ids.dtype, found.distances.dtype) == (np.int64, np.float32)
    assert found.ids.shape == found.distances.shape == (n, k)
    assert not np.any(found.ids == np.arange(n)[:, None])
    for row in found.ids:
        assert len(set(row[row >= 0])) == np.count_nonzero(row >= 0)
    assert np.array_equal(found.ids < 0, np.isinf(found.distances))
    assert np.all(found.distances[:, 1:] >= found.distances[:, :-1])


@settings(deadline=None)
@given(VECTORS, st.integers(1, 50))
def test_the_nearest_are_those_of_brute_force(vectors, k):
    found = nearest_neighbors(vectors, k)
    k = min(k, len(vectors) - 1)
    check_form(found, len(vectors), k)
    expected = squared_distances(vectors)
    # Cosines are rounded to 1e-7, squared distances therefore to a few of that.
    assert found.distances**2 == pytest.approx(np.sort(expected, axis=1)[:, :k], abs=1e-6)
    of_the_found = np.take_along_axis(expected, found.ids, axis=1)
    assert found.distances**2 == pytest.approx(of_the_found, abs=1e-6)


def test_a_face_with_more_copies_than_neighbours_is_not_its_own():
    random = np.random.default_rng(0)
    vectors = unit(random.normal(size=(350, 16)))
    copies = random.permutation(350)[:300]
    vectors[copies] = vectors[copies[0]]
    found = nearest_neighbors(vectors, 10)
    check_form(found, 350, 10)
    assert set(found.ids[copies].ravel()) <= set(copies)
    assert np.all(found.distances[copies] < 1e-3)


@pytest.mark.parametrize("n", [0, 1])
def test_without_others_there_are_no_neighbours(n):
    found = nearest_neighbors(np.ones((n, 1), np.float32), 5)
    check_form(found, n, 0)


def test_two_faces_are_each_others_neighbour():
    found = nearest_neighbors(unit([[3, 4], [4, 3]]), 64)
    assert found.ids.tolist() == [[1], [0]]
    assert found.distances == pytest.approx(np.full((2, 1), np.sqrt(0.08)), abs=1e-6)


def test_any_layout_of_the_vectors_will_do():
    vectors = unit(np.random.default_rng(0).normal(size=(30, 8)))
    expected = nearest_neighbors(vectors, 4)
    for same in (np.asfortranarray(vectors), vectors.astype(np.float64)):
        assert np.array_equal(nearest_neighbors(same, 4).ids, expected.ids)


def faces_of_people(n_people, n_faces_each, n_dimensions, noise):
    random = np.random.default_rng(0)
    people = np.repeat(unit(random.normal(size=(n_people, n_dimensions))), n_faces_each, axis=0)
    spread = random.normal(size=people.shape) * noise / np.sqrt(n_dimensions)
    return unit(people + spread)


def test_the_search_in_cells_finds_nearly_all(monkeypatch):
    vectors = faces_of_people(n_people=400, n_faces_each=15, n_dimensions=64, noise=0.7)
    exact = nearest_neighbors(vectors, 14)
    monkeypatch.setattr(neighbors_module, "EXACT_UP_TO", 1000)
    assert isinstance(neighbors_module._index(vectors), faiss.IndexIVF)
    found = nearest_neighbors(vectors, 14)
    check_form(found, len(vectors), 14)
    hits = [len(set(a) & set(b)) for a, b in zip(found.ids, exact.ids, strict=True)]
    assert np.mean(hits) / 14 >= 0.95


def test_the_distances_of_the_search_in_cells_are_half_precise(monkeypatch):
    vectors = faces_of_people(n_people=100, n_faces_each=20, n_dimensions=64, noise=0.7)
    monkeypatch.setattr(neighbors_module, "EXACT_UP_TO", 100)
    found = nearest_neighbors(vectors, 10)
    there = found.ids >= 0
    expected = np.take_along_axis(squared_distances(vectors), found.ids, axis=1)
    # float16 keeps 11 bits of each component.
    assert found.distances[there] ** 2 == pytest.approx(expected[there], abs=2e-3)


def test_cells_that_hold_too_few_leave_gaps_at_the_end(monkeypatch):
    vectors = unit(np.random.default_rng(0).normal(size=(400, 32)))
    monkeypatch.setattr(neighbors_module, "EXACT_UP_TO", 100)
    found = nearest_neighbors(vectors, 300)
    check_form(found, 400, 300)
    assert np.all(found.ids[:, 0] >= 0)
    assert np.any(found.ids[:, -1] < 0)


def test_a_search_in_cells_repeats_exactly(monkeypatch):
    vectors = faces_of_people(n_people=100, n_faces_each=20, n_dimensions=32, noise=0.7)
    monkeypatch.setattr(neighbors_module, "EXACT_UP_TO", 100)
    first, second = nearest_neighbors(vectors, 10), nearest_neighbors(vectors, 10)
    assert np.array_equal(first.ids, second.ids)
    assert np.array_equal(first.distances, second.distances)
