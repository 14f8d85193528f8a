"""The PTransforms of this package in pipelines of one's own: counters, timings, options."""

import io
import pickle
import tarfile
from dataclasses import fields

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image

from facecluster.transforms.inputs.listing import list_photos
from facecluster.transforms.metrics import NAMESPACE
from facecluster.transforms.photos.decode import DecodePhotos
from facecluster.transforms.photos.limits import DecodeLimits
from facecluster.transforms.photos.read import ReadPhotos
from facecluster.transforms.photos.shards import make_read_tasks, split_into_shards
from facecluster.transforms.photos.write import ShardWriter, WriteShards
from facecluster.transforms.tables.codec import Codec

LIMITS = DecodeLimits(max_bytes=10_000, max_pixels=10_000, max_seconds=60)


def encode_png(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def tasks(tmp_path) -> list:
    """Read tasks of three usable photos and of five that fail, in files and in tars."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode_png(20))
    (folder / "b.png").write_bytes(encode_png(20))
    (folder / "damaged.png").write_bytes(encode_png(20)[:50])
    (folder / "empty.png").touch()
    (folder / "large.png").write_bytes(encode_png(101))
    (folder / "long.png").write_bytes(bytes(10_001))
    with tarfile.open(folder / "c.tar", "w") as tar:
        for name, content in (("c.png", encode_png(30)), ("d.png", b"not an image")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (folder / "e.tar").write_bytes(b"not a tar")
    listing = list_photos([str(folder)])
    assert len(listing.sources) == 9
    return make_read_tasks(split_into_shards(listing.sources, 4))


def run(pipeline: beam.Pipeline) -> tuple[dict, dict]:
    """Runs a pipeline; returns {name: value} of its counters and distributions."""
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    return tuple(
        {metric.key.metric.name: metric.committed for metric in found[kind]}
        for kind in ("counters", "distributions")
    )


def test_reading_and_decoding_report_counters_and_timings(tasks):
    pipeline = beam.Pipeline(FnApiRunner())
    photos = (
        pipeline
        | beam.Create(tasks)
        | ReadPhotos(LIMITS.max_bytes)
        | DecodePhotos(LIMITS)
        | beam.Map(lambda photo: (photo.failure and photo.failure.step, photo.width))
    )
    n_failed = {"read": 3, "decode": 3}
    expected = [("read", None)] * 3 + [("decode", None)] * 3 + [(None, 20)] * 2 + [(None, 30)]
    assert_that(photos, equal_to(expected))
    counters, distributions = run(pipeline)
    assert counters == {
        "photos_read": 6,
        "photos_decoded": 3,
        **{f"photos_failed_{step}": n for step, n in n_failed.items()},
    }
    assert {name: timing.count for name, timing in distributions.items()} == {
        "read_milliseconds": 9,  # also of those that fail
        "decode_milliseconds": 6,
    }
    assert all(timing.min >= 0 for timing in distributions.values())


def test_writing_is_timed_by_shard(tasks, tmp_path):
    pipeline = beam.Pipeline(FnApiRunner())
    writer = ShardWriter(str(tmp_path / "run"), Codec("float32"), 8, "model", "space")
    _ = (
        pipeline
        | beam.Create(tasks)
        | ReadPhotos(LIMITS.max_bytes)
        | DecodePhotos(LIMITS)
        | beam.Map(lambda photo: photo)
        | WriteShards(writer)
    )
    _, distributions = run(pipeline)
    assert distributions["write_milliseconds"].count == 3
    assert pq.read_table(tmp_path / "run" / "photos").num_rows == 3
    assert pq.read_table(tmp_path / "run" / "failures").num_rows == 6


def test_two_of_each_are_in_one_pipeline(tasks):
    with beam.Pipeline(FnApiRunner()) as pipeline:
        created = pipeline | beam.Create(tasks)
        for name, limits in (("all", LIMITS), ("small", DecodeLimits(max_pixels=400))):
            widths = (
                created
                | f"Read {name}" >> ReadPhotos(limits.max_bytes)
                | f"Decode {name}" >> DecodePhotos(limits)
                | f"Widths {name}" >> beam.Map(lambda photo: photo.width)
                | f"Usable {name}" >> beam.Filter(bool)
            )
            expected = [20, 20, 30] if name == "all" else [20, 20]
            assert_that(widths, equal_to(expected), label=name)


CODEC = Codec("pca128", np.zeros(256, np.float32), np.zeros((256, 128), np.float32))
WRITER = ShardWriter("run", CODEC, 256, "model", "space")


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (lambda: ReadPhotos(5), "max_bytes", 5),
        (lambda: DecodePhotos(LIMITS), "limits", LIMITS),
        (lambda: WriteShards(WRITER), "writer", WRITER),
    ],
    ids=["ReadPhotos", "DecodePhotos", "WriteShards"],
)
def test_options_are_fields(make, name, value):
    transform = make()
    assert [field.name for field in fields(transform)] == [name]
    assert getattr(transform, name) == value
    assert transform.label == type(transform).__name__
    assert transform == transform
    assert transform != make()  # of the same options, but another place in a pipeline
    assert len({transform, make()}) == 2
    assert repr(getattr(pickle.loads(pickle.dumps(transform)), name)) == repr(value)


def test_defaults_are_the_documented_limits():
    assert ReadPhotos().max_bytes == DecodePhotos().limits.max_bytes == 100 << 20
    assert DecodePhotos().limits == DecodeLimits(100 << 20, 200_000_000, 60.0, None)


def test_writers_of_a_codec_with_arrays_are_compared():
    assert WRITER == WRITER
    other = ShardWriter("run", CODEC, 256, "model", "space")
    assert other != WRITER
    assert len({WRITER}) == 1
