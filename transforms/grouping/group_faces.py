"""Groups embeddings into people, in memory; Beam's workers share the steps from the forest on."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from facecluster.transforms.grouping.cannot_links import (
    NO_PHOTO,
    CannotLinks,
    apply_cannot_links,
    find_cannot_links,
)
from facecluster.transforms.grouping.edges import (
    LARGEST_DISTANCE,
    LONELY_BELOW,
    EdgeLimits,
    NeighborGraph,
    choose_edge_limits,
    count_neighbors,
    end_of_lists,
    make_neighbor_graph,
    neighbor_lists,
    similarity_at_impostors,
    weigh_edges,
)
from facecluster.transforms.grouping.hdbscan_labels import (
    NOISE,
    Labels,
    forest_labels,
    separate_noise,
)
from facecluster.transforms.grouping.merge_groups import (
    Flows,
    Vectors,
    combine_flows,
    merge_groups,
    sum_flows,
)
from facecluster.transforms.grouping.neighbors import (
    EXACT_UP_TO,
    first_equal_faces,
    fit_cells,
    nearest_neighbors,
    training_size,
)
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.grouping.probabilities import assignment_probabilities
from facecluster.transforms.grouping.recall import measure_recall
from facecluster.transforms.grouping.spanning_forest import (
    NO_EDGES,
    CombineForests,
    Edges,
    component_labels,
)
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.similarity.normalization import (
    SAMPLE_FACES,
    Normalization,
    fit_normalization,
)
from facecluster.transforms.tables.codec import find_usable, row_slices

# Entries of the neighbor graph handled at a time.
ENTRIES_PER_STEP = 20_000_000
# A face with a low cohort score has neighbors at larger distances than others. The search reaches
# far enough for all but this fraction of the faces.
LOW_SCORES = 0.25
# Two photos nearer than this are one shot: a burst, a copy, another size. The fraction of
# `same_person` that is missing from a cosine of 1.
ONE_SHOT = 0.11


@dataclass(frozen=True, eq=False)
class Grouping:
    """The people of n faces.

    Attributes:
      labels: the person of each face.
      repeated: (n,) bool, faces that repeat another face in their photo or are repeated in it.
      collages: (m,) int64, the photos that look like collages, ascending.
      diagnostics: how it went, as plain numbers.
    """

    labels: Labels
    repeated: np.ndarray
    collages: np.ndarray
    diagnostics: dict[str, Any]


def group_faces(
    stored: np.ndarray,
    photos: np.ndarray,
    options: ClusterOptions,
    cohort: Cohort | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Grouping:
    """Groups faces in memory.

    Args:
      stored: (n, d) embeddings of any numeric type, vectors of any length above 0. Their order must
        not depend on who they show, because the first faces are used as a random sample of the
        collection; the order of face ids is such an order. A vector of zeros, NaN or inf is noise
        and does not affect others.
      photos: (n,) int64, the photo that each face is in.
      options: how faces become people.
      cohort: of the embedding space, if there is one.
      progress: called with a short description of the current step.
    """
    usable = np.flatnonzero(find_usable(stored))
    if len(usable) < len(stored):
        found = group_faces(stored[usable], photos[usable], options, cohort, progress)
        return _expand(found, usable, len(stored))
    n = len(stored)
    watch = Stopwatch()
    progress(f"normalizing {n:,} faces")
    normalization = fit_normalization(stored[:SAMPLE_FACES], cohort)
    vectors, scores = normalization.apply(stored)
    watch.lap("normalization")
    exact_up_to = EXACT_UP_TO if options.probes else n
    cells = fit_cells(vectors[: training_size(n)], n, options.probes, exact_up_to)
    max_distance = choose_search_distance(normalization, scores[:SAMPLE_FACES], n)
    neighbors = nearest_neighbors(
        vectors,
        cells,
        options.n_neighbors,
        max_distance,
        in_tenths(lambda done: progress(f"finding neighbors of {n:,} faces: {done:.0%}")),
    )
    watch.lap("neighbors")
    progress(f"grouping {n:,} faces")
    recall = 1.0
    if n and not cells.is_exact:
        recall = measure_recall(neighbors, vectors, options.n_neighbors, max_distance)
    first_equal = first_equal_faces(neighbors)
    faces, ids, distances = neighbors.rows(), neighbors.ids, neighbors.distances
    shots = label_shots(faces, ids, distances, normalization, n)
    lowest = end_of_lists(n, normalization.impostors)
    graph = make_neighbor_graph(faces, ids, distances, scores[faces], scores[ids], lowest)
    del faces, ids, distances, neighbors
    lonely = similarity_at_impostors(LONELY_BELOW, n, normalization.impostors)
    n_lonely = n - np.count_nonzero(count_neighbors(graph, n, lonely))
    limits = choose_edge_limits(n, n_lonely, normalization, options.wrong_share)
    forest = _build_forest(graph, lowest, n, limits, normalization)
    watch.lap("forest")
    links = find_cannot_links(photos, vectors, scores, normalization.impostors)
    groups, apart = label_forest(forest, n, links, options)
    parts = (graph.part(s) for s in row_slices(len(graph.faces), ENTRIES_PER_STEP))
    flows = combine_flows((sum_flows(part, lowest, groups) for part in parts), groups)
    labels, n_apart = label_people(
        groups,
        apart,
        flows,
        shots,
        first_equal,
        links,
        lambda: ((s, vectors[s]) for s in row_slices(n)),
        scores,
        normalization,
        limits,
        options,
    )
    watch.lap("people")
    diagnostics = make_diagnostics(normalization, limits, links, n_apart, recall, forest, n)
    diagnostics["seconds"] = watch.seconds
    return Grouping(labels, links.repeated, links.collages, diagnostics)


def _expand(found: Grouping, faces: np.ndarray, n: int) -> Grouping:
    """The grouping of some of n faces as one of all, in which the others are noise."""
    labels, probabilities = np.full(n, NOISE, np.int64), np.zeros(n)
    repeated = np.zeros(n, bool)
    labels[faces], probabilities[faces] = found.labels.labels, found.labels.probabilities
    repeated[faces] = found.repeated
    return Grouping(Labels(labels, probabilities), repeated, found.collages, found.diagnostics)


class Stopwatch:
    """Seconds that the parts of a job took, in `seconds` by name."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - self._since, 1)
        self._since = now


def in_tenths(report: Callable[[float], None]) -> Callable[[float], None]:
    """Wraps `report` so that it is called only when the fraction done reaches another tenth."""
    reported = 0

    def report_tenth(fraction: float) -> None:
        nonlocal reported
        if int(fraction * 10) > reported:
            reported = int(fraction * 10)
            report(fraction)

    return report_tenth


def choose_search_distance(normalization: Normalization, scores: np.ndarray, n: int) -> float:
    """The Euclidean distance of normalized vectors within which neighbors of n faces are searched.

    Args:
      normalization: of the collection.
      scores: cohort scores of a random sample of the faces.
      n: number of faces.
    """
    lowest = end_of_lists(n, normalization.impostors)
    if len(scores):
        lowest += float(np.quantile(scores, LOW_SCORES))
    return float(np.sqrt(2 - 2 * np.clip(lowest, -1, 1)))


def one_shot_distance(normalization: Normalization) -> float:
    """The Euclidean distance of normalized vectors below which two photos are one shot."""
    return float(np.sqrt(2 * ONE_SHOT * normalization.same_person))


def label_shots(
    faces: np.ndarray,
    ids: np.ndarray,
    distances: np.ndarray,
    normalization: Normalization,
    n: int,
) -> np.ndarray:
    """(n,) int32: the shot that each of n faces is from.

    Args:
      faces, ids, distances: (m,) the edges of the neighbor graph, or of all that may be one shot.
    """
    near = distances < one_shot_distance(normalization)
    return component_labels(Edges(faces[near], ids[near], distances[near]), n)


def _build_forest(
    graph: NeighborGraph,
    lowest: float,
    n: int,
    limits: EdgeLimits,
    normalization: Normalization,
) -> Edges:
    every = np.arange(n)
    lists = neighbor_lists(graph.faces, every, graph, lowest, n)
    counts = count_neighbors(graph, n, limits.lowest)
    forests = CombineForests(ENTRIES_PER_STEP)
    accumulator = forests.create_accumulator()
    for s in row_slices(len(graph.faces), ENTRIES_PER_STEP):
        edges = weigh_edges(graph.part(s), lists, every, counts, limits, normalization)
        accumulator = forests.add_input(accumulator, edges)
    return forests.extract_output(accumulator)


def label_forest(
    forest: Edges, n: int, links: CannotLinks, options: ClusterOptions
) -> tuple[np.ndarray, np.ndarray]:
    """HDBSCAN's clusters.

    Args:
      forest: over n faces, as `weigh_edges` weighs them.
      n: number of faces.
      links: the faces that cannot be linked.
      options: how faces become people.

    Returns:
      (groups, apart): (n,) int64, clusters from 0, a face that is in none is a cluster of its own;
      and (2, m) int64, pairs of faces that are not joined because of photos in common.
    """
    apart = NO_EDGES
    if not options.ignore_photos:
        forest, apart = apply_cannot_links(forest, links.photos)
    groups = separate_noise(forest_labels(forest, n, 2, LARGEST_DISTANCE)).labels
    return groups, np.stack([apart.i, apart.j])


def label_people(
    groups: np.ndarray,
    apart: np.ndarray,
    flows: Flows,
    shots: np.ndarray,
    first_equal: np.ndarray,
    links: CannotLinks,
    vectors: Vectors,
    scores: np.ndarray,
    normalization: Normalization,
    limits: EdgeLimits,
    options: ClusterOptions,
) -> tuple[Labels, int]:
    """Labels faces with people.

    Args:
      groups, apart: (n,) and (2, m) int64, as `label_forest` gives them.
      flows: between these groups.
      shots: (n,) the shot that each face is from.
      first_equal: (n,) int64, for each face the lowest-numbered face with an equal vector; only
        these have neighbors.
      links: the faces that cannot be linked.
      vectors: reads the normalized vectors.
      scores: (n,) float32, the cohort scores.
      normalization: of the collection.
      limits: of the collection.
      options: how faces become people.

    Returns:
      The labels, and how many pairs of people are kept apart by photos alone: faces of the two, or
      groups of them, would have been joined if they had no photos in common. An unassigned face is
      a person here.
    """
    photos = np.full(len(groups), NO_PHOTO) if options.ignore_photos else links.photos
    groups, refused = merge_groups(groups, flows, vectors, photos, normalization, limits)
    first_of_refused = np.unique(groups, return_index=True)
    refused = first_of_refused[1][np.searchsorted(first_of_refused[0], refused)]  # a face of each
    groups = np.unique(groups[first_equal], return_inverse=True)[1]
    group_of_shot = np.unique(np.stack([groups, shots]), axis=1)[0]
    is_person = np.bincount(group_of_shot) >= options.min_cluster_size
    number = np.where(is_person, np.cumsum(is_person) - 1, NOISE)
    labels = number[groups]
    pairs = np.sort(groups[np.concatenate([apart, refused], axis=1)], axis=0)
    pairs = pairs[:, pairs[0] != pairs[1]]
    probabilities = assignment_probabilities(labels, vectors, scores, normalization)
    return Labels(labels, probabilities), len(np.unique(pairs, axis=1).T)


def make_diagnostics(
    normalization: Normalization,
    limits: EdgeLimits,
    links: CannotLinks,
    n_apart: int,
    recall: float,
    forest: Edges,
    n: int,
) -> dict[str, Any]:
    """How the grouping of n faces went, as plain numbers.

    *components* counts the connected components of several faces.
    """
    sizes = np.bincount(component_labels(forest, n))
    return {
        "cohort": normalization.cohort is not None,
        "few_people": normalization.few_people,
        "impostor_median": round(normalization.impostors.median, 4),
        "impostor_width": round(normalization.impostors.width, 4),
        "singles": round(limits.singles, 4),
        "collages": len(links.collages),
        "kept_apart_by_photos": n_apart,
        "recall": round(recall, 4),
        "components": int((sizes > 1).sum()),
        "largest_component": int(sizes.max(initial=0)),
    }
