"""Tests of the sampling of batches."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from facecluster.errors import InputError
from facecluster.model_export.training.sampling import identity_batches, shuffled_batches

seeds = st.integers(0, 2**32)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), seeds, st.integers(0, 5))
def test_every_epoch_has_each_image_once(n, batch_size, seed, first_epoch):
    batches = -(-3 * n // batch_size) + 1
    first = first_epoch * n // batch_size
    indices = [shuffled_batches(n, batch_size, seed, first + i) for i in range(batches)]
    assert {batch.shape for batch in indices} == {(batch_size,)}
    stream = np.concatenate(indices)
    start = -first * batch_size % n  # where the first whole epoch begins
    whole = (len(stream) - start) // n
    assert whole >= 2
    epochs = stream[start : start + whole * n].reshape(whole, n)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(n), (whole, 1)))


def test_order_differs_by_epoch_and_seed():
    orders = {tuple(shuffled_batches(50, 50, seed, step)) for seed in (0, 1) for step in range(3)}
    assert len(orders) == 6
    assert tuple(range(50)) not in orders


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), seeds, st.integers(0, 1000))
def test_batches_depend_on_seed_and_step_only(counts, seed, step):
    labels = np.repeat(np.arange(len(counts)), counts)
    assume(sum(count >= 2 for count in counts) >= 2)

    def at(step):
        return shuffled_batches(len(labels), 7, seed, step), identity_batches(
            labels, 2, 3, seed, step
        )

    before = [at(s) for s in range(step, step + 4)]
    after = [at(s) for s in reversed(range(step, step + 4))]
    for ours, again in zip(before, reversed(after), strict=True):
        np.testing.assert_array_equal(ours[0], again[0])
        np.testing.assert_array_equal(ours[1], again[1])


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=12),
    st.integers(2, 6),
    st.integers(2, 6),
    seeds,
    st.integers(0, 1000),
)
def test_identity_batches_hold_pairs_of_every_person(counts, n_people, n_images, seed, step):
    counts = np.array(counts)
    n_eligible = np.sum(counts >= 2)
    assume(n_eligible >= 2)
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    size = n_people * n_images
    batch = identity_batches(labels, n_people, n_images, seed, step)
    assert batch.shape == (size,)
    people, given_by = np.unique(labels[batch], return_counts=True)
    assert np.all(counts[people] >= 2)
    available = counts[counts >= 2].sum()
    repeats = np.unique(batch, return_counts=True)[1]
    if available >= size:
        assert repeats.max() == 1
    else:
        assert len(repeats) == available  # every image; the numbers of repeats differ by one
        assert np.ptp(repeats) <= 1
    alone = np.sum(given_by == 1)
    if alone:  # no person has an image to spare
        assert alone == 1
        assert size % 2 == 1
        assert given_by.max() == 2
    if np.minimum(counts[counts >= 2], n_images).sum() >= size:
        assert given_by.max() <= n_images
    else:
        assert len(people) == n_eligible
    if np.sum(counts >= n_images) == n_eligible >= n_people:
        assert len(people) == n_people
        assert np.all(given_by == n_images)


def test_identity_batches_cover_all_people_and_images():
    labels = np.repeat(np.arange(10), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    steps = [identity_batches(labels, 3, 4, 5, step) for step in range(200)]
    np.testing.assert_array_equal(np.unique(steps), np.arange(1, len(labels)))
    assert len({tuple(sorted(step)) for step in steps}) > 190


def test_impossible_batches_are_refused():
    with pytest.raises(InputError, match="1 of 3 people have two images or more"):
        identity_batches(np.array([0, 1, 1, 2]), 2, 2, 0, 0)
    with pytest.raises(ValueError, match="1 people with 5 images"):
        identity_batches(np.array([0, 0, 1, 1]), 1, 5, 0, 0)
    with pytest.raises(ValueError, match="0 images in batches of 5"):
        shuffled_batches(0, 5, 0, 0)
