import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from facecluster.transforms.grouping.spanning_forest import (
    Edges,
    component_labels,
    minimum_spanning_forest,
)

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


@settings(deadline=None)
@given(graphs())
def test_components_are_those_of_scipy(graph):
    n, edges = graph
    labels = component_labels(edges, n)
    assert {frozenset(np.flatnonzero(labels == label)) for label in set(labels.tolist())} == (
        components(edges, n, np.inf)
    )
    assert sorted(set(labels.tolist())) == list(range(labels.max(initial=-1) + 1))
