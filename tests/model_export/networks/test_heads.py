"""Linear heads equal their projections, learn, and can be exported with their backbone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from facecluster.errors import UsageError
from facecluster.model_export.networks.export import export, load_networks, with_weight_decay
from facecluster.model_export.networks.heads import (
    Projection,
    least_squares,
    linear_head,
    on_backbone,
    principal_components,
)
from facecluster.model_export.training.batches import batch_rows
from facecluster.model_export.training.objectives import Triplets
from facecluster.model_export.training.sampling import identity_batches
from facecluster.model_export.training.schedule import Schedule
from facecluster.model_export.training.trainer import OPTIMIZERS, Learner, train
from facecluster.transforms.faces.model_card import ModelCard
from facecluster.transforms.faces.saved_model import SavedModel

N_FEATURES, DIMENSIONS = 24, 6


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def features(seed=0, n=200, d=N_FEATURES):
    """(n, d) unit vectors, not centered, with a different variance in each direction."""
    random = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(random.normal(size=(d, d)))
    return unit((random.normal(size=(n, d)) * 0.85 ** np.arange(d) + 0.5) @ rotation)


def projection(seed=0, f=N_FEATURES, d=DIMENSIONS) -> Projection:
    random = np.random.default_rng(seed)
    return Projection(
        random.normal(size=(f, d)).astype(np.float32), random.normal(size=d).astype(np.float32)
    )


# ---- initial projections ----


@pytest.mark.parametrize("dimensions", [1, DIMENSIONS, N_FEATURES])
def test_principal_components_equal_scikit_learns_up_to_sign(dimensions):
    x = features()
    expected = PCA(dimensions, svd_solver="full").fit(x).transform(x)
    kernel, bias = principal_components(x, dimensions)
    found = x @ kernel + bias
    found *= np.sign(np.sum(found * expected, axis=0))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (kernel.dtype, bias.dtype) == (np.float32, np.float32)


def test_principal_components_can_be_scaled_to_unit_variance():
    x = features()
    plain, scaled = (principal_components(x, DIMENSIONS, scaling) for scaling in (False, True))
    projected = x @ scaled.kernel + scaled.bias
    assert np.mean(np.var(projected, axis=0)) == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(
        linear_head(scaled)(x), linear_head(plain)(x), atol=1e-4
    )  # the same directions


def test_more_components_than_features_or_vectors_are_refused():
    with pytest.raises(UsageError, match="200 vectors of 24 dimensions are too few for 25"):
        principal_components(features(), 25)
    with pytest.raises(UsageError, match="5 vectors of 24 dimensions are too few for 6"):
        principal_components(features()[:5], 6)


def test_least_squares_equal_scikit_learns():
    x, targets = features(0), features(1, d=DIMENSIONS)
    kernel, bias = least_squares(x, targets)
    expected = LinearRegression().fit(x, targets).predict(x)
    np.testing.assert_allclose(x @ kernel + bias, expected, atol=1e-4)
    assert (kernel.dtype, bias.dtype) == (np.float32, np.float32)


def test_least_squares_recover_a_projection():
    x, true = features(), projection()
    found = least_squares(x, x @ true.kernel + true.bias)
    np.testing.assert_allclose(found.kernel, true.kernel, atol=1e-3)
    np.testing.assert_allclose(found.bias, true.bias, atol=1e-3)


def test_least_squares_of_linearly_dependent_features():
    x, true = features(), projection(f=2 * N_FEATURES)
    x = np.concatenate([x, x], axis=1)
    kernel, bias = least_squares(x, x @ true.kernel + true.bias)
    np.testing.assert_allclose(x @ kernel + bias, x @ true.kernel + true.bias, atol=1e-3)
    assert np.abs(kernel).max() < 10


# ---- the head ----


def test_a_head_is_its_projection_with_unit_length():
    x, start = features(), projection()
    head = linear_head(start)
    projected = x @ start.kernel + start.bias
    np.testing.assert_allclose(head(x), unit(projected), atol=1e-5)
    prelogits = keras.Model(head.input, head.get_layer("prelogits").output)
    np.testing.assert_allclose(prelogits(x), projected, atol=1e-5)


def test_dropout_drops_features_in_training_only():
    x, start = features(), projection()
    head, plain = linear_head(start, dropout=0.5), linear_head(start)
    np.testing.assert_array_equal(head(x), plain(x))
    trained = head(x, training=True).numpy()
    assert not np.allclose(trained, plain(x), atol=1e-2)
    again, other = (
        linear_head(start, dropout=0.5, seed=seed)(x, training=True).numpy() for seed in (0, 1)
    )
    np.testing.assert_array_equal(trained, again)
    assert not np.array_equal(trained, other)


def test_weight_decay_is_half_the_sum_of_squares_of_the_kernel():
    start = projection()
    (penalty,) = linear_head(start, weight_decay=1e-2).losses
    assert float(penalty) == pytest.approx(1e-2 / 2 * np.sum(start.kernel**2), rel=1e-5)
    assert linear_head(start).losses == []


def test_a_head_learns_what_principal_components_miss(tmp_path):
    """People differ in the directions in which features vary least."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(10, dtype=np.int32), 10)
    x = np.concatenate(
        [3 * random.normal(size=(100, 8)), random.normal(size=(10, 8))[labels]], axis=1
    ).astype(np.float32)
    head = linear_head(principal_components(x, 8))
    learner = Learner(head, Triplets(mining="batch-hard"))

    def batches_from(step):
        def indices(step):
            return identity_batches(labels, 10, 5, 0, step)

        inputs, targets = batch_rows(x, indices, step), batch_rows(labels, indices, step)
        return tf.data.Dataset.zip((inputs, {"labels": targets}))

    def fraction_with_nearest_of_same_person():
        vectors = head(x).numpy()
        cosines = vectors @ vectors.T - 2 * np.eye(len(x))
        return np.mean(labels[np.argmax(cosines, axis=1)] == labels)

    before = fraction_with_nearest_of_same_person()
    adam, schedule = OPTIMIZERS["adam"](), Schedule(((0, 0.05),))
    train(learner, adam, batches_from, schedule, tmp_path, n_epochs=2, steps_per_epoch=100)
    assert before < 0.5
    assert fraction_with_nearest_of_same_person() > 0.95


# ---- on its backbone ----


def backbone() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = crops = keras.Input((8, 8, 3), name="crops")
    x = keras.layers.Conv2D(16, 3, name="Conv")(x)
    x = keras.layers.Dense(N_FEATURES, name="Bottleneck")(keras.layers.Flatten()(x))
    x = keras.layers.Activation("linear", name="prelogits")(x)  # named like a head's layer
    return keras.Model(crops, keras.layers.UnitNormalization(name="embeddings")(x), name="Backbone")


def pixels(n=20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def standardized() -> np.ndarray:
    return (pixels().astype(np.float32) - 127.5) / 128


@pytest.fixture(scope="module")
def with_head():
    """A backbone with a head, and the embeddings it should give."""
    frozen, head = backbone(), linear_head(projection(), dropout=0.5, weight_decay=1e-3)
    return on_backbone(frozen, head), head(frozen(standardized())).numpy()


def test_the_combined_network_applies_the_head_to_the_backbone(with_head):
    network, expected = with_head
    assert network.input_shape == (None, 8, 8, 3)
    assert network.output_shape == (None, DIMENSIONS)
    np.testing.assert_allclose(network(standardized()), expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)


def test_the_combined_network_can_be_saved_and_trained_further(with_head, tmp_path):
    network, expected = with_head
    export({"embed": network}, card(), tmp_path / "model")
    loaded = load_networks(tmp_path / "model")["embed"]
    np.testing.assert_allclose(loaded(standardized()), expected, atol=1e-6)
    vectors = SavedModel(str(tmp_path / "model")).call("embed", pixels())
    np.testing.assert_allclose(vectors, expected, atol=1e-5)

    decayed = with_weight_decay(loaded, 2e-3)
    outputs = Learner(decayed, Triplets(), "fixed")(pixels())
    np.testing.assert_allclose(outputs["embeddings"], expected, atol=1e-5)
    np.testing.assert_allclose(unit(outputs["prelogits"].numpy()), expected, atol=1e-5)
    kernels = [v.numpy() for v in network.weights if v.path.endswith("kernel")]
    assert len(kernels) == 3
    penalty = 2e-3 / 2 * sum(np.sum(kernel**2) for kernel in kernels)
    assert float(sum(decayed.losses)) == pytest.approx(penalty, rel=1e-4)


def test_the_combined_network_can_be_exported_as_float16(with_head, tmp_path):
    network, expected = with_head
    export({"embed": network}, card(), tmp_path / "half", float16=True)
    vectors = SavedModel(str(tmp_path / "half")).call("embed", pixels())
    assert vectors.dtype == np.float32
    assert not np.array_equal(vectors, expected)
    np.testing.assert_allclose(vectors, expected, atol=5e-3)


def card():
    return ModelCard("headed", sha256="5a", standardization="fixed", dimensions=DIMENSIONS)
