import numpy as np
import pytest
from scipy.special import ndtri

from facecluster.transforms.grouping.chance_distance import TAIL, chance_distance
from facecluster.transforms.tables.codec import unit_rows


def impostors(n, n_dimensions, seed=0):
    return unit_rows(np.random.default_rng(seed).normal(size=(n, n_dimensions)))


def cosine_at(distance):
    return 1 - distance**2 / 2


@pytest.mark.parametrize("n_dimensions", [64, 128, 512])
@pytest.mark.parametrize("fraction", [1e-2, 1e-4, 1e-6])
def test_a_normal_distribution_is_recovered(n_dimensions, fraction):
    # Cosines of vectors in random directions: mean 0, standard deviation 1 / sqrt(dimensions).
    distance = chance_distance(impostors(2000, n_dimensions), 1_000_001, fraction * 1_000_000)
    expected = -ndtri(fraction) * TAIL / np.sqrt(n_dimensions)
    assert cosine_at(distance) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("per_face", [20, 1])
def test_the_expected_number_of_impostors_is_the_measured_one(per_face):
    # These cosines do not have the longer tail of faces' cosines: divide it out.
    vectors = impostors(5000, 128)
    cosine = cosine_at(chance_distance(vectors[:1000], 5000, per_face)) / TAIL
    measured = np.count_nonzero(vectors @ vectors.T > cosine) / 5000 - 1  # not itself
    assert per_face / 1.5 < measured < per_face * 1.5


def test_the_longer_tail_makes_the_distance_smaller():
    vectors = impostors(5000, 128)
    distance = chance_distance(vectors[:1000], 5000, 20)
    measured = np.count_nonzero(vectors @ vectors.T > cosine_at(distance)) / 5000 - 1
    assert 20 / 10 < measured < 20 / 2


def test_the_mean_cosine_of_impostors_may_be_any():
    # Embeddings whose mean is not subtracted: all cosines are larger by the same amount.
    centered = impostors(2000, 256)
    shifted = unit_rows(np.pad(centered, ((0, 0), (0, 1)), constant_values=0.5))
    before, after = (cosine_at(chance_distance(v, 2000, 1)) for v in (centered, shifted))
    assert after == pytest.approx((before + 0.25) / 1.25, abs=0.01)


@pytest.mark.parametrize("n_people", [20, 40])
def test_pairs_of_one_person_hardly_change_the_distance(n_people):
    # 5 % and 2.5 % of all pairs; one person with that fraction of them changes it as little.
    random = np.random.default_rng(0)
    alone = chance_distance(impostors(2000, 64), 2000, 1)
    people = np.repeat(impostors(n_people, 64, 1), 2000 // n_people, axis=0)
    faces = unit_rows(people + 0.6 / 8 * random.normal(size=people.shape))
    assert chance_distance(faces, 2000, 1) == pytest.approx(alone, abs=0.06)
    mixed = impostors(2000, 64)
    size = int(2000 / np.sqrt(n_people))
    mixed[:size] = unit_rows(people[:1] + 0.6 / 8 * random.normal(size=(size, 64)))
    assert chance_distance(mixed, 2000, 1) == pytest.approx(alone, abs=0.06)


def test_more_faces_or_fewer_impostors_make_the_distance_smaller():
    sample = impostors(500, 64)
    by_n = [chance_distance(sample, n, 0.5) for n in (2, 10, 1000, 10**6, 10**9)]
    by_fraction = [
        chance_distance(sample, 10**5, fraction) for fraction in (1e-6, 1e-3, 0.5, 10, 10**4)
    ]
    assert by_n == sorted(by_n, reverse=True)
    assert by_fraction == sorted(by_fraction)
    assert len(set(by_n)) == 5
    assert len(set(by_fraction)) == 5
    assert all(0 <= distance <= 2 for distance in by_n + by_fraction)


def test_half_of_all_impostors_are_within_the_median():
    sample = impostors(500, 64)
    assert chance_distance(sample, 3, 1000) == pytest.approx(np.sqrt(2), abs=0.01)


@pytest.mark.parametrize("n", [0, 1])
def test_without_pairs_there_is_no_limit(n):
    assert chance_distance(impostors(n, 8), n, 0.5) == 2


def test_any_two_faces_give_a_valid_distance():
    for sample in ([[1, 0], [1, 0]], [[1, 0], [-1, 0]], [[0, 0], [0, 0]], [[0.6, 0.8], [0.8, 0.6]]):
        assert 0 <= chance_distance(np.array(sample, np.float32), 2, 0.5) <= 2
