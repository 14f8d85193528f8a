"""load_facenet with frozen graphs other than the published one, and with unusable files.

The import of the published graph is tested with the network. Each other form of file has its own
test module.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from facecluster.errors import InputError
from facecluster.model_export.networks.inception_resnet_v1 import inception_resnet_v1
from facecluster.model_export.weights.import_facenet import load_facenet
from facecluster.model_export.weights.weight_files import WeightsError

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
        f"{SCOPE}/{layer.name.replace('-', '/')}": layer
        for layer in network.layers
        if layer.weights
    }


@pytest.fixture(scope="module")
def optimized(layers):
    """The constants of a graph optimized for inference, each filled with one value.

    Batch normalization is folded into all convolutions, but not into the bottleneck.
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


@pytest.fixture(scope="module")
def imported(tmp_path_factory, optimized):
    return load_facenet(write_graph(tmp_path_factory.mktemp("optimized"), optimized))


def norm_values(shape, name):
    values = np.random.default_rng(len(name)).normal(size=shape).astype(np.float32)
    return np.abs(values) if name == "moving_variance" else values


def write_graph(folder, constants) -> Path:
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="input", op="Placeholder")
    for name, value in constants.items():
        node = graph.node.add(name=name, op="Const")
        tensor = node.attr["value"].tensor
        if value.size and value.min() == value.max():  # a large array is stored as one value
            tensor.CopyFrom(tf.make_tensor_proto(value.flat[0], shape=value.shape))
        else:
            tensor.CopyFrom(tf.make_tensor_proto(value))
    path = folder / "graph.pb"
    path.write_bytes(graph.SerializeToString())
    return path


def test_each_layer_gets_its_weights(imported, optimized):
    assert imported.output_shape == (None, 8)
    n_read = 2
    for layer in imported.layers:
        scope = f"{SCOPE}/{layer.name.replace('-', '/')}"
        if not layer.weights or scope == BOTTLENECK:
            continue
        kernel, bias = layer.get_weights()
        given = optimized.get(f"{scope}/Conv2D_bn_offset", optimized.get(f"{scope}/biases"))
        assert np.array_equal(kernel, optimized[f"{scope}/weights"])
        assert np.array_equal(bias, given)
        n_read += 2
    assert n_read == sum(len(layer.weights) for layer in imported.layers)


@pytest.mark.parametrize(("scope", "has_gamma"), [(FOLDED, False), (BOTTLENECK, True)])
def test_batch_normalization_is_folded(tmp_path, optimized, scope, has_gamma):
    # A graph as trained has batch normalization after every convolution, too.
    constants = {k: v for k, v in optimized.items() if k != f"{scope}/Conv2D_bn_offset"}
    random = np.random.default_rng(0)
    kernel = random.normal(size=constants[f"{scope}/weights"].shape).astype(np.float32)
    constants[f"{scope}/weights"] = kernel
    norm = {name: norm_values(kernel.shape[-1:], name) for name in NORM}
    if has_gamma:
        norm["gamma"] = random.normal(size=kernel.shape[-1:]).astype(np.float32)
    constants |= {f"{scope}/BatchNorm/{name}": values for name, values in norm.items()}

    network = load_facenet(write_graph(tmp_path, constants))
    layer = network.get_layer(scope.removeprefix(f"{SCOPE}/").replace("/", "-"))
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
    ("missing", "message"),
    [
        (f"{BOTTLENECK}/weights", f"has no {BOTTLENECK}/weights"),
        (f"{FOLDED}/weights", f"has no {FOLDED}/weights"),
        (f"{FOLDED}/Conv2D_bn_offset", f"has neither {FOLDED}/Conv2D_bn_offset nor {FOLDED}/"),
        (f"{BOTTLENECK}/BatchNorm/beta", f"has no {BOTTLENECK}/BatchNorm/beta"),
        (f"{BOTTLENECK}/BatchNorm/moving_variance", f"has no {BOTTLENECK}/BatchNorm/moving_var"),
    ],
)
def test_a_missing_variable_is_named(tmp_path, optimized, missing, message):
    path = write_graph(tmp_path, {k: v for k, v in optimized.items() if k != missing})
    with pytest.raises(WeightsError, match=rf"{re.escape(str(path))} {message}"):
        load_facenet(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (f"{FOLDED}/weights", lambda value: value.swapaxes(0, 1)),  # 7 x 1 instead of 1 x 7
        (f"{BIASED}/biases", lambda value: value[None]),
        (f"{BOTTLENECK}/weights", np.ravel),
        # These would broadcast, to a network that runs but is wrong.
        (f"{BOTTLENECK}/BatchNorm/moving_mean", lambda value: value[:1]),
        (f"{BOTTLENECK}/BatchNorm/moving_variance", lambda value: value[0]),
    ],
)
def test_a_variable_of_a_wrong_shape_is_named(tmp_path, optimized, name, change):
    path = write_graph(tmp_path, optimized | {name: np.asarray(change(optimized[name]))})
    message = f"{re.escape(str(path))}: {name} has shape .*, Inception-ResNet-v1 needs "
    with pytest.raises(WeightsError, match=message):
        load_facenet(path)


def test_a_layer_with_bias_and_batch_normalization_is_refused(tmp_path, optimized):
    # It is unknown whether the bias comes before batch normalization or results from folding.
    bias = {f"{BOTTLENECK}/biases": np.zeros(8, np.float32)}
    path = write_graph(tmp_path, optimized | bias)
    with pytest.raises(WeightsError, match=f"has both {BOTTLENECK}/biases and .*BatchNorm/beta"):
        load_facenet(path)


def test_a_bottleneck_outside_the_scope_of_the_network_is_read(tmp_path, optimized, imported):
    """The published models of early 2017 have it there."""
    early = {k.replace(BOTTLENECK, "Bottleneck"): v for k, v in optimized.items()}
    weights = load_facenet(write_graph(tmp_path, early)).get_layer("Bottleneck").get_weights()
    expected = imported.get_layer("Bottleneck").get_weights()
    assert all(np.array_equal(*pair) for pair in zip(weights, expected, strict=True))


def test_a_bottleneck_outside_the_scope_is_named_as_in_the_file(tmp_path, optimized):
    early = {k.replace(BOTTLENECK, "Bottleneck"): v for k, v in optimized.items()}
    early["Bottleneck/weights"] = early["Bottleneck/weights"].T
    with pytest.raises(WeightsError, match=r": Bottleneck/weights has shape .*1792, 1792"):
        load_facenet(write_graph(tmp_path, early))


# ---- Files that are not weights ----


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".pb", "a frozen TensorFlow graph"),
        (".index", "a TensorFlow checkpoint"),
        (".h5", "a Keras HDF5 file"),
        (".weights.h5", "a Keras HDF5 file"),
        (".HDF5", "a Keras HDF5 file"),
        (".keras", "a Keras model"),
        (".pt", "a PyTorch state dict"),
        (".pth", "a PyTorch state dict"),
    ],
)
@pytest.mark.parametrize("content", [b"<html>404 not found</html>", b"404"])
def test_a_file_of_another_type_with_the_suffix_is_named(tmp_path, suffix, kind, content):
    path = tmp_path / f"page{suffix}"
    path.write_bytes(content)
    named = re.escape(str(path.with_suffix("") if suffix == ".index" else path))
    with pytest.raises(WeightsError, match=rf"{named} cannot be read as {kind}: \w+"):
        load_facenet(path)


def test_an_empty_graph_has_no_bottleneck(tmp_path):
    path = tmp_path / "empty.pb"
    path.touch()
    with pytest.raises(WeightsError, match=rf"{re.escape(str(path))} has no {BOTTLENECK}/weights"):
        load_facenet(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.onnx", "is of an unknown kind"),
        ("folder", "is a folder without a checkpoint"),
        ("nowhere.pb", "does not exist"),
        ("nowhere/model.meta", "does not exist"),
        ("prefix", "does not exist"),
    ],
)
def test_the_error_lists_the_accepted_forms(tmp_path, name, message):
    path = tmp_path / name
    (tmp_path / "weights.onnx").touch()
    (tmp_path / "folder").mkdir()
    forms = r"\(\.pb\).*its folder, prefix, \.index or \.meta.*\.h5, \.hdf5, \.keras.*\.pt, \.pth"
    with pytest.raises(WeightsError, match=f"{re.escape(str(path))} {message}; .*{forms}"):
        load_facenet(path)


def test_unusable_weights_are_unusable_input():
    assert issubclass(WeightsError, InputError)
