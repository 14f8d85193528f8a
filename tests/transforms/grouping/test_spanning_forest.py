import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial.distance import cdist

from facecluster.transforms.grouping.neighbors import (
    Neighbors,
    fit_cells,
    nearest_neighbors,
    neighbors_from_edges,
)
from facecluster.transforms.grouping.spanning_forest import (
    Edges,
    core_distances,
    minimum_spanning_forest,
    mutual_reachability,
)

# ---- weights ----


def graph_of(distances):
    """The neighbor graph of an (n, n) matrix of distances; inf is not an edge."""
    n = len(distances)
    order = np.argsort(distances, axis=1, kind="stable")
    rows, rank = np.nonzero(np.isfinite(np.take_along_axis(distances, order, axis=1)))
    ids = order[rows, rank]
    return neighbors_from_edges(n, rows, ids, distances[rows, ids].astype(np.float32))


def edges_in(graph):
    return graph.rows(), graph.ids, graph.distances


@st.composite
def matrices(draw):
    """(n, n) float32 distances of any directed graph, even one that no set of points has."""
    n = draw(st.integers(1, 8))
    # Adjacent float32 numbers, equal numbers and 0 (equal vectors), besides any others.
    near = np.float32(0.7)
    values = st.one_of(
        st.sampled_from([np.inf, 0, near, np.nextafter(near, np.float32(1)), np.float32(0.9)]),
        st.floats(0, 2, width=32),
    )
    distances = draw(arrays(np.float32, (n, n), elements=values))
    np.fill_diagonal(distances, np.inf)
    return distances


@settings(deadline=None)
@given(matrices(), st.integers(1, 8))
def test_a_core_distance_is_that_of_a_neighbor(distances, min_samples):
    n = len(distances)
    padded = np.pad(distances, ((0, 0), (0, 9)), constant_values=np.inf)
    expected = np.sort(padded, axis=1)[:, min_samples - 1]
    core = core_distances(graph_of(distances), min_samples)
    assert core.dtype == np.float32
    assert core.tolist() == expected.tolist()
    assert len(core) == n


@settings(deadline=None)
@given(matrices(), st.integers(1, 5), st.sampled_from([0.01, 0.65]), st.floats(0.75, 2, width=32))
def test_weights_are_mutual_reachabilities(distances, min_samples, min_distance, max_distance):
    graph = graph_of(distances)
    core = core_distances(graph, min_samples)
    edges = mutual_reachability(*edges_in(graph), core, min_distance, max_distance)
    floored = np.maximum(distances, np.float32(min_distance))
    reach = np.maximum(np.maximum(core[:, None], core[None]), floored)
    expected = set(zip(*np.nonzero((reach < np.float32(max_distance)) & (distances > 0)),
                       strict=True))  # fmt: skip
    weights = dict(zip(zip(edges.i, edges.j, strict=True), edges.weight, strict=True))
    assert weights.keys() == expected
    assert len(edges.weight) == len(weights)
    for ends, weight in weights.items():
        assert weight == pytest.approx(reach[ends], rel=1e-7)
    # The order is that of reachability; of equal ones the nearer comes first.
    for a, weight_a in weights.items():
        for b, weight_b in weights.items():
            equal = reach[a] == reach[b]
            if reach[a] < reach[b] or (equal and floored[a] < 0.999 * floored[b]):
                assert weight_a < weight_b


def test_worked_example():
    # On a line: 0 and 1 are 0.1 apart, 1 and 2 are 0.3 apart, 0 and 2 are 0.4 apart.
    line = np.array([[np.inf, 0.1, 0.4], [0.1, np.inf, 0.3], [0.4, 0.3, np.inf]], np.float32)
    graph = graph_of(line)

    def weights(min_samples, min_distance, max_distance):
        core = core_distances(graph, min_samples)
        return mutual_reachability(*edges_in(graph), core, min_distance, max_distance)

    assert weights(1, 0.01, 2).weight == pytest.approx([0.1, 0.4, 0.1, 0.3, 0.3, 0.4], rel=1e-6)
    assert weights(2, 0.01, 2).weight == pytest.approx([0.4] * 6, rel=1e-6)  # cores 0.4, 0.3, 0.4
    assert len(weights(3, 0.01, 2).weight) == 0  # no face has three neighbors
    edges = weights(1, 0.2, 0.35)
    assert list(zip(edges.i, edges.j, strict=True)) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert edges.weight == pytest.approx([0.2, 0.2, 0.3, 0.3], rel=1e-6)


def test_no_weight_exceeds_max_distance_even_if_min_distance_does():
    # Otherwise components, which count as just farther apart than max_distance, would come first.
    graph = graph_of(np.array([[np.inf, 0.3], [0.3, np.inf]], np.float32))
    edges = mutual_reachability(*edges_in(graph), core_distances(graph, 1), 0.65, 0.5)
    assert np.all(edges.weight < 0.5 * (1 + 1e-6))


def test_equal_vectors_have_no_edges():
    # 0 and 1 are equal, and 2 is near both.
    graph = Neighbors(np.array([0, 1, 2, 3]), np.array([2, 0, 0]), np.array([0.5, 0, 0.5], "f"))
    edges = mutual_reachability(*edges_in(graph), core_distances(graph, 1), 0.01, 2)
    assert rows_of(edges) == [(0, 2, pytest.approx(0.5)), (0, 2, pytest.approx(0.5))]


@pytest.mark.parametrize("min_samples", [1, 4])
def test_the_forest_of_points_is_that_of_the_full_matrix(min_samples):
    points = np.random.default_rng(0).normal(size=(150, 5)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    graph = nearest_neighbors(points, fit_cells(points, 150, 0), 149, 2.1)
    core = core_distances(graph, min_samples)
    forest = minimum_spanning_forest(mutual_reachability(*edges_in(graph), core, 0.01, 2.1))
    distances = cdist(points, points)
    cores = np.sort(distances, axis=1)[:, min_samples]  # index 0 is the face itself
    reach = np.maximum(np.maximum(cores[:, None], cores[None]), distances)
    assert core == pytest.approx(cores, abs=1e-6)
    expected = np.sort(minimum_spanning_tree(np.triu(reach, 1)).data)
    assert np.sort(forest.weight) == pytest.approx(expected, abs=1e-6)


# ---- the forest ----

# Integer weights, of which many are equal, or any.
WEIGHT = st.one_of(st.integers(1, 5).map(float), st.floats(0.01, 2))


@st.composite
def graphs(draw):
    """(n, edges), with repetitions, both directions and isolated faces."""
    n = draw(st.integers(0, 12))
    end = st.integers(0, max(n - 1, 0))
    rows = draw(st.lists(st.tuples(end, end, WEIGHT).filter(lambda row: row[0] != row[1]),
                         max_size=40 if n > 1 else 0))  # fmt: skip
    return n, edges_of(rows)


def edges_of(rows):
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return Edges(*(np.array(c, kind) for c, kind in zip(columns, (int, int, float), strict=True)))


def rows_of(edges):
    low, high = np.minimum(edges.i, edges.j), np.maximum(edges.i, edges.j)
    return sorted(zip(low.tolist(), high.tolist(), edges.weight.tolist(), strict=True))


def concatenated(parts):
    return edges_of([row for part in parts for row in rows_of(part)])


def kruskal(edges, n):
    """The weights of a minimum spanning forest, ascending."""
    tree = list(range(n))
    weights = []
    for weight, i, j in sorted((weight, i, j) for i, j, weight in rows_of(edges)):
        if tree[i] != tree[j]:
            weights.append(weight)
            old, new = tree[i], tree[j]
            tree = [new if t == old else t for t in tree]
    return weights


def components(edges, n, height):
    """The connected components of the edges up to a height, as sets."""
    near = edges.weight <= height
    ends = (edges.i[near], edges.j[near])
    graph = coo_matrix((np.ones(near.sum()), ends), shape=(n, n))
    labels = connected_components(graph, directed=False)[1] if n else []
    return {frozenset(np.flatnonzero(labels == label)) for label in set(labels)}


@settings(deadline=None)
@given(graphs())
def test_the_forest_is_a_minimum_one(graph):
    n, edges = graph
    forest = minimum_spanning_forest(edges)
    assert sorted(forest.weight) == kruskal(edges, n)
    assert set(rows_of(forest)) <= set(rows_of(edges))
    assert len(forest.weight) == n - len(components(edges, n, np.inf))  # no cycle
    # What HDBSCAN uses: the connected components at each distance.
    for height in {0.0, np.inf, *edges.weight}:
        assert components(forest, n, height) == components(edges, n, height)


@settings(deadline=None)
@given(graphs(), st.data())
def test_the_forest_of_a_union_is_the_forest_of_the_forests(graph, data):
    n, edges = graph
    rows = rows_of(edges)
    part_of = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    parts = [edges_of([row for row, p in zip(rows, part_of, strict=True) if p == part])
             for part in range(4)]  # fmt: skip
    forests = concatenated(minimum_spanning_forest(part) for part in parts)
    of_forests, of_all = minimum_spanning_forest(forests), minimum_spanning_forest(edges)
    assert sorted(of_forests.weight) == sorted(of_all.weight)
    for height in {0.0, np.inf, *edges.weight}:
        assert components(of_forests, n, height) == components(of_all, n, height)
    if len(set(edges.weight)) == len(edges.weight):
        assert rows_of(of_forests) == rows_of(of_all)


@settings(deadline=None)
@given(graphs(), st.randoms(use_true_random=False))
def test_order_direction_and_repetition_of_edges_do_not_matter(graph, random):
    _, edges = graph
    rows = [random.choice([(i, j, w), (j, i, w)]) for i, j, w in rows_of(edges)]
    rows += random.sample(rows, len(rows) // 2)
    random.shuffle(rows)
    again = minimum_spanning_forest(edges_of(rows))
    assert rows_of(again) == rows_of(minimum_spanning_forest(edges))


def test_of_repeated_edges_the_lightest_counts():
    forest = minimum_spanning_forest(edges_of([(0, 1, 3.0), (1, 0, 2.0), (0, 1, 2.5)]))
    assert rows_of(forest) == [(0, 1, 2.0)]


@settings(deadline=None)
@given(st.integers(1, 12), st.data())
def test_the_forest_is_as_light_as_scipys(n, data):
    elements = st.one_of(st.just(0), WEIGHT)
    dense = np.triu(data.draw(arrays(np.float64, (n, n), elements=elements)), 1)
    i, j = np.nonzero(dense)
    forest = minimum_spanning_forest(Edges(j, i, dense[i, j]))
    expected = minimum_spanning_tree(dense)
    assert sorted(forest.weight) == sorted(expected.data)


def test_a_hundred_thousand_edges():
    random = np.random.default_rng(0)
    i, j = random.integers(0, 20_000, (2, 100_000))
    different = i != j
    edges = Edges(i[different], j[different], random.uniform(0.1, 1, different.sum()))
    forest = minimum_spanning_forest(edges)
    labels = connected_components(coo_matrix((np.ones(len(forest.i)), (forest.i, forest.j)),
                                             shape=(20_000, 20_000)), directed=False)  # fmt: skip
    assert len(forest.i) == 20_000 - labels[0]
