"""Counts and diagnostics of a grouping, for the manifest and the warnings."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facecluster.transforms.grouping.face_filter import REASONS

# A person of at least this many faces with at least this root mean square distance is suspicious:
# of LFW's people with five photos or more, 99 in 100 are below 1.01; impostors are 1.41 apart.
HETEROGENEOUS_SIZE, HETEROGENEOUS_SPREAD = 5, 1.1
GIANT_FRACTION = 0.2  # of all grouped faces, in one heterogeneous person
MOST_NAMED = 20  # heterogeneous people in the manifest, largest first


def summarize_people(people: pa.Table, assignments: pa.Table) -> dict[str, Any]:
    """The counts and diagnostics of some people and of the faces in their part of the tables.

    Plain numbers, except for the most heterogeneous people, which are [id, size].
    """
    size = people["size"].to_numpy()
    reasons = Counter(assignments["left_out"].drop_null().to_pylist())
    suspicious = select_heterogeneous_people(people).select(["person_id", "size"])
    return {
        "counts": {
            "faces": len(assignments),
            "people": len(people),
            "unassigned": assignments["person_id"].null_count - reasons.total(),
            "left_out": reasons.total(),
            "largest_person": int(size.max(initial=0)),
        },
        "diagnostics": {
            "left_out": {reason: reasons[reason] for reason in REASONS},
            "same_photo_violations": int((size - people["n_photos"].to_numpy()).sum()),
            "repeated_in_photo": pc.sum(assignments["repeated_in_photo"]).as_py() or 0,
            "heterogeneous_people": len(suspicious),
            "most_heterogeneous": [
                list(row.values()) for row in suspicious[:MOST_NAMED].to_pylist()
            ],
        },
    }


def select_heterogeneous_people(people: pa.Table) -> pa.Table:
    """The people whose faces differ more than the faces of one person do."""
    is_large = pc.greater_equal(people["size"], HETEROGENEOUS_SIZE)
    is_spread = pc.greater_equal(people["spread"], HETEROGENEOUS_SPREAD)
    return people.filter(pc.and_(is_large, is_spread))


def combine_summaries(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The counts and diagnostics of a grouping from those of its parts.

    Args:
      parts: as `summarize_people` gives them, of tables that have no person in common.
    """
    counts = {"faces": 0, "people": 0, "unassigned": 0, "left_out": 0, "largest_person": 0}
    sums = {"same_photo_violations": 0, "repeated_in_photo": 0, "heterogeneous_people": 0}
    reasons = dict.fromkeys(REASONS, 0)
    suspicious = []
    for part in parts:
        for name in ("faces", "people", "unassigned", "left_out"):
            counts[name] += part["counts"][name]
        counts["largest_person"] = max(counts["largest_person"], part["counts"]["largest_person"])
        for name in sums:
            sums[name] += part["diagnostics"][name]
        for reason in reasons:
            reasons[reason] += part["diagnostics"]["left_out"][reason]
        suspicious += part["diagnostics"]["most_heterogeneous"]
    suspicious.sort(key=lambda person: (-person[1], person[0]))
    n_faces = max(counts["faces"] - counts["left_out"], 1)
    return {
        "counts": counts,
        "diagnostics": {
            "left_out": reasons,
            **sums,
            "fraction_unassigned": round(counts["unassigned"] / n_faces, 4),
            "fraction_of_largest_person": round(counts["largest_person"] / n_faces, 4),
            "most_heterogeneous": [name for name, _ in suspicious[:MOST_NAMED]],
            "giant_people": [name for name, size in suspicious if size >= GIANT_FRACTION * n_faces],
        },
    }
