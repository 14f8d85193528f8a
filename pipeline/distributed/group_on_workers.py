"""Groups a run's faces on Beam's workers, none of which ever holds the whole collection.

The functions are those of grouping in memory, applied to files. Each task reads some files and
writes one under its own name; it is skipped if that file exists, so a killed job continues where it
was.

    sample      GROUP   keys of some shards' faces; some embeddings       -> numbers, search setup
    partition   GROUP   the faces that probe each block of cells
    neighbors   BLOCK   the neighbors of the faces assigned to its cells  -> core distances
    forests     BLOCK   the spanning forest of its edges                  -> one forest, labels
    by_person   GROUP   the faces, by the part of the tables they are in
    tables      PART    the rows of some people, and of their faces

The launching process holds a few numbers per face, the forest and HDBSCAN's tree over it.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facecluster.errors import JobError, UsageError
from facecluster.pipeline.beam.run import error_line
from facecluster.pipeline.distributed.face_keys import face_keys, keys_as_binary
from facecluster.pipeline.distributed.task_layout import (
    DUPLICATE,
    LEFT_OUT,
    SearchSetup,
    TaskLayout,
    make_task_layout,
)
from facecluster.pipeline.distributed.task_runner import TaskRunner
from facecluster.pipeline.distributed.tasks import (
    BuildForest,
    PartitionFaces,
    SampleFaces,
    SearchBlock,
    SortByPerson,
    WritePart,
)
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.grouping.chance_distance import SAMPLE_FACES
from facecluster.transforms.grouping.group_faces import (
    choose_distance_limits,
    label_forest,
    make_diagnostics,
)
from facecluster.transforms.grouping.hdbscan_labels import NOISE
from facecluster.transforms.grouping.neighbors import (
    fit_cells,
    neighbors_from_edges,
    training_size,
)
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.grouping.recall import RECALL_FACES, recall_of_edges
from facecluster.transforms.grouping.spanning_forest import CombineForests, Edges, core_distances
from facecluster.transforms.people.names import name_people
from facecluster.transforms.people.summary import combine_summaries
from facecluster.transforms.tables.codec import stored_vectors, unit_rows
from facecluster.transforms.tables.files import list_files
from facecluster.transforms.tables.parquet_files import read_table


def group_on_workers(
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
      progress: called with a short description of the current step.

    Returns:
      counts and diagnostics for the manifest.

    Raises:
      JobError: Beam or a task failed.
      TableError: a table is damaged, or mixes models.
      UsageError: Beam's options are invalid.
    """
    layout = make_task_layout(run, options, worker_memory << 20)
    n_rows = sum(layout.sizes.values())
    runner = TaskRunner(layout.work, beam_arguments, n_rows)

    def run_tasks(kind: str, task: Callable[[str], None], names: Sequence[str]) -> None:
        with _errors_of(kind):
            runner.run_tasks(kind, task, names)

    progress(f"reading {n_rows:,} faces")
    fraction = _sample_fraction(n_rows)
    run_tasks("sample", SampleFaces(layout, "sample", fraction), list(layout.groups))
    if not layout.work.names("setup"):
        n, needed = _number_faces(layout)
        kind = "sample"
        if needed > fraction:
            kind = "resample"
            run_tasks(kind, SampleFaces(layout, kind, needed), list(layout.groups))
        _write_setup(layout, n, kind)
    setup = layout.read_setup()
    n = setup.n
    progress(f"sorting {n:,} faces into {len(setup.cells.centroids):,} cells")
    run_tasks("partition", PartitionFaces(layout), list(layout.groups))
    progress(f"finding neighbors of {n:,} faces")
    run_tasks("neighbors", SearchBlock(layout), layout.blocks)
    if not layout.work.names("core"):
        _write_core_distances(layout, n)
    progress(f"joining {n:,} faces in a forest")
    run_tasks("forests", BuildForest(layout), layout.blocks)
    with _errors_of("forest"):
        _combine_forests(layout, runner)
    progress(f"grouping {n:,} faces")
    if not layout.work.names("grouped"):
        _write_labels(layout, setup)
    progress(f"writing people of {n:,} faces")
    run_tasks("by_person", SortByPerson(layout), list(layout.groups))
    run_tasks("tables", WritePart(layout), layout.parts)
    summary = _read_summary(layout)
    for table in ("assignments", "people"):
        names = [f"{part}.parquet" for part in layout.parts]
        run.take_parts(table, layout.work.path("tables", table), names)
    layout.work.remove()
    return summary


@contextlib.contextmanager
def _errors_of(step: str) -> Iterator[None]:
    """Turns the errors of a pipeline into a JobError of one line."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise JobError(f"{step}: {error_line(error)}") from error


def _sample_size(n: int) -> int:
    return max(training_size(n), SAMPLE_FACES, RECALL_FACES)


def _sample_fraction(n: int) -> float:
    """The fraction of rows to sample: twice what is needed, as half may be duplicates."""
    needed = _sample_size(n)
    return min(1.0, 2 * (needed + 6 * math.sqrt(needed)) / max(n, 1))


def _number_faces(layout: TaskLayout) -> tuple[int, float]:
    """Numbers the distinct faces to group in the order of their ids.

    Returns:
      (n, fraction): their number, and the fraction of all rows that yields a sample of the right
      size, with a small margin.
    """
    files = layout.work.read_all("sample", list(layout.groups))
    keys = np.concatenate([file["keys"] for file in files])
    grouped = np.concatenate([file["grouped"] for file in files])
    order = np.lexsort((keys["index"], keys["low"], keys["high"]))
    is_first = np.ones(len(keys), bool)
    is_first[1:] = keys[order][1:] != keys[order][:-1]
    distinct = order[is_first]
    numbers = np.full(len(keys), DUPLICATE)
    numbers[distinct] = LEFT_OUT
    distinct = distinct[grouped[distinct]]
    n = len(distinct)
    numbers[distinct] = np.arange(n)
    start = 0
    for group, size in layout.sizes.items():
        layout.work.write("numbers", group, numbers=numbers[start : start + size])
        start += size
    last = keys["high"][distinct[: _sample_size(n)][-1:]]
    return n, min(1.0, (float(last[0]) + 4096) / 2.0**64) if n else 0.0


def _write_setup(layout: TaskLayout, n: int, kind: str) -> None:
    """Fits cells and distance limits for n faces to the sample of this kind."""
    files = layout.work.read_all(kind, list(layout.groups))
    sampled = np.concatenate([file["sampled"] for file in files])
    _, distinct = np.unique(sampled, return_index=True)  # by key, as the faces are numbered
    stored = np.concatenate([file["stored"] for file in files])[distinct]
    cells = fit_cells(stored[: training_size(n)], n, layout.options.probes)
    limits = choose_distance_limits(stored[:SAMPLE_FACES], n, layout.options)
    queries = unit_rows(stored[: min(RECALL_FACES, n)])
    layout.write_setup(SearchSetup(n, cells, limits, queries))


def _write_core_distances(layout: TaskLayout, n: int) -> None:
    """Collects what labeling needs of the neighbor graph.

    The core distance of each face, the first face with an equal vector, and the edges of the faces
    whose recall is measured.
    """
    core = np.full(n, np.inf, np.float32)
    first_equal = np.arange(n)
    recall_edges = []
    for block in layout.blocks:
        graph = layout.work.read("neighbors", block)
        faces, rows = np.unique(graph["faces"], return_inverse=True)
        neighbors = neighbors_from_edges(len(faces), rows, graph["ids"], graph["distances"])
        core[faces] = core_distances(neighbors, layout.options.min_samples)
        is_equal = graph["distances"] == 0
        first_equal[graph["faces"][is_equal]] = graph["ids"][is_equal]
        touches = (graph["faces"] < RECALL_FACES) | (graph["ids"] < RECALL_FACES)
        recall_edges.append((graph["faces"][touches], graph["ids"][touches]))
    faces, ids = (np.concatenate(ends) for ends in zip(*recall_edges, strict=True))
    layout.work.write("core", "core", core=core, first_equal=first_equal, faces=faces, ids=ids)


def _combine_forests(layout: TaskLayout, runner: TaskRunner) -> None:
    forests = BuildForest(layout)
    combine = CombineForests(layout.max_edges)

    def build(pipeline: beam.Pipeline, _missing: list[str], _n_threads: int) -> None:
        _ = (
            pipeline
            | "Blocks" >> beam.Create(layout.blocks)
            | "Read forests" >> beam.Map(forests.read)
            | "Combine" >> beam.CombineGlobally(combine)
            | "Write forest" >> beam.Map(forests.write_combined)
        )

    runner.run_pipeline("forest", build, ["all"])


def _write_labels(layout: TaskLayout, setup: SearchSetup) -> None:
    """Labels all faces and names all people, from the forest."""
    n, limits, options = setup.n, setup.limits, layout.options
    graph = layout.work.read("core", "core")
    forest = Edges(**layout.work.read("forest", "all"))
    photos, repeated = np.empty(n, np.int64), np.zeros(n, bool)
    groups = [group for group, size in layout.sizes.items() if size]
    nearest = []
    for group in groups:
        numbers = layout.read_numbers(group)
        numbers = numbers[numbers >= 0]
        if len(numbers):
            part = layout.work.read("partition", group)
            photos[numbers], repeated[numbers] = part["photos"], part["repeated"]
            nearest.append((part["near"], part["found"]))

    def embeddings() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for group in groups:
            faces, numbers = layout.read_faces(group, ["embedding"])
            if len(numbers):
                yield numbers, stored_vectors(faces["embedding"])

    labels = label_forest(forest, graph["first_equal"], photos, embeddings, limits, options)
    recall = 1.0
    if not setup.cells.is_exact and nearest:
        faces, ids, first_equal = (graph[name] for name in ("faces", "ids", "first_equal"))
        recall = recall_of_edges(
            nearest, faces, ids, first_equal, options.n_neighbors, limits.max_distance
        )
    diagnostics = make_diagnostics(limits, recall, forest, n)
    names = _name_people(layout, labels.labels)
    for group in layout.groups:
        numbers = layout.read_numbers(group)
        numbers = numbers[numbers >= 0]
        layout.work.write(
            "labels",
            group,
            labels=labels.labels[numbers],
            probabilities=labels.probabilities[numbers],
            repeated=repeated[numbers],
        )
    for part, (low, high) in zip(layout.parts, layout.label_ranges(len(names)), strict=True):
        layout.work.write("names", part, names=np.array(names[low:high].to_pylist(), dtype=np.str_))
    layout.work.write(
        "grouped", "grouped",
        diagnostics=np.array(json.dumps(diagnostics)),
        n_people=np.array(len(names)),
    )  # fmt: skip


def _name_people(layout: TaskLayout, labels: np.ndarray) -> pa.Array:
    """The person id of each label; ids of an earlier grouping are kept where they fit."""
    people, firsts = np.unique(labels, return_index=True)
    first_ids = _read_face_ids(layout, firsts[people != NOISE], len(labels))
    if layout.run.exists("assignments"):
        previous = _read_previous_people(layout, len(labels))
    else:
        previous = pa.nulls(len(labels), pa.string())
    return name_people(labels, first_ids, previous)


def _read_face_ids(layout: TaskLayout, wanted: np.ndarray, n: int) -> pa.Array:
    """(n,) string: the ids of the faces with the numbers `wanted`, null for all others."""
    is_wanted = np.zeros(n, bool)
    is_wanted[wanted] = True
    ids, position, n_found = [pa.array([], pa.string())], np.full(n, -1), 0
    for group in layout.groups:
        faces, numbers = layout.read_faces(group, ["face_id"])
        found = is_wanted[numbers]
        position[numbers[found]] = n_found + np.arange(np.count_nonzero(found))
        ids += faces["face_id"].filter(pa.array(found)).chunks
        n_found += np.count_nonzero(found)
    return pa.concat_arrays(ids).take(pa.array(position, mask=position < 0))


def _read_previous_people(layout: TaskLayout, n: int) -> pa.DictionaryArray:
    """(n,) dictionary-encoded string: the person that each face had, null for none."""
    earlier_keys, earlier_people = [], []
    for path in list_files(layout.run.path("assignments")):  # one at a time: ids are long
        table, _ = read_table([path], ["face_id", "person_id"])
        table = table.filter(pc.is_valid(table["person_id"]))
        earlier_keys.append(face_keys(table["face_id"]))
        earlier_people += table["person_id"].dictionary_encode().chunks
    keys = np.empty(n, earlier_keys[0].dtype)
    for group in layout.groups:
        numbers = layout.read_numbers(group)
        is_grouped = numbers >= 0
        keys[numbers[is_grouped]] = layout.work.read("sample", group)["keys"][is_grouped]
    earlier = keys_as_binary(np.concatenate(earlier_keys))
    rows = pc.index_in(keys_as_binary(keys), value_set=earlier)
    encoded = pa.chunked_array(earlier_people, pa.dictionary(pa.int32(), pa.string()))
    return encoded.unify_dictionaries().combine_chunks().take(rows)


def _read_summary(layout: TaskLayout) -> dict[str, Any]:
    """The counts and diagnostics of all parts."""
    parts = layout.work.read_all("tables", layout.parts)
    summary = combine_summaries([json.loads(part["summary"].item()) for part in parts])
    grouped = layout.work.read("grouped", "grouped")
    summary["diagnostics"] |= json.loads(grouped["diagnostics"].item())
    return summary
