"""Recognizes the folders that facecluster writes, so that no job takes its output for photos.

Each kind of folder has a file that its job writes before all others. A file of somebody else may
have the same name, so its content is checked.
"""

import json
from typing import Any

MANIFEST_NAME, CROPS_MANIFEST_NAME = "manifest.json", "crops.json"
CARD_NAME, SETTINGS_NAME = "model_card.json", "training.json"
LOG_NAME, LOCK_NAME = "facecluster.log", "run.lock"

MARKERS = frozenset((MANIFEST_NAME, CROPS_MANIFEST_NAME, CARD_NAME, SETTINGS_NAME))
# A job writes these first of all, also into a folder that it then refuses. They mark nothing.
JOB_FILES = frozenset((LOG_NAME, LOCK_NAME))
MAX_MARKER_BYTES = 1 << 20  # of a file that is read to check it; facecluster's have some KiB


def marks_output(name: str, content: bytes) -> bool:
    """Whether a file marks its folder as one that facecluster wrote, in any version.

    Args:
      name: of the file, without its folder.
    """
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return False
    checks = {MANIFEST_NAME: _is_manifest, CROPS_MANIFEST_NAME: _is_crops_manifest,
              CARD_NAME: _is_model_card, SETTINGS_NAME: _is_training}  # fmt: skip
    return isinstance(record, dict) and name in checks and checks[name](record)


def _is_manifest(record: dict[str, Any]) -> bool:
    steps = record.get("steps")
    if not isinstance(steps, dict):
        return False
    is_versioned = "manifest_version" in record or isinstance(record.get("versions"), dict)
    return is_versioned or not steps.keys().isdisjoint(("embed", "cluster"))


def _is_crops_manifest(record: dict[str, Any]) -> bool:
    options = record.get("options")
    if not isinstance(options, dict):
        return False
    return record.get("state") in ("running", "done") or "crop_margin" in options


def _is_model_card(record: dict[str, Any]) -> bool:
    return {"card_version", "sha256"} <= record.keys()


def _is_training(record: dict[str, Any]) -> bool:
    return "crops_sha256" in record
