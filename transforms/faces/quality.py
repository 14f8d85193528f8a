"""How well a face can be recognised by its picture: size, sharpness, brightness and pose."""

import math

import numpy as np

from facecluster.transforms.records import Quality

LUMA_SIZE = 64  # px, side of the picture that sharpness and brightness are measured on
# What sharpness is measured after: noise of single pixels lives in the octave that it takes away.
SMOOTHING, REBLURRING = 1, 2  # passes of a binomial filter

# A mean face's five landmarks, in cm; x to the picture's right, y down, z to the viewer. From
# MediaPipe's canonical face model: vertices 33 and 133, whose middle is the eye, 1 and 61.
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


def quality_of(box: np.ndarray, landmarks: np.ndarray, luma: np.ndarray) -> Quality:
    """Measures a face.

    Args:
      box: (4,) x0 y0 x1 y1, px of the upright photo.
      landmarks: (5, 2) x y, as the detector gives them.
      luma: (LUMA_SIZE, LUMA_SIZE) what the photo shows in the box, 0 to 255.
    """
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    return Quality(
        math.sqrt(max(width, 0) * max(height, 0)),
        sharpness_of(luma),
        float(luma.mean()) / 255,
        *pose_of(landmarks),
    )


def sharpness_of(luma: np.ndarray) -> float:
    """The share of the differences between neighbouring pixels that vanishes when it is blurred.

    What is blurred already hardly changes by being blurred again (Crete et al., "The blur effect",
    2007), whatever its brightness and contrast. Differs from theirs in what it does before: the
    picture is one of a fixed size and is smoothed a little, so that pixel noise and the steps
    between JPEG's blocks hardly count; and in that a face blurred in one direction, by motion, is
    told by the geometric mean of both.

    On a picture of LUMA_SIZE, a sharp face comes to about 0.19, one of 24 px to 0.11, and so does
    one blurred by a Gaussian of a fiftieth of its width; noise of 4 % of white adds 0.02.

    Args:
      luma: (height, width) of a face, on any linear scale.

    Returns:
      0 to 1; 0 for a picture that is all one colour.
    """
    luma = _blurred(np.asarray(luma, np.float32), SMOOTHING)
    again = _blurred(luma, REBLURRING)
    lost = []
    for axis in (0, 1):
        before, after = (float(np.abs(np.diff(p, axis=axis)).sum()) for p in (luma, again))
        lost.append(max(1 - after / before, 0.0) if before else 0.0)
    return math.sqrt(lost[0] * lost[1])


def pose_of(landmarks: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees, 0 for a face that is upright and looks at the camera.

    yaw is positive for a face turned to the picture's right, pitch for one that looks up, and roll
    for one tilted clockwise as seen. From head to picture, pitch comes first, then yaw, then roll:
    roll is the angle of the line through the eyes.

    A rigid mean face is seen from afar (weak perspective): an affine map from its landmarks is
    fitted by least squares, and the nearest rotation and scale taken of that. Exact for that face.
    Depth is told by the nose alone: one that is a fifth shorter takes 4 to 7 degrees off yaw and
    pitch where the face is turned, landmarks that are off by 2 % of the face's width add 3 to 5,
    and a longer chin is taken for a pitch. Detectors place the landmarks of profiles badly, so
    beyond some 60 degrees yaw tells that a face is turned away, not how far.

    Args:
      landmarks: (5, 2) x y of left eye, right eye, nose, left and right mouth corner, left and
        right as seen, y downwards.

    Returns:
      (yaw, pitch, roll), yaw within 90 and the others within 180; nan where all landmarks are one
      point.
    """
    points = np.asarray(landmarks, np.float64)
    affine = (_FIT @ (points - points.mean(axis=0))).T  # (2, 3)
    left, sizes, right = np.linalg.svd(affine, full_matrices=False)
    if not sizes[0]:
        return math.nan, math.nan, math.nan
    x, y = left @ right  # the picture's axes, in those of the head
    z = np.cross(x, y)
    yaw = math.atan2(-z[0], math.hypot(x[0], y[0]))
    pitch = math.atan2(z[1], z[2])
    roll = math.atan2(y[0], x[0])
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)


def _blurred(picture: np.ndarray, times: int) -> np.ndarray:
    """With the binomial filter 1 2 1 in both directions."""
    for _ in range(times):
        wide = np.pad(picture, 1, mode="edge")
        rows = (wide[:-2] + 2 * wide[1:-1] + wide[2:]) / 4
        picture = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
    return picture
