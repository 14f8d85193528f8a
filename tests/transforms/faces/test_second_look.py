"""Faces of photos that lie on their side, stand on their head, or are filled by a face."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facecluster.model_export.face_model import FaceModel
from facecluster.transforms.faces.align import align_faces
from facecluster.transforms.faces.boxes import prominence
from facecluster.transforms.faces.detect import detect_faces
from facecluster.transforms.faces.mtcnn import Detector
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.faces.second_look import Sheet
from facecluster.transforms.faces.turns import TURNS, turn_back, turn_boxes, turn_image, turn_points
from facecluster.transforms.records import Photo, Shard


@pytest.fixture(scope="module")
def lfw(lfw_images) -> list[Image.Image]:
    """One photo of each of 40 people."""
    people = sorted(lfw_images.iterdir())[:: len(list(lfw_images.iterdir())) // 40][:40]
    return [open_photo(sorted(person.iterdir())[0]) for person in people]


def open_photo(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


@pytest.fixture(scope="module")
def sure(detector, lfw) -> list[tuple[Image.Image, object]]:
    """The photos with a sure face, and their faces."""
    found = detector.detect(lfw)
    pairs = [(i, f) for i, f in zip(lfw, found, strict=True) if f.best_score > 0.999]
    assert len(pairs) > 30
    return pairs


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_photo_has_the_faces_of_the_upright_one(detector, sure, turn):
    turned = [turn_image(image, turn_back(turn)) for image, _ in sure]
    n_same = 0
    for (image, expected), found in zip(sure, detector.detect(turned), strict=True):
        if not np.all(found.turns == turn):
            continue
        n_same += 1
        np.testing.assert_array_equal(found.scores, expected.scores)
        back = turn_back(turn)
        for name, move in (("boxes", turn_boxes), ("landmarks", turn_points)):
            in_photo = move(getattr(expected, name), back, image.size)
            np.testing.assert_array_equal(getattr(found, name), in_photo)
    assert n_same >= 0.95 * len(sure)


def photo_of(image: Image.Image, uri: str = "a.png") -> Photo:
    return Photo(
        uri, Shard("s", 9), image=image, photo_id=uri, width=image.width, height=image.height
    )


def test_crop_and_quality_of_a_turned_face_are_those_of_the_upright_one(detector, sure):
    image = sure[0][0]
    photos = [photo_of(turn_image(image, turn_back(turn)), str(turn)) for turn in TURNS]
    faces = [align_faces(photo, 160, 32).faces[0] for photo in detect_faces(detector, photos)]
    assert [face.turn for face in faces] == list(TURNS)
    for face in faces:
        np.testing.assert_array_equal(face.crop, faces[0].crop)
        assert face.thumbnail == faces[0].thumbnail
        assert face.box.dtype == face.landmarks.dtype == np.float32
        for name in ("size_px", "sharpness", "brightness", "yaw", "pitch"):
            value = getattr(face.quality, name)
            assert value == pytest.approx(getattr(faces[0].quality, name), abs=1e-3), name
        tilt = face.quality.roll - faces[0].quality.roll + face.turn
        assert (tilt + 180) % 360 - 180 == pytest.approx(0, abs=1e-3)


def test_a_turned_photo_has_the_vectors_of_the_upright_one(sure, facenet_folder, mtcnn_folder):
    model = FaceModel(SavedModel(facenet_folder), SavedModel(mtcnn_folder))
    image = sure[0][0]
    np.testing.assert_array_equal(model.embed(turn_image(image, 90)), model.embed(image))


def fill_with_face(image: Image.Image, box: np.ndarray, share: float) -> Image.Image:
    """The part of a photo that shows this share of a face's height."""
    x, y = (box[:2] + box[2:]) / 2
    half = share * (box[3] - box[1]) / 2
    part = image.crop((int(x - 0.75 * half), int(y - half), int(x + 0.75 * half), int(y + half)))
    return part.resize((360, 480), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("turn", [0, 270])
def test_a_face_larger_than_the_photo_is_found(detector, sure, turn):
    selfies = []
    for image, found in sure:
        box = found.boxes[prominence(found.boxes, *image.size).argmax()]
        selfies.append(turn_image(fill_with_face(image, box, 0.75), turn_back(turn)))
    n_found = 0
    for selfie, found in zip(selfies, detector.detect(selfies), strict=True):
        if not len(found.scores) or found.scores[0] < 0.9 or found.turns[0] != turn:
            continue
        x0, y0, x1, y1 = np.clip(found.boxes[0], 0, np.tile(selfie.size, 2))
        n_found += (x1 - x0) * (y1 - y0) > 0.6 * selfie.width * selfie.height
    assert n_found >= 0.85 * len(selfies)
    # The first look alone, without turning and without a border, finds few.
    first = detector.search(selfies, 20)
    assert sum(found.best_score >= 0.9 for found in first) < 0.6 * len(selfies)


def test_sure_faces_are_not_looked_at_again(detector, sure, monkeypatch):
    sizes = []
    search = Detector.search

    def count(self, images, min_face_size):
        sizes.extend(image.size for image in images)
        return search(self, images, min_face_size)

    monkeypatch.setattr(Detector, "search", count)
    images = [image for image, _ in sure]
    detector.detect(images)
    assert sizes == [image.size for image in images]
    detector.detect([Image.new("RGB", (500, 400), "gray")])
    assert sizes[len(images) :] == [(500, 400), (240, 240)]  # and one small sheet


def test_results_have_the_same_bits_in_any_batch(detector, lfw, sure):
    """Photos of one and of several sizes, some of which are looked at again."""
    rng = np.random.default_rng(0)
    images = [turn_image(image, TURNS[i % 4]) for i, image in enumerate(lfw[:16])]
    images += [fill_with_face(image, found.boxes[0], 0.7) for image, found in sure[:8]]
    images += [image.resize((180, 240)) for image in lfw[:4]]
    together = detector.detect(images)
    order = rng.permutation(len(images))
    apart = {}
    for start in range(0, len(images), 5):
        part = order[start : start + 5]
        apart |= dict(zip(part, detector.detect([images[i] for i in part]), strict=True))
    for i, found in enumerate(together):
        assert apart[i] == found
    assert len({turn for found in together for turn in found.turns}) == 4


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (30, 20), (400, 300), (300, 400), (1600, 800)])
def test_a_sheet_shows_a_photo_in_all_orientations_beside_each_other(size):
    photo = Image.fromarray(np.random.default_rng(0).integers(130, 256, size[::-1], np.uint8))
    sheet = Sheet.draw(photo.convert("RGB"))
    pixels = np.asarray(sheet.image)[..., 0]
    width, height = sheet.size
    left, top = sheet.corners[0]
    upright = pixels[top : top + height, left : left + width]
    for turn, (left, top) in sheet.corners.items():
        rows, columns = (height, width) if turn % 180 == 0 else (width, height)
        copy = pixels[top : top + rows, left : left + columns]
        np.testing.assert_array_equal(np.rot90(copy, turn // 90), upright)  # counterclockwise
    assert np.sum(pixels != 127) == 4 * upright.size  # none covers another
