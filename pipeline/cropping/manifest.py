"""The typed record of crops.json, with its only reader and its only writer."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from apache_beam.io.filesystems import FileSystems

from facecluster.errors import InputError
from facecluster.transforms.own_output import CROPS_MANIFEST_NAME
from facecluster.transforms.tables.files import write_bytes


@dataclass(frozen=True)
class CropsManifest:
    """How a folder of crops was made.

    Attributes:
      state: "running" also of a job that was killed.
      options: the settings that decide what the crops are.
      counts: photos, crops, people, without_a_face and failures; empty while running.
      seconds: how long the job took; None while running.
    """

    state: Literal["running", "done"]
    options: dict[str, Any]
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None


def read_crops_manifest(folder: str) -> CropsManifest | None:
    """The manifest of a folder of crops, on any file system; None if it has none.

    Raises:
      InputError: the manifest is damaged.
    """
    path = FileSystems.join(folder, CROPS_MANIFEST_NAME)
    if not FileSystems.exists(path):
        return None
    with FileSystems.open(path) as file:
        content = file.read()
    try:
        values = dict(json.loads(content))
        return CropsManifest(
            values.get("state", "running"),
            dict(values["options"]),
            values.get("counts", {}),
            values.get("seconds"),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}): take another folder") from error


def write_crops_manifest(folder: str, manifest: CropsManifest) -> None:
    values = {name: value for name, value in asdict(manifest).items() if value not in (None, {})}
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    write_bytes(FileSystems.join(folder, CROPS_MANIFEST_NAME), text.encode())
