"""A finished run's results: its tables as Arrow tables, its embeddings as an array."""

import io
import os
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from facecluster.errors import UsageError
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.pipeline.run.manifest import Manifest
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.codec import decode_embeddings
from facecluster.transforms.tables.distinct import distinct_rows

# Columns of the faces table that are large; they have methods of their own.
LARGE_COLUMNS = ("thumbnail", "embedding")


class Run:
    """A run directory, opened for reading.

    Tables are described in docs/tables.md. Each is read when it is first asked for and kept, so
    open the run again to see what a later job wrote. A photo that was listed under several names
    has a row for each in `photos`, and its faces one row each in `faces`.

        run = Run("runs/pictures")
        person = run.people["person_id"][0].as_py()
        run.faces_of(person).to_pandas()

    Args:
      path: the run's folder.

    Raises:
      UsageError: the folder is not a run.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.directory = RunDirectory(os.fspath(path))
        if not self.directory.is_run():
            raise UsageError(f"{self.path} is not a run: give a folder that facecluster wrote")
        self._last_thumbnails: tuple[str, dict[str, bytes]] = ("", {})

    @property
    def path(self) -> str:
        """The run's folder."""
        return self.directory.root

    @property
    def report(self) -> str:
        """The path of the report, a web page; it exists once the faces are grouped."""
        return self.directory.path("report", "index.html")

    @cached_property
    def manifest(self) -> Manifest:
        """Options, counts, seconds and library versions of the run's steps."""
        return self.directory.manifest()

    @cached_property
    def photos(self) -> pa.Table:
        """The photos that were read, one row for each name."""
        return self._read_shards("photos", schema.PHOTOS.names)

    @cached_property
    def failures(self) -> pa.Table:
        """The inputs that could not be used, and why."""
        return self._read_shards("failures", schema.FAILURES.names)

    @cached_property
    def faces(self) -> pa.Table:
        """The detected faces in the order of face_id, without thumbnails and embeddings."""
        names = schema.faces(pa.list_(pa.float32(), 1)).names
        return self._read_faces([name for name in names if name not in LARGE_COLUMNS])

    @cached_property
    def people(self) -> pa.Table:
        """The people, largest first.

        Raises:
          JobError: the faces have not been grouped yet.
        """
        return self.directory.read("people")

    @cached_property
    def assignments(self) -> pa.Table:
        """The person of each face that was grouped, null for an unassigned face.

        Raises:
          JobError: the faces have not been grouped yet.
        """
        return self.directory.read("assignments")

    @cached_property
    def near_duplicates(self) -> pa.Table:
        """The photos that show what another photo shows."""
        return self.directory.read("near_duplicates", schema.NEAR_DUPLICATES.names)

    def embeddings(self) -> np.ndarray:
        """(n, d) float32 unit vectors, row i for row i of `faces`.

        d is 128 with the default codec. Of two vectors, the Euclidean distance is sqrt(2 - 2 cos).
        """
        column = self._read_faces(["face_id", "embedding"])["embedding"]
        return decode_embeddings(column) if len(column) else np.empty((0, 0), np.float32)

    def faces_of(self, person_id: str) -> pa.Table:
        """The faces of a person with their assignments, highest probability first.

        Raises:
          UsageError: there is no such person, or faces of theirs have left the run since they were
            grouped.
        """
        theirs = self.assignments.filter(pc.equal(self.assignments["person_id"], person_id))
        if not len(theirs):
            raise UsageError(f"{self.path} has no person {person_id!r}: see its people table")
        theirs = theirs.sort_by([("probability", "descending"), ("face_id", "ascending")])
        rows = pc.index_in(theirs["face_id"], self.faces["face_id"].combine_chunks())
        if rows.null_count:
            raise UsageError(
                f"{self.path} no longer has {rows.null_count:,} of the {len(theirs):,} faces of "
                f"{person_id}: group again with `facecluster cluster`"
            )
        faces = self.faces.take(rows)
        for name in ("person_id", "probability", "distance", "repeated_in_photo"):
            faces = faces.append_column(theirs.schema.field(name), theirs[name])
        return faces

    def thumbnail(self, face_id: str) -> Image.Image:
        """The aligned face as a small RGB image.

        Raises:
          UsageError: there is no such face.
        """
        row = pc.index(self._shard_index["face_id"], face_id).as_py()
        if row < 0:
            raise UsageError(
                f"{self.path} has no face {face_id!r}: see its faces table; if its people have the "
                "face, group again with `facecluster cluster`"
            )
        thumbnails = self._thumbnails(self._shard_index["shard"][row].as_py())
        return Image.open(io.BytesIO(thumbnails[face_id]))

    def __repr__(self) -> str:
        return f"Run({self.path!r})"

    @cached_property
    def _shard_index(self) -> pa.Table:
        """Which shard each face is in: columns face_id and shard."""
        parts = [
            pa.table({"face_id": pa.array([], pa.string()), "shard": pa.array([], pa.string())})
        ]
        for shard in self.directory.complete_shards():
            face_ids = self.directory.read_shards("faces", ["face_id"], [shard])[0]["face_id"]
            names = pa.repeat(pa.scalar(shard, pa.string()), len(face_ids))
            parts.append(pa.table({"face_id": face_ids, "shard": names}))
        return pa.concat_tables(parts)

    def _thumbnails(self, shard: str) -> dict[str, bytes]:
        """The thumbnails of a shard's faces; those of the last shard asked for are kept."""
        if self._last_thumbnails[0] != shard:
            faces, _ = self.directory.read_shards("faces", ["face_id", "thumbnail"], [shard])
            ids, jpegs = (faces[name].to_pylist() for name in ("face_id", "thumbnail"))
            self._last_thumbnails = (shard, dict(zip(ids, jpegs, strict=True)))
        return self._last_thumbnails[1]

    def _read_shards(self, table: str, columns: list[str]) -> pa.Table:
        return self.directory.read_shards(table, columns)[0]

    def _read_faces(self, columns: list[str]) -> pa.Table:
        faces = distinct_rows(self._read_shards("faces", columns), "face_id")
        return faces.sort_by("face_id").combine_chunks()
