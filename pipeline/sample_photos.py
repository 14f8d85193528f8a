"""Downloads a few photos to try facecluster on: White House portraits of two people."""

import os
from pathlib import Path

from facecluster.model_export.weights.registry import Package, cache_folder, fetch_files

# The test images of an MIT-licensed face recognition package; the photos are in the public domain.
PACKAGE = Package(
    "face-recognition==1.3.0",
    "5e5efdd1686aa566af0d3cc1313b131e4b197657a8ffd03669e6d3fad92705ec",
    is_source=True,
)
NAMES = ("32bit.png", "biden.jpg", "obama.jpg", "obama2.jpg", "obama3.jpg",
         "obama_partial_face.jpg", "obama_partial_face2.jpg")  # fmt: skip


def fetch_sample_photos() -> Path:
    """The folder of the sample photos, which are downloaded if they are missing."""
    folder = cache_folder() / "sample_photos"
    if not all((folder / name).exists() for name in NAMES):
        members = [os.path.join("tests", "test_images", name) for name in NAMES]
        fetch_files(PACKAGE, members, folder)
    return folder
