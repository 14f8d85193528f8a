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
# What the detector finds in a blur, a mask or the back of a head has scores of 0.9 to 0.98, and so
# has one in 500 of the faces that LFW's photos are named after. Those are sharper than this; and of
# the others with such a score, half are as blurred or as small (benchmarks/face_quality.py).
DOUBTFUL_SCORE = 0.98
DOUBTFUL_MIN_SHARPNESS, DOUBTFUL_MIN_PX = 0.12, 32

# Of the faces table.
FILTER_COLUMNS = ("embedding", "size_px", "sharpness", "detection_score", "yaw")


def find_left_out_reasons(faces: pa.Table, options: FaceFilterOptions) -> pa.Array:
    """Why each of n faces is not grouped: the first of REASONS that holds, null for none.

    Args:
      faces: columns FILTER_COLUMNS.
      options: the limits, in the columns' units; a face exactly at a limit is grouped. A value
        that is missing, NaN or impossible fails its limit.
    """
    size, sharpness, score, yaw = (faces[name].to_numpy() for name in FILTER_COLUMNS[1:])
    fails = {
        "vector": ~find_usable(stored_vectors(faces["embedding"])),
        "size": ~((size >= np.float32(options.min_face_px)) & (size < np.inf)),
        "sharpness": ~((sharpness >= np.float32(options.min_sharpness)) & (sharpness <= 1)),
        "score": ~((score >= np.float32(options.min_detection_score)) & (score <= 1)),
        "pose": ~(np.abs(yaw) <= np.float32(options.max_yaw)),
    }
    if options.min_detection_score:
        poor = (sharpness < np.float32(DOUBTFUL_MIN_SHARPNESS)) | (size < DOUBTFUL_MIN_PX)
        fails["score"] |= (score < np.float32(DOUBTFUL_SCORE)) & poor
    reasons = pa.nulls(len(faces), pa.string())
    for reason, holds in reversed(fails.items()):
        reasons = pc.if_else(pa.array(holds), reason, reasons)
    return reasons


def format_left_out_counts(counts: Mapping[str, int]) -> str:
    """Text such as "too blurred 12, too small 3", the most frequent reason first."""
    return format_reasons({REASONS[reason]: count for reason, count in counts.items()})
