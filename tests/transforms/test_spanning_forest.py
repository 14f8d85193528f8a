import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from facecluster.transforms.neighbors import Neighbors
from facecluster.transforms.spanning_forest import (
    Edges,
    minimum_spanning_forest,
    mutual_reachability,
)

# ---- weights ----


@st.composite
def neighbor_graphs(draw):
    """Any graph that a search may give, also one that no points have: gaps, one-sided edges."""
    n = draw(st.integers(1, 8))
    k = draw(st.integers(0, n - 1))
    ids = np.array(
        [draw(st.permutations([j for j in range(n) if j != i]))[:k] for i in range(n)], np.int64
    ).reshape(n, k)
    # Adjacent float32 numbers and equal ones, as well as any.
    near = np.float32(0.7)
    values = st.one_of(
        st.sampled_from([near, np.nextafter(near, np.float32(1)), np.float32(0.9)]),
        st.floats(0, 2, width=32),
    )
    distances = np.sort(draw(arrays(np.float32, (n, k), elements=values)), axis=1)
    for i in range(n):
        found = draw(st.integers(0, k))
        ids[i, found:], distances[i, found:] = -1, np.inf
    return Neighbors(ids, distances)


def reachabilities(neighbors, min_samples, min_distance):
    """{(i, j): (mutual reachability, distance)} by definition."""
    n, k = neighbors.ids.shape
    floored = [[max(d, np.float32(min_distance)) for d in row] for row in neighbors.distances]
    core = [row[min(min_samples, k) - 1] for row in floored] if k else []
    return {
        (i, int(j)): (max(core[i], core[j], floored[i][rank]), floored[i][rank])
        for i in range(n)
        for rank, j in enumerate(neighbors.ids[i])
        if j >= 0
    }


@settings(deadline=None)
@given(
    neighbor_graphs(), st.integers(1, 5), st.sampled_from([0.01, 0.65]), st.floats(0, 2, width=32)
)
def test_weights_are_mutual_reachabilities(neighbors, min_samples, min_distance, max_distance):
    edges = mutual_reachability(neighbors, min_samples, min_distance, max_distance)
    expected = {
        ends: reach
        for ends, reach in reachabilities(neighbors, min_samples, min_distance).items()
        if reach[0] < np.float32(max_distance)
    }
    weights = dict(zip(zip(edges.i.tolist(), edges.j.tolist(), strict=True), edges.weight,
                       strict=True))  # fmt: skip
    assert weights.keys() == expected.keys()
    assert len(edges.weight) == len(weights)
    for ends, weight in weights.items():
        assert weight == pytest.approx(expected[ends][0], rel=1e-7)
    # The order is that of reachability; among equal ones the nearer comes first.
    for a, weight_a in weights.items():
        for b, weight_b in weights.items():
            (reach_a, distance_a), (reach_b, distance_b) = expected[a], expected[b]
            if reach_a < reach_b or (reach_a == reach_b and distance_a < 0.999 * distance_b):
                assert weight_a < weight_b


def test_worked_example():
    # On a line: 0 and 1 are 0.1 apart, 1 and 2 are 0.3, so 0 and 2 are 0.4.
    ids = np.array([[1, 2], [0, 2], [1, 0]])
    distances = np.array([[0.1, 0.4], [0.1, 0.3], [0.3, 0.4]], np.float32)
    edges = mutual_reachability(Neighbors(ids, distances), 1, 0.01, 2)
    assert edges.weight == pytest.approx([0.1, 0.4, 0.1, 0.3, 0.3, 0.4], rel=1e-6)
    edges = mutual_reachability(Neighbors(ids, distances), 2, 0.01, 2)  # cores 0.4, 0.3, 0.4
    assert edges.weight == pytest.approx([0.4, 0.4, 0.4, 0.4, 0.4, 0.4], rel=1e-6)
    edges = mutual_reachability(Neighbors(ids, distances), 1, 0.2, 0.35)
    assert list(zip(edges.i, edges.j, strict=True)) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert edges.weight == pytest.approx([0.2, 0.2, 0.3, 0.3], rel=1e-6)


# ---- the forest ----

# Whole weights, so that many are equal, or any.
WEIGHT = st.one_of(st.integers(1, 5).map(float), st.floats(0.01, 2))


@st.composite
def graphs(draw):
    """(n, edges): with repetitions, both directions, faces without any edge."""
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
    """Which faces hang together by edges up to a height: one set per component."""
    near = edges.weight <= height
    ends = (edges.i[near], edges.j[near])
    graph = coo_matrix((np.ones(near.sum()), ends), shape=(n, n))
    labels = connected_components(graph, directed=False)[1] if n else []
    return {frozenset(np.flatnonzero(labels == label)) for label in set(labels)}


@settings(deadline=None)
@given(graphs())
def test_the_forest_is_a_lightest_one(graph):
    n, edges = graph
    forest = minimum_spanning_forest(edges, n)
    assert sorted(forest.weight) == kruskal(edges, n)
    assert set(rows_of(forest)) <= set(rows_of(edges))
    assert len(forest.weight) == n - len(components(edges, n, np.inf))  # no cycle
    # What HDBSCAN reads from it: what hangs together at each distance.
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
    forests = concatenated(minimum_spanning_forest(part, n) for part in parts)
    of_forests, of_all = minimum_spanning_forest(forests, n), minimum_spanning_forest(edges, n)
    assert sorted(of_forests.weight) == sorted(of_all.weight)
    for height in {0.0, np.inf, *edges.weight}:
        assert components(of_forests, n, height) == components(of_all, n, height)
    if len(set(edges.weight)) == len(edges.weight):
        assert rows_of(of_forests) == rows_of(of_all)


@settings(deadline=None)
@given(graphs(), st.randoms(use_true_random=False))
def test_neither_order_nor_direction_nor_repetition_counts(graph, random):
    n, edges = graph
    rows = [random.choice([(i, j, w), (j, i, w)]) for i, j, w in rows_of(edges)]
    rows += random.sample(rows, len(rows) // 2)
    random.shuffle(rows)
    again = minimum_spanning_forest(edges_of(rows), n)
    assert rows_of(again) == rows_of(minimum_spanning_forest(edges, n))


def test_of_repeated_edges_the_lightest_counts_and_they_are_not_added_up():
    forest = minimum_spanning_forest(edges_of([(0, 1, 3.0), (1, 0, 2.0), (0, 1, 2.5)]), 2)
    assert rows_of(forest) == [(0, 1, 2.0)]


def test_a_hundred_thousand_edges_of_a_real_graph_take_no_time():
    random = np.random.default_rng(0)
    i, j = random.integers(0, 20_000, (2, 100_000))
    different = i != j
    edges = Edges(i[different], j[different], random.uniform(0.1, 1, different.sum()))
    forest = minimum_spanning_forest(edges, 20_000)
    labels = connected_components(coo_matrix((np.ones(len(forest.i)), (forest.i, forest.j)),
                                             shape=(20_000, 20_000)), directed=False)  # fmt: skip
    assert len(forest.i) == 20_000 - labels[0]
