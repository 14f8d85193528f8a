"""Inception-ResNet-v1, the network that turns an aligned face into its embedding.

The architecture of Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning" (arXiv 1602.07261, figures 10 to 15), in the variant of the published
TensorFlow FaceNet: 160 x 160 input, average pooling over the last grid, a linear bottleneck to the
embedding and L2 normalization (arXiv 1503.03832, section 3). Layer names are the published
checkpoints' scopes with dashes in place of slashes: Keras's PyTorch backend refuses dots.

The network has two forms. For training, each convolution except the last of a residual block is
followed by batch normalization. For inference, that is folded into the convolution and its bias.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

INPUT_SIZE = 160  # px, height and width of a crop
BLOCK35_SCALE, BLOCK17_SCALE, BLOCK8_SCALE = 0.17, 0.10, 0.20  # residual scaling, section 3.3
BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON = 0.995, 0.001  # published, src/models


@dataclass(frozen=True)
class _Form:
    """The differences between the forms of the network."""

    is_training: bool = False
    width: float = 1.0
    weight_decay: float = 0.0

    def filters(self, filters: int) -> int:
        return max(round(filters * self.width), 1)

    def regularizer(self):
        return keras.regularizers.L2(self.weight_decay / 2) if self.weight_decay else None


def inception_resnet_v1(
    embedding_size: int = 512, input_size: int = INPUT_SIZE, width: float = 1.0
) -> keras.Model:
    """Builds the network in its inference form, with random weights.

    Args:
      embedding_size: d, the dimensions of an embedding.
      input_size: px, height and width of a crop; the published networks have 160.
      width: the number of filters in every layer, as a fraction of the published number.

    Returns:
      A model from standardized crops (n, input_size, input_size, 3) float32, RGB, to unit vectors
      (n, d) float32.
    """
    return _build(embedding_size, input_size, _Form(width=width), dropout=0.0)


def inception_resnet_v1_for_training(
    embedding_size: int = 512,
    input_size: int = INPUT_SIZE,
    width: float = 1.0,
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    """Builds the network in its training form, with random weights.

    Args:
      embedding_size, input_size, width: see `inception_resnet_v1`.
      dropout: the fraction of the pooled features that a training step drops.
      weight_decay: w of the penalty w / 2 * sum(squares) on all kernels, as in the published code.
      seed: of the dropout.

    Returns:
      A model like that of `inception_resnet_v1`, whose layer `prelogits` returns the vectors before
      normalization.
    """
    form = _Form(is_training=True, width=width, weight_decay=weight_decay)
    return _build(embedding_size, input_size, form, dropout, seed)


def fold(network: keras.Model, width: float = 1.0) -> keras.Model:
    """Converts a network of this width from training to inference form; same embeddings."""
    folded = inception_resnet_v1(network.output_shape[-1], network.input_shape[1], width)
    for layer in folded.layers:
        if layer.weights:
            layer.set_weights(_folded_weights(network, layer.name))
    return folded


def fold_batch_norm(
    kernel: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    gamma: np.ndarray | float = 1.0,
) -> list[np.ndarray]:
    """Folds batch normalization into a layer: [kernel, bias] with the same outputs.

    (x W - mean) gamma / sqrt(variance + epsilon) + beta; FaceNet has no gamma.

    Args:
      kernel: (..., filters) float32.
      beta, mean, variance: (filters,) each.
      gamma: (filters,), or 1.
    """
    scale = gamma / (variance + BATCH_NORM_EPSILON) ** 0.5
    return [kernel * scale, beta - mean * scale]


def _folded_weights(network: keras.Model, name: str) -> list:
    weights = network.get_layer(name).get_weights()
    if len(weights) == 2:  # kernel and bias: no batch normalization follows
        return weights
    norm = network.get_layer(f"{name}-BatchNorm")
    return fold_batch_norm(weights[0], *norm.get_weights())


def _build(embedding_size, input_size, form, dropout, seed=0) -> keras.Model:
    crops = keras.Input((input_size, input_size, 3), name="crops")
    x = _stem(crops, form)
    for i in range(1, 6):
        x = _block35(x, f"Repeat-block35_{i}", form)
    x = _reduction_a(x, "Mixed_6a", form)
    for i in range(1, 11):
        x = _block17(x, f"Repeat_1-block17_{i}", form)
    x = _reduction_b(x, "Mixed_7a", form)
    for i in range(1, 6):
        x = _block8(x, f"Repeat_2-block8_{i}", form, BLOCK8_SCALE)
    x = _block8(x, "Block8", form, scale=1.0, activation="linear")
    x = layers.GlobalAveragePooling2D(name="AvgPool_1a_8x8")(x)
    if dropout:
        x = layers.Dropout(dropout, seed=seed, name="Dropout")(x)
    x = layers.Dense(
        embedding_size,
        use_bias=not form.is_training,
        kernel_regularizer=form.regularizer(),
        name="Bottleneck",
    )(x)
    if form.is_training:
        x = _batch_norm(x, "Bottleneck")
    x = layers.Activation("linear", dtype="float32", name="prelogits")(x)
    x = layers.UnitNormalization(dtype="float32", name="embeddings")(x)
    return keras.Model(crops, x, name="InceptionResnetV1")


def _batch_norm(x, name):
    return layers.BatchNormalization(
        momentum=BATCH_NORM_MOMENTUM,
        epsilon=BATCH_NORM_EPSILON,
        scale=False,
        name=f"{name}-BatchNorm",
    )(x)


def _conv(x, filters, kernel_size, name, form, strides=1, padding="same"):
    """A convolution, batch normalization unless it is folded, and ReLU."""
    x = layers.Conv2D(
        form.filters(filters),
        kernel_size,
        strides,
        padding,
        use_bias=not form.is_training,
        kernel_regularizer=form.regularizer(),
        name=name,
    )(x)
    if form.is_training:
        x = _batch_norm(x, name)
    return layers.Activation("relu", name=f"{name}-Relu")(x)


def _stem(x, form):
    x = _conv(x, 32, 3, "Conv2d_1a_3x3", form, strides=2, padding="valid")  # 79 x 79
    x = _conv(x, 32, 3, "Conv2d_2a_3x3", form, padding="valid")
    x = _conv(x, 64, 3, "Conv2d_2b_3x3", form)
    x = layers.MaxPooling2D(3, 2, name="MaxPool_3a_3x3")(x)  # 38 x 38
    x = _conv(x, 80, 1, "Conv2d_3b_1x1", form, padding="valid")
    x = _conv(x, 192, 3, "Conv2d_4a_3x3", form, padding="valid")
    return _conv(x, 256, 3, "Conv2d_4b_3x3", form, strides=2, padding="valid")  # 17 x 17


def _block35(x, name, form):
    branch_0 = _conv(x, 32, 1, f"{name}-Branch_0-Conv2d_1x1", form)
    branch_1 = _conv(x, 32, 1, f"{name}-Branch_1-Conv2d_0a_1x1", form)
    branch_1 = _conv(branch_1, 32, 3, f"{name}-Branch_1-Conv2d_0b_3x3", form)
    branch_2 = _conv(x, 32, 1, f"{name}-Branch_2-Conv2d_0a_1x1", form)
    branch_2 = _conv(branch_2, 32, 3, f"{name}-Branch_2-Conv2d_0b_3x3", form)
    branch_2 = _conv(branch_2, 32, 3, f"{name}-Branch_2-Conv2d_0c_3x3", form)
    return _residual(x, [branch_0, branch_1, branch_2], name, form, BLOCK35_SCALE)


def _block17(x, name, form):
    branch_0 = _conv(x, 128, 1, f"{name}-Branch_0-Conv2d_1x1", form)
    branch_1 = _conv(x, 128, 1, f"{name}-Branch_1-Conv2d_0a_1x1", form)
    branch_1 = _conv(branch_1, 128, (1, 7), f"{name}-Branch_1-Conv2d_0b_1x7", form)
    branch_1 = _conv(branch_1, 128, (7, 1), f"{name}-Branch_1-Conv2d_0c_7x1", form)
    return _residual(x, [branch_0, branch_1], name, form, BLOCK17_SCALE)


def _block8(x, name, form, scale, activation="relu"):
    branch_0 = _conv(x, 192, 1, f"{name}-Branch_0-Conv2d_1x1", form)
    branch_1 = _conv(x, 192, 1, f"{name}-Branch_1-Conv2d_0a_1x1", form)
    branch_1 = _conv(branch_1, 192, (1, 3), f"{name}-Branch_1-Conv2d_0b_1x3", form)
    branch_1 = _conv(branch_1, 192, (3, 1), f"{name}-Branch_1-Conv2d_0c_3x1", form)
    return _residual(x, [branch_0, branch_1], name, form, scale, activation)


def _residual(x, branches, name, form, scale, activation="relu"):
    mixed = layers.Concatenate(name=f"{name}-concat")(branches)
    up = layers.Conv2D(
        x.shape[-1], 1, kernel_regularizer=form.regularizer(), name=f"{name}-Conv2d_1x1"
    )(mixed)
    x = layers.Add(name=f"{name}-add")([x, layers.Rescaling(scale, name=f"{name}-mul")(up)])
    return layers.Activation(activation, name=f"{name}-activation")(x)


def _reduction_a(x, name, form):  # to 8 x 8
    branch_0 = _conv(x, 384, 3, f"{name}-Branch_0-Conv2d_1a_3x3", form, strides=2, padding="valid")
    branch_1 = _conv(x, 192, 1, f"{name}-Branch_1-Conv2d_0a_1x1", form)
    branch_1 = _conv(branch_1, 192, 3, f"{name}-Branch_1-Conv2d_0b_3x3", form)
    branch_1 = _conv(
        branch_1, 256, 3, f"{name}-Branch_1-Conv2d_1a_3x3", form, strides=2, padding="valid"
    )
    branch_2 = layers.MaxPooling2D(3, 2, name=f"{name}-Branch_2-MaxPool_1a_3x3")(x)
    return layers.Concatenate(name=f"{name}-concat")([branch_0, branch_1, branch_2])


def _reduction_b(x, name, form):  # to 3 x 3
    branch_0 = _conv(x, 256, 1, f"{name}-Branch_0-Conv2d_0a_1x1", form)
    branch_0 = _conv(
        branch_0, 384, 3, f"{name}-Branch_0-Conv2d_1a_3x3", form, strides=2, padding="valid"
    )
    branch_1 = _conv(x, 256, 1, f"{name}-Branch_1-Conv2d_0a_1x1", form)
    branch_1 = _conv(
        branch_1, 256, 3, f"{name}-Branch_1-Conv2d_1a_3x3", form, strides=2, padding="valid"
    )
    branch_2 = _conv(x, 256, 1, f"{name}-Branch_2-Conv2d_0a_1x1", form)
    branch_2 = _conv(branch_2, 256, 3, f"{name}-Branch_2-Conv2d_0b_3x3", form)
    branch_2 = _conv(
        branch_2, 256, 3, f"{name}-Branch_2-Conv2d_1a_3x3", form, strides=2, padding="valid"
    )
    branch_3 = layers.MaxPooling2D(3, 2, name=f"{name}-Branch_3-MaxPool_1a_3x3")(x)
    return layers.Concatenate(name=f"{name}-concat")([branch_0, branch_1, branch_2, branch_3])
