"""The tasks of grouping on workers: each reads some files and writes one (WritePart: three).

What calls them, and in which order, is told in distributed_grouping.py.
"""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facecluster.pipeline.distributed.partition import LEFT_OUT, Plan, to_group
from facecluster.transforms.grouping.face_filter import FILTER_COLUMNS, left_out
from facecluster.transforms.grouping.hdbscan_labels import NOISE, Labels
from facecluster.transforms.grouping.neighbors import search_cell
from facecluster.transforms.grouping.recall import nearest_in
from facecluster.transforms.grouping.same_photo import constrained_photos
from facecluster.transforms.grouping.spanning_forest import (
    Edges,
    minimum_spanning_forest,
    mutual_reachability,
)
from facecluster.transforms.people.checks import summary_of
from facecluster.transforms.people.tables import people_tables, with_left_out
from facecluster.transforms.tables.codec import stored_vectors, unit_rows
from facecluster.transforms.tables.parquet_files import write_table

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


@dataclass(frozen=True)
class PartitionFaces:
    """Sorts some faces into the blocks of the cells that they visit.

    What a face does not need others for is written beside: the photo that keeps it apart
    from others, and which of these faces are nearest to the first of all.
    """

    plan: Plan

    def __call__(self, group: str) -> None:
        work, fitted = self.plan.work, self.plan.fitted()
        cells = fitted.cells
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
            near, found = nearest_in(fitted.queries, stored, numbers, k)
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
        work, fitted = self.plan.work, self.plan.fitted()
        k, max_distance = self.plan.options.n_neighbors, fitted.distances.max_distance
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
                    residents, stored[order[here]], fitted.cells, k, max_distance
                )
                edges.append((numbers[here[residents[row]]], numbers[here[hit]], distance))
        faces, ids, distances = (np.concatenate(part) for part in zip(*edges, strict=True))
        work.write("neighbors", block, faces=faces, ids=ids, distances=distances)


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
                self.plan.fitted().distances.max_distance,
            )
        )
        self.plan.work.write("forests", block, i=forest.i, j=forest.j, weight=forest.weight)

    def read(self, block: str) -> Edges:
        return Edges(**self.plan.work.read("forests", block))

    def write(self, forest: Edges) -> None:
        self.plan.work.write("forest", "all", i=forest.i, j=forest.j, weight=forest.weight)


@dataclass(frozen=True)
class SortByPerson:
    """Sorts some faces into the parts of the tables that their people are in."""

    plan: Plan

    def __call__(self, group: str) -> None:
        work = self.plan.work
        columns = ["face_id", "photo_id", "embedding", *FILTER_COLUMNS]
        rows, numbers = self.plan.rows(group, columns)
        self._sort_left_out(group, rows.filter(pa.array(numbers == LEFT_OUT)))
        faces, numbers = to_group(rows, numbers)
        given = work.read("labels", group)
        n_people = int(work.read("grouped", "grouped")["n_people"])
        ends = np.array([high for _, high in self.plan.label_ranges(n_people)])
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
        low, _ = self.plan.label_ranges(n_people)[self.plan.parts.index(part)]
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
        work.write("tables", part, said=np.array(json.dumps(said)))

    def _with_left_out(self, part: str, assignments: pa.Table) -> pa.Table:
        groups = self.plan.work.names(f"left_out/{part}")
        if not groups:
            return assignments
        rows = self.plan.work.together(f"left_out/{part}", groups)
        ids = {f"{name}_id": pa.array(rows[f"{name}_ids"].tolist()) for name in ("face", "photo")}
        return with_left_out(assignments, pa.table(ids), pa.array(rows["reasons"].tolist()))
