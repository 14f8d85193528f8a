"""The packed pyramid is complete, aligned to P-Net's stride, and shows the photo."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facecluster.transforms.faces.pyramid import (
    P_NET_STRIDE,
    P_NET_WINDOW,
    Canvas,
    choose_reduction,
    cut_out,
    list_pieces,
)
from facecluster.transforms.faces.saved_model import SavedModel


@pytest.fixture(scope="module")
def portrait(lfw_images) -> Image.Image:
    return Image.open(lfw_images / "AJ_Cook" / "AJ_Cook_0001.jpg").convert("RGB")


@pytest.fixture(scope="module")
def model(mtcnn_folder) -> SavedModel:
    return SavedModel(mtcnn_folder)


canvas_sizes = st.tuples(st.integers(1, 2000), st.integers(1, 2000))


@given(canvas_sizes, st.integers(12, 200))
@settings(max_examples=300, deadline=None)
def test_levels_are_inside_the_canvas_disjoint_and_aligned_to_the_stride(size, min_face_size):
    canvas = Canvas.of(size, min_face_size)
    occupied = np.zeros((canvas.height, canvas.width), bool)
    for level in canvas.levels:
        assert level.x % P_NET_STRIDE == level.y % P_NET_STRIDE == 0
        assert level.x + level.width <= canvas.width
        assert level.y + level.height <= canvas.height
        area = occupied[level.y : level.y + level.height, level.x : level.x + level.width]
        assert not area.any()
        area[:] = True
        assert level.scale_x == pytest.approx(level.width / size[0])
        assert level.scale_y == pytest.approx(level.height / size[1])


@given(canvas_sizes, st.integers(12, 200))
@settings(max_examples=300, deadline=None)
def test_levels_equal_the_published_pyramid(size, min_face_size):
    # The scales of detect_face.py: 12 / minsize, times 0.709 until the shorter side is below 12.
    scales, scale = [], 12 / min_face_size
    while min(size) * scale >= 12:
        scales.append(scale)
        scale *= 0.709
    levels = Canvas.of(size, min_face_size).levels
    sizes = [(np.ceil(size[0] * scale), np.ceil(size[1] * scale)) for scale in scales]
    assert [(level.width, level.height) for level in levels] == sizes
    if min(size) > min_face_size:
        assert levels
    if min(size) < min_face_size:
        assert not levels


@given(canvas_sizes, st.integers(12, 60))
@settings(max_examples=100, deadline=None)
def test_less_than_half_of_a_canvas_is_unused(size, min_face_size):
    canvas = Canvas.of(size, min_face_size)
    used = sum(level.width * level.height for level in canvas.levels)
    if min(size) >= 4 * min_face_size:
        assert canvas.width * canvas.height < 2 * used


@pytest.mark.parametrize("size", [(250, 250), (301, 173), (64, 400)])
@pytest.mark.parametrize("min_face_size", [12, 20])
def test_levels_show_the_photo(portrait, size, min_face_size):
    image = portrait.resize(size)
    canvas = Canvas.of(image.size, min_face_size)
    pixels = canvas.draw(image)
    assert pixels.shape == (canvas.height, canvas.width, 3)
    for level in canvas.levels:
        drawn = pixels[level.y : level.y + level.height, level.x : level.x + level.width]
        exact = image.resize((level.width, level.height), Image.Resampling.BOX)
        difference = np.abs(drawn.astype(float) - np.asarray(exact))
        assert difference.mean() < 10  # another photo would differ by 60


@pytest.mark.parametrize("size", [(250, 250), (333, 171)])
def test_p_net_gives_each_level_the_outputs_of_a_separate_image(model, portrait, size):
    canvas = Canvas.of(size, 20)
    pixels = canvas.draw(portrait.resize(size))
    scores, corrections = model.call("p_net", pixels[None])
    assert len(canvas.levels) > 3
    for level in canvas.levels:
        alone = pixels[level.y : level.y + level.height, level.x : level.x + level.width]
        alone_scores, alone_corrections = model.call("p_net", alone[None])
        rows = (level.height - P_NET_WINDOW) // P_NET_STRIDE + 1
        columns = (level.width - P_NET_WINDOW) // P_NET_STRIDE + 1
        top, left = level.y // P_NET_STRIDE, level.x // P_NET_STRIDE
        place = (0, slice(top, top + rows), slice(left, left + columns))
        np.testing.assert_allclose(scores[place], alone_scores[0, :rows, :columns], atol=1e-4)
        np.testing.assert_allclose(
            corrections[place], alone_corrections[0, :rows, :columns], atol=1e-4
        )


# ---- reduction and pieces ----

sides = st.integers(1, 5000)


@given(sides, sides, st.integers(100, 3000))
def test_photos_up_to_two_to_one_are_reduced_by_their_longer_side(width, height, detection_size):
    reduction = choose_reduction((width, height), detection_size)
    assert choose_reduction((height, width), detection_size) == reduction
    short, long = sorted((width, height))
    if long <= 2 * short:
        assert reduction == max(1.0, long / detection_size)
    else:  # as much as the same photo if it ended at twice the shorter side
        assert reduction == choose_reduction((2 * short, short), detection_size)


@given(sides, sides, st.integers(100, 4_000_000), st.data())
def test_any_square_within_a_photo_is_within_a_piece(width, height, max_pixels, data):
    pieces = list_pieces((width, height), max_pixels)
    side = data.draw(st.integers(1, min(width, height)))
    x, y = data.draw(st.integers(0, width - side)), data.draw(st.integers(0, height - side))
    assert any(
        left <= x and top <= y and x + side <= left + w and y + side <= top + h
        for left, top, w, h in pieces
    )
    assert len({piece[2:] for piece in pieces}) == 1
    for left, top, w, h in pieces:
        assert 0 <= left <= left + w <= width
        assert 0 <= top <= top + h <= height
        assert w * h <= max(max_pixels, min(width, height) * (min(width, height) + 1))
    if width * height <= max_pixels:
        assert pieces == [(0, 0, width, height)]


@pytest.mark.parametrize("size", [(100_000, 2_000), (2_000, 100_000), (250_000, 800)])
def test_a_piece_of_the_longest_panorama_has_no_more_pixels_than_other_photos(size):
    reduction = choose_reduction(size, 1600)
    reduced = tuple(round(side / reduction) for side in size)
    pieces = list_pieces(reduced, 1600**2)
    assert max(w * h for _, _, w, h in pieces) <= 1600**2
    # Their overlaps add no more than a third.
    assert sum(w * h for _, _, w, h in pieces) <= 1.4 * reduced[0] * reduced[1]


@given(st.integers(-30, 90), st.integers(-30, 90), st.integers(1, 99), st.integers(1, 99))
@settings(max_examples=50)
def test_what_is_cut_out_is_what_pillow_crops(left, top, width, height):
    pixels = np.random.default_rng(0).integers(1, 256, (50, 70, 3), np.uint8)
    image = Image.fromarray(pixels)
    expected = image.crop((left, top, left + width, top + height))
    np.testing.assert_array_equal(
        np.asarray(cut_out(image, left, top, width, height)), np.asarray(expected)
    )
