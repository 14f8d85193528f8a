"""Published weights into our Keras networks, every variable accounted for."""

import os

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

    Batch normalisation that is not folded into its layer yet is folded here: a graph as trained
    has it everywhere, one optimised for inference only after the bottleneck.

    Raises:
      WeightsError: names the first variable that the graph lacks or holds in another shape.
    """
    constants = _Constants(path)
    network = inception_resnet_v1(constants[f"{SCOPE}Bottleneck/weights"].shape[-1])
    for layer in _layers_with_weights(network):
        scope = SCOPE + layer.name.replace(".", "/")
        _set_weights(layer, _kernel_and_bias(constants, scope), f"{path}: {scope}")
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


class _Constants(dict):
    """The constants of a frozen graph: {name: array}."""

    def __init__(self, path):
        import tensorflow as tf

        self.path = path
        graph = tf.compat.v1.GraphDef()
        with open(path, "rb") as file:
            try:
                graph.ParseFromString(file.read())
            except Exception as error:
                raise WeightsError(f"{path} is not a frozen TensorFlow graph: {error}") from error
        super().__init__(
            (node.name, tf.make_ndarray(node.attr["value"].tensor))
            for node in graph.node
            if node.op == "Const"
        )

    def __missing__(self, name):
        raise WeightsError(f"{self.path} has no {name}: is it a frozen FaceNet graph?")


def _kernel_and_bias(constants: _Constants, scope: str) -> list[np.ndarray]:
    """A layer's, with its batch normalisation folded in.

    x W normalised is (x W - mean) gamma / sqrt(variance + 0.001) + beta; FaceNet has no gamma.
    """
    kernel, norm = constants[f"{scope}/weights"], f"{scope}/BatchNorm"
    if f"{norm}/beta" not in constants:
        folded = f"{scope}/Conv2D_bn_offset"
        return [kernel, constants[folded if folded in constants else f"{scope}/biases"]]
    beta, mean, variance = (
        constants[f"{norm}/{name}"] for name in ("beta", "moving_mean", "moving_variance")
    )
    if not beta.shape == mean.shape == variance.shape == kernel.shape[-1:]:
        raise WeightsError(f"{constants.path}: {norm} does not fit weights of {kernel.shape}")
    scale = constants.get(f"{norm}/gamma", 1.0) / np.sqrt(variance + 0.001)
    return [kernel * scale, beta - mean * scale]


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
