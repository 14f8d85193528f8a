"""Non-maximum suppression and the other operations on boxes."""

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.transforms.faces.boxes import (
    apply_corrections,
    clip_boxes,
    non_maximum_suppression,
    overlaps_photo,
    square_boxes,
)

boxes_and_scores = st.lists(
    st.tuples(
        st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20),
        st.integers(0, 5), st.integers(0, 2),
    ),
    max_size=30,
)  # fmt: skip


@given(boxes_and_scores, st.sampled_from(["0", "0.3", "0.5", "0.7"]), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_suppression_equals_its_definition(drawn, threshold, of_smaller, in_groups):
    boxes = [(x, y, x + width, y + height) for x, y, width, height, _, _ in drawn]
    scores, groups = [row[4] for row in drawn], [row[5] for row in drawn]

    def area(box) -> int:
        return (box[2] - box[0]) * (box[3] - box[1])

    def overlap(a, b) -> bool:
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared = max(width, 0) * max(height, 0)
        whole = min(area(a), area(b)) if of_smaller else area(a) + area(b) - shared
        return Fraction(shared, whole) > Fraction(threshold)

    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        rivals = [j for j in kept if groups[i] == groups[j] or not in_groups]
        if not any(overlap(boxes[i], boxes[j]) for j in rivals):
            kept.append(i)
    found = non_maximum_suppression(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), float(threshold),
        np.array(groups, int) if in_groups else None, of_smaller=of_smaller,
    )  # fmt: skip
    assert found.tolist() == kept


def test_suppression_of_many():
    # More boxes than one block: of three boxes at each of 700 places, one of highest score stays.
    rng = np.random.default_rng(0)
    corners = np.repeat(np.stack([np.arange(700) * 30, np.zeros(700)], axis=1), 3, axis=0)
    corners += rng.uniform(0, 1, corners.shape)
    scores = rng.permutation(2100) / 2100
    boxes = np.concatenate([corners, corners + 20], axis=1)
    best = np.arange(700) * 3 + scores.reshape(700, 3).argmax(axis=1)
    kept = non_maximum_suppression(boxes, scores, 0.5).tolist()
    assert kept == sorted(best, key=lambda i: -scores[i])


def test_an_empty_box_suppresses_nothing():
    boxes = np.array([[5, 5, 5, 5], [0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    kept = non_maximum_suppression(boxes, np.array([3.0, 2.0, 1.0]), 0.5)
    assert kept.tolist() == [0, 1, 2]


def test_a_box_overlaps_its_photo_by_at_least_a_pixel():
    boxes = np.array(
        [[0, 0, 9, 9], [-9, 0, 0.5, 9], [19, 3, 30, 9], [5, 30, 9, 39], [-9, -9, 99, 99]]
    )
    assert overlaps_photo(boxes, [(20, 30)] * 5).tolist() == [True, False, True, False, True]
    assert overlaps_photo(np.empty((0, 4)), []).tolist() == []


def test_clipped_boxes_are_the_parts_inside_the_photo():
    boxes = np.array([[-5, 2, 9, 40], [3, -1, 30, 9], [2, 3, 4, 5]], np.float32)
    clipped = clip_boxes(boxes, (20, 30))
    assert clipped.tolist() == [[0, 2, 9, 30], [3, 0, 20, 9], [2, 3, 4, 5]]
    assert clipped.dtype == np.float32
    assert clip_boxes(boxes[0], (20, 30)).tolist() == clipped[0].tolist()


def test_corrections_are_fractions_of_the_sides():
    boxes = np.array([[10, 20, 30, 60]], float)
    corrections = np.array([[0.5, 0.25, -0.5, 0]])
    assert apply_corrections(boxes, corrections).tolist() == [[20, 30, 20, 60]]


def test_squares_keep_the_center_and_the_longer_side():
    assert square_boxes(np.array([[10, 20, 30, 60]], float)).tolist() == [[0, 20, 40, 60]]
