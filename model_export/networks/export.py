"""Exports Keras networks to a model folder, which workers load; and loads them again for Keras.

A model folder holds

    saved_model/        a TensorFlow SavedModel: uint8 pixels in, float32 results out
    keras/NAME.keras    the same networks for Keras, to train further or to export again
    model_card.json     the `ModelCard`
    codec.npz           the 128-byte codec, if one was fitted
    cohort.npz          the cohorts, if they were fitted
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facecluster.transforms.faces.model_card import ModelCard, ModelError, write_model_card
from facecluster.transforms.faces.saved_model import CODEC_NAME, SAVED_MODEL_NAME, SavedModel
from facecluster.transforms.similarity.cohort import Cohort

if TYPE_CHECKING:
    import keras

KERAS_FOLDER = "keras"
# How pixels become a network's input, by their names in a model card; see `export`.
STANDARDIZATIONS = ("fixed", "per-image")


def export(
    networks: Mapping[str, keras.Model],
    card: ModelCard,
    folder: Path,
    codec: Mapping[str, np.ndarray] | None = None,
    *,
    cohorts: Mapping[str, Cohort] | None = None,
    float16: bool = False,
) -> None:
    """Writes a model folder, whole or not at all; an existing one is replaced.

    Each network becomes an endpoint of its name, and the first one also the serving signature. An
    endpoint takes a batch of uint8 RGB pixels, standardizes them, and returns float32. The card's
    `standardization` is one of

      fixed: (x - 127.5) / 128; the published CASIA-WebFace and VGGFace2 models, MTCNN.
      per-image: (x - mean) / max(standard deviation, 1 / sqrt(values)) of the crop; older published
        models (src/facenet.py, prewhiten).

    Args:
      networks: endpoint name to network.
      card: the model card; `compute` is filled in here.
      codec: arrays of the 128-byte codec.
      cohorts: of the embedding space, by the identity of their codec.
      float16: use half-precision weights and arithmetic, for GPUs with fast float16 units.

    Raises:
      ValueError: the standardization is none of STANDARDIZATIONS.
    """
    import keras
    import tensorflow as tf

    card = replace(card, compute="float16" if float16 else "float32")
    temporary = f"{folder.name}.{uuid.uuid4().hex}"
    building, replaced = (folder.with_name(f"{temporary}.{end}") for end in ("tmp", "old"))
    building.mkdir(parents=True)
    try:
        write_model_card(str(building), card)  # first: it marks the folder, see own_output.py
        archive = keras.export.ExportArchive()
        (building / KERAS_FOLDER).mkdir()
        for name, network in networks.items():
            network.save(building / KERAS_FOLDER / f"{name}.keras")
            if float16:
                network = in_precision(network, "float16")
            pixels = tf.TensorSpec((None, *network.input_shape[1:]), tf.uint8, name="pixels")
            endpoint = _endpoint(network, card.standardization)
            archive.add_endpoint(name, endpoint, input_signature=[pixels])
        archive.write_out(str(building / SAVED_MODEL_NAME), verbose=False)
        if codec is not None:
            np.savez(building / CODEC_NAME, **codec)  # pyright: ignore[reportArgumentType]
        if cohorts:
            SavedModel(str(building)).write_cohorts(cohorts)
        if folder.exists():
            folder.rename(replaced)
        building.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def load_networks(folder: Path) -> dict[str, keras.Model]:
    """The Keras networks of a model folder: {endpoint name: network}.

    Raises:
      ModelError: the folder has none.
    """
    import keras

    paths = sorted((folder / KERAS_FOLDER).glob("*.keras"))
    if not paths:
        raise ModelError(f"{folder} has no Keras network in {KERAS_FOLDER}/: export it again")
    return {path.stem: keras.models.load_model(path, compile=False) for path in paths}


def standardize(pixels, standardization: str):
    """Pixels (n, h, w, 3) of any dtype to a network's float32 input; see `export`.

    Raises:
      ValueError: the standardization is none of STANDARDIZATIONS.
    """
    from keras import ops

    pixels = ops.cast(pixels, "float32")
    if standardization == "fixed":
        return (pixels - 127.5) / 128.0
    if standardization == "per-image":
        mean = ops.mean(pixels, axis=(1, 2, 3), keepdims=True)
        deviation = ops.std(pixels, axis=(1, 2, 3), keepdims=True)
        n_values = pixels.shape[1] * pixels.shape[2] * pixels.shape[3]
        return (pixels - mean) / ops.maximum(deviation, n_values**-0.5)
    raise ValueError(
        f"unknown standardization {standardization!r}: there are {', '.join(STANDARDIZATIONS)}"
    )


def weights_sha256(network: keras.Model) -> str:
    """The SHA-256 of a network's weights, which identifies the model in tables and cards."""
    digest = hashlib.sha256()
    for value in network.get_weights():
        digest.update(str(value.shape).encode())
        digest.update(np.ascontiguousarray(value, np.float32).tobytes())
    return digest.hexdigest()


def in_precision(network: keras.Model, policy: str) -> keras.Model:
    """A copy of the network with a Keras dtype policy.

    Layers that normalize to unit length stay in float32: float16 overflows in sums of squares.
    """
    import keras

    def cast(layer, config):
        if not isinstance(layer, keras.layers.InputLayer | keras.layers.UnitNormalization):
            config["dtype"] = policy

    return _reconfigured(network, cast)


def with_weight_decay(network: keras.Model, weight_decay: float) -> keras.Model:
    """A copy of the network with the penalty w / 2 * sum(squares) on each kernel; 0 for none."""
    import keras

    def decay(layer, config):
        if "kernel_regularizer" in config:
            config["kernel_regularizer"] = (
                keras.regularizers.L2(weight_decay / 2) if weight_decay else None
            )

    return _reconfigured(network, decay)


def _reconfigured(network: keras.Model, change: Callable[[keras.Layer, dict], None]) -> keras.Model:
    """A copy of the network with the configuration of each layer changed, also of nested ones."""
    import keras

    def clone(layer):
        config = layer.get_config()
        change(layer, config)
        return type(layer).from_config(config)

    copy = keras.models.clone_model(network, clone_function=clone, recursive=True)
    copy.set_weights(network.get_weights())
    return copy


def _endpoint(network: keras.Model, standardization: str):
    import keras

    def endpoint(pixels):
        outputs = network(standardize(pixels, standardization), training=False)
        return keras.tree.map_structure(lambda out: keras.ops.cast(out, "float32"), outputs)

    return endpoint
