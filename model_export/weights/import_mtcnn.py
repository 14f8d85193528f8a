"""Imports the published weights of MTCNN into its three networks; every array must be used."""

import os

import joblib
import keras
import numpy as np

from facecluster.model_export.networks import mtcnn
from facecluster.model_export.weights.weight_files import WeightsError


def load_mtcnn(folder: str | os.PathLike) -> dict[str, keras.Model]:
    """Builds MTCNN's networks with the weights of the PyPI package mtcnn 1.0.0.

    Args:
      folder: contains pnet.lz4, rnet.lz4 and onet.lz4. They are pickles: pass only trusted files.

    Returns:
      {"p_net": ..., "r_net": ..., "o_net": ...}

    Raises:
      WeightsError: names the file with a wrong number of arrays, or with one of a wrong shape.
    """
    networks = {"p_net": mtcnn.p_net(), "r_net": mtcnn.r_net(), "o_net": mtcnn.o_net()}
    for name, network in networks.items():
        path = os.path.join(folder, name.replace("_", "") + ".lz4")
        weights = joblib.load(path)
        layers = _sort_as_published(network)
        expected = sum(len(layer.weights) for layer in layers)
        if len(weights) != expected:
            raise WeightsError(f"{path} holds {len(weights)} arrays, {name} has {expected}")
        for layer in layers:
            values, weights = weights[: len(layer.weights)], weights[len(layer.weights) :]
            if layer.name in ("fc4", "fc5"):  # their input is flattened as width, height, channel
                grid = network.get_layer("flatten").input.shape[1:]
                values[0] = _swap_width_and_height(values[0], grid)
            _set_weights(layer, values, f"{path}: {layer.name}")
    return networks


def _sort_as_published(network: keras.Model) -> list[keras.Layer]:
    """By name: each layer, its PReLU, then the outputs by number (conv1, conv1-prelu, ...)."""
    layers = [layer for layer in network.layers if layer.weights]
    return sorted(layers, key=lambda layer: layer.name.lstrip("convf"))


def _swap_width_and_height(kernel: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """Reorders the rows of a dense kernel for an input flattened as height, width, channel."""
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
