"""The detector finds the labeled faces of real photos, independently of the batch."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from PIL import Image

from facecluster.transforms.faces.boxes import non_maximum_suppression
from facecluster.transforms.faces.detect import DetectFaces, detect_faces
from facecluster.transforms.faces.mtcnn import Detections, Detector
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.photos.decode_image import decode_image
from facecluster.transforms.records import Failure, Photo, Shard


def open_photo(path: Path) -> Image.Image:
    return decode_image(path.read_bytes())[0]


@pytest.fixture(scope="module")
def lfw(lfw_images) -> dict[str, Image.Image]:
    """One photo of each of 200 people."""
    people = sorted(lfw_images.iterdir())
    return {
        person.name: open_photo(sorted(person.iterdir())[0])
        for person in people[:: len(people) // 200]
    }


@pytest.fixture(scope="module")
def lfw_detections(detector, lfw) -> dict[str, Detections]:
    images = list(lfw.values())
    found = [
        faces for i in range(0, len(images), 32) for faces in detector.detect(images[i : i + 32])
    ]
    return dict(zip(lfw, found, strict=True))


@pytest.fixture(scope="module")
def groups(group_photos) -> dict[str, tuple[Image.Image, int]]:
    """Photos of several sizes, and the number of labeled people in each."""
    with open(group_photos / "truth.csv") as file:
        return {
            row["photo"]: (open_photo(group_photos / row["photo"]), len(row["people"].split(";")))
            for row in csv.DictReader(file)
        }


@pytest.fixture(scope="module")
def group_detections(detector, groups) -> dict[str, Detections]:
    found = detector.detect([image for image, _ in groups.values()])
    return dict(zip(groups, found, strict=True))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def nearest(box: np.ndarray, boxes: np.ndarray) -> int:
    return int(np.argmax([overlap(box, other) for other in boxes]))


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


# ---- detection ----


def test_finds_every_labeled_face_at_its_position_in_lfw(lfw_detections):
    # LFW's photos are centered on the face, whose box has 113 px, and are 2.2 times as wide.
    for name, found in lfw_detections.items():
        labeled = np.array([68.5, 68.5, 181.5, 181.5])
        assert len(found.boxes), name
        assert max(overlap(labeled, box) for box in found.boxes) > 0.35, name


def test_landmarks_are_arranged_as_in_a_face(lfw, lfw_detections):
    for name, found in lfw_detections.items():
        i = nearest(np.array([68.5, 68.5, 181.5, 181.5]), found.boxes)
        left_eye, right_eye, nose, left_mouth, right_mouth = found.landmarks[i]
        assert left_eye[0] < right_eye[0], name
        assert left_mouth[0] < right_mouth[0], name
        eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
        assert eyes[1] < nose[1] < mouth[1], name
        assert np.all((found.landmarks[i] >= 0) & (found.landmarks[i] < lfw[name].size)), name
        # Inside the box, with a tolerance for the far eye of a profile.
        low, high = found.boxes[i].reshape(2, 2)
        tolerance = 0.1 * (high - low)
        inside = (found.landmarks[i] > low - tolerance) & (found.landmarks[i] < high + tolerance)
        assert np.all(inside), name


def test_results_have_the_documented_shapes_and_order(lfw_detections, group_detections):
    for found in [*lfw_detections.values(), *group_detections.values()]:
        n = len(found.boxes)
        assert found.boxes.shape == (n, 4)
        assert found.landmarks.shape == (n, 5, 2)
        assert found.scores.shape == (n,)
        assert found.boxes.dtype == found.landmarks.dtype == found.scores.dtype == np.float32
        assert np.all(np.diff(found.scores) <= 0)
        assert np.all((found.scores > 0.7) & (found.scores <= 1))
        assert np.all(found.boxes[:, 2:] > found.boxes[:, :2])
        # No face is found twice: none overlaps another by more than 0.7 of its area.
        kept = non_maximum_suppression(found.boxes, found.scores, 0.7, of_smaller=True)
        assert len(kept) == n


def test_finds_at_least_as_many_faces_as_labeled_people(groups, group_detections):
    n_confident = n_labeled = 0
    for name, (image, n_people) in groups.items():
        found = group_detections[name]
        n_confident += np.sum(found.scores > 0.95)
        n_labeled += n_people
        assert len(found.boxes) >= n_people, name
        for box in found.boxes[:n_people]:
            # Most of the box is inside the photo, and its proportions are those of a face.
            clipped = np.clip(box, 0, np.tile(image.size, 2))
            assert overlap(box, clipped) > 0.8, name
            width, height = box[2:] - box[:2]
            assert 0.9 < height / width < 1.9, name
    assert n_confident <= 1.1 * n_labeled  # the few people in the background have no labels


def test_agrees_with_a_published_implementation(groups, group_detections, lfw, lfw_detections):
    mtcnn = pytest.importorskip("mtcnn")
    reference = mtcnn.MTCNN()
    names = ["multiface.jpg", "two_people.jpg", "kit_with_rose.jpg", "lin_manuel_1.png"]
    some = [(groups[name][0], group_detections[name]) for name in names]
    some += [(lfw[name], lfw_detections[name]) for name in list(lfw)[::20]]
    for image, found in some:
        faces = [
            face for face in reference.detect_faces(np.asarray(image)) if face["confidence"] > 0.95
        ]
        assert faces
        for face in faces:
            x, y, width, height = face["box"]
            box = np.array([x, y, x + width, y + height], float)
            i = nearest(box, found.boxes)
            assert overlap(box, found.boxes[i]) > 0.75
            assert found.scores[i] > 0.9
            names = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
            points = np.array([face["keypoints"][name] for name in names])
            off = np.linalg.norm(points - found.landmarks[i], axis=1)
            assert np.median(off) < 0.06 * height


def test_detections_do_not_depend_on_the_batch(detector, groups, group_detections, lfw):
    # The fixture searched 21 photos of 20 sizes in one batch.
    for name, (image, _) in list(groups.items())[::3]:
        (alone,) = detector.detect([image])
        np.testing.assert_allclose(alone.boxes, group_detections[name].boxes, atol=0.5)
        np.testing.assert_allclose(alone.landmarks, group_detections[name].landmarks, atol=0.5)
        np.testing.assert_allclose(alone.scores, group_detections[name].scores, atol=1e-3)
    mixed = [lfw["AJ_Cook"], noise(5, 5), lfw["Yoko_Ono"] if "Yoko_Ono" in lfw else noise(90, 70),
             lfw["AJ_Cook"].resize((300, 300)), lfw["AJ_Cook"]]  # fmt: skip
    batch = detector.detect(mixed)
    assert len(batch) == 5
    for image, found in zip(mixed, batch, strict=True):
        (alone,) = detector.detect([image])
        np.testing.assert_allclose(alone.boxes, found.boxes, atol=0.05)
    np.testing.assert_allclose(batch[0].boxes, batch[4].boxes, atol=0.05)


@pytest.mark.parametrize("detection_size", [500, 1000])
def test_boxes_of_a_reduced_photo_are_in_its_original_pixels(
    model, lfw, lfw_detections, detection_size
):
    large = lfw["AJ_Cook"].resize((2000, 2000), Image.Resampling.BICUBIC)
    (found,) = Detector(model, 20, detection_size).detect([large])
    small = lfw_detections["AJ_Cook"]
    i = nearest(small.boxes[0] * 8, found.boxes)
    assert overlap(small.boxes[0] * 8, found.boxes[i]) > 0.8
    np.testing.assert_allclose(found.landmarks[i], small.landmarks[0] * 8, atol=8 * 5)


def test_boxes_of_a_reduced_wide_photo(model, lfw, lfw_detections):
    wide = Image.new("RGB", (3000, 250))
    wide.paste(lfw["AJ_Cook"], (2700, 0))
    (found,) = Detector(model, 20, 1500).detect([wide])
    expected = lfw_detections["AJ_Cook"].boxes[0] + [2700, 0, 2700, 0]
    assert overlap(expected, found.boxes[nearest(expected, found.boxes)]) > 0.75


@pytest.mark.parametrize("upright", [False, True])
def test_each_head_on_a_panorama_is_found_once(model, lfw, upright):
    """Heads at and around the seams of pieces, which are 200 px apart, as in photos of 250 px."""
    detector = Detector(model, min_face_size=20, detection_size=250)
    heads = list(lfw.values())[:12]
    strip = Image.new("RGB", (3000, 125), "gray")
    for i, head in enumerate(heads):
        strip.paste(head.resize((110, 110)), (37 + 247 * i, 8))
    if upright:
        column = Image.new("RGB", (250, 3000), "gray")
        for i, head in enumerate(heads):
            column.paste(head, (0, 250 * i))
        strip = column.resize((125, 1500))
    (found,) = detector.detect([strip])
    sure = found.boxes[found.scores > 0.95]
    centers = (sure[:, :2] + sure[:, 2:]) / 2
    along = centers[:, 1] if upright else centers[:, 0]
    expected = [62 + 125 * i if upright else 92 + 247 * i for i in range(12)]
    for center in expected:
        assert np.sum(np.abs(along - center) < 25) == 1


def test_detection_is_not_limited_to_as_many_pixels_as_pillow_opens(model, lfw, monkeypatch):
    """The limit is lowered: R-Net's squares of the face at the edge have more pixels."""
    photo = lfw["AJ_Cook"].crop((0, 90, 250, 250)).resize((500, 320))
    detector = Detector(model, min_face_size=20, detection_size=1600)
    expected = detector.detect([photo])
    assert expected[0].boxes[0, 1] < 0
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000)
    assert detector.detect([photo]) == expected


def test_faces_below_the_minimum_size_are_not_found(model, lfw):
    photo = Image.new("RGB", (250, 250))
    photo.paste(lfw["AJ_Cook"].resize((60, 60)), (95, 95))  # a face 32 px high
    for min_face_size, n_faces in [(20, 1), (120, 0)]:
        (found,) = Detector(model, min_face_size, 1600).detect([photo])
        assert len(found.boxes) == n_faces


@pytest.mark.parametrize(
    "size",
    [(1, 1), (11, 11), (12, 12), (20, 20), (1, 5000), (5000, 1), (11, 4000), (4000, 13),
     (3000, 21), (25, 2500)],
)  # fmt: skip
@pytest.mark.parametrize("min_face_size", [12, 20])
def test_photos_too_small_for_a_face(model, size, min_face_size):
    found = Detector(model, min_face_size, 1600).detect(
        [Image.new("RGB", size, "gray"), noise(*size)]
    )
    assert [len(detections.boxes) for detections in found] == [0, 0]
    assert found[0].landmarks.shape == (0, 5, 2)


def test_detections_are_compared_by_their_arrays(lfw_detections):
    one, other, *_ = lfw_detections.values()
    copy = Detections(*(array.copy() for array in vars(one).values()))
    assert one == copy
    assert one != other
    assert one != replace(copy, scores=one.scores + 1)
    assert one != replace(copy, turns=one.turns + 90)
    assert one != "faces"


def test_no_photos(detector):
    assert detector.detect([]) == []


# ---- photos in, photos out ----


def photo_of(image: Image.Image | None, uri: str = "a.jpg") -> Photo:
    return Photo(uri, Shard("s", 9), image=image, photo_id=uri, width=1, height=1)


def truncated_image() -> Image.Image:
    """An image with a valid header whose pixels cannot be decoded."""
    file = io.BytesIO()
    noise(200, 200).save(file, "JPEG")
    return Image.open(io.BytesIO(file.getvalue()[:5000]))


FAILED = Photo("failed", Shard("s", 9), failure=Failure("read", "OSError", "gone"))


def test_a_photo_that_raises_does_not_fail_the_others(detector, lfw, lfw_detections):
    names = list(lfw)[:3]
    photos = [photo_of(lfw[name], name) for name in names]
    broken = photo_of(truncated_image(), "broken")
    found = {p.uri: p for p in detect_faces(detector, [photos[0], broken, FAILED, *photos[1:]])}
    assert len(found) == 5
    assert found["failed"] == FAILED
    assert found["broken"].failure.step == "detect"
    assert found["broken"].image is None
    for name in names:
        assert found[name].failure is None
        assert found[name].image is lfw[name]
        expected = lfw_detections[name]
        assert len(found[name].faces) == len(expected.boxes)
        for i, face in enumerate(found[name].faces):
            np.testing.assert_allclose(face.box, expected.boxes[i], atol=0.05)
            np.testing.assert_allclose(face.landmarks, expected.landmarks[i], atol=0.05)
            assert isinstance(face.score, float)


def test_a_detector_that_fails_every_photo_fails_the_job(lfw, tmp_path):
    missing = Detector(SavedModel(str(tmp_path)), min_face_size=20, detection_size=1600)
    with pytest.raises(OSError, match="saved_model"):
        detect_faces(missing, [photo_of(image) for image in list(lfw.values())[:2]])


def test_batches_of_failed_photos_and_empty_batches(detector):
    assert list(detect_faces(detector, [FAILED, FAILED])) == [FAILED, FAILED]
    assert list(detect_faces(detector, [])) == []
    (broken,) = detect_faces(detector, [photo_of(truncated_image())])
    assert broken.failure.step == "detect"


def test_in_a_pipeline(model, lfw, lfw_detections):
    photos = [photo_of(image, name) for name, image in list(lfw.items())[:40]]

    def check(found):
        assert len(found) == 41
        for photo in found:
            assert (photo.failure is not None) == (photo.uri == "failed")
            if photo.failure is None:
                boxes = np.array([face.box for face in photo.faces])
                np.testing.assert_allclose(boxes, lfw_detections[photo.uri].boxes, atol=0.05)

    with beam.Pipeline(FnApiRunner()) as pipeline:
        found = pipeline | beam.Create([*photos, FAILED]) | DetectFaces(model, 20, 1600)
        assert_that(found, check)
