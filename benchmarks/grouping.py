"""Compares the default grouping with other methods, each at its best setting.

    pip install -e ".[bench]"
    python benchmarks/grouping.py --images FOLDER [--work runs/quality]

FOLDER holds one folder of photos per person, in halves as in quality.py, whose work folder is used
again if it exists. The setting of a method is the one in its grid (METHODS in grouping_methods.py)
with the best BCubed F on the tuning half, and among equals with the best pairwise F; facecluster
has its defaults. All faces are grouped and the labeled ones scored. A face that a method leaves out
counts as a person of its own. All methods group the same vectors: first those that 128 bytes per
face hold, then the network's own.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from grouping_methods import METHODS, Clustering
from quality import HALVES, Half, RoundTrip, load_half, make_round_trip

from facecluster.pipeline.evaluation.clustering_metrics import bcubed, pairwise
from facecluster.transforms.grouping.group_faces import group_faces
from facecluster.transforms.grouping.hdbscan_labels import NOISE
from facecluster.transforms.grouping.options import ClusterOptions

TITLES = {"pca128": "128 bytes per face", "float32": "512 floats per face"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path, help="one folder of photos a person")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="as in quality.py")
    arguments = parser.parse_args()
    if find_spec("infomap") is None:
        sys.exit('infomap, one of the methods, is not installed: pip install -e ".[bench]"')

    halves = [load_half(arguments.images, name, arguments.work) for name in HALVES]
    for name, half in zip(HALVES, halves, strict=True):
        n_people = len(set(half.people))
        print(
            f"{name}: {len(half.vectors):,} faces, {len(half.labeled_rows):,} of them labeled, "
            f"of {n_people:,} people"
        )
    for codec, title in TITLES.items():
        compare_methods(title, halves, make_round_trip(codec))


def compare_methods(title: str, halves: Sequence[Half], round_trip: RoundTrip) -> None:
    """Prints the table of all methods for the vectors that a codec holds."""
    tuning, held_out = halves
    tuning_vectors, held_out_vectors = (round_trip(half.vectors) for half in halves)
    columns = "BCubed F  pairwise F  people"
    print(f"\n{title:24}  tuning half: {columns}  held-out half: {columns}  seconds  setting")
    methods = {"facecluster": (cluster_by_default, [{}]), **METHODS}
    for name, (method, settings) in methods.items():
        cluster = method(tuning_vectors)
        *tuning_scores, best = max(
            ((*score(tuning, cluster(**setting)), setting) for setting in settings),
            key=lambda scored: scored[:2],
        )
        started = time.perf_counter()
        labels = method(held_out_vectors)(**best)
        seconds = time.perf_counter() - started
        figures = "".join(
            f"{bcubed_f:{width}.4f} {pairwise_f:11.4f} {n_people:7,}"
            for width, (bcubed_f, pairwise_f, n_people) in (
                (21, tuning_scores),
                (25, score(held_out, labels)),
            )
        )
        setting = ", ".join(f"{option} {value}" for option, value in best.items())
        print(f"{name:24} {figures} {seconds:8.1f}  {setting or 'defaults'}", flush=True)


def cluster_by_default(vectors: np.ndarray) -> Clustering:
    """facecluster's grouping with its defaults, with the interface of the other methods.

    Each face is taken for a photo of its own, because the other methods cannot use photos either.
    """
    # `group_faces` needs an order that does not depend on who the faces show.
    order = np.random.default_rng(0).permutation(len(vectors))

    def cluster() -> np.ndarray:
        labels = np.empty(len(vectors), np.int64)
        labels[order] = group_faces(vectors[order], order, ClusterOptions()).labels.labels
        return labels

    return cluster


def score(half: Half, labels: np.ndarray) -> tuple[float, float, int]:
    """BCubed F, pairwise F and the number of people found, over the labeled faces."""
    found = labels[half.labeled_rows]
    n_people = len(np.unique(found[found != NOISE])) + np.count_nonzero(found == NOISE)
    return bcubed(half.people, found)[2], pairwise(half.people, found)[2], n_people


if __name__ == "__main__":
    main()
