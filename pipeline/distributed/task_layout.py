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
from facecluster.transforms.grouping.edges import EdgeLimits, NeighborGraph
from facecluster.transforms.grouping.group_faces import lowest_in_lists
from facecluster.transforms.grouping.neighbors import Cells
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.similarity.impostors import Impostors
from facecluster.transforms.similarity.normalization import Normalization
from facecluster.transforms.tables.parquet_files import Footer, TableError, read_footers

# A task needs this many times the bytes of the vectors that it reads: a worker holds a block's
# faces as float16, and those of one cell as float32 with the products of all pairs.
MEMORY_FACTOR = 4
EDGE_BYTES = 24
# A worker that weighs a block's edges holds this many neighbor lists for each of its faces, because
# half of the neighbors may be in other blocks, and this many bytes for a neighbor in a list.
LISTS_PER_FACE, LIST_ENTRY_BYTES = 3, 40
# In place of the number of a face: another row has the same face; the face is not grouped.
DUPLICATE, LEFT_OUT = -1, -2


@dataclass(frozen=True, eq=False)
class SearchSetup:
    """What each task needs to know about the whole collection.

    Attributes:
      n: number of faces to group.
      normalization: of the faces.
      cells: to search in.
      max_distance: Euclidean, within which neighbors are searched.
      queries: (m, d) float32 unit vectors of the first faces, normalized, for measuring recall.
    """

    n: int
    normalization: Normalization
    cells: Cells
    max_distance: float
    queries: np.ndarray

    @property
    def lowest(self) -> float:
        """The similarity at which neighbor lists end."""
        return lowest_in_lists(self.normalization, self.n)


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
        cohort = None
        if len(file["cohort"]):
            level, same_person = map(float, file["cohort_values"])
            cohort = Cohort(file["cohort"], level, same_person)
        normalization = Normalization(
            file["sample"],
            float(file["excluded_from"]),
            cohort,
            Impostors(*map(float, file["impostors"])),
            float(file["same_person"]),
            bool(file["few_people"]),
            float(file["distinct"]),
        )
        return SearchSetup(
            int(file["n"]), normalization, cells, float(file["max_distance"]), file["queries"]
        )

    def write_setup(self, setup: SearchSetup) -> None:
        cells, normalization = setup.cells, setup.normalization
        cohort, impostors = normalization.cohort, normalization.impostors
        self.work.write(
            "setup",
            "setup",
            n=np.array(setup.n),
            centroids=cells.centroids,
            basis=np.empty(0) if cells.basis is None else cells.basis,
            probes=np.array(cells.probes),
            sample=normalization.sample,
            excluded_from=np.array(normalization.excluded_from),
            cohort=cohort.vectors if cohort else np.empty(0),
            cohort_values=np.array([cohort.level, cohort.same_person] if cohort else []),
            impostors=np.array([impostors.median, impostors.width]),
            same_person=np.array(normalization.same_person),
            few_people=np.array(normalization.few_people),
            distinct=np.array(normalization.distinct),
            max_distance=np.array(setup.max_distance),
            queries=setup.queries,
        )

    def read_limits(self) -> EdgeLimits:
        file = self.work.read("limits", "limits")
        return EdgeLimits(**{name: float(value) for name, value in file.items()})

    def write_limits(self, limits: EdgeLimits) -> None:
        values = {name: np.array(value) for name, value in asdict(limits).items()}
        self.work.write("limits", "limits", **values)

    def read_graph(self, block: str) -> NeighborGraph:
        """The neighbors of the first faces of a block's shots, sorted by face."""
        return NeighborGraph(**self.work.read("graph", block))

    def read_shots(self) -> np.ndarray:
        """(n,) int64: the first face of each face's shot."""
        return self.work.read("shots", "shots")["shots"]

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
    row_bytes = max(map(_embedding_bytes, paths, footers)) + 16
    vector_bytes = max(map(_vector_bytes, footers)) + 24
    n, probes = sum(rows.values()), options.probes or 1
    groups = _group_shards(rows, worker_bytes // (MEMORY_FACTOR * probes * vector_bytes))
    sizes = {name: sum(rows[shard] for shard in group) for name, group in groups.items()}
    search_bytes = probes * vector_bytes * MEMORY_FACTOR
    list_bytes = LISTS_PER_FACE * options.n_neighbors * LIST_ENTRY_BYTES
    n_blocks = max(1, math.ceil(n * max(search_bytes, list_bytes) / worker_bytes))
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


def _vector_bytes(footer: Footer) -> int:
    """Bytes of one normalized vector."""
    return footer.schema.field("embedding").type.list_size * np.dtype(np.float16).itemsize
