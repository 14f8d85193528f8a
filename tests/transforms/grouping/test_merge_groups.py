"""Which groups of faces become one person."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit

from facecluster.transforms.grouping.cannot_links import CannotLinks
from facecluster.transforms.grouping.edges import (
    EdgeLimits,
    NeighborGraph,
    end_of_lists,
    list_weights,
    make_neighbor_graph,
)
from facecluster.transforms.grouping.merge_groups import (
    combine_flows,
    estimate_prior,
    merge_groups,
    sum_flows,
)
from facecluster.transforms.similarity.normalization import fit_normalization
from facecluster.transforms.tables.codec import unit_rows

SEEDS = st.integers(0, 2**32 - 1)

# ---- flows ----


@settings(deadline=None)
@given(SEEDS, st.integers(1, 15), st.integers(1, 5), st.integers(1, 6))
def test_flows_are_sums_of_list_weights_in_any_parts(seed, n, n_groups, n_parts):
    random = np.random.default_rng(seed)
    group = np.unique(random.integers(0, n_groups, n), return_inverse=True)[1]
    faces, ids = (random.integers(0, n, 40) for _ in range(2))
    different = faces != ids
    graph = NeighborGraph(
        faces[different], ids[different], random.uniform(0.3, 1, different.sum()).astype("f")
    )
    part_of = random.integers(0, n_parts, len(graph.faces))
    parts = [sum_flows(graph.part(part_of == part), 0.2, group) for part in range(n_parts)]
    flows = combine_flows(parts, group)
    whole = combine_flows([sum_flows(graph, 0.2, group)], group)
    assert all(np.array_equal(a, b) for a, b in zip(astuple(flows), astuple(whole), strict=True))

    dense = np.zeros((group.max() + 1,) * 2)
    np.add.at(dense, (group[graph.faces], group[graph.ids]), list_weights(graph, 0.2))
    assert flows.total == pytest.approx(dense.sum(axis=1) + np.bincount(group), abs=1e-4)
    np.fill_diagonal(dense, 0)
    found = np.zeros_like(dense)
    found[flows.source, flows.target] = flows.weight
    assert found == pytest.approx(dense, abs=1e-4)
    assert len(set(zip(flows.source, flows.target, strict=True))) == np.count_nonzero(dense)


# ---- merging ----

D = 64
NO_PHOTO = -1


def people(random, sizes, noise=0.7):
    """(vectors, names) of people with these numbers of faces."""
    names = np.repeat(np.arange(len(sizes)), sizes)
    directions = unit_rows(random.normal(size=(len(sizes), D)))
    faces = directions[names] + noise * unit_rows(random.normal(size=(len(names), D)))
    return unit_rows(faces), names


def merged(vectors, group, photos=None, singles=0.05, margin=0.0):
    """The groups after merging, numbered by first appearance."""
    found = merged_and_refused(vectors, group, photos, singles, margin)[0]
    _, first, number = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number].tolist()


def merged_and_refused(vectors, group, photos=None, singles=0.05, margin=0.0):
    n = len(vectors)
    normalization = fit_normalization(vectors, None)
    normalized, scores = normalization.apply(vectors)
    units = unit_rows(normalized)
    lowest = end_of_lists(n, normalization.impostors)
    faces, ids = np.nonzero(~np.eye(n, dtype=bool))
    distances = np.sqrt(np.maximum(2 - 2 * (units @ units.T)[faces, ids], 0))
    graph = make_neighbor_graph(faces, ids, distances, scores[faces], scores[ids], lowest)
    flows = combine_flows([sum_flows(graph, lowest, group)], group)
    photos = np.full(n, NO_PHOTO) if photos is None else photos
    linked, none = np.flatnonzero(photos != NO_PHOTO), np.empty(0, int)
    links = CannotLinks(linked, photos[linked], np.zeros(n, bool), np.arange(n), none)
    limits = EdgeLimits(singles, lowest, 0.0, margin)
    return merge_groups(
        group, flows, lambda: [(slice(None), normalized)], links, normalization, limits, n
    )


def torn(names, random, fraction=0.25):
    """Groups that are people, without some of their faces, which are alone."""
    group = names.copy()
    alone = np.flatnonzero(random.random(len(names)) < fraction)
    group[alone] = names.max() + 1 + np.arange(len(alone))
    return np.unique(group, return_inverse=True)[1]


def test_single_faces_join_their_person_and_strangers_do_not():
    random = np.random.default_rng(0)
    vectors, names = people(random, [12] * 30 + [1] * 60)
    group = torn(names, random)
    found = np.array(merged(vectors, group))
    assert len(set(group.tolist())) > 150
    assert found[:360].tolist() == names[:360].tolist()
    assert np.isin(found[360:], np.arange(30)).sum() <= 3


def test_two_large_parts_of_a_person_are_merged():
    random = np.random.default_rng(0)
    vectors, names = people(random, [12] * 30)
    halves = 2 * names + (np.arange(len(names)) % 2)
    assert merged(vectors, halves) == names.tolist()


def test_groups_with_photos_in_common_are_not_merged():
    random = np.random.default_rng(0)
    vectors, names = people(random, [12] * 30)
    halves = 2 * names + (np.arange(len(names)) % 2)
    photos = np.full(len(names), NO_PHOTO)
    photos[:12] = np.arange(12) // 2  # the halves of the first person are in the same photos
    found = merged(vectors, halves, photos)
    assert len(set(found[:12])) == 2
    assert len(set(found[12:])) == 29


def test_two_faces_of_one_photo_do_not_join_the_same_person():
    random = np.random.default_rng(0)
    vectors, names = people(random, [12] * 30)
    group = names.copy()
    group[[0, 1]] = 30, 31  # both are alone, and in one photo
    photos = np.full(len(names), NO_PHOTO)
    assert merged(vectors, group, photos) == names.tolist()
    photos[[0, 1]] = 7
    found = merged(vectors, group, photos)
    assert found[0] != found[1]
    assert (found[0] == found[2]) != (found[1] == found[2])


def test_a_margin_of_evidence_merges_less():
    random = np.random.default_rng(0)
    vectors, names = people(random, [12] * 30, noise=1.1)
    group = torn(names, random)
    numbers = [len(set(merged(vectors, group, margin=m))) for m in (-0.2, 0.0, 0.2, 2.0)]
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[-1] == group.max() + 1


def test_the_order_of_faces_does_not_matter():
    random = np.random.default_rng(0)
    vectors, names = people(random, [12] * 20 + [1] * 40, noise=0.9)
    group = torn(names, random)
    found = np.array(merged(vectors, group))
    order = random.permutation(len(names))
    again = np.array(merged(vectors[order], group[order]))
    assert len(set(zip(found[order], again, strict=True))) == found.max() + 1 == again.max() + 1


@pytest.mark.parametrize("n", [0, 1, 3])
def test_nothing_to_merge(n):
    vectors = unit_rows(np.eye(D, dtype=np.float32)[:n]) if n else np.empty((0, D), np.float32)
    assert merged(vectors, np.arange(n)) == list(range(n))


# ---- the share of positives ----


@pytest.mark.parametrize("share", [0.02, 0.2, 0.7])
def test_the_share_of_positives_is_estimated(share):
    # Normal features of unit width, two apart: the log-likelihood ratio of x is 2 x.
    random = np.random.default_rng(0)
    n = 20_000
    feature = np.where(random.random(n) < share, 1, -1) + random.normal(size=n)
    assert estimate_prior(2 * feature) == pytest.approx(share, abs=0.02)


def test_without_cases_the_share_is_moderate():
    assert estimate_prior(np.empty(0)) == pytest.approx(0.5)
    assert 0 < estimate_prior(np.full(1000, -50.0)) < 0.001
    assert abs(logit(estimate_prior(np.array([-50.0])))) < 5
