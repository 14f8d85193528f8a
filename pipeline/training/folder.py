"""The folder of a training: its settings, which decide whether it can be continued, and caches.

DIR/
  training.json     the settings
  checkpoint.npz    the state of the training after its last epoch (see trainer.py)
  tensorboard/      the scalars of every epoch
  vectors/          the vectors that frozen models give the crops, computed once
  model/            the exported model, when the training has ended
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facecluster.errors import InputError, UsageError
from facecluster.model_export.crops import Crops
from facecluster.model_export.validation.validate import embed_with_model
from facecluster.pipeline.run.settings import check_settings
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.own_output import SETTINGS_NAME
from facecluster.transforms.tables.files import write_bytes

VECTORS_FOLDER, MODEL_FOLDER = "vectors", "model"
# A training can be continued with other values of these.
CHANGEABLE_SETTINGS = ("name", "epochs", "learning_rate", "learning_rate_schedule")


@dataclass(frozen=True)
class TrainingFolder:
    """A local folder that holds one training."""

    path: Path

    @property
    def model(self) -> Path:
        """The folder of the exported model."""
        return self.path / MODEL_FOLDER

    def open(self, settings: Mapping[str, Any]) -> None:
        """Prepares the folder for a training with these settings, new or continued.

        Raises:
          UsageError: the folder holds other files, or a training with other settings.
          InputError: training.json is damaged.
        """
        from facecluster.model_export.training.trainer import CHECKPOINT_NAME

        path = self.path / SETTINGS_NAME
        if not path.exists():
            self._check_foreign()
        # Before the first checkpoint, nothing depends on the settings yet.
        elif self.model.exists() or (self.path / CHECKPOINT_NAME).exists():
            try:
                before = dict(json.loads(path.read_text()))
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{path} is damaged, take another output folder: {error}"
                ) from error
            check_settings(
                before, settings, str(self.path), ignored=CHANGEABLE_SETTINGS, error=UsageError
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        write_bytes(str(path), (json.dumps(settings, indent=2) + "\n").encode())

    def vectors(
        self, crops: Crops, name: str, model: SavedModel, report: Callable[[str], None]
    ) -> np.ndarray:
        """(n, d) float32 unit vectors of the crops by a frozen model, computed once and cached."""
        names = "\n".join([model.card().sha256, *crops.names])
        path = self.path / VECTORS_FOLDER / f"{hashlib.sha256(names.encode()).hexdigest()}.npy"
        if not path.exists():
            report(f"embedding {len(crops):,} crops with {name}")
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_suffix(".tmp")
            with open(temporary, "wb") as file:
                np.save(file, embed_with_model(model, crops))
            os.replace(temporary, path)
        return np.load(path)

    def _check_foreign(self) -> None:
        files = self.path.iterdir() if self.path.exists() else ()
        others = sorted(file.name for file in files if file.suffix not in (".log", ".tmp"))
        if others:
            raise UsageError(
                f"{self.path} holds files that are not a training, such as {others[0]}: take an "
                "output folder that is empty or does not exist yet"
            )

    def _remove_leftovers(self) -> None:
        """Deletes what a killed training was writing."""
        for pattern in ("*.tmp", f"{VECTORS_FOLDER}/*.tmp", f"{MODEL_FOLDER}.*.old"):
            for left in self.path.glob(pattern):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
