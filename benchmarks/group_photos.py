"""What it adds to know that two faces of one photo are two people.

    python benchmarks/group_photos.py --images LFW [--work runs/quality] [--max-distance 0.89]

LFW's photos show one labelled person each. Their faces, embedded as in quality.py, are put together
as if they had been photographed together, two to six different people a photo: people of a circle
who meet again and again. Circles are of eight people at random, or of eight who look alike, as
relatives do. Each half is grouped with the default options and with --ignore-photos.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from quality import HALVES, Half, read_half, through_codec

from facecluster.pipeline.evaluation.clustering_metrics import bcubed, pairwise
from facecluster.transforms.grouping.group_faces import group_faces
from facecluster.transforms.grouping.options import ClusterOptions

CIRCLE = 8
PEOPLE_A_PHOTO = (2, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/quality"))
    parser.add_argument("--max-distance", type=float, default=ClusterOptions.max_distance)
    arguments = parser.parse_args()
    joining = {"max_distance": arguments.max_distance, "merge_distance": arguments.max_distance}
    through = through_codec("pca128")
    print("people    circles of   photos are   BCubed P, R, F          pairwise P, R, F        "
          "together wrongly")  # fmt: skip
    for name in HALVES:
        half = read_half(arguments.images, name, arguments.work)
        vectors, people = labelled_faces_of(half)
        vectors = through(vectors)
        for kind in ("anybody", "look-alikes"):
            random = np.random.default_rng(0)
            photos = group_photos(circles(vectors, people, kind == "look-alikes", random), random)
            for ignore in (True, False):
                options = replace(ClusterOptions(), ignore_photos=ignore, **joining)
                found = group_faces(vectors, photos, options).labels.labels
                figures = (*bcubed(people, found), *pairwise(people, found))
                print(
                    f"{name:9} {kind:12} {'ignored' if ignore else 'used':10}",
                    *(f"{figure:7.4f}" for figure in figures),
                    f"{violations(photos, found):9}",
                )


def labelled_faces_of(half: Half) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) vectors of the labelled faces in random order, (n,) their people."""
    names = [Path(uri).parent.name for uri in half.faces_of]
    people = np.unique(names, return_inverse=True)[1]
    order = np.random.default_rng(1).permutation(len(people))
    return half.vectors[list(half.faces_of.values())][order], people[order]


def circles(vectors, people, alike: bool, random) -> list[list[list[int]]]:
    """People by circles of CIRCLE: for each circle, for each person, their faces."""
    faces = [np.flatnonzero(people == person).tolist() for person in range(people.max() + 1)]
    means = np.stack([vectors[rows].mean(axis=0) for rows in faces])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    left = random.permutation(len(faces)).tolist()
    found = []
    while left:
        first = left[0]
        others = left[1:]
        if alike:
            others = sorted(others, key=(-means @ means[first]).__getitem__)
        circle = [first, *others[: CIRCLE - 1]]
        left = [person for person in left if person not in set(circle)]
        found.append([faces[person] for person in circle])
    return found


def group_photos(groups, random) -> np.ndarray:
    """(n,) the photo of each face: two to six people of a circle, those with most faces first."""
    photo_of = {}
    for circle in groups:
        waiting = [list(rows) for rows in circle]
        while any(waiting):
            size = random.integers(PEOPLE_A_PHOTO[0], PEOPLE_A_PHOTO[1] + 1)
            ranks = sorted(waiting, key=lambda rows: (-len(rows), random.random()))
            photo = len(photo_of)
            photo_of.update({rows.pop(): photo for rows in ranks[:size] if rows})
    return np.array([photo_of[face] for face in range(len(photo_of))])


def violations(photos: np.ndarray, found: np.ndarray) -> int:
    """Faces in a photo that shows the same found person already: all are wrong here."""
    pairs = np.stack([photos, found])[:, found >= 0]
    return pairs.shape[1] - np.unique(pairs, axis=1).shape[1]


if __name__ == "__main__":
    main()
