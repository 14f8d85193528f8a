"""The training loop: Keras's fit, with checkpoints from which a training resumes exactly.

    learner = Learner(network, Triplets(), standardization="fixed")
    train(learner, optimizer, batches_from, schedule, Path("training"), n_epochs=10, ...)

An epoch is a number of steps. A step depends only on the state that a checkpoint stores and on the
step's number. A training that was killed therefore repeats the steps since its last epoch and ends
with the same weights.
"""

import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from facecluster.errors import JobError
from facecluster.model_export.networks.export import standardize
from facecluster.model_export.training.schedule import Schedule

CHECKPOINT_NAME, TENSORBOARD_FOLDER = "checkpoint.npz", "tensorboard"
OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    # The settings of davidsandberg/facenet, src/facenet.py, train. One difference: RMSProp's mean
    # of squares starts at zero here, at one in TensorFlow 1.
    "adagrad": lambda: keras.optimizers.Adagrad(),
    "adam": lambda: keras.optimizers.Adam(beta_1=0.9, beta_2=0.999, epsilon=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(rho=0.9, momentum=0.9, epsilon=1.0),
    "momentum": lambda: keras.optimizers.SGD(momentum=0.9, nesterov=True),
}


class Learner(keras.Model):
    """A network with its objective, as a model for Keras's fit.

    Args:
      network: maps inputs to unit vectors (n, d); has a layer `prelogits` before normalization.
      objective: see objectives.py.
      standardization: how pixels become the network's inputs (see networks/export.py, standardize);
        None if the inputs are not pixels.
    """

    def __init__(self, network: keras.Model, objective: keras.Layer, standardization=None):
        super().__init__()
        self.network, self.objective = network, objective
        self.standardization = standardization
        self.outputs_of = keras.Model(
            network.input,
            {"prelogits": network.get_layer("prelogits").output, "embeddings": network.output},
        )
        self.monitored = {name: keras.metrics.Mean(name) for name in objective.monitored}
        self.built = True

    def call(self, inputs, training=None):
        if self.standardization is not None:
            inputs = standardize(inputs, self.standardization)
        return self.outputs_of(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss, monitored = self.objective(y_pred, y, training=training)
        for name, value in monitored.items():
            self.monitored[name].update_state(value)
        loss = loss + sum(ops.cast(part, "float32") for part in self.losses)
        # Keras adds up the losses of all GPUs, each of its part of the batch.
        return loss / tf.distribute.get_strategy().num_replicas_in_sync

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {metric.name: metric.result() for metric in self.metrics}


def train(
    learner: Learner,
    optimizer: keras.optimizers.Optimizer,
    batches_from: Callable[[int], tf.data.Dataset],
    schedule: Schedule,
    folder: Path,
    *,
    n_epochs: int,
    steps_per_epoch: int,
    validate: Callable[[], dict[str, float]] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Trains a network, from the last checkpoint in `folder` if there is one.

    Args:
      learner, optimizer: new ones; the learner is trained in place. Both must be created in the
        scope of a tf.distribute strategy to use its GPUs.
      batches_from: maps a step's number to a dataset of the batches of this and all later steps:
        (inputs, targets), as learner and objective take them.
      schedule: learning rates by epoch; they replace the optimizer's own.
      folder: for checkpoint.npz, and for tensorboard/ with the scalars of every epoch.
      n_epochs, steps_per_epoch: when the training ends, and how often it is saved and validated.
      validate: returns scores of the current network, by name; they are reported and stored. Called
        before the first epoch and after each.
      report: called with a line of scores for each epoch.

    Raises:
      JobError: the checkpoint is damaged or of another network, or the training diverged: the loss
        or the weights are infinite or NaN.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with learner.distribute_strategy.scope():
        learner.compile(optimizer=optimizer, jit_compile=False)  # mining has dynamic shapes
        learner.optimizer.build(learner.trainable_variables)
    checkpoint = folder / CHECKPOINT_NAME
    first_epoch = _restore(learner, checkpoint) if checkpoint.exists() else 0
    n_epochs = schedule.n_epochs(n_epochs)
    if first_epoch >= n_epochs:
        return
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, _: schedule.rate(epoch)),
        _StopIfDiverged(),  # before anything is written
        _Validation(validate),
        *_tensorboard(folder / TENSORBOARD_FOLDER, report),
        _Checkpoint(checkpoint),  # after the scalars, so that a kill in between loses none
        _Report(report, n_epochs),
    ]
    if first_epoch == 0 and validate:
        report(f"before training  {_format_scores(_validation_scores(validate))}")
    learner.fit(
        batches_from(first_epoch * steps_per_epoch),
        initial_epoch=first_epoch,
        epochs=n_epochs,
        steps_per_epoch=steps_per_epoch,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )


class _StopIfDiverged(keras.callbacks.Callback):
    """Stops a training whose loss or weights have become infinite or NaN."""

    def on_epoch_end(self, epoch, logs=None):
        loss = (logs or {})["loss"]
        problem = f"the loss is {loss:g}"
        if np.isfinite(loss):
            # The loss of a step is computed before the step changes the weights, so the weights
            # of the last step have to be checked as well.
            broken = [v.path for v in self.model.weights if not np.all(np.isfinite(v.numpy()))]
            if not broken:
                return
            problem = f"weights of {broken[0]} are infinite or NaN"
        raise JobError(
            f"{problem} in epoch {epoch + 1}: try a lower learning rate"
            + (f"; the checkpoint is of epoch {epoch}" if epoch else "")
        )


class _Validation(keras.callbacks.Callback):
    """Adds the scores of the current network to the logs of an epoch."""

    def __init__(self, validate):
        super().__init__()
        self.validate = validate

    def on_epoch_end(self, epoch, logs=None):
        if self.validate and logs is not None:
            logs.update(_validation_scores(self.validate))


class _TensorBoard(keras.callbacks.Callback):
    """Writes the logs of an epoch as scalars, at the number of finished epochs.

    Keras's own callback would draw accuracy and val_accuracy in one chart, but here they measure
    different things: classification of the training set and verification of held-out people.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(folder))

    def on_epoch_end(self, epoch, logs=None):
        with self.writer.as_default(epoch + 1):  # leaving it flushes
            for name, value in (logs or {}).items():
                tf.summary.scalar(name, value)


class _Checkpoint(keras.callbacks.Callback):
    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        _save(self.model, self.path, epoch + 1)


class _Report(keras.callbacks.Callback):
    def __init__(self, report, n_epochs):
        super().__init__()
        self.report, self.n_epochs = report, n_epochs

    def on_epoch_end(self, epoch, logs=None):
        self.report(f"epoch {epoch + 1}/{self.n_epochs}  {_format_scores(logs or {})}")


def _validation_scores(validate: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The scores, with names that distinguish them from the training's own."""
    return {f"val_{name}": score for name, score in validate().items()}


def _format_scores(scores: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in scores.items())


def _tensorboard(folder: Path, report: Callable[[str], None]) -> list[keras.callbacks.Callback]:
    try:
        import tensorboard  # noqa: F401  tf.summary needs it; TensorFlow does not install it
    except ImportError:
        report("no TensorBoard scalars: install facecluster[train] for them")
        return []
    return [_TensorBoard(folder)]


def _state(learner: Learner) -> list[keras.Variable]:
    """Everything that a later step depends on: weights, averages, seeds, optimizer moments."""
    return [*learner.variables, *learner.optimizer.variables]


def _save(learner: Learner, path: Path, epoch: int) -> None:
    values = {f"{i:05d}": value.numpy() for i, value in enumerate(_state(learner))}
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as file:
        np.savez(file, epoch=epoch, **values)
    os.replace(temporary, path)


def _restore(learner: Learner, path: Path) -> int:
    """Loads a checkpoint; returns the number of finished epochs."""
    try:
        with np.load(path) as file:
            saved = dict(file)
        epoch = int(saved.pop("epoch"))
    except Exception as error:  # zipfile and NumPy raise many kinds of errors for damaged files
        raise JobError(
            f"the checkpoint {path} is damaged: {error}. Remove it to train from the beginning"
        ) from error
    variables, values = _state(learner), [saved[name] for name in sorted(saved)]
    if [tuple(v.shape) for v in variables] != [value.shape for value in values]:
        raise JobError(f"the checkpoint {path} is of another network: take another output folder")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return epoch
