"""Tests of calibration tables and the validation rate, against brute force."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.model_export.validation.calibration import (
    DISTANCES,
    calibration_table,
    distance_at_far,
    validation_rate,
)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def faces(seed, n_faces, n_people, noise=0.7, n_dimensions=8):
    """Unit vectors and labels of at least two people, one of them with at least two faces."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([[0, 0, 1], random.integers(0, n_people, n_faces)])
    random.shuffle(labels)
    centers = random.normal(size=(max(n_people, 2), n_dimensions))
    return unit(centers[labels] + noise * random.normal(size=(len(labels), n_dimensions))), labels


def grid_faces(seed, n_faces):
    """Unit vectors of sixteenths whose products single precision holds exactly.

    Their distances are square roots of quarters: 0.5 and 1 are hit by many pairs.
    """
    random = np.random.default_rng(seed)
    labels = np.arange(n_faces) % 5
    signs = random.choice([-1, 1], (5, 16))[labels] * random.choice(
        [-1, 1], (n_faces, 16), p=(0.1, 0.9)
    )
    return (signs / 4).astype(np.float32), labels


def brute_force(embeddings, labels, threshold):
    """(far, val, n_different, n_same), one pair at a time."""
    nearer = {True: [], False: []}
    for i, j in itertools.combinations(range(len(labels)), 2):
        distance = np.linalg.norm(embeddings[i].astype(float) - embeddings[j].astype(float))
        nearer[bool(labels[i] == labels[j])].append(distance < threshold)
    return (
        *(np.mean(nearer[same]) for same in (False, True)),
        *(len(nearer[same]) for same in (False, True)),
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(1, 9), st.integers(1, 40))
def test_rates_match_brute_force_over_all_pairs(seed, n_faces, n_people, block_rows):
    embeddings, labels = faces(seed, n_faces, n_people)
    distances = [0.3, 0.55, 0.9, 1.2, 1.6, 1.99]
    table = calibration_table(embeddings, labels, distances, block_rows)
    assert [row["distance"] for row in table] == distances
    for row, threshold in zip(table, distances, strict=True):
        far, val, n_different, n_same = brute_force(embeddings, labels, threshold)
        assert (row["n_different"], row["n_same"]) == (n_different, n_same)
        assert row["far"] == pytest.approx(far, rel=1e-3)
        assert row["val"] == pytest.approx(val, rel=1e-3)


@pytest.mark.parametrize("block_rows", [1, 7, 59, 60, 512])
def test_pair_exactly_at_the_distance_is_not_counted(block_rows):
    embeddings, labels = grid_faces(0, 60)
    table = calibration_table(embeddings, labels, [0.5, 0.50001, 1, 1.00001], block_rows)
    for row in table:
        far, val, *_ = brute_force(embeddings, labels, row["distance"])
        assert (row["far"], row["val"]) == (float(f"{far:.4g}"), float(f"{val:.4g}"))
    assert table[0]["val"] < table[1]["val"]
    assert table[2]["val"] < table[3]["val"]


def test_labels_may_be_any_names():
    embeddings, labels = faces(0, 50, 6)
    names = [f"person {label}" for label in labels]
    assert calibration_table(embeddings, names) == calibration_table(embeddings, labels)


def test_table_has_steps_of_a_twentieth_and_is_valid_json():
    table = calibration_table(*faces(0, 100, 20))
    assert [row["distance"] for row in table] == [round(0.05 * i, 2) for i in range(6, 29)]
    assert json.loads(json.dumps(table)) == table
    for name in ("far", "val"):
        rates = [row[name] for row in table]
        assert rates == sorted(rates)
        assert rates[0] < rates[-1]


def test_rates_keep_four_significant_digits():
    # One of 2,250,000 pairs of different people is nearer than 0.3, and none of one person.
    n = 1500
    random = np.random.default_rng(0)
    embeddings = unit(random.normal(size=(2 * n, 64)))
    labels = np.arange(2 * n) // n
    embeddings[0] = embeddings[-1]
    first, *_ = calibration_table(embeddings, labels, [0.3])
    assert first["n_different"] == n * n
    assert first["far"] == pytest.approx(1 / n**2, rel=1e-3)
    assert first["val"] == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 3], "all 3 faces are of different people"),
        ([1, 1, 1], "all 3 faces are of one person"),
        ([1, 1], "3 embeddings and 2 labels"),
    ],
)
def test_calibration_needs_matched_and_mismatched_pairs(labels, message):
    with pytest.raises(ValueError, match=message):
        calibration_table(np.eye(3), labels)


# ---- distance_at_far ----


def table_of(*rates):
    return [{"distance": d, "far": far} for d, far in zip(DISTANCES, rates, strict=False)]


def test_distance_is_interpolated_on_a_logarithmic_scale():
    table = table_of(0, 1e-7, 1e-5, 1e-4)
    assert distance_at_far(table, 1e-7) == pytest.approx(0.35)
    assert distance_at_far(table, 1e-6) == pytest.approx(0.375)
    assert distance_at_far(table, 1e-5) == pytest.approx(0.40)
    assert distance_at_far(table, 10**-4.2) == pytest.approx(0.44)
    assert distance_at_far(table, 1e-4) == pytest.approx(0.45)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_rate_at_the_interpolated_distance_lies_between_the_neighboring_rows(seed, place):
    embeddings, labels = faces(seed, 150, 30)
    table = calibration_table(embeddings, labels)
    rates = [row["far"] for row in table if row["far"] > 0]
    far = min(rates[0] * (rates[-1] / rates[0]) ** place, rates[-1])
    distance = distance_at_far(table, far)
    (found,) = calibration_table(embeddings, labels, [distance])
    below = max(rate for rate in rates if rate <= far)
    above = min(rate for rate in rates if rate >= far)
    assert below * 0.999 <= found["far"] <= above * 1.001


def test_rate_outside_the_table_is_an_error():
    table = table_of(0, 1e-7, 1e-5)
    for far in (0, 9e-8, 2e-5):
        with pytest.raises(ValueError, match=r"where it goes from 1e-07 to 1e-05"):
            distance_at_far(table, far)
    with pytest.raises(ValueError, match="where it is always 0"):
        distance_at_far(table_of(0, 0), 1e-6)


# ---- validation_rate ----


def validation_rate_by_sorting(first, second, labels, far):
    """Brute force over all pairs of a face of the first model with another one of the second."""
    same, different = [], []
    for i, j in itertools.product(range(len(labels)), repeat=2):
        distance = np.linalg.norm(first[i].astype(float) - second[j].astype(float))
        if labels[i] != labels[j]:
            different.append(distance)
        elif i != j:
            same.append(distance)
    first_refused = sorted(different)[int(far * len(different))]
    return np.mean(np.array(same) < first_refused)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 25),
    st.booleans(),
    st.sampled_from([0.0, 0.001, 0.05, 0.3, 0.99]),
)
def test_validation_rate_matches_brute_force(seed, n_faces, other_model, far):
    # Exact products, and many pairs at the same distance as the first refused one.
    vectors, _ = grid_faces(seed, n_faces + 3)
    other = grid_faces(seed + 1, n_faces + 3)[0] if other_model else vectors
    _, labels = faces(seed, n_faces, 5)
    expected = validation_rate_by_sorting(vectors, other, labels, far)
    assert validation_rate(vectors, other, labels, far) == pytest.approx(expected)


def test_validation_rate_agrees_with_the_calibration_table():
    embeddings, labels = faces(0, 300, 20)
    for row in calibration_table(embeddings, labels, [0.7, 0.9, 1.1]):
        far = (round(row["far"] * row["n_different"]) + 0.5) / row["n_different"]
        found = validation_rate(embeddings, embeddings, labels, far)
        # Between this distance and that of the next pair of different people.
        assert row["val"] * 0.999 <= found <= row["val"] + 0.01


def test_validation_rate_compares_vectors_of_two_models():
    embeddings, labels = faces(0, 200, 10, noise=0.3)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))
    turned = (embeddings @ turn).astype(np.float32)
    alone = validation_rate(embeddings, embeddings, labels)
    # As good within itself, but not comparable with the other.
    assert validation_rate(turned, turned, labels) == pytest.approx(alone, abs=1e-3)
    assert validation_rate(embeddings, turned, labels) < 0.1 < alone
    # Slightly different vectors of the same space can be compared.
    near = unit(embeddings + 0.02 * np.random.default_rng(2).normal(size=embeddings.shape))
    assert validation_rate(embeddings, near, labels) == pytest.approx(alone, abs=0.1)


def test_validation_rate_ignores_pairs_of_a_face_with_itself():
    # No face is near the other face of its person, and each is near itself.
    embeddings, labels = np.eye(6, dtype=np.float32), [0, 0, 1, 1, 2, 2]
    assert validation_rate(embeddings, embeddings, labels) == 0
    swapped = embeddings[[1, 0, 3, 2, 5, 4]]
    assert validation_rate(embeddings, swapped, labels) == 1


@pytest.mark.parametrize(
    ("labels", "lacks"), [([1, 2], "different people"), ([1, 1], "one person")]
)
def test_validation_rate_needs_matched_and_mismatched_pairs(labels, lacks):
    with pytest.raises(ValueError, match=f"all 2 faces are of {lacks}"):
        validation_rate(np.eye(2), np.eye(2), labels)
