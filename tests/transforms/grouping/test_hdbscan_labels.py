import ast
import os
from pathlib import Path

import hdbscan
import numpy as np
import pytest
import sklearn.cluster
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from facecluster.transforms.grouping import hdbscan_labels
from facecluster.transforms.grouping.hdbscan_labels import (
    NOISE,
    Labels,
    forest_labels,
    separate_noise,
)
from facecluster.transforms.grouping.spanning_forest import (
    TIE_BREAK,
    Edges,
    minimum_spanning_forest,
)

TINY = 1e-9


def reachabilities(points, min_samples, min_distance, max_distance):
    """Mutual reachability of all pairs of points below max_distance (Campello et al. 2013)."""
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    ranked = np.pad(np.sort(distances, axis=1), ((0, 0), (0, min_samples)), constant_values=np.inf)
    core = ranked[:, min_samples - 1]
    reach = np.maximum(np.maximum(core[:, None], core), distances)
    i, j = np.nonzero(reach < max_distance)
    floored = np.maximum(reach[i, j], min_distance)
    return Edges(i, j, floored * (1 + TIE_BREAK * distances[i, j]))


def cluster(points, min_cluster_size=2, min_samples=1, min_distance=TINY, max_distance=2.0):
    edges = reachabilities(points, min_samples, min_distance, max_distance)
    forest = minimum_spanning_forest(edges)
    return forest_labels(forest, len(points), min_cluster_size, max_distance)


def renamed(labels):
    """Renumbers clusters by first appearance, so that equal groupings are equal lists."""
    numbers = {NOISE: NOISE}
    return [numbers.setdefault(label, len(numbers) - 1) for label in np.asarray(labels).tolist()]


def blobs(random):
    """One to six blobs of various sizes, densities and distances, and some single points."""
    n_dimensions = random.integers(2, 6)
    centers = random.normal(size=(random.integers(1, 7), n_dimensions)) * random.uniform(0.5, 6)
    parts = [
        random.normal(center, random.uniform(0.1, 1.5), (random.integers(1, 40), n_dimensions))
        for center in centers
    ]
    strays = 5 * random.normal(size=(random.integers(2, 15), n_dimensions))
    return np.concatenate([*parts, strays])


# ---- against the public estimators of hdbscan and scikit-learn ----


def published_labels_of_edges(edges, n, min_cluster_size, max_distance):
    """The labels and probabilities of hdbscan's estimator, on the matrix of the same distances.

    It does not accept a graph that is not connected. So components count as just farther apart than
    max_distance, a single one gets a second one, and points in small components are left out.
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
    # With one sample, the reachabilities of these distances are the distances themselves.
    found = hdbscan.HDBSCAN(min_cluster_size, min_samples=1, metric="precomputed").fit(matrix)
    labels[large], probabilities[large] = found.labels_[:m], found.probabilities_[:m]
    return labels, probabilities


def test_labels_are_those_of_hdbscan_on_the_same_distances():
    n_found = set()
    for seed in range(300):
        random = np.random.default_rng(seed)
        points = blobs(random)
        min_cluster_size, min_samples = random.integers(2, 7), random.integers(1, 5)
        max_distance = random.uniform(0.3, 6)
        edges = reachabilities(points, min_samples, TINY, max_distance)
        forest = minimum_spanning_forest(edges)
        ours = forest_labels(forest, len(points), min_cluster_size, max_distance)
        labels, probabilities = published_labels_of_edges(
            edges, len(points), min_cluster_size, max_distance
        )
        assert renamed(ours.labels) == renamed(labels), seed
        assert ours.probabilities == pytest.approx(probabilities, abs=1e-6), seed
        n_found.add(ours.labels.max() + 1)
    assert n_found >= set(range(7))  # the examples are diverse


def test_labels_are_those_of_scikit_learn_on_the_same_distances():
    n_found = set()
    for seed in range(100):
        random = np.random.default_rng(seed)
        points = blobs(random)
        min_cluster_size, min_samples = random.integers(2, 7), random.integers(1, 5)
        edges = reachabilities(points, min_samples, TINY, np.inf)
        top = edges.weight.max() * 2
        ours = cluster(points, min_cluster_size, min_samples, max_distance=top)
        # The root is never selected; with a group of points far away, all others can be.
        n = len(points)
        matrix = np.full((n + min_cluster_size,) * 2, top * (1 + 1e-6))
        matrix[edges.i, edges.j] = matrix[edges.j, edges.i] = edges.weight
        matrix[n:, n:] = top
        np.fill_diagonal(matrix, 0)
        # In scikit-learn, a point is the first of its own samples. With two samples, the
        # reachabilities of these distances are the distances themselves.
        public = sklearn.cluster.HDBSCAN(
            min_cluster_size=int(min_cluster_size), min_samples=2, metric="precomputed", copy=True
        ).fit(matrix)
        assert renamed(ours.labels) == renamed(public.labels_[:n]), seed
        assert ours.probabilities == pytest.approx(public.probabilities_[:n], abs=1e-6), seed
        n_found.add(ours.labels.max() + 1)
    assert n_found >= set(range(1, 6))


def test_private_functions_of_other_packages_are_imported_here_only():
    package = Path(hdbscan_labels.__file__).parents[2]
    found = set()
    sources = [
        Path(folder, name)
        for folder, _, names in os.walk(package, followlinks=True)
        for name in names
        if name.endswith(".py")
    ]
    assert len(sources) > 50
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                top, *rest = name.split(".")
                if top in ("hdbscan", "sklearn") and any(part.startswith("_") for part in rest):
                    found.add(path.name)
    assert found == {"hdbscan_labels.py"}


def published_labels_of_points(points, min_cluster_size, min_samples):
    """hdbscan's labels and probabilities of points, and the distance that joins them to the rest.

    It never selects all points as one cluster; other points far away make them a part of the whole.
    """
    n = len(points)
    far = np.zeros((min_cluster_size + min_samples, points.shape[1] + 1))
    far[:, 0], far[:, -1] = 1e-3 * np.arange(len(far)), 50
    points = np.concatenate([np.pad(points, ((0, 0), (0, 1))), far])
    distances = cdist(points, points)
    core = np.sort(distances, axis=1)[:, min_samples]  # index 0 is the point itself
    reachability = np.maximum(distances, np.maximum(core[:, None], core[None]))
    found = hdbscan.HDBSCAN(
        min_cluster_size, min_samples, metric="euclidean", approx_min_span_tree=False
    ).fit(points)
    return found.labels_[:n], found.probabilities_[:n], reachability[:n, n:].min()


def test_with_one_sample_labels_are_those_of_hdbscan_on_the_same_points():
    for seed in range(200):
        random = np.random.default_rng(seed)
        points, min_cluster_size = blobs(random), random.integers(2, 7)
        labels, probabilities, apart = published_labels_of_points(points, min_cluster_size, 1)
        ours = cluster(points, min_cluster_size, max_distance=apart)
        assert renamed(ours.labels) == renamed(labels), seed
        assert ours.probabilities == pytest.approx(probabilities, abs=1e-5), seed


def test_with_more_samples_labels_differ_from_hdbscan_only_by_ties():
    # One core distance is the reachability of several pairs. The package takes such pairs in any
    # order, which affects the clusters; here the nearer pair comes first.
    n_equal = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        points = blobs(random)
        min_cluster_size, min_samples = random.integers(2, 7), random.integers(2, 5)
        labels, _, apart = published_labels_of_points(points, min_cluster_size, min_samples)
        ours = cluster(points, min_cluster_size, min_samples, max_distance=apart)
        n_equal += renamed(ours.labels) == renamed(labels)
    assert n_equal >= 160  # 175 of 200; all of them without ties, as above


# ---- collections of faces ----


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def faces(random, n_people, n_each, n_singletons=0, noise=0.4, n_dimensions=32):
    """People in all directions, each face about `noise` from its person's direction."""
    people = np.repeat(unit(random.normal(size=(n_people, n_dimensions))), n_each, axis=0)
    spread = noise / np.sqrt(n_dimensions) * random.normal(size=people.shape)
    return unit(np.concatenate([people + spread, random.normal(size=(n_singletons, n_dimensions))]))


FACES = {"min_distance": 0.3, "max_distance": 0.8}


@pytest.mark.parametrize("min_samples", [1, 3])
def test_people_are_found_in_any_order_of_the_faces(min_samples):
    random = np.random.default_rng(0)
    vectors = faces(random, n_people=12, n_each=6, n_singletons=20)
    labels = cluster(vectors, min_samples=min_samples, **FACES).labels
    assert renamed(labels) == [*np.repeat(np.arange(12), 6), *[NOISE] * 20]
    for _ in range(10):
        order = random.permutation(len(vectors))
        shuffled = cluster(vectors[order], min_samples=min_samples, **FACES).labels
        assert renamed(shuffled) == renamed(labels[order])


def test_hard_cases_do_not_depend_on_the_order():
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


def test_two_people_in_one_component_are_two_people():
    # One component, split by excess of mass; labels still start at 0.
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


def test_two_more_impostors_do_not_change_other_labels():
    # Two people who are near each other and far from all others.
    for seed in range(60):
        random = np.random.default_rng(seed)
        vectors = faces(random, random.integers(1, 5), 8, noise=random.uniform(0.3, 0.9))
        widened = np.pad(vectors, ((0, 2), (0, 2)))
        cosine = 1 - 0.79**2 / 2
        widened[-2:, -2:] = [[1, 0], [cosine, np.sqrt(1 - cosine**2)]]
        before, after = cluster(vectors, **FACES), cluster(widened, **FACES)
        assert renamed(after.labels[:-2]) == renamed(before.labels), seed
        assert after.labels[-1] == after.labels[-2] != NOISE


def test_near_duplicates_do_not_become_a_person_of_their_own():
    random = np.random.default_rng(0)
    vectors = faces(random, n_people=2, n_each=10)
    vectors[5:10] = vectors[5] + 1e-4 * random.normal(size=(5, 32))  # as in photos saved again
    found = cluster(vectors, **FACES)
    assert renamed(found.labels) == [0] * 10 + [1] * 10
    without_a_floor = cluster(vectors, **FACES | {"min_distance": TINY})
    assert len(set(without_a_floor.labels)) > 2


def test_twenty_thousand_pairs_are_twenty_thousand_people():
    pairs = np.arange(40_000).reshape(-1, 2)
    forest = Edges(pairs[:, 0], pairs[:, 1], np.random.default_rng(0).uniform(0.3, 0.8, 20_000))
    found = forest_labels(forest, 40_000, 2, 0.9)
    assert np.array_equal(found.labels[::2], found.labels[1::2])
    assert len(set(found.labels[::2])) == 20_000
    assert found.labels.min() == 0
    assert np.all(found.probabilities == 1)


def test_components_of_equal_weights_are_one_cluster():
    # Rings whose edges all have the minimum weight: all components have the same density.
    parts = [np.arange(start, start + 4) for start in range(0, 400, 4)]
    i = np.concatenate([part[:-1] for part in parts])
    found = forest_labels(Edges(i, i + 1, np.full(len(i), 0.65)), 400, 2, 0.9)
    assert renamed(found.labels) == np.repeat(np.arange(100), 4).tolist()


def test_groups_below_min_cluster_size_are_noise():
    random = np.random.default_rng(0)
    vectors = faces(random, n_people=4, n_each=3)
    assert np.all(cluster(vectors, min_cluster_size=3, **FACES).labels >= 0)
    found = cluster(vectors, min_cluster_size=4, **FACES)
    assert np.all(found.labels == NOISE)
    assert np.all(found.probabilities == 0)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_without_edges_all_are_noise(n):
    nothing = Edges(np.empty(0, int), np.empty(0, int), np.empty(0))
    found = forest_labels(minimum_spanning_forest(nothing), n, 2, 0.9)
    assert found.labels.tolist() == [NOISE] * n
    assert found.probabilities.tolist() == [0] * n


# ---- noise ----


def test_separate_noise_makes_each_noise_face_a_cluster():
    labels = Labels(np.array([NOISE, 0, NOISE, 0, 1, NOISE]), np.array([0, 0.5, 0, 0.9, 1, 0]))
    separate = separate_noise(labels)
    assert separate.labels.tolist() == [2, 0, 3, 0, 1, 4]
    assert separate.probabilities.tolist() == [1, 0.5, 1, 0.9, 1, 1]
    nothing = Labels(np.array([NOISE, NOISE]), np.zeros(2))
    assert separate_noise(nothing).labels.tolist() == [0, 1]
