"""Imports FaceNet weights, in any of their published forms, into Inception-ResNet-v1."""

import os
from pathlib import Path

import keras
import numpy as np

from facecluster.model_export.networks.inception_resnet_v1 import (
    fold_batch_norm,
    inception_resnet_v1,
)
from facecluster.model_export.weights.facenet_names import VariableNames, layer_scope
from facecluster.model_export.weights.weight_files import WeightFile, WeightsError, read_weights


def load_facenet(path: str | os.PathLike) -> keras.Model:
    """Builds Inception-ResNet-v1 in its inference form with the weights of a file.

    Args:
      path: any of
        x.pb: a frozen TensorFlow 1 graph, as trained or with batch normalization folded;
        a folder, x.index, x.meta, or the prefix x: a TensorFlow 1 checkpoint of
          davidsandberg/facenet; of several, the one with the most steps;
        x.h5, x.keras: a model or weights, with the layer names of nyoki-mtl/keras-facenet, of
          serengil/deepface or of facecluster's two forms. Only arrays are read; code is not run;
        x.pt: a state dict of timesler/facenet-pytorch.

    Returns:
      A network as `inception_resnet_v1` builds it, with the embedding size of the file.

    Raises:
      WeightsError: names the file, and its first variable that is missing or has a wrong shape.
    """
    file = read_weights(Path(path))
    network = inception_resnet_v1(file.embedding_size())
    layers = {layer_scope(layer.name): layer for layer in network.layers if layer.weights}
    names = file.choose_names(list(layers))
    has_gamma = any(of_layer.gamma in file.arrays for of_layer in names.values())
    for scope, layer in layers.items():
        kernel_shape, bias_shape = (tuple(variable.shape) for variable in layer.weights)
        layer.set_weights(_kernel_and_bias(file, names[scope], kernel_shape, bias_shape, has_gamma))
    return network


def _kernel_and_bias(
    file: WeightFile,
    names: VariableNames,
    kernel_shape: tuple[int, ...],
    bias_shape: tuple[int, ...],
    has_gamma: bool,
) -> list[np.ndarray]:
    """A layer's weights, with its batch normalization folded in if it has one.

    Args:
      has_gamma: whether batch normalizations have a gamma. In PyTorch's files all have one, in
        TensorFlow's none.
    """
    kernel = file.take(names.kernel, kernel_shape)
    bias = next((name for name in names.biases if name in file.arrays), None)
    is_normalized = any(name in file.arrays for name in names[2:])
    if bias and is_normalized:
        raise WeightsError(f"{file.path} has both {bias} and the batch normalization {names.beta}")
    if bias:
        return [kernel, file.take(bias, bias_shape)]
    if not is_normalized:
        missing = " nor ".join((*names.biases, names.beta))
        raise WeightsError(f"{file.path} has neither {missing}")
    beta, mean, variance = (
        file.take(name, bias_shape) for name in (names.beta, names.mean, names.variance)
    )
    gamma = file.take(names.gamma, bias_shape) if has_gamma else 1.0
    return fold_batch_norm(kernel, beta, mean, variance, gamma)
