"""The faces table into people on Beam's workers, none of which ever holds the collection.

The same functions as in memory, over files: each task reads some, writes one under its own name and
is not done again once that is there, so a killed job goes on where it was.

    sample      GROUP   keys of some shards' faces; a few embeddings         -> numbers, cells
    partition   GROUP   which faces visit which cells, with their vectors
    neighbors   BLOCK   the nearest faces of those who live in its cells     -> core distances
    forests     BLOCK   the spanning forest of its edges                     -> one forest, labels
    by_person   GROUP   its faces, by the person they were given
    tables      PART    the rows of some people, and of their faces

The launching process holds a few numbers for each face, the forest and the tree over it.
"""

import contextlib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from facecluster.pipeline.face_filter import FILTER_COLUMNS, left_out
from facecluster.pipeline.grouping import (
    Distances,
    components_of,
    distances_for,
    group_forest,
)
from facecluster.pipeline.grouping_checks import summary_of, together
from facecluster.pipeline.options import ClusterOptions
from facecluster.pipeline.run_directory import RunDirectory
from facecluster.pipeline.runner import OptionError, choose_execution
from facecluster.pipeline.work_folder import READERS, WorkFolder, run_tasks
from facecluster.transforms.chance import SAMPLE_FACES
from facecluster.transforms.codec import stored_vectors, unit_rows
from facecluster.transforms.combine_forests import CombineForests
from facecluster.transforms.hdbscan_labels import NOISE, Labels
from facecluster.transforms.neighbors import (
    RECALL_FACES,
    Cells,
    by_face,
    fit_cells,
    nearest_in,
    search_cell,
    share_found,
    training_size,
)
from facecluster.transforms.people import name_people, people_tables, with_left_out
from facecluster.transforms.same_photo import constrained_photos
from facecluster.transforms.schema import stamp_of
from facecluster.transforms.spanning_forest import (
    Edges,
    core_distances,
    minimum_spanning_forest,
    mutual_reachability,
)
from facecluster.transforms.tables import TableError, check_together, write_table

# A worker holds a block's visitors as they are stored, and a cell's as floats with their products.
ROOM = 4
EDGE_BYTES = 24
COPY, LEFT_OUT = -1, -2  # in place of the number of a face that is there already, or is not grouped
NO_ROWS = {
    "numbers": np.empty(0, np.int64),
    "stored": np.empty((0, 1), np.float32),
    "face_ids": np.empty(0, np.str_),
    "photo_ids": np.empty(0, np.str_),
    "labels": np.empty(0, np.int64),
    "probabilities": np.empty(0),
    "repeated": np.empty(0, bool),
}
KEY = [("high", np.uint64), ("low", np.uint32), ("index", np.uint16)]


class DistributionError(Exception):
    """Beam failed."""


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
    def cells(self) -> Cells:
        file = self.work.read("cells", "cells")
        basis = file["basis"] if file["basis"].size else None
        return Cells(file["centroids"], basis, int(file["probes"]))

    @property
    def distances(self) -> Distances:
        file = self.work.read("cells", "cells")
        return Distances(float(file["max_distance"]), float(file["join_distance"]))

    def faces(self, group: str, columns: Sequence[str]) -> tuple[pa.Table, np.ndarray]:
        """Rows and numbers of a group's faces, but for those left out or in another row too."""
        return _to_group(*self.rows(group, columns))

    def rows(self, group: str, columns: Sequence[str]) -> tuple[pa.Table, np.ndarray]:
        """All rows of a group, and their faces' numbers, COPY or LEFT_OUT."""
        table, _ = self.run.read_shards("faces", columns, self.groups[group])
        return table, self.work.read("numbers", group)["numbers"]


def group_run(
    run: RunDirectory,
    options: ClusterOptions,
    worker_memory: int,
    beam_arguments: Sequence[str],
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Groups a run's faces on Beam's workers and writes its people and assignments tables.

    Args:
      run: holds the faces table.
      options: how faces become people.
      worker_memory: what a worker may use, MiB.
      beam_arguments: options for Beam, as on its command line.
      progress: told in a few words what is being done.

    Returns:
      counts and diagnostics for the manifest.

    Raises:
      DistributionError: Beam failed, or what it ran did.
      TableError: a table is damaged, or models are mixed.
      OptionError: Beam's options make no sense.
    """
    plan = _plan(run, options, worker_memory << 20)
    n_rows = sum(plan.sizes.values())

    def on_workers(kind: str, task: Callable[[str], None], names: Sequence[str]) -> None:
        with _told(kind):
            run_tasks(plan.work, kind, task, names, beam_arguments)

    progress(f"reading {n_rows:,} faces")
    share = _sample_share(n_rows)
    on_workers("sample", SampleFaces(plan, "sample", share), list(plan.groups))
    if not plan.work.names("cells"):
        n, needed = _number(plan)
        if needed > share:
            on_workers("resample", SampleFaces(plan, "resample", needed), list(plan.groups))
        _fit(plan, n, "resample" if needed > share else "sample")
    n = int(plan.work.read("cells", "cells")["n"])
    progress(f"sorting {n:,} faces into {len(plan.cells.centroids):,} cells")
    on_workers("partition", PartitionFaces(plan), list(plan.groups))
    progress(f"finding neighbours of {n:,} faces")
    on_workers("neighbors", SearchBlock(plan), plan.blocks)
    if not plan.work.names("core"):
        _gather_core_distances(plan, n)
    progress(f"joining {n:,} faces to a forest")
    on_workers("forests", ForestOfBlock(plan), plan.blocks)
    if not plan.work.names("forest"):
        with _told("forest"):
            _combine(plan, beam_arguments)
    progress(f"grouping {n:,} faces")
    if not plan.work.names("grouped"):
        _label(plan, n)
    progress(f"writing people of {n:,} faces")
    on_workers("by_person", SortByPerson(plan), list(plan.groups))
    on_workers("tables", WritePart(plan), plan.parts)
    result = _totals(plan)
    for table in ("assignments", "people"):
        names = [f"{part}.parquet" for part in plan.parts]
        run.take_parts(table, plan.work.path("tables", table), names)
    plan.work.remove()
    return result


@contextlib.contextmanager
def _told(doing: str) -> Iterator[None]:
    """Makes one sentence of what Beam has to say when it fails."""
    try:
        yield
    except OptionError:
        raise
    except Exception as error:
        raise DistributionError(f"{doing}: {_sentence(error)}") from error


def _plan(run: RunDirectory, options: ClusterOptions, worker_bytes: int) -> Plan:
    """The plan of the work folder, which is begun anew if it is of another."""
    shards = run.complete_shards()
    with ThreadPoolExecutor(READERS) as pool:
        paths = [run.shard_path("faces", shard) for shard in shards]
        footers = list(pool.map(_footer, paths))
    check_together(paths, [stamp for *_, stamp in footers])
    rows = {shard: rows for shard, (rows, *_) in zip(shards, footers, strict=True)}
    row_bytes = max(width for _, width, _ in footers) + 16
    n, probes = sum(rows.values()), options.probes or 1
    groups = _grouped(rows, worker_bytes // (ROOM * probes * row_bytes))
    sizes = {name: sum(rows[shard] for shard in group) for name, group in groups.items()}
    n_blocks = max(1, math.ceil(n * probes * row_bytes * ROOM / worker_bytes))
    n_parts = max(1, math.ceil(n * (row_bytes + 400) * ROOM / worker_bytes))
    work = WorkFolder(run.path("grouping"))
    stamps = [stamp for *_, stamp in footers]
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


def _footer(path: str) -> tuple[int, int, dict[str, Any]]:
    """Rows of a faces file, bytes of one embedding, and what the file carries about itself."""
    try:
        with FileSystems.open(path, mime_type="application/octet-stream") as file:
            parquet = pq.ParquetFile(file)
            kind = parquet.schema_arrow.field("embedding").type
            width = kind.list_size * kind.value_type.bit_width // 8
            return parquet.metadata.num_rows, width, stamp_of(parquet.schema_arrow)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise TableError(f"{path} cannot be read as a faces table: {error}") from error


def _to_group(faces: pa.Table, numbers: np.ndarray) -> tuple[pa.Table, np.ndarray]:
    """Those of some rows that are grouped."""
    mine = numbers >= 0
    return faces.filter(pa.array(mine)).combine_chunks(), numbers[mine]


def _sample_size(n: int) -> int:
    return max(training_size(n), SAMPLE_FACES, RECALL_FACES)


def _sample_share(n: int) -> float:
    """The share of faces to look at: twice what is needed, since half may be there twice."""
    wanted = _sample_size(n)
    return min(1.0, 2 * (wanted + 6 * math.sqrt(wanted)) / max(n, 1))


@dataclass(frozen=True)
class SampleFaces:
    """Writes keys of some faces, and the embeddings of those with the lowest.

    A face id begins with a SHA-256, so the lowest are as good as drawn at random, and they are the
    same however the collection is cut into shards.
    """

    plan: Plan
    kind: str
    share: float

    def __call__(self, group: str) -> None:
        faces, _ = self.plan.run.read_shards(
            "faces", ["face_id", "embedding", *FILTER_COLUMNS], self.plan.groups[group]
        )
        keys = _keys(faces["face_id"])
        grouped = left_out(faces, self.plan.options).is_null().to_numpy(zero_copy_only=False)
        low = grouped & (keys["high"] <= np.uint64(min(self.share * 2.0**64, 2.0**64 - 2048)))
        stored = stored_vectors(faces["embedding"])[low]
        self.plan.work.write(
            self.kind, group, keys=keys, grouped=grouped, sampled=keys[low], stored=stored
        )


def _keys(face_ids: pa.ChunkedArray) -> np.ndarray:
    """24 hexadecimal digits of the photo's SHA-256 and the face's index, in the order of ids."""
    ids = face_ids.to_pylist()
    keys = np.empty(len(ids), KEY)
    for row, face_id in enumerate(ids):
        keys[row] = int(face_id[:16], 16), int(face_id[16:24], 16), int(face_id[65:])
    return keys


def _sorted(keys: np.ndarray) -> np.ndarray:
    return np.lexsort((keys["index"], keys["low"], keys["high"]))


def _number(plan: Plan) -> tuple[int, float]:
    """Numbers the faces to group in the order of their ids, each once.

    Returns:
      How many they are, and the share of all ids that has a sample of them, were a few more taken.
    """
    files = plan.work.read_all("sample", list(plan.groups))
    keys = np.concatenate([file["keys"] for file in files])
    grouped = np.concatenate([file["grouped"] for file in files])
    order = _sorted(keys)
    new = np.ones(len(keys), bool)
    new[1:] = keys[order][1:] != keys[order][:-1]
    once = order[new]
    numbers = np.full(len(keys), COPY)
    numbers[once] = LEFT_OUT
    once = once[grouped[once]]
    n = len(once)
    numbers[once] = np.arange(n)
    start = 0
    for group, size in plan.sizes.items():
        plan.work.write("numbers", group, numbers=numbers[start : start + size])
        start += size
    last = keys["high"][once[: _sample_size(n)][-1:]]
    return n, min(1.0, (float(last[0]) + 4096) / 2.0**64) if n else 0.0


def _fit(plan: Plan, n: int, kind: str) -> None:
    """Cells and distances for n faces, from a sample of the kind."""
    files = plan.work.read_all(kind, list(plan.groups))
    sampled = np.concatenate([file["sampled"] for file in files])
    _, once = np.unique(sampled, return_index=True)  # by key, as the faces are numbered
    stored = np.concatenate([file["stored"] for file in files])[once]
    cells = fit_cells(stored[: training_size(n)], n, plan.options.probes)
    distances = distances_for(stored[:SAMPLE_FACES], n, plan.options)
    plan.work.write(
        "cells",
        "cells",
        n=np.array(n),
        centroids=cells.centroids,
        basis=np.empty(0) if cells.basis is None else cells.basis,
        probes=np.array(cells.probes),
        queries=unit_rows(stored[: min(RECALL_FACES, n)]),
        **{name: np.array(value) for name, value in asdict(distances).items()},
    )


@dataclass(frozen=True)
class PartitionFaces:
    """Sorts some faces into the blocks of the cells that they visit.

    What a face does not need others for is written beside: the photo that keeps it apart
    from others, and which of these faces are nearest to the first of all.
    """

    plan: Plan

    def __call__(self, group: str) -> None:
        work, cells = self.plan.work, self.plan.cells
        faces, numbers = self.plan.faces(group, ["photo_id", "embedding"])
        photo = pc.dictionary_encode(faces["photo_id"].combine_chunks()).indices.to_numpy()
        if len(numbers):
            stored = stored_vectors(faces["embedding"])
            visited = cells.visited_by(unit_rows(stored))
            for number, block in enumerate(self.plan.blocks):
                inside = visited * self.plan.n_blocks // len(cells.centroids) == number
                rows = np.flatnonzero(inside.any(axis=1))
                if len(rows):
                    work.write(
                        f"visitors/{block}",
                        group,
                        numbers=numbers[rows],
                        stored=stored[rows],
                        visited=np.where(inside[rows], visited[rows], -1),
                    )
            lowest = np.full(photo.max() + 1, np.iinfo(np.int64).max)
            np.minimum.at(lowest, photo, numbers)
            constrained, repeated = constrained_photos(lowest[photo], stored)
            k = self.plan.options.n_neighbors
            near, found = nearest_in(work.read("cells", "cells")["queries"], stored, numbers, k)
        else:
            constrained, repeated, near, found = (np.empty((0, 0)) for _ in range(4))
        work.write(
            "partition",
            group,
            photos=constrained,
            repeated=repeated,
            near=near,
            found=found,
        )


@dataclass(frozen=True)
class SearchBlock:
    """Finds the neighbours of the faces that live in a block's cells, among its visitors."""

    plan: Plan

    def __call__(self, block: str) -> None:
        work, cells, options = self.plan.work, self.plan.cells, self.plan.options
        max_distance = self.plan.distances.max_distance
        shards = work.names(f"visitors/{block}")
        edges = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
        if shards:
            visitors = work.together(f"visitors/{block}", shards)
            order = np.argsort(visitors["numbers"])
            numbers, visited = visitors["numbers"][order], visitors["visited"][order]
            stored = visitors.pop("stored")
            for cell in np.unique(visited[visited >= 0]):
                here = np.flatnonzero((visited == cell).any(axis=1))
                residents = np.flatnonzero(visited[here, 0] == cell)
                row, hit, distance = search_cell(
                    residents, stored[order[here]], cells, options.n_neighbors, max_distance
                )
                edges.append((numbers[here[residents[row]]], numbers[here[hit]], distance))
        faces, ids, distances = (np.concatenate(part) for part in zip(*edges, strict=True))
        work.write("neighbors", block, faces=faces, ids=ids, distances=distances)


def _gather_core_distances(plan: Plan, n: int) -> None:
    """Of all faces; and each face's first copy, and the edges of the faces that recall looks at."""
    core = np.full(n, np.inf, np.float32)
    first = np.arange(n)
    looked_at = []
    for block in plan.blocks:
        found = plan.work.read("neighbors", block)
        faces, local = np.unique(found["faces"], return_inverse=True)
        neighbors = by_face(len(faces), local, found["ids"], found["distances"])
        core[faces] = core_distances(neighbors, plan.options.min_samples)
        copies = found["distances"] == 0
        first[found["faces"][copies]] = found["ids"][copies]
        touches = (found["faces"] < RECALL_FACES) | (found["ids"] < RECALL_FACES)
        looked_at.append({name: found[name][touches] for name in found})
    seen = {name: np.concatenate([part[name] for part in looked_at]) for name in looked_at[0]}
    plan.work.write("core", "core", core=core, first=first, **seen)


@dataclass(frozen=True)
class ForestOfBlock:
    """The minimum spanning forest of the edges of a block's faces."""

    plan: Plan

    def __call__(self, block: str) -> None:
        found = self.plan.work.read("neighbors", block)
        core = self.plan.work.read("core", "core")["core"]
        forest = minimum_spanning_forest(
            mutual_reachability(
                found["faces"],
                found["ids"],
                found["distances"],
                core,
                self.plan.options.min_distance,
                self.plan.distances.max_distance,
            )
        )
        self.plan.work.write("forests", block, i=forest.i, j=forest.j, weight=forest.weight)

    def read(self, block: str) -> Edges:
        return Edges(**self.plan.work.read("forests", block))

    def write(self, forest: Edges) -> None:
        self.plan.work.write("forest", "all", i=forest.i, j=forest.j, weight=forest.weight)


def _combine(plan: Plan, beam_arguments: Sequence[str]) -> None:
    execution = choose_execution(beam_arguments, 0)
    forests = ForestOfBlock(plan)
    pipeline = beam.Pipeline(execution.runner, execution.options)
    _ = (
        pipeline
        | "Blocks" >> beam.Create(plan.blocks)
        | "Read forests" >> beam.Map(forests.read)
        | "Combine" >> beam.CombineGlobally(CombineForests(plan.worker_bytes // ROOM // EDGE_BYTES))
        | "Write forest" >> beam.Map(forests.write)
    )
    pipeline.run().wait_until_finish()


def _label(plan: Plan, n: int) -> None:
    """Labels of all faces and names of all people, from the forest."""
    seen = plan.work.read("core", "core")
    forest = Edges(**plan.work.read("forest", "all"))
    photos, repeated = np.empty(n, np.int64), np.zeros(n, bool)
    groups = [group for group, size in plan.sizes.items() if size]
    nearest = []
    for group in groups:
        numbers = plan.work.read("numbers", group)["numbers"]
        numbers = numbers[numbers >= 0]
        if len(numbers):
            part = plan.work.read("partition", group)
            photos[numbers], repeated[numbers] = part["photos"], part["repeated"]
            nearest.append((part["near"], part["found"]))

    def embeddings() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for group in groups:
            faces, numbers = plan.faces(group, ["embedding"])
            if len(numbers):
                yield numbers, stored_vectors(faces["embedding"])

    distances, options = plan.distances, plan.options
    labels = group_forest(forest, seen["first"], photos, embeddings, distances, options)
    found = 1.0
    if not plan.cells.miss_nothing and nearest:
        edges = (seen[name] for name in ("faces", "ids", "distances", "first"))
        found = share_found(nearest, *edges, options.n_neighbors, distances.max_distance)
    diagnostics = {
        "max_distance": round(distances.max_distance, 4),
        "recall": round(found, 4),
        **components_of(forest, n),
    }
    names = _names(plan, labels.labels, n)
    for group in plan.groups:
        numbers = plan.work.read("numbers", group)["numbers"]
        numbers = numbers[numbers >= 0]
        plan.work.write(
            "labels",
            group,
            labels=labels.labels[numbers],
            probabilities=labels.probabilities[numbers],
            repeated=repeated[numbers],
        )
    for part, (low, high) in zip(plan.parts, _label_ranges(plan, len(names)), strict=True):
        plan.work.write("names", part, names=np.array(names[low:high].to_pylist(), dtype=np.str_))
    plan.work.write(
        "grouped", "grouped",
        diagnostics=np.frombuffer(json.dumps(diagnostics).encode(), np.uint8),
        n_people=np.array(len(names)),
    )  # fmt: skip


def _label_ranges(plan: Plan, n_people: int) -> list[tuple[int, int]]:
    at = [part * n_people // plan.n_parts for part in range(plan.n_parts + 1)]
    return list(itertools.pairwise(at))


def _names(plan: Plan, labels: np.ndarray, n: int) -> pa.Array:
    """Person ids: those of an earlier grouping where they fit."""
    before: dict[str, str] = {}
    if plan.run.exists("assignments"):
        table = plan.run.read("assignments", ["face_id", "person_id"])
        table = table.filter(pc.is_valid(table["person_id"]))
        before = dict(
            zip(table["face_id"].to_pylist(), table["person_id"].to_pylist(), strict=True)
        )
    # Names need few of the ids: those of each label's first face, and of faces that had a person.
    people, firsts = np.unique(labels, return_index=True)
    wanted = np.zeros(n, bool)
    wanted[firsts[people != NOISE]] = True
    ids: list[str | None] = [None] * n
    for group in plan.groups:
        faces, numbers = plan.faces(group, ["face_id"])
        for number, face_id in zip(numbers.tolist(), faces["face_id"].to_pylist(), strict=True):
            if wanted[number] or face_id in before:
                ids[number] = face_id
    previous = pa.array([before.get(face_id) for face_id in ids], pa.string())
    return name_people(labels, pa.array(ids, pa.string()), previous, set(before.values()))


@dataclass(frozen=True)
class SortByPerson:
    """Sorts some faces into the parts of the tables that their people are in."""

    plan: Plan

    def __call__(self, group: str) -> None:
        work = self.plan.work
        columns = ["face_id", "photo_id", "embedding", *FILTER_COLUMNS]
        rows, numbers = self.plan.rows(group, columns)
        self._sort_left_out(group, rows.filter(pa.array(numbers == LEFT_OUT)))
        faces, numbers = _to_group(rows, numbers)
        given = work.read("labels", group)
        n_people = int(work.read("grouped", "grouped")["n_people"])
        ends = np.array([high for _, high in _label_ranges(self.plan, n_people)])
        part_of = np.searchsorted(ends, given["labels"], side="right")
        # Nobody's faces go anywhere, evenly.
        part_of = np.where(given["labels"] == NOISE, numbers % self.plan.n_parts, part_of)
        for number, part in enumerate(self.plan.parts):
            rows = np.flatnonzero(part_of == number)
            if len(rows):
                here = faces.take(pa.array(rows))
                work.write(
                    f"rows/{part}",
                    group,
                    numbers=numbers[rows],
                    stored=stored_vectors(here["embedding"]),
                    face_ids=np.array(here["face_id"].to_pylist(), np.str_),
                    photo_ids=np.array(here["photo_id"].to_pylist(), np.str_),
                    **{name: values[rows] for name, values in given.items()},
                )
        work.write("by_person", group)

    def _sort_left_out(self, group: str, faces: pa.Table) -> None:
        """Faces that were not grouped go anywhere, evenly: their ids begin with a hash."""
        columns = {
            "face_ids": faces["face_id"],
            "photo_ids": faces["photo_id"],
            "reasons": left_out(faces, self.plan.options),
        }
        arrays = {name: np.array(values.to_pylist(), np.str_) for name, values in columns.items()}
        part_of = _keys(faces["face_id"])["low"] % self.plan.n_parts
        for number in np.unique(part_of):
            here = {name: values[part_of == number] for name, values in arrays.items()}
            self.plan.work.write(f"left_out/{self.plan.parts[number]}", group, **here)


@dataclass(frozen=True)
class WritePart:
    """Writes the rows of some people in people, and of their faces in assignments."""

    plan: Plan

    def __call__(self, part: str) -> None:
        work = self.plan.work
        shards = work.names(f"rows/{part}")
        rows = work.together(f"rows/{part}", shards) if shards else NO_ROWS
        order = np.argsort(rows["numbers"])
        rows = {name: values[order] for name, values in rows.items()}
        n_people = int(work.read("grouped", "grouped")["n_people"])
        low, _ = _label_ranges(self.plan, n_people)[self.plan.parts.index(part)]
        labels = np.where(rows["labels"] == NOISE, NOISE, rows["labels"] - low)
        people, assignments = people_tables(
            Labels(labels, rows["probabilities"]),
            rows["stored"],
            pa.array(rows["face_ids"].tolist(), pa.string()),
            pa.array(rows["photo_ids"].tolist(), pa.string()),
            rows["repeated"],
            pa.array(work.read("names", part)["names"].tolist(), pa.string()),
        )
        assignments = self._with_left_out(part, assignments)
        for table, content in (("people", people), ("assignments", assignments)):
            write_table(work.path("tables", table, f"{part}.parquet"), content)
        said = summary_of(people, assignments)
        work.write("tables", part, said=np.frombuffer(json.dumps(said).encode(), np.uint8))

    def _with_left_out(self, part: str, assignments: pa.Table) -> pa.Table:
        groups = self.plan.work.names(f"left_out/{part}")
        if not groups:
            return assignments
        rows = self.plan.work.together(f"left_out/{part}", groups)
        ids = {f"{name}_id": pa.array(rows[f"{name}_ids"].tolist()) for name in ("face", "photo")}
        return with_left_out(assignments, pa.table(ids), pa.array(rows["reasons"].tolist()))


def _totals(plan: Plan) -> dict[str, Any]:
    """Counts and diagnostics of all parts together."""
    parts = plan.work.read_all("tables", plan.parts)
    said = [json.loads(part["said"].tobytes()) for part in parts]
    whole = together(said)
    grouped = plan.work.read("grouped", "grouped")
    whole["diagnostics"] |= json.loads(grouped["diagnostics"].tobytes())
    return whole


def _sentence(error: BaseException) -> str:
    """What went wrong, of an error whose text may hold the tracebacks of a worker's."""
    text = re.sub(r"\[while running '[^']*'\]", "", str(error))
    between = re.split(r"^  .*$", text, flags=re.MULTILINE)  # a traceback's frames are indented
    said = [" ".join(part.split()) for part in between if part.strip()]
    return said[-1] if said else type(error).__name__
