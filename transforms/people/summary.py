"""Counts and diagnostics of a grouping, for the manifest and the warnings."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facecluster.transforms.grouping.face_filter import REASONS

# People of at least this many faces are doubtful if fewer than this fraction of them is expected to
# be right.
DOUBTFUL_SIZE, DOUBTFUL_CONFIDENCE = 5, 0.5
MOST_NAMED = 20  # of the manifest's lists: doubtful people, damaged vectors, collages


def summarize_people(people: pa.Table, assignments: pa.Table) -> dict[str, Any]:
    """The counts and diagnostics of some people and of the faces in their part of the tables.

    Plain numbers, except for the most doubtful people, which are [id, number of faces that are
    expected to be wrong].
    """
    size = people["size"].to_numpy()
    reasons = Counter(assignments["left_out"].drop_null().to_pylist())
    doubtful = rank_doubtful_people(people)
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
            "damaged_vectors": _damaged_vectors(assignments)[:MOST_NAMED],
            "same_photo_violations": _count_again_in_photo(assignments),
            "repeated_in_photo": pc.sum(assignments["repeated_in_photo"]).as_py() or 0,
            "doubtful_people": len(doubtful),
            "most_doubtful": [list(person) for person in doubtful[:MOST_NAMED]],
        },
    }


def _count_again_in_photo(assignments: pa.Table) -> int:
    """How many faces are of a person who has another face in the same photo, beyond the first."""
    assigned = assignments.filter(pc.is_valid(assignments["person_id"]))
    in_photos = assigned.group_by(["person_id", "photo_id"]).aggregate([])
    return len(assigned) - len(in_photos)


def rank_doubtful_people(people: pa.Table) -> list[tuple[str, float]]:
    """The doubtful people as (id, number of faces expected to be wrong), most wrong faces first."""
    is_large = pc.greater_equal(people["size"], DOUBTFUL_SIZE)
    is_unsure = pc.less(people["confidence"], DOUBTFUL_CONFIDENCE)
    doubtful = people.filter(pc.and_(is_large, is_unsure))
    n_wrong = doubtful["size"].to_numpy() * (1.0 - doubtful["confidence"].to_numpy())
    ranked = zip(doubtful["person_id"].to_pylist(), n_wrong.round(1).tolist(), strict=True)
    return sorted(ranked, key=_by_wrong_faces)


def _damaged_vectors(assignments: pa.Table) -> list[str]:
    """The ids of the faces whose vector is damaged, in their order."""
    is_damaged = pc.equal(assignments["left_out"], "vector")
    return sorted(assignments["face_id"].filter(is_damaged).to_pylist())


def combine_summaries(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The counts and diagnostics of a grouping from those of its parts.

    Args:
      parts: as `summarize_people` gives them, of tables that have no person in common.
    """
    counts = {"faces": 0, "people": 0, "unassigned": 0, "left_out": 0, "largest_person": 0}
    sums = {"same_photo_violations": 0, "repeated_in_photo": 0, "doubtful_people": 0}
    reasons = dict.fromkeys(REASONS, 0)
    doubtful, damaged = [], []
    for part in parts:
        for name in ("faces", "people", "unassigned", "left_out"):
            counts[name] += part["counts"][name]
        counts["largest_person"] = max(counts["largest_person"], part["counts"]["largest_person"])
        for name in sums:
            sums[name] += part["diagnostics"][name]
        for reason in reasons:
            reasons[reason] += part["diagnostics"]["left_out"][reason]
        doubtful += part["diagnostics"]["most_doubtful"]
        damaged += part["diagnostics"]["damaged_vectors"]
    doubtful.sort(key=_by_wrong_faces)
    n_faces = max(counts["faces"] - counts["left_out"], 1)
    return {
        "counts": counts,
        "diagnostics": {
            "left_out": reasons,
            "damaged_vectors": sorted(damaged)[:MOST_NAMED],
            **sums,
            "fraction_unassigned": round(counts["unassigned"] / n_faces, 4),
            "fraction_of_largest_person": round(counts["largest_person"] / n_faces, 4),
            "most_doubtful": [name for name, _ in doubtful[:MOST_NAMED]],
        },
    }


def _by_wrong_faces(person: Sequence[Any]) -> tuple[float, str]:
    name, n_wrong = person
    return -n_wrong, name
