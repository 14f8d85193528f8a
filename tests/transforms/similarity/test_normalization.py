"""What is usual in a collection is subtracted, from each face by itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.transforms.similarity.cohort import Cohort, nearest_means
from facecluster.transforms.similarity.normalization import (
    BATCH_ROWS,
    SAMPLE_FACES,
    TYPICAL_DEVIATIONS,
    fit_normalization,
    similarities,
)
from facecluster.transforms.tables.codec import unit_rows

D = 64


def people(random, n_people, n_each, noise=0.6, common=0.0):
    """Faces of people; a vector of length `common` is added to all."""
    directions = unit_rows(random.normal(size=(n_people, D)).astype(np.float32))
    faces = np.repeat(directions, n_each, axis=0)
    faces = faces + noise * unit_rows(random.normal(size=faces.shape).astype(np.float32))
    return unit_rows(unit_rows(faces) + common * np.eye(D, dtype=np.float32)[0])


def cohort_of(random, n=300, same_person=0.7):
    members = people(random, n, 1)
    level = float(nearest_means(people(random, 500, 1), members).mean())
    return Cohort(members, level, same_person)


COHORT = cohort_of(np.random.default_rng(9))


def all_similarities(normalization, faces):
    vectors, scores = normalization.apply(faces)
    units = unit_rows(vectors)
    return similarities(units @ units.T, scores[:, None], scores)


# ---- the result for a face ----


@pytest.mark.parametrize("cohort", [None, COHORT], ids=["no cohort", "cohort"])
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 3 * BATCH_ROWS))
def test_the_bits_of_a_face_do_not_depend_on_the_others(cohort, seed, n):
    random = np.random.default_rng(seed)
    faces = people(random, 2000, 1)
    normalization = fit_normalization(faces[:300], cohort)
    vectors, scores = normalization.apply(faces)
    assert vectors.dtype == np.float16
    assert scores.dtype == np.float32
    chosen = random.choice(len(faces), n, replace=False)
    again, again_scores = normalization.apply(faces[chosen])
    assert np.array_equal(again, vectors[chosen])
    assert np.array_equal(again_scores, scores[chosen])


@pytest.mark.parametrize("kind", [np.int8, np.float16, np.float32, np.float64])
def test_only_directions_matter(kind):
    random = np.random.default_rng(0)
    faces = people(random, 100, 2)
    longer = (faces * random.uniform(200, 300, (len(faces), 1)) / np.abs(faces).max() / 3).astype(
        kind
    )
    expected = all_similarities(fit_normalization(faces, COHORT), faces)
    found = all_similarities(fit_normalization(longer, COHORT), longer)
    assert found == pytest.approx(expected, abs=0.03 if kind is np.int8 else 0.005)


def test_normalized_vectors_have_length_one():
    faces = people(np.random.default_rng(0), 200, 3, common=1.0)
    vectors, _ = fit_normalization(faces, None).apply(faces)
    assert np.linalg.norm(vectors.astype(float), axis=1) == pytest.approx(1, abs=1e-3)


# ---- what is usual in the collection ----


@pytest.mark.parametrize("cohort", [None, COHORT], ids=["no cohort", "cohort"])
def test_what_all_faces_have_in_common_is_removed(cohort):
    plain, shifted = (people(np.random.default_rng(0), 300, 3, common=c) for c in (0.0, 0.5))
    assert (shifted @ shifted.T).mean() > 0.15
    found = fit_normalization(shifted, cohort).impostors
    expected = fit_normalization(plain, cohort).impostors
    assert found.median == pytest.approx(expected.median, abs=0.05)
    assert found.width == pytest.approx(expected.width, rel=0.3)


def test_faces_of_one_person_stay_similar():
    names = np.repeat(np.arange(200), 4)
    faces = people(np.random.default_rng(0), 200, 4)
    similar = all_similarities(fit_normalization(faces, None), faces)
    same = (names[:, None] == names) & ~np.eye(len(names), dtype=bool)
    assert np.median(similar[same]) > 0.6
    assert np.quantile(similar[same], 0.01) > np.quantile(similar[names[:, None] != names], 0.999)


def test_common_faces_are_less_similar_after_their_score_is_subtracted():
    assert similarities(np.array([0.5]), np.array([0.2]), np.array([0.1])) == pytest.approx([0.35])
    assert similarities(np.array([0.5]), np.array([-0.2]), np.array([0.0])) == pytest.approx([0.6])


def test_the_typical_similarity_of_one_person_is_estimated_without_a_cohort():
    faces = people(np.random.default_rng(0), 300, 4)
    names = np.repeat(np.arange(300), 4)
    normalization = fit_normalization(faces, None)
    similar = all_similarities(normalization, faces)
    same = (names[:, None] == names) & ~np.eye(len(names), dtype=bool)
    nearest = np.where(same, similar, -1).max(axis=1)
    assert normalization.same_person == pytest.approx(np.median(nearest), abs=0.02)
    strangers = fit_normalization(people(np.random.default_rng(0), 500, 1), None)
    assert strangers.same_person == pytest.approx(
        min(strangers.impostors.median + TYPICAL_DEVIATIONS * strangers.impostors.width, 0.9)
    )
    assert fit_normalization(faces, COHORT).same_person == COHORT.same_person


def test_the_sample_is_limited():
    faces = people(np.random.default_rng(0), SAMPLE_FACES + 100, 1)
    sample = fit_normalization(faces, None).sample
    assert sample == pytest.approx(faces[:SAMPLE_FACES], abs=1e-6)


# ---- few people ----


def test_too_few_people_are_noticed_with_a_cohort():
    random = np.random.default_rng(0)
    one = fit_normalization(people(random, 1, 50), COHORT)
    assert one.few_people
    assert one.impostors.median == 0
    assert one.impostors.width == pytest.approx(COHORT.same_person / TYPICAL_DEVIATIONS)
    three = fit_normalization(people(random, 3, 2), COHORT)
    assert three.few_people
    assert three.impostors == one.impostors
    assert not fit_normalization(people(random, 20, 5), COHORT).few_people
    assert not fit_normalization(people(random, 50, 1), COHORT).few_people


@pytest.mark.parametrize("cohort", [None, COHORT], ids=["no cohort", "cohort"])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 50])
def test_collections_of_one_person_or_none_do_not_fail(cohort, n):
    random = np.random.default_rng(0)
    for faces in (people(random, 1, n), np.ones((n, D), np.float32)):
        normalization = fit_normalization(faces, cohort)
        vectors, scores = normalization.apply(faces)
        assert vectors.shape == (n, D)
        assert np.isfinite(vectors.astype(float)).all()
        assert np.isfinite(scores).all()
        assert normalization.impostors.width > 0
        assert np.isfinite(normalization.same_person)


@given(seed=st.integers(0, 2**32 - 1), n_strangers=st.integers(4, 12))
@settings(deadline=None, max_examples=20)
def test_many_photos_of_one_person_leave_strangers_as_they_are(seed, n_strangers):
    random = np.random.default_rng(seed)
    one = people(random, 1, 6)
    others = people(random, n_strangers, 1)
    few = fit_normalization(np.concatenate([one[:1], others]), COHORT)
    many = fit_normalization(np.concatenate([one, others]), COHORT)
    between = np.triu_indices(n_strangers, 1)
    alone, beside = (all_similarities(fitted, others)[between] for fitted in (few, many))
    assert abs(np.median(beside) - np.median(alone)) < 0.06
