"""MTCNN's three networks: proposal, refinement, output.

Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks"
(arXiv 1604.02878, figure 2), with the layer sizes and padding of the published weights. The cascade
that uses them is transforms/faces/mtcnn.py.
"""

import keras
from keras import layers

P_NET_SIZE, R_NET_SIZE, O_NET_SIZE = 12, 24, 48  # px, input of each network


def p_net() -> keras.Model:
    """The proposal network, fully convolutional: windows of 12 x 12 with a stride of 2 px.

    Returns:
      A model from standardized photos (n, h, w, 3) to face probabilities (n, h', w', 1) and box
      corrections (n, h', w', 4), h' = ceil((h - 2) / 2) - 4 and likewise w'.
    """
    photos = keras.Input((None, None, 3), name="photos")
    x = _conv(photos, 10, 3, "conv1")
    x = layers.MaxPooling2D(2, 2, padding="same", name="pool1")(x)
    x = _conv(x, 16, 3, "conv2")
    x = _conv(x, 32, 3, "conv3")
    corrections = layers.Conv2D(4, 1, name="conv4-1")(x)
    scores = layers.Conv2D(2, 1, activation="softmax", name="conv4-2")(x)
    return keras.Model(photos, [scores[..., 1:], corrections], name="p_net")


def r_net() -> keras.Model:
    """The refinement network.

    Returns:
      A model from standardized crops (n, 24, 24, 3) to face probabilities (n, 1) and box
      corrections (n, 4).
    """
    crops = keras.Input((R_NET_SIZE, R_NET_SIZE, 3), name="crops")
    x = _conv(crops, 28, 3, "conv1")
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    x = _conv(x, 48, 3, "conv2")
    x = layers.MaxPooling2D(3, 2, name="pool2")(x)
    x = _conv(x, 64, 2, "conv3")
    x = _dense(layers.Flatten(name="flatten")(x), 128, "fc4")
    corrections = layers.Dense(4, name="fc5-1")(x)
    scores = layers.Dense(2, activation="softmax", name="fc5-2")(x)
    return keras.Model(crops, [scores[..., 1:], corrections], name="r_net")


def o_net() -> keras.Model:
    """The output network.

    Returns:
      A model from standardized crops (n, 48, 48, 3) to face probabilities (n, 1), box corrections
      (n, 4) and landmarks (n, 10): five x, then five y, as fractions of the crop's width and
      height.
    """
    crops = keras.Input((O_NET_SIZE, O_NET_SIZE, 3), name="crops")
    x = _conv(crops, 32, 3, "conv1")
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    x = _conv(x, 64, 3, "conv2")
    x = layers.MaxPooling2D(3, 2, name="pool2")(x)
    x = _conv(x, 64, 3, "conv3")
    x = layers.MaxPooling2D(2, 2, padding="same", name="pool3")(x)
    x = _conv(x, 128, 2, "conv4")
    x = _dense(layers.Flatten(name="flatten")(x), 256, "fc5")
    corrections = layers.Dense(4, name="fc6-1")(x)
    landmarks = layers.Dense(10, name="fc6-2")(x)
    scores = layers.Dense(2, activation="softmax", name="fc6-3")(x)
    return keras.Model(crops, [scores[..., 1:], corrections, landmarks], name="o_net")


def _conv(x, filters, kernel_size, name):
    x = layers.Conv2D(filters, kernel_size, name=name)(x)
    return layers.PReLU(shared_axes=[1, 2], name=f"{name}-prelu")(x)


def _dense(x, units, name):
    return layers.PReLU(name=f"{name}-prelu")(layers.Dense(units, name=name)(x))
