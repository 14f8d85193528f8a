"""The evidence for edges, against plain Python."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.transforms.grouping.edges import (
    LARGEST_DISTANCE,
    SHARED_WEIGHT,
    SIMILARITY_WEIGHT,
    SMALLEST_DISTANCE,
    WRONG_SHARE,
    EdgeLimits,
    NeighborGraph,
    choose_edge_limits,
    count_neighbors,
    end_of_lists,
    make_neighbor_graph,
    neighbor_lists,
    similarity_at_impostors,
    weigh_edges,
)
from facecluster.transforms.similarity.impostors import Impostors
from facecluster.transforms.similarity.normalization import Normalization

IMPOSTORS = Impostors(0.0, 0.1)
NORMALIZATION = Normalization(np.empty((0, 4), np.float32), 1.0, None, IMPOSTORS, 0.6)
SEEDS = st.integers(0, 2**32 - 1)


def random_graph(random, n, lowest=0.2):
    """Each face has some neighbors; not all have each other."""
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j and random.random() < 0.4]
    faces, ids = np.array(pairs, np.int64).reshape(-1, 2).T
    symmetric = random.uniform(lowest + 0.01, 1, (n, n))
    similarity = np.maximum(symmetric, symmetric.T)[faces, ids]
    return NeighborGraph(faces, ids, similarity.astype(np.float32))


# ---- the neighbor graph ----


def test_the_graph_has_the_neighbors_above_the_end_of_the_lists():
    faces, ids = np.array([0, 0, 1, 2]), np.array([1, 2, 0, 3])
    distances = np.sqrt(2 - 2 * np.array([0.5, 0.3, 0.5, 1.0])).astype(np.float32)
    scores = np.array([0.1, -0.1, 0.3, 0.0])
    graph = make_neighbor_graph(faces, ids, distances, scores[faces], scores[ids], 0.2)
    # 0 and 2 are at 0.3 - 0.2; 2 and 3 are equal.
    assert graph.faces.tolist() == [0, 1]
    assert graph.ids.tolist() == [1, 0]
    assert graph.similarity == pytest.approx([0.5, 0.5])
    assert graph.part(slice(1, None)).faces.tolist() == [1]


@given(SEEDS, st.integers(0, 12), st.floats(0.2, 1))
def test_neighbors_are_counted(seed, n, lowest):
    graph = random_graph(np.random.default_rng(seed), n)
    counts = count_neighbors(graph, n, lowest)
    expected = [0] * n
    for face, similarity in zip(graph.faces, graph.similarity, strict=True):
        expected[face] += similarity > lowest
    assert counts.tolist() == expected


# ---- limits ----


@pytest.mark.parametrize("expected", [1e-3, 1, 30])
@pytest.mark.parametrize("n", [100, 10**4, 10**7])
def test_a_limit_in_impostors_is_reached_by_that_many(expected, n):
    similarity = similarity_at_impostors(expected, n, IMPOSTORS)
    found = (n - 1) * float(IMPOSTORS.probability(np.array(similarity)))
    assert found == pytest.approx(expected, rel=1e-3)


def test_in_larger_collections_lists_end_at_a_larger_similarity():
    ends = [end_of_lists(n, IMPOSTORS) for n in (2000, 10**4, 10**6, 10**8)]
    assert ends == sorted(set(ends))
    assert all(np.isfinite(end_of_lists(n, IMPOSTORS)) for n in (1, 2, 3))


def test_more_lonely_faces_need_more_evidence():
    found = [choose_edge_limits(1000, lonely, NORMALIZATION) for lonely in (0, 100, 300, 600)]
    singles = [limits.singles for limits in found]
    assert singles == sorted(set(singles))
    penalties = [limits.penalty for limits in found]
    assert penalties == sorted(set(penalties))
    assert found[-1].lowest >= found[0].lowest
    assert 0 < singles[0] < 0.05
    assert singles[-1] <= 1


@pytest.mark.parametrize("share", [0, 0.2, 0.6])
def test_the_share_of_single_faces_is_estimated(share):
    # Single faces lack such a neighbor with probability exp(-0.5), others with a fourth of that.
    n, lonely = 100_000, np.exp(-0.5)
    n_lonely = int(n * lonely * (share + (1 - share) * 0.1))
    assert choose_edge_limits(n, n_lonely, NORMALIZATION).singles == pytest.approx(share, abs=0.15)


def test_where_one_person_is_no_nearer_than_strangers_lonely_faces_say_little():
    weak = replace(NORMALIZATION, same_person=0.3)
    found = [choose_edge_limits(10_000, 6000, space) for space in (NORMALIZATION, weak)]
    assert found[0].singles > 0.6
    assert found[1].singles < 0.3
    assert found[1].lowest < found[0].lowest


def test_a_smaller_share_of_wrong_faces_needs_more_evidence():
    shares = (0.5, WRONG_SHARE, 0.01, 0.001)
    margins = [choose_edge_limits(1000, 100, NORMALIZATION, share).margin for share in shares]
    assert margins == sorted(set(margins))
    assert margins[1] == 0


@pytest.mark.parametrize("n", [0, 1, 2])
def test_very_few_faces_have_limits(n):
    limits = choose_edge_limits(n, n, NORMALIZATION)
    assert np.isfinite([limits.singles, limits.lowest, limits.penalty, limits.margin]).all()


# ---- neighbor lists ----


@given(SEEDS, st.integers(1, 12))
def test_lists_have_length_one_and_hold_the_face_itself(seed, n):
    graph = random_graph(np.random.default_rng(seed), n)
    lists = neighbor_lists(graph.faces, np.arange(n), graph, 0.2, n).toarray()
    expected = np.eye(n)
    for i, j, similarity in zip(graph.faces, graph.ids, graph.similarity, strict=True):
        expected[i, j] = (similarity - 0.2) / 0.8
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert lists == pytest.approx(expected, abs=1e-6)


def test_lists_of_some_faces_are_those_among_all():
    n = 20
    graph = random_graph(np.random.default_rng(0), n)
    every = neighbor_lists(graph.faces, np.arange(n), graph, 0.2, n).toarray()
    chosen = np.array([3, 7, 8])
    part = graph.part(np.isin(graph.faces, chosen))
    rows = np.searchsorted(chosen, part.faces)
    assert np.array_equal(neighbor_lists(rows, chosen, part, 0.2, n).toarray(), every[chosen])


# ---- weights ----


@settings(deadline=None)
@given(SEEDS, st.integers(1, 14), st.sampled_from([0.0, 0.1]), st.sampled_from([-0.1, 0.0, 0.1]))
def test_weights_are_those_of_the_definition(seed, n, penalty, margin):
    graph = random_graph(np.random.default_rng(seed), n)
    limits = EdgeLimits(0.1, 0.4, penalty, margin)
    counts = count_neighbors(graph, n, limits.lowest)
    lists = neighbor_lists(graph.faces, np.arange(n), graph, 0.2, n)
    edges = weigh_edges(graph, lists, np.arange(n), counts, limits, NORMALIZATION)
    shared = (lists @ lists.T).toarray()
    expected = {}
    for i, j, similarity in zip(*map(np.ndarray.tolist, vars(graph).values()), strict=True):
        distance = 1 - SHARED_WEIGHT * shared[i, j] - SIMILARITY_WEIGHT * similarity / 0.6
        distance += penalty / np.sqrt(1 + min(counts[i], counts[j])) + margin
        if similarity > limits.lowest and distance < LARGEST_DISTANCE - 1e-6:
            expected[min(i, j), max(i, j)] = max(distance, SMALLEST_DISTANCE)
    found = {
        (min(i, j), max(i, j)): weight
        for i, j, weight in zip(
            edges.i.tolist(), edges.j.tolist(), edges.weight.tolist(), strict=True
        )
        if weight < LARGEST_DISTANCE - 2e-6
    }
    assert len(found) <= len(edges.i)
    assert set(found) == {ends for ends in expected if expected[ends] < LARGEST_DISTANCE - 2e-6}
    for ends, weight in found.items():
        assert weight == pytest.approx(expected[ends], abs=1e-6)


def test_each_pair_of_faces_has_one_edge():
    ends = np.array([0, 1, 2, 0]), np.array([1, 0, 1, 2])
    graph = NeighborGraph(*ends, np.full(4, 0.9, np.float32))
    lists = neighbor_lists(graph.faces, np.arange(3), graph, 0.2, 3)
    limits = EdgeLimits(0.1, 0.4, 0.0, 0.0)
    edges = weigh_edges(graph, lists, np.arange(3), np.ones(3), limits, NORMALIZATION)
    pairs = np.sort(np.stack([edges.i, edges.j]), axis=0).T.tolist()
    assert sorted(pairs) == [[0, 1], [0, 2], [1, 2]]


def test_edges_of_equal_weight_are_taken_in_the_order_of_their_distance():
    # Both are below the floor; the more similar pair comes first.
    graph = NeighborGraph(np.array([0, 2]), np.array([1, 3]), np.array([0.95, 0.9], np.float32))
    both = neighbor_lists(graph.faces, np.arange(4), graph, 0.2, 4)
    limits = EdgeLimits(0.1, 0.4, 0.0, 0.0)
    edges = weigh_edges(graph, both, np.arange(4), np.ones(4), limits, NORMALIZATION)
    assert edges.weight == pytest.approx([SMALLEST_DISTANCE] * 2, abs=0.05)
    assert edges.weight[0] < edges.weight[1]
