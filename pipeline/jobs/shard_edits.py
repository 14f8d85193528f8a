"""Edits complete shards: takes inputs out of their tables, or gives photos another URI.

What is to be done is written to RUN/edits.parquet first. If the job is killed, the next one does it
again, which changes nothing where it was done.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from facecluster.pipeline.distributed.work_folder import WorkFolder
from facecluster.pipeline.run.directory import EDITS_NAME, RunDirectory
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.columns import column, count_earlier, is_in
from facecluster.transforms.tables.files import delete_files
from facecluster.transforms.tables.parquet_files import read_table, write_table


def write_edits(run: RunDirectory, edits: pa.Table) -> None:
    """Records edits that begin."""
    rows = edits.cast(schema.EDITS)
    write_table(
        run.path(EDITS_NAME), rows.replace_schema_metadata(schema.stamped(schema.EDITS).metadata)
    )


def read_edits(run: RunDirectory) -> pa.Table:
    """The edits that were begun and not finished; an empty table if there are none."""
    path = run.path(EDITS_NAME)
    paths = [path] if FileSystems.exists(path) else []
    return read_table(paths, schema.EDITS.names, schema.EDITS)[0]


def finish_edits(run: RunDirectory) -> None:
    """Forgets edits that are done."""
    delete_files([run.path(EDITS_NAME)])


def edit_shards(run: RunDirectory, edits: pa.Table) -> None:
    """Edits the tables of shards.

    Args:
      edits: columns uri, shard and new_uri; without a new_uri the input leaves the shard.
    """
    if pc.any(edits["new_uri"].is_null()).as_py():
        WorkFolder(run.path("grouping")).remove()  # its files may number faces that leave
    for shard in pc.unique(edits["shard"]).to_pylist():
        _edit_shard(run, shard, edits.filter(pc.equal(edits["shard"], shard)))


def _edit_shard(run: RunDirectory, shard: str, edits: pa.Table) -> None:
    """Writes the tables that change; photos last, from which the others can be made again."""
    photos = _read(run, "photos", shard, schema.PHOTOS.names)
    removed = edits["uri"].filter(edits["new_uri"].is_null()).combine_chunks()
    left = _without(photos, removed)
    if len(left) < len(photos):
        faces = _read(run, "faces", shard, schema.faces(pa.list_(pa.float32(), 1)).names)
        left_faces = _faces_of(left, faces)
        if len(left_faces) < len(faces):
            write_table(run.shard_path("faces", shard), left_faces)
    if len(removed):
        failures = _read(run, "failures", shard, schema.FAILURES.names)
        left_failures = _without(failures, removed)
        if len(left_failures) < len(failures):
            write_table(run.shard_path("failures", shard), left_failures)
    at = pc.index_in(left["uri"], column(edits, "uri"))
    uris = pc.coalesce(column(edits, "new_uri").take(at.combine_chunks()), left["uri"])
    index = left.schema.get_field_index("uri")
    edited = left.set_column(index, left.schema.field("uri"), uris)
    if not edited.equals(photos):
        write_table(run.shard_path("photos", shard), edited)


def _faces_of(photos: pa.Table, faces: pa.Table) -> pa.Table:
    """The faces of the photos, each as often as its photo is in the table: once for each URI."""
    counts = pc.value_counts(photos["photo_id"])
    at = pc.index_in(faces["photo_id"], counts.field("values"))
    n_allowed = pc.fill_null(counts.field("counts").take(at.combine_chunks()), 0).to_numpy(False)
    codes = column(faces, "face_id").dictionary_encode().indices.to_numpy(False)
    return faces.filter(pa.array(count_earlier(codes) < n_allowed))


def _read(run: RunDirectory, table: str, shard: str, columns: Sequence[str]) -> pa.Table:
    return read_table([run.shard_path(table, shard)], columns)[0]


def _without(rows: pa.Table, uris: pa.Array) -> pa.Table:
    return rows.filter(pc.invert(is_in(rows["uri"], uris)))
