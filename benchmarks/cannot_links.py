"""Measures what the constraint adds that two faces in one photo are two people.

    python benchmarks/cannot_links.py --images LFW [--work runs/quality] [--wrong-share 0.05]

Each of LFW's photos shows one labeled person. Here their faces, embedded as in quality.py, are
combined into synthetic group photos of two to six different people. The people of a group photo
belong to one circle, whose members are photographed together again and again. Circles have eight
people: random ones, or look-alikes, as relatives are. Each half is grouped with the constraint and
with --ignore-photos.
"""

import argparse
from pathlib import Path

import numpy as np
from quality import HALVES, Half, load_half, load_model, make_round_trip

from facecluster.pipeline.evaluation.clustering_metrics import bcubed, pairwise
from facecluster.transforms.grouping.group_faces import group_faces
from facecluster.transforms.grouping.options import ClusterOptions

PEOPLE_PER_CIRCLE = 8
MIN_PEOPLE_PER_PHOTO, MAX_PEOPLE_PER_PHOTO = 2, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path, help="one folder of photos a person")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="as in quality.py")
    parser.add_argument("--wrong-share", type=float, default=ClusterOptions.wrong_share)
    arguments = parser.parse_args()
    round_trip = make_round_trip("pca128")
    print("half      circles of   constraint   BCubed P, R, F          pairwise P, R, F        "
          "violations")  # fmt: skip
    for name in HALVES:
        half = load_half(arguments.images, name, arguments.work)
        vectors, people = shuffle_labeled_faces(half)
        vectors = round_trip(vectors)
        for kind in ("random", "look-alikes"):
            random = np.random.default_rng(0)
            circles = make_circles(vectors, people, kind == "look-alikes", random)
            photos = make_group_photos(circles, random)
            for ignore in (True, False):
                options = ClusterOptions(wrong_share=arguments.wrong_share, ignore_photos=ignore)
                cohort = load_model().cohort("pca128")
                labels = group_faces(vectors, photos, options, cohort).labels.labels
                figures = (*bcubed(people, labels), *pairwise(people, labels))
                print(
                    f"{name:9} {kind:12} {'ignored' if ignore else 'used':10}",
                    *(f"{figure:7.4f}" for figure in figures),
                    f"{count_violations(photos, labels):9}",
                )


def shuffle_labeled_faces(half: Half) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) vectors of the labeled faces in random order, and (n,) int64, their people."""
    people = np.unique(half.people, return_inverse=True)[1]
    order = np.random.default_rng(1).permutation(len(people))
    return half.vectors[half.labeled_rows][order], people[order]


def make_circles(
    vectors: np.ndarray, people: np.ndarray, look_alikes: bool, random: np.random.Generator
) -> list[list[list[int]]]:
    """Divides the people into circles: for each circle and each of its people, their faces."""
    faces = [np.flatnonzero(people == person).tolist() for person in range(people.max() + 1)]
    means = np.stack([vectors[rows].mean(axis=0) for rows in faces])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    remaining = random.permutation(len(faces)).tolist()
    circles = []
    while remaining:
        first, *others = remaining
        if look_alikes:
            others = sorted(others, key=(-means @ means[first]).__getitem__)
        circle = [first, *others[: PEOPLE_PER_CIRCLE - 1]]
        remaining = [person for person in remaining if person not in set(circle)]
        circles.append([faces[person] for person in circle])
    return circles


def make_group_photos(circles: list[list[list[int]]], random: np.random.Generator) -> np.ndarray:
    """(n,) the photo of each face. People with the most remaining faces are photographed first."""
    photo_of = {}
    for circle in circles:
        remaining = [list(rows) for rows in circle]
        while any(remaining):
            n_people = random.integers(MIN_PEOPLE_PER_PHOTO, MAX_PEOPLE_PER_PHOTO + 1)
            ranks = sorted(remaining, key=lambda rows: (-len(rows), random.random()))
            photo = len(photo_of)
            photo_of.update({rows.pop(): photo for rows in ranks[:n_people] if rows})
    return np.array([photo_of[face] for face in range(len(photo_of))])


def count_violations(photos: np.ndarray, labels: np.ndarray) -> int:
    """The number of faces beyond the first with the same label in the same photo."""
    pairs = np.stack([photos, labels])[:, labels >= 0]
    return pairs.shape[1] - np.unique(pairs, axis=1).shape[1]


if __name__ == "__main__":
    main()
