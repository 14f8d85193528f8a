import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from facecluster.transforms.grouping.cannot_links import (
    COLLAGE_PAIRS,
    COLLAGE_PROBABILITY,
    SAME_FACE_PROBABILITY,
    TOLERANCE,
    CannotLinks,
    apply_cannot_links,
    count_common_photos,
    find_cannot_links,
)
from facecluster.transforms.grouping.spanning_forest import Edges
from facecluster.transforms.similarity.impostors import Impostors
from facecluster.transforms.tables.codec import unit_rows

# ---- finding cannot-links ----

IMPOSTORS = Impostors(0.0, 0.1)
NO_PHOTO = -1
SAME_FACE = IMPOSTORS.similarity_at(SAME_FACE_PROBABILITY)  # about 0.57
SAME_PERSON = IMPOSTORS.similarity_at(COLLAGE_PROBABILITY)  # about 0.41


def at(*cosines):
    """Unit vectors in a plane, with these cosines to its first axis."""
    cosines = np.array(cosines)
    return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)


def find(photos, vectors, scores=None):
    scores = np.zeros(len(vectors), np.float32) if scores is None else np.array(scores, "f")
    return find_cannot_links(np.array(photos), vectors, scores, IMPOSTORS)


def photos_of(links):
    """The photo of each face that has cannot-links, NO_PHOTO for the others."""
    photos = np.full(len(links.repeated), NO_PHOTO)
    photos[links.faces] = links.photos
    return photos


def apply(forest, photos):
    """Applies cannot-links, given each face's photo or NO_PHOTO."""
    linked, n = np.flatnonzero(photos != NO_PHOTO), len(photos)
    links = CannotLinks(linked, photos[linked], np.zeros(n, bool), np.arange(n), linked[:0])
    return apply_cannot_links(forest, n, links)


def test_a_face_alone_in_its_photo_has_no_cannot_link():
    found = find([4, 7, 4, 2], at(1, 1, 0.2, 1))
    assert photos_of(found).tolist() == [4, NO_PHOTO, 4, NO_PHOTO]
    assert found.repeated.tolist() == [False] * 4
    assert found.collages.tolist() == []


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_of_a_repeated_face_only_the_first_has_cannot_links(kind):
    # 0 and 2 are one face twice in a photo, 1 is another person in it.
    found = find([5, 5, 5], (100 * at(1, 0.1, 0.9)).astype(kind))
    assert photos_of(found).tolist() == [5, 5, NO_PHOTO]
    assert found.repeated.tolist() == [True, False, True]


@pytest.mark.parametrize("similarity", [SAME_FACE - 1e-3, SAME_FACE + 1e-3])
@pytest.mark.parametrize("scores", [[0, 0], [0.3, 0.1], [-0.2, 0]])
def test_the_similarity_at_which_two_faces_in_a_photo_are_one(similarity, scores):
    found = find([0, 0], at(1, similarity + np.mean(scores)), scores)
    same = similarity > SAME_FACE
    assert found.repeated.tolist() == [same, same]
    assert photos_of(found).tolist() == [0, NO_PHOTO if same else 0]


@given(st.integers(0, 2**32 - 1), st.integers(0, 25))
def test_cannot_links_are_those_of_the_definition(seed, n):
    random = np.random.default_rng(seed)
    photos = random.integers(0, 8, n)
    vectors = unit_rows(np.eye(4)[random.integers(0, 4, n)] + random.normal(size=(n, 4)) * 0.4)
    scores = random.normal(size=n).astype(np.float32) * 0.1
    similar = vectors @ vectors.T - (scores[:, None] + scores) / 2
    assume(not np.isclose(similar, SAME_FACE, atol=1e-4).any())
    assume(not np.isclose(similar, SAME_PERSON, atol=1e-4).any())
    found = find(photos, vectors, scores)
    collages = []
    for photo in set(photos.tolist()):
        theirs = np.flatnonzero(photos == photo)
        pairs = [(i, j) for i in theirs for j in theirs if i < j]
        alike = sum(similar[pair] > SAME_PERSON for pair in pairs)
        is_collage = alike >= max(COLLAGE_PAIRS, len(theirs) / 2)
        collages += [photo] * int(is_collage)
        for face in theirs:
            others = [i for i in theirs if i != face]
            assert found.repeated[face] == any(similar[face, i] > SAME_FACE for i in others)
            repeats = any(similar[face, i] > SAME_FACE for i in others if i < face)
            free = is_collage or not others or repeats
            assert photos_of(found)[face] == (NO_PHOTO if free else photo)
            if is_collage or not repeats:
                assert found.appearances[face] == face
            else:
                first = next(i for i in others if similar[face, i] > SAME_FACE)
                assert found.appearances[face] == found.appearances[first]
    assert found.collages.tolist() == sorted(collages)


def test_a_photo_of_many_similar_faces_is_a_collage():
    # Three people, each twice, similar but not the same face; or twice one and four others.
    similar = [0.5, np.sqrt(0.75)]
    collage, family = np.zeros((6, 12), "f"), np.eye(6, 12, dtype="f")
    for person in range(3):
        collage[2 * person, person] = 1
        collage[2 * person + 1, [person, 6 + person]] = similar
    family[1, :2] = similar
    found = find([1] * 6 + [2] * 6, np.concatenate([collage, family]))
    assert photos_of(found).tolist() == [NO_PHOTO] * 6 + [2] * 6
    assert found.collages.tolist() == [1]
    assert not found.repeated.any()


# ---- shots ----


def test_frames_of_a_burst_are_one_photo():
    # Two people in three frames of a burst (photos 1 to 3), with a third in the last; and again,
    # without being of the burst, in photo 4. Shots 0, 1 and 6.
    photos = np.array([1, 1, 2, 2, 3, 3, 3, 4, 4])
    shots = np.array([0, 1, 0, 1, 0, 1, 6, 7, 8])
    links = CannotLinks(np.arange(9), photos, np.zeros(9, bool), np.arange(9), photos[:0])
    found = links.of_shots(shots)
    assert found.faces.tolist() == [0, 1, 0, 1, 6, 7, 8]
    assert found.photos.tolist() == [1, 1, 3, 3, 3, 4, 4]
    assert links.of_shots(np.arange(9)) is links


def test_one_face_twice_in_the_photos_of_a_shot_has_no_link_with_itself():
    links = CannotLinks(np.arange(4), np.array([5, 5, 6, 6]), np.zeros(4, bool), np.arange(4),
                        np.empty(0, int))  # fmt: skip
    found = links.of_shots(np.zeros(4, int))
    assert set(found.faces.tolist()) <= {0}


# ---- applying cannot-links to a forest ----


def kruskal(forest, photos):
    """The edges that are kept, in plain Python."""
    group = [{face} for face in range(len(photos))]
    kept = set()
    for edge in sorted(range(len(forest.i)), key=lambda edge: (forest.weight[edge], edge)):
        a, b = group[forest.i[edge]], group[forest.j[edge]]
        in_a, in_b = ({photos[f] for f in g if photos[f] != NO_PHOTO} for g in (a, b))
        if len(in_a & in_b) <= TOLERANCE * min(len(a), len(b)):
            kept.add(edge)
            for face in a | b:
                group[face] = a | b
    return kept


def random_forest(random, n, weights):
    """A random forest over n faces, edges in any order and direction."""
    names = random.permutation(n)
    child = np.flatnonzero((np.arange(n) > 0) & (random.random(n) < 0.9))
    ends = np.stack([names[child], names[random.integers(0, np.maximum(child, 1))]])
    ends = np.take_along_axis(ends, random.integers(0, 2, (1, len(child))) ^ [[0], [1]], axis=0)
    ends = ends[:, random.permutation(len(child))]
    return Edges(ends[0], ends[1], random.choice(weights, len(child)))


def rows_of(edges):
    return list(zip(edges.i.tolist(), edges.j.tolist(), edges.weight.tolist(), strict=True))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 60))
def test_edges_are_taken_in_the_order_of_their_weights(seed, n, n_photos):
    random = np.random.default_rng(seed)
    # Few weights make many ties, which are taken in the order of the edges.
    weights = random.uniform(0.6, 0.9, random.choice([2, 100]))
    forest = random_forest(random, n, weights)
    photos = np.where(random.random(n) < 0.3, NO_PHOTO, random.integers(0, n_photos, n))
    kept, dropped = apply(forest, photos)
    expected, rows = kruskal(forest, photos.tolist()), rows_of(forest)
    assert rows_of(kept) == [row for e, row in enumerate(rows) if e in expected]
    assert rows_of(dropped) == [row for e, row in enumerate(rows) if e not in expected]


def test_two_faces_in_a_photo_are_separated_at_the_longest_edge_between_them():
    # A chain 0 - 1 - 2 - 3; 0 and 3 are in one photo.
    forest = Edges(np.arange(3), np.arange(1, 4), np.array([0.65, 0.8, 0.7]))
    kept, _ = apply(forest, np.array([9, NO_PHOTO, NO_PHOTO, 9]))
    assert rows_of(kept) == [(0, 1, 0.65), (2, 3, 0.7)]
    assert apply(forest, np.array([9, NO_PHOTO, NO_PHOTO, 8]))[0] is forest


@pytest.mark.parametrize(("n", "common", "joined"), [
    (9, 1, False), (10, 1, True), (19, 2, False), (20, 2, True), (29, 3, False), (30, 3, True),
    (70, 7, True), (70, 8, False),
])  # fmt: skip
def test_large_groups_may_have_a_tenth_of_their_photos_in_common(n, common, joined):
    # Two chains of faces, the second of 100; the edge between them is the longest.
    chain = np.concatenate([np.arange(n - 1), n + np.arange(99), [0]])
    to = np.concatenate([np.arange(n - 1) + 1, n + np.arange(99) + 1, [n]])
    weight = np.concatenate([np.full(n + 98, 0.65), [0.8]])
    photos = np.full(n + 100, NO_PHOTO)
    photos[:common] = photos[n : n + common] = np.arange(common)
    kept, _ = apply(Edges(chain, to, weight), photos)
    assert len(kept.i) == n + 98 + joined


def test_without_edges_or_photos_nothing_changes():
    nothing = Edges(np.empty(0, int), np.empty(0, int), np.empty(0))
    for n in (0, 1, 3):
        assert rows_of(apply(nothing, np.zeros(n, int))[0]) == []
    pair = Edges(np.array([0]), np.array([1]), np.array([0.7]))
    assert rows_of(apply(pair, np.full(2, NO_PHOTO))[0]) == [(0, 1, 0.7)]


# ---- photos in common ----


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 6), st.integers(0, 12))
def test_common_photos_are_counted_as_with_sets(seed, n, n_labels, n_pairs):
    random = np.random.default_rng(seed)
    labels = random.integers(0, n_labels, n)
    labels[-1:] = n_labels - 1  # the last label has a face
    photos = random.integers(0, 10, n)
    a, b = random.integers(0, n_labels if n else 1, (2, n_pairs))
    held = [set(photos[labels == label]) for label in range(n_labels)]
    common = count_common_photos(labels, photos, a, b)
    assert common.tolist() == [len(held[i] & held[j]) for i, j in zip(a, b, strict=True)]
