"""Models by name or folder, and a face model for single photos, as in a notebook.

model = load_model("facenet-casia-webface")
found = model.detect("photo.jpg")        # boxes, landmarks, scores, turns
vectors = model.embed("photo.jpg")       # one unit vector a face
"""

import os
from dataclasses import dataclass

import numpy as np
from PIL import Image

from facecluster.errors import InputError, UsageError
from facecluster.model_export.weights import zoo
from facecluster.transforms.faces.align import crop_face
from facecluster.transforms.faces.detect import Detections, Detector
from facecluster.transforms.faces.embed import embed_crops
from facecluster.transforms.faces.saved_model import ModelError, SavedModel
from facecluster.transforms.faces.turns import turn_upright
from facecluster.transforms.photos.decode_image import decode_image

PhotoLike = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

DEFAULT_EMBEDDER, DEFAULT_DETECTOR = "facenet-casia-webface", "mtcnn"


@dataclass(frozen=True)
class FaceModel:
    """A face detector and an embedding network.

    A photo is given as a path, the bytes of a file, a Pillow image or a (height, width, 3) array of
    uint8 RGB pixels. Files are turned upright by their EXIF orientation, with alpha over white;
    images and arrays are taken as they are. Coordinates are pixels of the upright photo.

    Attributes:
      embedder, detector: the exported networks.
      min_face_size: smallest face to search for, px.
      detection_size: photos whose longer side is larger are searched on a copy reduced to this, px;
        a panorama's longer side counts as twice the shorter one.
    """

    embedder: SavedModel
    detector: SavedModel
    min_face_size: int = 20
    detection_size: int = 1600

    def detect(self, photo: PhotoLike) -> Detections:
        """Finds the faces of a photo: boxes, landmarks, scores and turns, highest score first.

        Raises:
          InputError: the photo cannot be read.
        """
        return self._detect(_upright(photo))

    def embed(self, photo: PhotoLike, detections: Detections | None = None) -> np.ndarray:
        """Embeds the faces of a photo.

        Args:
          photo: see the class.
          detections: the faces to embed; by default those that `detect` finds.

        Returns:
          (n, dimensions) float32 unit vectors of the network, a row for each face. Their Euclidean
          distance d and their cosine are related by d = sqrt(2 - 2 cos). A run stores vectors
          through a codec, so compare these with each other and not with a run's.

        Raises:
          InputError: the photo cannot be read.
        """
        image = _upright(photo)
        if detections is None:
            detections = self._detect(image)
        card = self.embedder.card()
        if not len(detections.boxes):
            return np.empty((0, card.dimensions), np.float32)
        crops = [
            np.asarray(crop_face(upright, box, card.input_size, card.margin))
            for upright, box in turn_upright(image, detections.boxes, detections.turns.tolist())
        ]
        return embed_crops(self.embedder, crops)

    def _detect(self, image: Image.Image) -> Detections:
        return Detector(self.detector, self.min_face_size, self.detection_size).detect([image])[0]


def load_model(
    model: str = DEFAULT_EMBEDDER, detector: str = DEFAULT_DETECTOR, fetch: bool = True
) -> FaceModel:
    """Loads a face model for single photos.

    Args:
      model: the embedding model: a name that `facecluster model list` knows, or a model's folder.
      detector: the face detector, likewise.
      fetch: whether known models that are not on this machine yet are downloaded and exported,
        which is done once and takes a minute.

    Raises:
      ModelError: there is no such model, or it makes no embeddings.
      FetchError: a model cannot be downloaded.
    """
    for name in (model, detector):
        if fetch and name in zoo.ZOO:
            zoo.fetch(name)
    loaded = FaceModel(find_embedder(model), find_model(detector))
    loaded.detector.card()  # a missing model fails here and not at the first photo
    return loaded


def find_model(name: str) -> SavedModel:
    """A known model by its name, or any model by its folder.

    Raises:
      ModelError: a known model that is not fetched yet.
    """
    if name not in zoo.ZOO:
        return SavedModel(name)
    if not zoo.is_fetched(name):
        raise ModelError(
            f"the model {name} is not on this machine yet, or was exported by another version of "
            f"facecluster: run `facecluster model fetch {name}`"
        )
    return SavedModel(str(zoo.model_folder(name)))


def find_embedder(name: str) -> SavedModel:
    """Like `find_model`, for an embedding model.

    Raises:
      ModelError: also for a model that makes no embeddings.
    """
    model = find_model(name)
    if not model.card().makes_embeddings:
        raise ModelError(f"{name} makes no embeddings: name a model that does")
    return model


def _upright(photo: PhotoLike) -> Image.Image:
    """The photo as an upright RGB image."""
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            raise UsageError(
                f"an array of shape {photo.shape} and type {photo.dtype} is no photo: give "
                "(height, width, 3) uint8 RGB pixels"
            )
        return Image.fromarray(photo)
    try:
        if isinstance(photo, Image.Image):
            return photo.convert("RGB")
        if not isinstance(photo, bytes):
            with open(photo, "rb") as file:
                photo = file.read()
        return decode_image(photo).image
    except Exception as error:  # Pillow raises whatever the damage leads to
        raise InputError(f"the photo cannot be read: {error}") from error
