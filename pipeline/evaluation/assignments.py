"""The people that a run found: its assignments table, and the person of each face."""

import pyarrow as pa
import pyarrow.compute as pc

from facecluster.errors import InputError
from facecluster.pipeline.run.directory import RunDirectory


def read_assignments(run: RunDirectory) -> pa.Table:
    """The assignments table; raises InputError if there is no such run or the run has none."""
    if not run.exists("assignments"):
        if not (run.is_run() or run.complete_shards()):
            raise InputError(f"{run.root} is not the folder of a run")
        raise InputError(f"{run.root} has no people yet: run `facecluster cluster` first")
    return run.read("assignments")


def assigned_people(
    run: RunDirectory, assignments: pa.Table, face_ids: pa.ChunkedArray
) -> pa.Array:
    """(n,) string, the person_id of each face, null if it is unassigned.

    Raises:
      InputError: a face is missing from the assignments.
    """
    row = pc.index_in(face_ids, value_set=assignments["face_id"].combine_chunks())
    if row.null_count:
        raise InputError(
            f"{run.root} has faces that were embedded after its people were found: run "
            "`facecluster cluster` again"
        )
    return assignments["person_id"].combine_chunks().take(row.combine_chunks())
