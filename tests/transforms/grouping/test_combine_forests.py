import pickle

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as Pipeline
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.transforms.grouping.spanning_forest import (
    NO_EDGES,
    CombineForests,
    Edges,
    concatenate_edges,
    minimum_spanning_forest,
)


def edges_of(triples):
    i, j, weight = zip(*triples, strict=True) if triples else ((), (), ())
    return Edges(np.array(i, np.int64), np.array(j, np.int64), np.array(weight, np.float64))


def triples_of(edges):
    """Sorted (lower end, higher end, weight)."""
    ends = np.sort(np.stack([edges.i, edges.j]), axis=0)
    return sorted(zip(*ends.tolist(), edges.weight.tolist(), strict=True))


@st.composite
def graphs(draw, n_nodes=12):
    """Parts of a graph: an edge may be there twice, also in two parts; weights may be equal."""
    nodes = st.integers(0, n_nodes - 1)
    ends = draw(st.lists(st.tuples(nodes, nodes).filter(lambda pair: pair[0] != pair[1])))
    n_weights = draw(st.sampled_from([2, 5, 1000]))
    triples = [(i, j, 0.5 + (i + j) * (i - j) ** 2 % n_weights) for i, j in ends]
    cuts = sorted(draw(st.lists(st.integers(0, len(triples)), max_size=6)))
    return [edges_of(triples[a:b]) for a, b in zip([0, *cuts], [*cuts, len(triples)], strict=True)]


def combined(data, combine, parts):
    """Combines parts in any order, in any number of accumulators, merged in any grouping."""
    parts = data.draw(st.permutations(parts))
    accumulators = []
    for part in parts:
        if not accumulators or data.draw(st.booleans()):
            accumulators.append(combine.create_accumulator())
        chosen = data.draw(st.integers(0, len(accumulators) - 1))
        accumulators[chosen] = combine.add_input(accumulators[chosen], part)
    while len(accumulators) > 1:
        size = data.draw(st.integers(2, len(accumulators)))
        at = data.draw(st.integers(0, len(accumulators) - size))
        merged = combine.merge_accumulators(accumulators[at : at + size])
        if data.draw(st.booleans()):
            merged = combine.compact(merged)
        accumulators[at : at + size] = [pickle.loads(pickle.dumps(merged))]
    return combine.extract_output(accumulators[0])


@settings(deadline=None)
@given(graphs(), st.integers(0, 40), st.data())
def test_any_order_and_grouping_of_merges_gives_the_forest_of_all(parts, buffer, data):
    expected = triples_of(minimum_spanning_forest(concatenate_edges(parts)))
    assert triples_of(combined(data, CombineForests(buffer), parts)) == expected


@settings(deadline=None)
@given(graphs(), st.integers(0, 40))
def test_no_accumulator_holds_more_than_its_bound(parts, buffer):
    combine = CombineForests(buffer)
    all_edges = concatenate_edges(parts)
    n_nodes = len(np.unique(np.stack([all_edges.i, all_edges.j])))
    bound = max(buffer, 2 * (n_nodes - 1))
    accumulator = combine.create_accumulator()
    for part in parts:
        accumulator = combine.add_input(accumulator, part)
        assert len(accumulator[0].i) <= bound
    merged = combine.merge_accumulators([accumulator] * 3)
    assert len(merged[0].i) <= bound
    assert len(combine.compact(merged)[0].i) <= max(n_nodes - 1, 0)


def test_edges_are_dropped_only_when_the_buffer_is_full():
    triangle = edges_of([(0, 1, 1.0), (1, 2, 2.0), (0, 2, 3.0)])
    patient, hasty = (
        combine.add_input(combine.create_accumulator(), triangle)[0]
        for combine in (CombineForests(4), CombineForests(3))
    )
    assert triples_of(patient) == triples_of(triangle)
    assert triples_of(hasty) == [(0, 1, 1.0), (1, 2, 2.0)]


def test_no_edges_have_an_empty_forest():
    combine = CombineForests(0)
    accumulator = combine.add_input(combine.create_accumulator(), NO_EDGES)
    forest = combine.extract_output(combine.merge_accumulators([accumulator, accumulator]))
    assert triples_of(forest) == []
    assert forest.i.dtype == np.int64


@pytest.mark.parametrize("buffer", [0, 50])
def test_beam_gives_the_same_forest(buffer):
    rng = np.random.default_rng(0)
    ends = rng.integers(0, 100, (2, 600))
    edges = Edges(*ends[:, ends[0] != ends[1]], rng.random((ends[0] != ends[1]).sum()))
    pieces = np.array_split(np.arange(len(edges.i)), 20)
    parts = [Edges(edges.i[p], edges.j[p], edges.weight[p]) for p in pieces]
    expected = triples_of(minimum_spanning_forest(edges))

    def is_expected(found):
        assert [triples_of(forest) for forest in found] == [expected]

    with Pipeline() as pipeline:
        forest = pipeline | beam.Create(parts) | beam.CombineGlobally(CombineForests(buffer))
        assert_that(forest, is_expected)
