"""Inception-ResNet-v1, the network that turns an aligned face into its embedding.

The architecture of Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning" (arXiv 1602.07261, figures 10 to 15), in the variant of the published
TensorFlow FaceNet: 160 x 160 input, average pooling over the last grid, a linear bottleneck to the
embedding and L2 normalisation (arXiv 1503.03832, section 3). Layer names are the published
checkpoints' scopes with dots for slashes.

This is the inference form: every convolution carries a bias into which its batch normalisation is
folded.
"""

import keras
from keras import layers

INPUT_SIZE = 160  # px, height and width of a crop
BLOCK35_SCALE, BLOCK17_SCALE, BLOCK8_SCALE = 0.17, 0.10, 0.20  # residual scaling, section 3.3


def inception_resnet_v1(embedding_size: int = 512) -> keras.Model:
    """Builds the network with random weights.

    Returns:
      A model from standardised crops (n, 160, 160, 3) float32, RGB, to unit vectors
      (n, embedding_size) float32.
    """
    crops = keras.Input((INPUT_SIZE, INPUT_SIZE, 3), name="crops")
    x = _stem(crops)
    for i in range(1, 6):
        x = _block35(x, f"Repeat.block35_{i}")
    x = _reduction_a(x, "Mixed_6a")
    for i in range(1, 11):
        x = _block17(x, f"Repeat_1.block17_{i}")
    x = _reduction_b(x, "Mixed_7a")
    for i in range(1, 6):
        x = _block8(x, f"Repeat_2.block8_{i}", BLOCK8_SCALE)
    x = _block8(x, "Block8", scale=1.0, activation=None)
    x = layers.GlobalAveragePooling2D(name="AvgPool_1a_8x8")(x)
    x = layers.Dense(embedding_size, name="Bottleneck")(x)
    x = layers.UnitNormalization(name="embeddings")(x)
    return keras.Model(crops, x, name="InceptionResnetV1")


def _conv(x, filters, kernel_size, name, strides=1, padding="same", activation="relu"):
    return layers.Conv2D(filters, kernel_size, strides, padding, activation=activation, name=name)(
        x
    )


def _stem(x):
    x = _conv(x, 32, 3, "Conv2d_1a_3x3", strides=2, padding="valid")  # 79 x 79
    x = _conv(x, 32, 3, "Conv2d_2a_3x3", padding="valid")
    x = _conv(x, 64, 3, "Conv2d_2b_3x3")
    x = layers.MaxPooling2D(3, 2, name="MaxPool_3a_3x3")(x)  # 38 x 38
    x = _conv(x, 80, 1, "Conv2d_3b_1x1", padding="valid")
    x = _conv(x, 192, 3, "Conv2d_4a_3x3", padding="valid")
    return _conv(x, 256, 3, "Conv2d_4b_3x3", strides=2, padding="valid")  # 17 x 17


def _block35(x, name):
    branch_0 = _conv(x, 32, 1, f"{name}.Branch_0.Conv2d_1x1")
    branch_1 = _conv(x, 32, 1, f"{name}.Branch_1.Conv2d_0a_1x1")
    branch_1 = _conv(branch_1, 32, 3, f"{name}.Branch_1.Conv2d_0b_3x3")
    branch_2 = _conv(x, 32, 1, f"{name}.Branch_2.Conv2d_0a_1x1")
    branch_2 = _conv(branch_2, 32, 3, f"{name}.Branch_2.Conv2d_0b_3x3")
    branch_2 = _conv(branch_2, 32, 3, f"{name}.Branch_2.Conv2d_0c_3x3")
    return _residual(x, [branch_0, branch_1, branch_2], name, BLOCK35_SCALE)


def _block17(x, name):
    branch_0 = _conv(x, 128, 1, f"{name}.Branch_0.Conv2d_1x1")
    branch_1 = _conv(x, 128, 1, f"{name}.Branch_1.Conv2d_0a_1x1")
    branch_1 = _conv(branch_1, 128, (1, 7), f"{name}.Branch_1.Conv2d_0b_1x7")
    branch_1 = _conv(branch_1, 128, (7, 1), f"{name}.Branch_1.Conv2d_0c_7x1")
    return _residual(x, [branch_0, branch_1], name, BLOCK17_SCALE)


def _block8(x, name, scale, activation="relu"):
    branch_0 = _conv(x, 192, 1, f"{name}.Branch_0.Conv2d_1x1")
    branch_1 = _conv(x, 192, 1, f"{name}.Branch_1.Conv2d_0a_1x1")
    branch_1 = _conv(branch_1, 192, (1, 3), f"{name}.Branch_1.Conv2d_0b_1x3")
    branch_1 = _conv(branch_1, 192, (3, 1), f"{name}.Branch_1.Conv2d_0c_3x1")
    return _residual(x, [branch_0, branch_1], name, scale, activation)


def _residual(x, branches, name, scale, activation="relu"):
    mixed = layers.Concatenate(name=f"{name}.concat")(branches)
    up = _conv(mixed, x.shape[-1], 1, f"{name}.Conv2d_1x1", activation=None)
    x = layers.Add(name=f"{name}.add")([x, layers.Rescaling(scale, name=f"{name}.mul")(up)])
    return layers.Activation(activation, name=f"{name}.activation")(x)


def _reduction_a(x, name):  # to 8 x 8
    branch_0 = _conv(x, 384, 3, f"{name}.Branch_0.Conv2d_1a_3x3", strides=2, padding="valid")
    branch_1 = _conv(x, 192, 1, f"{name}.Branch_1.Conv2d_0a_1x1")
    branch_1 = _conv(branch_1, 192, 3, f"{name}.Branch_1.Conv2d_0b_3x3")
    branch_1 = _conv(branch_1, 256, 3, f"{name}.Branch_1.Conv2d_1a_3x3", strides=2, padding="valid")
    branch_2 = layers.MaxPooling2D(3, 2, name=f"{name}.Branch_2.MaxPool_1a_3x3")(x)
    return layers.Concatenate(name=f"{name}.concat")([branch_0, branch_1, branch_2])


def _reduction_b(x, name):  # to 3 x 3
    branch_0 = _conv(x, 256, 1, f"{name}.Branch_0.Conv2d_0a_1x1")
    branch_0 = _conv(branch_0, 384, 3, f"{name}.Branch_0.Conv2d_1a_3x3", strides=2, padding="valid")
    branch_1 = _conv(x, 256, 1, f"{name}.Branch_1.Conv2d_0a_1x1")
    branch_1 = _conv(branch_1, 256, 3, f"{name}.Branch_1.Conv2d_1a_3x3", strides=2, padding="valid")
    branch_2 = _conv(x, 256, 1, f"{name}.Branch_2.Conv2d_0a_1x1")
    branch_2 = _conv(branch_2, 256, 3, f"{name}.Branch_2.Conv2d_0b_3x3")
    branch_2 = _conv(branch_2, 256, 3, f"{name}.Branch_2.Conv2d_1a_3x3", strides=2, padding="valid")
    branch_3 = layers.MaxPooling2D(3, 2, name=f"{name}.Branch_3.MaxPool_1a_3x3")(x)
    return layers.Concatenate(name=f"{name}.concat")([branch_0, branch_1, branch_2, branch_3])
