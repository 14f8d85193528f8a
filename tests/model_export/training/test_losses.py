"""Tests of the loss functions."""

from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facecluster.model_export.training.losses import (
    center_loss,
    harmonic_triplet_loss,
    norm_loss,
    triplet_loss,
)

MININGS = ["semi-hard", "batch-hard", "batch-all"]
MARGIN = 0.25  # with vectors in quarters, distances and costs are exact in float32


def brute_force(vectors, labels, margin, mining, n_old=0):
    """(loss, active), one triplet at a time; the last n_old vectors are the old model's."""
    vectors, faces = np.asarray(vectors, np.float64), range(len(vectors))
    first_old = len(vectors) - n_old

    def distance(i, j):
        return sum((vectors[i] - vectors[j]) ** 2)

    mined = []  # (d(a, p), d(a, n))
    for a in faces:
        of_anchor = []
        for p in faces:
            if p == a or labels[p] != labels[a]:
                continue
            of_pair = [
                (distance(a, p), distance(a, n))
                for n in faces
                if labels[n] != labels[a] and min(a, p, n) < first_old
            ]
            of_anchor += of_pair
            farther = [(ap, an) for ap, an in of_pair if an > ap]
            if mining == "semi-hard" and farther:
                mined.append(min(farther))
        if mining == "batch-all":
            mined += of_anchor
        if mining == "batch-hard" and of_anchor:
            mined.append(max(of_anchor, key=lambda pair: pair[0] - pair[1]))
    costs = [max(0, ap - an + margin) for ap, an in mined]
    active = [cost for cost in costs if cost > 0]
    averaged = costs if mining == "batch-hard" else active
    return sum(averaged) / max(len(averaged), 1), len(active) / max(len(mined), 1)


@cache
def traced(mining):
    """Both losses as one graph each, for batches of any size."""
    vectors, labels = tf.TensorSpec((None, None)), tf.TensorSpec((None,), tf.int64)
    plain = tf.function(
        lambda x, y: triplet_loss(x, y, MARGIN, mining), input_signature=[vectors, labels]
    )
    harmonic = tf.function(
        lambda new, old, y: harmonic_triplet_loss(new, old, y, MARGIN, mining),
        input_signature=[vectors, vectors, labels],
    )
    return plain, harmonic


def quarters(n):
    """(n, 2) float32 of few different values, so that vectors and distances coincide often."""
    return hnp.arrays(np.int32, (n, 2), elements=st.integers(-3, 3)).map(
        lambda x: (x / 4).astype(np.float32)
    )


def labels_of(n):
    return hnp.arrays(np.int64, n, elements=st.integers(0, 3))


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def faces_of(people, per_person, dimensions=8, seed=0):
    random = np.random.default_rng(seed)
    vectors = unit(random.normal(size=(people * per_person, dimensions)))
    return vectors, np.repeat(np.arange(people), per_person)


# ---- triplets ----


@pytest.mark.parametrize("mining", MININGS)
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_triplet_loss_matches_brute_force(mining, data):
    n = data.draw(st.integers(1, 8))
    vectors, labels = data.draw(quarters(n)), data.draw(labels_of(n))
    loss, active = traced(mining)[0](vectors, labels)
    expected = brute_force(vectors, labels, MARGIN, mining)
    assert (float(loss), float(active)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("labels", [[5] * 6, [0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 2, 2]])
def test_triplet_loss_of_unit_vectors(mining, labels):
    vectors = unit(np.random.default_rng(1).normal(size=(6, 4)))
    loss, active = triplet_loss(vectors, np.array(labels), mining=mining)
    expected = brute_force(vectors, labels, 0.2, mining)
    assert (float(loss), float(active)) == pytest.approx(expected, abs=1e-5)
    assert (float(loss) > 0) == (labels == [0, 0, 1, 2, 2, 2])


def test_semi_hard_takes_the_nearest_negative_beyond_the_positive():
    # In one dimension: the anchor at 0, its positive at 1, negatives at 0.5, 1.125 and 2.
    vectors, labels = np.array([[0], [1], [0.5], [1.125], [2]]), np.array([0, 0, 1, 2, 3])
    # The loss of the anchor is 1 - 1.125² + 0.5. With the positive as anchor, no negative is
    # farther than 1: they are at distances 0.5, 0.125 and exactly 1.
    loss, active = triplet_loss(vectors, labels, margin=0.5)
    assert (float(loss), float(active)) == pytest.approx((1 - 1.125**2 + 0.5, 1))
    loss, active = triplet_loss(vectors, labels, margin=0.25)
    assert (float(loss), float(active)) == (0, 0)  # the mined one is not inside the margin


def test_batch_hard_takes_the_farthest_positive_and_the_nearest_negative():
    vectors = np.array([[0], [0.25], [0.5], [1], [5]])
    labels = np.array([0, 0, 0, 1, 2])
    # Farthest positive and nearest negative: 0.25 and 1, 0.0625 and 0.5625, 0.25 and 0.25.
    loss, active = triplet_loss(vectors, labels, margin=0.625, mining="batch-hard")
    assert float(loss) == pytest.approx((0 + 0.125 + 0.625) / 3)
    assert float(active) == pytest.approx(2 / 3)


def test_unknown_mining_lists_the_choices():
    vectors, labels = faces_of(2, 2)
    with pytest.raises(ValueError, match="'hard': choose one of semi-hard, batch-hard, batch-all"):
        triplet_loss(vectors, labels, mining="hard")
    with pytest.raises(ValueError, match="'hard': choose one of"):
        harmonic_triplet_loss(vectors, vectors, labels, mining="hard")


# ---- gradients ----


def gradient(loss_of, *inputs):
    inputs = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = loss_of(*inputs)[0]
    return float(loss), tape.gradient(loss, inputs)


def numeric_gradient(loss_of, vectors, step=1e-5):
    vectors = vectors.astype(np.float64)
    slopes = np.empty_like(vectors)
    for place in np.ndindex(vectors.shape):
        there, back = vectors.copy(), vectors.copy()
        there[place] += step
        back[place] -= step
        slopes[place] = (loss_of(there) - loss_of(back)) / (2 * step)
    return slopes


@pytest.mark.parametrize("mining", MININGS)
def test_gradient_matches_finite_differences(mining):
    vectors, labels = faces_of(3, 3)
    loss, (found,) = gradient(lambda x: triplet_loss(x, labels, 0.4, mining), vectors)
    expected = numeric_gradient(lambda x: brute_force(x, labels, 0.4, mining)[0], vectors)
    assert loss > 0
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("mining", MININGS)
def test_harmonic_gradient_matches_finite_differences_with_old_vectors_fixed(mining):
    new, labels = faces_of(3, 2, seed=1)
    old, _ = faces_of(3, 2, seed=2)

    def expected_loss(x):
        return brute_force(np.concatenate([x, old]), [*labels, *labels], 0.4, mining, len(old))[0]

    loss, (of_new, of_old) = gradient(
        lambda x, y: harmonic_triplet_loss(x, y, labels, 0.4, mining), new, old
    )
    assert loss > 0
    assert of_old is None
    np.testing.assert_allclose(of_new, numeric_gradient(expected_loss, new), atol=1e-5)


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize(
    ("vectors", "labels"),
    [
        pytest.param(np.eye(4)[[0, 0, 1, 1]], [0, 0, 1, 1], id="all people far apart"),
        pytest.param(faces_of(1, 4)[0], [7, 7, 7, 7], id="one identity"),
        pytest.param(faces_of(4, 1)[0], [0, 1, 2, 3], id="single images"),
        pytest.param(np.ones((1, 2)), [0], id="one face"),
    ],
)
def test_gradient_is_zero_without_active_triplets(mining, vectors, labels):
    loss, (slopes,) = gradient(lambda x: triplet_loss(x, labels, mining=mining), vectors)
    assert loss == 0
    np.testing.assert_array_equal(slopes, np.zeros_like(vectors))


def test_semi_hard_gradient_is_zero_when_all_negatives_are_nearer_than_positives():
    vectors, labels = unit(np.array([[1, 0], [-1, 0], [0.1, 1], [-0.1, -1]])), [0, 0, 1, 1]
    loss, (slopes,) = gradient(lambda x: triplet_loss(x, labels), vectors)
    assert loss == 0
    np.testing.assert_array_equal(slopes, np.zeros_like(vectors))
    assert triplet_loss(vectors, labels, mining="batch-all")[0] > 1


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("rows", [[0, 0, 1, 1], [0, 1, 1, 2], [0, 1, 0, 1], [0, 0, 0, 0]])
def test_gradient_is_finite_where_vectors_coincide(mining, rows):
    vectors, labels = faces_of(3, 1)[0][rows], [0, 0, 1, 1]
    loss, (slopes,) = gradient(lambda x: triplet_loss(x, labels, 3.0, mining), vectors)
    assert np.isfinite(loss)
    assert np.all(np.isfinite(slopes))


# ---- harmonic embeddings ----


@pytest.mark.parametrize("mining", MININGS)
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_harmonic_loss_matches_brute_force(mining, data):
    n = data.draw(st.integers(1, 5))
    new = data.draw(quarters(n))
    old = new if data.draw(st.booleans(), "same vectors") else data.draw(quarters(n))
    labels = data.draw(labels_of(n))
    loss, active = traced(mining)[1](new, old, labels)
    mixed, twice = np.concatenate([new, old]), [*labels, *labels]
    expected = brute_force(mixed, twice, MARGIN, mining, n_old=n)
    assert (float(loss), float(active)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mining", MININGS)
def test_people_with_a_single_image_align_the_two_spaces(mining):
    old, labels = faces_of(6, 1, seed=3)
    turned = unit(old + 0.4 * faces_of(6, 1, seed=4)[0])
    assert triplet_loss(turned, labels, mining=mining)[0] == 0

    loss, (slopes, _) = gradient(
        lambda x, y: harmonic_triplet_loss(x, y, labels, margin=1.5, mining=mining), turned, old
    )
    assert loss > 0
    nearer = unit(turned - 0.01 * np.asarray(slopes))
    assert np.sum(nearer * old) > np.sum(turned * old)


def test_harmonic_loss_refuses_models_of_different_width():
    new, labels = faces_of(2, 2, dimensions=8)
    old, _ = faces_of(2, 2, dimensions=4)
    with pytest.raises(ValueError, match="8 dimensions and the old ones 4: to be comparable"):
        harmonic_triplet_loss(new, old, labels)


# ---- float types ----


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_input_gives_a_float32_loss(dtype):
    vectors, labels = faces_of(4, 3, dimensions=512)
    half = tf.cast(vectors, dtype)
    large = 10_000 * half  # the norm would overflow in half precision
    centers = np.zeros((4, 512), np.float32)
    for loss_of, inputs in (
        (lambda x: triplet_loss(x, labels), half),
        (lambda x: harmonic_triplet_loss(x, x[::-1], labels), half),
        (lambda x: center_loss(x, labels, centers, 0.05), large),
        (lambda x: (norm_loss(x),), large),
    ):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = loss_of(inputs)[0]
        assert loss.dtype == "float32"
        assert 0 < loss < np.inf
        assert loss == loss_of(tf.cast(inputs, "float32"))[0]
        assert np.all(np.isfinite(tf.cast(tape.gradient(loss, inputs), "float32")))


# ---- center loss and norm loss ----


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_center_loss_moves_a_center_once_per_face(data):
    n, people, dimensions = (data.draw(st.integers(1, high)) for high in (8, 4, 3))
    values = st.floats(-2, 2, width=16)
    prelogits = data.draw(hnp.arrays(np.float32, (n, dimensions), elements=values))
    centers = data.draw(hnp.arrays(np.float32, (people, dimensions), elements=values))
    labels = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, people - 1)))
    loss, new_centers = center_loss(prelogits, labels, tf.Variable(centers), rate=0.05)

    squares, expected = [], centers.astype(np.float64)
    for face, person in zip(prelogits, labels, strict=True):
        squares += [(x - c) ** 2 for x, c in zip(face, centers[person], strict=True)]
        expected[person] -= (1 - 0.95) * (centers[person] - face)
    assert float(loss) == pytest.approx(np.mean(squares, dtype=np.float64), abs=1e-5)
    np.testing.assert_allclose(new_centers, expected, atol=1e-5)


def test_center_loss_has_gradients_for_faces_only():
    prelogits, labels = tf.Variable([[1.0, 2], [3, 4]]), [1, 1]
    centers = tf.Variable([[9.0, 9], [0, 1]])
    with tf.GradientTape() as tape:
        loss, new_centers = center_loss(prelogits, labels, centers, 0.5)
        total = loss + tf.reduce_sum(new_centers)
    of_prelogits, of_centers = tape.gradient(total, [prelogits, centers])
    assert of_centers is None
    np.testing.assert_allclose(of_prelogits, 2 * np.array([[1, 1], [3, 3]]) / 4)
    np.testing.assert_allclose(new_centers, [[9, 9], [2, 3]])


@pytest.mark.parametrize("p", [1, 1.0, 2.0, 3.5, np.inf])
def test_norm_loss_is_the_mean_norm(p):
    prelogits = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    expected = np.mean([np.linalg.norm(np.abs(row) + 1e-4, ord=p) for row in prelogits])
    assert float(norm_loss(prelogits, p)) == pytest.approx(expected, rel=1e-6)
    zero = tf.Variable(tf.zeros((2, 3)))
    with tf.GradientTape() as tape:
        loss = norm_loss(zero, p)
    assert np.all(np.isfinite(tape.gradient(loss, zero)))
