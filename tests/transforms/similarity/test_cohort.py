import numpy as np
import pytest

from facecluster.transforms.similarity.cohort import NEAREST, WEIGHT, Cohort, nearest_means
from facecluster.transforms.tables.codec import unit_rows


def unit(random, *shape):
    return unit_rows(random.normal(size=shape).astype(np.float32))


def test_the_nearest_members_count():
    random = np.random.default_rng(0)
    faces, members = unit(random, 40, 16), unit(random, 200, 16)
    ranked = np.sort(faces.astype(float) @ members.T.astype(float), axis=1)
    assert nearest_means(faces, members) == pytest.approx(ranked[:, -NEAREST:].mean(axis=1))


def test_an_average_face_scores_zero_and_a_common_one_more():
    random = np.random.default_rng(0)
    members = unit_rows(unit(random, 500, 32) + 0.5 * np.eye(32, dtype=np.float32)[0])
    average = float(nearest_means(unit(random, 1000, 32), members).mean())
    cohort = Cohort(members, average, 0.7)
    scores = cohort.scores(unit(random, 1000, 32))
    assert scores.dtype == np.float32
    assert abs(scores.mean()) < 0.02
    common, rare = cohort.scores(np.stack([np.eye(32)[0], -np.eye(32)[0]]).astype(np.float32))
    assert rare < scores.mean() < common


def test_a_score_is_the_weighted_difference_from_the_level():
    members = np.repeat(np.eye(2, dtype=np.float32), NEAREST, axis=0)
    vectors = np.array([[0.6, 0.8], [1, 0]], np.float32)
    assert Cohort(members, 0.5, 0.7).scores(vectors) == pytest.approx([WEIGHT * 0.3, WEIGHT * 0.5])


def test_as_many_members_as_count_are_enough():
    members = np.repeat(np.eye(2, dtype=np.float32), NEAREST // 2, axis=0)
    assert nearest_means(np.array([[1, 0]], np.float32), members) == pytest.approx([0.5])
