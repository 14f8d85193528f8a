import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from facecluster.transforms.grouping.neighbors import (
    Cells,
    Neighbors,
    assign_cells,
    find_first_equal,
    fit_cells,
    nearest_neighbors,
    neighbors_from_edges,
    search_cell,
    search_members,
    training_size,
)
from facecluster.transforms.grouping.recall import RECALL_FACES, measure_recall
from facecluster.transforms.tables.codec import unit_rows

EVERYWHERE = 2.1  # a max_distance that no two unit vectors reach


def search(stored, k, max_distance=EVERYWHERE, probes=0, exact_up_to=50_000):
    cells = fit_cells(stored, len(stored), probes, exact_up_to)
    return nearest_neighbors(stored, cells, k, max_distance)


def as_lists(neighbors):
    """[(neighbor, distance), ...] of each face."""
    rows = zip(neighbors.starts[:-1], neighbors.starts[1:], strict=True)
    return [
        list(zip(neighbors.ids[a:b].tolist(), neighbors.distances[a:b].tolist(), strict=True))
        for a, b in rows
    ]


def true_distances(stored):
    """(n, n) float64 distances; a vector is infinitely far from itself."""
    vectors = stored.astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = cdist(vectors, vectors)
    np.fill_diagonal(distances, np.inf)
    return distances


def check_form(found, n, k, max_distance=EVERYWHERE):
    """Checks the properties of any graph, exact or not."""
    assert len(found) == n
    assert (found.ids.dtype, found.distances.dtype) == (np.int64, np.float32)
    assert found.starts[0] == 0
    assert found.starts[-1] == len(found.ids) == len(found.distances)
    for face, row in enumerate(as_lists(found)):
        ids, distances = [i for i, _ in row], [d for _, d in row]
        assert len(row) <= k
        assert face not in ids
        assert len(set(ids)) == len(ids)
        assert distances == sorted(distances)
        assert all(0 <= d < max_distance for d in distances)
    assert np.array_equal(found.rows(), [f for f, row in enumerate(as_lists(found)) for _ in row])


def directions(n, n_dimensions, seed=0):
    return unit_rows(np.random.default_rng(seed).normal(size=(n, n_dimensions)))


def faces_of_people(n_people, n_faces_each, n_dimensions, noise, seed=0):
    random = np.random.default_rng(seed)
    people = np.repeat(directions(n_people, n_dimensions, seed + 1), n_faces_each, axis=0)
    return unit_rows(people + random.normal(size=people.shape) * noise / np.sqrt(n_dimensions))


def as_type(vectors, kind):
    return np.rint(127 * vectors).astype(np.int8) if kind == "int8" else vectors.astype(kind)


# ---- exact ----


def check_exact(found, stored, k, max_distance=EVERYWHERE):
    """Checks a graph against brute force: distances, and faces unless two are equally near."""
    check_form(found, len(stored), k, max_distance)
    expected = true_distances(stored)
    for face, row in enumerate(as_lists(found)):
        nearest = np.sort(expected[face])[:k]
        assert len(row) == np.count_nonzero(nearest < max_distance)
        assert [d for _, d in row] == pytest.approx(nearest[: len(row)], abs=2e-6)
        assert [expected[face, i] for i, _ in row] == pytest.approx([d for _, d in row], abs=2e-6)


CELLS = {"one cell": 50_000, "all cells": 10}


@pytest.mark.parametrize("exact_up_to", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "float64"])
def test_the_nearest_are_those_of_brute_force(kind, exact_up_to):
    stored = as_type(faces_of_people(60, 10, 64, noise=0.8), kind)
    assert len(find_first_equal(stored)) == len(set(find_first_equal(stored)))
    for max_distance in (EVERYWHERE, 0.9):
        found = search(stored, 12, max_distance, exact_up_to=exact_up_to)
        check_exact(found, stored, 12, max_distance)


def test_vectors_of_any_length_are_measured_as_unit_vectors():
    vectors = directions(50, 8)
    lengths = np.random.default_rng(1).uniform(0.1, 30, (50, 1)).astype(np.float32)
    check_exact(search(vectors * lengths, 5), vectors, 5)


# Small integers make many equal distances and equal vectors, which leave fewer neighbors.
@settings(deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda d: st.lists(
            st.lists(st.integers(-2, 2), min_size=d, max_size=d).filter(any),
            min_size=1,
            max_size=30,
        )
    ),
    st.integers(1, 40),
    st.sampled_from([0.5, 1.3, EVERYWHERE]),
)
def test_any_small_collection(rows, k, max_distance):
    stored = np.array(rows, np.int8)
    expected = true_distances(stored)
    # Rounding decides whether a distance equal to the limit is included.
    assume(np.abs(expected - max_distance).min() > 1e-5)
    found = search(stored, k, max_distance)
    check_form(found, len(stored), k, max_distance)
    first = [rows.index(row) for row in rows]
    originals = sorted(set(first))
    for face, row in enumerate(as_lists(found)):
        if first[face] != face:
            assert row == [(first[face], 0)]
            continue
        others = sorted(expected[face, i] for i in originals if i != face)[:k]
        others = [distance for distance in others if distance < max_distance]
        assert [d for _, d in row] == pytest.approx(others, abs=2e-6)
        assert {i for i, _ in row} <= set(originals)
        assert [expected[face, i] for i, _ in row] == pytest.approx(others, abs=2e-6)


@pytest.mark.parametrize("exact_up_to", CELLS.values(), ids=CELLS)
def test_distances_of_long_vectors_are_those_of_whole_vectors(exact_up_to):
    # Searched by 128 components of 512; half of the variance is in the others.
    stored = faces_of_people(60, 10, 512, noise=0.8).astype(np.float16)
    found = search(stored, 9, 0.95, exact_up_to=exact_up_to)
    check_form(found, 600, 9, 0.95)
    expected = true_distances(stored)
    rows, ids = found.rows(), found.ids
    np.testing.assert_allclose(found.distances, expected[rows, ids], atol=1e-6)
    # The nearest in the reduced space are not always the nearest; the recall tells how often.
    near = np.count_nonzero(np.sort(expected, axis=1)[:, :9] < 0.95)
    assert 0.97 * near <= len(ids) <= near


def test_long_vectors_of_few_dimensions_lose_nothing():
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(512, 128)))[0].T
    stored = (faces_of_people(30, 10, 128, noise=0.8) @ axes).astype(np.float32)
    check_exact(search(stored, 8), stored, 8)


def test_reducing_vectors_increases_no_distance():
    stored = faces_of_people(30, 10, 300, noise=0.8)
    cells = fit_cells(stored, 300, 0)
    assert cells.basis.shape == (300, 128)
    np.testing.assert_allclose(cells.basis.T @ cells.basis, np.eye(128), atol=1e-5)
    reduced = cells.reduced(stored)
    assert np.all(cdist(reduced, reduced) <= cdist(stored, stored) + 1e-6)


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
@pytest.mark.parametrize("n_dimensions", [3, 64, 200])
def test_distances_are_the_same_bits_in_both_directions(kind, n_dimensions):
    stored = as_type(faces_of_people(40, 10, n_dimensions, noise=0.5), kind)
    found = search(stored, 30, 1.2, probes=3, exact_up_to=10)
    distance = dict(zip(zip(found.rows().tolist(), found.ids.tolist(), strict=True),
                        found.distances.tolist(), strict=True))  # fmt: skip
    both = [(i, j) for i, j in distance if i < j and (j, i) in distance]
    assert len(both) > 400
    assert all(distance[i, j] == distance[j, i] for i, j in both)


# ---- few faces ----


@pytest.mark.parametrize("n_dimensions", [1, 8, 200])
@pytest.mark.parametrize("n", [0, 1])
def test_one_face_or_none_has_no_neighbors(n, n_dimensions):
    stored = np.ones((n, n_dimensions), np.int8)
    found = search(stored, 5)
    check_form(found, n, 0)


def test_two_faces_are_neighbors_of_each_other():
    found = search(np.array([[3, 4], [4, 3]], np.int8), 64)
    assert found.ids.tolist() == [1, 0]
    assert found.distances == pytest.approx([np.sqrt(0.08)] * 2, abs=1e-6)


def test_more_neighbors_requested_than_there_are():
    stored = directions(30, 4)
    check_exact(search(stored, 1000), stored, 29)
    assert len(search(stored, 1000).ids) == 30 * 29


def test_progress_ends_at_one():
    stored = directions(400, 8)
    for exact_up_to in (50_000, 10):
        fractions = []
        nearest_neighbors(
            stored, fit_cells(stored, 400, 2, exact_up_to), 3, EVERYWHERE, fractions.append
        )
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1


def test_a_search_of_some_faces_among_some_is_that_of_a_smaller_collection():
    stored = faces_of_people(40, 12, 32, noise=0.7)
    for exact_up_to in (50_000, 10):
        cells = fit_cells(stored, 480, 0, exact_up_to)
        members, among = assign_cells(stored, cells), np.random.default_rng(0).random(480) < 0.5
        searching = among & (np.arange(480) % 3 == 0)
        found = search_members(stored, cells, members, 7, 0.9, searching, among)
        rows = np.flatnonzero(among)
        smaller = as_lists(nearest_neighbors(stored[rows], cells, 7, 0.9))
        expected = {row: [(rows[i], d) for i, d in smaller[at]] for at, row in enumerate(rows)}
        assert as_lists(found) == [expected[face] if searching[face] else [] for face in range(480)]


@pytest.mark.parametrize(("k", "max_distance"), [(3, EVERYWHERE), (5, 0.9), (60, 0.9), (79, 2.5)])
def test_full_lists_are_marked(k, max_distance):
    stored = faces_of_people(8, 10, 16, noise=0.6)
    found = search(stored, k, max_distance)
    nearer = (true_distances(stored) < max_distance).sum(axis=1)
    assert np.array_equal(found.is_cut, (nearer >= k) & (k + 1 < len(stored)))


# ---- equal vectors ----


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=9),
    st.sampled_from(["int8", "float16", "float32"]),
    st.integers(1, 20),
)
def test_the_first_of_equal_rows(rows, kind, width):
    different = np.arange(4)[:, None] + np.arange(width)
    assert find_first_equal(different[rows].astype(kind)).tolist() == [
        rows.index(row) for row in rows
    ]


def test_rows_that_differ_in_one_number_are_not_equal():
    stored = np.tile(np.arange(128, dtype=np.int8), (129, 1))
    stored[np.arange(128), np.arange(128)] += 1
    assert find_first_equal(stored).tolist() == list(range(129))
    assert (
        find_first_equal(np.concatenate([stored, stored[::-1]]))[129:].tolist()
        == [*range(129)][::-1]
    )


@pytest.mark.parametrize("exact_up_to", CELLS.values(), ids=CELLS)
def test_equal_vectors_do_not_change_other_neighbors(exact_up_to):
    vectors = faces_of_people(30, 8, 32, noise=0.6)
    random = np.random.default_rng(0)
    # Forty faces of one vector, more than k, and three of some others.
    copied = np.concatenate([np.full(40, 17), np.repeat(random.permutation(240)[:20], 3)])
    original = np.concatenate([np.arange(240), random.permutation(copied)])
    cells = fit_cells(vectors, 240, 0, exact_up_to)
    alone = nearest_neighbors(vectors, cells, 6, EVERYWHERE)
    found = nearest_neighbors(vectors[original], cells, 6, EVERYWHERE)
    check_form(found, len(original), 6)
    assert as_lists(found)[:240] == as_lists(alone)
    assert as_lists(found)[240:] == [[(face, 0)] for face in original[240:].tolist()]


@pytest.mark.parametrize("probes", [1, 0])
def test_only_equal_vectors(probes):
    stored = np.tile(np.array([[3, -4, 5]], np.int8), (300, 1))
    found = search(stored, 5, probes=probes, exact_up_to=10)
    assert as_lists(found) == [[], *[[(0, 0)]] * 299]
    assert recall_of(found, stored, 5, EVERYWHERE) == 1


@pytest.mark.parametrize("probes", [1, 2])
def test_many_equal_vectors_leave_cells_empty(probes):
    stored = np.concatenate([directions(10, 8), np.ones((300, 8), np.float32)])
    found = search(stored, 5, probes=probes, exact_up_to=10)
    check_form(found, 310, 5)
    assert as_lists(found)[11:] == [[(10, 0)]] * 299


def test_only_equal_vectors_are_at_distance_0():
    # Vectors of one direction and different lengths, or with -0.0, are not equal in storage.
    stored = np.array([[3, 4, 0], [6, 8, 0], [-4, 3, 0], [-4, 3, -0.0]], np.float32)
    found = search(stored, 1)
    assert found.ids.tolist() == [1, 0, 3, 2]
    assert np.all(found.distances > 0)
    assert np.all(found.distances < 1e-30)


# ---- cells ----


def test_few_probes_find_nearly_all_neighbors():
    stored = faces_of_people(400, 15, 64, noise=0.9)
    k, limit = 14, 1.1
    exact = search(stored, k, limit)
    recalls = []
    for probes in (1, 4, 16):
        found = search(stored, k, limit, probes=probes, exact_up_to=1000)
        check_form(found, len(stored), k, limit)
        recalls.append(recall_of(found, stored, k, limit))
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.9  # some neighbors are in other cells
    assert recalls[2] >= 0.98
    assert recall_of(exact, stored, k, limit) == 1


def test_a_face_is_assigned_to_the_cell_of_its_nearest_centroid():
    stored = faces_of_people(50, 10, 32, noise=0.7)
    cells = fit_cells(stored, 500, 5, 10)
    assert cells.centroids.shape == (4 * 22, 32)
    order = np.argsort(cdist(stored, cells.centroids), axis=1)
    assert np.array_equal(cells.probed_by(stored), order[:, :5])


def test_the_number_of_cells():
    sample = directions(300, 8)
    assert len(fit_cells(sample, 50_000, 16).centroids) == 1
    assert fit_cells(sample, 50_000, 16).probes == 1
    assert len(fit_cells(sample, 50_001, 16).centroids) == 300  # a sample too small for 4 * 223
    for probes, expected in [(16, 16), (0, 40), (99, 40)]:
        cells = fit_cells(sample, 100, probes, exact_up_to=99)
        assert (len(cells.centroids), cells.probes) == (40, expected)
    assert [training_size(n) for n in (0, 5, 1_000_000)] == [0, 5, 4 * 1000 * 32]


@pytest.mark.parametrize("n_dimensions", [32, 160])
def test_threads_find_what_a_loop_over_cells_finds(n_dimensions):
    stored = as_type(faces_of_people(100, 10, n_dimensions, noise=0.7), "int8")
    stored[500:520] = stored[7]
    cells = fit_cells(stored, 1000, 4, 10)
    probed = cells.probed_by(unit_rows(stored))
    found = []
    for cell in range(len(cells.centroids)):
        faces = np.flatnonzero((probed == cell).any(axis=1))
        assigned = np.flatnonzero(probed[faces, 0] == cell)
        row, hit, distance, is_cut = search_cell(assigned, stored[faces], cells, 8, 1.0)
        found.append((faces[assigned[row]], faces[hit], distance, faces[assigned[is_cut]]))
    one_by_one = neighbors_from_edges(
        1000, *(np.concatenate(part) for part in zip(*found, strict=True))
    )
    for _ in range(2):
        in_threads = nearest_neighbors(stored, cells, 8, 1.0)
        assert as_lists(in_threads) == as_lists(one_by_one)
        assert np.array_equal(in_threads.is_cut, one_by_one.is_cut)


WHOLE = Cells(np.zeros((1, 1), np.float32), None, 1)


def found_in_cell(assigned, probing, k, max_distance=EVERYWHERE):
    row, hit, distance, _ = search_cell(np.array(assigned, int), probing, WHOLE, k, max_distance)
    assert np.array_equal(row, np.sort(row))
    return list(zip(row.tolist(), hit.tolist(), distance.tolist(), strict=True))


def test_distances_do_not_depend_on_the_other_faces_in_a_cell():
    vectors = faces_of_people(20, 10, 48, noise=0.6)
    assigned = [0, 3, 15, 150]
    expected = found_in_cell(assigned, vectors, 199)
    assert len(expected) == 4 * 199
    random = np.random.default_rng(0)
    for _ in range(5):
        # In another order of the probing faces
        order = random.permutation(200)
        where = np.argsort(order)
        again = found_in_cell(where[assigned], vectors[order], 199)
        assert {(r, order[h], d) for r, h, d in again} == set(expected)
        # and with fewer of them.
        fewer = np.union1d(random.permutation(200)[:60], assigned)
        again = found_in_cell(np.searchsorted(fewer, assigned), vectors[fewer], 199)
        assert [(r, fewer[h], d) for r, h, d in again] == [
            (r, h, d) for r, h, d in expected if h in fewer
        ]


def test_assigned_faces_may_be_in_any_order():
    vectors = faces_of_people(5, 6, 16, noise=0.6)
    forward = found_in_cell(range(30), vectors, 4)
    backward = found_in_cell(range(29, -1, -1), vectors, 4)
    assert sorted((29 - row, hit, distance) for row, hit, distance in backward) == sorted(forward)
    assert found_in_cell([], vectors, 4) == []
    assert found_in_cell([], vectors[:0], 4) == []


def test_equal_probing_faces_are_found_once():
    # 0 and 2 are equal, and so are 1 and 3. 2 is assigned to this cell, 0 is not.
    probing = np.array([[5, 0], [4, 3], [5, 0], [4, 3], [0, 5]], np.int8)
    found = found_in_cell([2, 4], probing, 9)
    assert [(row, hit) for row, hit, _ in found] == [(0, 0), (1, 1), (1, 0)]
    assert [d for *_, d in found] == pytest.approx([0, np.sqrt(0.8), np.sqrt(2)], abs=1e-6)


# ---- a graph from its edges ----


def test_a_graph_from_unsorted_edges():
    found = neighbors_from_edges(
        4, np.array([2, 0, 2]), np.array([1, 3, 0]), np.array([0.1, 0.2, 0.3], "f"), np.array([2])
    )
    assert found.is_cut.tolist() == [False, False, True, False]
    assert as_lists(found) == [
        [(3, np.float32(0.2))], [], [(1, np.float32(0.1)), (0, np.float32(0.3))], [],
    ]  # fmt: skip
    nothing = np.empty(0, int)
    empty = neighbors_from_edges(2, nothing, nothing, np.empty(0, np.float32), nothing)
    assert as_lists(empty) == [[], []]


# ---- recall ----


def without(neighbors, dropped):
    """The graph without the entries of a (m,) mask."""
    rows = neighbors.rows()[~dropped]
    return neighbors_from_edges(
        len(neighbors), rows, neighbors.ids[~dropped], neighbors.distances[~dropped], rows[:0]
    )


def recall_of(neighbors, stored, k, max_distance):
    """The measured recall, where equal vectors are one shot."""
    shots = find_first_equal(stored)
    return measure_recall(neighbors, stored, shots, k, max_distance)


def counted_recall(neighbors, stored, k, max_distance):
    """The recall over all faces, of distinct vectors."""
    distances = true_distances(stored)
    held = {frozenset(ends) for ends in zip(neighbors.rows(), neighbors.ids, strict=True)}
    wanted = [
        frozenset((face, other))
        for face in range(len(stored))
        for other in np.argsort(distances[face])[:k]
        if distances[face, other] < max_distance
    ]
    return np.mean([pair in held for pair in wanted]) if wanted else 1


@pytest.mark.parametrize("fraction", [0, 0.1, 0.6, 1])
def test_recall_is_the_fraction_of_true_neighbors(fraction):
    stored = as_type(faces_of_people(40, 12, 32, noise=0.7), "int8")
    exact = search(stored, 7, 0.9)
    dropped = np.random.default_rng(0).random(len(exact.ids)) < fraction
    found = without(exact, dropped)
    measured = recall_of(found, stored, 7, 0.9)
    assert measured == pytest.approx(counted_recall(found, stored, 7, 0.9), abs=1e-9)
    assert (measured == 1) == (fraction == 0)
    assert (measured == 0) == (fraction == 1)


def test_an_edge_counts_in_both_directions():
    stored = np.array([[5, 0], [4, 3]], np.int8)
    one_sided = Neighbors(
        np.array([0, 1, 1]), np.array([1]), np.array([0.6], np.float32), np.zeros(2, bool)
    )
    assert recall_of(one_sided, stored, 1, EVERYWHERE) == 1
    nothing = without(one_sided, np.array([True]))
    assert recall_of(nothing, stored, 1, EVERYWHERE) == 0
    assert recall_of(nothing, stored, 1, 0.5) == 1  # there are no neighbors to find


def test_an_edge_counts_for_all_equal_vectors():
    vectors = faces_of_people(20, 6, 16, noise=0.5)
    stored = np.concatenate([vectors, vectors[:50], vectors[:50]])
    found = search(stored, 8, 1.0)
    assert recall_of(found, stored, 8, 1.0) == 1
    assert recall_of(without(found, found.distances > 0), stored, 8, 1.0) < 0.9


def test_recall_is_that_of_the_first_faces():
    stored = faces_of_people(500, 6, 64, noise=0.3)
    exact = search(stored, 5, 0.8)
    # The faces of every third person have lost all their neighbors.
    dropped = exact.rows() // 6 % 3 == 0
    assert np.array_equal(dropped, exact.ids // 6 % 3 == 0)
    whole = np.arange(RECALL_FACES) // 6 % 3 > 0
    assert recall_of(without(exact, dropped), stored, 5, 0.8) == pytest.approx(whole.mean())
