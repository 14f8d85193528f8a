"""A linear head on a frozen network: fewer dimensions, or other aims, at the price of seconds."""

from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from facecluster.transforms.tables.codec import fit_pca


class Projection(NamedTuple):
    """What a head starts from: x goes to x @ kernel + bias, (f, d) and (d,) float32."""

    kernel: np.ndarray
    bias: np.ndarray


def principal_components(
    features: np.ndarray, dimensions: int, unit_variance: bool = False
) -> Projection:
    """The projection of features, (n, f), on their first d principal components.

    Args:
      unit_variance: scaled so that the results have a variance of one, on average over their
        dimensions, as those of a batch normalisation have. Directions stay what they are.

    Raises:
      UsageError: there are fewer vectors or features than dimensions.
    """
    mean, components = fit_pca(features, dimensions)
    if unit_variance:
        components = components / np.sqrt(np.mean(np.square((features - mean) @ components)))
    return Projection(components, -mean @ components)


def least_squares(features: np.ndarray, targets: np.ndarray) -> Projection:
    """The projection that brings features, (n, f), nearest to their targets, (n, d)."""
    mean, centre = features.mean(axis=0), targets.mean(axis=0)
    kernel = np.linalg.lstsq(features - mean, targets - centre, rcond=1e-4)[0]
    return Projection(kernel, centre - mean @ kernel)


def linear_head(
    start: Projection, dropout: float = 0.0, weight_decay: float = 0.0, seed: int = 0
) -> keras.Model:
    """A head that starts as a projection.

    Args:
      dropout: the share of the features that a training step leaves out.
      weight_decay: w of the penalty w / 2 * sum(squares) on the kernel.
      seed: of the dropout.

    Returns:
      A model from features (n, f) to unit vectors (n, d), with a layer `prelogits` before
      normalisation.
    """
    n_features, dimensions = start.kernel.shape
    x = inputs = keras.Input((n_features,), name="features")
    if dropout:
        x = layers.Dropout(dropout, seed=seed, name="Dropout")(x)
    decay = keras.regularizers.L2(weight_decay / 2) if weight_decay else None
    dense = layers.Dense(dimensions, kernel_regularizer=decay, name="head", dtype="float32")
    x = layers.Activation("linear", dtype="float32", name="prelogits")(dense(x))
    x = layers.UnitNormalization(dtype="float32", name="embeddings")(x)
    dense.set_weights(list(start))
    return keras.Model(inputs, x, name="Head")


def on_trunk(trunk: keras.Model, head: keras.Model) -> keras.Model:
    """One network of the frozen one and its head, with the head's layers in sight."""
    crops = keras.Input(trunk.input_shape[1:], name="crops")
    x = trunk(crops)
    for layer in head.layers[1:]:
        x = layer(x)
    return keras.Model(crops, x, name="WithHead")
