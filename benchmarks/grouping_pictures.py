"""Draws the pictures of docs/grouping.md, one for each step of grouping.

    python benchmarks/grouping_pictures.py --images LFW --collections FOLDER [--work runs/quality]
                                           [--output docs]

The options are those of face_collections.py. Needs matplotlib.
"""

import argparse
from pathlib import Path

import numpy as np
from face_collections import FILES, Collection, LfwHalf, load_file, make_half_collections, mix

from facecluster.model_export.weights import zoo
from facecluster.pipeline.options import EmbedOptions
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.grouping.edges import (
    LARGEST_DISTANCE,
    LONELY_BELOW,
    NeighborGraph,
    choose_edge_limits,
    count_neighbors,
    end_of_lists,
    make_neighbor_graph,
    neighbor_lists,
    similarity_at_impostors,
    weigh_edges,
)
from facecluster.transforms.grouping.hdbscan_labels import forest_labels, separate_noise
from facecluster.transforms.grouping.merge_groups import combine_flows, sum_flows
from facecluster.transforms.grouping.neighbors import fit_cells, nearest_neighbors
from facecluster.transforms.grouping.spanning_forest import minimum_spanning_forest
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.similarity.group_sums import group_sums
from facecluster.transforms.similarity.impostors import Impostors
from facecluster.transforms.similarity.normalization import (
    Normalization,
    fit_normalization,
    similarities,
)
from facecluster.transforms.tables.codec import unit_rows

N_NEIGHBORS = 64
SAME, DIFFERENT = "tab:blue", "tab:red"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path, help="one folder of photos a person")
    parser.add_argument("--collections", required=True, type=Path, help="folder of the three files")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="as in quality.py")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder for the pictures")
    arguments = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    cohort = SavedModel(str(zoo.fetch(EmbedOptions.model))).cohort("pca128")
    assert cohort is not None  # the default model has one
    web, _, tiny = (load_file(arguments.collections, name) for name in FILES)
    half = make_half_collections(LfwHalf(arguments.images, "tuning", arguments.work))[0]
    library = mix("web + tuning", web, half)
    draw_normalization({"LFW, tuning half": half, "web": web, "tiny_crops": tiny}, cohort,
                       arguments.output / "grouping-1-normalization.png")  # fmt: skip
    draw_impostors(fit_normalization(library.stored, cohort).impostors,
                   arguments.output / "grouping-2-impostors.png")  # fmt: skip
    draw_library(library, cohort, arguments.output)


def draw_normalization(collections, cohort: Cohort, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
    bins = np.linspace(-0.6, 1, 81)
    for name, collection in collections.items():
        rows = np.flatnonzero(collection.scored)[:1500]
        person = collection.person[rows]
        pairs = np.triu_indices(len(rows), 1)
        differs = person[pairs[0]] != person[pairs[1]]
        raw = unit_rows(collection.stored[rows])
        vectors, scores = fit_normalization(collection.stored, cohort).apply(collection.stored)
        vectors, scores = unit_rows(vectors[rows]), scores[rows]
        normalized = similarities(vectors @ vectors.T, scores[:, None], scores)
        for axes, matrix in ((left, raw @ raw.T), (right, normalized)):
            style = {"bins": bins, "density": True, "histtype": "step", "linewidth": 1.5}
            _, _, drawn = axes.hist(matrix[pairs][differs], label=name, **style)
            color = drawn[0].get_edgecolor()
            axes.hist(matrix[pairs][~differs], linestyle=":", color=color, **style)
    left.set(xlabel="cosine", ylabel="density", title="before")
    right.set(xlabel="normalized similarity", title="after")
    left.legend(fontsize=8)
    finish(figure, path)


def draw_impostors(impostors: Impostors, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3))
    similarity = np.linspace(0.2, 1, 200)
    for n in (1_000, 10_000, 100_000, 1_000_000):
        axes.semilogy(similarity, n * impostors.probability(similarity), label=f"{n:,} faces")
    axes.set(xlabel="normalized similarity", ylabel="expected impostors", ylim=(1e-4, 1e3))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    finish(figure, path)


def draw_library(library: Collection, cohort: Cohort, output: Path) -> None:
    n = len(library.stored)
    normalization = fit_normalization(library.stored, cohort)
    vectors, scores = normalization.apply(library.stored)
    impostors = normalization.impostors
    neighbors = nearest_neighbors(vectors, fit_cells(vectors, n, 0, n), N_NEIGHBORS, 2.0)
    faces, ids, lowest = neighbors.rows(), neighbors.ids, end_of_lists(n, impostors)
    graph = make_neighbor_graph(faces, ids, neighbors.distances, scores[faces], scores[ids], lowest)
    lonely = count_neighbors(graph, n, similarity_at_impostors(LONELY_BELOW, n, impostors)) == 0
    limits = choose_edge_limits(n, int(lonely.sum()), normalization)
    every = np.arange(n)
    lists = neighbor_lists(graph.faces, every, graph, lowest, n)
    draw_shared(library, graph, lists, limits.lowest, output / "grouping-3-shared.png")
    counts = count_neighbors(graph, n, limits.lowest)
    forest = minimum_spanning_forest(
        weigh_edges(graph, lists, every, counts, limits, normalization)
    )
    groups = separate_noise(forest_labels(forest, n, 2, LARGEST_DISTANCE)).labels
    draw_clusters(library, groups, output / "grouping-4-hdbscan.png")
    draw_attaching(
        library, groups, graph, lowest, vectors, normalization, output / "grouping-5-attaching.png"
    )


def draw_shared(library: Collection, graph: NeighborGraph, lists, least: float, path: Path) -> None:
    import matplotlib.pyplot as plt

    used = np.flatnonzero((graph.similarity > least) & (graph.faces < graph.ids))
    used = used[library.scored[graph.faces[used]] & library.scored[graph.ids[used]]]
    used = np.random.default_rng(0).permutation(used)[:6000]
    i, j = graph.faces[used], graph.ids[used]
    shared = np.asarray(lists[i].multiply(lists[j]).sum(axis=1)).ravel()
    same = library.person[i] == library.person[j]
    figure, axes = plt.subplots(figsize=(6, 4))
    for kind, color, label in ((same, SAME, "one person"), (~same, DIFFERENT, "two people")):
        axes.scatter(graph.similarity[used][kind], shared[kind], s=4, c=color, label=label)
    axes.set(xlabel="normalized similarity", ylabel="shared neighbors")
    axes.legend(fontsize=8)
    finish(figure, path)


def draw_clusters(library: Collection, groups: np.ndarray, path: Path) -> None:
    """The largest people as bars, and the clusters that they fall into as pieces of the bars."""
    import matplotlib.pyplot as plt

    largest = np.argsort(-library.sizes)[:25]
    figure, axes = plt.subplots(figsize=(8, 3))
    for place, person in enumerate(largest):
        pieces = np.sort(np.bincount(groups[library.person == person]))[::-1]
        bottom = 0
        for number, piece in enumerate(pieces[pieces > 0]):
            color = "lightgray" if piece == 1 else plt.cm.viridis(min(number / 8, 1.0))
            axes.bar(place, piece, bottom=bottom, color=color, edgecolor="white", linewidth=0.3)
            bottom += piece
    axes.set(xlabel="the 25 people with most photos", ylabel="photos", xticks=[])
    finish(figure, path)


def draw_attaching(
    library: Collection,
    groups: np.ndarray,
    graph: NeighborGraph,
    lowest: float,
    vectors: np.ndarray,
    normalization: Normalization,
    path: Path,
) -> None:
    """Each single face and its most likely group of five faces and more."""
    import matplotlib.pyplot as plt

    size = np.bincount(groups)
    flows = combine_flows([sum_flows(graph, lowest, groups)], groups)
    up = (size[flows.source] == 1) & (size[flows.target] >= 5)
    source, target = flows.source[up], flows.target[up]
    share = flows.weight[up] / flows.total[source]
    order = np.lexsort((-share, source))
    order = order[np.diff(source[order], prepend=-1) != 0]
    source, target, share = source[order], target[order], share[order]
    sums = group_sums([(slice(None), vectors)], groups, len(size))
    means = unit_rows(sums)
    scores = normalization.mean_scores(sums)
    cosine = np.einsum("ij,ij->i", means[source], means[target])
    similarity = similarities(cosine, scores[source], scores[target])
    person = np.array([majority(library.person[groups == group]) for group in target])
    own = library.person[np.argsort(groups, kind="stable")[np.searchsorted(
        np.sort(groups), source)]]  # fmt: skip
    known = (own >= 0) & (person >= 0)
    same = own == person
    figure, axes = plt.subplots(figsize=(6, 4))
    for kind, color, label in ((~same, DIFFERENT, "another person"), (same, SAME, "this person")):
        chosen = known & kind
        axes.scatter(share[chosen], similarity[chosen], s=6, c=color, label=label)
    axes.set(xlabel="share of the face's neighbor list that is in the group",
             ylabel="similarity to the group's mean face")  # fmt: skip
    axes.legend(fontsize=8)
    finish(figure, path)


def majority(person: np.ndarray) -> int:
    known = person[person >= 0]
    return int(np.bincount(known).argmax()) if len(known) else -1


def finish(figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
