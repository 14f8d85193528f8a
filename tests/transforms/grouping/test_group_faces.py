"""Grouping in memory: against the hdbscan package, with photos and with equal vectors."""

import hdbscan
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from facecluster.transforms.grouping.group_faces import choose_distance_limits, group_faces
from facecluster.transforms.grouping.hdbscan_labels import NOISE
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.grouping.spanning_forest import TIE_BREAK

GROUP_FACES = "facecluster.transforms.grouping.group_faces"
SEEDS = st.integers(0, 2**32 - 1)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def faces(random, n_people, n_each, n_singletons=0, noise=0.5, n_dimensions=32):
    """People in all directions, each face about `noise` from its person's direction."""
    people = np.repeat(unit(random.normal(size=(n_people, n_dimensions))), n_each, axis=0)
    spread = noise / np.sqrt(n_dimensions) * random.normal(size=people.shape)
    return unit(np.concatenate([people + spread, random.normal(size=(n_singletons, n_dimensions))]))


def at_angles(distances, plane=0):
    """Unit vectors in a plane, at these distances from its first axis, to the left or right."""
    angles = 2 * np.arcsin(np.array(distances) / 2)
    vectors = np.zeros((len(angles), 6), np.float32)
    vectors[:, 2 * plane], vectors[:, 2 * plane + 1] = np.cos(angles), np.sin(angles)
    return vectors


def group(stored, photos=None, **options):
    """Groups faces; without photos, each face is in a photo of its own."""
    photos = np.arange(len(stored)) if photos is None else np.array(photos, np.int64)
    options = {"chance_neighbors": 0} | options
    return group_faces(stored, photos, ClusterOptions(**options))


def labels_of(stored, photos=None, **options):
    return group(stored, photos, **options).labels.labels.tolist()


def renamed(labels):
    """Renumbers clusters by first appearance, so that equal groupings are equal lists."""
    numbers = {NOISE: NOISE}
    return [numbers.setdefault(label, len(numbers) - 1) for label in np.asarray(labels).tolist()]


# ---- HDBSCAN* ----

PLAIN = {"max_distance": 2.0, "merge_distance": 0.0, "min_distance": 1e-6, "ignore_photos": True}


def sphere(random):
    """20 to 120 unit vectors, in random directions or in clusters of various densities."""
    n_dimensions = random.integers(2, 9)
    strays = random.normal(size=(random.integers(10, 40), n_dimensions))
    parts = [
        random.normal(size=n_dimensions)
        + random.uniform(0.05, 0.6) * random.normal(size=(random.integers(3, 20), n_dimensions))
        for _ in range(random.integers(1, 7))
    ]
    return unit(np.concatenate([*parts, strays] if random.random() < 0.8 else [strays, strays**3]))


def package_labels(distances, min_cluster_size, min_samples):
    """The package's labels and probabilities of a full matrix of distances.

    The package never selects all points as one cluster. So points are added that are just farther
    away than any two of them: then all others together can be selected, as in our labels.
    """
    n, n_far = len(distances), min_cluster_size + min_samples
    matrix = np.full((n + n_far,) * 2, 2 * (1 + 1e-6))
    matrix[:n, :n] = distances
    matrix[n:, n:] = 1
    np.fill_diagonal(matrix, 0)
    found = hdbscan.HDBSCAN(min_cluster_size, min_samples, metric="precomputed").fit(matrix)
    return found.labels_[:n], found.probabilities_[:n]


def distance_matrix(vectors):
    return np.linalg.norm(vectors[:, None] - vectors[None], axis=2).astype(np.float64)


def test_with_one_sample_labels_are_those_of_the_package():
    n_found = set()
    for seed in range(80):
        random = np.random.default_rng(seed)
        vectors, min_cluster_size = sphere(random), int(random.integers(2, 7))
        labels, probabilities = package_labels(distance_matrix(vectors), min_cluster_size, 1)
        ours = group(
            vectors, n_neighbors=len(vectors) - 1, min_cluster_size=min_cluster_size, **PLAIN
        ).labels
        assert renamed(ours.labels) == renamed(labels), seed
        assert ours.probabilities == pytest.approx(probabilities, abs=1e-4), seed
        n_found.add(ours.labels.max() + 1)
    assert n_found >= set(range(1, 7))  # the examples are diverse


def test_with_more_samples_labels_are_those_of_the_package_except_for_ties():
    # One core distance is the reachability of several pairs. The package takes such pairs in any
    # order, which affects the clusters; here the nearer pair comes first. With the same order in
    # the package, all labels agree.
    n_equal = 0
    for seed in range(80):
        random = np.random.default_rng(seed)
        vectors, min_cluster_size = sphere(random), int(random.integers(2, 7))
        min_samples = int(random.integers(2, 7))
        distances = distance_matrix(vectors)
        core = np.sort(distances, axis=1)[:, min_samples]  # index 0 is the face itself
        reachability = np.maximum(distances, np.maximum(core[:, None], core[None]))
        untied = reachability * (1 + TIE_BREAK * distances)
        ours = labels_of(
            vectors, n_neighbors=len(vectors) - 1, min_cluster_size=min_cluster_size,
            min_samples=min_samples, **PLAIN,
        )  # fmt: skip
        # With one sample, the reachabilities of these distances are the distances themselves.
        assert renamed(ours) == renamed(package_labels(untied, min_cluster_size, 1)[0]), seed
        n_equal += renamed(ours) == renamed(
            package_labels(distances, min_cluster_size, min_samples)[0]
        )
    assert n_equal >= 45  # 51 of 80; all of them without ties, as above


def test_a_face_needs_min_samples_neighbors():
    # Three faces within 0.3 of each other, and two more.
    vectors = np.concatenate([at_angles([0, 0.1, 0.3]), at_angles([0, 0.1], plane=1)])
    options = {"max_distance": 0.7, "merge_distance": 0}
    assert labels_of(vectors, min_samples=1, **options) == [0, 0, 0, 1, 1]
    assert labels_of(vectors, min_samples=2, **options) == [0, 0, 0, -1, -1]
    assert labels_of(vectors, min_samples=3, **options) == [-1] * 5


def test_a_burst_of_photos_is_not_a_person_of_its_own_within_min_distance():
    # Two bursts of one person, 0.4 apart.
    vectors = at_angles([0, 0.01, 0.02, 0.4, 0.41, 0.42])
    assert labels_of(vectors, min_distance=0.45, merge_distance=0) == [0] * 6
    assert labels_of(vectors, min_distance=0.01, merge_distance=0) == [0, 0, 0, 1, 1, 1]
    # Two dense groups with near means are merged into one person.
    assert labels_of(vectors, min_distance=0.01, merge_distance=0.5) == [0] * 6


def test_people_are_found_if_max_distance_is_below_min_distance():
    for seed in range(10):
        vectors = faces(
            np.random.default_rng(seed), n_people=6, n_each=4, n_singletons=6, noise=0.2
        )
        found = labels_of(vectors, max_distance=0.6, min_distance=0.65, merge_distance=0)
        assert renamed(found) == [*np.repeat(np.arange(6), 4), *[NOISE] * 6]


# ---- any order and type of vectors ----


def test_people_are_found_with_the_default_options():
    vectors = faces(np.random.default_rng(0), n_people=40, n_each=5, n_singletons=30,
                    n_dimensions=128)  # fmt: skip
    found = group_faces(vectors, np.arange(len(vectors)), ClusterOptions())
    assert renamed(found.labels.labels) == [*np.repeat(np.arange(40), 5), *[NOISE] * 30]
    assert found.diagnostics["recall"] == 1
    assert 0.6 < found.diagnostics["max_distance"] <= ClusterOptions.max_distance


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(1, 3), st.integers(1, 4), st.floats(0.4, 0.9), st.booleans())
def test_labels_do_not_depend_on_the_order(seed, min_samples, min_cluster_size, noise, ignoring):
    random = np.random.default_rng(seed)
    vectors = faces(random, n_people=8, n_each=6, n_singletons=20, noise=noise, n_dimensions=16)
    # Group photos in which each person appears once.
    photos = [*np.concatenate([random.permutation(9)[:6] for _ in range(8)]), *range(20)]
    photos = np.array(photos)
    options = {"min_samples": min_samples, "min_cluster_size": min_cluster_size}
    options["ignore_photos"] = ignoring
    before = group(vectors, photos, **options)
    assume(not before.repeated.any())  # of a repeated face, only the first has cannot-links
    order = random.permutation(len(vectors))
    after = group(vectors[order], photos[order], **options)
    assert renamed(after.labels.labels) == renamed(before.labels.labels[order])
    assert after.labels.probabilities == pytest.approx(before.labels.probabilities[order], abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(1, 3), st.integers(1, 4), st.integers(1, 60))
def test_equal_vectors_get_one_label_and_do_not_change_other_labels(
    seed, min_samples, min_cluster_size, n_repeated
):
    random = np.random.default_rng(seed)
    vectors = faces(random, n_people=8, n_each=4, n_singletons=12, noise=0.7, n_dimensions=16)
    n, repeated_of = len(vectors), random.integers(0, len(vectors), n_repeated)
    options = {"min_samples": min_samples, "min_cluster_size": min_cluster_size}
    before = group(vectors, **options).labels
    after = group(np.concatenate([vectors, vectors[repeated_of]]), **options).labels
    assert (after.labels[n:] == after.labels[repeated_of]).all()
    assert (after.probabilities[n:] == after.probabilities[repeated_of]).all()
    # Only a noise face can have become a person, of the faces with its vector.
    counts = 1 + np.bincount(repeated_of, minlength=n)
    alone = np.bincount(before.labels + 1)[before.labels + 1] == 1
    alone |= before.labels == NOISE
    enough = counts >= max(min_cluster_size, 2)
    expected = before.labels.copy()
    expected[alone & enough] = expected.max() + 1 + np.arange((alone & enough).sum())
    assert renamed(after.labels[:n]) == renamed(expected)


def test_equal_vectors_of_a_noise_face_become_a_person():
    vectors = np.concatenate([at_angles([0] * 3), at_angles([0] * 2, plane=1), at_angles([0], 2)])
    assert renamed(labels_of(vectors)) == [0, 0, 0, 1, 1, -1]
    assert renamed(labels_of(vectors, min_cluster_size=3)) == [0, 0, 0, -1, -1, -1]
    assert renamed(labels_of(vectors, min_cluster_size=1)) == [0, 0, 0, 1, 1, 2]


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 3), st.floats(0.3, 1.2))
def test_with_a_cluster_size_of_one_no_face_is_unassigned(seed, min_samples, noise):
    random = np.random.default_rng(seed)
    vectors = faces(random, n_people=5, n_each=3, n_singletons=10, noise=noise, n_dimensions=8)
    vectors = np.concatenate([vectors, vectors[:4]])
    labels = labels_of(vectors, min_cluster_size=1, min_samples=min_samples)
    assert sorted(set(labels)) == list(range(max(labels) + 1))
    # Other labels are those of a larger cluster size.
    pairs = labels_of(vectors, min_cluster_size=2, min_samples=min_samples)
    sizes = np.bincount(labels)[labels]
    assert renamed(np.where(sizes > 1, labels, NOISE)) == renamed(pairs)


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("chance_neighbors", [0, 0.5])
def test_very_few_faces_are_not_an_error(n, chance_neighbors):
    vectors = at_angles([0, 1.2])[:n]
    found = group(vectors, chance_neighbors=chance_neighbors)
    assert found.labels.labels.tolist() == [NOISE] * n
    assert len(found.repeated) == n
    options = {"min_cluster_size": 1, "chance_neighbors": chance_neighbors}
    assert labels_of(vectors, **options) == list(range(n))


@pytest.mark.parametrize("kind", [np.int8, np.float16, np.float32, np.float64])
def test_only_directions_matter(kind):
    random = np.random.default_rng(0)
    vectors = faces(random, n_people=10, n_each=5, n_singletons=10)
    lengths = random.uniform(60, 120, (len(vectors), 1))
    assert renamed(labels_of((vectors * lengths).astype(kind))) == renamed(labels_of(vectors))


# ---- two faces in one photo ----


def test_similar_faces_in_one_photo_are_two_people():
    vectors = at_angles([0, 0.7])
    assert labels_of(vectors, [0, 1]) == [0, 0]
    assert labels_of(vectors, [0, 0]) == [NOISE, NOISE]
    assert labels_of(vectors, [0, 0], ignore_photos=True) == [0, 0]


def test_similar_people_with_photos_in_common_are_two_people():
    # All faces are within min_distance of each other; faces of different people are farther apart.
    random = np.random.default_rng(0)
    vectors = at_angles([*random.uniform(-0.32, -0.31, 8), *random.uniform(0.31, 0.32, 8)])
    photos = np.array([*range(8), *range(8)])
    assert renamed(labels_of(vectors)) == [0] * 16
    for _ in range(5):
        order = random.permutation(16)
        labels = np.empty(16, np.int64)
        labels[order] = labels_of(vectors[order], photos[order])
        assert renamed(labels) == [0] * 8 + [1] * 8
    assert renamed(labels_of(vectors, photos, ignore_photos=True)) == [0] * 16


def test_a_face_twice_in_a_photo_is_one_person():
    vectors = np.concatenate([at_angles([0, 0.3]), at_angles([0, 0.7], plane=1)])
    found = group(vectors, [0, 0, 1, 1])
    assert renamed(found.labels.labels) == [0, 0, NOISE, NOISE]
    assert found.repeated.tolist() == [True, True, False, False]
    copies = np.repeat(at_angles([0]), 2, axis=0)
    assert labels_of(copies, [0, 0]) == [0, 0]


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(2, 18), st.integers(2, 9), st.floats(0, 0.9))
def test_no_person_is_in_a_photo_twice_unless_the_face_is_repeated(seed, n, n_photos, noise):
    # With so few faces, one photo in common always exceeds the tolerance.
    random = np.random.default_rng(seed)
    vectors = faces(random, 1, n, noise=0.3 + noise, n_dimensions=6)
    photos = random.integers(0, n_photos, n)
    found = group(vectors, photos)
    seen = np.stack([found.labels.labels, photos])[
        :, (found.labels.labels != NOISE) & ~found.repeated
    ]
    assert len(np.unique(seen, axis=1).T) == len(seen.T)


# ---- large collections ----


def test_approximate_search_finds_the_people_of_exact_search(monkeypatch):
    random = np.random.default_rng(0)
    vectors = faces(random, n_people=150, n_each=6, n_singletons=300, noise=0.6, n_dimensions=64)
    exact = group(vectors)
    assert exact.diagnostics["recall"] == 1
    assert exact.labels.labels.max() + 1 == 150
    monkeypatch.setattr(f"{GROUP_FACES}.EXACT_UP_TO", 100)
    some = group(vectors, probes=8)
    assert 0.95 < some.diagnostics["recall"] <= 1
    assert renamed(some.labels.labels) == renamed(exact.labels.labels)
    every = group(vectors, probes=0)
    assert every.diagnostics["recall"] == 1
    assert renamed(every.labels.labels) == renamed(exact.labels.labels)
    # With one probe some neighbors are missed, and the recall is reported.
    few = group(vectors, probes=1, max_distance=1.2, merge_distance=0)
    assert few.diagnostics["recall"] < 0.9


def test_more_faces_make_the_distances_smaller():
    sample = faces(np.random.default_rng(0), n_people=0, n_each=0, n_singletons=500,
                   n_dimensions=64)  # fmt: skip
    options = ClusterOptions(max_distance=1.2, chance_neighbors=0.5, merge_distance=1.15)
    found = [choose_distance_limits(sample, n, options) for n in (10, 1000, 10**6, 10**9)]
    assert found[0].max_distance == 1.2
    assert found[0].merge_distance == 1.15
    most = [distances.max_distance for distances in found]
    assert most == sorted(set(most), reverse=True)
    assert found[-1].merge_distance == found[-1].max_distance < 1
    unbounded = ClusterOptions(max_distance=1.2, chance_neighbors=0)
    assert choose_distance_limits(sample, 10**9, unbounded).max_distance == 1.2


@pytest.mark.parametrize("dimensions", [16, 512])
def test_no_faces_give_no_labels(dimensions):
    found = group_faces(np.empty((0, dimensions)), np.empty(0, np.int64), ClusterOptions())
    assert len(found.labels.labels) == 0
    assert found.diagnostics["recall"] == 1


def test_labels_do_not_depend_on_the_number_of_edges_per_step(monkeypatch):
    random = np.random.default_rng(0)
    centers = np.repeat(random.normal(size=(40, 16)), 5, axis=0)
    vectors = random.permutation(centers + 0.2 * random.normal(size=centers.shape))
    expected = group_faces(vectors, np.arange(200), ClusterOptions()).labels.labels
    monkeypatch.setattr(f"{GROUP_FACES}.EDGES_PER_STEP", 7)
    found = group_faces(vectors, np.arange(200), ClusterOptions()).labels.labels
    assert expected.max() > 20
    assert np.array_equal(found, expected)
