"""Tests of held-out people and their pairs."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from facecluster.errors import InputError
from facecluster.model_export.crops import Crops
from facecluster.model_export.validation import held_out
from facecluster.model_export.validation.calibration import validation_rate
from facecluster.model_export.validation.held_out import HeldOut, hold_out_people, sample_pairs
from facecluster.model_export.validation.pairs import ImagePairs
from facecluster.model_export.validation.verification import verify

seeds = st.integers(0, 2**32 - 1)
# How many faces each person has.
collections = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def labels_of(counts, seed=0):
    """(n,) int32, the people's faces mixed."""
    return np.random.default_rng(seed).permutation(
        np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    )


def names_of(labels) -> tuple[str, ...]:
    return tuple(f"face {row}" for row in range(len(labels)))


def rows_of(names) -> np.ndarray:
    return np.array([int(name.split()[1]) for name in names])


# ---- held-out people ----


@settings(deadline=None)
@given(collections, st.floats(0, 1), seeds)
def test_fraction_of_the_people_is_held_out_with_all_their_faces(counts, fraction, seed):
    labels = labels_of(counts)
    kept_out = hold_out_people(labels, fraction, seed)
    assert (kept_out.shape, kept_out.dtype) == (labels.shape, bool)
    out, stay = set(labels[kept_out]), set(labels[~kept_out])
    assert not out & stay
    assert len(out) == round(fraction * len(counts))
    np.testing.assert_array_equal(kept_out, hold_out_people(labels, fraction, seed))


def test_seed_decides_who_is_held_out():
    labels = np.arange(10)
    chosen = [tuple(np.flatnonzero(hold_out_people(labels, 0.3, seed))) for seed in range(50)]
    assert len(set(chosen)) > 30
    assert set(itertools.chain(*chosen)) == set(range(10))


# ---- pairs ----


@settings(deadline=None)
@given(collections, seeds)
def test_pairs_are_half_matched_and_half_mismatched(counts, seed):
    labels = labels_of(counts)
    n_matched = sum(min(count * (count - 1) // 2, 20) for count in counts)
    pairs = sample_pairs(labels, names_of(labels), seed)
    if n_matched < 10 or len(counts) == 1:
        assert pairs is None
        return
    first, second = rows_of(pairs.first), rows_of(pairs.second)
    np.testing.assert_array_equal(pairs.is_same, labels[first] == labels[second])
    assert np.sum(pairs.is_same) == np.sum(~pairs.is_same) == n_matched

    matched = Counter(
        frozenset(pair) for pair in zip(first[pairs.is_same], second[pairs.is_same], strict=True)
    )
    assert max(matched.values()) == 1
    assert {len(pair) for pair in matched} == {2}  # no face with itself
    given_by = Counter(labels[first[pairs.is_same]].tolist())
    assert given_by == Counter(
        {
            person: min(count * (count - 1) // 2, 20)
            for person, count in enumerate(counts)
            if count > 1
        }
    )


@settings(deadline=None)
@given(collections, seeds)
def test_every_fold_has_as_many_matched_as_mismatched_pairs(counts, seed):
    labels = labels_of(counts)
    pairs = sample_pairs(labels, names_of(labels), seed)
    assume(pairs is not None)
    matched, mismatched = (
        np.bincount(pairs.folds[kind], minlength=10) for kind in (pairs.is_same, ~pairs.is_same)
    )
    np.testing.assert_array_equal(matched, mismatched)
    assert len(matched) == 10
    assert np.ptp(matched) <= 1
    assert matched.min() >= 1


@settings(deadline=None)
@given(collections, seeds)
def test_pairs_depend_on_the_seed_only(counts, seed):
    labels = labels_of(counts)
    one, same, other = (
        sample_pairs(labels, names_of(labels), number) for number in (seed, seed, seed + 1)
    )
    assume(one is not None)
    assert (one.first, one.second) == (same.first, same.second)
    np.testing.assert_array_equal(one.folds, same.folds)
    if len(labels) > 20:
        assert (one.first, one.second) != (other.first, other.second)


def test_pairs_are_drawn_from_all_possible_pairs():
    labels = np.repeat(np.arange(5), 10)
    drawn = [sample_pairs(labels, names_of(labels), seed) for seed in range(60)]
    for kind, n in ((True, 5 * 45), (False, 50 * 49 // 2 - 5 * 45)):
        seen = {
            frozenset((a, b))
            for pairs in drawn
            for a, b, same in zip(pairs.first, pairs.second, pairs.is_same, strict=True)
            if same == kind
        }
        assert len(seen) > 0.97 * n
    # The people are spread over the folds.
    for pairs in drawn:
        people = labels[rows_of(pairs.first)]
        for fold in range(10):
            assert len(set(people[pairs.is_same & (pairs.folds == fold)])) >= 2


# ---- scores ----


@pytest.fixture
def scored():
    """(vectors, held-out crops); the vectors separate people fairly well."""
    labels = labels_of([9, 8, 7, 6, 5, 4])
    random = np.random.default_rng(1)
    vectors = random.normal(size=(6, 8))[labels] + 0.7 * random.normal(size=(len(labels), 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = names_of(labels)
    crops = Crops(labels, tuple("abcdef"), names, ())
    return vectors, HeldOut(crops, sample_pairs(labels, names, 0))


def test_scores_combine_sampled_pairs_and_all_pairs(scored):
    vectors, held = scored
    pairs = held.pairs
    found = verify(
        vectors[rows_of(pairs.first)], vectors[rows_of(pairs.second)], pairs.is_same, pairs.folds
    )
    assert held.score(vectors) == {
        "accuracy": found.accuracy,
        "validation_rate": validation_rate(vectors, vectors, held.crops.labels),
        "auc": found.auc,
    }
    assert 0.6 < found.accuracy < 1
    noise = np.random.default_rng(2).normal(size=vectors.shape)
    assert held.score(noise)["accuracy"] < found.accuracy


def test_validation_rate_uses_the_first_crops_only(scored, monkeypatch):
    vectors, held = scored
    monkeypatch.setattr(held_out, "MAX_CROPS_FOR_ALL_PAIRS", 20)
    expected = validation_rate(vectors[:20], vectors[:20], held.crops.labels[:20])
    assert held.score(vectors)["validation_rate"] == expected
    assert expected != validation_rate(vectors, vectors, held.crops.labels)


def test_pairs_of_missing_crops_are_an_error(scored):
    vectors, held = scored
    pairs = held.pairs
    missing = ImagePairs(
        ["no face", *pairs.first[1:]], ["another", *pairs.second[1:]], pairs.is_same, pairs.folds
    )
    with pytest.raises(InputError, match="2 crops that the pairs name do not exist, first another"):
        HeldOut(held.crops, missing).score(vectors)
