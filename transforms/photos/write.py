"""The write step: finished photos to the tables of their shards (photos, faces, failures)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from facecluster.transforms.metrics import timed
from facecluster.transforms.records import Photo
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.codec import Codec
from facecluster.transforms.tables.parquet_files import write_table

MARKER_TABLE = "photos"  # written last: a shard that has this file is complete


@dataclass(frozen=True, eq=False)
class ShardWriter:
    """Writes the three tables of a shard.

    Attributes:
      root: the run's folder.
      codec: how embeddings are stored.
      dimensions: length of the model's embeddings.
      model_sha256, embedding_space: stored in the schema of the faces table, so that embeddings
        that cannot be compared are never mixed.
    """

    root: str
    codec: Codec
    dimensions: int
    model_sha256: str
    embedding_space: str

    def write(self, name: str, photos: Iterable[Photo]) -> None:
        """Writes a shard's tables, with their rows in the order of the photos' URIs."""
        photos = sorted(photos, key=lambda photo: photo.uri)
        usable = [photo for photo in photos if not photo.failure]
        tables = {
            "faces": self.faces_table(usable),
            "failures": failures_table([photo for photo in photos if photo.failure]),
            MARKER_TABLE: photos_table(usable),
        }
        for table, rows in tables.items():
            write_table(FileSystems.join(self.root, table, f"{name}.parquet"), rows)

    def faces_table(self, photos: Sequence[Photo]) -> pa.Table:
        rows = [
            (schema.face_id(photo_id, index), photo_id, face)
            for photo in photos
            if (photo_id := photo.photo_id) is not None
            for index, face in enumerate(photo.faces)
        ]
        vectors = np.empty((len(rows), self.dimensions), np.float32)
        for i, (_, _, face) in enumerate(rows):
            vectors[i] = face.embedding
        columns = {
            "face_id": [face_id for face_id, _, _ in rows],
            "photo_id": [photo_id for _, photo_id, _ in rows],
            "box": [face.box.tolist() for _, _, face in rows],
            "landmarks": [face.landmarks.ravel().tolist() for _, _, face in rows],
            "turn": [face.turn for _, _, face in rows],
            "detection_score": [face.score for _, _, face in rows],
            **{
                name: [getattr(face.quality, name) for _, _, face in rows]
                for name in schema.QUALITY_COLUMNS
            },
            "thumbnail": [face.thumbnail for _, _, face in rows],
            "embedding": self.codec.encode(vectors),
        }
        stamped = schema.stamped(
            schema.faces(self.codec.column_type(self.dimensions)),
            model=self.model_sha256,
            embedding_space=self.embedding_space,
            codec=self.codec.identity,
        )
        return pa.table(columns, schema=stamped)


def photos_table(photos: Sequence[Photo]) -> pa.Table:
    rows = [
        {
            "photo_id": photo.photo_id,
            "uri": photo.uri,
            "width": photo.width,
            "height": photo.height,
            "taken_at": photo.taken_at,
            "n_frames": photo.n_frames,
            "damaged": photo.damaged,
            "n_faces": len(photo.faces),
            "perceptual_hash": photo.perceptual_hash,
        }
        for photo in photos
    ]
    return pa.Table.from_pylist(rows, schema=schema.stamped(schema.PHOTOS))


def failures_table(photos: Sequence[Photo]) -> pa.Table:
    rows = [{"uri": photo.uri, **vars(photo.failure)} for photo in photos]
    return pa.Table.from_pylist(rows, schema=schema.stamped(schema.FAILURES))


class PhotoWriter(Protocol):
    """Writes the output files of one shard, for `WriteShards`. It must be picklable."""

    def write(self, name: str, photos: Iterable[Any], /) -> None:
        """Writes the shard called `name`, given all its photos in any order."""


@dataclass(eq=False)
class WriteShards(beam.PTransform):
    """Writes each shard as soon as all its photos have arrived.

    Element in: a `Photo`, with or without a failure, whose `shard` says how many photos to expect.
    Element out: none.

    Runners that fuse the steps since the last shuffle keep a shard's photos in one bundle, which
    then writes the shard without another shuffle. Photos of a shard that was spread over several
    bundles are collected by a GroupByKey.

    Reports the distribution `write_milliseconds`, of one entry per shard.

    Attributes:
      writer: what writes a shard, such as a `ShardWriter`.
    """

    writer: PhotoWriter

    def expand(self, photos: beam.PCollection[Photo]):
        return (
            photos
            | "Write whole shards" >> beam.ParDo(_WriteWholeShards(self.writer))
            | "Group the rest" >> beam.GroupByKey()
            | "Write the rest" >> beam.MapTuple(partial(_write_shard, self.writer))
        )


class _WriteWholeShards(beam.DoFn):
    """Writes the shards that arrive whole in a bundle; yields (shard name, photo) of the others."""

    def __init__(self, writer: PhotoWriter):
        self.writer = writer

    def start_bundle(self):
        self.waiting = defaultdict(list)

    def process(self, photo: Photo):
        arrived = self.waiting[photo.shard]
        arrived.append(photo)
        if len(arrived) == photo.shard.n_photos:
            _write_shard(self.writer, photo.shard.name, self.waiting.pop(photo.shard))

    def finish_bundle(self):
        window = GlobalWindow()
        for shard, photos in self.waiting.items():
            for photo in photos:
                pair = (shard.name, photo)
                yield WindowedValue(pair, window.max_timestamp(), (window,))


def _write_shard(writer: PhotoWriter, name: str, photos: Iterable[Photo]) -> None:
    with timed("write"):
        writer.write(name, photos)
