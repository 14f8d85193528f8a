"""Embeddings into labels, in memory; and the last part of it, from a spanning forest on."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from facecluster.transforms.grouping.chance import SAMPLE_FACES, chance_distance
from facecluster.transforms.grouping.hdbscan_labels import (
    NOISE,
    Labels,
    forest_labels,
    separate_noise,
)
from facecluster.transforms.grouping.merge_clusters import Embeddings, join_people
from facecluster.transforms.grouping.neighbors import (
    EXACT_UP_TO,
    blocks,
    first_of_copies,
    fit_cells,
    nearest_neighbors,
    training_size,
)
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.grouping.recall import recall
from facecluster.transforms.grouping.same_photo import NO_PHOTO, constrained_photos, keep_apart
from facecluster.transforms.grouping.spanning_forest import (
    CombineForests,
    Edges,
    components,
    core_distances,
    mutual_reachability,
)
from facecluster.transforms.tables.codec import unit_rows

EDGES_AT_ONCE = 20_000_000  # brought into the forest; of people with many photos there are far more


@dataclass(frozen=True)
class Distances:
    """What the distances of the options come to for a collection of a certain size."""

    max_distance: float
    join_distance: float


@dataclass(frozen=True)
class Grouping:
    """People of n faces.

    Attributes:
      labels: who is who.
      repeated: (n,) bool, faces whose photo shows them twice, as far as can be told.
      diagnostics: how it went, as plain numbers.
    """

    labels: Labels
    repeated: np.ndarray
    diagnostics: dict[str, Any]


def group_faces(
    stored: np.ndarray,
    photos: np.ndarray,
    options: ClusterOptions,
    progress: Callable[[str], None] = lambda doing: None,
) -> Grouping:
    """Groups faces in memory.

    Args:
      stored: (n, d) embeddings of any numeric type and length, in an order that has nothing to do
        with who is who, such as that of face ids: the first faces are the sample that all the
        others are judged by.
      photos: (n,) int64, the photo that each face is in.
      options: how faces become people.
      progress: told in a few words what is being done.
    """
    n = len(stored)
    watch = Stopwatch()
    exact_up_to = EXACT_UP_TO if options.probes else n
    cells = fit_cells(stored[: training_size(n)], n, options.probes, exact_up_to)
    distances = distances_for(stored[:SAMPLE_FACES], n, options)
    neighbors = nearest_neighbors(
        stored,
        cells,
        options.n_neighbors,
        distances.max_distance,
        tenths(lambda share: progress(f"finding neighbours of {n:,} faces: {share:.0%}")),
    )
    watch.lap("neighbours")
    progress(f"grouping {n:,} faces")
    core = core_distances(neighbors, options.min_samples)
    graph = neighbors.rows(), neighbors.ids, neighbors.distances
    forests = CombineForests(EDGES_AT_ONCE)
    held = forests.create_accumulator()
    for s in blocks(len(neighbors.ids), EDGES_AT_ONCE):
        part = (column[s] for column in graph)
        edges = mutual_reachability(*part, core, options.min_distance, distances.max_distance)
        held = forests.add_input(held, edges)
    forest = forests.extract_output(held)
    del graph, held
    watch.lap("forest")
    first = first_of_copies(neighbors)
    constrained, repeated = constrained_photos(photos, stored)
    labels = group_forest(
        forest, first, constrained, lambda: ((s, stored[s]) for s in blocks(n)), distances, options
    )
    watch.lap("people")
    found = 1.0
    if n and not cells.miss_nothing:
        found = recall(neighbors, stored, options.n_neighbors, distances.max_distance)
    diagnostics = diagnostics_of(distances, found, forest, n)
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


def tenths(say: Callable[[float], None]) -> Callable[[float], None]:
    """Passes a share on when it reaches another tenth."""
    said = 0

    def maybe(share: float) -> None:
        nonlocal said
        if int(share * 10) > said:
            said = int(share * 10)
            say(share)

    return maybe


def distances_for(sample: np.ndarray, n: int, options: ClusterOptions) -> Distances:
    """The distances to use for n faces.

    Args:
      sample: (m, d) stored embeddings drawn at random.
    """
    most = options.max_distance
    if options.chance_neighbors:
        most = min(most, chance_distance(unit_rows(sample), n, options.chance_neighbors))
    return Distances(most, min(most, options.join_distance))


def group_forest(
    forest: Edges,
    first: np.ndarray,
    photos: np.ndarray,
    embeddings: Embeddings,
    distances: Distances,
    options: ClusterOptions,
) -> Labels:
    """A minimum spanning forest of mutual reachability into people.

    Args:
      forest: over n faces.
      first: (n,) int64, for each face the lowest that has the same vector; the forest leaves the
        others out.
      photos: (n,) int64, the photo that keeps a face apart from others, -1 for none.
      embeddings: reads them.
      distances: what the forest was made with.
      options: how faces become people.
    """
    n = len(first)
    if options.ignore_photos:
        photos = np.full(n, NO_PHOTO)
    forest = keep_apart(forest, photos)
    labels = forest_labels(forest, n, max(options.min_cluster_size, 2), distances.max_distance)
    labels = join_people(
        labels, embeddings, forest, photos, distances.join_distance, options.min_cluster_size
    )
    labels = _with_copies(labels, first, options.min_cluster_size)
    return separate_noise(labels) if options.min_cluster_size == 1 else labels


def diagnostics_of(distances: Distances, recall: float, forest: Edges, n: int) -> dict[str, Any]:
    """How the grouping of n faces went, as plain numbers.

    Its *components* are those of several faces.
    """
    sizes = np.bincount(components(forest, n))
    return {
        "max_distance": round(distances.max_distance, 4),
        "recall": round(recall, 4),
        "components": int((sizes > 1).sum()),
        "largest_component": int(sizes.max(initial=0)),
    }


def _with_copies(labels: Labels, first: np.ndarray, min_cluster_size: int) -> Labels:
    """Gives copies what their first has; firsts of enough copies and nobody else are people."""
    new, probabilities = labels.labels[first], labels.probabilities[first]
    alone, counts = np.unique(first[new == NOISE], return_counts=True)
    people = alone[counts >= max(min_cluster_size, 2)]
    number = np.full(len(first), NOISE, np.int64)
    number[people] = new.max(initial=NOISE) + 1 + np.arange(len(people))
    is_person = number[first] != NOISE
    return Labels(np.where(is_person, number[first], new), np.where(is_person, 1.0, probabilities))
