"""The tasks of grouping on workers: each reads some files and writes one (WritePart: three).

group_on_workers.py runs them, in the order in which they stand here.
"""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facecluster.pipeline.distributed.face_keys import face_keys
from facecluster.pipeline.distributed.task_layout import (
    LEFT_OUT,
    SearchSetup,
    TaskLayout,
    select_grouped,
)
from facecluster.transforms.grouping.cannot_links import find_cannot_links
from facecluster.transforms.grouping.edges import (
    LONELY_BELOW,
    NeighborGraph,
    count_neighbors,
    find_filled_lists,
    make_neighbor_graph,
    neighbor_lists,
    replace_lists,
    similarity_at_impostors,
    weigh_edges,
)
from facecluster.transforms.grouping.face_filter import FILTER_COLUMNS, find_left_out_reasons
from facecluster.transforms.grouping.group_faces import find_twin_edges
from facecluster.transforms.grouping.hdbscan_labels import NOISE, Labels
from facecluster.transforms.grouping.merge_groups import Flows, sum_flows
from facecluster.transforms.grouping.neighbors import search_cell
from facecluster.transforms.grouping.recall import RECALL_FACES, find_nearest
from facecluster.transforms.grouping.spanning_forest import Edges, minimum_spanning_forest
from facecluster.transforms.people.summary import summarize_people
from facecluster.transforms.people.tables import add_left_out_faces, make_people_tables
from facecluster.transforms.similarity.shots import find_one_shot_pairs
from facecluster.transforms.tables.codec import stored_vectors, unit_rows
from facecluster.transforms.tables.parquet_files import write_table

NO_PROBING = {
    "numbers": np.empty(0, np.int64),
    "vectors": np.empty((0, 1), np.float16),
    "scores": np.empty(0, np.float32),
    "probed": np.empty((0, 1), np.int32),
    "home": np.empty(0, np.int64),
    "originals": np.empty(0, np.int64),
}
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
            "faces", ["face_id", *FILTER_COLUMNS], self.layout.groups[group]
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
    """Normalizes a group's faces and writes them into the blocks of the cells that they probe.

    A face's home is the block of the cell that it is assigned to. Also writes what can be computed
    from a face and its photo alone: its cannot-links, and which of these faces are nearest to the
    faces whose recall is measured.
    """

    layout: TaskLayout

    def __call__(self, group: str) -> None:
        work, setup = self.layout.work, self.layout.read_setup()
        cells = setup.cells
        faces, numbers = self.layout.read_faces(group, ["photo_id", "embedding"])
        photo = pc.dictionary_encode(faces["photo_id"].combine_chunks()).indices.to_numpy()
        if len(numbers):
            vectors, scores = setup.normalization.apply(stored_vectors(faces["embedding"]))
            probed = cells.probed_by(unit_rows(vectors))
            originals = _number_ids(self.layout.run.find_originals(faces["photo_id"]))
            block_of = probed.astype(np.int64) * self.layout.n_blocks // len(cells.centroids)
            for number, block in enumerate(self.layout.blocks):
                in_block = block_of == number
                rows = np.flatnonzero(in_block.any(axis=1))
                if len(rows):
                    work.write(
                        f"probing/{block}",
                        group,
                        numbers=numbers[rows],
                        vectors=vectors[rows],
                        scores=scores[rows],
                        probed=np.where(in_block[rows], probed[rows], -1),
                        home=block_of[rows, 0],
                        originals=originals[rows],
                    )
            # A photo is identified by the lowest number of its faces.
            lowest = np.full(photo.max() + 1, np.iinfo(np.int64).max)
            np.minimum.at(lowest, photo, numbers)
            impostors = setup.normalization.impostors
            links = find_cannot_links(lowest[photo], vectors, scores, impostors)
            k = self.layout.options.n_neighbors
            in_collage = faces["photo_id"].filter(pa.array(np.isin(numbers, links.collages)))
            near, found = find_nearest(setup.queries, vectors, numbers, k)
            work.write("vectors", group, vectors=vectors)
            work.write(
                "links",
                group,
                scores=scores,
                photos=lowest[photo],
                originals=originals,
                linked=numbers[links.faces],
                linked_photos=links.photos,
                repeated=links.repeated,
                appearances=numbers[links.appearances],
                collages=links.collages,
                collage_photos=np.array(in_collage.to_pylist(), np.str_),
                near=near,
                found=found,
            )
        work.write("partition", group)


def _number_ids(photo_ids: pa.Array) -> np.ndarray:
    """(n,) int64: a number for each photo id, the same in every task: its first 15 digits."""
    encoded = photo_ids.dictionary_encode()
    numbers = [int(name[:15], 16) for name in encoded.dictionary.to_pylist()]
    return np.array(numbers, np.int64)[encoded.indices.to_numpy()]


@dataclass(frozen=True)
class SearchBlock:
    """Finds the neighbors of the faces assigned to a block's cells, among those that probe them.

    Writes their graph and, as `neighbors`, the few edges that the launching process needs.
    """

    layout: TaskLayout

    def __call__(self, block: str) -> None:
        work, setup = self.layout.work, self.layout.read_setup()
        probing = read_probing(self.layout, block)
        numbers, scores = probing["numbers"], probing["scores"]
        every = np.ones(len(numbers), bool)
        # Positions among the probing faces, whose order is that of the numbers.
        faces, ids, distances, cut = search_block(self.layout, setup, probing, every, every)
        graph = make_neighbor_graph(faces, ids, distances, scores[faces], scores[ids], setup.lowest)
        twins = find_twin_edges(graph, probing["originals"], setup.normalization.impostors)
        graph = NeighborGraph(numbers[graph.faces], numbers[graph.ids], graph.similarity)
        work.write("found", block, cut=numbers[cut], **vars(graph))
        work.write("homes", block, numbers=numbers, home=probing["home"])
        faces, ids = numbers[faces], numbers[ids]
        is_measured = (faces < RECALL_FACES) | (ids < RECALL_FACES)
        same_person = setup.normalization.same_person
        near_faces, near_ids = find_one_shot_pairs(faces, ids, distances, same_person)
        work.write(
            "neighbors",
            block,
            near_faces=near_faces,
            near_ids=near_ids,
            twin_faces=numbers[twins[0]],
            twin_ids=numbers[twins[1]],
            twin_similarity=twins[2],
            measured_faces=faces[is_measured],
            measured_ids=ids[is_measured],
        )


def read_probing(layout: TaskLayout, block: str) -> dict[str, np.ndarray]:
    """The faces that probe the block, in the order of their numbers."""
    groups = layout.work.names(f"probing/{block}")
    if not groups:
        return NO_PROBING
    probing = layout.work.read_concatenated(f"probing/{block}", groups)
    order = np.argsort(probing["numbers"])
    return {name: values[order] for name, values in probing.items()}


def search_block(
    layout: TaskLayout,
    setup: SearchSetup,
    probing: dict[str, np.ndarray],
    searching: np.ndarray,
    among: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Finds the neighbors of some of a block's faces.

    Args:
      layout, setup: of the grouping.
      probing: as `read_probing` gives them, v faces.
      searching, among: (v,) bool, the faces whose neighbors are searched, and those that may be
        neighbors.

    Returns:
      (faces, ids, distances, cut): the edges, as positions among the probing faces, by face; and
      the faces whose lists are full.
    """
    k, probed = layout.options.n_neighbors, probing["probed"]
    edges = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    cut = [np.empty(0, np.int64)]
    for cell in np.unique(probed[searching & (probed[:, 0] >= 0), 0]):
        faces = np.flatnonzero((probed == cell).any(axis=1) & among)
        # A face is assigned to the first cell that it probes.
        assigned = np.flatnonzero((probed[faces, 0] == cell) & searching[faces])
        row, hit, distances, is_cut = search_cell(
            assigned, probing["vectors"][faces], setup.cells, k, setup.max_distance
        )
        edges.append((faces[assigned[row]], faces[hit], distances))
        cut.append(faces[assigned[is_cut]])
    faces, ids, distances = (np.concatenate(part) for part in zip(*edges, strict=True))
    order = np.argsort(faces, kind="stable")
    return faces[order], ids[order], distances[order], np.concatenate(cut)


@dataclass(frozen=True)
class ContractBlock:
    """Keeps one face of each shot in a block's graph, and fills the lists that this empties.

    Writes the graph; to each other block, which of its faces are neighbors here; and, as
    `contract`, what the launching process needs.
    """

    layout: TaskLayout

    def __call__(self, block: str) -> None:
        work, setup = self.layout.work, self.layout.read_setup()
        shots, found = self.layout.read_shots(), work.read("found", block)
        is_first, is_cut = shots == np.arange(setup.n), np.zeros(setup.n, bool)
        is_cut[found.pop("cut")] = True
        graph = NeighborGraph(**found)
        again = find_filled_lists(graph, is_cut, is_first)
        graph = graph.part(is_first[graph.faces] & is_first[graph.ids])
        near = np.empty(0, np.int64), np.empty(0, np.int64)
        if len(again):
            filled, near = self._search_again(block, setup, again, is_first)
            graph = replace_lists(graph, again, filled)
        self._write_wanted(block, graph)
        work.write("graph", block, **vars(graph))
        n_shots = int(np.count_nonzero(is_first))
        lonely = similarity_at_impostors(LONELY_BELOW, n_shots, setup.normalization.impostors)
        work.write(
            "contract",
            block,
            near_faces=near[0],
            near_ids=near[1],
            n_not_lonely=np.array(len(np.unique(graph.faces[graph.similarity > lonely]))),
        )

    def _search_again(
        self, block: str, setup: SearchSetup, again: np.ndarray, is_first: np.ndarray
    ) -> tuple[NeighborGraph, tuple[np.ndarray, np.ndarray]]:
        """The neighbors of some faces among first faces, and those of them of one shot."""
        probing = read_probing(self.layout, block)
        numbers, scores = probing["numbers"], probing["scores"]
        searching = np.isin(numbers, again)
        faces, ids, distances, _ = search_block(
            self.layout, setup, probing, searching, is_first[numbers]
        )
        graph = make_neighbor_graph(faces, ids, distances, scores[faces], scores[ids], setup.lowest)
        graph = NeighborGraph(numbers[graph.faces], numbers[graph.ids], graph.similarity)
        same_person = setup.normalization.same_person
        near = find_one_shot_pairs(numbers[faces], numbers[ids], distances, same_person)
        return graph, near

    def _write_wanted(self, block: str, graph: NeighborGraph) -> None:
        """Asks other blocks for the lists of their faces that are neighbors of this block's.

        With each face goes the similarity of its most similar neighbor here: how similar faces have
        to be for their lists to be compared is known when all blocks have been searched.
        """
        homes = self.layout.work.read("homes", block)
        order = np.lexsort((-graph.similarity, graph.ids))
        order = order[np.diff(graph.ids[order], prepend=-1) != 0]
        ids, similarity = graph.ids[order], graph.similarity[order]
        home = homes["home"][np.searchsorted(homes["numbers"], ids)]
        for number, other in enumerate(self.layout.blocks):
            rows = np.flatnonzero(home == number)
            if len(rows) and other != block:
                self.layout.work.write(
                    f"wanted/{other}", block, ids=ids[rows], similarity=similarity[rows]
                )


@dataclass(frozen=True)
class SendLists:
    """Writes the neighbor lists of a block's faces to the blocks that compare them with theirs."""

    layout: TaskLayout

    def __call__(self, block: str) -> None:
        work, lowest = self.layout.work, self.layout.read_limits().lowest
        graph = self.layout.read_graph(block)
        for other in work.names(f"wanted/{block}"):
            wanted = work.read(f"wanted/{block}", other)
            entries = _entries_of(wanted["ids"][wanted["similarity"] > lowest], graph.faces)
            if len(entries):
                work.write(f"received/{other}", block, **vars(graph.part(entries)))
        work.write("lists", block)


def _entries_of(faces: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The positions of some faces in (m,) sorted faces."""
    start, stop = np.searchsorted(rows, faces), np.searchsorted(rows, faces, side="right")
    size = stop - start
    return np.repeat(start - np.cumsum(size) + size, size) + np.arange(size.sum())


@dataclass(frozen=True)
class BuildForest:
    """Builds the minimum spanning forest of the edges of a block's faces."""

    layout: TaskLayout

    def __call__(self, block: str) -> None:
        work, setup = self.layout.work, self.layout.read_setup()
        limits = self.layout.read_limits()
        own = self.layout.read_graph(block)
        received = work.read_all(f"received/{block}", work.names(f"received/{block}"))
        parts = [own, *(NeighborGraph(**part) for part in received)]
        faces, local = _number_locally(
            NeighborGraph(
                *(
                    np.concatenate([getattr(part, name) for part in parts])
                    for name in ("faces", "ids", "similarity")
                )
            )
        )
        n = len(faces)
        every = np.arange(n)
        edges = weigh_edges(
            local.part(slice(len(own.faces))),
            neighbor_lists(local.faces, every, local, setup.lowest, n),
            every,
            count_neighbors(local, n, limits.lowest),
            limits,
            setup.normalization,
        )
        forest = minimum_spanning_forest(Edges(faces[edges.i], faces[edges.j], edges.weight))
        work.write("forests", block, **vars(forest))

    def read(self, block: str) -> Edges:
        return Edges(**self.layout.work.read("forests", block))

    def write_combined(self, forest: Edges) -> None:
        self.layout.work.write("forest", "all", **vars(forest))


def _number_locally(graph: NeighborGraph) -> tuple[np.ndarray, NeighborGraph]:
    """The faces of a part of the graph, sorted, and the part with positions among them."""
    faces, local = np.unique(np.concatenate([graph.faces, graph.ids]), return_inverse=True)
    m = len(graph.faces)
    return faces, NeighborGraph(local[:m], local[m:], graph.similarity)


@dataclass(frozen=True)
class SumBlockFlows:
    """Sums how much of the neighbor lists of a block's faces lies in each group."""

    layout: TaskLayout

    def __call__(self, block: str) -> None:
        work, lowest = self.layout.work, self.layout.read_setup().lowest
        faces, local = _number_locally(self.layout.read_graph(block))
        groups = work.read("groups", "groups")["groups"][faces]
        present, group = np.unique(groups, return_inverse=True)
        flows = sum_flows(local, lowest, group)
        work.write(
            "flows",
            block,
            source=present[flows.source],
            target=present[flows.target],
            weight=flows.weight,
            present=present,
            total=flows.total,
        )

    def read(self, block: str, n_groups: int) -> Flows:
        file = self.layout.work.read("flows", block)
        total = np.zeros(n_groups)
        total[file["present"]] = file["total"]
        return Flows(file["source"], file["target"], file["weight"], total)


@dataclass(frozen=True)
class SortByPerson:
    """Writes a group's faces into the parts of the tables that their people are in."""

    layout: TaskLayout

    def __call__(self, group: str) -> None:
        work = self.layout.work
        columns = ["face_id", "photo_id", *FILTER_COLUMNS]
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
        names = work.read("names", part)
        people, assignments = make_people_tables(
            Labels(labels, rows["probabilities"]),
            rows["stored"],
            pa.array(rows["face_ids"].tolist(), pa.string()),
            pa.array(rows["photo_ids"].tolist(), pa.string()),
            rows["repeated"],
            pa.array(names["names"].tolist(), pa.string()),
            names["n_photos"],
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
