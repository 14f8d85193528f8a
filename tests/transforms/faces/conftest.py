"""The detector with its default settings."""

import pytest

from facecluster.transforms.faces.mtcnn import Detector
from facecluster.transforms.faces.saved_model import SavedModel


@pytest.fixture(scope="module")
def model(mtcnn_folder) -> SavedModel:
    return SavedModel(mtcnn_folder)


@pytest.fixture(scope="module")
def detector(model) -> Detector:
    return Detector(model, min_face_size=20, detection_size=1600)
