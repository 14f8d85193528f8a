"""Tests of LFW's verification protocol against the published one."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline, interp1d
from scipy.optimize import brentq
from sklearn.metrics import auc, roc_auc_score
from sklearn.model_selection import KFold

from facecluster.model_export.validation.verification import (
    Verification,
    verify,
    verify_distances,
)

METRICS = ["euclidean", "cosine"]  # at the places of the published numbers


def published_distances(embeddings1, embeddings2, metric):
    """The published distance, one pair at a time."""
    if metric == 0:
        return np.array(
            [np.sum((a - b) ** 2) for a, b in zip(embeddings1, embeddings2, strict=True)]
        )
    cosines = [
        (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
        for a, b in zip(embeddings1, embeddings2, strict=True)
    ]
    return np.arccos(np.minimum(cosines, 1)) / np.pi


def published_protocol(embeddings1, embeddings2, is_same, n_folds, metric=0, subtract_mean=False):
    """The published evaluation, read step by step: one threshold and one pair of sets at a time."""
    embeddings1, embeddings2 = embeddings1.astype(float), embeddings2.astype(float)

    def rates(pairs, threshold):
        nearer, same = distances[pairs] < threshold, is_same[pairs]
        right = np.count_nonzero(nearer == same) / len(pairs)
        return np.mean(nearer[same]), np.mean(nearer[~same]), right

    coarse, fine = np.arange(0, 4, 0.01), np.arange(0, 4, 0.001)
    tprs, fprs, accuracies, vals, fars, best = [], [], [], [], [], []
    for train, test in KFold(n_folds, shuffle=False).split(is_same):
        mean = 0.0
        if subtract_mean:
            mean = np.mean(np.concatenate([embeddings1[train], embeddings2[train]]), axis=0)
        distances = published_distances(embeddings1 - mean, embeddings2 - mean, metric)
        best.append(coarse[np.argmax([rates(train, t)[2] for t in coarse])])
        accuracies.append(rates(test, best[-1])[2])
        tprs.append([rates(test, t)[0] for t in coarse])
        fprs.append([rates(test, t)[1] for t in coarse])
        far_train = np.array([rates(train, t)[1] for t in fine])
        threshold = 0.0
        if far_train.max() >= 1e-3:
            # What SciPy's interp1d of kind slinear is: the spline of degree one through the points.
            knots = np.concatenate([far_train[:1], far_train, far_train[-1:]])
            threshold = float(BSpline(knots, fine, 1)(1e-3))
        val, far, _ = rates(test, threshold)
        vals.append(val)
        fars.append(far)
    # It stops where distances go beyond its thresholds: an infinite one ends the curve.
    tpr, fpr = (np.append(np.mean(curve, axis=0), 1.0) for curve in (tprs, fprs))
    return Verification(
        accuracy=np.mean(accuracies),
        accuracy_std=np.std(accuracies),
        val=np.mean(vals),
        val_std=np.std(vals),
        far=np.mean(fars),
        auc=auc(fpr, tpr),
        eer=brentq(lambda x: 1.0 - x - interp1d(fpr, tpr)(x), 0.0, 1.0),
        threshold=np.mean(best),
    )


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_pairs(random, n_pairs, noise, n_dimensions=16):
    """Matched pairs are a vector and a noisy copy of it, mismatched ones two random vectors."""
    is_same = random.random(n_pairs) < 0.5
    first = random.normal(size=(n_pairs, n_dimensions))
    other = random.normal(size=(n_pairs, n_dimensions))
    second = np.where(is_same[:, None], first + noise * other, other)
    return unit(first), unit(second), is_same


def contiguous_folds(n_pairs, n_folds):
    folds = np.empty(n_pairs, int)
    for fold, (_, test) in enumerate(KFold(n_folds).split(folds)):
        folds[test] = fold
    return folds


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("n_pairs", [400, 463])
def test_scores_match_the_published_protocol(n_pairs, noise):
    pairs = random_pairs(np.random.default_rng(n_pairs), n_pairs, noise)
    scores = verify(*pairs, contiguous_folds(n_pairs, 5))
    assert vars(scores) == pytest.approx(vars(published_protocol(*pairs, 5)), abs=1e-9)


@pytest.mark.parametrize("n_mismatched", [2000, 2700, 3500])
def test_val_is_interpolated_between_thresholds_as_published(n_mismatched):
    # With 2,000 mismatched pairs in two folds the wanted rate 1e-3 is itself a step of the curve;
    # with 2,700 and 3,500 it lies between two steps.
    random = np.random.default_rng(n_mismatched)
    first, second, _ = random_pairs(random, 2 * n_mismatched, noise=1.0, n_dimensions=8)
    is_same = np.arange(2 * n_mismatched) % 2 == 0
    second[is_same] = unit(first[is_same] + 0.3 * random.normal(size=(n_mismatched, 8)))
    scores = verify(first, second, is_same, contiguous_folds(len(is_same), 2))
    expected = published_protocol(first, second, is_same, 2)
    assert 0 < scores.val < 1
    assert vars(scores) == pytest.approx(vars(expected), abs=1e-9)


@pytest.mark.parametrize("metric", [0, 1])
@pytest.mark.parametrize("subtract_mean", [False, True])
@pytest.mark.parametrize("flipped", [False, True])
# A smaller seed is no simpler one, and the published protocol is slow: failures are not shrunk.
@settings(deadline=None, max_examples=3, phases=[Phase.reuse, Phase.generate])
@given(
    seed=st.integers(0, 2**32 - 1),
    n_pairs=st.integers(24, 150),
    n_dimensions=st.integers(4, 24),
    noise=st.floats(0.1, 2),
    offset=st.floats(0, 3),
)
def test_published_options_give_the_published_scores(
    metric, subtract_mean, flipped, seed, n_pairs, n_dimensions, noise, offset
):
    random = np.random.default_rng(seed)
    is_same = np.arange(n_pairs) % 2 == 0
    # The offset puts all vectors to one side, so that taking off their mean turns them.
    person = random.normal(size=(2, n_pairs, n_dimensions)) + offset
    person[1, is_same] = person[0, is_same]
    looks = person + noise * random.normal(size=(1 + flipped, *person.shape))
    first, second = (np.hstack([unit(side[i]) for side in looks]) for i in (0, 1))

    folds = contiguous_folds(n_pairs, 2)
    scores = verify(first, second, is_same, folds, METRICS[metric], subtract_mean)
    expected = published_protocol(first, second, is_same, 2, metric, subtract_mean)
    assert vars(scores) == pytest.approx(vars(expected), abs=1e-9)


def test_roc_curve_of_flipped_embeddings_is_complete():
    # Two such vectors of unrelated people are at a squared distance of 4, in the mean: half of the
    # mismatched pairs lie beyond the last threshold.
    random = np.random.default_rng(0)
    is_same = np.arange(2000) % 2 == 0
    person = random.normal(size=(2, 2000, 32))
    person[1, is_same] = person[0, is_same]
    looks = person + 1.5 * random.normal(size=(2, *person.shape))
    first, second = (np.hstack([unit(side[i]) for side in looks]) for i in (0, 1))
    scores = verify(first, second, is_same, np.arange(2000) // 1000)
    distances = np.sum(np.square(first - second), axis=1)
    assert scores.auc == pytest.approx(roc_auc_score(is_same, -distances), abs=0.005)
    nearer_half = distances < np.median(distances)
    assert scores.eer == pytest.approx(np.mean(nearer_half != is_same), abs=0.01)


def test_subtracting_the_mean_changes_angles_but_not_distances():
    random = np.random.default_rng(0)
    first, second, is_same = random_pairs(random, 400, noise=1.0)
    first, second, folds = unit(first + 0.5), unit(second + 0.5), contiguous_folds(400, 4)
    plain, centered = (
        [verify(first, second, is_same, folds, metric, mean) for metric in METRICS]
        for mean in (False, True)
    )
    assert vars(plain[0]) == pytest.approx(vars(centered[0]))
    assert plain[0] == verify(first, second, is_same, folds)
    # The angles of all pairs widen once the direction they share is gone.
    assert centered[1].threshold > plain[1].threshold + 0.05


def test_equal_vectors_match_by_cosine_distance():
    # Many of these have a cosine with themselves that rounds to more than 1.
    vectors = unit(np.random.default_rng(0).normal(size=(400, 512)))
    is_same = np.arange(400) % 2 == 0
    second = np.where(is_same[:, None], vectors, -vectors)
    scores = verify(vectors, second, is_same, np.arange(400) // 40, metric="cosine")
    assert (scores.accuracy, scores.val, scores.auc) == (1, 1, 1)


def test_zero_vector_is_orthogonal_to_all():
    first = np.tile([1.0, 0.0], (40, 1))
    is_same = np.arange(40) % 2 == 0
    second = np.where(is_same[:, None], [0.0, 0.0], [-0.01, 1.0])
    scores = verify(first, second, is_same, np.arange(40) // 20, metric="cosine")
    assert (scores.accuracy, scores.threshold) == (0.5, 0)
    second = np.where(is_same[:, None], [0.0, 0.0], [-1.0, 1.0])
    scores = verify(first, second, is_same, np.arange(40) // 20, metric="cosine")
    assert (scores.accuracy, scores.threshold) == (1, pytest.approx(0.51))


def test_verify_distances_agrees_with_verify():
    first, second, is_same = random_pairs(np.random.default_rng(5), 400, noise=1.0)
    folds = contiguous_folds(400, 4)
    distances = np.sum(np.square(first.astype(float) - second.astype(float)), axis=1)
    expected = verify(first, second, is_same, folds)
    assert verify_distances(distances.tolist(), is_same.tolist(), folds.tolist()) == expected


def test_separable_pairs_score_one():
    random = np.random.default_rng(0)
    first = unit(random.normal(size=(200, 64)))
    is_same = np.arange(200) % 2 == 0
    second = np.where(is_same[:, None], first, unit(random.normal(size=(200, 64))))
    scores = verify(first, second, is_same, np.arange(200) // 20)
    assert (scores.accuracy, scores.accuracy_std, scores.val, scores.val_std) == (1, 0, 1, 0)
    assert (scores.auc, scores.eer) == (1, 0)
    assert scores.far <= 0.01  # the threshold comes from other folds: 1 of 100 may lie below it
    assert scores.threshold == pytest.approx(0.01)  # the first that is above a distance of zero


def test_unrelated_pairs_score_at_chance_level():
    random = np.random.default_rng(0)
    first, second = (unit(random.normal(size=(4000, 16))) for _ in range(2))
    scores = verify(first, second, np.arange(4000) % 2 == 0, np.arange(4000) // 400)
    # Five standard deviations of 4,000 fair coins are .04.
    assert scores.accuracy == pytest.approx(0.5, abs=0.04)
    assert scores.auc == pytest.approx(0.5, abs=0.04)
    assert scores.eer == pytest.approx(0.5, abs=0.04)
    assert scores.val < 0.02


def test_pair_at_the_threshold_is_not_accepted():
    # Mismatched pairs at a squared distance of exactly 2, matched ones just below.
    first = np.tile([1.0, 0.0], (40, 1))
    is_same = np.arange(40) % 2 == 0
    cosine = np.where(is_same, 0.0025, 0)  # squared distances 2 - 2 cosine: 1.995 and 2
    second = np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)
    scores = verify(first, second, is_same, np.arange(40) // 20)
    assert (scores.accuracy, scores.threshold) == (1, 2)


@pytest.mark.parametrize("n_near", [0, 1])
def test_val_is_zero_when_the_target_far_is_never_reached(n_near):
    # Opposite vectors are at squared distance 4, beyond every threshold; in each fold of 2,000
    # mismatched pairs n_near are nearer, which is less than one in a thousand.
    first = np.tile([1.0, 0.0], (4000, 1))
    second = -first
    folds = np.arange(4000) // 2000
    is_same = np.arange(4000) % 2000 >= 1990
    second[is_same] = first[is_same]
    second[np.arange(4000) % 2000 < n_near] = [0, 1]
    scores = verify(first, second, is_same, folds)
    assert (scores.val, scores.val_std, scores.far, scores.accuracy) == (0, 0, 0, 1)


def test_folds_go_by_number_and_not_by_position():
    random = np.random.default_rng(3)
    first, second, is_same = random_pairs(random, 400, noise=1.0)
    folds = contiguous_folds(400, 4)
    order = random.permutation(400)
    shuffled = verify(first[order], second[order], is_same[order], folds[order])
    assert vars(shuffled) == pytest.approx(vars(verify(first, second, is_same, folds)))


def test_fold_without_matched_pairs_is_an_error():
    vectors = unit(np.ones((4, 3)))
    with pytest.raises(ValueError, match="fold 2 has no matched pair"):
        verify(vectors, vectors, np.array([True, False, False, False]), np.array([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="one fold"):
        verify(vectors, vectors, np.array([True, False, True, False]), np.zeros(4))
    with pytest.raises(ValueError, match="one row per pair"):
        verify(vectors, vectors[:3], np.array([True, False, True, False]), np.arange(4) % 2)
    with pytest.raises(ValueError, match="3 distances, 4 pairs and 4 fold numbers"):
        verify_distances(np.zeros(3), np.array([True, False, True, False]), np.arange(4) % 2)


@pytest.mark.parametrize("subtract_mean", [False, True])
def test_unknown_metric_is_an_error(subtract_mean):
    first, second, is_same = random_pairs(np.random.default_rng(0), 100, noise=1.0)
    with pytest.raises(ValueError, match="unknown metric 'manhattan': choose euclidean or cosine"):
        verify(first, second, is_same, np.arange(100) % 2, "manhattan", subtract_mean)
