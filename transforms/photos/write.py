"""Finished photos into the tables of their shard: photos, faces, failures."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from facecluster.transforms.records import Photo
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.codec import Codec
from facecluster.transforms.tables.parquet_files import write_table

MARKER_TABLE = "photos"  # written last: a shard that has it is complete


@dataclass(frozen=True)
class ShardWriter:
    """Writes the three tables of one shard.

    Attributes:
      root: the run's folder.
      codec: how embeddings are stored.
      dimensions: of the model's vectors.
      model_sha256, embedding_space: go into the faces' schema, so that vectors that cannot be
        compared are never mixed.
    """

    root: str
    codec: Codec
    dimensions: int
    model_sha256: str
    embedding_space: str

    def write(self, name: str, photos: Iterable[Photo]) -> None:
        """Writes a shard's tables, in the order of the photos' URIs whatever order they came in."""
        photos = sorted(photos, key=lambda photo: photo.uri)
        read = [photo for photo in photos if not photo.failure]
        tables = {
            "faces": self.faces_table(read),
            "failures": failures_table([photo for photo in photos if photo.failure]),
            MARKER_TABLE: photos_table(read),
        }
        for table, rows in tables.items():
            write_table(FileSystems.join(self.root, table, f"{name}.parquet"), rows)

    def faces_table(self, photos: Sequence[Photo]) -> pa.Table:
        rows = [
            (schema.face_id(photo.photo_id, index), photo.photo_id, face)
            for photo in photos
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
            "n_faces": len(photo.faces),
            "perceptual_hash": photo.perceptual_hash,
        }
        for photo in photos
    ]
    return pa.Table.from_pylist(rows, schema=schema.stamped(schema.PHOTOS))


def failures_table(photos: Sequence[Photo]) -> pa.Table:
    rows = [{"uri": photo.uri, **vars(photo.failure)} for photo in photos]
    return pa.Table.from_pylist(rows, schema=schema.stamped(schema.FAILURES))


class WriteShards(beam.PTransform):
    """Writes every shard as soon as all its photos have arrived.

    Where the runner keeps a shard's photos in one bundle, as all do that fuse the steps since the
    last shuffle, that needs no shuffle and no waiting. Photos of a shard that a runner has spread
    over bundles meet in a GroupByKey.
    """

    def __init__(self, writer: ShardWriter):
        self.writer = writer

    def expand(self, photos):
        return (
            photos
            | "Write whole shards" >> beam.ParDo(_WriteWholeShards(self.writer))
            | "Group the rest" >> beam.GroupByKey()
            | "Write the rest" >> beam.MapTuple(self.writer.write)
        )


class _WriteWholeShards(beam.DoFn):
    def __init__(self, writer: ShardWriter):
        self.writer = writer

    def start_bundle(self):
        self.waiting = defaultdict(list)

    def process(self, photo: Photo):
        arrived = self.waiting[photo.shard]
        arrived.append(photo)
        if len(arrived) == photo.shard.n_photos:
            self.writer.write(photo.shard.name, self.waiting.pop(photo.shard))

    def finish_bundle(self):
        window = GlobalWindow()
        for shard, photos in self.waiting.items():
            for photo in photos:
                pair = (shard.name, photo)
                yield WindowedValue(pair, window.max_timestamp(), [window])
