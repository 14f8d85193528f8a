import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecluster.transforms.similarity.impostors import TAIL, Impostors, fit_impostors


def mixture(n, median, width, same_person):
    """Similarities of n pairs, of which the fraction `same_person` show one person."""
    random = np.random.default_rng(0)
    n_same = int(same_person * n)
    different = random.normal(median, width, n - n_same)
    return np.concatenate([different, random.normal(0.7, 0.1, n_same)])


@pytest.mark.parametrize(("median", "width"), [(0.0, 0.08), (0.25, 0.1), (-0.02, 0.04)])
@pytest.mark.parametrize("same_person", [0, 0.01, 0.05])
def test_a_normal_distribution_is_recovered_among_pairs_of_one_person(median, width, same_person):
    found = fit_impostors(mixture(200_000, median, width, same_person))
    # A fraction p of larger values moves the quantiles by p / 2 and p / 10 of all values: the
    # median by 1.3 p widths, and the width by 0.6 p widths.
    assert found.median == pytest.approx(median, abs=(0.01 + 1.4 * same_person) * width)
    assert found.width == pytest.approx(width, rel=0.01 + 0.7 * same_person)


def test_the_upper_half_does_not_count_for_the_width():
    lower = -np.abs(np.random.default_rng(0).normal(size=50_000))
    for factor in (1, 5):
        found = fit_impostors(np.concatenate([lower, -factor * lower]))
        assert found.median == pytest.approx(0, abs=0.01)
        assert found.width == pytest.approx(1, abs=0.02)


@given(st.floats(-0.5, 0.5), st.floats(0.01, 0.3), st.floats(1e-12, 0.5))
def test_probabilities_and_similarities_are_inverse(median, width, probability):
    impostors = Impostors(median, width)
    similarity = impostors.similarity_at(probability)
    assert impostors.probability(similarity) == pytest.approx(probability, rel=1e-6)
    assert similarity >= median - 1e-12


def test_deviations_are_in_units_of_the_width():
    impostors = Impostors(0.1, 0.05)
    assert impostors.deviations(np.array([0.1, 0.2, 0.0])) == pytest.approx([0, 2, -2])
    assert impostors.probability(np.array([0.1])) == pytest.approx([0.5])
    # The tail is longer than the normal distribution's: 2.326 deviations have 1 %.
    assert impostors.probability(np.array([0.1 + 2.3263 * TAIL * 0.05])) == (
        pytest.approx([0.01], rel=1e-3)
    )


@pytest.mark.parametrize("similarities", [[0.3], [0.3, 0.3], [1.0, -1.0], [0.0] * 50])
def test_few_or_equal_similarities_give_a_distribution(similarities):
    found = fit_impostors(np.array(similarities))
    assert found.width > 0
    assert min(similarities) <= found.median <= max(similarities)
    assert np.isfinite(found.similarity_at(1e-9))
