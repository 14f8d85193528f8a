"""DetectFaces, AlignFaces and EmbedFaces in a Beam pipeline of one's own."""

from dataclasses import fields

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from PIL import Image

from facecluster.pipeline.options import EmbedOptions
from facecluster.transforms.faces.align import AlignFaces
from facecluster.transforms.faces.detect import DetectFaces
from facecluster.transforms.faces.embed import EmbedFaces
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.metrics import NAMESPACE
from facecluster.transforms.records import Failure, Photo, Shard

N_BLANK = 3


@pytest.fixture(scope="module")
def photos(lfw_images) -> list[Photo]:
    """Two photos of one person, one of another, some without a face, and one that failed."""
    shard = Shard("s", 4 + N_BLANK)
    images = {
        f"{person} {i}": Image.open(lfw_images / person / f"{person}_000{i}.jpg").convert("RGB")
        for person, i in (("Colin_Powell", 1), ("Colin_Powell", 2), ("Serena_Williams", 1))
    }
    images |= {f"blank {i}": Image.new("RGB", (250, 250), "gray") for i in range(N_BLANK)}
    photos = [
        Photo(uri, shard, image=image, photo_id=uri, width=250, height=250)
        for uri, image in images.items()
    ]
    return [*photos, Photo("failed", shard, failure=Failure("read", "OSError", "gone"))]


def test_photos_to_embedded_faces(photos, mtcnn_folder, facenet_folder):
    embedder = SavedModel(facenet_folder)
    card = embedder.card()

    def check(found):
        by_uri = {photo.uri: photo for photo in found}
        assert len(found) == len(by_uri) == len(photos)
        assert by_uri["failed"] == photos[-1]
        faces = {}
        for uri, photo in by_uri.items():
            assert photo.image is None
            if uri.startswith("blank"):
                assert photo.faces == ()
            elif uri != "failed":
                faces[uri] = photo.faces[0]
                assert photo.faces[0].crop is None
                assert photo.faces[0].embedding.shape == (card.dimensions,)
                assert photo.faces[0].quality.size_px > 60
        one, two, other = (faces[photo.uri].embedding for photo in photos[:3])
        assert np.linalg.norm(one - two) < np.linalg.norm(one - other)

    pipeline = beam.Pipeline(FnApiRunner())
    embedded = (
        pipeline
        | beam.Create(photos)
        | DetectFaces(SavedModel(mtcnn_folder))
        | AlignFaces(card.input_size, card.margin)
        | EmbedFaces(embedder)
    )
    assert_that(embedded, check)
    result = pipeline.run()
    result.wait_until_finish()

    found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    counters = {metric.key.metric.name: metric.committed for metric in found["counters"]}
    assert counters["faces_found"] == counters["faces_embedded"] >= 3
    times = {metric.key.metric.name: metric.committed for metric in found["distributions"]}
    assert times["detect_milliseconds"].count >= 1  # batches
    assert times["align_milliseconds"].count == len(photos) - 1
    assert times["embed_milliseconds"].count >= 1  # batches


def test_the_options_are_fields_and_their_defaults_are_the_commands(mtcnn_folder):
    model = SavedModel(mtcnn_folder)
    options = {
        transform: {field.name: getattr(transform, field.name) for field in fields(transform)}
        for transform in (DetectFaces(model), AlignFaces(160, margin=32), EmbedFaces(model))
    }
    assert list(options.values()) == [
        {
            "model": model,
            "min_face_size": EmbedOptions.min_face_size,
            "detection_size": EmbedOptions.detection_size,
        },
        {"input_size": 160, "margin": 32},
        {"model": model},
    ]
