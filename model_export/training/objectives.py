"""What a training aims at: classes with softmax, triplets, or triplets with an old model's vectors.

An objective takes the network's outputs, {"prelogits": (n, d), "embeddings": (n, d)}, and the
targets of the batch, {"labels": (n,)}, and returns the loss and what is worth watching beside it,
by the names in `watched`.
"""

import keras
import tensorflow as tf
from keras import ops

from facecluster.model_export.training.losses import (
    MARGIN,
    center_loss,
    harmonic_triplet_loss,
    norm_loss,
    triplet_loss,
)

CENTER_RATE = 0.05  # published: alfa 0.95
# Of the logits' initial weights: src/train_softmax.py, whose last version takes Xavier's instead.
LOGITS_DEVIATION = 0.1


class Softmax(keras.layers.Layer):
    """Cross-entropy over people, with the published regularisation.

    davidsandberg/facenet, src/train_softmax.py: a linear layer from prelogits to people; the norm
    of the prelogits; the centre loss. Decay of the layer's weights is added by Keras.

    Args:
      n_people: of the training set.
      dimensions: d of the embedding.
      center_loss_factor, norm_loss_factor, weight_decay: weights of the parts of the loss.
    """

    watched = ("cross_entropy", "accuracy", "center_loss")

    def __init__(
        self,
        n_people: int,
        dimensions: int,
        center_loss_factor: float = 0.0,
        norm_loss_factor: float = 0.0,
        weight_decay: float = 0.0,
    ):
        super().__init__(dtype="float32", name="softmax")
        self.center_loss_factor, self.norm_loss_factor = center_loss_factor, norm_loss_factor
        self.logits = keras.layers.Dense(
            n_people,
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=LOGITS_DEVIATION),
            kernel_regularizer=keras.regularizers.L2(weight_decay / 2) if weight_decay else None,
            dtype="float32",
            name="Logits",
        )
        self.logits.build((None, dimensions))
        self.centers = self.add_weight(
            shape=(n_people, dimensions),
            initializer="zeros",
            trainable=False,
            aggregation="mean",
            name="centers",
        )
        self.built = True

    def call(self, outputs, targets, training=None):
        prelogits, labels = ops.cast(outputs["prelogits"], "float32"), targets["labels"]
        logits = self.logits(prelogits)
        loss = ops.mean(
            keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        )
        right = ops.equal(ops.argmax(logits, axis=1), ops.cast(labels, "int64"))
        # Each of several GPUs moves the centres by its part of the batch, and the mean of that is
        # kept: with a rate so many times as high, the centres move as they would on one.
        rate = CENTER_RATE * tf.distribute.get_strategy().num_replicas_in_sync
        center, moved = center_loss(prelogits, labels, self.centers, rate)
        watched = {
            "cross_entropy": loss,
            "accuracy": ops.mean(ops.cast(right, "float32")),
            "center_loss": center,
        }
        if self.norm_loss_factor:
            loss += self.norm_loss_factor * norm_loss(prelogits)
        if self.center_loss_factor:
            loss += self.center_loss_factor * center
            if training:
                self.centers.assign(moved)
        return loss, watched


class Triplets(keras.layers.Layer):
    """The triplet loss of the paper; `mining` as in losses.triplet_loss."""

    watched = ("active_triplets",)

    def __init__(self, margin: float = MARGIN, mining: str = "semi-hard"):
        super().__init__(dtype="float32", name="triplets")
        self.margin, self.mining = margin, mining
        self.built = True

    def call(self, outputs, targets, training=None):
        loss, active = triplet_loss(
            outputs["embeddings"], targets["labels"], self.margin, self.mining
        )
        return loss, {"active_triplets": active}


class HarmonicTriplets(Triplets):
    """Triplets with a frozen model's vectors among them, in targets["old"]: (n, d)."""

    def call(self, outputs, targets, training=None):
        loss, active = harmonic_triplet_loss(
            outputs["embeddings"],
            targets["old"],
            targets["labels"],
            self.margin,
            self.mining,
        )
        return loss, {"active_triplets": active}
