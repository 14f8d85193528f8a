"""The tasks of grouping on workers: each reads some files and writes one (WritePart: three).

group_on_workers.py runs them, in the order in which they stand here.
"""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facecluster.pipeline.distributed.face_keys import face_keys
from facecluster.pipeline.distributed.task_layout import LEFT_OUT, TaskLayout, select_grouped
from facecluster.transforms.grouping.cannot_links import find_cannot_links
from facecluster.transforms.grouping.face_filter import FILTER_COLUMNS, find_left_out_reasons
from facecluster.transforms.grouping.hdbscan_labels import NOISE, Labels
from facecluster.transforms.grouping.neighbors import search_cell
from facecluster.transforms.grouping.recall import find_nearest
from facecluster.transforms.grouping.spanning_forest import (
    Edges,
    minimum_spanning_forest,
    mutual_reachability,
)
from facecluster.transforms.people.summary import summarize_people
from facecluster.transforms.people.tables import add_left_out_faces, make_people_tables
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


@dataclass(frozen=True)
class SampleFaces:
    """Writes the keys of a group's faces, and the embeddings of those with the lowest keys.

    A face id begins with a SHA-256, so the faces with the lowest ids are a random sample, and the
    same sample however the collection is divided into shards.
    """

    layout: TaskLayout
    kind: str
    fraction: float

    def __call__(self, group: str) -> None:
        faces, _ = self.layout.run.read_shards(
            "faces", ["face_id", "embedding", *FILTER_COLUMNS], self.layout.groups[group]
        )
        keys = face_keys(faces["face_id"])
        reasons = find_left_out_reasons(faces, self.layout.options)
        grouped = reasons.is_null().to_numpy(zero_copy_only=False)
        # The largest float64 below 2^64 is 2^64 - 2048.
        limit = np.uint64(min(self.fraction * 2.0**64, 2.0**64 - 2048))
        sampled = grouped & (keys["high"] <= limit)
        self.layout.work.write(
            self.kind,
            group,
            keys=keys,
            grouped=grouped,
            sampled=keys[sampled],
            stored=stored_vectors(faces["embedding"])[sampled],
        )


@dataclass(frozen=True)
class PartitionFaces:
    """Writes a group's faces into the blocks of the cells that they probe.

    Also writes what can be computed from a face and its photo alone: its cannot-links, and which of
    these faces are nearest to the faces whose recall is measured.
    """

    layout: TaskLayout

    def __call__(self, group: str) -> None:
        work, setup = self.layout.work, self.layout.read_setup()
        cells = setup.cells
        faces, numbers = self.layout.read_faces(group, ["photo_id", "embedding"])
        photo = pc.dictionary_encode(faces["photo_id"].combine_chunks()).indices.to_numpy()
        if len(numbers):
            stored = stored_vectors(faces["embedding"])
            probed = cells.probed_by(unit_rows(stored))
            for number, block in enumerate(self.layout.blocks):
                in_block = probed * self.layout.n_blocks // len(cells.centroids) == number
                rows = np.flatnonzero(in_block.any(axis=1))
                if len(rows):
                    work.write(
                        f"probing/{block}",
                        group,
                        numbers=numbers[rows],
                        stored=stored[rows],
                        probed=np.where(in_block[rows], probed[rows], -1),
                    )
            # A photo is identified by the lowest number of its faces.
            lowest = np.full(photo.max() + 1, np.iinfo(np.int64).max)
            np.minimum.at(lowest, photo, numbers)
            constrained, repeated = find_cannot_links(lowest[photo], stored)
            k = self.layout.options.n_neighbors
            near, found = find_nearest(setup.queries, stored, numbers, k)
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
    """Finds the neighbors of the faces assigned to a block's cells, among those that probe them."""

    layout: TaskLayout

    def __call__(self, block: str) -> None:
        work, setup = self.layout.work, self.layout.read_setup()
        k, max_distance = self.layout.options.n_neighbors, setup.limits.max_distance
        groups = work.names(f"probing/{block}")
        edges = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
        if groups:
            probing = work.read_concatenated(f"probing/{block}", groups)
            order = np.argsort(probing["numbers"])
            numbers, probed = probing["numbers"][order], probing["probed"][order]
            stored = probing.pop("stored")
            for cell in np.unique(probed[probed >= 0]):
                faces = np.flatnonzero((probed == cell).any(axis=1))
                # A face is assigned to the first cell that it probes.
                assigned = np.flatnonzero(probed[faces, 0] == cell)
                row, hit, distance = search_cell(
                    assigned, stored[order[faces]], setup.cells, k, max_distance
                )
                edges.append((numbers[faces[assigned[row]]], numbers[faces[hit]], distance))
        faces, ids, distances = (np.concatenate(part) for part in zip(*edges, strict=True))
        work.write("neighbors", block, faces=faces, ids=ids, distances=distances)


@dataclass(frozen=True)
class BuildForest:
    """Builds the minimum spanning forest of the edges of a block's faces."""

    layout: TaskLayout

    def __call__(self, block: str) -> None:
        graph = self.layout.work.read("neighbors", block)
        core = self.layout.work.read("core", "core")["core"]
        forest = minimum_spanning_forest(
            mutual_reachability(
                graph["faces"],
                graph["ids"],
                graph["distances"],
                core,
                self.layout.options.min_distance,
                self.layout.read_setup().limits.max_distance,
            )
        )
        self.layout.work.write("forests", block, i=forest.i, j=forest.j, weight=forest.weight)

    def read(self, block: str) -> Edges:
        return Edges(**self.layout.work.read("forests", block))

    def write_combined(self, forest: Edges) -> None:
        self.layout.work.write("forest", "all", i=forest.i, j=forest.j, weight=forest.weight)


@dataclass(frozen=True)
class SortByPerson:
    """Writes a group's faces into the parts of the tables that their people are in."""

    layout: TaskLayout

    def __call__(self, group: str) -> None:
        work = self.layout.work
        columns = ["face_id", "photo_id", "embedding", *FILTER_COLUMNS]
        table, numbers = self.layout.read_rows(group, columns)
        self._sort_left_out(group, table.filter(pa.array(numbers == LEFT_OUT)))
        faces, numbers = select_grouped(table, numbers)
        labels = work.read("labels", group)
        n_people = int(work.read("grouped", "grouped")["n_people"])
        ends = np.array([high for _, high in self.layout.label_ranges(n_people)])
        part_of = np.searchsorted(ends, labels["labels"], side="right")
        # Unassigned faces are spread evenly.
        is_noise = labels["labels"] == NOISE
        part_of = np.where(is_noise, numbers % self.layout.n_parts, part_of)
        for number, part in enumerate(self.layout.parts):
            rows = np.flatnonzero(part_of == number)
            if len(rows):
                in_part = faces.take(pa.array(rows))
                work.write(
                    f"rows/{part}",
                    group,
                    numbers=numbers[rows],
                    stored=stored_vectors(in_part["embedding"]),
                    face_ids=np.array(in_part["face_id"].to_pylist(), np.str_),
                    photo_ids=np.array(in_part["photo_id"].to_pylist(), np.str_),
                    **{name: values[rows] for name, values in labels.items()},
                )
        work.write("by_person", group)

    def _sort_left_out(self, group: str, faces: pa.Table) -> None:
        """Spreads the faces that were not grouped evenly: their ids begin with a hash."""
        columns = {
            "face_ids": faces["face_id"],
            "photo_ids": faces["photo_id"],
            "reasons": find_left_out_reasons(faces, self.layout.options),
        }
        arrays = {name: np.array(values.to_pylist(), np.str_) for name, values in columns.items()}
        part_of = face_keys(faces["face_id"])["low"] % self.layout.n_parts
        for number in np.unique(part_of):
            rows = {name: values[part_of == number] for name, values in arrays.items()}
            self.layout.work.write(f"left_out/{self.layout.parts[number]}", group, **rows)


@dataclass(frozen=True)
class WritePart:
    """Writes a part of the people table, and the part of the assignments that has their faces."""

    layout: TaskLayout

    def __call__(self, part: str) -> None:
        work = self.layout.work
        groups = work.names(f"rows/{part}")
        rows = work.read_concatenated(f"rows/{part}", groups) if groups else NO_ROWS
        order = np.argsort(rows["numbers"])
        rows = {name: values[order] for name, values in rows.items()}
        n_people = int(work.read("grouped", "grouped")["n_people"])
        low, _ = self.layout.label_ranges(n_people)[self.layout.parts.index(part)]
        labels = np.where(rows["labels"] == NOISE, NOISE, rows["labels"] - low)
        people, assignments = make_people_tables(
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
        summary = summarize_people(people, assignments)
        work.write("tables", part, summary=np.array(json.dumps(summary)))

    def _with_left_out(self, part: str, assignments: pa.Table) -> pa.Table:
        groups = self.layout.work.names(f"left_out/{part}")
        if not groups:
            return assignments
        rows = self.layout.work.read_concatenated(f"left_out/{part}", groups)
        ids = {f"{name}_id": pa.array(rows[f"{name}_ids"].tolist()) for name in ("face", "photo")}
        return add_left_out_faces(assignments, pa.table(ids), pa.array(rows["reasons"].tolist()))
