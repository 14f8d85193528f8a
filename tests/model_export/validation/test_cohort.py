"""Cohorts are fitted to labeled faces."""

import numpy as np
import pytest

from facecluster.errors import InputError
from facecluster.model_export.validation.cohort import MEMBERS, fit_cohort
from facecluster.transforms.similarity.cohort import NEAREST
from facecluster.transforms.similarity.cohort_file import pack_cohorts, unpack_cohorts
from facecluster.transforms.tables.codec import unit_rows

D, SPREAD = 64, 0.07  # of a person's faces, in each dimension
SIMILARITY = 1 / (1 + D * SPREAD**2)  # of two faces of one person, about


def make_faces(n_people: int, n_faces: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    people = np.repeat(np.arange(n_people), n_faces)
    means = unit_rows(random.standard_normal((n_people, D)))
    return unit_rows(means[people] + SPREAD * random.standard_normal((len(people), D))), people


def assert_equal(one, other):
    np.testing.assert_array_equal(one.vectors, other.vectors)
    assert (one.level, one.same_person) == (other.level, other.same_person)


@pytest.mark.parametrize("n_people", [MEMBERS, 600])
def test_the_result_does_not_depend_on_the_order_of_the_faces(n_people):
    vectors, people = make_faces(n_people, 3)
    cohort = fit_cohort(vectors, people)
    assert cohort.vectors.shape == (MEMBERS, D)
    assert np.linalg.norm(cohort.vectors, axis=1) == pytest.approx(1)
    order = np.random.default_rng(1).permutation(len(people))
    assert_equal(fit_cohort(vectors[order], people[order]), cohort)
    # It is written to a file and read back without a change.
    assert_equal(unpack_cohorts(pack_cohorts({"float32": cohort}))["float32"], cohort)


def test_few_people_are_the_cohort_themselves():
    vectors, people = make_faces(30, 4)
    cohort = fit_cohort(vectors, people.astype(str))
    means = unit_rows(np.stack([vectors[people == person].sum(axis=0) for person in range(30)]))
    cosines = cohort.vectors @ means.T
    assert sorted(cosines.argmax(axis=1)) == list(range(30))
    assert cosines.max(axis=1).min() > 0.999
    nearest = np.sort(vectors @ cohort.vectors.T, axis=1)[:, -NEAREST:]
    assert cohort.level == pytest.approx(nearest.mean(), abs=1e-5)
    assert np.abs(cohort.scores(vectors).mean()) < 1e-5


def test_the_similarity_of_one_person_is_measured():
    cohort = fit_cohort(*make_faces(400, 3))
    assert cohort.same_person == pytest.approx(SIMILARITY, abs=0.05)


def test_one_person_with_many_faces_does_not_dominate():
    vectors, people = make_faces(100, 3)
    mean = unit_rows(np.random.default_rng(2).standard_normal((1, D)))
    noise = np.random.default_rng(3).standard_normal((400, D))
    many = unit_rows(mean + 0.2 * noise)  # their pairs have cosines of about 0.3
    cohort = fit_cohort(np.concatenate([vectors, many]), np.append(people, [100] * 400))
    assert cohort.same_person == pytest.approx(fit_cohort(vectors, people).same_person, abs=0.03)


def test_too_few_people_or_pairs_are_an_error():
    with pytest.raises(InputError, match="at least 20 people, and there are 19"):
        fit_cohort(*make_faces(19, 5))
    with pytest.raises(InputError, match="two faces of at least one person"):
        fit_cohort(*make_faces(50, 1))
