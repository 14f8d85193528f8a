"""Groups a run's faces on Beam's workers, none of which ever holds the whole collection.

The functions are those of grouping in memory, applied to files. Each task reads some files and
writes one under its own name; it is skipped if that file exists, so a killed job continues where it
was.

    sample      GROUP   keys of some shards' faces; some embeddings       -> numbers, search setup
    partition   GROUP   the normalized faces that probe each block of cells
    neighbors   BLOCK   the neighbors of the faces assigned to its cells  -> shots
    contract    BLOCK   its graph, with one face of each shot             -> limits
    lists       BLOCK   the neighbor lists that other blocks need
    forests     BLOCK   the spanning forest of its weighed edges          -> one forest, groups
    flows       BLOCK   the weight of its lists between groups            -> people
    by_person   GROUP   the faces, by the part of the tables they are in
    tables      PART    the rows of some people, and of their faces

The launching process holds a few numbers per face, the forest, HDBSCAN's tree over it, and the
flows between groups.
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
    ContractBlock,
    PartitionFaces,
    SampleFaces,
    SearchBlock,
    SendLists,
    SortByPerson,
    SumBlockFlows,
    WritePart,
)
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.grouping.cannot_links import CannotLinks
from facecluster.transforms.grouping.edges import choose_edge_limits
from facecluster.transforms.grouping.group_faces import (
    Stopwatch,
    choose_search_distance,
    label_forest,
    label_people,
    make_diagnostics,
)
from facecluster.transforms.grouping.hdbscan_labels import NOISE
from facecluster.transforms.grouping.merge_groups import combine_flows
from facecluster.transforms.grouping.neighbors import fit_cells, training_size
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.grouping.recall import RECALL_FACES, recall_of_edges
from facecluster.transforms.grouping.spanning_forest import CombineForests, Edges
from facecluster.transforms.people.names import name_people
from facecluster.transforms.people.summary import MOST_NAMED, combine_summaries
from facecluster.transforms.similarity.normalization import SAMPLE_FACES, fit_normalization
from facecluster.transforms.similarity.shots import (
    Shots,
    first_of_shots,
    join_pairs,
    match_near_duplicates,
)
from facecluster.transforms.tables.codec import unit_rows
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
    runner = TaskRunner(layout.work, beam_arguments, n_rows, worker_memory << 20)
    watch = Stopwatch()

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
    watch.lap("normalization")
    progress(f"finding neighbors of {n:,} faces")
    run_tasks("neighbors", SearchBlock(layout), layout.blocks)
    if not layout.work.names("shots"):
        _write_shots(layout, setup)
    run_tasks("contract", ContractBlock(layout), layout.blocks)
    watch.lap("neighbors")
    if not layout.work.names("limits"):
        _write_limits(layout, setup)
    progress(f"joining {n:,} faces in a forest")
    run_tasks("lists", SendLists(layout), layout.blocks)
    run_tasks("forests", BuildForest(layout), layout.blocks)
    with _errors_of("forest"):
        _combine_forests(layout, runner)
    watch.lap("forest")
    progress(f"grouping {n:,} faces")
    if not layout.work.names("groups"):
        links = _read_links(layout, n)[0].of_shots(layout.read_shots())
        groups, apart = label_forest(_read_forest(layout), n, links, options)
        layout.work.write("groups", "groups", groups=groups, apart=apart)
    run_tasks("flows", SumBlockFlows(layout), layout.blocks)
    if not layout.work.names("grouped"):
        _write_labels(layout, setup)
    watch.lap("people")
    progress(f"writing people of {n:,} faces")
    run_tasks("by_person", SortByPerson(layout), list(layout.groups))
    run_tasks("tables", WritePart(layout), layout.parts)
    summary = _read_summary(layout)
    summary["diagnostics"]["seconds"] = watch.seconds
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
    """Fits the normalization and cells for n faces to the sample of this kind."""
    files = layout.work.read_all(kind, list(layout.groups))
    sampled = np.concatenate([file["sampled"] for file in files])
    _, distinct = np.unique(sampled, return_index=True)  # by key, as the faces are numbered
    stored = np.concatenate([file["stored"] for file in files])[distinct]
    normalization = fit_normalization(stored[:SAMPLE_FACES], layout.run.read_cohort())
    vectors, _ = normalization.apply(stored)
    cells = fit_cells(vectors[: training_size(n)], n, layout.options.probes)
    max_distance = choose_search_distance(normalization, n)
    queries = unit_rows(vectors[: min(RECALL_FACES, n)])
    layout.write_setup(SearchSetup(n, normalization, cells, max_distance, queries))


def _write_shots(layout: TaskLayout, setup: SearchSetup) -> None:
    """Collects what grouping needs of all blocks' neighbors.

    As `shots`, the first face of each face's shot; as `pairs`, the pairs of faces of one shot; and
    as `measured`, the edges of the faces whose recall is measured.
    """
    parts = [layout.work.read("neighbors", block) for block in layout.blocks]
    edges = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    photos = np.empty(setup.n, np.int64)
    for group, numbers in _read_numbers(layout):
        photos[numbers] = layout.work.read("links", group)["photos"]
    twins = match_near_duplicates(
        edges["twin_faces"], edges["twin_ids"], edges["twin_similarity"], photos
    )
    pairs = join_pairs([(edges["near_faces"], edges["near_ids"]), twins])
    layout.work.write("pairs", "pairs", faces=pairs[0], ids=pairs[1])
    layout.work.write(
        "measured", "measured", faces=edges["measured_faces"], ids=edges["measured_ids"]
    )
    layout.work.write("shots", "shots", shots=first_of_shots(*pairs, setup.n))


def _write_limits(layout: TaskLayout, setup: SearchSetup) -> None:
    """Chooses the limits of the edges."""
    n_shots = len(np.unique(layout.read_shots()))
    parts = [layout.work.read("contract", block) for block in layout.blocks]
    n_lonely = n_shots - sum(int(part["n_not_lonely"]) for part in parts)
    wrong_share = layout.options.wrong_share
    layout.write_limits(choose_edge_limits(n_shots, n_lonely, setup.normalization, wrong_share))


def _read_shots(layout: TaskLayout, photos: np.ndarray, originals: np.ndarray) -> Shots:
    """The shots of all faces.

    Args:
      photos, originals: (n,) int64, see `group_faces`.
    """
    first, n = layout.read_shots(), len(photos)
    pairs = layout.work.read("pairs", "pairs")
    more = [layout.work.read("contract", block) for block in layout.blocks]
    more = [(part["near_faces"], part["near_ids"]) for part in more]
    seen = first_of_shots(*join_pairs([(pairs["faces"], pairs["ids"]), *more]), n)
    return Shots(first, seen, photos, originals)


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


def _read_forest(layout: TaskLayout) -> Edges:
    return Edges(**layout.work.read("forest", "all"))


def _read_numbers(layout: TaskLayout) -> Iterator[tuple[str, np.ndarray]]:
    """The groups with faces to group, and the numbers of these."""
    for group, size in layout.sizes.items():
        if size:
            numbers = layout.read_numbers(group)
            numbers = numbers[numbers >= 0]
            if len(numbers):
                yield group, numbers


def _read_links(layout: TaskLayout, n: int) -> tuple[CannotLinks, dict[str, np.ndarray]]:
    """The cannot-links of all faces; and their cohort scores, photos and originals, (n,) each."""
    columns = {
        "repeated": np.empty(n, bool),
        "appearances": np.empty(n, np.int64),
        "scores": np.empty(n, np.float32),
        "photos": np.empty(n, np.int64),
        "originals": np.empty(n, np.int64),
    }
    lists = {name: [np.empty(0, np.int64)] for name in ("linked", "linked_photos", "collages")}
    for group, numbers in _read_numbers(layout):
        part = layout.work.read("links", group)
        for name, values in columns.items():
            values[numbers] = part[name]
        for name, values in lists.items():
            values.append(part[name])
    faces, photos, collages = map(np.concatenate, lists.values())
    repeated, appearances = columns.pop("repeated"), columns.pop("appearances")
    return CannotLinks(faces, photos, repeated, appearances, np.sort(collages)), columns


def _collage_photos(layout: TaskLayout) -> list[str]:
    """The ids of the first photos that look like collages."""
    parts = (layout.work.read("links", group) for group, _ in _read_numbers(layout))
    return sorted(name for part in parts for name in part["collage_photos"].tolist())[:MOST_NAMED]


def _write_labels(layout: TaskLayout, setup: SearchSetup) -> None:
    """Labels all faces and names all people, from the groups."""
    n, limits, options = setup.n, layout.read_limits(), layout.options
    links, faces = _read_links(layout, n)
    shots = _read_shots(layout, faces["photos"], faces["originals"])
    links = links.of_shots(shots.first)
    forest = _read_forest(layout)
    groups, apart = (layout.work.read("groups", "groups")[name] for name in ("groups", "apart"))
    n_groups = int(groups.max(initial=-1)) + 1
    parts = (SumBlockFlows(layout).read(block, n_groups) for block in layout.blocks)

    def vectors() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for group, numbers in _read_numbers(layout):
            yield numbers, layout.work.read("vectors", group)["vectors"]

    people = label_people(
        groups,
        apart,
        combine_flows(parts, groups),
        shots,
        links,
        vectors,
        faces["scores"],
        setup.normalization,
        limits,
        options,
    )
    recall = 1.0
    if n and not setup.cells.is_exact:
        measured = layout.work.read("measured", "measured")
        nearest = (layout.work.read("links", group) for group, _ in _read_numbers(layout))
        recall = recall_of_edges(
            ((part["near"], part["found"]) for part in nearest),
            measured["faces"],
            measured["ids"],
            shots.first,
            options.n_neighbors,
            setup.max_distance,
        )
    diagnostics = make_diagnostics(
        setup.normalization, limits, links, people, recall, forest, shots.first
    )
    labels = people.labels
    diagnostics["collage_photos"] = _collage_photos(layout)
    names = _name_people(layout, labels.labels)
    for group in layout.groups:
        numbers = layout.read_numbers(group)
        numbers = numbers[numbers >= 0]
        layout.work.write(
            "labels",
            group,
            labels=labels.labels[numbers],
            probabilities=labels.probabilities[numbers],
            repeated=links.repeated[numbers],
        )
    for part, (low, high) in zip(layout.parts, layout.label_ranges(len(names)), strict=True):
        layout.work.write(
            "names",
            part,
            names=np.array(names[low:high].to_pylist(), dtype=np.str_),
            n_photos=people.n_photos[low:high],
        )
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
