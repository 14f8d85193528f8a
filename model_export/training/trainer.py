"""The training loop: Keras's own, with checkpoints from which it goes on exactly.

    learner = Learner(network, Triplets(), standardization="fixed")
    train(learner, optimizer, batches_from, schedule, Path("training"), n_epochs=10, ...)

An epoch is a number of steps. What a step does is a function of what a checkpoint holds and of the
step's number, so a training that was killed repeats the steps since the last epoch and ends with
the same weights.
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
    # With the settings of davidsandberg/facenet, src/facenet.py, train. RMSProp's mean of squares
    # starts at zero here, at one in TensorFlow 1.
    "adagrad": lambda: keras.optimizers.Adagrad(),
    "adam": lambda: keras.optimizers.Adam(beta_1=0.9, beta_2=0.999, epsilon=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(rho=0.9, momentum=0.9, epsilon=1.0),
    "momentum": lambda: keras.optimizers.SGD(momentum=0.9, nesterov=True),
}


class Learner(keras.Model):
    """A network with its objective, as Keras's fit trains them.

    Args:
      network: from inputs to unit vectors (n, d), with a layer `prelogits` before normalisation.
      objective: see objectives.py.
      standardization: how pixels become the network's inputs (see saved_model.standardize); None
        when they are no pixels.
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
        # Keras adds up what the GPUs computed, each from its part of the batch.
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
    """Trains, from the last checkpoint in `folder` where there is one.

    Args:
      learner, optimizer: new ones; the learner is trained in place. Both are made inside a
        tf.distribute strategy's scope to use its GPUs.
      batches_from: from a step's number to the batches of that and all later steps:
        (inputs, targets), as learner and objective take them.
      schedule: learning rates by epoch, whatever rate the optimizer was made with.
      folder: holds checkpoint.npz, and tensorboard/ with the scalars of every epoch.
      n_epochs, steps_per_epoch: when a training ends, and how often it is saved and validated.
      validate: scores of the network as it is, by name; they are shown and kept. Called before the
        first epoch and after each.
      report: told each epoch's figures in a line.

    Raises:
      JobError: the checkpoint is damaged or another network's, or the loss or the weights
        are no numbers any more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with learner.distribute_strategy.scope():
        learner.compile(optimizer=optimizer, jit_compile=False)  # the mining has no static shapes
        learner.optimizer.build(learner.trainable_variables)
    checkpoint = folder / CHECKPOINT_NAME
    first_epoch = _restore(learner, checkpoint) if checkpoint.exists() else 0
    n_epochs = schedule.n_epochs(n_epochs)
    if first_epoch >= n_epochs:
        return
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, _: schedule.rate(epoch)),
        _OnlyNumbers(),  # first, so that nothing is made of what is none
        _Validation(validate),
        *_tensorboard(folder / TENSORBOARD_FOLDER, report),
        _Checkpoint(checkpoint),  # after the scalars, so that a kill between loses none
        _Report(report, n_epochs),
    ]
    if first_epoch == 0 and validate:
        report(f"before training  {_figures(_validation(validate))}")
    learner.fit(
        batches_from(first_epoch * steps_per_epoch),
        initial_epoch=first_epoch,
        epochs=n_epochs,
        steps_per_epoch=steps_per_epoch,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )


class _OnlyNumbers(keras.callbacks.Callback):
    """Ends a training whose loss or weights have become infinite or NaN."""

    def on_epoch_end(self, epoch, logs=None):
        found = f"the loss is {logs['loss']:g}"
        if np.isfinite(logs["loss"]):  # of all steps, but each step's is that of the weights before
            broken = [v.path for v in self.model.weights if not np.all(np.isfinite(v.numpy()))]
            if not broken:
                return
            found = f"weights of {broken[0]} are no numbers any more"
        raise JobError(
            f"{found} in epoch {epoch + 1}: try a lower learning rate"
            + (f"; the checkpoint is of epoch {epoch}" if epoch else "")
        )


class _Validation(keras.callbacks.Callback):
    """Adds the scores of the network as it is to what an epoch reports."""

    def __init__(self, validate):
        super().__init__()
        self.validate = validate

    def on_epoch_end(self, epoch, logs=None):
        if self.validate:
            logs.update(_validation(self.validate))


class _TensorBoard(keras.callbacks.Callback):
    """Writes what an epoch reports as scalars, at the number of epochs done.

    Keras's own would draw accuracy and val_accuracy, which are not of the same thing, as one chart.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(folder))

    def on_epoch_end(self, epoch, logs=None):
        with self.writer.as_default(epoch + 1):  # leaving it flushes
            for name, value in logs.items():
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
        self.report(f"epoch {epoch + 1}/{self.n_epochs}  {_figures(logs)}")


def _validation(validate: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Under the names by which TensorBoard tells them from the training's own figures."""
    return {f"val_{name}": score for name, score in validate().items()}


def _figures(logs: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in logs.items())


def _tensorboard(folder: Path, report: Callable[[str], None]) -> list[keras.callbacks.Callback]:
    try:
        import tensorboard  # noqa: F401  tf.summary needs it, and TensorFlow comes without
    except ImportError:
        report("no TensorBoard scalars: install facecluster[train] for them")
        return []
    return [_TensorBoard(folder)]


def _state(learner: Learner) -> list[keras.Variable]:
    """All that a later step depends on: weights, averages, seeds, the optimizer's moments."""
    return [*learner.variables, *learner.optimizer.variables]


def _save(learner: Learner, path: Path, epoch: int) -> None:
    values = {f"{i:05d}": value.numpy() for i, value in enumerate(_state(learner))}
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as file:
        np.savez(file, epoch=epoch, **values)
    os.replace(temporary, path)


def _restore(learner: Learner, path: Path) -> int:
    """Returns how many epochs the checkpoint has behind it."""
    try:
        with np.load(path) as file:
            saved = dict(file)
        epoch = int(saved.pop("epoch"))
    except Exception as error:  # zipfile and NumPy raise whatever the damage leads to
        raise JobError(
            f"the checkpoint {path} is damaged: {error}. Remove it to train from the beginning"
        ) from error
    variables, values = _state(learner), [saved[name] for name in sorted(saved)]
    if [tuple(v.shape) for v in variables] != [value.shape for value in values]:
        raise JobError(f"the checkpoint {path} is another network's: take another output folder")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return epoch
