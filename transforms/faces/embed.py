"""Aligned faces into unit vectors, by Beam's RunInference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from facecluster.transforms.faces.saved_model import CROPS_MULTIPLE, SavedModel
from facecluster.transforms.records import Photo

PHOTOS_PER_BATCH = 32
CROPS_PER_CALL = 64  # a photo of a crowd must not decide how much goes through the network at once


class FaceEmbedder(ModelHandler[Photo, Photo, Any]):
    """Fills in the embedding of every face of a photo, and drops its crop.

    Beam's own TensorFlow handlers cannot load a SavedModel under Keras 3 (apache/beam#30616), and
    they would carry the crops on downstream (apache/beam#21444).
    """

    def __init__(self, model: SavedModel):
        super().__init__()
        self.model = model

    def load_model(self) -> Any:
        return self.model.load()

    def run_inference(
        self, batch: Sequence[Photo], model: Any, inference_args: Mapping | None = None
    ) -> Iterable[Photo]:
        return embed_photos(self.model, batch)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        return {"min_batch_size": PHOTOS_PER_BATCH, "max_batch_size": PHOTOS_PER_BATCH}

    def get_num_bytes(self, batch: Sequence[Photo]) -> int:
        return sum(face.crop.nbytes for photo in batch for face in photo.faces)

    def get_metrics_namespace(self) -> str:
        return "FaceEmbedder"


def embed_photos(model: SavedModel, photos: Sequence[Photo]) -> list[Photo]:
    """Embeds the faces of a batch of photos together."""
    crops = [face.crop for photo in photos for face in photo.faces]
    vectors = iter(embed_crops(model, crops))
    return [
        replace(
            photo,
            faces=tuple(replace(face, crop=None, embedding=next(vectors)) for face in photo.faces),
        )
        for photo in photos
    ]


def embed_crops(model: SavedModel, crops: Sequence[np.ndarray]) -> np.ndarray:
    """(n, size, size, 3) uint8 RGB to (n, dimensions) float32 unit vectors."""
    parts = [
        model.call("embed", np.stack(crops[start : start + CROPS_PER_CALL]), CROPS_MULTIPLE)
        for start in range(0, len(crops), CROPS_PER_CALL)
    ]
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)
