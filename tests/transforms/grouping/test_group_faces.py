"""Grouping in memory: on synthetic people, with photos and with equal vectors."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from facecluster.transforms.grouping.group_faces import group_faces
from facecluster.transforms.grouping.hdbscan_labels import NOISE
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.similarity.cohort import Cohort, nearest_means

GROUP_FACES = "facecluster.transforms.grouping.group_faces"
SEEDS = st.integers(0, 2**32 - 1)
D = 128


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def faces(random, sizes, noise=0.8):
    """(vectors, names): people in random directions, their faces at `noise` from these.

    Two faces of a person are about noise sqrt(2) / sqrt(1 + noise^2) apart: 0.88 by default.
    """
    names = np.repeat(np.arange(len(sizes)), sizes)
    directions = unit(random.normal(size=(len(sizes), D)))
    return unit(directions[names] + noise * unit(random.normal(size=(len(names), D)))), names


def near(random, vectors, distance):
    """Vectors at a distance from others."""
    return unit(vectors + distance * unit(random.normal(size=vectors.shape)))


def group(stored, photos=None, cohort=None, **options):
    """Groups faces; without photos, each face is in a photo of its own."""
    photos = np.arange(len(stored)) if photos is None else np.array(photos, np.int64)
    return group_faces(stored, photos, ClusterOptions(**options), cohort)


def labels_of(stored, photos=None, **options):
    return group(stored, photos, **options).labels.labels


def renamed(labels):
    """Renumbers clusters by first appearance, so that equal groupings are equal lists."""
    numbers = {NOISE: NOISE}
    return [numbers.setdefault(label, len(numbers) - 1) for label in np.asarray(labels).tolist()]


def people_of(names):
    """The labels of a perfect grouping: people with one face are unassigned."""
    return np.where(np.bincount(names)[names] > 1, names, NOISE)


def pair_scores(labels, names):
    """Precision and recall of the pairs of faces with one label."""
    upper = np.triu_indices(len(names), 1)
    together = ((labels[:, None] == labels) & (labels != NOISE))[upper]
    same = (names[:, None] == names)[upper]
    return (together & same).sum() / together.sum(), (together & same).sum() / same.sum()


# ---- people ----


@pytest.mark.parametrize("noise", [0.6, 0.8, 0.9])
def test_people_are_found_with_the_default_options(noise):
    vectors, names = faces(np.random.default_rng(0), [5] * 40 + [1] * 30, noise)
    found = group(vectors)
    assert renamed(found.labels.labels) == renamed(people_of(names))
    assert found.diagnostics["recall"] == 1
    assert found.diagnostics["singles"] < 0.4


@pytest.mark.parametrize("noise", [1.0, 1.2])
def test_people_of_varied_photos_are_mostly_right(noise):
    vectors, names = faces(np.random.default_rng(0), [10] * 40 + [1] * 100, noise)
    precision, recall = pair_scores(labels_of(vectors), names)
    assert precision > 0.97
    assert recall > 0.9


def test_faces_that_have_something_in_common_are_told_apart():
    """Photos of one camera, or of poor quality: every cosine is larger."""
    vectors, names = faces(np.random.default_rng(0), [5] * 40 + [1] * 30)
    shifted = unit(vectors + 0.8 * np.eye(D)[0])
    assert np.median(shifted @ shifted.T) > 0.3
    assert renamed(labels_of(shifted)) == renamed(people_of(names))


def test_with_a_cohort_people_are_found_and_few_people_are_not_torn_apart():
    random = np.random.default_rng(0)
    members, _ = faces(random, [1] * 500)
    level = float(nearest_means(faces(random, [1] * 500)[0], members).mean())
    cohort = Cohort(members, level, same_person=0.6)
    vectors, names = faces(random, [5] * 40 + [1] * 30)
    found = group(vectors, cohort=cohort)
    assert renamed(found.labels.labels) == renamed(people_of(names))
    assert found.diagnostics["cohort"]
    assert not found.diagnostics["few_people"]
    for sizes in ([30], [20, 20]):
        vectors, names = faces(random, sizes)
        found = group(vectors, cohort=cohort)
        assert renamed(found.labels.labels) == names.tolist()
    assert group(faces(random, [30])[0], cohort=cohort).diagnostics["few_people"]


def test_a_smaller_share_of_wrong_faces_splits_more():
    vectors, names = faces(np.random.default_rng(0), [6] * 60 + [1] * 60, noise=1.2)
    scores = [
        pair_scores(labels_of(vectors, wrong_share=share), names) for share in (0.5, 0.05, 0.002)
    ]
    recalls = [recall for _, recall in scores]
    assert recalls == sorted(recalls, reverse=True)
    assert recalls[0] > recalls[-1]
    assert scores[-1][0] >= scores[0][0]


# ---- any order and type of vectors ----


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.integers(1, 4), st.floats(0.6, 0.9), st.booleans())
def test_labels_do_not_depend_on_the_order(seed, min_cluster_size, noise, ignoring):
    random = np.random.default_rng(seed)
    vectors, _ = faces(random, [6] * 20 + [1] * 20, noise)
    # Group photos in which each person appears once.
    photos = np.array(
        [*np.concatenate([random.permutation(9)[:6] for _ in range(20)]), *range(100, 120)]
    )
    options = {"min_cluster_size": min_cluster_size, "ignore_photos": ignoring}
    before = group(vectors, photos, **options)
    assume(not before.repeated.any())  # of a repeated face, only the first has cannot-links
    order = random.permutation(len(vectors))
    after = group(vectors[order], photos[order], **options)
    assert renamed(after.labels.labels) == renamed(before.labels.labels[order])
    assert after.labels.probabilities == pytest.approx(before.labels.probabilities[order], abs=0.02)


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.integers(1, 3), st.integers(1, 40))
def test_equal_vectors_get_one_label_and_change_nothing_else(seed, min_cluster_size, n_repeated):
    random = np.random.default_rng(seed)
    vectors, _ = faces(random, [4] * 30 + [1] * 30)
    n, repeated_of = len(vectors), random.integers(0, len(vectors), n_repeated)
    before = group(vectors, min_cluster_size=min_cluster_size)
    after = group(
        np.concatenate([vectors, vectors[repeated_of]]), min_cluster_size=min_cluster_size
    )
    assert np.array_equal(after.labels.labels[:n], before.labels.labels)
    assert np.array_equal(after.labels.labels[n:], after.labels.labels[repeated_of])
    assert np.array_equal(after.labels.probabilities[:n], before.labels.probabilities)
    assert np.array_equal(after.n_photos, before.n_photos)


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.floats(0.5, 1.5))
def test_with_a_cluster_size_of_one_no_face_is_unassigned(seed, noise):
    random = np.random.default_rng(seed)
    vectors, _ = faces(random, [3] * 15 + [1] * 15, noise)
    vectors = np.concatenate([vectors, vectors[:4]])
    labels = labels_of(vectors, min_cluster_size=1)
    assert sorted(set(labels.tolist())) == list(range(labels.max() + 1))
    # Other labels are those of a larger cluster size.
    pairs = labels_of(vectors, min_cluster_size=2)
    assert renamed(np.where(pairs == NOISE, NOISE, labels)) == renamed(pairs)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_very_few_faces_are_not_an_error(n):
    vectors = np.eye(6, dtype=np.float32)[:n]
    found = group(vectors)
    assert found.labels.labels.tolist() == [NOISE] * n
    assert found.labels.probabilities.tolist() == [0] * n
    assert len(found.repeated) == n
    assert found.diagnostics["recall"] == 1
    assert labels_of(vectors, min_cluster_size=1).tolist() == list(range(n))


@pytest.mark.parametrize("dimensions", [16, 512])
def test_no_faces_give_no_labels(dimensions):
    found = group(np.empty((0, dimensions)))
    assert len(found.labels.labels) == 0


@pytest.mark.parametrize("kind", [np.int8, np.float16, np.float32, np.float64])
def test_only_directions_matter(kind):
    random = np.random.default_rng(0)
    vectors, names = faces(random, [5] * 20 + [1] * 20)
    lengths = random.uniform(200, 300, (len(vectors), 1)) / np.abs(vectors).max() / 3
    found = labels_of((vectors * lengths).astype(kind))
    assert renamed(found) == renamed(people_of(names))


# ---- damaged vectors ----


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 0.0]), min_size=1, max_size=9),
       st.integers(1, 2))  # fmt: skip
def test_a_damaged_vector_is_noise_and_changes_nothing_else(seed, values, min_cluster_size):
    random = np.random.default_rng(seed)
    vectors, _ = faces(random, [4] * 15 + [1] * 15)
    photos = random.integers(0, 60, len(vectors))
    expected = group(vectors, photos, min_cluster_size=min_cluster_size)
    damaged = np.repeat(np.array(values, np.float32)[:, None], D, axis=1)
    damaged[:, 1:] *= random.random((len(values), 1)) < 0.5  # in one place, or in all
    places = random.integers(0, len(vectors), len(values))
    stored, photos = np.insert(vectors, places, damaged, axis=0), np.insert(photos, places, 7)
    usable = np.isfinite(stored).all(axis=1) & (stored != 0).any(axis=1)
    found = group(stored, photos, min_cluster_size=min_cluster_size)
    assert np.array_equal(found.labels.labels[usable], expected.labels.labels)
    assert np.array_equal(found.labels.probabilities[usable], expected.labels.probabilities)
    assert np.array_equal(found.repeated[usable], expected.repeated)
    assert (found.labels.labels[~usable] == NOISE).all()
    assert (found.labels.probabilities[~usable] == 0).all()


# ---- copies and bursts ----


def test_a_photo_and_its_copies_are_no_person():
    """A thumbnail, a photo saved again: within 0.3 of each other, and near nobody else."""
    random = np.random.default_rng(0)
    vectors, names = faces(random, [5] * 30)
    copies = near(random, np.repeat(faces(random, [1])[0], 4, axis=0), 0.15)
    pairs = np.linalg.norm(copies[:, None] - copies, axis=2)
    assert 0.1 < np.median(pairs[pairs > 0]) < pairs.max() < 0.3
    found = labels_of(np.concatenate([vectors, copies]))
    assert found[-4:].tolist() == [NOISE] * 4
    assert renamed(found[:-4]) == names.tolist()
    # With a cluster size of one they are one person; a second photo makes them one, too.
    assert len(set(labels_of(np.concatenate([vectors, copies]), min_cluster_size=1)[-4:])) == 1
    second = near(random, copies[:1], 0.8)
    labels = labels_of(np.concatenate([vectors, copies, second]))[-5:]
    assert len(set(labels.tolist())) == 1
    assert labels[0] != NOISE


@pytest.mark.parametrize("n_frames", [15, 100])
def test_a_burst_does_not_tear_its_person_apart(n_frames):
    """Fifteen frames of one second, or more than a neighbor list holds, for each of 60 people."""
    random = np.random.default_rng(0)
    vectors, names = faces(random, [6] * 60, noise=0.75)
    burst = near(random, np.repeat(vectors[::6], n_frames - 1, axis=0), 0.12)
    who = np.concatenate([names, np.repeat(np.arange(60), n_frames - 1)])
    order = random.permutation(len(who))
    found = group(np.concatenate([vectors, burst])[order])
    assert renamed(labels_of(vectors)) == names.tolist()
    assert renamed(found.labels.labels) == renamed(who[order])
    assert found.n_photos.tolist() == [6] * 60


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.sampled_from([5, 15, 50, 300]), st.floats(0.7, 1.1), st.integers(1, 3))
def test_a_burst_changes_nobody_else(seed, n_frames, noise, min_cluster_size):
    """If the frames come after their photo, which then stands for the shot."""
    random = np.random.default_rng(seed)
    vectors, _ = faces(random, [6] * 40 + [1] * 40, noise)
    n, face = len(vectors), random.integers(len(vectors))
    burst = near(random, np.repeat(vectors[face : face + 1], n_frames - 1, axis=0), 0.12)
    before = group(vectors, min_cluster_size=min_cluster_size)
    after = group(np.concatenate([vectors, burst]), min_cluster_size=min_cluster_size)
    assert np.array_equal(after.labels.labels[:n], before.labels.labels)
    assert np.array_equal(after.labels.probabilities[:n], before.labels.probabilities)
    assert (after.labels.labels[n:] == before.labels.labels[face]).all()
    assert np.array_equal(after.n_photos, before.n_photos)


@pytest.mark.parametrize("n_frames", [5, 15, 50, 300])
def test_another_frame_may_stand_for_the_shot(n_frames):
    """Then a vector is a little different, and hardly anybody else's group changes."""
    random = np.random.default_rng(0)
    n_changed = 0
    for _ in range(3):
        vectors, names = faces(random, [6] * 40 + [1] * 40, noise=0.9)
        burst = near(random, np.repeat(vectors[:1], n_frames - 1, axis=0), 0.12)
        before = labels_of(vectors)
        after = labels_of(np.concatenate([burst, vectors]))
        assert (after[: n_frames - 1] == after[n_frames - 1]).all()
        after = after[n_frames - 1 :]
        n_changed += sum(
            renamed(before[names == name]) != renamed(after[names == name]) for name in range(80)
        )
    assert n_changed <= 0.05 * 240


@pytest.mark.parametrize("n_copies", [2, 65, 300, 1500])
@pytest.mark.parametrize("kind", ["saved again", "four sizes", "equal"])
def test_copies_of_a_strangers_photo_are_never_a_person(n_copies, kind):
    random = np.random.default_rng(0)
    vectors, names = faces(random, [5] * 30)
    photo, _ = faces(random, [1])
    if kind == "four sizes":  # each of them fills the neighbor lists of its copies
        photo = near(random, np.repeat(photo, 4, axis=0), 0.2)
    copies = np.repeat(photo, n_copies, axis=0)
    if kind != "equal":
        copies = near(random, copies, {"saved again": 0.15, "four sizes": 0.02}[kind])
    stored = np.concatenate([vectors, copies])
    order = random.permutation(len(stored))
    found = np.empty(len(stored), np.int64)
    found[order] = labels_of(stored[order])
    assert renamed(found[:150]) == names.tolist()
    assert (found[150:] == NOISE).all()


def test_many_bursts_do_not_change_what_is_estimated():
    random = np.random.default_rng(0)
    vectors, _ = faces(random, [5] * 40 + [1] * 40)
    burst = near(random, np.repeat(vectors, 9, axis=0), 0.1)
    before, after = group(vectors), group(np.concatenate([vectors, burst]))
    for name in ("singles", "impostor_median", "impostor_width"):
        assert after.diagnostics[name] == before.diagnostics[name]


# ---- near-duplicates ----


def test_faces_in_near_duplicates_are_one_shot():
    """A thumbnail, which embeds differently, of each person's first photo."""
    random = np.random.default_rng(0)
    vectors, names = faces(random, [4] * 30 + [1] * 30)
    first = np.flatnonzero(np.diff(names, prepend=-1))
    thumbnails = near(random, vectors[first], 0.5)  # as far from their photo as 0.45
    stored, photos = np.concatenate([vectors, thumbnails]), np.arange(210)
    originals = np.concatenate([np.arange(150), first])
    apart = group(stored)
    assert np.bincount(apart.n_photos)[[2, 5]].min() > 20  # strangers become people, for example
    found = group_faces(stored, photos, ClusterOptions(), originals=originals)
    assert renamed(found.labels.labels[:150]) == renamed(people_of(names))
    assert found.n_photos.tolist() == [4] * 30
    assert np.array_equal(found.labels.labels[150:], found.labels.labels[first])
    expected = group(vectors)
    assert np.array_equal(found.labels.labels[:150], expected.labels.labels)


def test_similar_people_in_two_near_duplicates_stay_two():
    """Twins in a photo and in its thumbnail."""
    random = np.random.default_rng(0)
    others, names = faces(random, [5] * 30)
    one, difference = faces(random, [1, 1])[0]
    twins = unit(one + 0.68 * np.array([[1], [-1]]) * difference)
    twins = near(random, np.concatenate([twins, twins]), 0.15)
    stored = np.concatenate([others, twins])
    photos = np.concatenate([1000 + np.arange(150), [1, 1, 2, 2]])
    originals = np.where(photos == 2, 1, photos)
    found = group_faces(stored, photos, ClusterOptions(min_cluster_size=1), originals=originals)
    assert renamed(found.labels.labels[150:]) == [0, 1, 0, 1]
    assert renamed(found.labels.labels[:150]) == names.tolist()


# ---- bursts of several people ----


def test_two_people_in_a_burst_are_kept_apart_whichever_frames_stand_for_them():
    random = np.random.default_rng(0)
    others, _ = faces(random, [5] * 30)
    one, difference = faces(random, [1, 1])[0]
    twins = unit(one + 0.65 * np.array([[1], [-1]]) * difference)
    frames = near(random, np.tile(twins, (10, 1)), 0.1)
    vectors = np.concatenate([frames, others])
    photos = np.concatenate([np.arange(10).repeat(2), 1000 + np.arange(150)])
    for _ in range(3):
        order = random.permutation(len(vectors))
        found = group(vectors[order], photos[order], min_cluster_size=1)
        labels = np.empty(len(vectors), np.int64)
        labels[order] = found.labels.labels
        assert renamed(labels[:20]) == [0, 1] * 10
        assert found.diagnostics["kept_apart_by_photos"] == 1
    together = group(vectors, photos, min_cluster_size=1, ignore_photos=True).labels.labels
    assert len(set(together[:20].tolist())) == 1


# ---- several faces in one photo ----


def test_similar_faces_in_one_photo_are_two_people():
    random = np.random.default_rng(0)
    vectors, names = faces(random, [2] + [5] * 30)
    # As similar as two photos of one person, but not as the same face twice.
    vectors[1] = unit(vectors[0] + 2.6 * unit(random.normal(size=D)))
    apart, together = np.arange(len(names)), np.arange(len(names))
    together[1] = together[0]
    first, second = labels_of(vectors, apart)[:2]
    assert first == second != NOISE
    found = group(vectors, together)
    assert found.labels.labels[:2].tolist() == [NOISE, NOISE]
    assert not found.repeated.any()
    assert found.diagnostics["kept_apart_by_photos"] == 1
    found = group(vectors, together, ignore_photos=True)
    first, second = found.labels.labels[:2]
    assert first == second != NOISE
    assert found.diagnostics["kept_apart_by_photos"] == 0


def test_similar_people_with_photos_in_common_are_two_people():
    """Twins: nearer to each other than the photos of others are."""
    random = np.random.default_rng(0)
    others, names = faces(random, [5] * 30)
    one = np.repeat(faces(random, [1])[0], 16, axis=0)
    difference = unit(random.normal(size=(1, D))) * np.repeat([1, -1], 8)[:, None]
    twins = unit(one + 0.55 * difference + 0.5 * unit(random.normal(size=one.shape)))
    vectors = np.concatenate([others, twins])
    photos = np.concatenate([np.arange(len(names)), 1000 + np.tile(np.arange(8), 2)])
    assert renamed(labels_of(vectors, photos, ignore_photos=True)[-16:]) == [0] * 16
    for _ in range(3):
        order = random.permutation(len(vectors))
        labels = np.empty(len(vectors), np.int64)
        labels[order] = labels_of(vectors[order], photos[order])
        assert renamed(labels[-16:]) == [0] * 8 + [1] * 8


def test_a_face_twice_in_a_photo_is_one_person():
    random = np.random.default_rng(0)
    vectors, _ = faces(random, [5] * 30)
    vectors = np.concatenate([vectors, near(random, vectors[:1], 0.2)])  # a mirror
    photos = np.append(np.arange(150), 0)
    found = group(vectors, photos)
    assert found.labels.labels[-1] == found.labels.labels[0] != NOISE
    assert np.flatnonzero(found.repeated).tolist() == [0, 150]
    assert found.n_photos.tolist() == [5] * 30


def test_a_face_twice_in_one_photo_is_no_second_photo():
    random = np.random.default_rng(0)
    others, _ = faces(random, [5] * 30)
    mirror = near(random, np.repeat(faces(random, [1])[0], 2, axis=0), 0.4)
    photos = np.append(np.arange(150), [999, 999])
    found = group(np.concatenate([others, mirror]), photos)
    assert np.flatnonzero(found.repeated).tolist() == [150, 151]
    assert found.labels.labels[150:].tolist() == [NOISE, NOISE]


def test_a_collage_of_four_people_is_four_people():
    random = np.random.default_rng(0)
    vectors, names = faces(random, [6] * 4, noise=0.55)
    found = group(vectors, np.zeros(24))
    assert sorted(np.bincount(found.labels.labels[found.labels.labels >= 0])) == [6, 6, 6, 6]
    assert renamed(found.labels.labels) == names.tolist()
    assert found.diagnostics["collages"] == 1
    assert found.collages.tolist() == [0]


@pytest.mark.parametrize("n_people", [1, 4])
def test_contact_sheets_among_other_photos_are_collages(n_people):
    random = np.random.default_rng(0)
    others, names = faces(random, [5] * 30)
    sheet, shown = faces(random, [24 // n_people] * n_people, noise=0.6)
    vectors = np.concatenate([others, sheet])
    photos = np.concatenate([1000 + np.arange(150), np.full(24, 7)])
    found = group(vectors, photos)
    assert found.collages.tolist() == [7]
    assert sorted(found.n_photos.tolist()) == [1] * n_people + [5] * 30
    assert renamed(found.labels.labels) == np.concatenate([names, 30 + shown]).tolist()


@settings(deadline=None, max_examples=15)
@given(SEEDS, st.integers(2, 60))
def test_a_group_photo_of_strangers_among_other_photos_keeps_them_apart(seed, n):
    random = np.random.default_rng(seed)
    others, _ = faces(random, [5] * 40)
    crowd, _ = faces(random, [1] * n)
    photos = np.concatenate([1000 + np.arange(200), np.full(n, 7)])
    found = group(np.concatenate([others, crowd]), photos)
    assert found.collages.tolist() == []
    in_crowd = found.labels.labels[200:]
    in_crowd = in_crowd[in_crowd != NOISE]
    assert len(set(in_crowd.tolist())) == len(in_crowd)
    assert np.isin(found.labels.labels[:200], in_crowd).mean() < 0.1


def test_a_group_photo_of_strangers_is_nobody():
    vectors, _ = faces(np.random.default_rng(0), [1] * 24)
    found = group(vectors, np.zeros(24))
    assert found.labels.labels.tolist() == [NOISE] * 24
    assert found.diagnostics["collages"] == 0


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(20, 40), st.floats(0.5, 1.2))
def test_no_person_is_in_a_photo_twice_unless_the_face_is_repeated(seed, n_photos, noise):
    # With so few faces of each person, one photo in common always exceeds the tolerance.
    random = np.random.default_rng(seed)
    vectors, names = faces(random, [4] * 30, noise)
    photos = random.integers(0, n_photos, len(names))
    found = group(vectors, photos)
    assume(found.diagnostics["collages"] == 0)
    chosen = (found.labels.labels != NOISE) & ~found.repeated
    seen = np.stack([found.labels.labels, photos])[:, chosen]
    assert len(np.unique(seen, axis=1).T) == len(seen.T)


# ---- large collections ----


def test_approximate_search_finds_the_people_of_exact_search(monkeypatch):
    vectors, names = faces(np.random.default_rng(0), [6] * 150 + [1] * 300, noise=0.7)
    order = np.random.default_rng(1).permutation(len(names))  # the first faces are the sample
    vectors, names = vectors[order], names[order]
    exact = group(vectors)
    assert exact.diagnostics["recall"] == 1
    assert renamed(exact.labels.labels) == renamed(people_of(names))
    monkeypatch.setattr(f"{GROUP_FACES}.EXACT_UP_TO", 100)
    some = group(vectors, probes=8)
    assert 0.9 < some.diagnostics["recall"] < 1
    precision, recall = pair_scores(some.labels.labels, names)
    assert min(precision, recall) > 0.99
    every = group(vectors, probes=0)
    assert every.diagnostics["recall"] == 1
    assert renamed(every.labels.labels) == renamed(exact.labels.labels)
    # With one probe more neighbors are missed, and the recall is reported.
    assert group(vectors, probes=1).diagnostics["recall"] < some.diagnostics["recall"]


def test_labels_do_not_depend_on_the_number_of_entries_per_step(monkeypatch):
    vectors, _ = faces(np.random.default_rng(0), [5] * 40, noise=1.0)
    expected = labels_of(vectors)
    monkeypatch.setattr(f"{GROUP_FACES}.ENTRIES_PER_STEP", 7)
    found = labels_of(vectors)
    assert expected.max() > 20
    assert np.array_equal(found, expected)
