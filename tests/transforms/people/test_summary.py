"""Counts and diagnostics of a grouping, as a whole and in parts."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from facecluster.transforms.people.summary import (
    DOUBTFUL_CONFIDENCE,
    DOUBTFUL_SIZE,
    MOST_NAMED,
    combine_summaries,
    rank_doubtful_people,
    summarize_people,
)
from facecluster.transforms.tables import schema


def people_table(rows):
    """People of (id, size, confidence), each face in a photo of its own."""
    return pa.Table.from_pylist(
        [
            {"person_id": name, "size": size, "n_photos": size, "representative_face_id": name,
             "confidence": confidence, "spread": 1.0}
            for name, size, confidence in rows
        ],
        schema.stamped(schema.PEOPLE),
    )  # fmt: skip


def assignments_table(rows):
    """The assignments of these people."""
    return pa.Table.from_pylist(
        [
            {"face_id": f"{name}-{i}", "photo_id": f"{name}-{i}", "person_id": name,
             "probability": confidence, "distance": 0.5, "repeated_in_photo": False,
             "left_out": None}
            for name, size, confidence in rows
            for i in range(size)
        ],
        schema.stamped(schema.ASSIGNMENTS),
    )  # fmt: skip


def test_people_with_most_faces_expected_to_be_wrong_come_first():
    rows = [("a", 5, 0.25), ("b", 100, 0.45), ("c", 10, 0.0), ("d", 10, 0.0), ("e", 1000, 0.6)]
    assert rank_doubtful_people(people_table(rows)) == [
        ("b", 55), ("c", 10), ("d", 10), ("a", 3.8),
    ]  # fmt: skip


def test_small_and_confident_people_are_not_doubtful():
    rows = [("a", DOUBTFUL_SIZE - 1, 0.0), ("b", DOUBTFUL_SIZE, DOUBTFUL_CONFIDENCE)]
    assert rank_doubtful_people(people_table(rows)) == []
    assert rank_doubtful_people(people_table([])) == []


PEOPLE = st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0.1, 0.4, 0.5, 0.9])), max_size=60)


@given(PEOPLE, st.integers(1, 4))
def test_parts_give_the_summary_of_the_whole(people, n_parts):
    rows = [(f"person {i:02d}", *person) for i, person in enumerate(people)]
    parts = [rows[i::n_parts] for i in range(n_parts)]
    whole, of_parts = (
        combine_summaries(
            [summarize_people(people_table(part), assignments_table(part)) for part in divided]
        )
        for divided in ([rows], parts)
    )
    assert of_parts == whole
    diagnostics = whole["diagnostics"]
    doubtful = [name for name, _ in rank_doubtful_people(people_table(rows))]
    assert diagnostics["doubtful_people"] == len(doubtful)
    assert diagnostics["most_doubtful"] == doubtful[:MOST_NAMED]
    assert whole["counts"]["faces"] == np.sum([size for _, size, _ in rows])
