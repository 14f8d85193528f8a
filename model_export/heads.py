"""A linear head on a frozen network: fewer dimensions, or other aims, at the price of seconds."""

import keras
import numpy as np
from keras import layers

from facecluster.transforms.codec import fit_pca


def linear_head(
    features: np.ndarray,
    dimensions: int,
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    seed: int = 0,
    unit_variance: bool = False,
) -> keras.Model:
    """A head that starts as the projection on the features' first principal components.

    Args:
      features: (n, f) float32, the frozen network's vectors of the training set.
      dimensions: d, at most f.
      dropout: the share of the features that a training step leaves out.
      weight_decay: w of the penalty w / 2 * sum(squares) on the projection.
      seed: of the dropout.

    Returns:
      A model from (n, f) to unit vectors (n, d), with a layer `prelogits` before normalisation.

    Raises:
      CodecError: there are fewer vectors or features than dimensions.
    """
    mean, components = fit_pca(features, dimensions)
    x = inputs = keras.Input((features.shape[1],), name="features")
    if dropout:
        x = layers.Dropout(dropout, seed=seed, name="Dropout")(x)
    decay = keras.regularizers.L2(weight_decay / 2) if weight_decay else None
    dense = layers.Dense(dimensions, kernel_regularizer=decay, name="head", dtype="float32")
    x = layers.Activation("linear", dtype="float32", name="prelogits")(dense(x))
    x = layers.UnitNormalization(dtype="float32", name="embeddings")(x)
    projected = (features - mean) @ components
    components = components / (np.sqrt(np.mean(np.square(projected))) if unit_variance else 1)
    dense.set_weights([components, -mean @ components])
    return keras.Model(inputs, x, name="Head")


def on_trunk(trunk: keras.Model, head: keras.Model) -> keras.Model:
    """One network of the frozen one and its head, with the head's layers in sight."""
    crops = keras.Input(trunk.input_shape[1:], name="crops")
    x = trunk(crops)
    for layer in head.layers[1:]:
        x = layer(x)
    return keras.Model(crops, x, name="WithHead")
