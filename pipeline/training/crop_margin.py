"""The margin around a face that a network sees through its input window, in crops of a folder."""

import os
from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems

from facecluster.errors import InputError, UsageError
from facecluster.pipeline.cropping.manifest import read_crops_manifest
from facecluster.transforms.faces.model_card import ModelCard
from facecluster.transforms.own_output import CROPS_MANIFEST_NAME


def visible_margin(sources: Sequence[str], input_size: int) -> int | None:
    """The margin that a network sees in the crops of the sources, px of its input.

    A network sees a window of its input size out of a larger crop; a smaller crop is stretched to
    the input (see model_export/training/batches.py).

    Args:
      sources: crops, as in `list_crops`.
      input_size: of the network, px.

    Returns:
      The margin; None if there is no crops.json.

    Raises:
      InputError: a crops.json is damaged.
      UsageError: the crops have different margins.
    """
    folders = {
        folder
        for source in sources
        for folder in (source.rstrip("/"), os.path.dirname(source.rstrip("/")))
    }
    margins = {}
    for folder in sorted(folders):
        margin = _margin_in_folder(folder, input_size)
        if margin is not None:
            margins[FileSystems.join(folder, CROPS_MANIFEST_NAME)] = margin
    if len(set(margins.values())) > 1:
        found = ", ".join(f"{margin} px by {path}" for path, margin in margins.items())
        raise UsageError(
            f"the crops show faces with different margins ({found}): train on crops made with one "
            "--crop-size and --crop-margin, or give the margin with --crop-margin"
        )
    return next(iter(margins.values()), None)


def margin_note(margin: int | None, name: str, card: ModelCard) -> str | None:
    """A note that crops have another margin than a model expects; None if there is none to give.

    Args:
      margin: of the crops, as `visible_margin` returns it.
      name: of the model, for the note.
      card: of the model.
    """
    if margin in (None, card.margin):
        return None
    return (
        f"note: in these crops {name} sees faces with a margin of {margin} px of its "
        f"{card.input_size} px input, but expects {card.margin}: `facecluster crops --crop-size "
        f"{card.input_size} --crop-margin {card.margin}` makes such crops"
    )


def _margin_in_folder(folder: str, input_size: int) -> int | None:
    try:
        manifest = read_crops_manifest(folder)
        if manifest is None:
            return None
        size = int(manifest.options["crop_size"])
        margin = int(manifest.options["crop_margin"])
    except (InputError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{FileSystems.join(folder, CROPS_MANIFEST_NAME)} is damaged and does not tell the "
            "crops' margin: give it with --crop-margin"
        ) from error
    return round(input_size - (size - margin) * max(input_size / size, 1))
