"""Pose and sharpness respond to what they measure and are invariant to all else."""

import io
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from facecluster.transforms.faces.align import crop_face
from facecluster.transforms.faces.quality import (
    LUMA_SIZE,
    MEAN_FACE,
    estimate_pose,
    measure_quality,
    measure_sharpness,
)

BOX = np.array([80.0, 70, 170, 185])  # about the face in LFW's photos


def turned(yaw: float, pitch: float, roll: float, face: np.ndarray = MEAN_FACE) -> np.ndarray:
    """(5, 2) the landmarks of a head after pitch, then yaw, then roll, in parallel projection."""
    a, b, c = np.radians((yaw, pitch, roll))
    pitched = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    yawed = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    rolled = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return (face @ (rolled @ yawed @ pitched).T)[:, :2]


def mirrored(landmarks: np.ndarray) -> np.ndarray:
    """The landmarks in the mirrored photo, where left and right change places."""
    return (landmarks * [-1, 1])[[1, 0, 2, 4, 3]]


def natural_image(seed: int, side: int = 256) -> np.ndarray:
    """(side, side) 0 to 255, with the spectrum of natural images: 1/f noise."""
    spectrum = np.fft.rfft2(np.random.default_rng(seed).normal(size=(side, side)))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    image = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / side), (side, side))
    image = 128 + 40 * (image - image.mean()) / image.std()
    return np.clip(image, 0, 255).astype(np.uint8)


def luma(image, box=(0, 0, 256, 256)) -> np.ndarray:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return np.asarray(crop_face(image, np.array(box, float), LUMA_SIZE, 0).convert("L"))


def blurred(image: np.ndarray, radius: float) -> Image.Image:
    return Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))


angles = st.tuples(st.floats(-75, 75), st.floats(-60, 60), st.floats(-179, 179))
seeds = st.integers(0, 10**6)


# ---- pose ----


@given(angles, st.floats(0.1, 1000), st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_the_pose_of_the_mean_face_is_recovered_at_any_scale_and_position(pose, scale, x, y):
    landmarks = turned(*pose) * scale + [x, y]
    np.testing.assert_allclose(estimate_pose(landmarks), pose, atol=1e-3)


def test_the_signs_of_the_angles():
    nose = turned(0, 0, 0)[2]
    assert turned(30, 0, 0)[2, 0] > nose[0]  # the face turns to the image's right
    assert turned(0, 30, 0)[2, 1] < nose[1]  # it looks up
    left_eye, right_eye = turned(0, 0, 30)[:2]
    assert right_eye[1] > left_eye[1]  # it is tilted clockwise; y points down


@given(angles, st.floats(-90, 90))
def test_rotating_the_photo_changes_only_roll(pose, angle):
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    yaw, pitch, roll = estimate_pose(turned(*pose) @ np.array([[c, s], [-s, c]]))
    assert (yaw, pitch) == pytest.approx(pose[:2], abs=1e-6)
    assert (roll - pose[2] - angle + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)


@given(st.lists(st.floats(-3, 3), min_size=10, max_size=10), angles)
def test_the_mirrored_face_has_opposite_yaw_and_roll(noise, pose):
    landmarks = turned(*pose) + np.reshape(noise, (5, 2)) / 10
    yaw, pitch, roll = estimate_pose(landmarks)
    other = estimate_pose(mirrored(landmarks))
    assert other[:2] == pytest.approx((-yaw, pitch), abs=1e-6)
    assert (other[2] + roll + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)


@given(st.floats(-60, 60), st.floats(-20, 20), st.integers(0, 10**6))
@settings(max_examples=300)
def test_landmark_errors_of_2_percent_change_the_pose_by_a_few_degrees(yaw, pitch, seed):
    noise = np.random.default_rng(seed).normal(0, 0.2, (5, 2))  # of a face of 10 cm
    found = estimate_pose(turned(yaw, pitch, 0) + noise)
    assert found == pytest.approx((yaw, pitch, 0), abs=22)  # about 4.5 standard deviations


@pytest.mark.parametrize("yaw", [-60, -40, -20, 0, 20, 40, 60])
def test_a_nose_20_percent_shorter_lowers_yaw_by_a_few_degrees(yaw):
    face = MEAN_FACE.copy()
    face[2, 2] -= 0.2 * (MEAN_FACE[2, 2] - MEAN_FACE[:2, 2].mean())
    found, _, _ = estimate_pose(turned(yaw, 0, 0, face))
    assert abs(found) == pytest.approx(abs(yaw), abs=8)
    assert abs(found) <= abs(yaw) + 1e-9


@given(st.lists(st.floats(-100, 100, width=32), min_size=10, max_size=10))
def test_angles_of_arbitrary_landmarks(numbers):
    landmarks = np.reshape(numbers, (5, 2)).astype(np.float32)
    yaw, pitch, roll = estimate_pose(landmarks)
    if np.ptp(landmarks, axis=0).any():
        assert abs(yaw) <= 90
        assert max(abs(pitch), abs(roll)) <= 180
    assert np.isnan(estimate_pose(np.ones((5, 2)))).all()


# ---- sharpness ----


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_sharpness_falls_with_blur(seed):
    image = natural_image(seed)
    found = [measure_sharpness(luma(blurred(image, radius))) for radius in (0, 2, 4, 6, 9, 13, 18)]
    assert all(less < more for more, less in itertools.pairwise(found))
    assert 0 <= found[-1] < found[0] / 3 < 1 / 3


@given(seeds, st.floats(0.1, 10), st.floats(-100, 100))
@settings(max_examples=25, deadline=None)
def test_brightness_and_contrast_do_not_change_sharpness(seed, contrast, brightness):
    image = luma(natural_image(seed)).astype(np.float32)
    found = measure_sharpness(image * contrast + brightness)
    assert found == pytest.approx(measure_sharpness(image), abs=1e-3)


@given(seeds, st.sampled_from([10, 20, 40, 80]))
@settings(max_examples=25, deadline=None)
def test_jpeg_artifacts_do_not_sharpen_a_blurred_image(seed, quality):
    image = blurred(natural_image(seed), 8)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    found, sharp = (
        measure_sharpness(luma(Image.open(file))),
        measure_sharpness(luma(natural_image(seed))),
    )
    assert found < 0.6 * sharp


def test_an_image_of_one_color_has_sharpness_zero():
    assert measure_sharpness(np.full((LUMA_SIZE, LUMA_SIZE), 77, np.uint8)) == 0
    stripes = np.tile(np.arange(LUMA_SIZE) % 7 * 30, (LUMA_SIZE, 1))
    assert measure_sharpness(stripes) == 0  # sharp in one direction only, like motion blur


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_motion_blur_lowers_sharpness(seed):
    image = natural_image(seed).astype(float)
    moved = np.mean([np.roll(image, shift, axis=1) for shift in range(-16, 17)], axis=0)
    assert measure_sharpness(luma(moved.astype(np.uint8))) < 0.75 * measure_sharpness(
        luma(natural_image(seed))
    )


@pytest.fixture(scope="module")
def faces(lfw_images):
    paths = sorted(lfw_images.glob("*/*.jpg"))[::300]
    return [Image.open(path).convert("RGB") for path in paths]


def sharpness_at_size(image: Image.Image, pixels: float) -> float:
    """The sharpness of the face in a copy of the photo, scaled to this size of the face."""
    side = round(250 * pixels / math.sqrt(90 * 115))
    small = image.resize((side, side), Image.Resampling.BICUBIC)
    return measure_sharpness(luma(small, BOX * side / 250))


def test_sharpness_falls_for_small_faces_and_is_constant_for_large_ones(faces):
    found = {
        size: [sharpness_at_size(face, size) for face in faces]
        for size in (12, 16, 24, 40, 100, 300)
    }
    medians = [np.median(found[size]) for size in (12, 16, 24, 40)]
    assert medians == sorted(medians)
    assert max(found[12]) < min(found[100])
    assert np.mean(np.array(found[16]) < found[100]) == 1
    np.testing.assert_allclose(found[300], found[100], atol=0.03)


def test_blurred_real_faces_are_separated_from_sharp_ones(faces):
    sharp = [measure_sharpness(luma(face, BOX)) for face in faces]
    out_of_focus = [
        measure_sharpness(luma(face.filter(ImageFilter.GaussianBlur(4)), BOX)) for face in faces
    ]
    assert max(out_of_focus) < min(sharp)
    assert np.median(sharp) == pytest.approx(0.19, abs=0.02)


# ---- all measures ----


def test_all_measures_of_a_face():
    image = np.full((LUMA_SIZE, LUMA_SIZE), 51, np.uint8)
    found = measure_quality(np.array([-5, 10, 15, 90]), turned(10, -20, 30), image)
    assert found.size_px == 40
    assert found.sharpness == 0
    assert found.brightness == pytest.approx(0.2)
    assert (found.yaw, found.pitch, found.roll) == pytest.approx((10, -20, 30))
