"""Training objectives as Keras layers: softmax classification, triplets, harmonic triplets.

An objective takes the network's outputs, {"prelogits": (n, d), "embeddings": (n, d)}, and the
targets of the batch, {"labels": (n,)}. It returns the loss and the values to monitor, by the names
in `monitored`.
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
# Standard deviation of the logits' initial weights, as in src/train_softmax.py; its last version
# uses Xavier initialization instead.
LOGITS_DEVIATION = 0.1


class Softmax(keras.layers.Layer):
    """Cross-entropy over people, with the published regularization.

    davidsandberg/facenet, src/train_softmax.py: a linear layer from prelogits to people, the norm
    of the prelogits, and the center loss. Keras adds the weight decay of the layer.

    Args:
      n_people: of the training set.
      dimensions: d of the embedding.
      center_loss_factor, norm_loss_factor, weight_decay: weights of the terms of the loss.
    """

    monitored = ("cross_entropy", "accuracy", "center_loss")

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
        is_correct = ops.equal(ops.argmax(logits, axis=1), ops.cast(labels, "int64"))
        # Each GPU moves the centers by its part of the batch, and Keras keeps the mean over GPUs.
        # Multiplying the rate by the number of GPUs gives the same step as a single GPU.
        rate = CENTER_RATE * tf.distribute.get_strategy().num_replicas_in_sync
        center, new_centers = center_loss(prelogits, labels, self.centers, rate)
        monitored = {
            "cross_entropy": loss,
            "accuracy": ops.mean(ops.cast(is_correct, "float32")),
            "center_loss": center,
        }
        if self.norm_loss_factor:
            loss += self.norm_loss_factor * norm_loss(prelogits)
        if self.center_loss_factor:
            loss += self.center_loss_factor * center
            if training:
                self.centers.assign(new_centers)
        return loss, monitored


class Triplets(keras.layers.Layer):
    """The triplet loss of the FaceNet paper; `mining` as in losses.triplet_loss."""

    monitored = ("active_triplets",)

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
    """The harmonic triplet loss; the old model's vectors are in targets["old"], (n, d)."""

    def call(self, outputs, targets, training=None):
        loss, active = harmonic_triplet_loss(
            outputs["embeddings"],
            targets["old"],
            targets["labels"],
            self.margin,
            self.mining,
        )
        return loss, {"active_triplets": active}
