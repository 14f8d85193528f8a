"""Tests of the training objectives."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.model_export.training.losses import harmonic_triplet_loss, triplet_loss
from facecluster.model_export.training.objectives import HarmonicTriplets, Softmax, Triplets

N_PEOPLE, DIMENSIONS = 4, 6


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def outputs_of(prelogits):
    return {"prelogits": prelogits, "embeddings": unit(prelogits)}


def faces(seed, n):
    """Prelogits (n, d) and labels (n,)."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, N_PEOPLE, n).astype(np.int32)
    return random.normal(0, 2, (n, DIMENSIONS)).astype(np.float32), labels


def softmax_with(seed, *factors):
    """A softmax objective with nonzero centers, and its arrays."""
    random = np.random.default_rng(seed)
    kernel, bias = random.normal(size=(DIMENSIONS, N_PEOPLE)), random.normal(size=N_PEOPLE)
    centers = random.normal(size=(N_PEOPLE, DIMENSIONS)).astype(np.float32)
    softmax = Softmax(N_PEOPLE, DIMENSIONS, *factors)
    softmax.logits.set_weights([kernel, bias])
    softmax.centers.assign(centers)
    return softmax, kernel, bias, centers


# ---- softmax ----


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 0.02]),
    st.booleans(),
)
def test_softmax_matches_numpy(seed, n, center_factor, norm_factor, training):
    softmax, kernel, bias, centers = softmax_with(seed, center_factor, norm_factor)
    prelogits, labels = faces(seed + 1, n)
    loss, monitored = softmax(outputs_of(prelogits), {"labels": labels}, training=training)

    logits = prelogits @ kernel + bias
    odds = np.exp(logits) / np.sum(np.exp(logits), axis=1, keepdims=True)
    expected = {
        "cross_entropy": np.mean(-np.log(odds[np.arange(n), labels])),
        "accuracy": np.mean(np.argmax(logits, axis=1) == labels),
        "center_loss": np.mean(np.square(prelogits - centers[labels])),
    }
    assert {name: float(value) for name, value in monitored.items()} == pytest.approx(
        expected, rel=1e-4, abs=1e-6
    )
    assert set(Softmax.monitored) == set(monitored)
    norm = np.mean(np.sum(np.abs(prelogits) + 1e-4, axis=1))
    parts = 1, center_factor, norm_factor
    terms = expected["cross_entropy"], expected["center_loss"], norm
    assert float(loss) == pytest.approx(np.dot(parts, terms), rel=1e-4)

    moved = centers.copy()
    if training and center_factor:
        for face, person in zip(prelogits, labels, strict=True):
            moved[person] += (1 - 0.95) * (face - centers[person])
    np.testing.assert_allclose(softmax.centers.numpy(), moved, atol=1e-5)


def test_centers_start_at_zero_and_have_no_gradient():
    softmax = Softmax(N_PEOPLE, DIMENSIONS, center_loss_factor=1.0)
    np.testing.assert_array_equal(softmax.centers.numpy(), np.zeros((N_PEOPLE, DIMENSIONS)))
    names = sorted(variable.name for variable in softmax.trainable_variables)
    assert names == ["bias", "kernel"]


def test_gradient_pulls_faces_toward_their_centers():
    softmax, _, _, centers = softmax_with(0, 0.5)
    plain, *_ = softmax_with(0)
    prelogits, labels = faces(1, 5)

    def slope(objective):
        x = tf.constant(prelogits)
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = {"prelogits": x, "embeddings": tf.math.l2_normalize(x, axis=1)}
            loss, _ = objective(outputs, {"labels": labels}, training=True)
        return tape.gradient(loss, x).numpy()

    pull = 0.5 * 2 * (prelogits - centers[labels]) / prelogits.size
    np.testing.assert_allclose(slope(softmax) - slope(plain), pull, atol=1e-5)


def test_weight_decay_is_half_the_sum_of_squares_of_the_kernel():
    softmax, kernel, *_ = softmax_with(0, 0.0, 0.0, 3e-3)
    (penalty,) = softmax.losses
    assert float(penalty) == pytest.approx(3e-3 / 2 * np.sum(kernel**2), rel=1e-5)
    assert Softmax(N_PEOPLE, DIMENSIONS).losses == []


def test_initial_logit_weights_are_small():
    keras.utils.set_random_seed(0)
    kernel, bias = Softmax(1000, 64).logits.get_weights()
    assert np.std(kernel) == pytest.approx(0.088, abs=0.001)  # 0.1, cut at two deviations
    assert np.abs(kernel).max() <= 0.2
    assert not bias.any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_input_gives_a_float32_loss(dtype):
    softmax, *_ = softmax_with(0, 0.3, 0.02)
    prelogits, labels = faces(1, 8)
    half = tf.cast(prelogits, dtype)
    loss, monitored = softmax({"prelogits": half, "embeddings": half}, {"labels": labels})
    whole, _ = softmax(outputs_of(tf.cast(half, "float32").numpy()), {"labels": labels})
    assert loss.dtype == tf.float32
    assert {value.dtype for value in monitored.values()} == {tf.float32}
    assert float(loss) == pytest.approx(float(whole), rel=1e-6)


# ---- triplets ----


@pytest.mark.parametrize("mining", ["semi-hard", "batch-hard", "batch-all"])
@pytest.mark.parametrize("margin", [0.2, 0.7])
def test_triplet_objectives_return_the_triplet_losses(mining, margin):
    prelogits, labels = faces(0, 12)
    old, _ = faces(1, 12)
    outputs, old = outputs_of(prelogits), unit(old)
    for objective, expected in (
        (Triplets, triplet_loss(outputs["embeddings"], labels, margin, mining)),
        (
            HarmonicTriplets,
            harmonic_triplet_loss(outputs["embeddings"], old, labels, margin, mining),
        ),
    ):
        loss, monitored = objective(margin, mining)(outputs, {"labels": labels, "old": old})
        assert float(loss) == pytest.approx(float(expected[0]))
        assert float(monitored["active_triplets"]) == pytest.approx(float(expected[1]))
        assert tuple(monitored) == objective.monitored
        assert float(loss) > 0


def descend(objective, vectors, targets, steps=300, rate=0.5):
    """(vectors, losses) of gradient descent on unconstrained unit vectors."""

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = {"prelogits": x, "embeddings": tf.math.l2_normalize(x, axis=1)}
            loss, _ = objective(outputs, targets)
        return tf.math.l2_normalize(x - rate * tape.gradient(loss, x), axis=1), loss

    losses = []
    vectors = tf.constant(vectors)
    for _ in range(steps):
        vectors, loss = step(vectors)
        losses.append(float(loss))
    return vectors.numpy(), losses


@pytest.mark.parametrize("mining", ["batch-hard", "batch-all"])
def test_triplets_separate_people_from_random_vectors(mining):
    vectors, labels = unit(faces(3, 16)[0]), np.repeat(np.arange(N_PEOPLE), 4)
    vectors, losses = descend(Triplets(mining=mining), vectors, {"labels": labels})
    assert losses[0] > 0.3
    assert losses[-1] < 0.02
    assert are_separated(vectors, vectors, labels)


def test_semi_hard_triplets_separate_people_who_nearly_are():
    centers = np.eye(DIMENSIONS, dtype=np.float32)[np.repeat(np.arange(N_PEOPLE), 4)]
    vectors, labels = unit(centers + 0.35 * faces(5, 16)[0] / 2), np.repeat(np.arange(4), 4)
    assert not are_separated(vectors, vectors, labels)
    vectors, losses = descend(Triplets(), vectors, {"labels": labels})
    assert losses[0] > 0.05
    assert are_separated(vectors, vectors, labels)


def test_harmonic_triplets_move_new_vectors_near_old_ones_of_the_same_person():
    labels = np.repeat(np.arange(N_PEOPLE), 4)
    old = unit(np.eye(DIMENSIONS, dtype=np.float32)[labels] + 0.1 * faces(1, 16)[0])
    new = unit(faces(2, 16)[0])
    assert not are_separated(new, old, labels)
    targets = {"labels": labels, "old": old}
    new, losses = descend(HarmonicTriplets(mining="batch-hard"), new, targets)
    assert losses[-1] < 0.02 < losses[0]
    assert are_separated(new, old, labels)
    assert are_separated(new, new, labels)


def are_separated(first, second, labels) -> bool:
    """Whether every vector is nearer to all vectors of its person than to any other."""
    cosines = first @ second.T
    same = labels[:, None] == labels[None, :]
    own, others = np.where(same, cosines, 2), np.where(same, -2, cosines)
    return bool(np.all(own.min(axis=1) > others.max(axis=1)))
