"""What import_weights does with graphs that are not the published one.

That it imports the published weights rightly is tested where the networks are.
"""

import re
import shutil
from pathlib import Path

import joblib
import mtcnn
import numpy as np
import pytest
import tensorflow as tf

from facecluster.model_export.import_weights import (
    WeightsError,
    facenet_from_frozen_graph,
    mtcnn_from_published,
)
from facecluster.model_export.inception_resnet_v1 import inception_resnet_v1
from facecluster.model_export.registry import FetchError

SCOPE = "InceptionResnetV1"
FOLDED = f"{SCOPE}/Repeat_1/block17_3/Branch_1/Conv2d_0b_1x7"
BIASED = f"{SCOPE}/Repeat_1/block17_3/Conv2d_1x1"  # the layer before a residual has no norm
BOTTLENECK = f"{SCOPE}/Bottleneck"
NORM = ("beta", "moving_mean", "moving_variance")
EPSILON = 0.001


@pytest.fixture(scope="module")
def layers():
    """{scope: layer} of a small-embedding network, for its shapes."""
    network = inception_resnet_v1(embedding_size=8)
    return {
        f"{SCOPE}/{layer.name.replace('.', '/')}": layer
        for layer in network.layers
        if layer.weights
    }


@pytest.fixture(scope="module")
def optimised(layers):
    """The constants of a graph as optimised for inference, each of one value throughout.

    Batch normalisation is folded into all convolutions, but not into the bottleneck.
    """
    random = np.random.default_rng(0)
    constants = {}
    for scope, layer in layers.items():
        kernel, bias = (tuple(variable.shape) for variable in layer.weights)
        constants[f"{scope}/weights"] = np.broadcast_to(np.float32(random.normal()), kernel)
        if scope == BOTTLENECK:
            constants |= {f"{scope}/BatchNorm/{name}": norm_values(bias, name) for name in NORM}
        else:
            ends_block = scope.endswith("/Conv2d_1x1") and "Branch" not in scope
            name = "biases" if ends_block else "Conv2D_bn_offset"
            constants[f"{scope}/{name}"] = np.broadcast_to(np.float32(random.normal()), bias)
    return constants


def norm_values(shape, name):
    values = np.random.default_rng(len(name)).normal(size=shape).astype(np.float32)
    return np.abs(values) if name == "moving_variance" else values


def write_graph(folder, constants) -> Path:
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="input", op="Placeholder")
    for name, value in constants.items():
        node = graph.node.add(name=name, op="Const")
        tensor = node.attr["value"].tensor
        if value.size and value.min() == value.max():  # one value stands for all of a large array
            tensor.CopyFrom(tf.make_tensor_proto(value.flat[0], shape=value.shape))
        else:
            tensor.CopyFrom(tf.make_tensor_proto(value))
    path = folder / "graph.pb"
    path.write_bytes(graph.SerializeToString())
    return path


def test_every_layer_gets_its_own_weights(tmp_path, optimised):
    network = facenet_from_frozen_graph(write_graph(tmp_path, optimised))
    assert network.output_shape == (None, 8)
    n_read = 2
    for layer in network.layers:
        scope = f"{SCOPE}/{layer.name.replace('.', '/')}"
        if not layer.weights or scope == BOTTLENECK:
            continue
        kernel, bias = layer.get_weights()
        given = optimised.get(f"{scope}/Conv2D_bn_offset", optimised.get(f"{scope}/biases"))
        assert np.array_equal(kernel, optimised[f"{scope}/weights"])
        assert np.array_equal(bias, given)
        n_read += 2
    assert n_read == sum(len(layer.weights) for layer in network.layers)


@pytest.mark.parametrize(("scope", "has_gamma"), [(FOLDED, False), (BOTTLENECK, True)])
def test_batch_normalisation_is_folded_in(tmp_path, optimised, scope, has_gamma):
    # A graph as trained normalises after every convolution too.
    constants = {k: v for k, v in optimised.items() if k != f"{scope}/Conv2D_bn_offset"}
    random = np.random.default_rng(0)
    kernel = random.normal(size=constants[f"{scope}/weights"].shape).astype(np.float32)
    constants[f"{scope}/weights"] = kernel
    norm = {name: norm_values(kernel.shape[-1:], name) for name in NORM}
    if has_gamma:
        norm["gamma"] = random.normal(size=kernel.shape[-1:]).astype(np.float32)
    constants |= {f"{scope}/BatchNorm/{name}": values for name, values in norm.items()}

    network = facenet_from_frozen_graph(write_graph(tmp_path, constants))
    layer = network.get_layer(scope.removeprefix(f"{SCOPE}/").replace("/", "."))
    folded_kernel, folded_bias = layer.get_weights()
    inputs = random.normal(size=(5, *kernel.shape[:-1])).astype(np.float32)
    axes = "nhwi,hwio->no" if kernel.ndim == 4 else "ni,io->no"  # one window of a convolution
    expected = tf.nn.batch_normalization(
        np.einsum(axes, inputs, kernel), norm["moving_mean"], norm["moving_variance"],
        norm["beta"], norm.get("gamma"), EPSILON,
    )  # fmt: skip
    outputs = np.einsum(axes, inputs, folded_kernel) + folded_bias
    assert outputs == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-2)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        (f"{BOTTLENECK}/weights", f"{BOTTLENECK}/weights"),
        (f"{FOLDED}/Conv2D_bn_offset", f"{FOLDED}/biases"),
        (f"{BOTTLENECK}/BatchNorm/moving_variance", f"{BOTTLENECK}/BatchNorm/moving_variance"),
    ],
)
def test_a_missing_variable_is_named(tmp_path, optimised, missing, named):
    path = write_graph(tmp_path, {k: v for k, v in optimised.items() if k != missing})
    with pytest.raises(WeightsError, match=rf"{re.escape(str(path))} has no {named}"):
        facenet_from_frozen_graph(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (f"{FOLDED}/weights", lambda value: value.swapaxes(0, 1)),  # 7 x 1 for 1 x 7
        (f"{BIASED}/biases", lambda value: value[None]),
        (f"{BOTTLENECK}/weights", np.ravel),
        # These would broadcast to a network that runs, and is wrong.
        (f"{BOTTLENECK}/BatchNorm/moving_mean", lambda value: value[:1]),
        (f"{BOTTLENECK}/BatchNorm/moving_variance", lambda value: value[0]),
    ],
)
def test_a_variable_of_another_shape_is_named(tmp_path, optimised, name, change):
    path = write_graph(tmp_path, optimised | {name: np.asarray(change(optimised[name]))})
    with pytest.raises(WeightsError, match=f"{re.escape(str(path))}: {name.rpartition('/')[0]}"):
        facenet_from_frozen_graph(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>404 not found</html>", "is not a frozen TensorFlow graph"),
        (b"", f"has no {BOTTLENECK}/weights: is it a frozen FaceNet graph"),
    ],
)
def test_a_file_that_is_no_graph_is_named(tmp_path, content, message):
    path = tmp_path / "page.pb"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{re.escape(str(path))} {message}"):
        facenet_from_frozen_graph(path)


def test_the_command_line_knows_the_error():
    assert issubclass(WeightsError, FetchError)


# ---- MTCNN ----


@pytest.fixture
def mtcnn_weights(tmp_path) -> Path:
    """A copy of the published weights."""
    return shutil.copytree(Path(mtcnn.__file__).parent / "assets" / "weights", tmp_path / "weights")


def test_all_published_arrays_are_used(mtcnn_weights):
    networks = mtcnn_from_published(mtcnn_weights)
    assert list(networks) == ["p_net", "r_net", "o_net"]
    for name, network in networks.items():
        published = joblib.load(mtcnn_weights / f"{name[0]}net.lz4")
        assert len(published) == len(network.weights)
        sums = sorted(float(array.sum()) for array in published)
        assert sorted(float(np.sum(w)) for w in network.get_weights()) == pytest.approx(sums)


@pytest.mark.parametrize("n_more", [-1, 1])
def test_a_file_of_another_number_of_arrays_is_named(mtcnn_weights, n_more):
    path = mtcnn_weights / "rnet.lz4"
    arrays = joblib.load(path)
    joblib.dump((arrays + arrays)[: len(arrays) + n_more], path)
    message = rf"rnet\.lz4 holds {len(arrays) + n_more} arrays, r_net has {len(arrays)}"
    with pytest.raises(WeightsError, match=message):
        mtcnn_from_published(mtcnn_weights)


@pytest.mark.parametrize("index", [0, 5, -1])
def test_an_array_of_another_shape_is_named(mtcnn_weights, index):
    path = mtcnn_weights / "onet.lz4"
    arrays = joblib.load(path)
    arrays[index] = arrays[index][..., :-1]
    joblib.dump(arrays, path)
    with pytest.raises(WeightsError, match=r"onet\.lz4: .* has shape .*, the network's is "):
        mtcnn_from_published(mtcnn_weights)


def test_the_weights_of_another_of_the_three_networks_are_refused(mtcnn_weights):
    shutil.copy(mtcnn_weights / "onet.lz4", mtcnn_weights / "rnet.lz4")
    with pytest.raises(WeightsError, match=r"rnet\.lz4"):
        mtcnn_from_published(mtcnn_weights)


def test_a_missing_file_is_named(mtcnn_weights):
    (mtcnn_weights / "pnet.lz4").unlink()
    with pytest.raises(FileNotFoundError, match=r"pnet\.lz4"):
        mtcnn_from_published(mtcnn_weights)
