"""Merges groups that show one person, which a tree of single edges cannot see.

HDBSCAN leaves a person's less typical photos beside the group of the others, alone or in small
groups. Three things say that a small group belongs to a large one: how much of its neighbor lists
lies in the large group, how similar the mean faces are, and how often this is so in the collection.
The last is not known beforehand. It is estimated together with the decisions, by expectation
maximization (Saerens, Latinne and Decaestecker 2002, "Adjusting the Outputs of a Classifier to New
a Priori Probabilities"). Two groups of several faces also merge if their mean faces are so similar
that no two groups of different people are expected to be.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit, log_ndtr, logit, ndtri

from facecluster.transforms.grouping.cannot_links import (
    TOLERANCE,
    CannotLinks,
    count_common_photos,
)
from facecluster.transforms.grouping.edges import (
    LARGE_COLLECTION,
    EdgeLimits,
    NeighborGraph,
    list_weights,
)
from facecluster.transforms.similarity.group_sums import group_sums
from facecluster.transforms.similarity.impostors import Impostors, fit_impostors
from facecluster.transforms.similarity.normalization import Normalization, similarities
from facecluster.transforms.tables.codec import row_slices

ROUNDS = 10
# A small group: at most this fraction of the large one, which has LARGE_SIZE faces or more.
SMALL_FRACTION, LARGE_SIZE = 0.34, 5
# A small group is attached if SHARE_WEIGHT * share + SIMILARITY_WEIGHT * similarity is above
# LEAST_EVIDENCE + SINGLES_PENALTY * singles, the similarity in units of `same_person`.
SHARE_WEIGHT, SIMILARITY_WEIGHT = 0.3, 0.49
LEAST_EVIDENCE, SINGLES_PENALTY, LEAST_SIMILARITY = 0.3, 0.8, 0.5
LEAST_PROBABILITY = 0.04  # times the root of n / LARGE_COLLECTION, at most a half
# Log-likelihood ratios that a group and its most likely larger group show one person: a linear
# function of the logarithm of the expected number of such similar groups, the share, and the
# logarithm of the larger group's size. One for single faces and pairs, one for larger groups.
# Fitted to the development collections, see docs/results.md.
SINGLE_RATIO = (-0.37, 6.77, -0.5, -0.56)
GROUP_RATIO = (-1.06, 8.94, -0.59, -0.78)
GROUP_SIZE = 3
# Weights are rounded to multiples of 1 / STEPS. Their float64 sums are exact then, and do not
# depend on the division of the graph into parts.
STEPS = 2**20
GROUP_TAIL = 1.3  # as impostors.TAIL, of mean faces
# Groups of GROUP_SIZE faces and more merge if fewer than this many pairs of groups of different
# people are expected to be as similar, with a margin for relatives and look-alikes.
EXPECTED_FALSE_MERGES, LOOK_ALIKES = 0.01, 1.36
SAMPLE_GROUPS = 2048
NO_PAIRS = np.empty((2, 0), np.int64)

# Reads a collection's normalized faces in parts: numbers of faces or a slice, (m, d) vectors.
Vectors = Callable[[], Iterable[tuple[np.ndarray | slice, np.ndarray]]]


@dataclass(frozen=True, eq=False)
class Flows:
    """How much of the neighbor lists of groups of faces lies in other groups.

    Attributes:
      source, target: (m,) int64, groups; each pair once, never a group and itself.
      weight: (m,) float64, the weight of the target's faces in the source's lists.
      total: (n_groups,) float64, the weight of each group's lists as a whole, in which each face
        counts 1 in its own.
    """

    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    total: np.ndarray


def sum_flows(graph: NeighborGraph, lowest: float, group: np.ndarray) -> Flows:
    """The flows in a part of the neighbor graph; `total` lacks the faces themselves.

    Args:
      graph: neighbors of some of the faces.
      lowest: the similarity at which neighbor lists end.
      group: (n,) int64, the group of each face, from 0.
    """
    weights = np.rint(list_weights(graph, lowest).astype(np.float64) * STEPS) / STEPS
    source, target = group[graph.faces], group[graph.ids]
    total = np.bincount(source, weights, minlength=group.max(initial=-1) + 1)
    return Flows(*_sum_pairs(source, target, weights), total)


def combine_flows(parts: Iterable[Flows], group: np.ndarray) -> Flows:
    """The flows in the whole graph, from those in its parts."""
    total = np.bincount(group).astype(np.float64)
    pairs = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for part in parts:
        total += part.total
        pairs.append((part.source, part.target, part.weight))
    return Flows(*_sum_pairs(*map(np.concatenate, zip(*pairs, strict=True))), total)


def _sum_pairs(source, target, weight):
    """Each pair of different groups once, with the sum of its weights."""
    across = source != target
    source, target, weight = source[across], target[across], weight[across]
    order = np.lexsort((target, source))
    source, target, weight = source[order], target[order], weight[order]
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(source) != 0) | (np.diff(target) != 0)
    if len(order):
        weight = np.add.reduceat(weight, np.flatnonzero(first))
    return source[first], target[first], weight


@dataclass(eq=False)
class _Groups:
    """Groups that may merge, numbered from 0. Merging moves faces and sums.

    Attributes:
      of_face, photos: (k,) the group and the photo of each face that has cannot-links.
      sums: (g, d) of the faces' normalized unit vectors; size: (g,).
      flows: between them.
      refused: pairs (small, large) that would have merged but for their common photos, (m,) each.
    """

    of_face: np.ndarray
    photos: np.ndarray
    sums: np.ndarray
    size: np.ndarray
    flows: Flows
    refused: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def merge(self, small: np.ndarray, large: np.ndarray, into: np.ndarray) -> None:
        """Merges small groups into large ones; `into` maps all groups, most to themselves."""
        total = self.flows.total
        for values in (self.sums, self.size, total):
            np.add.at(values, large, values[small])
            values[small] = 0
        self.of_face = into[self.of_face]
        source, target = into[self.flows.source], into[self.flows.target]
        self.flows = Flows(*_sum_pairs(source, target, self.flows.weight), total)


def merge_groups(
    group: np.ndarray,
    flows: Flows,
    vectors: Vectors,
    links: CannotLinks,
    normalization: Normalization,
    limits: EdgeLimits,
    n: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Merges groups of faces.

    Args:
      group: (n,) int64 from 0; faces alone are groups of one.
      flows: between the groups.
      vectors: reads the faces' normalized vectors.
      links: groups that have too many photos in common are not merged, see cannot_links.py.
      normalization: of the collection.
      limits: of the collection.
      n: number of shots.

    Returns:
      (group, refused): (n,) int64, the groups after merging, numbers of merged groups are missing;
      and (2, m) int64, pairs of these that would have merged but for their common photos.
    """
    size = np.bincount(group).astype(np.float64)
    can_merge = np.maximum(size[flows.source], size[flows.target]) >= GROUP_SIZE
    source, target = flows.source[can_merge], flows.target[can_merge]
    candidates = np.unique(np.concatenate([source, target]))
    if not len(candidates):
        return group, NO_PAIRS
    number = np.full(len(size), -1)
    number[candidates] = np.arange(len(candidates))
    of_face = number[group]
    linked = of_face[links.faces] >= 0
    groups = _Groups(
        of_face[links.faces[linked]],
        links.photos[linked],
        group_sums(vectors(), of_face, len(candidates)),
        size[candidates],
        Flows(number[source], number[target], flows.weight[can_merge], flows.total[candidates]),
    )
    # The more faces there are, the more candidates that are not the same person.
    least_probability = LEAST_PROBABILITY * max(1.0, n / LARGE_COLLECTION) ** 0.5
    n_groups = max(int(np.count_nonzero(size > 1)), 2)
    context = _Context(normalization, limits, n_groups, min(least_probability, 0.5))
    merged = np.arange(len(candidates))
    for _ in range(ROUNDS):
        small, large = _attach(groups, context)
        if not len(small):
            small, large = _merge(groups, context)
        if not len(small):
            break
        into = np.arange(len(merged))
        into[small] = large
        groups.merge(small, large, into)
        merged = into[merged]
    group = np.where(of_face >= 0, candidates[merged[of_face]], group)
    pairs = np.concatenate([NO_PAIRS, *map(np.stack, groups.refused)], axis=1)
    return group, candidates[merged[pairs]]


@dataclass(eq=False)
class _Context:
    """What the decisions depend on besides the groups; the last two are set when first needed."""

    normalization: Normalization
    limits: EdgeLimits
    n_groups: int
    least_probability: float
    priors: np.ndarray | None = None
    merge_threshold: float | None = None


def _attach(groups: "_Groups", context: _Context) -> tuple[np.ndarray, np.ndarray]:
    """(small, large): single faces and small groups, and the large groups that they belong to."""
    pairs = _larger_pairs(groups)
    evidence = _measure(groups, pairs, context)
    is_group = groups.size[pairs.small] >= GROUP_SIZE
    if context.priors is None:
        context.priors = _estimate_priors(pairs.small, evidence.ratio, is_group)
    probability = expit(evidence.ratio + logit(context.priors[is_group.astype(int)]))
    size_small, size_large = groups.size[pairs.small], groups.size[pairs.large]
    same_person = context.normalization.same_person
    singles, margin = context.limits.singles, context.limits.margin
    likely = (
        (size_large >= LARGE_SIZE)
        & (size_small <= SMALL_FRACTION * size_large)
        & (evidence.value > LEAST_EVIDENCE + SINGLES_PENALTY * singles + margin)
        & (evidence.similarity > LEAST_SIMILARITY * same_person + margin)
        & (probability > context.least_probability)
    )
    return _choose(groups, pairs.small[likely], pairs.large[likely], evidence.value[likely])


def _merge(groups: "_Groups", context: _Context) -> tuple[np.ndarray, np.ndarray]:
    """(small, large): groups of several faces whose means are as near as only one person's are."""
    if context.merge_threshold is None:
        context.merge_threshold = _choose_merge_threshold(groups, context)
    pairs = _larger_pairs(groups)
    closeness = _measure(groups, pairs, context).closeness
    is_group = groups.size[pairs.small] >= GROUP_SIZE
    near = is_group & (closeness > context.merge_threshold + context.limits.margin)
    return _choose(groups, pairs.small[near], pairs.large[near], closeness[near])


def _choose(groups, small, large, value) -> tuple[np.ndarray, np.ndarray]:
    """The best large group for each small one, without those that may not be merged."""
    common = count_common_photos(groups.of_face, groups.photos, small, large)
    kept = common <= TOLERANCE * groups.size[small]
    groups.refused.append((small[~kept], large[~kept]))
    small, large, value = small[kept], large[kept], value[kept]
    order = np.lexsort((large, -value, small))
    order = order[np.diff(small[order], prepend=-1) != 0]
    small, large, value = small[order], large[order], value[order]
    # A group that is merged itself takes in others in the next round.
    kept = ~np.isin(large, small)
    return _without_common_photos(groups, small[kept], large[kept], value[kept])


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Groups and larger groups, of equal sizes the one of the lower number counting as larger."""

    small: np.ndarray
    large: np.ndarray
    weight: np.ndarray  # from the small group's lists to the large one


@dataclass(frozen=True, eq=False)
class _Evidence:
    similarity: np.ndarray  # of the mean faces, normalized
    closeness: np.ndarray  # of the mean faces, between groups of any size
    value: np.ndarray
    ratio: np.ndarray  # log-likelihood ratio


def _larger_pairs(groups: _Groups) -> _Pairs:
    flows = groups.flows
    source, target, size = flows.source, flows.target, groups.size
    is_up = (size[source] < size[target]) | ((size[source] == size[target]) & (source > target))
    small, large, weight = _sum_pairs(
        np.where(is_up, source, target),
        np.where(is_up, target, source),
        np.where(is_up, flows.weight, 0.0),
    )
    kept = size[large] >= GROUP_SIZE
    return _Pairs(small[kept], large[kept], weight[kept])


def _measure(groups, pairs, context) -> _Evidence:
    normalization = context.normalization
    length = np.maximum(np.linalg.norm(groups.sums, axis=1), 1e-12)
    cosine, scores = np.empty(len(pairs.small)), normalization.mean_scores(groups.sums)
    for s in row_slices(len(cosine)):
        small, large = pairs.small[s], pairs.large[s]
        cosine[s] = np.einsum("ij,ij->i", groups.sums[small], groups.sums[large])
    cosine /= length[pairs.small] * length[pairs.large]
    similarity = similarities(cosine, scores[pairs.small], scores[pairs.large])
    mean_length = length / np.maximum(groups.size, 1)
    closeness = cosine * np.sqrt(mean_length[pairs.small] * mean_length[pairs.large])
    share = pairs.weight / groups.flows.total[pairs.small]
    value = SHARE_WEIGHT * share + SIMILARITY_WEIGHT * similarity / normalization.same_person
    expected = log_expected_groups(similarity, context.n_groups, normalization.impostors)
    features = np.stack(
        [expected, share, np.log(groups.size[pairs.large]), np.ones(len(share))], axis=1
    )
    is_group = groups.size[pairs.small] >= GROUP_SIZE
    ratio = np.where(is_group, features @ GROUP_RATIO, features @ SINGLE_RATIO)
    return _Evidence(similarity, closeness, value, ratio)


def log_expected_groups(similarity: np.ndarray, n_groups: int, impostors: Impostors) -> np.ndarray:
    """(m,) the logarithm of how many of n_groups groups of other people are expected as similar.

    Args:
      similarity: (m,) of mean faces, normalized.
      n_groups: number of groups of several faces, at least 1.
      impostors: of the collection.
    """
    return np.log(n_groups) + log_ndtr(-impostors.deviations(similarity) / GROUP_TAIL)


def _estimate_priors(small, ratio, is_group) -> np.ndarray:
    """(2,) how often a small group shows the person of its most likely larger group.

    First for single faces and pairs, then for larger groups.
    """
    order = np.lexsort((-ratio, small))
    order = order[np.diff(small[order], prepend=-1) != 0]
    ratio, is_group = ratio[order], is_group[order]
    return np.array([estimate_prior(ratio[is_group == kind]) for kind in (False, True)])


def estimate_prior(ratio: np.ndarray) -> float:
    """The share of positives among cases with these log-likelihood ratios.

    By expectation maximization, with half a case of each kind added.
    """
    prior = 0.2
    for _ in range(200):
        prior = (expit(ratio + logit(prior)).sum() + 0.5) / (len(ratio) + 1)
    return float(prior)


def _choose_merge_threshold(groups: _Groups, context: _Context) -> float:
    """The closeness of mean faces above which two groups of several faces are one person."""
    rows = np.flatnonzero(groups.size >= GROUP_SIZE)
    if len(rows) < 2:
        return np.inf
    sample = rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE_GROUPS)).astype(int)]
    # Scaled so that the product of two is the closeness of the groups, see `_measure`.
    sums, size = groups.sums[sample], groups.size[sample]
    scale = np.sqrt(np.linalg.norm(sums, axis=1) * size).clip(1e-12)
    means = sums / scale[:, None]
    between: Impostors = fit_impostors((means @ means.T)[np.triu_indices(len(sample), 1)])
    # A few groups do not determine the width. The cosines of mean faces are as wide as those of
    # single faces; their closeness is less by the lengths of the means.
    length = np.mean(np.linalg.norm(sums, axis=1) / size)
    width = max(between.width, float(context.normalization.impostors.width * length))
    deviations = -ndtri(min(EXPECTED_FALSE_MERGES / len(rows), 0.4))
    return between.median + LOOK_ALIKES * width * deviations


def _without_common_photos(groups, small, large, value):
    """Drops small groups that have a photo in common with a better one of the same large group."""
    target = np.full(len(groups.size), -1)
    target[small] = large
    rank = np.full(len(groups.size), len(small))
    rank[small[np.argsort(-value, kind="stable")]] = np.arange(len(small))
    faces = np.flatnonzero(target[groups.of_face] >= 0)
    source = groups.of_face[faces]
    order = np.lexsort((rank[source], groups.photos[faces], target[source]))
    source, photo = source[order], groups.photos[faces[order]]
    again = np.zeros(len(order), bool)
    again[1:] = (
        (target[source[1:]] == target[source[:-1]])
        & (photo[1:] == photo[:-1])
        & (source[1:] != source[:-1])
    )
    kept = ~np.isin(small, source[again])
    return small[kept], large[kept]
