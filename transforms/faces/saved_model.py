"""An exported model as a worker uses it: its card, and its networks loaded once per process."""

import io
import os
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from apache_beam.io.filesystems import FileSystems

from facecluster.transforms.faces.model_card import (
    ModelCard,
    ModelError,
    read_model_card,
    write_model_card,
)
from facecluster.transforms.tables.files import write_bytes

CODEC_NAME, SAVED_MODEL_NAME = "codec.npz", "saved_model"
# A network's outputs for a crop are the same to the last bit whatever crops it is called with, if
# there are 8 or a multiple: products of matrices take what is left over in another order. P-Net,
# which has no dense layer, does not need it. On a GPU none of this is promised.
CROPS_MULTIPLE = 8
_loaded: dict[str, Any] = {}
_loading = threading.Lock()


@dataclass(frozen=True)
class SavedModel:
    """A folder with saved_model/ and model_card.json, on any file system.

    Attributes:
      path: the folder.
      threads: how many threads TensorFlow may use in this process; 0 leaves it to TensorFlow. Only
        the first model that a process loads has a say.
    """

    path: str
    threads: int = 0

    def card(self) -> ModelCard:
        """The model card.

        Raises:
          ModelError: there is none, or it is damaged or of another version.
        """
        return read_model_card(self.path)

    def write_card(self, card: ModelCard) -> str:
        """Replaces the model card; returns the file's path."""
        return write_model_card(self.path, card)

    def codec_arrays(self) -> dict[str, np.ndarray] | None:
        """The arrays of the 128-byte codec that came with the model; None without one.

        Raises:
          ModelError: they are damaged.
        """
        path = FileSystems.join(self.path, CODEC_NAME)
        if not FileSystems.exists(path):
            return None
        with FileSystems.open(path, mime_type="application/octet-stream") as file:
            content = io.BytesIO(file.read())
        try:
            return dict(np.load(content))
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ModelError(f"{path} is damaged, export the model again: {error}") from error

    def write_codec(self, arrays: Mapping[str, np.ndarray]) -> str:
        """Keeps the arrays of a 128-byte codec with the model; returns the file's path."""
        path = FileSystems.join(self.path, CODEC_NAME)
        content = io.BytesIO()
        np.savez(content, **arrays)
        write_bytes(path, content.getvalue())
        return path

    def load(self) -> Any:
        """The networks, loaded when first asked for and then shared by the process's threads."""
        with _loading:
            if self.path not in _loaded:
                _loaded[self.path] = _load(
                    FileSystems.join(self.path, SAVED_MODEL_NAME), self.threads
                )
            return _loaded[self.path]

    def call(self, endpoint: str, pixels: np.ndarray, multiple_of: int = 1) -> Any:
        """Runs an endpoint on a batch: (n, h, w, 3) uint8 in, one array or a list of arrays out.

        Args:
          multiple_of: the network sees so many pictures, or a multiple of it; black ones fill up.
        """
        # TensorFlow's CPU kernels disagree about the shape of an empty batch, so it never sees one.
        n_black = multiple_of if not len(pixels) else -len(pixels) % multiple_of
        black = np.zeros((n_black, *pixels.shape[1:]), pixels.dtype)
        batch = np.concatenate([pixels, black]) if n_black else pixels
        outputs = getattr(self.load(), endpoint)(batch)
        if isinstance(outputs, list):
            return [out.numpy()[: len(pixels)] for out in outputs]
        return outputs.numpy()[: len(pixels)]


def _load(path: str, threads: int) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    import tensorflow as tf

    if threads and not _loaded:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf.saved_model.load(path)
