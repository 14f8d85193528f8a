"""Divides the grouping of a run's faces into tasks for Beam's workers, by the memory they have."""

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from facecluster.pipeline.distributed.work_folder import WorkFolder
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.grouping.group_faces import DistanceLimits
from facecluster.transforms.grouping.neighbors import Cells
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.tables.parquet_files import Footer, TableError, read_footers

# A task needs this many times the bytes of the embeddings that it reads: a worker holds a block's
# faces as they are stored, and those of one cell as floats with the products of all pairs.
MEMORY_FACTOR = 4
EDGE_BYTES = 24
# In place of the number of a face: another row has the same face; the face is not grouped.
DUPLICATE, LEFT_OUT = -1, -2


@dataclass(frozen=True, eq=False)
class SearchSetup:
    """What each task needs to know about the whole collection.

    Attributes:
      n: number of faces to group.
      cells: to search in.
      limits: the distances to use.
      queries: (m, d) float32 unit vectors of the first faces, for measuring recall.
    """

    n: int
    cells: Cells
    limits: DistanceLimits
    queries: np.ndarray


@dataclass(frozen=True)
class TaskLayout:
    """How the grouping of a run is divided into tasks; a work folder belongs to one layout.

    Attributes:
      run, work: folders.
      options: how faces become people.
      groups: {name: the shards of the run that one task reads}.
      sizes: {name of a group: number of rows in its shards}.
      n_blocks: number of tasks that the cells are divided into.
      n_parts: number of files that each table is divided into.
      worker_bytes: memory that a worker may use.
    """

    run: RunDirectory
    work: WorkFolder
    options: ClusterOptions
    groups: dict[str, list[str]]
    sizes: dict[str, int]
    n_blocks: int
    n_parts: int
    worker_bytes: int

    @property
    def blocks(self) -> list[str]:
        return [f"{b:05d}-of-{self.n_blocks:05d}" for b in range(self.n_blocks)]

    @property
    def parts(self) -> list[str]:
        return [f"part-{p:05d}-of-{self.n_parts:05d}" for p in range(self.n_parts)]

    @property
    def max_edges(self) -> int:
        """The number of edges that a worker may hold while it combines forests."""
        return self.worker_bytes // MEMORY_FACTOR // EDGE_BYTES

    def read_setup(self) -> SearchSetup:
        file = self.work.read("setup", "setup")
        basis = file["basis"] if file["basis"].size else None
        cells = Cells(file["centroids"], basis, int(file["probes"]))
        limits = DistanceLimits(float(file["max_distance"]), float(file["merge_distance"]))
        return SearchSetup(int(file["n"]), cells, limits, file["queries"])

    def write_setup(self, setup: SearchSetup) -> None:
        cells = setup.cells
        self.work.write(
            "setup",
            "setup",
            n=np.array(setup.n),
            centroids=cells.centroids,
            basis=np.empty(0) if cells.basis is None else cells.basis,
            probes=np.array(cells.probes),
            queries=setup.queries,
            **{name: np.array(value) for name, value in asdict(setup.limits).items()},
        )

    def label_ranges(self, n_people: int) -> list[tuple[int, int]]:
        """The labels [low, high) of the people in each part of the tables."""
        bounds = [part * n_people // self.n_parts for part in range(self.n_parts + 1)]
        return list(itertools.pairwise(bounds))

    def read_faces(self, group: str, columns: Sequence[str]) -> tuple[pa.Table, np.ndarray]:
        """The faces of a group that are grouped, each once, and their numbers."""
        return select_grouped(*self.read_rows(group, columns))

    def read_rows(self, group: str, columns: Sequence[str]) -> tuple[pa.Table, np.ndarray]:
        """All rows of a group, and for each the number of its face, DUPLICATE or LEFT_OUT."""
        table, _ = self.run.read_shards("faces", columns, self.groups[group])
        return table, self.read_numbers(group)

    def read_numbers(self, group: str) -> np.ndarray:
        """(n_rows,) int64: the number of each row's face, DUPLICATE or LEFT_OUT."""
        return self.work.read("numbers", group)["numbers"]


def select_grouped(faces: pa.Table, numbers: np.ndarray) -> tuple[pa.Table, np.ndarray]:
    """The rows of faces that are grouped, and their numbers."""
    is_grouped = numbers >= 0
    return faces.filter(pa.array(is_grouped)).combine_chunks(), numbers[is_grouped]


def make_task_layout(run: RunDirectory, options: ClusterOptions, worker_bytes: int) -> TaskLayout:
    """Divides the grouping of a run into tasks and begins its work folder.

    A work folder of another layout is emptied; one of the same layout is continued.

    Raises:
      TableError: a faces file cannot be read, or the files are of several models.
    """
    shards = run.complete_shards()
    paths = [run.shard_path("faces", shard) for shard in shards]
    footers = read_footers(paths)
    rows = {shard: footer.n_rows for shard, footer in zip(shards, footers, strict=True)}
    embedding_bytes = map(_embedding_bytes, paths, footers)
    row_bytes = max(embedding_bytes) + 16
    n, probes = sum(rows.values()), options.probes or 1
    groups = _group_shards(rows, worker_bytes // (MEMORY_FACTOR * probes * row_bytes))
    sizes = {name: sum(rows[shard] for shard in group) for name, group in groups.items()}
    n_blocks = max(1, math.ceil(n * probes * row_bytes * MEMORY_FACTOR / worker_bytes))
    n_parts = max(1, math.ceil(n * (row_bytes + 400) * MEMORY_FACTOR / worker_bytes))
    work = WorkFolder(run.path("grouping"))
    stamps = [footer.stamp for footer in footers]
    text = json.dumps([asdict(options), groups, sizes, n_blocks, n_parts, stamps], sort_keys=True)
    work.begin(hashlib.sha256(text.encode()).hexdigest())
    return TaskLayout(run, work, options, groups, sizes, n_blocks, n_parts, worker_bytes)


def _group_shards(rows: dict[str, int], max_rows: int) -> dict[str, list[str]]:
    """Groups consecutive shards, at most `max_rows` rows or one shard to a group.

    A task writes one file per block. If each task read one shard of a few hundred faces, a hundred
    million faces would make a hundred million files.
    """
    groups: list[list[str]] = []
    n_rows = 0
    for shard, size in rows.items():
        if not groups or n_rows + size > max_rows:
            groups.append([])
            n_rows = 0
        groups[-1].append(shard)
        n_rows += size
    return {f"{number:05d}": group for number, group in enumerate(groups)}


def _embedding_bytes(path: str, footer: Footer) -> int:
    """Bytes of one embedding in a faces file."""
    if "embedding" not in footer.schema.names:
        raise TableError(f"{path} has no column 'embedding'; is it a facecluster table?")
    kind = footer.schema.field("embedding").type
    return kind.list_size * kind.value_type.bit_width // 8
