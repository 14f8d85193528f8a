import hdbscan
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from facecluster.transforms.hdbscan_labels import (
    NOISE,
    Labels,
    attach_noise,
    forest_labels,
    pair_noise,
    separate_noise,
)
from facecluster.transforms.neighbors import Neighbors
from facecluster.transforms.spanning_forest import (
    Edges,
    minimum_spanning_forest,
    mutual_reachability,
)

TINY = 1e-9


def all_neighbors(points):
    """Every other point of each, nearest first."""
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    ids = np.argsort(distances, axis=1, kind="stable")[:, :-1]
    return Neighbors(ids, np.take_along_axis(distances, ids, axis=1))


def cluster(points, min_cluster_size=2, min_samples=1, min_distance=TINY, max_distance=2.0):
    edges = mutual_reachability(all_neighbors(points), min_samples, min_distance, max_distance)
    forest = minimum_spanning_forest(edges, len(points))
    return forest_labels(forest, len(points), min_cluster_size, max_distance)


def renamed(labels):
    """Clusters numbered as they come up, so that equal groupings are equal arrays."""
    numbers = {NOISE: NOISE}
    return [numbers.setdefault(label, len(numbers) - 1) for label in np.asarray(labels).tolist()]


def blobs(random):
    """One to six blobs of all sizes and densities, near and far, and some strays."""
    n_dimensions = random.integers(2, 6)
    centres = random.normal(size=(random.integers(1, 7), n_dimensions)) * random.uniform(0.5, 6)
    parts = [
        random.normal(centre, random.uniform(0.1, 1.5), (random.integers(1, 40), n_dimensions))
        for centre in centres
    ]
    strays = 5 * random.normal(size=(random.integers(2, 15), n_dimensions))
    return np.concatenate([*parts, strays])


# ---- against the package hdbscan ----


def published_labels_of_edges(edges, n, min_cluster_size, max_distance):
    """The package's own tree and labels, of the full matrix of the same distances.

    It refuses a graph that is not connected, so components count as just farther apart than
    max_distance, and one alone gets company; faces of small components are left out.
    """
    apart = max_distance * (1 + 1e-6)
    matrix = np.full((n, n), np.inf)
    np.minimum.at(matrix, (edges.i, edges.j), edges.weight)
    matrix = np.minimum(matrix, matrix.T)
    component = connected_components(np.isfinite(matrix), directed=False)[1]
    large = np.bincount(component)[component] >= min_cluster_size
    labels, probabilities = np.full(n, NOISE), np.zeros(n)
    m = np.count_nonzero(large)
    if m == 0:
        return labels, probabilities
    matrix = np.minimum(matrix[np.ix_(large, large)], apart)
    if len(set(component[large])) == 1:
        matrix = np.pad(matrix, (0, min_cluster_size), constant_values=apart)
        matrix[m:, m:] = max_distance
    np.fill_diagonal(matrix, 0)
    # With one sample, the reachability of these distances is these distances.
    found = hdbscan.HDBSCAN(min_cluster_size, min_samples=1, metric="precomputed").fit(matrix)
    labels[large], probabilities[large] = found.labels_[:m], found.probabilities_[:m]
    return labels, probabilities


def test_labels_are_those_of_the_package_on_the_same_distances():
    n_found = set()
    for seed in range(300):
        random = np.random.default_rng(seed)
        points = blobs(random)
        min_cluster_size, min_samples = random.integers(2, 7), random.integers(1, 5)
        max_distance = random.uniform(0.3, 6)
        edges = mutual_reachability(all_neighbors(points), min_samples, TINY, max_distance)
        forest = minimum_spanning_forest(edges, len(points))
        ours = forest_labels(forest, len(points), min_cluster_size, max_distance)
        labels, probabilities = published_labels_of_edges(
            edges, len(points), min_cluster_size, max_distance
        )
        assert renamed(ours.labels) == renamed(labels), seed
        assert ours.probabilities == pytest.approx(probabilities, abs=1e-6), seed
        n_found.add(ours.labels.max() + 1)
    assert n_found >= set(range(7))  # the sets are worth comparing on


def published_labels_of_points(points, min_cluster_size, min_samples):
    """The package's labels from points, and the distance at which it split them off from others.

    It never selects all points as one cluster; other points far away make them a part of the whole.
    """
    n = len(points)
    far = np.zeros((min_cluster_size + min_samples, points.shape[1] + 1))
    far[:, 0], far[:, -1] = 1e-3 * np.arange(len(far)), 50
    points = np.concatenate([np.pad(points, ((0, 0), (0, 1))), far])
    distances = cdist(points, points)
    core = np.sort(distances, axis=1)[:, min_samples]  # the 0th is the point itself
    reachability = np.maximum(distances, np.maximum(core[:, None], core[None]))
    found = hdbscan.HDBSCAN(
        min_cluster_size, min_samples, metric="euclidean", approx_min_span_tree=False
    ).fit(points)
    return found.labels_[:n], found.probabilities_[:n], reachability[:n, n:].min()


def test_with_one_sample_labels_are_those_of_the_package_on_the_same_points():
    for seed in range(200):
        random = np.random.default_rng(seed)
        points, min_cluster_size = blobs(random), random.integers(2, 7)
        labels, probabilities, apart = published_labels_of_points(points, min_cluster_size, 1)
        ours = cluster(points, min_cluster_size, max_distance=apart)
        assert renamed(ours.labels) == renamed(labels), seed
        assert ours.probabilities == pytest.approx(probabilities, abs=1e-5), seed


def test_with_more_samples_labels_differ_from_the_package_only_by_its_ties():
    # A core distance is the reachability of several pairs. The package joins such pairs in any
    # order, and the order decides what splits off as a cluster; here the nearer pair joins first.
    n_equal = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        points = blobs(random)
        min_cluster_size, min_samples = random.integers(2, 7), random.integers(2, 5)
        labels, _, apart = published_labels_of_points(points, min_cluster_size, min_samples)
        ours = cluster(points, min_cluster_size, min_samples, max_distance=apart)
        n_equal += renamed(ours.labels) == renamed(labels)
    assert n_equal >= 160  # 175 of 200; without ties all, as tested above


# ---- what a collection of photos brings ----


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def faces(random, n_people, n_each, n_strangers=0, noise=0.4, n_dimensions=32):
    """People in all directions, each face about `noise` from its person's direction."""
    people = np.repeat(unit(random.normal(size=(n_people, n_dimensions))), n_each, axis=0)
    spread = noise / np.sqrt(n_dimensions) * random.normal(size=people.shape)
    return unit(np.concatenate([people + spread, random.normal(size=(n_strangers, n_dimensions))]))


FACES = {"min_distance": 0.3, "max_distance": 0.8}


@pytest.mark.parametrize("min_samples", [1, 3])
def test_people_are_found_in_any_order_of_the_faces(min_samples):
    random = np.random.default_rng(0)
    vectors = faces(random, n_people=12, n_each=6, n_strangers=20)
    labels = cluster(vectors, min_samples=min_samples, **FACES).labels
    assert renamed(labels) == [*np.repeat(np.arange(12), 6), *[NOISE] * 20]
    for _ in range(10):
        order = random.permutation(len(vectors))
        shuffled = cluster(vectors[order], min_samples=min_samples, **FACES).labels
        assert renamed(shuffled) == renamed(labels[order])


def test_hard_cases_do_not_depend_on_the_order_either():
    for seed in range(30):
        random = np.random.default_rng(seed)
        points = blobs(random)
        options = {"min_cluster_size": 3, "min_samples": random.integers(1, 4), "max_distance": 3}
        before = cluster(points, **options)
        order = random.permutation(len(points))
        after = cluster(points[order], **options)
        assert renamed(after.labels) == renamed(before.labels[order]), seed
        assert after.probabilities == pytest.approx(before.probabilities[order]), seed


@pytest.mark.parametrize("n", [2, 30, 1500])
def test_a_collection_of_one_person_is_one_person(n):
    vectors = faces(np.random.default_rng(0), n_people=1, n_each=n)
    found = cluster(vectors, **FACES)
    assert np.all(found.labels == 0)
    assert np.all(found.probabilities > 0)


def test_two_people_alone_who_hang_together_are_two_people():
    # One component of the graph, split by excess of mass: numbers start at 0 all the same.
    random = np.random.default_rng(0)
    ann, bob = (0.1 * random.normal(size=(10, 4)) + [x, 0, 0, 0] for x in (0, 1))
    found = cluster(np.concatenate([ann, bob]), min_cluster_size=5)
    assert renamed(found.labels) == [0] * 10 + [1] * 10
    assert set(found.labels) == {0, 1}


@pytest.mark.parametrize("seed", range(40))
def test_cluster_numbers_have_no_gaps(seed):
    random = np.random.default_rng(seed)
    for max_distance in (0.5, 1, 2, 4, 8, 16):
        labels = cluster(blobs(random), random.integers(2, 5), max_distance=max_distance).labels
        assert sorted(set(labels) - {NOISE}) == list(range(labels.max() + 1))


def test_strangers_do_not_regroup_the_others():
    # Two strangers who are near each other and far from everybody.
    for seed in range(60):
        random = np.random.default_rng(seed)
        vectors = faces(random, random.integers(1, 5), 8, noise=random.uniform(0.3, 0.9))
        widened = np.pad(vectors, ((0, 2), (0, 2)))
        cosine = 1 - 0.79**2 / 2
        widened[-2:, -2:] = [[1, 0], [cosine, np.sqrt(1 - cosine**2)]]
        before, after = cluster(vectors, **FACES), cluster(widened, **FACES)
        assert renamed(after.labels[:-2]) == renamed(before.labels), seed
        assert after.labels[-1] == after.labels[-2] != NOISE


def test_copies_of_a_photo_do_not_become_a_person_of_their_own():
    random = np.random.default_rng(0)
    vectors = faces(random, n_people=2, n_each=10)
    vectors[5:10] = vectors[5]
    found = cluster(vectors, **FACES)
    assert renamed(found.labels) == [0] * 10 + [1] * 10
    without_a_floor = cluster(vectors, **FACES | {"min_distance": TINY})
    assert len(set(without_a_floor.labels)) > 2


def test_twenty_thousand_pairs_are_as_many_people():
    pairs = np.arange(40_000).reshape(-1, 2)
    forest = Edges(pairs[:, 0], pairs[:, 1], np.random.default_rng(0).uniform(0.3, 0.8, 20_000))
    found = forest_labels(forest, 40_000, 2, 0.9)
    assert np.array_equal(found.labels[::2], found.labels[1::2])
    assert len(set(found.labels[::2])) == 20_000
    assert found.labels.min() == 0
    assert np.all(found.probabilities == 1)


def test_components_of_one_weight_stay_whole():
    # Rings of faces all at the floor: every component has the same, single density.
    parts = [np.arange(start, start + 4) for start in range(0, 400, 4)]
    i = np.concatenate([part[:-1] for part in parts])
    found = forest_labels(Edges(i, i + 1, np.full(len(i), 0.65)), 400, 2, 0.9)
    assert renamed(found.labels) == np.repeat(np.arange(100), 4).tolist()


def test_groups_below_the_least_size_are_noise():
    random = np.random.default_rng(0)
    vectors = faces(random, n_people=4, n_each=3)
    assert np.all(cluster(vectors, min_cluster_size=3, **FACES).labels >= 0)
    found = cluster(vectors, min_cluster_size=4, **FACES)
    assert np.all(found.labels == NOISE)
    assert np.all(found.probabilities == 0)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_without_edges_all_are_noise(n):
    nothing = Edges(np.empty(0, int), np.empty(0, int), np.empty(0))
    found = forest_labels(minimum_spanning_forest(nothing, n), n, 2, 0.9)
    assert found.labels.tolist() == [NOISE] * n
    assert found.probabilities.tolist() == [0] * n


# ---- noise ----


def attach(labels, ids, distances, distance):
    labels = Labels(np.array(labels), np.where(np.array(labels) == NOISE, 0, 0.5))
    graph = Neighbors(np.array(ids)[:, None], np.array(distances, np.float32)[:, None])
    return attach_noise(labels, graph, distance)


def test_noise_joins_the_person_of_its_nearest_face():
    # 0 and 1 are a person, 2 to 6 noise: 2 is near 1, 3 too far from it, 4 is nearest to noise,
    # 5 has no neighbour, 6 is exactly as far as allowed, which is too far.
    found = attach(
        labels=[7, 7, -1, -1, -1, -1, -1],
        ids=[1, 0, 1, 1, 3, -1, 0],
        distances=[0.1, 0.1, 0.6, 0.9, 0.2, np.inf, 0.8],
        distance=0.8,
    )
    assert found.labels.tolist() == [7, 7, 7, -1, -1, -1, -1]
    assert found.probabilities == pytest.approx([0.5, 0.5, 0.25, 0, 0, 0, 0])


def test_noise_that_joins_does_not_draw_other_noise_in():
    # 2 joins the person of 1; 3 is nearest to 2, which is noise until then.
    found = attach([0, 0, -1, -1], [1, 0, 1, 2], [0.1, 0.1, 0.5, 0.4], 0.8)
    assert found.labels.tolist() == [0, 0, 0, -1]


def test_a_missing_neighbour_is_not_the_last_face():
    found = attach([-1, 0, 0], [-1, 2, 1], [np.inf, 0.1, 0.1], 2.0)
    assert found.labels.tolist() == [-1, 0, 0]


def pair(labels, ids, distances, distance):
    labels = Labels(np.array(labels), np.where(np.array(labels) == NOISE, 0, 0.5))
    graph = Neighbors(np.array(ids)[:, None], np.array(distances, np.float32)[:, None])
    return pair_noise(labels, graph, distance)


def test_noise_that_is_each_others_nearest_becomes_a_person():
    # 0 and 1 are a person; 2 and 3 are a pair, 4 and 5 a pair too far apart, 6 prefers 2, who
    # prefers 3; 7 and 1 are each other's nearest, but 1 has a person; 8 has no neighbour.
    found = pair(
        labels=[0, 0, -1, -1, -1, -1, -1, -1, -1],
        ids=[1, 7, 3, 2, 5, 4, 2, 1, -1],
        distances=[0.3, 0.2, 0.6, 0.6, 0.9, 0.9, 0.7, 0.2, np.inf],
        distance=0.8,
    )
    assert found.labels.tolist() == [0, 0, 1, 1, -1, -1, -1, -1, -1]
    assert found.probabilities == pytest.approx([0.5, 0.5, 0.25, 0.25, 0, 0, 0, 0, 0])


def test_pairs_are_numbered_on_from_the_people_there_are():
    found = pair([-1] * 4, [3, 2, 1, 0], [0.1, 0.2, 0.2, 0.1], 0.8)
    assert found.labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("function", [attach_noise, pair_noise])
def test_a_distance_of_zero_changes_nothing(function):
    labels = Labels(np.array([0, -1, -1]), np.array([1.0, 0, 0]))
    graph = Neighbors(np.array([[1], [0], [1]]), np.zeros((3, 1), np.float32))
    assert function(labels, graph, 0.0).labels.tolist() == [0, -1, -1]


@pytest.mark.parametrize("function", [attach_noise, pair_noise])
@pytest.mark.parametrize("n", [0, 1])
def test_without_neighbours_noise_stays(function, n):
    graph = Neighbors(np.empty((n, 0), int), np.empty((n, 0), np.float32))
    found = function(Labels(np.full(n, NOISE), np.zeros(n)), graph, 2.0)
    assert found.labels.tolist() == [NOISE] * n


@settings(deadline=None)
@given(st.data(), st.integers(2, 12), st.floats(0, 2), st.floats(0, 2))
def test_only_noise_changes_and_only_as_said(data, n, distance, pair_distance):
    labels = data.draw(arrays(np.int64, n, elements=st.integers(-1, 2)))
    points = data.draw(arrays(np.float64, (n, 2), elements=st.integers(0, 4).map(lambda v: v / 3)))
    graph = all_neighbors(points)
    before = Labels(labels, np.where(labels == NOISE, 0, 1.0))
    attached = attach_noise(before, graph, distance)
    paired = pair_noise(attached, graph, pair_distance)
    nearest, gap = graph.ids[:, 0], graph.distances[:, 0]
    for i in range(n):
        label = labels[i]
        if label == NOISE and gap[i] < distance:
            label = labels[nearest[i]]
        assert attached.labels[i] == label
    largest = attached.labels.max()
    for new in set(paired.labels) - set(attached.labels):
        a, b = np.flatnonzero(paired.labels == new)
        assert (nearest[a], nearest[b]) == (b, a)
        assert gap[a] < pair_distance
        assert new > largest
    kept = attached.labels != NOISE
    assert np.array_equal(paired.labels[kept], attached.labels[kept])
    for found in (attached, paired):
        assert np.all((found.probabilities >= 0) & (found.probabilities <= 1))
        assert np.all(found.probabilities[found.labels == NOISE] == 0)


def test_separate_noise_gives_each_face_left_a_cluster_of_its_own():
    labels = Labels(np.array([NOISE, 0, NOISE, 0, 1, NOISE]), np.array([0, 0.5, 0, 0.9, 1, 0]))
    separate = separate_noise(labels)
    assert separate.labels.tolist() == [2, 0, 3, 0, 1, 4]
    assert separate.probabilities.tolist() == [1, 0.5, 1, 0.9, 1, 1]
    nothing = Labels(np.array([NOISE, NOISE]), np.zeros(2))
    assert separate_noise(nothing).labels.tolist() == [0, 1]
