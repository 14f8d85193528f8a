"""Leaves out faces that cannot be recognized: too small, blurred, turned away, or damaged."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facecluster.transforms.grouping.options import FaceFilterOptions
from facecluster.transforms.tables.codec import find_usable, stored_vectors
from facecluster.transforms.tables.reasons import format_reasons

# Why a face is left out, in the order in which the limits are checked, and in words.
REASONS = {
    "vector": "damaged vector",
    "size": "too small",
    "sharpness": "too blurred",
    "score": "perhaps no face",
    "pose": "turned away",
}
# Of the faces table.
FILTER_COLUMNS = ("embedding", "size_px", "sharpness", "detection_score", "yaw")


def find_left_out_reasons(faces: pa.Table, options: FaceFilterOptions) -> pa.Array:
    """Why each of n faces is not grouped: the first of REASONS that holds, null for none.

    Args:
      faces: columns FILTER_COLUMNS.
      options: the limits, in the columns' units; a face exactly at a limit is grouped. A size,
        sharpness or score that is missing or NaN fails its limit.
    """
    size, sharpness, score, yaw = (faces[name].to_numpy() for name in FILTER_COLUMNS[1:])
    fails = {
        "vector": ~find_usable(stored_vectors(faces["embedding"])),
        "size": ~(size >= np.float32(options.min_face_px)),
        "sharpness": ~(sharpness >= np.float32(options.min_sharpness)),
        "score": ~(score >= np.float32(options.min_detection_score)),
        "pose": np.abs(yaw) > np.float32(options.max_yaw),
    }
    reasons = pa.nulls(len(faces), pa.string())
    for reason, holds in reversed(fails.items()):
        reasons = pc.if_else(pa.array(holds), reason, reasons)
    return reasons


def format_left_out_counts(counts: Mapping[str, int]) -> str:
    """Text such as "too blurred 12, too small 3", the most frequent reason first."""
    return format_reasons({REASONS[reason]: count for reason, count in counts.items()})
