"""A run directory with made-up photos and faces, as the embed and cluster jobs leave it."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.parquet_files import write_table

SIDE = 100  # px, default width and height of the photos
CENTRAL = (30, 30, 70, 70)
CORNER = (0, 0, 40, 40)  # as large as CENTRAL, but off center
BACKGROUND = (45, 10, 55, 20)


@dataclass
class Photo:
    uri: str
    boxes: list[tuple]
    people: list[str | None] = field(default_factory=list)  # the found person of each face
    content: str = ""  # photos with the same content are duplicates
    embeddings: np.ndarray | None = None

    @property
    def photo_id(self):
        return self.content or f"id of {self.uri}"


def photos_table(photos):
    rows = [
        {"photo_id": p.photo_id, "uri": p.uri, "width": SIDE, "height": SIDE,
         "taken_at": None, "n_frames": 1, "damaged": False, "n_faces": len(p.boxes)} for p in photos
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema.stamped(schema.PHOTOS))


def faces_table(photos, dimensions=2):
    rows = [
        {"face_id": schema.face_id(p.photo_id, i), "photo_id": p.photo_id, "box": box,
         "landmarks": [0] * 10, "turn": 0, "detection_score": 1, "thumbnail": b"",
         **dict.fromkeys(schema.QUALITY_COLUMNS, 1),
         "embedding": [0] * dimensions if p.embeddings is None else 3 * p.embeddings[i]}
        for p in photos for i, box in enumerate(p.boxes)
    ]  # fmt: skip
    embedding = pa.list_(pa.float32(), dimensions)
    return pa.Table.from_pylist(rows, schema.stamped(schema.faces(embedding), codec="float32"))


def make_run(folder, photos, failures=(), dimensions=2, n_shards=2):
    """A run directory with these photos.

    Embeddings are stored at three times their length, because codecs keep directions only.
    """
    run = RunDirectory(str(folder / "run"))
    for shard in range(n_shards):
        part = photos[shard::n_shards]
        failed = [
            {"uri": uri, "step": "decode", "error": "ValueError", "message": "broken"}
            for uri in failures[shard::n_shards]
        ]
        tables = {
            "failures": pa.Table.from_pylist(failed, schema.stamped(schema.FAILURES)),
            "faces": faces_table(part, dimensions),
            "photos": photos_table(part),
        }
        for name, table in tables.items():
            write_table(run.shard_path(name, str(shard)), table)
    assigned = {
        schema.face_id(p.photo_id, i): (p.photo_id, person)
        for p in photos
        for i, person in enumerate(p.people)
    }
    if assigned:
        rows = [
            {"face_id": face, "photo_id": photo, "person_id": person, "probability": 1,
             "repeated_in_photo": False}
            for face, (photo, person) in sorted(assigned.items())
        ]  # fmt: skip
        run.write("assignments", pa.Table.from_pylist(rows, schema.stamped(schema.ASSIGNMENTS)))
    return run
