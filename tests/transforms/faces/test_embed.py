"""Faces become unit vectors, independently of the batch."""

from dataclasses import replace

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from PIL import Image

from facecluster.transforms.faces.align import align_faces
from facecluster.transforms.faces.embed import (
    CROPS_PER_CALL,
    EmbedFaces,
    FaceEmbedder,
    embed_crops,
    embed_photos,
)
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.records import Face, Failure, Photo, Shard

PEOPLE = ["Colin_Powell", "Serena_Williams", "Tony_Blair"]
BOX = np.array([80, 70, 170, 185], np.float32)  # about the face in LFW's photos


@pytest.fixture(scope="module")
def model(facenet_folder) -> SavedModel:
    return SavedModel(facenet_folder)


@pytest.fixture(scope="module")
def faces(lfw_images) -> list[Face]:
    """Two aligned faces of each of three people."""
    face = Face(BOX, np.zeros((5, 2), np.float32), 1.0)
    aligned = []
    for person in PEOPLE:
        for path in sorted((lfw_images / person).iterdir())[:2]:
            image = Image.open(path).convert("RGB")
            photo = Photo(
                str(path), Shard("s", 6), image=image, width=250, height=250, faces=(face,)
            )
            aligned += align_faces(photo, 160, 32).faces
    return aligned


@pytest.fixture(scope="module")
def vectors(model, faces) -> np.ndarray:
    return embed_crops(model, [face.crop for face in faces])


def photo_of(*faces: Face, uri: str = "a.jpg") -> Photo:
    return Photo(uri, Shard("s", 1), photo_id=uri, width=1, height=1, faces=faces)


def test_vectors_are_unit_vectors(vectors):
    assert vectors.shape == (6, 512)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_faces_of_one_person_are_nearer_than_faces_of_two(vectors):
    same = np.sum(vectors[::2] * vectors[1::2], axis=1)
    others = (vectors @ vectors.T)[np.kron(np.eye(3), np.ones((2, 2))) == 0]
    assert same.min() > others.max()


def test_a_vector_does_not_depend_on_its_batch(model, faces, vectors):
    for i in (0, 5):
        alone = embed_crops(model, [faces[i].crop])
        np.testing.assert_allclose(alone[0], vectors[i], atol=1e-5)
    backwards = embed_crops(model, [face.crop for face in faces[::-1]])
    np.testing.assert_allclose(backwards[::-1], vectors, atol=1e-5)


def test_more_crops_than_one_network_call_takes(model, faces, vectors):
    n = CROPS_PER_CALL + 3
    crops = [faces[i % 6].crop for i in range(n)]
    embedded = embed_crops(model, crops)
    np.testing.assert_allclose(embedded, vectors[np.arange(n) % 6], atol=1e-5)


def test_no_crops(model):
    assert len(embed_crops(model, [])) == 0


def test_each_face_gets_its_vector_and_its_crop_is_dropped(model, faces, vectors):
    failed = Photo("b.jpg", Shard("s", 1), failure=Failure("read", "OSError", "gone"))
    batch = [
        photo_of(*faces[:3]), photo_of(uri="empty.jpg"), failed, photo_of(*faces[3:], uri="c.jpg")
    ]  # fmt: skip
    embedded = embed_photos(model, batch)
    assert [photo.uri for photo in embedded] == [photo.uri for photo in batch]
    assert embedded[1] == batch[1]
    assert embedded[2] == failed
    found = [face for photo in embedded for face in photo.faces]
    np.testing.assert_allclose([face.embedding for face in found], vectors, atol=1e-5)
    for before, after in zip(faces, found, strict=True):
        assert after.crop is None
        assert after.thumbnail == before.thumbnail
        assert after.box is before.box


def test_photos_without_faces_do_not_load_the_network(tmp_path):
    missing = SavedModel(str(tmp_path))
    assert embed_photos(missing, [photo_of()]) == [photo_of()]


def test_in_a_pipeline(model, faces, vectors):
    # One photo more than a batch takes; most have no faces, one failed.
    photos = [photo_of(uri=f"{i}.jpg") for i in range(30)]
    photos += [photo_of(face, uri=f"face {i}") for i, face in enumerate(faces[:2])]
    failed = replace(photo_of(uri="failed"), failure=Failure("read", "OSError", "gone"))

    def check(embedded):
        found = {photo.uri: photo for photo in embedded}
        assert len(embedded) == len(found) == 33
        assert found["failed"] == failed
        assert found["0.jpg"] == photos[0]
        for i in range(2):
            (face,) = found[f"face {i}"].faces
            assert face.crop is None
            np.testing.assert_allclose(face.embedding, vectors[i], atol=1e-5)

    with beam.Pipeline(FnApiRunner()) as pipeline:
        embedded = pipeline | beam.Create([*photos, failed]) | EmbedFaces(model)
        assert_that(embedded, check)


def test_the_handler_tells_beam_the_bytes_of_a_batch(model, faces):
    handler = FaceEmbedder(model)
    batch = [photo_of(*faces[:2]), photo_of(), photo_of(faces[2], uri="c.jpg")]
    assert handler.get_num_bytes(batch) == 3 * 160 * 160 * 3
    sizes = handler.batch_elements_kwargs()
    assert sizes["min_batch_size"] == sizes["max_batch_size"]


class DamagedNetwork(SavedModel):
    """Vectors of which some cannot be compared, in place of a network's."""

    def call(self, name, values, multiple=1):
        return VECTORS[: len(values)]


VECTORS = np.array([[1, 0], [np.nan, 0], [0, 1], [0, 0], [np.inf, 1], [1, 1]], np.float32)


def test_a_photo_with_a_damaged_vector_fails_alone(faces, tmp_path):
    photos = [
        photo_of(*faces[:2], uri="nan"), photo_of(faces[2], uri="whole"), photo_of(uri="empty"),
        photo_of(faces[3], uri="zeros"), photo_of(faces[4], uri="inf"), photo_of(faces[5], uri="b"),
    ]  # fmt: skip
    done = {photo.uri: photo for photo in embed_photos(DamagedNetwork(str(tmp_path)), photos)}
    failed = {uri for uri, photo in done.items() if photo.failure}
    assert failed == {"nan", "zeros", "inf"}
    assert done["nan"].failure.step == "embed"
    assert (
        "1 of its 2 faces, the first of them face 1, got a vector of NaN"
        in done["nan"].failure.message
    )
    assert not done["nan"].faces
    assert done["whole"].faces[0].embedding.tolist() == [0, 1]
    assert done["b"].faces[0].embedding.tolist() == [1, 1]
    assert done["empty"].faces == ()
