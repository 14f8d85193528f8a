"""Measures how well a face can be recognized in a photo: size, sharpness, brightness and pose."""

import math

import numpy as np

from facecluster.transforms.records import Quality

LUMA_SIZE = 64  # px, side of the image that sharpness and brightness are measured on
# Passes of a binomial filter. Smoothing removes the octave that holds the noise of single pixels.
SMOOTHING, REBLURRING = 1, 2

# The five landmarks of a mean face, in cm; x to the image's right, y down, z towards the viewer.
# From MediaPipe's canonical face model: vertices 33 and 133 (their midpoint is the eye), 1 and 61.
MEAN_FACE = np.array(
    [
        [-3.151, -2.625, 3.466],
        [3.151, -2.625, 3.466],
        [0.0, 1.127, 7.476],
        [-2.456, 4.343, 4.284],
        [2.456, 4.343, 4.284],
    ]
)
_FIT = np.linalg.pinv(MEAN_FACE - MEAN_FACE.mean(axis=0))  # (3, 5)


def measure_quality(box: np.ndarray, landmarks: np.ndarray, luma: np.ndarray) -> Quality:
    """Measures a face.

    Args:
      box: (4,) x0 y0 x1 y1, px of the upright photo.
      landmarks: (5, 2) x y, in the detector's order.
      luma: (LUMA_SIZE, LUMA_SIZE) the photo inside the box, 0 to 255.
    """
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    return Quality(
        math.sqrt(max(width, 0) * max(height, 0)),
        measure_sharpness(luma),
        float(luma.mean()) / 255,
        *estimate_pose(landmarks),
    )


def measure_sharpness(luma: np.ndarray) -> float:
    """The fraction of the differences between neighboring pixels that blurring removes.

    Blurring hardly changes an image that is blurred already (Crete et al., "The blur effect",
    2007), whatever its brightness and contrast. This measure differs from theirs in two ways: the
    image has a fixed size and is smoothed a little first, so that pixel noise and the edges of JPEG
    blocks hardly count; and both directions are combined by their geometric mean, so that motion
    blur in one direction lowers it.

    At LUMA_SIZE, a sharp face has about 0.19; a face of 24 px 0.11, and so has one blurred by a
    Gaussian of 1/50 of its width; noise of 4 % of white adds 0.02.

    Args:
      luma: (height, width) of a face, on any linear scale.

    Returns:
      0 to 1; 0 for an image of one color.
    """
    luma = _blur(np.asarray(luma, np.float32), SMOOTHING)
    reblurred = _blur(luma, REBLURRING)
    removed = []
    for axis in (0, 1):
        before, after = (float(np.abs(np.diff(p, axis=axis)).sum()) for p in (luma, reblurred))
        removed.append(max(1 - after / before, 0.0) if before else 0.0)
    return math.sqrt(removed[0] * removed[1])


def estimate_pose(landmarks: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees, 0 for an upright face that looks at the camera.

    Yaw is positive for a face turned to the image's right, pitch for one that looks up, and roll
    for one tilted clockwise as seen. From head to image, pitch is applied first, then yaw, then
    roll: roll is the angle of the line through the eyes.

    The model is a rigid mean face under weak perspective: an affine map from its landmarks is
    fitted by least squares, and the nearest scaled rotation to it is taken. This is exact for the
    mean face itself. Only the nose gives depth: a nose that is 20 % shorter lowers the yaw and
    pitch of a turned face by 4 to 7 degrees, landmarks that are off by 2 % of the face's width
    change them by 3 to 5, and a longer chin reads as pitch. Detectors place the landmarks of
    profiles inaccurately, so beyond about 60 degrees yaw tells that a face is turned away, but not
    how far.

    Args:
      landmarks: (5, 2) x y of left eye, right eye, nose, left and right mouth corner, where left
        and right are the image's; y down.

    Returns:
      (yaw, pitch, roll), yaw within 90 and the others within 180; nan if all landmarks coincide.
    """
    points = np.asarray(landmarks, np.float64)
    affine = (_FIT @ (points - points.mean(axis=0))).T  # (2, 3)
    left, sizes, right = np.linalg.svd(affine, full_matrices=False)
    if not sizes[0]:
        return math.nan, math.nan, math.nan
    x, y = left @ right  # the image's axes, in the head's coordinates
    z = np.cross(x, y)
    yaw = math.atan2(-z[0], math.hypot(x[0], y[0]))
    pitch = math.atan2(z[1], z[2])
    roll = math.atan2(y[0], x[0])
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)


def _blur(image: np.ndarray, passes: int) -> np.ndarray:
    """Applies the binomial filter 1 2 1 in both directions."""
    for _ in range(passes):
        padded = np.pad(image, 1, mode="edge")
        rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
        image = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
    return image
