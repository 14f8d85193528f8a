"""The model card: what an exported model is and which input it needs, kept in model_card.json."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import msgspec

from facecluster.errors import InputError
from facecluster.transforms.own_output import CARD_NAME

# 3: US spelling of the keys `standardization` and `license`.
CARD_VERSION = 3


class ModelError(InputError):
    """A model that does not exist or cannot be used."""


@dataclass(frozen=True)
class ModelIdentity:
    """A model's name and SHA-256, by which other cards refer to it."""

    name: str
    sha256: str


@dataclass(frozen=True)
class ModelCard:
    """The description of an exported model.

    Attributes:
      name: of the model, for messages and manifests.
      sha256: hexadecimal, of the weights or of the published file they come from. Tables of faces
        name their model by it.
      standardization: how uint8 pixels become the network's input; the names are those of
        `model_export.networks.export.STANDARDIZATIONS`.
      architecture: of the network, such as "Inception-ResNet-v1".
      source: where the weights come from.
      license: of the weights.
      embedding_space: SHA-256 of the model whose vectors this model's can be compared with. Left
        empty, it becomes the model's own.
      input_size: px, width and height of the crops the network takes; 0 for a detector, which takes
        photos of any size.
      margin: px of the crop that surround the face's box, both sides together (see
        `align.crop_face`).
      dimensions: of an embedding; 0 for a detector.
      compute: "float32" or "float16", the type of weights and arithmetic.
      trained_from: the model that this one was trained from.
      compatible_with: the older model whose embedding space this one was trained for.
      accuracy: published scores, {benchmark: accuracy}.
      measured: scores measured with facecluster, as `facecluster model validate --write-card`
        writes them: `on` (the data), one mapping of scores per codec, `calibration` (false accept
        rates by distance), and `cohort` (from how many people it was fitted) if there is one.
    """

    name: str
    sha256: str
    standardization: str
    architecture: str = "unknown"
    source: str = "unknown"
    license: str = "unknown"
    embedding_space: str = ""
    input_size: int = 0
    margin: int = 0
    dimensions: int = 0
    compute: str = "float32"
    trained_from: ModelIdentity | None = None
    compatible_with: ModelIdentity | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not self.embedding_space:
            object.__setattr__(self, "embedding_space", self.sha256)

    @property
    def makes_embeddings(self) -> bool:
        """Whether the model embeds faces; a detector does not."""
        return self.dimensions > 0

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity(self.name, self.sha256)

    def to_json(self) -> str:
        """The content of model_card.json; optional fields that are not set are left out."""
        values = {name: value for name, value in asdict(self).items() if value not in (None, 0, {})}
        return json.dumps({"card_version": CARD_VERSION, **values}, indent=2) + "\n"


def read_model_card(folder: str) -> ModelCard:
    """The card of a model folder, on any file system.

    Raises:
      ModelError: there is no card, or it is damaged or of another version.
    """
    from apache_beam.io.filesystems import FileSystems  # here: cards are also listed without Beam

    try:
        path = FileSystems.join(folder, CARD_NAME)
        if not FileSystems.exists(path):
            raise ModelError(f"there is no model in {folder}: it has no {CARD_NAME}")
        with FileSystems.open(path) as file:
            content = file.read()
    except (OSError, ValueError) as error:
        # ValueError: a URL scheme that no installed library handles.
        raise ModelError(f"the model card of {folder} cannot be read: {error}") from error
    return parse_model_card(content, folder)


def write_model_card(folder: str, card: ModelCard) -> str:
    """Writes or replaces the card of a model folder; returns the file's path."""
    from apache_beam.io.filesystems import FileSystems

    from facecluster.transforms.tables.files import write_bytes

    path = FileSystems.join(folder, CARD_NAME)
    write_bytes(path, card.to_json().encode())
    return path


def parse_model_card(content: bytes, folder: str) -> ModelCard:
    """The card with the content of a model_card.json.

    Args:
      folder: of the model, for messages.

    Raises:
      ModelError: the content is damaged or of another version.
    """
    try:
        values = dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise ModelError(f"the model card of {folder} cannot be read: {error}") from error
    path = f"{folder.rstrip('/')}/{CARD_NAME}"
    version = values.pop("card_version", None)
    if version != CARD_VERSION:
        raise ModelError(
            f"{path} is a model card of version {'unknown' if version is None else version}, this "
            f"facecluster reads version {CARD_VERSION}: fetch or import the model again"
        )
    unknown = values.keys() - {field.name for field in fields(ModelCard)}
    if unknown:
        raise ModelError(f"{path} has an unknown key, {min(unknown)}: remove it")
    try:
        return msgspec.convert(values, ModelCard)
    except msgspec.ValidationError as error:
        raise ModelError(f"{path} is damaged: {error}") from error
