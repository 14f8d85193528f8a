"""Builds what a training needs from its options: network, objective, batches and card fields."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facecluster.errors import UsageError
from facecluster.model_export.crops import Crops
from facecluster.model_export.networks.export import in_precision, load_networks, with_weight_decay
from facecluster.model_export.validation.validate import network_embedder
from facecluster.pipeline.options import TrainOptions
from facecluster.transforms.faces.model_card import ModelCard
from facecluster.transforms.faces.saved_model import SavedModel

HEAD_SIZE, NETWORK_SIZE = 128, 512  # default dimensions of an embedding
# Indices of this many batches are cached, because several datasets of a training request them, at
# slightly different times.
CACHED_BATCHES = 64


@dataclass(frozen=True)
class TrainingSetup:
    """A network to train, with all that depends on its kind.

    Attributes:
      network: the Keras model to train.
      objective: see model_export/training/objectives.py.
      standardization: of the network's input pixels; None if its inputs are the vectors of a
        frozen model.
      card: fields of the finished model's card: architecture, input_size, standardization and,
        if the model was trained from another one, trained_from.
      batches_from: maps a step to the batches from that step on, as `trainer.train` takes them.
      embed: maps crops to (n, d) unit vectors, by the network's current weights.
      finish: returns the network to export: from pixels to vectors, in its inference form.
    """

    network: Any
    objective: Any
    standardization: str | None
    card: dict[str, Any]
    batches_from: Callable[[int], Any]
    embed: Callable[[Crops], np.ndarray]
    finish: Callable[[], Any]


@dataclass(frozen=True)
class SetupBuilder:
    """Builds the setup of a training.

    Attributes:
      options: how to train.
      find_model: maps a model's name or folder to the model.
      vectors: maps crops and the name of a frozen model to its vectors of them, (n, d) float32.
    """

    options: TrainOptions
    find_model: Callable[[str], SavedModel]
    vectors: Callable[[Crops, str], np.ndarray]

    def build(self, crops: Crops) -> TrainingSetup:
        """The setup for a training on these crops.

        Raises:
          UsageError: the models that the options name have different dimensions.
          ModelError: one of these models does not exist.
        """
        return self._build_head(crops) if self.options.backbone else self._build_network(crops)

    def input_size(self) -> int:
        """Width and height of the network's input, px."""
        if name := self.options.backbone or self.options.start_from:
            return self.find_model(name).card().input_size
        return self.options.input_size

    def _build_head(self, crops: Crops) -> TrainingSetup:
        """A linear head on the vectors of a frozen model."""
        from facecluster.model_export.networks.heads import linear_head, on_backbone

        options = self.options
        assert options.backbone
        name = options.backbone
        card, backbone = self._load_model(name)
        vectors = self.vectors(crops, name)
        head = linear_head(
            self._initial_projection(crops, vectors),
            options.dropout,
            options.weight_decay,
            options.seed,
        )
        return TrainingSetup(
            network=head,
            objective=self._objective(crops, head),
            standardization=None,
            card={
                "input_size": card.input_size,
                "standardization": card.standardization,
                "architecture": f"{card.architecture} with a linear head",
                "trained_from": card.identity,
            },
            batches_from=lambda step: self._batches(crops, vectors, step),
            embed=lambda some: head.predict(self.vectors(some, name), verbose=0),
            finish=lambda: on_backbone(backbone, head),
        )

    def _initial_projection(self, crops: Crops, vectors: np.ndarray):
        """The least-squares fit to the old model's vectors, or the principal components."""
        from facecluster.model_export.networks.heads import least_squares, principal_components

        options, size = self.options, self._embedding_size(HEAD_SIZE)
        if options.compatible_with:
            return least_squares(vectors, self.vectors(crops, options.compatible_with))
        # A softmax layer learns slowly from values much smaller than those of batch normalization.
        return principal_components(vectors, size, unit_variance=options.loss == "softmax")

    def _build_network(self, crops: Crops) -> TrainingSetup:
        """A whole network, either new or that of an exported model."""
        from facecluster.model_export.networks import inception_resnet_v1 as architecture

        options = self.options
        if options.start_from:
            old, network = self._load_model(options.start_from)
            self._embedding_size(NETWORK_SIZE)
            network = _copy_network(network, options.weight_decay)
            card = {
                "architecture": old.architecture,
                "input_size": old.input_size,
                "standardization": old.standardization,
                "trained_from": old.identity,
            }
            finish = functools.partial(_copy_network, network, 0.0)
        else:
            network = architecture.inception_resnet_v1_for_training(
                self._embedding_size(NETWORK_SIZE),
                options.input_size,
                options.width,
                options.dropout,
                options.weight_decay,
                options.seed,
            )
            card = {
                "architecture": "Inception-ResNet-v1"
                + ("" if options.width == 1 else f", width {options.width}"),
                "input_size": options.input_size,
                "standardization": options.standardization,
            }
            finish = functools.partial(architecture.fold, network, options.width)
        return TrainingSetup(
            network=network,
            objective=self._objective(crops, network),
            standardization=card["standardization"],
            card=card,
            batches_from=lambda step: self._batches(crops, None, step),
            embed=network_embedder(network, card["standardization"]),
            finish=finish,
        )

    def _objective(self, crops: Crops, network: Any):
        from facecluster.model_export.training.objectives import HarmonicTriplets, Softmax, Triplets

        options = self.options
        if options.compatible_with:
            return HarmonicTriplets(options.triplet_margin, options.mining)
        if options.loss == "triplet":
            return Triplets(options.triplet_margin, options.mining)
        return Softmax(
            len(crops.people),
            network.output_shape[-1],
            options.center_loss_factor,
            options.norm_loss_factor,
            options.weight_decay,
        )

    def _load_model(self, name: str) -> tuple[ModelCard, Any]:
        """A model's card and its Keras network."""
        model = self.find_model(name)
        return model.card(), load_networks(Path(model.path))["embed"]

    def _batches(self, crops: Crops, vectors: np.ndarray | None, first_step: int):
        """A dataset of (inputs, targets) from a step on; inputs are the vectors, or pixels."""
        import tensorflow as tf

        from facecluster.model_export.training.augmentation import Augmentation
        from facecluster.model_export.training.batches import batch_rows, training_batches

        options = self.options
        indices = self._batch_indices(crops)
        if vectors is not None:
            labels = batch_rows(crops.labels, indices, first_step)
            batches = tf.data.Dataset.zip(batch_rows(vectors, indices, first_step), labels)
        else:
            augmentation = Augmentation(
                options.flip, options.random_crop, options.rotation, options.color
            )
            batches = training_batches(
                crops, indices, self.input_size(), augmentation, options.seed, first_step
            )
        if not options.compatible_with:
            return batches.map(lambda inputs, labels: (inputs, {"labels": labels}))
        old_vectors = self.vectors(crops, options.compatible_with)
        old = batch_rows(old_vectors, indices, first_step)
        return tf.data.Dataset.zip(batches, old).map(
            lambda batch, old: (batch[0], {"labels": batch[1], "old": old})
        )

    def _batch_indices(self, crops: Crops) -> Callable[[int], np.ndarray]:
        """Maps a step to the indices of its crops."""
        from facecluster.model_export.training.sampling import identity_batches, shuffled_batches

        options = self.options
        if options.loss == "triplet":
            indices = functools.partial(
                identity_batches,
                crops.labels,
                options.people_per_batch,
                options.images_per_person,
                options.seed,
            )
        else:
            indices = functools.partial(
                shuffled_batches, len(crops), options.batch_size, options.seed
            )
        return functools.lru_cache(CACHED_BATCHES)(indices)

    def _embedding_size(self, default: int) -> int:
        """The dimensions by the options, else those of the models they name, else the default."""
        options = self.options
        size = options.embedding_size
        for name in (options.start_from, options.compatible_with):
            if name:
                dimensions = self.find_model(name).card().dimensions
                if size not in (None, dimensions):
                    option = "--embedding-size" if options.embedding_size else "--start-from"
                    raise UsageError(
                        f"{name} has vectors of {dimensions} dimensions, and {option} asks for "
                        f"{size}: leave that out, or take another model"
                    )
                size = dimensions
        return size or default


def _copy_network(network: Any, weight_decay: float) -> Any:
    """A copy of a Keras network with this weight decay, in Keras's current precision."""
    import keras

    return in_precision(with_weight_decay(network, weight_decay), keras.config.dtype_policy().name)
