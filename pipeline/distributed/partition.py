"""How a run's faces are cut into tasks for Beam's workers, none of which ever holds them all."""

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
from facecluster.transforms.grouping.grouping import Distances
from facecluster.transforms.grouping.neighbors import Cells
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.tables.parquet_files import read_footers

# A worker holds a block's visitors as they are stored, and a cell's as floats with their products.
ROOM = 4
EDGE_BYTES = 24
COPY, LEFT_OUT = -1, -2  # in place of the number of a face that is there already, or is not grouped


@dataclass(frozen=True)
class Fitted:
    """What every task must know of the collection.

    Attributes:
      n: number of faces.
      cells, distances: to search in, and how far.
      queries: (m, d) float32 unit vectors of the first faces, for measuring recall.
    """

    n: int
    cells: Cells
    distances: Distances
    queries: np.ndarray


@dataclass(frozen=True)
class Plan:
    """What is grouped, and how; a work folder belongs to one.

    Attributes:
      run, work: folders.
      options: how faces become people.
      groups: shards of the run that one task takes together, by a name for them.
      sizes: rows of each group.
      n_blocks: the cells are searched in so many tasks.
      n_parts: the tables are written in so many files.
      worker_bytes: memory a worker may use.
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
    def edges_at_once(self) -> int:
        """Edges of forests that a worker may hold."""
        return self.worker_bytes // ROOM // EDGE_BYTES

    def fitted(self) -> Fitted:
        """What `write_fitted` has written."""
        file = self.work.read("cells", "cells")
        basis = file["basis"] if file["basis"].size else None
        cells = Cells(file["centroids"], basis, int(file["probes"]))
        distances = Distances(float(file["max_distance"]), float(file["join_distance"]))
        return Fitted(int(file["n"]), cells, distances, file["queries"])

    def write_fitted(self, fitted: Fitted) -> None:
        cells = fitted.cells
        self.work.write(
            "cells",
            "cells",
            n=np.array(fitted.n),
            centroids=cells.centroids,
            basis=np.empty(0) if cells.basis is None else cells.basis,
            probes=np.array(cells.probes),
            queries=fitted.queries,
            **{name: np.array(value) for name, value in asdict(fitted.distances).items()},
        )

    def label_ranges(self, n_people: int) -> list[tuple[int, int]]:
        """The labels whose people each part of the tables has, (first, behind the last)."""
        at = [part * n_people // self.n_parts for part in range(self.n_parts + 1)]
        return list(itertools.pairwise(at))

    def faces(self, group: str, columns: Sequence[str]) -> tuple[pa.Table, np.ndarray]:
        """Rows and numbers of a group's faces, but for those left out or in another row too."""
        return to_group(*self.rows(group, columns))

    def rows(self, group: str, columns: Sequence[str]) -> tuple[pa.Table, np.ndarray]:
        """All rows of a group, and their faces' numbers, COPY or LEFT_OUT."""
        table, _ = self.run.read_shards("faces", columns, self.groups[group])
        return table, self.work.read("numbers", group)["numbers"]


def to_group(faces: pa.Table, numbers: np.ndarray) -> tuple[pa.Table, np.ndarray]:
    """Those of some rows that are grouped."""
    mine = numbers >= 0
    return faces.filter(pa.array(mine)).combine_chunks(), numbers[mine]


def make_plan(run: RunDirectory, options: ClusterOptions, worker_bytes: int) -> Plan:
    """The plan of the work folder, which is begun anew if it is of another.

    Raises:
      TableError: a faces file cannot be read, or models are mixed.
    """
    shards = run.complete_shards()
    footers = read_footers([run.shard_path("faces", shard) for shard in shards])
    rows = {shard: footer.n_rows for shard, footer in zip(shards, footers, strict=True)}
    row_bytes = max(_embedding_bytes(footer.schema) for footer in footers) + 16
    n, probes = sum(rows.values()), options.probes or 1
    groups = _grouped(rows, worker_bytes // (ROOM * probes * row_bytes))
    sizes = {name: sum(rows[shard] for shard in group) for name, group in groups.items()}
    n_blocks = max(1, math.ceil(n * probes * row_bytes * ROOM / worker_bytes))
    n_parts = max(1, math.ceil(n * (row_bytes + 400) * ROOM / worker_bytes))
    work = WorkFolder(run.path("grouping"))
    stamps = [footer.stamp for footer in footers]
    text = json.dumps([asdict(options), groups, sizes, n_blocks, n_parts, stamps], sort_keys=True)
    work.begin(hashlib.sha256(text.encode()).hexdigest())
    return Plan(run, work, options, groups, sizes, n_blocks, n_parts, worker_bytes)


def _grouped(rows: dict[str, int], most: int) -> dict[str, list[str]]:
    """Shards, in order, in groups of at most `most` rows, or of one shard.

    A task leaves a file for each block: were it to take a shard of a few hundred faces, a hundred
    million faces would leave a hundred million files.
    """
    groups: list[list[str]] = []
    held = 0
    for shard, size in rows.items():
        if not groups or held + size > most:
            groups.append([])
            held = 0
        groups[-1].append(shard)
        held += size
    return {f"{number:05d}": group for number, group in enumerate(groups)}


def _embedding_bytes(schema: pa.Schema) -> int:
    kind = schema.field("embedding").type
    return kind.list_size * kind.value_type.bit_width // 8
