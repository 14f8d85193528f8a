"""How likely faces show the people of their labels."""

import numpy as np
import pytest

from facecluster.transforms.grouping.hdbscan_labels import NOISE
from facecluster.transforms.grouping.probabilities import assignment_probabilities
from facecluster.transforms.similarity.normalization import fit_normalization
from facecluster.transforms.tables.codec import unit_rows

D = 64


def people(random, sizes, noise=0.8):
    names = np.repeat(np.arange(len(sizes)), sizes)
    directions = unit_rows(random.normal(size=(len(sizes), D)))
    faces = directions[names] + noise * unit_rows(random.normal(size=(len(names), D)))
    return unit_rows(faces), names


def probabilities(vectors, labels, n_parts=1):
    normalization = fit_normalization(vectors, None)
    normalized, scores = normalization.apply(vectors)
    parts = np.array_split(np.arange(len(labels)), n_parts)
    return assignment_probabilities(
        labels, lambda: [(part, normalized[part]) for part in parts], scores, normalization
    )


def test_right_faces_are_likely_and_wrong_ones_are_not():
    vectors, names = people(np.random.default_rng(0), [8] * 60)
    labels = names.copy()
    wrong = np.arange(len(names)) % 8 == 0
    labels[wrong] = (labels[wrong] + 1) % 60  # one face of each person is with the next
    found = probabilities(vectors, labels)
    assert np.median(found[~wrong]) > 0.8
    assert np.median(found[wrong]) < 0.3
    assert ((found >= 0) & (found <= 1)).all()


def test_a_person_of_two_people_is_doubtful():
    vectors, names = people(np.random.default_rng(0), [8] * 60)
    found = probabilities(vectors, names // 2)
    right = probabilities(vectors, names)
    assert found.mean() < right.mean() - 0.05


def test_unassigned_faces_have_none_and_single_ones_are_certain():
    vectors, names = people(np.random.default_rng(0), [4] * 20 + [1] * 2)
    labels = np.append(names[:-1], NOISE)
    found = probabilities(vectors, labels)
    assert found[-1] == 0
    assert found[-2] == 1
    assert (found[:-2] < 1).all()
    assert not probabilities(vectors, np.full(len(names), NOISE)).any()


def test_equal_faces_are_certain():
    vectors, names = people(np.random.default_rng(0), [1] * 50)
    found = probabilities(np.repeat(vectors, 2, axis=0), np.repeat(names, 2))
    assert found.min() > 0.95


@pytest.mark.parametrize("n_parts", [2, 7])
def test_parts_give_the_same(n_parts):
    vectors, names = people(np.random.default_rng(0), [5] * 40)
    assert probabilities(vectors, names, n_parts) == pytest.approx(probabilities(vectors, names))
