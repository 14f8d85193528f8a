"""What is to be said of a grouping: its counts, and what lets one doubt it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facecluster.transforms.grouping.face_filter import REASONS

# A person of at least so many faces whose root mean square distance is at least this is suspicious:
# of LFW's true people of five photos and more 99 in 100 are below 1.01, strangers are 1.41 apart.
HETEROGENEOUS_FROM, HETEROGENEOUS_SPREAD = 5, 1.1
GIANT_SHARE = 0.2  # of all grouped faces, in one suspicious person
NAMED = 20  # suspicious people in the manifest, largest first


def summary_of(people: pa.Table, assignments: pa.Table) -> dict[str, Any]:
    """What is to be said of some people and the faces that are theirs or nobody's.

    Plain numbers, but for the most heterogeneous people, as [id, size].
    """
    size = people["size"].to_numpy()
    reasons = Counter(assignments["left_out"].drop_null().to_pylist())
    doubtful = heterogeneous(people).select(["person_id", "size"])
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
            "heterogeneous_people": len(doubtful),
            "most_heterogeneous": [list(row.values()) for row in doubtful[:NAMED].to_pylist()],
        },
    }


def heterogeneous(people: pa.Table) -> pa.Table:
    """Those people whose faces differ too much for one person."""
    many = pc.greater_equal(people["size"], HETEROGENEOUS_FROM)
    return people.filter(pc.and_(many, pc.greater_equal(people["spread"], HETEROGENEOUS_SPREAD)))


def together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The counts and diagnostics of a whole from those of its parts, with what follows from them.

    Args:
      parts: as `summary_of` gives them, of tables that have no person in common.
    """
    counts = {"faces": 0, "people": 0, "unassigned": 0, "left_out": 0, "largest_person": 0}
    sums = {"same_photo_violations": 0, "repeated_in_photo": 0, "heterogeneous_people": 0}
    reasons = dict.fromkeys(REASONS, 0)
    doubtful = []
    for part in parts:
        for name in ("faces", "people", "unassigned", "left_out"):
            counts[name] += part["counts"][name]
        counts["largest_person"] = max(counts["largest_person"], part["counts"]["largest_person"])
        for name in sums:
            sums[name] += part["diagnostics"][name]
        for reason in reasons:
            reasons[reason] += part["diagnostics"]["left_out"][reason]
        doubtful += part["diagnostics"]["most_heterogeneous"]
    doubtful.sort(key=lambda person: (-person[1], person[0]))
    n_faces = max(counts["faces"] - counts["left_out"], 1)
    return {
        "counts": counts,
        "diagnostics": {
            "left_out": reasons,
            **sums,
            "share_unassigned": round(counts["unassigned"] / n_faces, 4),
            "share_of_largest_person": round(counts["largest_person"] / n_faces, 4),
            "most_heterogeneous": [name for name, _ in doubtful[:NAMED]],
            "giant_people": [name for name, size in doubtful if size >= GIANT_SHARE * n_faces],
        },
    }
