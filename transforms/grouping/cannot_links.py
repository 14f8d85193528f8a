"""Cannot-link constraints: two faces in one photo are two people.

HDBSCAN* can respect should-not-link constraints when it selects clusters (Campello et al. 2015,
section 5). Here they shape the tree that it selects from: going through the edges of the spanning
forest from the nearest on, an edge is dropped if it would join two groups of faces that have too
many photos in common. Then no branch of the hierarchy holds both groups.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from facecluster.transforms.grouping.spanning_forest import NO_EDGES, Edges, component_labels
from facecluster.transforms.similarity.impostors import Impostors
from facecluster.transforms.similarity.normalization import similarities
from facecluster.transforms.tables.codec import unit_rows

# Two faces in a photo count as one person after all if two different people are as similar with
# less than this probability: a mirror, or a face detected twice.
SAME_FACE_PROBABILITY = 1e-7
# A photo is a collage, in which people appear several times, if many pairs of its faces are as
# similar as two different people are with less than this probability: at least COLLAGE_PAIRS, and
# at least one for two faces. In a family photo, one or two pairs may be.
COLLAGE_PROBABILITY, COLLAGE_PAIRS = 1e-4, 3
# Groups of faces may not be joined if they have more photos in common than this fraction of the
# smaller group's faces. One face grouped wrongly, or one collage, should not split a person who has
# hundreds of photos.
TOLERANCE = 0.1


@dataclass(frozen=True, eq=False)
class CannotLinks:
    """Which faces cannot be one person because they are in one photo.

    Attributes:
      faces, photos: (m,) int64, faces that are in photos with others; two faces of one photo cannot
        be linked. Faces that repeat an earlier face in their photo, and those in collages, are not
        among them.
      repeated: (n,) bool, faces that repeat another face in their photo or are repeated.
      appearances: (n,) int64, for a face that repeats an earlier one in its photo the first such
        face; for other faces, and those in collages, the face.
      collages: (c,) int64, the photos that look like collages, ascending.
    """

    faces: np.ndarray
    photos: np.ndarray
    repeated: np.ndarray
    appearances: np.ndarray
    collages: np.ndarray

    def of_shots(self, shots: np.ndarray) -> "CannotLinks":
        """The links between shots, each by its first face.

        Photos in which the same shots are seen, as in the frames of a burst, count once.

        Args:
          shots: (n,) int64, as `first_of_shots` gives them.
        """
        if np.array_equal(shots[self.faces], self.faces):
            return self
        photos, faces = np.unique(np.stack([self.photos, shots[self.faces]]), axis=1)
        _, starts = np.unique(photos, return_index=True)
        # A photo's shots as one number: the sum of their hashes.
        seen = np.add.reduceat(_hash_numbers(faces), starts)
        same = np.unique(seen, return_index=True, return_inverse=True)
        is_first = same[1][same[2]] == np.arange(len(starts))
        kept = np.repeat(is_first, np.diff(np.append(starts, len(photos))))
        return replace(self, faces=faces[kept], photos=photos[kept])


def _hash_numbers(numbers: np.ndarray) -> np.ndarray:
    """(m,) uint64: well distributed hashes of (m,) int64 (splitmix64, Steele et al. 2014)."""
    hashes = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    return hashes


def find_cannot_links(
    photos: np.ndarray, vectors: np.ndarray, scores: np.ndarray, impostors: Impostors
) -> CannotLinks:
    """Finds the faces that cannot be linked with others because they are in one photo.

    Args:
      photos: (n,) int64, the photo of each face.
      vectors, scores: (n, d) and (n,), the normalized faces.
      impostors: of the collection.
    """
    same_face = impostors.similarity_at(SAME_FACE_PROBABILITY)
    same_person = impostors.similarity_at(COLLAGE_PROBABILITY)
    order = np.argsort(photos, kind="stable")
    _, starts, counts = np.unique(photos[order], return_index=True, return_counts=True)
    constrained = [np.empty(0, np.int64)]
    repeated = np.zeros(len(photos), bool)
    appearances = np.arange(len(photos))
    collages = []
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        faces = order[start : start + count]
        units = unit_rows(vectors[faces])
        similar = similarities(units @ units.T, scores[faces][:, None], scores[faces])
        np.fill_diagonal(similar, -np.inf)
        near = similar > same_face
        repeated[faces] = near.any(axis=1)
        n_pairs = np.count_nonzero(similar > same_person) / 2
        if n_pairs >= max(COLLAGE_PAIRS, count / 2):
            collages.append(photos[order[start]])
            continue
        earlier = np.tril(near)
        first = ~earlier.any(axis=1)
        for later in np.flatnonzero(~first):
            appearances[faces[later]] = appearances[faces[np.argmax(earlier[later])]]
        constrained.append(faces[first])
    linked = np.concatenate(constrained)
    return CannotLinks(linked, photos[linked], repeated, appearances, np.array(collages, np.int64))


def apply_cannot_links(forest: Edges, n: int, links: CannotLinks) -> tuple[Edges, Edges]:
    """Drops the edges that would join people who are in photos together.

    Edges are taken in the order of their weights. An edge is dropped if the groups of faces that it
    would join have more photos in common than TOLERANCE times the smaller group's faces.

    Args:
      forest: as `minimum_spanning_forest` gives it.
      n: number of faces.
      links: between them.

    Returns:
      The edges that are kept, and those that are dropped.
    """
    component = component_labels(forest, n)
    holds = _has_cannot_link(component, links)
    affected = np.flatnonzero(holds[component[forest.i]])
    if not len(affected):
        return forest, NO_EDGES
    affected = affected[np.argsort(forest.weight[affected], kind="stable")]
    is_dropped = np.zeros(len(forest.i), bool)
    parent: dict[int, int] = {}
    size: dict[int, int] = {}
    seen: defaultdict[int, set[int]] = defaultdict(set)
    linked = np.flatnonzero(holds[component[links.faces]])
    for face, photo in zip(
        links.faces[linked].tolist(), links.photos[linked].tolist(), strict=True
    ):
        seen[face].add(photo)

    def root(face: int) -> int:
        if face not in parent:
            parent[face], size[face] = face, 1
        while parent[face] != face:
            parent[face] = parent[parent[face]]
            face = parent[face]
        return face

    for edge in affected.tolist():
        a, b = root(int(forest.i[edge])), root(int(forest.j[edge]))
        few, many = sorted((a, b), key=lambda group: len(seen[group]))
        if len(seen[few] & seen[many]) > TOLERANCE * min(size[a], size[b]):
            is_dropped[edge] = True
            continue
        parent[few] = many
        size[many] += size[few]
        seen[many] |= seen.pop(few)
    return forest.part(~is_dropped), forest.part(is_dropped)


def count_common_photos(
    labels: np.ndarray, photos: np.ndarray, a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """(m,) int64: the number of photos in which both label a and label b have a face.

    Args:
      labels, photos: (k,) int64 from 0, the label and the photo of each of some faces.
      a, b: (m,) labels.
    """
    n_photos = int(photos.max(initial=0)) + 1
    keys = np.unique(labels.astype(np.int64) * n_photos + photos)
    starts = {label: np.searchsorted(keys, np.stack([of, of + 1]) * n_photos)
              for label, of in (("a", a), ("b", b))}  # fmt: skip
    # The photos of the label that has fewer are searched for among the other's.
    a_has_fewer = np.diff(starts["a"], axis=0)[0] <= np.diff(starts["b"], axis=0)[0]
    start, stop = np.where(a_has_fewer, starts["a"], starts["b"])
    pair = np.repeat(np.arange(len(a)), stop - start)
    place = np.arange(len(pair)) - np.repeat(np.cumsum(stop - start) - (stop - start), stop - start)
    photo = keys[start[pair] + place] % n_photos
    wanted = np.where(a_has_fewer, b, a)[pair] * n_photos + photo
    return np.bincount(pair[np.isin(wanted, keys)], minlength=len(a))


def _has_cannot_link(component: np.ndarray, links: CannotLinks) -> np.ndarray:
    """(n_components,) bool: which components contain two faces in one photo."""
    n_photos = links.photos.max(initial=0) + 1
    keys = component[links.faces].astype(np.int64) * n_photos + links.photos
    keys, counts = np.unique(keys, return_counts=True)
    holds = np.zeros(component.max(initial=-1) + 1, bool)
    holds[keys[counts > 1] // n_photos] = True
    return holds
