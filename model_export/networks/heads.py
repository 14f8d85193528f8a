"""Linear heads on a frozen network: fewer dimensions or another objective, trained in seconds."""

from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from facecluster.transforms.tables.codec import fit_pca


class Projection(NamedTuple):
    """An affine map x @ kernel + bias, with which a head is initialized.

    kernel: (f, d) float32; bias: (d,) float32.
    """

    kernel: np.ndarray
    bias: np.ndarray


def principal_components(
    features: np.ndarray, dimensions: int, unit_variance: bool = False
) -> Projection:
    """The projection of features, (n, f), on their first d principal components.

    Args:
      unit_variance: scale the projected features to a variance of one, averaged over their
        dimensions, as batch normalization does. Directions do not change.

    Raises:
      UsageError: there are fewer vectors or features than dimensions.
    """
    mean, components = fit_pca(features, dimensions)
    if unit_variance:
        components = components / np.sqrt(np.mean(np.square((features - mean) @ components)))
    return Projection(components, -mean @ components)


def least_squares(features: np.ndarray, targets: np.ndarray) -> Projection:
    """The least squares fit of targets, (n, d), by an affine map of features, (n, f)."""
    mean, center = features.mean(axis=0), targets.mean(axis=0)
    kernel = np.linalg.lstsq(features - mean, targets - center, rcond=1e-4)[0]
    return Projection(kernel, center - mean @ kernel)


def linear_head(
    start: Projection, dropout: float = 0.0, weight_decay: float = 0.0, seed: int = 0
) -> keras.Model:
    """Builds a head that is initialized with a projection.

    Args:
      dropout: the fraction of the features that a training step drops.
      weight_decay: w of the penalty w / 2 * sum(squares) on the kernel.
      seed: of the dropout.

    Returns:
      A model from features (n, f) to unit vectors (n, d), with a layer `prelogits` before
      normalization.
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


def on_backbone(backbone: keras.Model, head: keras.Model) -> keras.Model:
    """One network of a frozen backbone and its head; the head's layers are top-level layers."""
    crops = keras.Input(backbone.input_shape[1:], name="crops")
    x = backbone(crops)
    for layer in head.layers[1:]:
        x = layer(x)
    return keras.Model(crops, x, name="WithHead")
