"""What is trained: a head on a frozen model or a whole network, its batches and its objective."""

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
from facecluster.transforms.faces.saved_model import SavedModel

HEAD_SIZE, NETWORK_SIZE = 128, 512  # default dimensions of an embedding
BATCHES_AHEAD = 64  # how far apart the datasets of one training may be, generously


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
      network: the Keras model whose weights are.
      standardization: of the pixels it takes; None where it takes a frozen model's vectors.
      card: what the finished model's card says of architecture, input_size and standardization.
      batches_from: from a step to the batches from there on, as `trainer.train` takes them.
      embed: crops to (n, d) unit vectors by the network as it is.
      finished: makes the network to export, from pixels and in its inference form.
    """

    network: Any
    standardization: str | None
    card: dict[str, Any]
    batches_from: Callable[[int], Any]
    embed: Callable[[Crops], np.ndarray]
    finished: Callable[[], Any]


@dataclass(frozen=True)
class TaskMaker:
    """Makes of the options what is trained.

    Attributes:
      options: how to train.
      find_model: from a model's name or folder, as options give it, to the model.
      vectors: from crops and a frozen model's name to what it makes of them, (n, d) float32.
    """

    options: TrainOptions
    find_model: Callable[[str], SavedModel]
    vectors: Callable[[Crops, str], np.ndarray]

    def task(self, crops: Crops) -> Task:
        return self._head_task(crops) if self.options.trunk else self._network_task(crops)

    def objective(self, crops: Crops, task: Task):
        from facecluster.model_export.training.objectives import HarmonicTriplets, Softmax, Triplets

        options = self.options
        if options.compatible_with:
            return HarmonicTriplets(options.margin, options.mining)
        if options.loss == "triplet":
            return Triplets(options.margin, options.mining)
        return Softmax(
            len(crops.people),
            task.network.output_shape[-1],
            options.center_loss_factor,
            options.norm_loss_factor,
            options.weight_decay,
        )

    def input_size(self) -> int:
        if name := self.options.trunk or self.options.start_from:
            return self.find_model(name).card().input_size
        return self.options.input_size

    def _head_task(self, crops: Crops) -> Task:
        """A linear head on the vectors of a frozen model."""
        from facecluster.model_export.networks.heads import linear_head, on_backbone

        options = self.options
        card, trunk = self._model_to_train(options.trunk)
        vectors = self.vectors(crops, options.trunk)
        head = linear_head(
            self._head_start(crops, vectors), options.dropout, options.weight_decay, options.seed
        )
        return Task(
            network=head,
            standardization=None,
            card={
                "input_size": card.input_size,
                "standardization": card.standardization,
                "architecture": f"{card.architecture} with a linear head",
                "trained_from": card.identity,
            },
            batches_from=lambda step: self._batches(crops, vectors, step),
            embed=lambda some: head.predict(self.vectors(some, options.trunk), verbose=0),
            finished=lambda: on_backbone(trunk, head),
        )

    def _head_start(self, crops: Crops, vectors: np.ndarray):
        """Near its aim: the old model's vectors, or what the frozen model tells apart."""
        from facecluster.model_export.networks.heads import least_squares, principal_components

        options, size = self.options, self._embedding_size(HEAD_SIZE)
        if options.compatible_with:
            return least_squares(vectors, self.vectors(crops, options.compatible_with))
        # A softmax layer learns slowly from values much smaller than batch normalisation's.
        return principal_components(vectors, size, unit_variance=options.loss == "softmax")

    def _network_task(self, crops: Crops) -> Task:
        """All weights of a network, new or one there is."""
        from facecluster.model_export.networks import inception_resnet_v1 as architecture

        options = self.options
        if options.start_from:
            old, network = self._model_to_train(options.start_from)
            self._embedding_size(NETWORK_SIZE)
            network = _recast(network, options.weight_decay)
            card = {
                "architecture": old.architecture,
                "input_size": old.input_size,
                "standardization": old.standardization,
                "trained_from": old.identity,
            }

            def finished():
                return _recast(network, 0.0)
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
            finished = functools.partial(architecture.fold, network, options.width)
        return Task(
            network=network,
            standardization=card["standardization"],
            card=card,
            batches_from=lambda step: self._batches(crops, None, step),
            embed=network_embedder(network, card["standardization"]),
            finished=finished,
        )

    def _model_to_train(self, name: str):
        """A model's card and its Keras network."""
        model = self.find_model(name)
        return model.card(), load_networks(Path(model.path))["embed"]

    def _batches(self, crops: Crops, vectors: np.ndarray | None, first_step: int):
        """A dataset of (inputs, targets) from a step on; inputs are vectors or else pixels."""
        import tensorflow as tf

        from facecluster.model_export.training.augmentation import Augmentation
        from facecluster.model_export.training.batches import batch_rows, training_batches
        from facecluster.model_export.training.sampling import identity_batches, shuffled_batches

        options = self.options
        if options.loss == "triplet":
            people, images = options.people_per_batch, options.images_per_person
            indices = functools.partial(
                identity_batches, crops.labels, people, images, options.seed
            )
        else:
            indices = functools.partial(
                shuffled_batches, len(crops), options.batch_size, options.seed
            )
        indices = functools.lru_cache(BATCHES_AHEAD)(indices)  # several datasets ask for a step's
        if vectors is not None:
            labels = batch_rows(crops.labels, indices, first_step)
            batches = tf.data.Dataset.zip(batch_rows(vectors, indices, first_step), labels)
        else:
            augmentation = Augmentation(
                options.flip, options.random_crop, options.rotation, options.colour
            )
            batches = training_batches(
                crops, indices, self.input_size(), augmentation, options.seed, first_step
            )
        if not options.compatible_with:
            return batches.map(lambda inputs, labels: (inputs, {"labels": labels}))
        of_crops = self.vectors(crops, options.compatible_with)
        old = batch_rows(of_crops, indices, first_step)
        return tf.data.Dataset.zip(batches, old).map(
            lambda batch, old: (batch[0], {"labels": batch[1], "old": old})
        )

    def _embedding_size(self, default: int) -> int:
        """What the options say, else what the models they name have, else the default."""
        options = self.options
        size = options.embedding_size
        for name in (options.start_from, options.compatible_with):
            if name:
                has = self.find_model(name).card().dimensions
                if size not in (None, has):
                    raise UsageError(
                        f"{name} has vectors of {has} dimensions, and the new model is to have "
                        f"{size}, as "
                        + ("--embedding-size" if options.embedding_size else "--start-from")
                        + " says: leave that out, or take another model"
                    )
                size = has
        return size or default


def _recast(network: Any, weight_decay: float) -> Any:
    """A copy of a Keras network, in the precision to which Keras is set."""
    import keras

    return in_precision(with_weight_decay(network, weight_decay), keras.config.dtype_policy().name)
