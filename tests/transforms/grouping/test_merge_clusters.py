import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from facecluster.transforms.grouping.cannot_links import NO_PHOTO, TOLERANCE
from facecluster.transforms.grouping.hdbscan_labels import NOISE, Labels
from facecluster.transforms.grouping.merge_clusters import FRACTION_BETWEEN_MEANS, merge_clusters
from facecluster.transforms.grouping.spanning_forest import Edges
from facecluster.transforms.tables.codec import unit_rows


def join(labels, vectors, edges, photos=None, max_distance=0.9, min_cluster_size=2, at_once=10**6):
    """Merges faces of probability 0.5, along edges (i, j) or (i, j, weight)."""
    labels = np.array(labels, int)
    n = len(labels)
    ends = np.array([edge[:2] for edge in edges], int).reshape(-1, 2)
    weight = np.array([edge[2] if len(edge) > 2 else 0.8 for edge in edges])

    def embeddings():
        for start in range(0, n, at_once):
            faces = slice(start, start + at_once)
            yield faces, vectors[faces]

    return merge_clusters(
        Labels(labels, np.where(labels == NOISE, 0, 0.5)),
        embeddings,
        Edges(ends[:, 0], ends[:, 1], weight),
        np.full(n, NO_PHOTO) if photos is None else np.array(photos),
        max_distance,
        min_cluster_size,
    )


def renamed(labels):
    """Renumbers clusters by first appearance, so that equal groupings are equal lists."""
    numbers = {NOISE: NOISE}
    return [numbers.setdefault(label, len(numbers) - 1) for label in np.asarray(labels).tolist()]


def apart(*distances_from_the_first):
    """Unit vectors in a plane, at these distances from its first axis."""
    angles = 2 * np.arcsin(np.array(distances_from_the_first) / 2)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


# ---- against plain Python ----


def expected_groups(labels, vectors, edges, photos, max_distance):
    """The groups as sets, in plain Python; rejects examples that depend on rounding."""
    groups = {}
    for face, label in enumerate(labels):
        groups.setdefault((0, label) if label != NOISE else (1, face), set()).add(face)
    groups = [groups[key] for key in sorted(groups)]

    def group_of(face):
        return next(k for k, group in enumerate(groups) if face in group)

    def nearness(a, b):
        means = [vectors[sorted(groups[k])].astype(np.float64).sum(axis=0) for k in (a, b)]
        distance = np.linalg.norm(np.subtract(*(mean / np.linalg.norm(mean) for mean in means)))
        singles = (1 / len(groups[a]) + 1 / len(groups[b])) / 2
        return distance / (
            max_distance * (FRACTION_BETWEEN_MEANS + (1 - FRACTION_BETWEEN_MEANS) * singles) ** 0.5
        )

    def may_meet(a, b):
        in_a, in_b = ({photos[f] for f in groups[k]} - {NO_PHOTO} for k in (a, b))
        return len(in_a & in_b) <= TOLERANCE * min(len(groups[a]), len(groups[b]))

    while True:
        pairs = {tuple(sorted((group_of(i), group_of(j)))) for i, j, _ in edges}
        near = sorted((nearness(a, b), a, b) for a, b in pairs if a != b)
        values = [value for value, *_ in near] + [1]
        assume(np.diff(np.sort(values)).min(initial=1) > 1e-5)
        near = [(a, b) for value, a, b in near if value < 1 and may_meet(a, b)]
        best = {}
        for pair in near:
            for end in pair:
                best.setdefault(end, pair)
        joining = [pair for pair in near if best[pair[0]] == best[pair[1]] == pair]
        if not joining:
            return groups
        for a, b in joining:
            groups[a] |= groups[b]
            groups[b] = set()


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 45),
    n_labels=st.integers(1, 6),
    max_distance=st.sampled_from([0.5, 0.9, 1.2]),
    min_cluster_size=st.integers(1, 5),
    at_once=st.integers(1, 50),
)
def test_mutually_nearest_groups_are_merged_in_rounds(
    seed, n, n_labels, max_distance, min_cluster_size, at_once
):
    random = np.random.default_rng(seed)
    people = random.normal(size=(3, 8))
    vectors = unit_rows(people[random.integers(0, 3, n)] + random.normal(size=(n, 8)) * 0.7)
    labels = random.integers(NOISE, n_labels, n)
    labels[labels != NOISE] = np.unique(labels[labels != NOISE], return_inverse=True)[1]
    photos = np.where(random.random(n) < 0.6, NO_PHOTO, random.integers(0, 20, n))
    edges = [(int(random.integers(0, j)), j, float(random.uniform(0.3, 1.3))) for j in range(1, n)]
    edges = [edge for edge in edges if random.random() < 0.9]
    joined = join(labels, vectors, edges, photos, max_distance, min_cluster_size, at_once)

    expected, probabilities = np.full(n, NOISE), np.zeros(n)
    for k, group in enumerate(expected_groups(labels, vectors, edges, photos, max_distance)):
        if len(group) < max(min_cluster_size, 2):
            continue
        for face in group:
            expected[face] = k
            inside = [w for i, j, w in edges if face in (i, j) and {i, j} <= group]
            left = 1 - min([*inside, max_distance]) / max_distance
            probabilities[face] = left if labels[face] == NOISE else 0.5
    assert renamed(joined.labels) == renamed(expected)
    assert set(joined.labels) - {NOISE} == set(range(joined.labels.max() + 1))
    assert joined.probabilities == pytest.approx(probabilities)


# ---- single rules ----


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 2), (1, 30), (30, 30)])
def test_the_distance_at_which_groups_merge(a, b):
    limit = 0.9 * np.sqrt(0.75 + 0.25 * (1 / a + 1 / b) / 2)
    labels = [0 if a > 1 else NOISE] * a + [int(a > 1) if b > 1 else NOISE] * b
    for distance, is_merged in [(limit - 1e-4, True), (limit + 1e-4, False)]:
        vectors = apart(*[0] * a, *[distance] * b)
        joined = join(labels, vectors, [(0, a)])
        assert (joined.labels[0] == joined.labels[-1] != NOISE) == is_merged


def test_only_groups_connected_by_an_edge_are_merged():
    vectors = apart(0, 0.1, 0.2)
    assert join([NOISE] * 3, vectors, [(0, 1)]).labels.tolist() == [0, 0, NOISE]
    assert join([NOISE] * 3, vectors, []).labels.tolist() == [NOISE] * 3


def test_a_distance_of_zero_merges_nothing():
    labels = [1, 1, NOISE, 0, 0, NOISE]
    vectors = apart(*[0] * 6)
    edges = [(i, i + 1) for i in range(5)]
    same = join(labels, vectors, edges, max_distance=0)
    assert same.labels.tolist() == labels
    assert same.probabilities.tolist() == [0.5, 0.5, 0, 0.5, 0.5, 0]
    assert join(labels, vectors, edges).labels.tolist() == [0] * 6


def test_people_with_photos_in_common_are_not_merged():
    labels, vectors, edges = [0, 0, 1, 1], apart(0, 0, 0.3, 0.3), [(1, 2)]
    assert renamed(join(labels, vectors, edges, [7, 8, 9, 10]).labels) == [0, 0, 0, 0]
    assert renamed(join(labels, vectors, edges, [7, 8, 9, 8]).labels) == [0, 0, 1, 1]
    # One photo in ten faces is within the tolerance.
    labels, photos = [0] * 10 + [1] * 10, [*range(10), 0, *range(10, 19)]
    joined = join(labels, apart(*[0] * 10, *[0.3] * 10), [(1, 12)], photos)
    assert joined.labels.tolist() == [0] * 20


def test_a_cannot_link_does_not_block_other_merges():
    # 1 is nearest to 0, but they are in one photo; 2 is the next nearest.
    vectors = apart(0, 0.1, 0.4)
    joined = join([NOISE] * 3, vectors, [(0, 1), (1, 2)], [5, 5, NO_PHOTO])
    assert joined.labels.tolist() == [NOISE, 0, 0]


def test_the_probability_of_a_merged_noise_face():
    joined = join([0, 0, NOISE, NOISE], apart(0, 0, 0.3, 0.35),
                  [(0, 1, 0.2), (1, 2, 0.6), (2, 3, 0.45)])  # fmt: skip
    assert joined.labels.tolist() == [0, 0, 0, 0]
    assert joined.probabilities == pytest.approx([0.5, 0.5, 0.5, 0.5])
    joined = join([0, 0, NOISE], apart(0, 0, 0.3), [(1, 2, 0.75)])
    assert joined.probabilities == pytest.approx([0.5, 0.5, 1 - 0.75 / 0.9])


def test_groups_below_min_cluster_size_are_noise():
    vectors = apart(0, 0, 0.3, 1.5, 1.5)
    for least, expected in [(2, [0, 0, 0, 1, 1]), (3, [0, 0, 0, -1, -1]), (4, [-1] * 5)]:
        joined = join([0, 0, NOISE, 1, 1], vectors, [(1, 2)], min_cluster_size=least)
        assert joined.labels.tolist() == expected
        assert np.array_equal(joined.probabilities > 0, joined.labels != NOISE)


@pytest.mark.parametrize("n", [0, 1])
def test_one_face_or_none_is_not_merged(n):
    assert join([NOISE] * n, np.ones((n, 4), np.float32), []).labels.tolist() == [NOISE] * n


def test_a_chain_of_a_thousand_pairs():
    # Pairs of faces along a line; each round halves the number of groups.
    vectors = apart(*np.repeat(np.linspace(0, 0.2, 1000), 2))
    labels = np.repeat(np.arange(1000), 2)
    edges = [(2 * k + 1, 2 * k + 2) for k in range(999)]
    assert np.all(join(labels, vectors, edges).labels == 0)


def test_the_length_of_stored_vectors_does_not_matter():
    random = np.random.default_rng(0)
    vectors = unit_rows(np.repeat(random.normal(size=(10, 16)), 4, axis=0)
                        + 0.5 * random.normal(size=(40, 16)))  # fmt: skip
    labels, edges = np.repeat(np.arange(20), 2), [(i, i + 1) for i in range(39)]
    expected = join(labels, vectors, edges).labels
    assert 5 < expected.max() < 15
    for stored in (vectors * random.uniform(1, 50, (40, 1)).astype("f"), vectors.astype("f2")):
        assert np.array_equal(join(labels, stored, edges).labels, expected)
