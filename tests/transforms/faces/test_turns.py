"""Points turn with the pixels of their photo, and turning back is exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facecluster.transforms.faces.align import crop_face
from facecluster.transforms.faces.quality import estimate_pose
from facecluster.transforms.faces.turns import (
    TURNS,
    turn_back,
    turn_boxes,
    turn_image,
    turn_points,
    turn_upright,
)

turns = st.sampled_from(TURNS)
sides = st.integers(1, 30_000)
coordinates = st.floats(-500, 30_000, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
LANDMARKS = np.float32([[40, 50], [80, 48], [62, 70], [45, 90], [78, 92]])


@given(st.integers(1, 20), st.integers(1, 20), turns, st.data())
def test_points_are_where_their_pixels_are(width, height, turn, data):
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    pixels = np.zeros((height, width), np.uint8)
    pixels[y, x] = 255
    turned = np.asarray(turn_image(Image.fromarray(pixels), turn))
    ((row, column),) = np.argwhere(turned)
    center = turn_points(np.array([x + 0.5, y + 0.5]), turn, (width, height))
    assert center.tolist() == [column + 0.5, row + 0.5]
    box = turn_boxes(np.array([x, y, x + 1, y + 1]), turn, (width, height))
    assert box.tolist() == [column, row, column + 1, row + 1]


@given(st.lists(st.tuples(*[coordinates] * 4), max_size=3), sides, sides, turns)
def test_turning_back_is_exact(rows, width, height, turn):
    corners = np.array(rows, np.float32).reshape(-1, 2, 2)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    size = (width, height)
    turned_size = size if turn % 180 == 0 else size[::-1]
    turned = turn_boxes(boxes, turn, size)
    assert np.all(turned[:, :2] <= turned[:, 2:])
    np.testing.assert_array_equal(turn_boxes(turned, turn_back(turn), turned_size), boxes)
    points = turn_points(corners, turn, size)
    np.testing.assert_array_equal(turn_points(points, turn_back(turn), turned_size), corners)


@given(turns, turns)
def test_turns_add_up(first, second):
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    twice = turn_image(turn_image(image, first), second)
    np.testing.assert_array_equal(
        np.asarray(twice), np.asarray(turn_image(image, (first + second) % 360))
    )


@pytest.mark.parametrize("turn", TURNS)
def test_a_face_in_a_turned_photo_has_the_crop_of_the_upright_one(turn):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)
    upright = Image.fromarray(pixels)
    boxes = [np.float32([20.37, 10.11, 71.93, 80.7]), np.float32([-7.3, 40.1, 50.2, 99.9])]
    photo = turn_image(upright, turn_back(turn))
    in_photo = [turn_boxes(box, turn_back(turn), upright.size) for box in boxes]
    found = list(turn_upright(photo, in_photo, [turn] * 2))
    for (image, turned_box), box in zip(found, boxes, strict=True):
        np.testing.assert_array_equal(
            np.asarray(crop_face(image, turned_box, 64, 8)),
            np.asarray(crop_face(upright, box, 64, 8)),
        )


@pytest.mark.parametrize(("turn", "roll"), [(90, -90), (180, 180), (270, 90)])
def test_only_the_roll_of_a_face_changes_with_its_turn(turn, roll):
    """A face that has to be turned clockwise to be upright is tilted counterclockwise."""
    landmarks = turn_points(LANDMARKS, turn_back(turn), (200, 300))
    upright, turned = estimate_pose(LANDMARKS), estimate_pose(landmarks)
    np.testing.assert_allclose(turned[:2], upright[:2], atol=1e-6)
    assert (turned[2] - upright[2] - roll) % 360 == pytest.approx(0, abs=1e-6)
