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
from facecluster.pipeline.distributed.partition import COPY, LEFT_OUT, Fitted, Plan, make_plan
from facecluster.pipeline.distributed.tasks import (
    ForestOfBlock,
    PartitionFaces,
    SampleFaces,
    SearchBlock,
    SortByPerson,
    WritePart,
)
from facecluster.pipeline.distributed.work_folder import run_steps, run_tasks
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.grouping.chance import SAMPLE_FACES
from facecluster.transforms.grouping.grouping import diagnostics_of, distances_for, group_forest
from facecluster.transforms.grouping.hdbscan_labels import NOISE
from facecluster.transforms.grouping.neighbors import by_face, fit_cells, training_size
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.grouping.recall import RECALL_FACES, share_found
from facecluster.transforms.grouping.spanning_forest import CombineForests, Edges, core_distances
from facecluster.transforms.people.checks import together
from facecluster.transforms.people.names import name_people
from facecluster.transforms.tables.codec import stored_vectors, unit_rows


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
      JobError: Beam failed, or what it ran did.
      TableError: a table is damaged, or models are mixed.
      UsageError: Beam's options make no sense.
    """
    plan = make_plan(run, options, worker_memory << 20)
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
    fitted = plan.fitted()
    n = fitted.n
    progress(f"sorting {n:,} faces into {len(fitted.cells.centroids):,} cells")
    on_workers("partition", PartitionFaces(plan), list(plan.groups))
    progress(f"finding neighbours of {n:,} faces")
    on_workers("neighbors", SearchBlock(plan), plan.blocks)
    if not plan.work.names("core"):
        _gather_core_distances(plan, n)
    progress(f"joining {n:,} faces to a forest")
    on_workers("forests", ForestOfBlock(plan), plan.blocks)
    with _told("forest"):
        _combine(plan, beam_arguments)
    progress(f"grouping {n:,} faces")
    if not plan.work.names("grouped"):
        _label(plan, fitted)
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
    except UsageError:
        raise
    except Exception as error:
        raise JobError(f"{doing}: {error_line(error)}") from error


def _sample_size(n: int) -> int:
    return max(training_size(n), SAMPLE_FACES, RECALL_FACES)


def _sample_share(n: int) -> float:
    """The share of faces to look at: twice what is needed, since half may be there twice."""
    wanted = _sample_size(n)
    return min(1.0, 2 * (wanted + 6 * math.sqrt(wanted)) / max(n, 1))


def _number(plan: Plan) -> tuple[int, float]:
    """Numbers the faces to group in the order of their ids, each once.

    Returns:
      How many they are, and the share of all ids that has a sample of them, were a few more taken.
    """
    files = plan.work.read_all("sample", list(plan.groups))
    keys = np.concatenate([file["keys"] for file in files])
    grouped = np.concatenate([file["grouped"] for file in files])
    order = np.lexsort((keys["index"], keys["low"], keys["high"]))
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
    queries = unit_rows(stored[: min(RECALL_FACES, n)])
    plan.write_fitted(Fitted(n, cells, distances, queries))


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
        looked_at.append((found["faces"][touches], found["ids"][touches]))
    faces, ids = (np.concatenate(ends) for ends in zip(*looked_at, strict=True))
    plan.work.write("core", "core", core=core, first=first, faces=faces, ids=ids)


def _combine(plan: Plan, beam_arguments: Sequence[str]) -> None:
    forests = ForestOfBlock(plan)
    combine = CombineForests(plan.edges_at_once)

    def build(pipeline: beam.Pipeline, _: list[str]) -> None:
        _ = (
            pipeline
            | "Blocks" >> beam.Create(plan.blocks)
            | "Read forests" >> beam.Map(forests.read)
            | "Combine" >> beam.CombineGlobally(combine)
            | "Write forest" >> beam.Map(forests.write)
        )

    run_steps(plan.work, "forest", build, ["all"], beam_arguments)


def _label(plan: Plan, fitted: Fitted) -> None:
    """Labels of all faces and names of all people, from the forest."""
    n, distances, options = fitted.n, fitted.distances, plan.options
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

    labels = group_forest(forest, seen["first"], photos, embeddings, distances, options)
    found = 1.0
    if not fitted.cells.miss_nothing and nearest:
        edges = (seen[name] for name in ("faces", "ids", "first"))
        found = share_found(nearest, *edges, options.n_neighbors, distances.max_distance)
    diagnostics = diagnostics_of(distances, found, forest, n)
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
    for part, (low, high) in zip(plan.parts, plan.label_ranges(len(names)), strict=True):
        plan.work.write("names", part, names=np.array(names[low:high].to_pylist(), dtype=np.str_))
    plan.work.write(
        "grouped", "grouped",
        diagnostics=np.array(json.dumps(diagnostics)),
        n_people=np.array(len(names)),
    )  # fmt: skip


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


def _totals(plan: Plan) -> dict[str, Any]:
    """Counts and diagnostics of all parts together."""
    parts = plan.work.read_all("tables", plan.parts)
    said = [json.loads(part["said"].item()) for part in parts]
    whole = together(said)
    grouped = plan.work.read("grouped", "grouped")
    whole["diagnostics"] |= json.loads(grouped["diagnostics"].item())
    return whole
