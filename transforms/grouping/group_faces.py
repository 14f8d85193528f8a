"""Groups embeddings into people, in memory; Beam's workers share the steps from the forest on."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from facecluster.transforms.grouping.cannot_links import (
    NO_PHOTO,
    apply_cannot_links,
    find_cannot_links,
)
from facecluster.transforms.grouping.chance_distance import SAMPLE_FACES, chance_distance
from facecluster.transforms.grouping.hdbscan_labels import (
    NOISE,
    Labels,
    forest_labels,
    separate_noise,
)
from facecluster.transforms.grouping.merge_clusters import Embeddings, merge_clusters
from facecluster.transforms.grouping.neighbors import (
    EXACT_UP_TO,
    first_equal_faces,
    fit_cells,
    nearest_neighbors,
    row_slices,
    training_size,
)
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.grouping.recall import measure_recall
from facecluster.transforms.grouping.spanning_forest import (
    CombineForests,
    Edges,
    component_labels,
    core_distances,
    mutual_reachability,
)
from facecluster.transforms.tables.codec import unit_rows

# Edges added to the forest at a time. People with many photos have far more of them.
EDGES_PER_STEP = 20_000_000


@dataclass(frozen=True)
class DistanceLimits:
    """The distances in ClusterOptions, reduced for the size of a collection."""

    max_distance: float
    merge_distance: float


@dataclass(frozen=True, eq=False)
class Grouping:
    """The people of n faces.

    Attributes:
      labels: the person of each face.
      repeated: (n,) bool, faces that repeat another face in their photo or are repeated in it.
      diagnostics: how it went, as plain numbers.
    """

    labels: Labels
    repeated: np.ndarray
    diagnostics: dict[str, Any]


def group_faces(
    stored: np.ndarray,
    photos: np.ndarray,
    options: ClusterOptions,
    progress: Callable[[str], None] = lambda message: None,
) -> Grouping:
    """Groups faces in memory.

    Args:
      stored: (n, d) embeddings of any numeric type, vectors of any length above 0. Their order must
        not depend on who they show, because the first faces are used as a random sample of the
        collection; the order of face ids is such an order.
      photos: (n,) int64, the photo that each face is in.
      options: how faces become people.
      progress: called with a short description of the current step.
    """
    n = len(stored)
    watch = Stopwatch()
    exact_up_to = EXACT_UP_TO if options.probes else n
    cells = fit_cells(stored[: training_size(n)], n, options.probes, exact_up_to)
    limits = choose_distance_limits(stored[:SAMPLE_FACES], n, options)
    neighbors = nearest_neighbors(
        stored,
        cells,
        options.n_neighbors,
        limits.max_distance,
        in_tenths(lambda done: progress(f"finding neighbors of {n:,} faces: {done:.0%}")),
    )
    watch.lap("neighbors")
    progress(f"grouping {n:,} faces")
    core = core_distances(neighbors, options.min_samples)
    rows, ids, distances = neighbors.rows(), neighbors.ids, neighbors.distances
    forests = CombineForests(EDGES_PER_STEP)
    accumulator = forests.create_accumulator()
    for s in row_slices(len(neighbors.ids), EDGES_PER_STEP):
        edges = mutual_reachability(
            rows[s], ids[s], distances[s], core, options.min_distance, limits.max_distance
        )
        accumulator = forests.add_input(accumulator, edges)
    forest = forests.extract_output(accumulator)
    del rows, ids, distances, accumulator
    watch.lap("forest")
    first_equal = first_equal_faces(neighbors)
    constrained, repeated = find_cannot_links(photos, stored)
    labels = label_forest(
        forest,
        first_equal,
        constrained,
        lambda: ((s, stored[s]) for s in row_slices(n)),
        limits,
        options,
    )
    watch.lap("people")
    recall = 1.0
    if n and not cells.is_exact:
        recall = measure_recall(neighbors, stored, options.n_neighbors, limits.max_distance)
    diagnostics = make_diagnostics(limits, recall, forest, n)
    watch.lap("checks")
    diagnostics["seconds"] = watch.seconds
    return Grouping(labels, repeated, diagnostics)


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


def choose_distance_limits(sample: np.ndarray, n: int, options: ClusterOptions) -> DistanceLimits:
    """The distance limits for n faces.

    Args:
      sample: (m, d) embeddings drawn at random.
      n: number of faces.
      options: how faces become people.
    """
    max_distance = options.max_distance
    if options.chance_neighbors:
        by_chance = chance_distance(unit_rows(sample), n, options.chance_neighbors)
        max_distance = min(max_distance, by_chance)
    return DistanceLimits(max_distance, min(max_distance, options.merge_distance))


def label_forest(
    forest: Edges,
    first_equal: np.ndarray,
    photos: np.ndarray,
    embeddings: Embeddings,
    limits: DistanceLimits,
    options: ClusterOptions,
) -> Labels:
    """Labels faces with people, from their minimum spanning forest of mutual reachability.

    Args:
      forest: over n faces.
      first_equal: (n,) int64, for each face the lowest-numbered face with an equal vector; the
        forest holds only these.
      photos: (n,) int64, as `find_cannot_links` gives them.
      embeddings: reads the embeddings.
      limits: the distances that the forest was made with.
      options: how faces become people.
    """
    n = len(first_equal)
    if options.ignore_photos:
        photos = np.full(n, NO_PHOTO)
    forest = apply_cannot_links(forest, photos)
    labels = forest_labels(forest, n, max(options.min_cluster_size, 2), limits.max_distance)
    labels = merge_clusters(
        labels, embeddings, forest, photos, limits.merge_distance, options.min_cluster_size
    )
    labels = _label_equal_faces(labels, first_equal, options.min_cluster_size)
    return separate_noise(labels) if options.min_cluster_size == 1 else labels


def make_diagnostics(
    limits: DistanceLimits, recall: float, forest: Edges, n: int
) -> dict[str, Any]:
    """How the grouping of n faces went, as plain numbers.

    *components* counts the connected components of several faces.
    """
    sizes = np.bincount(component_labels(forest, n))
    return {
        "max_distance": round(limits.max_distance, 4),
        "recall": round(recall, 4),
        "components": int((sizes > 1).sum()),
        "largest_component": int(sizes.max(initial=0)),
    }


def _label_equal_faces(labels: Labels, first_equal: np.ndarray, min_cluster_size: int) -> Labels:
    """Gives faces with equal vectors the label of the first of them.

    If the first is noise and there are enough of them, they become a person.
    """
    new, probabilities = labels.labels[first_equal], labels.probabilities[first_equal]
    firsts, counts = np.unique(first_equal[new == NOISE], return_counts=True)
    people = firsts[counts >= max(min_cluster_size, 2)]
    number = np.full(len(first_equal), NOISE, np.int64)
    number[people] = new.max(initial=NOISE) + 1 + np.arange(len(people))
    number = number[first_equal]
    is_person = number != NOISE
    return Labels(np.where(is_person, number, new), np.where(is_person, 1.0, probabilities))
