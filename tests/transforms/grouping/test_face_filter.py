"""The filter leaves out faces that fail a limit, for the first reason that holds."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecluster.transforms.grouping.face_filter import (
    FILTER_COLUMNS,
    REASONS,
    find_left_out_reasons,
    format_left_out_counts,
)
from facecluster.transforms.grouping.options import FaceFilterOptions

LIMITS = FaceFilterOptions()
EVERY_FACE = FaceFilterOptions(0.0, 0.0, 0.0, 90.0)


def faces_table(rows) -> pa.Table:
    """A faces table from rows of (size_px, sharpness, detection_score, yaw), with vectors."""
    columns = np.array(rows, np.float32).reshape(-1, len(FILTER_COLUMNS) - 1).T
    measures = dict(zip(FILTER_COLUMNS[1:], columns, strict=True))
    return pa.table({"embedding": vectors_of([1.0] * len(rows)), **measures})


def vectors_of(values, kind=np.float32) -> pa.FixedSizeListArray:
    """Vectors of two dimensions that repeat a value."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(values, 2).astype(kind)), 2)


@pytest.mark.parametrize(
    ("face", "reason"),
    [
        ((100, 0.2, 0.99, 0), None),
        ((24, 0.08, 0.98, 60), None),  # exactly at each limit
        ((24, 0.08, 0.98, -60), None),
        ((32, 0.12, 0.9, 0), None),
        ((32, 0.119, 0.97, 0), "score"),
        ((31.9, 0.12, 0.97, 0), "score"),
        ((23.9, 0.2, 0.99, 0), "size"),
        ((100, 0.079, 0.99, 0), "sharpness"),
        ((100, 0.2, 0.899, 0), "score"),
        ((100, 0.2, 0.99, 60.1), "pose"),
        ((100, 0.2, 0.99, -60.1), "pose"),
        ((1, 0, 0, 90), "size"),
        ((100, 0, 0, 90), "sharpness"),
        ((100, 0.2, 0, 90), "score"),
    ],
)
def test_the_defaults(face, reason):
    assert find_left_out_reasons(faces_table([face]), LIMITS).to_pylist() == [reason]
    assert find_left_out_reasons(faces_table([face]), EVERY_FACE).to_pylist() == [None]


qualities = st.tuples(st.floats(0, 300), st.floats(0, 1), st.floats(0, 1), st.floats(-90, 90))
limits = st.builds(
    FaceFilterOptions, st.floats(0, 300), st.floats(0, 1), st.floats(0, 1), st.floats(0, 90)
)


@given(st.lists(qualities, max_size=20), limits)
def test_each_face_is_checked_independently_and_by_every_limit(faces, options):
    found = find_left_out_reasons(faces_table(faces), options).to_pylist()
    assert found == [
        find_left_out_reasons(faces_table([face]), options)[0].as_py() for face in faces
    ]
    fields = dict(zip(list(REASONS)[1:], vars(options), strict=True))
    for reason, field in fields.items():
        alone = replace(EVERY_FACE, **{field: getattr(options, field)})
        fails = find_left_out_reasons(faces_table(faces), alone).to_pylist()
        assert set(fails) <= {reason, None}
        for mine, first in zip(fails, found, strict=True):
            if mine:
                assert list(REASONS).index(first) <= list(REASONS).index(reason)
            else:
                assert first != reason


@pytest.mark.parametrize(("place", "reason"), enumerate(["size", "sharpness", "score", "pose"]))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_damaged_measure_fails_its_limit(place, reason, value):
    row = [100.0, 0.2, 0.99, 0.0]
    row[place] = value
    table = faces_table([row, (100, 0.2, 0.99, 0)])
    missing = table.set_column(
        place + 1, FILTER_COLUMNS[place + 1], pa.array([None, row[place - 1]], pa.float32())
    )
    for faces in (table, missing):
        for limits in (LIMITS, EVERY_FACE):
            assert find_left_out_reasons(faces, limits)[0].as_py() == reason


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_a_face_without_a_usable_vector_is_left_out(kind):
    table = faces_table([(100, 0.2, 0.99, 0)] * 3 + [(1, 0, 0, 0)])
    vectors = vectors_of([1.0, np.nan, np.inf, 0.0], kind)
    found = find_left_out_reasons(table.set_column(0, "embedding", vectors), EVERY_FACE)
    assert found.to_pylist() == [None, "vector", "vector", "vector"]


def test_a_missing_vector_is_left_out():
    table = faces_table([(100, 0.2, 0.99, 0)] * 4)
    vectors = pa.array([[1, 2], None, [None, 3], [0, 0]], pa.list_(pa.int8(), 2))
    found = find_left_out_reasons(table.set_column(0, "embedding", vectors), LIMITS)
    assert found.to_pylist() == [None, "vector", "vector", "vector"]


def test_no_faces():
    assert find_left_out_reasons(faces_table([]), LIMITS).to_pylist() == []


def test_counts_of_reasons_as_text():
    assert format_left_out_counts({"size": 0, "sharpness": 0, "score": 0, "pose": 0}) == ""
    assert format_left_out_counts({"size": 2, "pose": 1234}) == "turned away 1,234, too small 2"
