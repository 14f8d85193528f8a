"""Published weights into our Keras networks, every variable accounted for."""

import os
from collections.abc import Mapping

import joblib
import keras
import numpy as np

from facecluster.model_export import mtcnn
from facecluster.model_export.inception_resnet_v1 import inception_resnet_v1
from facecluster.model_export.registry import FetchError

SCOPE = "InceptionResnetV1/"


class WeightsError(FetchError):
    """Weights that are not the network's: a variable is missing or has another shape."""


def facenet_from_frozen_graph(path: str | os.PathLike) -> keras.Model:
    """Inception-ResNet-v1 with the weights of a frozen TensorFlow 1 graph.

    The convolutions' batch normalisation is already folded in such a graph (`Conv2D_bn_offset`);
    the bottleneck's is folded here.

    Raises:
      WeightsError: names the first variable that the graph lacks or holds in another shape.
    """
    constants = _constants_of_frozen_graph(path)
    if f"{SCOPE}Bottleneck/weights" not in constants:
        raise WeightsError(f"{path} has no {SCOPE}Bottleneck/weights: is it a FaceNet graph?")
    network = inception_resnet_v1(constants[f"{SCOPE}Bottleneck/weights"].shape[1])
    for layer in _layers_with_weights(network):
        scope = SCOPE + layer.name.replace(".", "/")
        if layer.name == "Bottleneck":
            weights = _folded_bottleneck(constants, scope)
        else:
            folded = f"{scope}/Conv2D_bn_offset"
            bias = folded if folded in constants else f"{scope}/biases"
            weights = [_constant(constants, f"{scope}/weights"), _constant(constants, bias)]
        _set_weights(layer, weights, scope)
    return network


def mtcnn_from_published(folder: str | os.PathLike) -> dict[str, keras.Model]:
    """MTCNN's networks with the weights that the PyPI package mtcnn 1.0.0 carries.

    Args:
      folder: holds pnet.lz4, rnet.lz4 and onet.lz4. They are pickles: pass only trusted files.

    Returns:
      {"p_net": ..., "r_net": ..., "o_net": ...}
    """
    networks = {"p_net": mtcnn.p_net(), "r_net": mtcnn.r_net(), "o_net": mtcnn.o_net()}
    for name, network in networks.items():
        path = os.path.join(folder, name.replace("_", "") + ".lz4")
        weights = joblib.load(path)
        layers = _in_published_order(network)
        expected = sum(len(layer.weights) for layer in layers)
        if len(weights) != expected:
            raise WeightsError(f"{path} holds {len(weights)} arrays, {name} has {expected}")
        for layer in layers:
            values, weights = weights[: len(layer.weights)], weights[len(layer.weights) :]
            if layer.name in ("fc4", "fc5"):  # flattened as width, height, channel; ours h, w, c
                grid = network.get_layer("flatten").input.shape[1:]
                values[0] = _height_first(values[0], grid)
            _set_weights(layer, values, f"{path}: {layer.name}")
    return networks


def _constants_of_frozen_graph(path) -> dict[str, np.ndarray]:
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef()
    with open(path, "rb") as file:
        try:
            graph.ParseFromString(file.read())
        except Exception as error:
            raise WeightsError(f"{path} is not a frozen TensorFlow graph: {error}") from error
    return {
        node.name: tf.make_ndarray(node.attr["value"].tensor)
        for node in graph.node
        if node.op == "Const"
    }


def _constant(constants: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in constants:
        raise WeightsError(f"the weights lack {name}")
    return constants[name]


def _folded_bottleneck(constants, scope) -> list[np.ndarray]:
    """x W normalised to (x W - mean) / sqrt(variance + 0.001) + beta, as one kernel and bias."""
    norm = f"{scope}/BatchNorm"
    scale = 1 / np.sqrt(_constant(constants, f"{norm}/moving_variance") + 0.001)
    kernel = _constant(constants, f"{scope}/weights") * scale
    mean = _constant(constants, f"{norm}/moving_mean")
    return [kernel, _constant(constants, f"{norm}/beta") - mean * scale]


def _layers_with_weights(network: keras.Model) -> list[keras.Layer]:
    return [layer for layer in network.layers if layer.weights]


def _in_published_order(network: keras.Model) -> list[keras.Layer]:
    """By name: each layer, its PReLU, then the heads by number (conv1, conv1.prelu, ...)."""
    return sorted(_layers_with_weights(network), key=lambda layer: layer.name.lstrip("convf"))


def _height_first(kernel: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = grid
    kernel = kernel.reshape(width, height, channels, -1)
    return kernel.transpose(1, 0, 2, 3).reshape(height * width * channels, -1)


def _set_weights(layer: keras.Layer, weights: list[np.ndarray], name: str) -> None:
    for variable, value in zip(layer.weights, weights, strict=True):
        if tuple(variable.shape) != value.shape:
            raise WeightsError(
                f"{name}: {variable.name} has shape {value.shape}, "
                f"the network's is {tuple(variable.shape)}"
            )
    layer.set_weights(weights)
