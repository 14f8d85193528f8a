"""Tests of the clustering metrics against their definitions."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import homogeneity_completeness_v_measure

from facecluster.pipeline.evaluation.clustering_metrics import bcubed, clustering_scores, pairwise

# Few labels for many faces, so that people and groups overlap in every way.
LABELINGS = st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 5)), min_size=1, max_size=40).map(
    lambda rows: (np.array([t for t, _ in rows]), np.array([p for _, p in rows]))
)


def same_person(labels, i, j):
    """Whether two faces share a label; a noise face shares one with itself only."""
    return i == j or (labels[i] == labels[j] and labels[i] != -1)


def bcubed_by_definition(truth, predicted):
    faces = range(len(truth))
    precisions, recalls = [], []
    for i in faces:
        group = [j for j in faces if same_person(predicted, i, j)]
        person = [j for j in faces if truth[i] == truth[j]]
        right = len(set(group) & set(person))
        precisions.append(right / len(group))
        recalls.append(right / len(person))
    return np.mean(precisions), np.mean(recalls)


def pairwise_by_definition(truth, predicted):
    pairs = list(combinations(range(len(truth)), 2))
    found = {(i, j) for i, j in pairs if same_person(predicted, i, j)}
    true = {(i, j) for i, j in pairs if truth[i] == truth[j]}
    right = len(found & true)
    return (right / len(found) if found else 1.0), (right / len(true) if true else 1.0)


def harmonic_mean(precision, recall):
    return 2 / (1 / precision + 1 / recall) if precision and recall else 0.0


@settings(deadline=None)
@given(LABELINGS)
def test_bcubed_matches_the_published_definition(labeling):
    precision, recall = bcubed_by_definition(*labeling)
    expected = (precision, recall, harmonic_mean(precision, recall))
    assert bcubed(*labeling) == pytest.approx(expected, abs=1e-12)


@given(LABELINGS)
def test_pairwise_matches_a_count_over_all_pairs(labeling):
    precision, recall = pairwise_by_definition(*labeling)
    expected = (precision, recall, harmonic_mean(precision, recall))
    assert pairwise(*labeling) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(LABELINGS)
def test_nmi_is_the_v_measure_with_noise_as_singletons(labeling):
    # V-measure equals arithmetic NMI (Rosenberg and Hirschberg 2007); scikit-learn computes it
    # independently.
    truth, predicted = labeling
    singletons = np.where(predicted == -1, 100 + np.arange(len(predicted)), predicted)
    v_measure = homogeneity_completeness_v_measure(truth, singletons)[2]
    assert clustering_scores(truth, predicted)["nmi"] == pytest.approx(v_measure, abs=1e-9)


@settings(deadline=None)
@given(LABELINGS, st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_names_or_order(labeling, random):
    truth, predicted = labeling
    order = random.sample(range(len(truth)), len(truth))
    names = random.sample(["ann", "bob", "cyd", "dan", "eve", "fay"], 6)
    numbers = np.array([*random.sample(range(1000), 6), -1])  # index -1 keeps noise noise
    renamed = clustering_scores(np.array(names)[truth[order]], numbers[predicted[order]])
    assert renamed == pytest.approx(clustering_scores(truth, predicted), abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_a_perfect_grouping_scores_one(labels):
    scores = clustering_scores(np.array(labels), np.array(labels) + 7)
    assert scores.pop("fraction_unassigned") == 0
    assert scores.pop("n_people_true") == scores.pop("n_people_found") == len(set(labels))
    assert scores == pytest.approx(dict.fromkeys(scores, 1.0))


def test_worked_example():
    # Groups {ann ann bob} and {ann}. Face by face in the order below, precision is 2/3 2/3 1/3 1
    # and recall 2/3 2/3 1 1/3.
    scores = clustering_scores(np.array(["ann", "ann", "bob", "ann"]), np.array([0, 0, 0, -1]))
    assert scores["bcubed_precision"] == pytest.approx(2 / 3)
    assert scores["bcubed_recall"] == pytest.approx(2 / 3)
    assert scores["pairwise_precision"] == pytest.approx(1 / 3)
    assert scores["pairwise_recall"] == pytest.approx(1 / 3)
    assert (scores["n_people_true"], scores["n_people_found"]) == (2, 1)
    assert scores["fraction_unassigned"] == 0.25


def test_all_faces_unassigned():
    truth, predicted = np.array([0, 0, 1, 1]), np.full(4, -1)
    assert bcubed(truth, predicted) == pytest.approx((1, 0.5, 2 / 3))
    assert pairwise(truth, predicted) == (1, 0, 0)


def test_all_faces_in_one_group():
    truth, predicted = np.array([0, 0, 1, 1]), np.zeros(4, int)
    assert bcubed(truth, predicted) == pytest.approx((0.5, 1, 2 / 3))
    assert pairwise(truth, predicted) == pytest.approx((1 / 3, 1, 0.5))


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([], [], "no labels"),
        ([1, 2], [1], "same length"),
        ([1, 2], [0, -2], "predicted label -2"),
    ],
)
def test_invalid_labels_are_refused(truth, predicted, message):
    with pytest.raises(ValueError, match=message):
        clustering_scores(np.array(truth), np.array(predicted, dtype=int))


def test_a_million_faces_fit():
    random = np.random.default_rng(0)
    truth = random.integers(0, 300_000, 1_000_000)
    predicted = np.where(random.random(len(truth)) < 0.3, -1, truth)
    scores = clustering_scores(truth, predicted)  # a dense table would not fit into memory
    assert scores["bcubed_precision"] == 1
    assert scores["fraction_unassigned"] == pytest.approx(0.3, abs=0.01)
