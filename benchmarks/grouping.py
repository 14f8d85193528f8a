"""Our default grouping beside other methods, each of them at its best setting.

    pip install hdbscan==0.8.44 infomap==2.16.0
    python benchmarks/grouping.py --images FOLDER [--work runs/quality]

FOLDER holds one folder of photos per person, cut into the two halves of benchmarks/quality.py,
whose work folder is used again where there is one. A method's setting is the one of its grid
(METHODS in grouping_methods.py) with the best BCubed F on the tuning half, and with the best
pairwise F where that is equal; ours is the product's defaults. All faces are grouped, the labelled
ones are scored, and a face left out counts as a person of its own. All methods see the same
vectors: first those that 128 bytes a face hold, then the network's own.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from quality import HALVES, Half, read_half, through_codec

from facecluster.pipeline.evaluation.clustering_metrics import NOISE, bcubed, pairwise
from facecluster.transforms.grouping.group_faces import group_faces
from facecluster.transforms.grouping.options import ClusterOptions

try:
    from grouping_methods import METHODS
except ModuleNotFoundError as missing:
    sys.exit(
        f"{missing.name}, one of the methods compared here, is not installed: "
        "pip install hdbscan==0.8.44 infomap==2.16.0"
    )

VECTORS = {"pca128": "128 bytes a face", "float32": "512 floats a face"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/quality"))
    arguments = parser.parse_args()

    halves = [read_half(arguments.images, half, arguments.work) for half in HALVES]
    for name, half in zip(HALVES, halves, strict=True):
        faces, labelled, people = len(half.vectors), len(half.faces_of), len(set(people_of(half)))
        print(f"{name}: {faces:,} faces, of which {labelled:,} are labelled, of {people:,} people")
    for codec, title in VECTORS.items():
        compare(title, halves, through_codec(codec))


def compare(title: str, halves: list[Half], through: Callable[[np.ndarray], np.ndarray]) -> None:
    """Prints the table of all methods for the vectors that come out of a codec."""
    tuning, held_out = halves
    tuning_vectors, held_out_vectors = (through(half.vectors) for half in halves)
    columns = "BCubed F  pairwise F  people"
    print(f"\n{title:24}  tuning half: {columns}  held-out half: {columns}  seconds  setting")
    for name, (method, settings) in {"ours": (ours, [{}]), **METHODS}.items():
        cluster = method(tuning_vectors)
        *scores, best = max(
            ((*score(tuning, cluster(**setting)), setting) for setting in settings),
            key=lambda scored: scored[:2],
        )
        started = time.perf_counter()
        labels = method(held_out_vectors)(**best)
        seconds = time.perf_counter() - started
        figures = "".join(
            f"{bcubed_f:{width}.4f} {pairwise_f:11.4f} {people:7,}"
            for width, (bcubed_f, pairwise_f, people) in (
                (21, scores),
                (25, score(held_out, labels)),
            )
        )
        chosen = ", ".join(f"{option} {value}" for option, value in best.items())
        print(f"{name:24} {figures} {seconds:8.1f}  {chosen or 'defaults'}", flush=True)


def ours(vectors: np.ndarray) -> Callable[[], np.ndarray]:
    """The product's grouping with its defaults, in the shape of the other methods.

    It is not told which faces share a photo, as the others are not.
    """
    order = np.random.default_rng(0).permutation(len(vectors))  # not by person: see group_faces

    def cluster() -> np.ndarray:
        labels = np.empty(len(vectors), np.int64)
        labels[order] = group_faces(vectors[order], order, ClusterOptions()).labels.labels
        return labels

    return cluster


def score(half: Half, labels: np.ndarray) -> tuple[float, float, int]:
    """BCubed F, pairwise F, and people found, of the labelled faces."""
    found = labels[list(half.faces_of.values())]
    truth = people_of(half)
    people = len(np.unique(found[found != NOISE])) + np.count_nonzero(found == NOISE)
    return bcubed(truth, found)[2], pairwise(truth, found)[2], people


def people_of(half: Half) -> np.ndarray:
    """(n,) str, whose each labelled face is."""
    return np.array([Path(uri).parent.name for uri in half.faces_of])


if __name__ == "__main__":
    main()
