"""Tests of the choice of the labeled face of a photo."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.pipeline.evaluation.labels import find_labeled_faces
from facecluster.transforms.tables import schema
from tests.pipeline.evaluation.synthetic_run import (
    CENTRAL,
    CORNER,
    Photo,
    faces_table,
    photos_table,
)

COORDINATE = st.integers(0, 99)
BOX = st.tuples(COORDINATE, COORDINATE, st.integers(1, 60), st.integers(1, 60)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


def labeled_face_by_definition(boxes, width, height):
    def score(box):
        x0, y0, x1, y1 = box
        off_center = (((x0 + x1) / 2 - width / 2), ((y0 + y1) / 2 - height / 2))
        return (x1 - x0) * (y1 - y0) - 2 * (off_center[0] ** 2 + off_center[1] ** 2)

    return max(range(len(boxes)), key=lambda i: score(boxes[i]))  # the first of several


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(BOX, max_size=4), st.integers(100, 150), st.integers(100, 150)),
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_labeled_faces_are_the_largest_central_ones(drawn, random):
    photos = [Photo(f"{i}.jpg", boxes) for i, (boxes, _, _) in enumerate(drawn)]
    sizes = {"width": [w for _, w, _ in drawn], "height": [h for _, _, h in drawn]}
    table = photos_table(photos)
    for side, values in sizes.items():
        table = table.set_column(table.column_names.index(side), side, [pa.array(values, "i4")])
    faces = faces_table(random.sample(photos, len(photos)))
    expected = {
        p.uri: schema.face_id(p.photo_id, labeled_face_by_definition(p.boxes, w, h))
        for p, (_, w, h) in zip(photos, drawn, strict=True)
        if p.boxes
    }
    found = find_labeled_faces(table, faces)
    assert {uri: faces["face_id"][row].as_py() for uri, row in found.items()} == expected


def test_a_face_off_center_gives_way_to_a_smaller_central_one():
    # Areas 1,600 and 1,156; CORNER is 30 px off center in x and y, a penalty of 3,600.
    photos = [Photo("a.jpg", [CORNER, (33, 33, 67, 67)])]
    assert find_labeled_faces(photos_table(photos), faces_table(photos)) == {"a.jpg": 1}


def test_duplicate_photos_share_their_face():
    photos = [Photo(uri, [CORNER, CENTRAL], content="same") for uri in ("a.jpg", "b.jpg")]
    found = find_labeled_faces(photos_table(photos), faces_table(photos))
    assert found == {"a.jpg": 1, "b.jpg": 1}


@pytest.mark.parametrize(
    "box",
    [(np.nan, 30, 70, 70), (70, 70, 30, 30), (0, 0, 1e30, 1e30), (0, 0, np.inf, 9),
     (30, 30, 30, 70), (200, 200, 900, 900), (-9, -9, 0, 0), (None, 0, 9, 9)],
)  # fmt: skip
def test_a_damaged_box_is_never_the_labeled_face(box):
    photos = [Photo("a.jpg", [box, CORNER, CENTRAL]), Photo("b.jpg", [box])]
    assert find_labeled_faces(photos_table(photos), faces_table(photos)) == {"a.jpg": 2}


def test_faces_of_other_photos_are_ignored():
    photos = [Photo("a.jpg", [CENTRAL, CORNER]), Photo("b.jpg", [CORNER, CENTRAL])]
    assert find_labeled_faces(photos_table(photos[1:]), faces_table(photos)) == {"b.jpg": 3}
