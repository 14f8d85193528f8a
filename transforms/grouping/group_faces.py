"""Groups embeddings into people, in memory; Beam's workers share the steps from the forest on."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from facecluster.transforms.grouping.cannot_links import (
    COLLAGE_PROBABILITY,
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
    find_filled_lists,
    make_neighbor_graph,
    neighbor_lists,
    replace_lists,
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
    CellMembers,
    Cells,
    Neighbors,
    assign_cells,
    fit_cells,
    nearest_neighbors,
    search_members,
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
from facecluster.transforms.similarity.impostors import Impostors
from facecluster.transforms.similarity.normalization import (
    SAMPLE_FACES,
    Normalization,
    fit_normalization,
)
from facecluster.transforms.similarity.shots import (
    Shots,
    count_originals,
    count_photos,
    find_one_shot_pairs,
    first_of_shots,
    join_pairs,
    match_near_duplicates,
)
from facecluster.transforms.tables.codec import find_usable, row_slices

# Entries of the neighbor graph handled at a time.
ENTRIES_PER_STEP = 20_000_000
# A face with a low cohort score has neighbors at larger distances than others. The search reaches
# far enough for all but this fraction of the faces.
LOW_SCORES = 0.25


@dataclass(frozen=True, eq=False)
class Grouping:
    """The people of n faces.

    Attributes:
      labels: the person of each face.
      n_photos: (n_people,) int64, the photos of each person, of which those of one shot count once.
      repeated: (n,) bool, faces that repeat another face in their photo or are repeated in it.
      collages: (m,) int64, the photos that look like collages, ascending.
      diagnostics: how it went, as plain numbers.
    """

    labels: Labels
    n_photos: np.ndarray
    repeated: np.ndarray
    collages: np.ndarray
    diagnostics: dict[str, Any]


def group_faces(
    stored: np.ndarray,
    photos: np.ndarray,
    options: ClusterOptions,
    cohort: Cohort | None = None,
    progress: Callable[[str], None] = lambda message: None,
    originals: np.ndarray | None = None,
) -> Grouping:
    """Groups faces in memory.

    One face of each shot goes through all steps, and the others get its label.

    Args:
      stored: (n, d) embeddings of any numeric type, vectors of any length above 0. Their order must
        not depend on who they show, because the first faces are used as a random sample of the
        collection; the order of face ids is such an order. A vector of zeros, NaN or inf is noise
        and does not affect others.
      photos: (n,) int64, the photo that each face is in.
      options: how faces become people.
      cohort: of the embedding space, if there is one.
      progress: called with a short description of the current step.
      originals: (n,) int64, the photo that each face's photo is a near-duplicate of, or its photo;
        None: there are no near-duplicates.
    """
    originals = photos if originals is None else originals
    usable = np.flatnonzero(find_usable(stored))
    if len(usable) < len(stored):
        found = group_faces(
            stored[usable], photos[usable], options, cohort, progress, originals[usable]
        )
        return _expand(found, usable, len(stored))
    n = len(stored)
    watch = Stopwatch()
    progress(f"normalizing {n:,} faces")
    normalization = fit_normalization(stored[:SAMPLE_FACES], cohort)
    vectors, scores = normalization.apply(stored)
    watch.lap("normalization")
    exact_up_to = EXACT_UP_TO if options.probes else n
    cells = fit_cells(vectors[: training_size(n)], n, options.probes, exact_up_to)
    max_distance = choose_search_distance(normalization, n)
    search = _Search(vectors, scores, cells, options.n_neighbors, max_distance)
    neighbors = search.find(
        in_tenths(lambda done: progress(f"finding neighbors of {n:,} faces: {done:.0%}"))
    )
    watch.lap("neighbors")
    progress(f"grouping {n:,} faces")
    lowest = lowest_in_lists(normalization, n)
    graph = search.graph(neighbors, lowest)
    same_person = normalization.same_person
    pairs = find_one_shot_pairs(neighbors.rows(), neighbors.ids, neighbors.distances, same_person)
    twins = find_twin_edges(graph, originals, normalization.impostors)
    pairs = join_pairs([pairs, match_near_duplicates(*twins, photos)])
    shots = first_of_shots(*pairs, n)
    recall = 1.0
    if n and not cells.is_exact:
        recall = measure_recall(neighbors, vectors, shots, options.n_neighbors, max_distance)
    is_first = shots == np.arange(n)
    again = find_filled_lists(graph, neighbors.is_cut, is_first)
    del neighbors
    graph = graph.part(is_first[graph.faces] & is_first[graph.ids])
    if len(again):
        filled = search.find(searching=again, among=is_first)
        graph = replace_lists(graph, again, search.graph(filled, lowest))
        more = find_one_shot_pairs(filled.rows(), filled.ids, filled.distances, same_person)
        shots_seen = first_of_shots(*join_pairs([pairs, more]), n)
    else:
        shots_seen = shots
    n_shots = int(np.count_nonzero(is_first))
    lonely = similarity_at_impostors(LONELY_BELOW, n_shots, normalization.impostors)
    n_lonely = n_shots - np.count_nonzero(count_neighbors(graph, n, lonely))
    limits = choose_edge_limits(n_shots, n_lonely, normalization, options.wrong_share)
    forest = _build_forest(graph, lowest, n, limits, normalization)
    watch.lap("forest")
    links = find_cannot_links(photos, vectors, scores, normalization.impostors).of_shots(shots)
    groups, apart = label_forest(forest, n, links, options)
    parts = (graph.part(s) for s in row_slices(len(graph.faces), ENTRIES_PER_STEP))
    flows = combine_flows((sum_flows(part, lowest, groups) for part in parts), groups)
    people = label_people(
        groups,
        apart,
        flows,
        Shots(shots, shots_seen, photos, originals),
        links,
        lambda: ((s, vectors[s]) for s in row_slices(n)),
        scores,
        normalization,
        limits,
        options,
    )
    watch.lap("people")
    diagnostics = make_diagnostics(normalization, limits, links, people, recall, forest, shots)
    diagnostics["seconds"] = watch.seconds
    return Grouping(people.labels, people.n_photos, links.repeated, links.collages, diagnostics)


def _expand(found: Grouping, faces: np.ndarray, n: int) -> Grouping:
    """The grouping of some of n faces as one of all, in which the others are noise."""
    labels, probabilities = np.full(n, NOISE, np.int64), np.zeros(n)
    repeated = np.zeros(n, bool)
    labels[faces], probabilities[faces] = found.labels.labels, found.labels.probabilities
    repeated[faces] = found.repeated
    return replace(found, labels=Labels(labels, probabilities), repeated=repeated)


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


def lowest_in_lists(normalization: Normalization, n: int) -> float:
    """The similarity at which the neighbor lists of n faces end.

    Impostors are counted by shots, whose number is estimated from the sample.
    """
    return end_of_lists(max(round(n * normalization.distinct), 1), normalization.impostors)


def choose_search_distance(normalization: Normalization, n: int) -> float:
    """The Euclidean distance of normalized vectors within which neighbors of n faces are searched.

    Args:
      normalization: of the collection.
      n: number of faces.
    """
    lowest = lowest_in_lists(normalization, n)
    if normalization.cohort and len(normalization.sample):
        scores = normalization.cohort.scores(normalization.sample)
        lowest += float(np.quantile(scores, LOW_SCORES))
    return float(np.sqrt(2 - 2 * np.clip(lowest, -1, 1)))


@dataclass(frozen=True, eq=False)
class _Search:
    """The search for neighbors in a collection."""

    vectors: np.ndarray
    scores: np.ndarray
    cells: Cells
    k: int
    max_distance: float

    @cached_property
    def members(self) -> CellMembers:
        return assign_cells(self.vectors, self.cells)

    def find(
        self,
        progress: Callable[[float], None] = lambda fraction: None,
        searching: np.ndarray | None = None,
        among: np.ndarray | None = None,
    ) -> Neighbors:
        """The neighbors of all faces, or of those numbered `searching`, among (n,) bool."""
        n = len(self.vectors)
        if not n:
            return nearest_neighbors(self.vectors, self.cells, self.k, self.max_distance)
        is_searching = np.ones(n, bool)
        if searching is not None:
            is_searching = np.zeros(n, bool)
            is_searching[searching] = True
        among = np.ones(n, bool) if among is None else among
        return search_members(
            self.vectors,
            self.cells,
            self.members,
            self.k,
            self.max_distance,
            is_searching,
            among,
            progress,
        )

    def graph(self, neighbors: Neighbors, lowest: float) -> NeighborGraph:
        faces, ids, scores = neighbors.rows(), neighbors.ids, self.scores
        return make_neighbor_graph(
            faces, ids, neighbors.distances, scores[faces], scores[ids], lowest
        )


def find_twin_edges(
    graph: NeighborGraph, originals: np.ndarray, impostors: Impostors
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edges within near-duplicates of a photo that are as similar as only one person's.

    Args:
      graph: of some of the faces.
      originals: (n,) int64, see `group_faces`.
      impostors: of the collection.

    Returns:
      (faces, ids, similarity) for `match_near_duplicates`; it drops those within one photo.
    """
    alike = graph.similarity > impostors.similarity_at(COLLAGE_PROBABILITY)
    alike &= originals[graph.faces] == originals[graph.ids]
    edges = graph.part(alike)
    return edges.faces, edges.ids, edges.similarity


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
        forest, apart = apply_cannot_links(forest, n, links)
    groups = separate_noise(forest_labels(forest, n, 2, LARGEST_DISTANCE)).labels
    return groups, np.stack([apart.i, apart.j])


@dataclass(frozen=True, eq=False)
class LabeledPeople:
    """People, and how many pairs of them only photos keep apart.

    Attributes:
      labels: the person of each face.
      n_photos: (n_people,) int64.
      n_apart: pairs of people of whom faces, or groups of faces, would have been joined if they had
        no photos in common. An unassigned face is a person here.
    """

    labels: Labels
    n_photos: np.ndarray
    n_apart: int


def label_people(
    groups: np.ndarray,
    apart: np.ndarray,
    flows: Flows,
    shots: Shots,
    links: CannotLinks,
    vectors: Vectors,
    scores: np.ndarray,
    normalization: Normalization,
    limits: EdgeLimits,
    options: ClusterOptions,
) -> LabeledPeople:
    """Labels faces with people.

    Args:
      groups, apart: (n,) and (2, m) int64, as `label_forest` gives them.
      flows: between these groups.
      shots: of the faces.
      links: the shots that cannot be linked.
      vectors: reads the normalized vectors.
      scores: (n,) float32, the cohort scores.
      normalization: of the collection.
      limits: of the collection.
      options: how faces become people.
    """
    is_first = shots.first == np.arange(len(groups))
    n_shots = int(np.count_nonzero(is_first))
    appearances = links.appearances
    if options.ignore_photos:
        links = replace(links, faces=links.faces[:0], photos=links.photos[:0])
        appearances = np.arange(len(groups))
    groups, refused = merge_groups(groups, flows, vectors, links, normalization, limits, n_shots)
    names, faces = np.unique(groups, return_index=True)
    refused = faces[np.searchsorted(names, refused)]  # a face of each
    groups = np.unique(groups[shots.first], return_inverse=True)[1]
    evidence = count_photos(groups, shots.seen, appearances, shots.photos, shots.originals)
    is_person = evidence >= options.min_cluster_size
    n_photos = np.minimum(evidence, count_originals(groups, shots.originals))
    number = np.where(is_person, np.cumsum(is_person) - 1, NOISE)
    labels = number[groups]
    pairs = np.sort(groups[np.concatenate([apart, refused], axis=1)], axis=0)
    pairs = pairs[:, pairs[0] != pairs[1]]
    of_first = np.where(is_first, labels, NOISE)
    probabilities = assignment_probabilities(of_first, vectors, scores, normalization)
    return LabeledPeople(
        Labels(labels, probabilities[shots.first]),
        n_photos[is_person],
        len(np.unique(pairs, axis=1).T),
    )


def make_diagnostics(
    normalization: Normalization,
    limits: EdgeLimits,
    links: CannotLinks,
    people: LabeledPeople,
    recall: float,
    forest: Edges,
    shots: np.ndarray,
) -> dict[str, Any]:
    """How the grouping of n faces went, as plain numbers.

    *components* counts the connected components of several faces. `shots` is (n,) int64, the first
    face of each face's shot.
    """
    sizes = np.bincount(component_labels(forest, len(shots))[shots])
    return {
        "cohort": normalization.cohort is not None,
        "few_people": normalization.few_people,
        "impostor_median": round(normalization.impostors.median, 4),
        "impostor_width": round(normalization.impostors.width, 4),
        "singles": round(limits.singles, 4),
        "collages": len(links.collages),
        "kept_apart_by_photos": people.n_apart,
        "recall": round(recall, 4),
        "components": int((sizes > 1).sum()),
        "largest_component": int(sizes.max(initial=0)),
    }
