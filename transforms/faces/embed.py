"""The embed step: aligned faces to unit vectors, by Beam's RunInference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import ModelHandler, RunInference

from facecluster.transforms.faces.saved_model import CROPS_MULTIPLE, SavedModel
from facecluster.transforms.metrics import count, timed
from facecluster.transforms.records import Failure, Photo, mark_failed
from facecluster.transforms.tables.codec import find_usable

PHOTOS_PER_BATCH = 32
CROPS_PER_CALL = 64  # bounds the network's memory, however many faces a photo has


@dataclass(eq=False)
class EmbedFaces(beam.PTransform):
    """Embeds the faces of photos.

    Element in: a `Photo` whose faces have crops, as `AlignFaces` yields it.
    Element out: the `Photo` with the embedding of each face, without the crops; a photo of which
    the model makes a vector that cannot be compared (NaN, infinite or zero) has failed.

    Reports the counter `faces_embedded` and the distribution `embed_milliseconds` (of batches of
    photos), besides RunInference's own metrics.

    Attributes:
      model: an exported embedding network. Its card names the `input_size` and `margin` with which
        the faces have to be aligned.
    """

    model: SavedModel

    def expand(self, photos: beam.PCollection[Photo]) -> beam.PCollection[Photo]:
        embed = RunInference(FaceEmbedder(self.model))
        return photos | embed  # pyright: ignore[reportReturnType]


class FaceEmbedder(ModelHandler[Photo, Photo, Any]):
    """RunInference's handler of an exported embedding network.

    Beam's own TensorFlow handlers cannot load a SavedModel under Keras 3 (apache/beam#30616), and
    would pass the crops on downstream (apache/beam#21444).
    """

    def __init__(self, model: SavedModel):
        super().__init__()
        self.model = model

    def load_model(self) -> Any:
        return self.model.load()

    def run_inference(
        self, batch: Sequence[Photo], model: Any, inference_args: Mapping | None = None
    ) -> Iterable[Photo]:
        with timed("embed"):
            photos = embed_photos(self.model, batch)
        count("faces_embedded", sum(len(photo.faces) for photo in photos))
        return photos

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        return {"min_batch_size": PHOTOS_PER_BATCH, "max_batch_size": PHOTOS_PER_BATCH}

    def get_num_bytes(self, batch: Sequence[Photo]) -> int:
        return sum(crop.nbytes for crop in _crops(batch))

    def get_metrics_namespace(self) -> str:
        return "FaceEmbedder"


def embed_photos(model: SavedModel, photos: Sequence[Photo]) -> list[Photo]:
    """Embeds the faces of several photos together and drops their crops."""
    vectors = embed_crops(model, _crops(photos))
    ends = np.cumsum([len(photo.faces) for photo in photos])
    parts = np.split(vectors, ends[:-1])
    return [_with_embeddings(photo, part) for photo, part in zip(photos, parts, strict=True)]


def _with_embeddings(photo: Photo, vectors: np.ndarray) -> Photo:
    """The photo with its faces' vectors; failed if one of them cannot be compared with others."""
    damaged = np.flatnonzero(~find_usable(vectors))
    if len(damaged):
        message = (
            f"{len(damaged)} of its {len(vectors)} faces, the first of them face {damaged[0]}, got "
            "a vector of NaN, infinity or zeros: check the model with `facecluster model validate`"
        )
        return mark_failed(photo, Failure("embed", "DamagedVector", message))
    faces = zip(photo.faces, vectors, strict=True)
    return replace(
        photo, faces=tuple(replace(face, crop=None, embedding=vector) for face, vector in faces)
    )


def _crops(photos: Sequence[Photo]) -> list[np.ndarray]:
    faces = (face for photo in photos for face in photo.faces)
    return [face.crop for face in faces if face.crop is not None]


def embed_crops(model: SavedModel, crops: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """(n, size, size, 3) uint8 RGB to (n, dimensions) float32 unit vectors; (0, 0) of no crops."""
    parts = [
        model.call("embed", np.asarray(crops[start : start + CROPS_PER_CALL]), CROPS_MULTIPLE)
        for start in range(0, len(crops), CROPS_PER_CALL)
    ]
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)
