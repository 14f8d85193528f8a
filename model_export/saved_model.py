"""A Keras network as what the workers load: a SavedModel with its model card beside it."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

CARD_NAME, CODEC_NAME, SAVED_MODEL_NAME = "model_card.json", "codec.npz", "saved_model"
CARD_VERSION = 1


def export(
    networks: Mapping[str, keras.Model],
    card: Mapping[str, Any],
    folder: Path,
    codec: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes `folder` with saved_model/, model_card.json and, when given, codec.npz.

    Each network becomes an endpoint of its name that takes uint8 RGB pixels (any batch size) and
    standardises them itself to (x - 127.5) / 128, what FaceNet's published CASIA-WebFace and
    VGGFace2 models and MTCNN were trained with.

    The folder appears whole or not at all; one that is already there is replaced.
    """
    import keras
    import tensorflow as tf

    temporary = f"{folder.name}.{uuid.uuid4().hex}"
    building, replaced = (folder.with_name(f"{temporary}.{end}") for end in ("tmp", "old"))
    building.mkdir(parents=True)
    try:
        archive = keras.export.ExportArchive()
        for name, network in networks.items():
            archive.track(network)
            pixels = tf.TensorSpec((None, *network.input_shape[1:]), tf.uint8, name="pixels")
            archive.add_endpoint(name, _standardised(network), input_signature=[pixels])
        archive.write_out(str(building / SAVED_MODEL_NAME), verbose=False)
        text = json.dumps({"card_version": CARD_VERSION, **card}, indent=2) + "\n"
        (building / CARD_NAME).write_text(text)
        if codec is not None:
            np.savez(building / CODEC_NAME, **codec)
        if folder.exists():
            folder.rename(replaced)
        building.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _standardised(network: keras.Model):
    import keras

    def endpoint(pixels):
        return network((keras.ops.cast(pixels, "float32") - 127.5) / 128.0, training=False)

    return endpoint
