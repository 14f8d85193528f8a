"""How likely the two ends of an edge of the neighbor graph show one person.

Three kinds of evidence make up the distance that HDBSCAN gets. The normalized similarity of the two
faces. The neighbors that they share: two photos of one person are near the same other photos, two
look-alikes are not (shared nearest neighbors, Jarvis and Patrick 1973; Ertoz, Steinbach and Kumar
2003). And the number of neighbors: the more photos a person has, the less it means if one of them
is as near to a stranger.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import ndtr

from facecluster.transforms.grouping.options import WRONG_SHARE
from facecluster.transforms.grouping.spanning_forest import TIE_BREAK, Edges
from facecluster.transforms.similarity.impostors import Impostors
from facecluster.transforms.similarity.normalization import Normalization, similarities
from facecluster.transforms.tables.codec import row_slices

# A face's neighbor list ends where this many impostors are expected to be as similar.
REACH = 8.0
# Of more faces than this, many impostors are nearer than most photos of one person: lists must be
# longer for these to be in them.
LONG_LISTS_FROM = 100_000
# In small collections, an expected number of impostors is a larger fraction of all faces. Limits in
# expected impostors are reduced proportionally below SMALL_COLLECTION faces.
SMALL_COLLECTION = 2000
# The constants below were chosen together, see docs/results.md. LARGE_COLLECTION faces and more
# rely less on similarity alone, and more on shared neighbors.
LARGE_COLLECTION = 5000
LONELY_BELOW = 0.5  # a face without a neighbor at fewer expected impostors is probably single
LONELY_FRACTION = 0.8  # of the faces without such a neighbor, so many are single
SAME_PERSON_WIDTH = 0.18  # of one person's similarities: their deviation, in `same_person`
USUAL_SINGLES = 0.15
SHARED_WEIGHT, SIMILARITY_WEIGHT = 0.7, 0.21
LARGEST_DISTANCE = 0.57  # edges of this distance and more are not used
# Smaller distances count as this one: the photos of one afternoon are far denser than those of ten
# years, and HDBSCAN would make them a person of their own.
SMALLEST_DISTANCE = 0.5 * LARGEST_DISTANCE
PENALTY = 0.6
MARGIN_PER_FACTOR_OF_TEN = 0.2  # how much more evidence a tenth of WRONG_SHARE takes
EDGES_PER_STEP = 500_000


@dataclass(frozen=True)
class EdgeLimits:
    """Which edges of a collection are evidence, and how strong.

    Attributes:
      singles: estimated share of faces whose person has no other photo.
      lowest: edges of this normalized similarity and less are not used.
      penalty: added to the distance of two faces that have no other neighbors.
      margin: added to all evidence that is required, in units of similarity; see
        `ClusterOptions.wrong_share`.
    """

    singles: float
    lowest: float
    penalty: float
    margin: float


def similarity_at_impostors(expected: float, n: int, impostors: Impostors) -> float:
    """The similarity at which each of n faces is expected to have so many impostors."""
    return impostors.similarity_at(min(expected / max(n - 1, 1), 0.4))


def expected_impostors(similarity: float, n: int, impostors: Impostors) -> float:
    """How many of n faces are expected to be as similar to a face without showing its person."""
    return max(n - 1, 0) * float(impostors.probability(np.array(similarity)))


def end_of_lists(n: int, impostors: Impostors) -> float:
    """The similarity at which the neighbor lists of n faces end."""
    reach = REACH * min(1.0, n / SMALL_COLLECTION) * max(1.0, n / LONG_LISTS_FROM) ** 0.4
    return similarity_at_impostors(reach, n, impostors)


def choose_edge_limits(
    n: int, n_lonely: int, normalization: Normalization, wrong_share: float = WRONG_SHARE
) -> EdgeLimits:
    """The limits for n faces, n_lonely of which have no neighbor below LONELY_BELOW.

    Args:
      n, n_lonely: numbers of faces.
      normalization: of the collection.
      wrong_share: see `ClusterOptions`.
    """
    impostors, same_person = normalization.impostors, normalization.same_person
    size = max(1.0, n / LARGE_COLLECTION)
    singles = _estimate_singles(n, n_lonely, impostors, same_person)
    # Few faces have second photos, few edges are right: fewer impostors may come with them. But two
    # photos of one person must be within the limit, also where impostors are as similar.
    expected = 0.05 / singles * size**0.75
    expected = max(expected, expected_impostors(same_person, n, impostors))
    most = max(0.1, min(3.0, 0.5 * size**0.75 * min(1.0, n / SMALL_COLLECTION)))
    lowest = similarity_at_impostors(min(max(expected, 0.1), most), n, impostors)
    margin = MARGIN_PER_FACTOR_OF_TEN * np.log10(WRONG_SHARE / wrong_share)
    return EdgeLimits(singles, lowest, PENALTY * singles / size**0.45, float(margin))


def _estimate_singles(n: int, n_lonely: int, impostors: Impostors, same_person: float) -> float:
    """The share of faces whose person has no other photo."""
    # By chance alone, exp(-LONELY_BELOW) of the single faces have no such neighbor.
    lonely = LONELY_FRACTION * n_lonely / max(n, 1) / np.exp(-LONELY_BELOW)
    # Where two photos of one person are not that near either, lonely faces say nothing.
    near = similarity_at_impostors(LONELY_BELOW, n, impostors)
    power = ndtr((same_person - near) / (SAME_PERSON_WIDTH * same_person))
    return float(np.clip(power * lonely + (1 - power) * USUAL_SINGLES, 0.001, 1))


@dataclass(frozen=True, eq=False)
class NeighborGraph:
    """The neighbors of some or all faces that are more similar than the lists' end.

    Faces whose vector an earlier face has are left out, see `Neighbors`.

    Attributes:
      faces, ids: (m,) int64, a face and its neighbor.
      similarity: (m,) float32, normalized.
    """

    faces: np.ndarray
    ids: np.ndarray
    similarity: np.ndarray

    def part(self, chosen: np.ndarray | slice) -> "NeighborGraph":
        return NeighborGraph(self.faces[chosen], self.ids[chosen], self.similarity[chosen])


def make_neighbor_graph(
    faces: np.ndarray,
    ids: np.ndarray,
    distances: np.ndarray,
    scores: np.ndarray,
    id_scores: np.ndarray,
    lowest: float,
) -> NeighborGraph:
    """The neighbor graph of found edges.

    Args:
      faces, ids: (m,) int64.
      distances: (m,) float32, Euclidean between normalized vectors; 0 between equal vectors.
      scores, id_scores: (m,) the cohort scores of `faces` and `ids`.
      lowest: the similarity at which neighbor lists end.
    """
    similarity = similarities(1 - np.square(distances) / 2, scores, id_scores)
    used = (similarity > lowest) & (distances > 0)
    return NeighborGraph(faces[used], ids[used], similarity[used])


def count_neighbors(graph: NeighborGraph, n: int, lowest: float) -> np.ndarray:
    """(n,) int64, how many neighbors each face has that are more similar than `lowest`."""
    return np.bincount(graph.faces[graph.similarity > lowest], minlength=n)


def find_filled_lists(graph: NeighborGraph, is_cut: np.ndarray, is_first: np.ndarray) -> np.ndarray:
    """(m,) int64: the first faces of shots whose full lists hold further frames of a shot.

    They are searched again, among first faces only.

    Args:
      graph: of some of the faces.
      is_cut: (n,) bool, whose lists are full.
      is_first: (n,) bool, which are the first of their shot.
    """
    filled = is_first[graph.faces] & is_cut[graph.faces] & ~is_first[graph.ids]
    return np.unique(graph.faces[filled])


def replace_lists(graph: NeighborGraph, faces: np.ndarray, found: NeighborGraph) -> NeighborGraph:
    """The graph, sorted by face, with the lists of some faces replaced by those in `found`."""
    kept = graph.part(~np.isin(graph.faces, faces))
    order = np.argsort(np.concatenate([kept.faces, found.faces]), kind="stable")
    return NeighborGraph(
        *(
            np.concatenate([getattr(kept, name), getattr(found, name)])[order]
            for name in ("faces", "ids", "similarity")
        )
    )


def list_weights(graph: NeighborGraph, lowest: float) -> np.ndarray:
    """(m,) float32, the weights of neighbors in lists: 0 at their end, 1 for the face itself."""
    return (graph.similarity - np.float32(lowest)) / np.float32(1 - lowest)


def neighbor_lists(
    rows: np.ndarray, faces: np.ndarray, graph: NeighborGraph, lowest: float, n: int
) -> csr_matrix:
    """The neighbor lists of some faces, each of length 1.

    Args:
      rows: (m,) for each entry of the graph, the row of its face.
      faces: (k,) int64, the faces of the rows.
      graph: the neighbors of these faces.
      lowest: the similarity at which lists end.
      n: number of all faces.

    Returns:
      (k, n) float32; the face itself is in its list, with weight 1 before scaling.
    """
    k = len(faces)
    weights = np.concatenate([list_weights(graph, lowest), np.ones(k, np.float32)])
    columns = np.concatenate([graph.ids, faces])
    lists = csr_matrix((weights, (np.concatenate([rows, np.arange(k)]), columns)), (k, n))
    lengths = np.sqrt(np.asarray(lists.multiply(lists).sum(axis=1)).ravel())
    lists.data /= np.repeat(lengths, np.diff(lists.indptr)).astype(np.float32)
    return lists


def weigh_edges(
    graph: NeighborGraph,
    lists: csr_matrix,
    row_of: np.ndarray,
    counts: np.ndarray,
    limits: EdgeLimits,
    normalization: Normalization,
) -> Edges:
    """The edges that HDBSCAN gets, in one of the directions that the graph has.

    Args:
      graph: of some faces.
      lists: as `neighbor_lists` gives them, for all ends of the graph's edges that are more similar
        than `limits.lowest`.
      row_of: (n,) the row of each face's list.
      counts: (n,) as `count_neighbors` gives them at `limits.lowest`, in the whole graph.
      limits: of the collection.
      normalization: of the collection.
    """
    graph = graph.part(graph.similarity > limits.lowest)
    graph = graph.part(_one_direction(graph.faces, graph.ids))
    shared = np.empty(len(graph.faces), np.float32)
    for s in row_slices(len(shared), EDGES_PER_STEP):
        first, second = lists[row_of[graph.faces[s]]], lists[row_of[graph.ids[s]]]
        shared[s] = np.asarray(first.multiply(second).sum(axis=1)).ravel()
    fewest = 1 + np.minimum(counts[graph.faces], counts[graph.ids])
    similarity = SIMILARITY_WEIGHT / normalization.same_person * graph.similarity
    distance = 1 - SHARED_WEIGHT * shared - similarity + limits.penalty / np.sqrt(fewest)
    distance += limits.margin
    near = np.flatnonzero(distance < LARGEST_DISTANCE)
    distance = distance[near].astype(np.float64)
    distance = np.maximum(distance, 0)
    weight = np.maximum(distance, SMALLEST_DISTANCE) * (1 + TIE_BREAK * distance)
    return Edges(graph.faces[near], graph.ids[near], weight)


def _one_direction(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """The positions of one edge for each pair of faces."""
    low, high = np.minimum(i, j), np.maximum(i, j)
    order = np.lexsort((high, low))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0)
    return np.sort(order[first])
