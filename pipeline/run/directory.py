"""A run's folder: the names of its files, its tables and its manifest.

RUN/
  manifest.json           options, models, library versions, state and counts of each step
  plan.parquet            which input is in which shard
  edits.parquet           changes of complete shards that are under way
  cohort.npz              of the embedding space, if its model has one
  run.lock                the job that is using the folder
  photos/SHARD.parquet    one file per input shard in each of these three; the photos file is
  faces/SHARD.parquet     written last, so a shard is complete if and only if it has one
  failures/SHARD.parquet
  near_duplicates/near_duplicates.parquet
  assignments/assignments.parquet
  people/people.parquet
  report/index.html
  evaluation/*.json
  grouping/               intermediate files of grouping on workers
  photo_ids/              of photos that may have changed, while they are checked
  facecluster.log
"""

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from facecluster.errors import UsageError
from facecluster.pipeline.run.manifest import (
    Manifest,
    StepEntry,
    is_manifest,
    read_manifest,
    write_manifest,
)
from facecluster.transforms.own_output import JOB_FILES, MANIFEST_NAME
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.similarity.cohort_file import pack_cohorts, unpack_cohorts
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.distinct import distinct_rows
from facecluster.transforms.tables.files import all_files, delete_files, list_files, write_bytes
from facecluster.transforms.tables.parquet_files import (
    TableError,
    count_rows,
    read_table,
    write_table,
)

SHARDED_TABLES = ("photos", "faces", "failures")
OTHER_TABLES = {  # their schemas, and the steps that write them
    "near_duplicates": (schema.NEAR_DUPLICATES, "embed"),
    "people": (schema.PEOPLE, "cluster"),
    "assignments": (schema.ASSIGNMENTS, "cluster"),
}

# The files that facecluster writes: some at the top, others in folders, by their file endings.
PLAN_NAME, COHORT_NAME = "plan.parquet", "cohort.npz"
EDITS_NAME, PHOTO_IDS_FOLDER = "edits.parquet", "photo_ids"
RUN_FOLDERS = {
    **dict.fromkeys((*SHARDED_TABLES, *OTHER_TABLES), (".parquet",)),
    "report": (".html",),
    "evaluation": (".json",),
    "grouping": (".npz", ".parquet"),
    PHOTO_IDS_FOLDER: (".parquet",),
}
TEMPORARY_ENDING = re.compile(r"\.[0-9a-f]{32}\.tmp$")  # of the files that `write_bytes` renames


@dataclass(frozen=True)
class RunDirectory:
    """A run's folder, on any file system that Beam knows (local, gs://, s3://)."""

    root: str

    def path(self, *names: str) -> str:
        return FileSystems.join(self.root, *names)

    def complete_shards(self) -> list[str]:
        """Names of the input shards whose three tables are all written."""
        return [_shard_of(path) for path in list_files(self.path("photos"))]

    def is_run(self) -> bool:
        """Whether facecluster has written into the folder before."""
        if is_manifest(self._manifest_path):
            return True
        if FileSystems.exists(self.path(PLAN_NAME)):
            with contextlib.suppress(TableError):
                return bool(read_table([self.path(PLAN_NAME)], schema.PLAN.names))
        return False

    def check_output_folder(self) -> None:
        """Raises UsageError if the folder is not a run and holds other files."""
        if self.is_run():
            return
        for name in _names(self.root):
            if name not in JOB_FILES and not _is_temporary_manifest(name):
                raise UsageError(
                    f"{self.root} is not a facecluster run and holds other files, such as {name}: "
                    "take an output folder that is empty or does not exist yet"
                )

    def remove_everything(self) -> None:
        """Deletes the files that facecluster wrote; other files, the log and the lock stay.

        An empty manifest stays too, so that the folder is still a run if this is interrupted. The
        photos files go first: they make shards complete, and the manifest that tells how the
        shards were made must not be emptied before them.
        """
        delete_files(list_files(self.path("photos")))
        write_manifest(self._manifest_path, Manifest())
        names = [name for name in _names(self.root) if _is_run_file(name) and name != MANIFEST_NAME]
        delete_files([self.path(*name.split("/")) for name in names])
        for table in (*SHARDED_TABLES, *OTHER_TABLES):  # those that are links to other folders
            delete_files(list_files(self.path(table)))
        if FileSystems.get_scheme(self.root) is None:
            for folder in RUN_FOLDERS:
                for top, _, _ in os.walk(self.path(folder), topdown=False):
                    with contextlib.suppress(OSError):  # it holds other files
                        os.rmdir(top)

    def remove_shard(self, shard: str) -> None:
        """Deletes a shard's tables, photos first: if interrupted, it leaves an incomplete shard."""
        for table in SHARDED_TABLES:
            path = self.shard_path(table, shard)
            if FileSystems.exists(path):
                delete_files([path])

    def remove_unfinished(self) -> None:
        """Deletes what a killed job left: files of incomplete shards, and temporary files.

        `read_shards` skips them, but a program that opens a table's whole folder would not.
        """
        complete = set(self.complete_shards())
        for table in SHARDED_TABLES:
            left = list_files(self.path(table), ".tmp")
            left += [f for f in list_files(self.path(table)) if _shard_of(f) not in complete]
            delete_files(left)
        delete_files(list_files(self.path(PHOTO_IDS_FOLDER)))
        folders = [
            self.root,
            *map(self.path, (*OTHER_TABLES, PHOTO_IDS_FOLDER, "report", "evaluation")),
        ]
        left = [path for folder in folders for path in list_files(folder, ".tmp")]
        delete_files([path for path in left if TEMPORARY_ENDING.search(path)])

    def shard_path(self, table: str, shard: str) -> str:
        return self.path(table, f"{shard}.parquet")

    def read_shards(self, table: str, columns: Sequence[str], shards: Sequence[str] | None = None):
        """(table, stamp) of the shards, by default the complete ones; see `read_table`."""
        shards = self.complete_shards() if shards is None else shards
        empty = {"photos": schema.PHOTOS, "failures": schema.FAILURES,
                 "faces": schema.faces(pa.list_(pa.float32(), 1))}[table]  # fmt: skip
        return read_table([self.shard_path(table, shard) for shard in shards], columns, empty)

    def count_rows(self, table: str, shards: Sequence[str] | None = None) -> int:
        """The number of rows of a sharded table, by default of all complete shards."""
        complete = self.complete_shards()
        counted = complete if shards is None else sorted(set(shards).intersection(complete))
        return count_rows([self.shard_path(table, shard) for shard in counted])

    def find_originals(self, photo_ids: pa.Array | pa.ChunkedArray) -> pa.Array:
        """(n,) string: the photo that each photo is a near-duplicate of, or the photo itself."""
        if isinstance(photo_ids, pa.ChunkedArray):
            photo_ids = photo_ids.combine_chunks()
        if not self.exists("near_duplicates"):
            return photo_ids
        table = self.read("near_duplicates", ["photo_id", "original_photo_id"]).combine_chunks()
        rows = pc.index_in(photo_ids, value_set=table["photo_id"])
        originals = table["original_photo_id"].combine_chunks().take(rows)
        return pc.coalesce(originals, photo_ids)

    def find_uris(self, photo_ids: Collection[str]) -> dict[str, str]:
        """The URI of each of some photos; of a photo with several, the first."""
        if not photo_ids:
            return {}
        return select_uris(self.read_shards("photos", ["photo_id", "uri"])[0], photo_ids)

    def write(self, table: str, rows: pa.Table) -> None:
        """Writes a table without shards (people, assignments, near_duplicates) as one file."""
        path = self.path(table, f"{table}.parquet")
        write_table(path, rows)
        self._remove_all_but(table, {path})

    def take_parts(self, table: str, folder: str, names: Sequence[str]) -> None:
        """Moves files from `folder` into a table's folder, in place of the files there.

        If it is interrupted, calling it again finishes it. The old files are deleted last, so that
        at any moment every face has its old or its new row.

        Args:
          names: of all the files, including those that an interrupted call has moved already.
        """
        parts = list_files(folder)
        if not FileSystems.exists(self.path(table)):
            FileSystems.mkdirs(self.path(table))
        FileSystems.rename(parts, [self.path(table, PurePosixPath(part).name) for part in parts])
        self._remove_all_but(table, {self.path(table, name) for name in names})

    def _remove_all_but(self, table: str, kept: set[str]) -> None:
        delete_files([path for path in list_files(self.path(table)) if path not in kept])

    def exists(self, table: str) -> bool:
        """Whether a table without shards has been written."""
        return bool(list_files(self.path(table)))

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Reads a table without shards; raises TableError if it does not exist."""
        table_schema, step = OTHER_TABLES[table]
        files = list_files(self.path(table))
        if not files:
            raise TableError(f"{self.path(table)} does not exist: run `facecluster {step}` first")
        return read_table(files, table_schema.names if columns is None else columns)[0]

    def write_cohort(self, cohort: Cohort) -> None:
        """Writes the cohort for the run's embeddings, unless the run has one.

        Models that share an embedding space share a cohort, so that faces are always compared in
        the same way.
        """
        if not FileSystems.exists(self.path(COHORT_NAME)):
            write_bytes(self.path(COHORT_NAME), pack_cohorts({"embedding": cohort}))

    def read_cohort(self) -> Cohort | None:
        """The cohort for the run's embeddings; None if their model had none.

        Raises:
          TableError: the file is damaged.
        """
        path = self.path(COHORT_NAME)
        if not FileSystems.exists(path):
            return None
        with FileSystems.open(path, mime_type="application/octet-stream") as file:
            content = file.read()
        try:
            return unpack_cohorts(content)["embedding"]
        except (ValueError, KeyError) as error:
            raise TableError(
                f"{path} is damaged: delete it and run `facecluster embed` again ({error})"
            ) from error

    def manifest(self) -> Manifest:
        """The run's manifest, an empty one if it has none; raises JobError if it is damaged."""
        return read_manifest(self._manifest_path)

    def update_manifest(self, entry: StepEntry) -> None:
        """Records an entry in place of the same step's earlier one."""
        write_manifest(self._manifest_path, self.manifest().with_step(entry))

    @property
    def _manifest_path(self) -> str:
        return self.path(MANIFEST_NAME)


def _names(root: str) -> Iterator[str]:
    """The paths of a folder's files, relative to it, subfolders included, hidden files not."""
    prefix = root.rstrip("/") + "/"
    for path in all_files(root):
        name = path.removeprefix(prefix).replace(os.sep, "/")
        if not PurePosixPath(name).name.startswith("."):  # file managers leave such files anywhere
            yield name


def _is_run_file(name: str) -> bool:
    folder, _, rest = TEMPORARY_ENDING.sub("", name).partition("/")
    if not rest:
        return folder in (MANIFEST_NAME, PLAN_NAME, EDITS_NAME, COHORT_NAME)
    return rest.endswith(RUN_FOLDERS.get(folder, ()))


def _is_temporary_manifest(name: str) -> bool:
    """Whether this is what a job leaves that was killed while it wrote a run's first file."""
    return TEMPORARY_ENDING.sub("", name) == MANIFEST_NAME != name


def _shard_of(path: str) -> str:
    return PurePosixPath(path).name.removesuffix(".parquet")


def select_uris(photos: pa.Table, photo_ids: Collection[str]) -> dict[str, str]:
    """The URI of each of `photo_ids` in a photos table; of a photo with several, the first."""
    wanted = photos.filter(pc.is_in(photos["photo_id"], pa.array(photo_ids, pa.string())))
    first = distinct_rows(wanted, "photo_id")
    return dict(zip(first["photo_id"].to_pylist(), first["uri"].to_pylist(), strict=True))
