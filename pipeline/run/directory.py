"""The names, manifest and state of everything a run leaves on disk.

RUN/
  manifest.json           options, model cards, library versions, state and counts of each step
  plan.parquet            which input is in which shard
  run.lock                who is at work here
  photos/SHARD.parquet    one file per input shard in each of these three; the photos file is
  faces/SHARD.parquet     written last, so a shard is complete exactly when it has one
  failures/SHARD.parquet
  near_duplicates/near_duplicates.parquet
  assignments/assignments.parquet
  people/people.parquet
  report/index.html
  evaluation/*.json
  grouping/               while faces are grouped on workers
  facecluster.log
"""

import contextlib
import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from facecluster.errors import UsageError
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.files import all_files, delete_files, list_files, write_bytes
from facecluster.transforms.tables.parquet_files import (
    TableError,
    count_rows,
    read_table,
    write_table,
)

SHARDED_TABLES = ("photos", "faces", "failures")
OTHER_TABLES = ("near_duplicates", "people", "assignments")
VERSIONED_PACKAGES = ("facecluster", "apache-beam", "tensorflow", "faiss-cpu", "faiss-gpu",
                      "hdbscan", "scikit-learn", "numpy", "pyarrow", "pillow")  # fmt: skip

# What facecluster writes into a run, and nothing else does: files, and endings of files in folders.
MANIFEST_NAME, PLAN_NAME = "manifest.json", "plan.parquet"
OUR_FOLDERS = {
    **dict.fromkeys((*SHARDED_TABLES, *OTHER_TABLES), (".parquet",)),
    "report": (".html",),
    "evaluation": (".json",),
    "grouping": (".npz", ".parquet"),
}
NOT_REMOVED = {"facecluster.log", "run.lock"}  # both in use while a job runs
TEMPORARY_ENDING = re.compile(r"\.[0-9a-f]{32}\.tmp$")  # as `write_bytes` makes them


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
        if FileSystems.exists(self.path(MANIFEST_NAME)):
            with contextlib.suppress(TableError, AttributeError):
                return isinstance(self.manifest().get("steps"), dict)
        if FileSystems.exists(self.path(PLAN_NAME)):
            with contextlib.suppress(TableError):
                return bool(read_table([self.path(PLAN_NAME)], schema.PLAN.names))
        return False

    def check_foreign(self) -> None:
        """Raises UsageError if the folder is no run and somebody else's files are in it."""
        if self.is_run():
            return
        for name in _names(self.root):
            if name not in NOT_REMOVED and not _is_temporary_manifest(name):
                raise UsageError(
                    f"{self.root} is no run of facecluster's and holds other files, such as "
                    f"{name}: take an output folder that is empty or not there yet"
                )

    def remove_everything(self) -> None:
        """Deletes what facecluster wrote; other files, the log and the lock stay.

        The manifest stays too, and tells of nothing: this is a run, also when it is killed now.
        What makes shards complete goes first, while the manifest knows how they were made.
        """
        delete_files(list_files(self.path("photos")))
        write_bytes(self.path(MANIFEST_NAME), b'{"steps": {}}\n')
        ours = [name for name in _names(self.root) if _is_ours(name) and name != MANIFEST_NAME]
        delete_files([self.path(*name.split("/")) for name in ours])
        for table in (*SHARDED_TABLES, *OTHER_TABLES):  # where these are links to folders elsewhere
            delete_files(list_files(self.path(table)))
        if FileSystems.get_scheme(self.root) is None:
            for folder in OUR_FOLDERS:
                for top, _, _ in os.walk(self.path(folder), topdown=False):
                    with contextlib.suppress(OSError):  # somebody else's file is in it
                        os.rmdir(top)

    def remove_shard(self, shard: str) -> None:
        """Deletes a shard's tables, the marker first; killed, it is one that is not finished."""
        for table in SHARDED_TABLES:
            path = self.shard_path(table, shard)
            if FileSystems.exists(path):
                delete_files([path])

    def remove_unfinished(self) -> None:
        """Deletes what a killed job left: files of shards that are not complete, temporary files.

        Readers pass over them, but whoever opens a table's folder as a whole would not.
        """
        complete = set(self.complete_shards())
        for table in SHARDED_TABLES:
            left = list_files(self.path(table), ".tmp")
            left += [f for f in list_files(self.path(table)) if _shard_of(f) not in complete]
            delete_files(left)
        folders = [self.root, *map(self.path, (*OTHER_TABLES, "report", "evaluation"))]
        left = [path for folder in folders for path in list_files(folder, ".tmp")]
        delete_files([path for path in left if TEMPORARY_ENDING.search(path)])

    def shard_path(self, table: str, shard: str) -> str:
        return self.path(table, f"{shard}.parquet")

    def read_shards(self, table: str, columns: Sequence[str], shards: Sequence[str] | None = None):
        """(table, stamp) of a sharded table, complete shards only; see `tables.read_table`."""
        shards = self.complete_shards() if shards is None else shards
        empty = {"photos": schema.PHOTOS, "failures": schema.FAILURES,
                 "faces": schema.faces(pa.list_(pa.float32(), 1))}[table]  # fmt: skip
        return read_table([self.shard_path(table, shard) for shard in shards], columns, empty)

    def count_rows(self, table: str) -> int:
        """The number of rows of a sharded table, complete shards only."""
        return count_rows([self.shard_path(table, shard) for shard in self.complete_shards()])

    def write(self, table: str, rows: pa.Table) -> None:
        """Writes a table that is no shard's (people, assignments, near_duplicates) as one file."""
        path = self.path(table, f"{table}.parquet")
        write_table(path, rows)
        self._remove_all_but(table, {path})

    def take_parts(self, table: str, folder: str, names: Sequence[str]) -> None:
        """Makes files of `folder` the table that grouping makes, in place of what it was.

        If it is interrupted, calling it again finishes it. What was there goes last: until then no
        face is without the person it had, or has.

        Args:
          names: of all the files; those that are not in the folder any more are in place.
        """
        parts = list_files(folder)
        if not FileSystems.exists(self.path(table)):
            FileSystems.mkdirs(self.path(table))
        FileSystems.rename(parts, [self.path(table, PurePosixPath(part).name) for part in parts])
        self._remove_all_but(table, {self.path(table, name) for name in names})

    def _remove_all_but(self, table: str, kept: set[str]) -> None:
        delete_files([path for path in list_files(self.path(table)) if path not in kept])

    def exists(self, table: str) -> bool:
        """Whether grouping has made a table."""
        return bool(list_files(self.path(table)))

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Reads a table that grouping made; TableError when it is not there."""
        if columns is None:
            columns = {"people": schema.PEOPLE, "assignments": schema.ASSIGNMENTS}[table].names
        files = list_files(self.path(table))
        if not files:
            raise TableError(f"{self.path(table)} is not there: group the faces first")
        return read_table(files, columns)[0]

    def manifest(self) -> dict[str, Any]:
        path = self.path(MANIFEST_NAME)
        if not FileSystems.exists(path):
            return {}
        with FileSystems.open(path) as file:
            content = file.read()
        try:
            return json.loads(content)
        except ValueError as error:
            raise TableError(f"{path} is damaged, take another output folder: {error}") from error

    def update_manifest(self, step: str, entry: dict[str, Any]) -> None:
        """Records what a step did, under its name, beside what other steps recorded."""
        manifest = self.manifest()
        manifest["versions"] = _versions()
        manifest.setdefault("steps", {})[step] = {
            "finished_at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            **entry,
        }
        text = json.dumps(manifest, indent=2, sort_keys=True, default=str) + "\n"
        write_bytes(self.path(MANIFEST_NAME), text.encode())


def _names(root: str) -> Iterator[str]:
    """The files in a folder and its subfolders, by names relative to it, without hidden ones."""
    prefix = root.rstrip("/") + "/"
    for path in all_files(root):
        name = path.removeprefix(prefix).replace(os.sep, "/")
        if not PurePosixPath(name).name.startswith("."):  # as file managers leave them anywhere
            yield name


def _is_ours(name: str) -> bool:
    folder, _, rest = TEMPORARY_ENDING.sub("", name).partition("/")
    if not rest:
        return folder in (MANIFEST_NAME, PLAN_NAME)
    return rest.endswith(OUR_FOLDERS.get(folder, ()))


def _is_temporary_manifest(name: str) -> bool:
    """Whether a job was killed while it wrote the first file of a run."""
    return TEMPORARY_ENDING.sub("", name) == MANIFEST_NAME != name


def _shard_of(path: str) -> str:
    return PurePosixPath(path).name.removesuffix(".parquet")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
