"""An exported model: its card, its codec, its cohorts and its networks, loaded once per process."""

import io
import os
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from apache_beam.io.filesystems import FileSystems

from facecluster.transforms.faces.model_card import (
    ModelCard,
    ModelError,
    read_model_card,
    write_model_card,
)
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.similarity.cohort_file import pack_cohorts, unpack_cohorts
from facecluster.transforms.tables.codec import make_codec
from facecluster.transforms.tables.files import write_bytes

CODEC_NAME, COHORT_NAME, SAVED_MODEL_NAME = "codec.npz", "cohort.npz", "saved_model"
FINGERPRINT_NAME = "fingerprint.pb"
LEGACY_KERAS = "TF_USE_LEGACY_KERAS"
# Matrix products compute the rows that remain after blocks of 8 in a different order. With batches
# of a multiple of 8, the outputs for a crop have the same bits whatever the rest of the batch is.
# P-Net, which has no dense layer, does not need this. On a GPU it does not hold.
CROPS_MULTIPLE = 8
_loaded: dict[str, tuple[bytes, Any]] = {}  # by folder: fingerprint and networks
_loading = threading.Lock()


@dataclass(frozen=True)
class SavedModel:
    """A folder with saved_model/ and model_card.json, on any file system.

    Attributes:
      path: the folder.
      threads: the number of threads that TensorFlow may use in this process; 0 lets TensorFlow
        choose. Only the first model that a process loads can set it.
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
        """The arrays of the model's 128-byte codec; None if it has none.

        Raises:
          ModelError: the file is damaged.
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
        """Writes the arrays of a 128-byte codec into the folder; returns the file's path."""
        path = FileSystems.join(self.path, CODEC_NAME)
        content = io.BytesIO()
        np.savez(content, **arrays)  # pyright: ignore[reportArgumentType]
        write_bytes(path, content.getvalue())
        return path

    def cohort(self, codec_name: str | None = None) -> Cohort | None:
        """The cohort for the model's vectors as a codec stores them.

        Args:
          codec_name: as `make_codec` takes it.

        Returns:
          None if the model has no cohort, or one for an earlier codec only.

        Raises:
          ModelError: the file of the cohorts or of the codec is damaged.
          UsageError: pca128 is requested and the model does not have it.
        """
        codec = make_codec(codec_name, self.codec_arrays())
        identity = "float32" if codec.name == "float16" else codec.identity
        return self.cohorts().get(identity)

    def cohorts(self) -> dict[str, Cohort]:
        """The model's cohorts by the identity of their codec, none if it has no file of them.

        Raises:
          ModelError: the file is damaged.
        """
        path = FileSystems.join(self.path, COHORT_NAME)
        if not FileSystems.exists(path):
            return {}
        with FileSystems.open(path, mime_type="application/octet-stream") as file:
            content = file.read()
        try:
            return unpack_cohorts(content)
        except ValueError as error:
            raise ModelError(
                f"{path} is damaged, validate the model again with --write-card: {error}"
            ) from error

    def write_cohorts(self, cohorts: Mapping[str, Cohort]) -> str:
        """Replaces the model's cohorts, by the identity of their codec; returns the file's path."""
        path = FileSystems.join(self.path, COHORT_NAME)
        write_bytes(path, pack_cohorts(cohorts))
        return path

    def load(self) -> Any:
        """The networks, loaded on first use and shared by all threads of the process.

        An object keeps the networks that it has loaded. When a model is exported again to the same
        folder, new objects load the new networks.
        """
        return self._networks

    def call(self, endpoint: str, pixels: np.ndarray, multiple_of: int = 1) -> Any:
        """Runs an endpoint on a batch: (n, h, w, 3) uint8 in, one array or a list of arrays out.

        Args:
          multiple_of: the batch is padded with black images to a multiple of this.
        """
        # TensorFlow's CPU kernels disagree on the output shape of an empty batch: pad it, too.
        n_padding = multiple_of if not len(pixels) else -len(pixels) % multiple_of
        padding = np.zeros((n_padding, *pixels.shape[1:]), pixels.dtype)
        batch = np.concatenate([pixels, padding]) if n_padding else pixels
        outputs = getattr(self.load(), endpoint)(batch)
        if isinstance(outputs, list):
            return [out.numpy()[: len(pixels)] for out in outputs]
        return outputs.numpy()[: len(pixels)]

    @cached_property
    def _networks(self) -> Any:
        path = FileSystems.join(self.path, SAVED_MODEL_NAME)
        with _loading:
            fingerprint = _read_fingerprint(path)
            if self.path not in _loaded or _loaded[self.path][0] != fingerprint:
                _loaded[self.path] = fingerprint, _load(path, self.threads)
            return _loaded[self.path][1]

    def __getstate__(self) -> dict[str, Any]:
        """Without the networks, which cannot be pickled: each worker process loads its own."""
        return {"path": self.path, "threads": self.threads}


def _read_fingerprint(path: str) -> bytes:
    """The file in which TensorFlow writes hashes and a random UUID at each export."""
    file_path = FileSystems.join(path, FINGERPRINT_NAME)
    if not FileSystems.exists(file_path):
        return b""
    with FileSystems.open(file_path, mime_type="application/octet-stream") as file:
        return file.read()


def _load(path: str, threads: int) -> Any:
    tf = _import_tensorflow()
    if threads and not _loaded:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf.saved_model.load(path)


def _import_tensorflow() -> Any:
    """TensorFlow without Keras, which takes as long to import and is not needed to run a network.

    TensorFlow imports Keras 3 unless it is told that programs use Keras 2. It asks again when its
    Keras is first used, so a program that trains in this process gets Keras 3.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    before = os.environ.get(LEGACY_KERAS)
    os.environ[LEGACY_KERAS] = "1"
    try:
        import tensorflow as tf
    finally:
        del os.environ[LEGACY_KERAS]
        if before is not None:
            os.environ[LEGACY_KERAS] = before
    return tf
