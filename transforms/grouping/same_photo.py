"""Two faces of one photo are two people: a constraint on who may be joined.

HDBSCAN* takes such should-not-link constraints in its selection of clusters (Campello et al. 2015,
section 5). Here they are in the tree that it selects from: an edge of the spanning forest that
would bring two people of too many photos together is left out, nearest edges first, so that no
branch of the hierarchy holds them both.
"""

import numpy as np

from facecluster.transforms.grouping.spanning_forest import Edges, components
from facecluster.transforms.tables.codec import unit_rows

# Nearer than this, two faces of a photo are taken for one person all the same: a mirror, a collage,
# a face that was found twice. One pair of strangers in ten million is as near.
SAME_FACE = 0.6
# Groups of faces are kept apart if they share more photos than this share of the smaller's faces:
# one face grouped wrongly, or one collage, should not keep a person with hundreds in two.
TOLERANCE = 0.1
NO_PHOTO = -1


def constrained_photos(photos: np.ndarray, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which photo keeps a face apart from others.

    Args:
      photos: (n,) int64, the photo of each face.
      stored: (n, d) embeddings.

    Returns:
      (photos, repeated): the same with -1 for faces alone in their photo and for the repetitions of
      a face in it; (n,) bool, faces that are or have a repetition.
    """
    order = np.argsort(photos, kind="stable")
    _, starts, counts = np.unique(photos[order], return_index=True, return_counts=True)
    constrained = np.full(len(photos), NO_PHOTO, np.int64)
    repeated = np.zeros(len(photos), bool)
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        faces = order[start : start + count]
        vectors = unit_rows(stored[faces])
        near = vectors @ vectors.T > 1 - SAME_FACE**2 / 2
        np.fill_diagonal(near, False)
        repeated[faces] = near.any(axis=1)
        first = ~np.tril(near).any(axis=1)  # not near any face before it
        constrained[faces[first]] = photos[faces[first]]
    return constrained, repeated


def keep_apart(forest: Edges, photos: np.ndarray) -> Edges:
    """The forest without the edges that would join people who were in photos together.

    Edges are taken from the lightest on. One is left out if the groups of faces that it would join
    have more photos in common than TOLERANCE of the smaller group's faces.

    Args:
      forest: as `minimum_spanning_forest` gives it.
      photos: (n,) int64, the photo that keeps a face apart from others, -1 for none.
    """
    component = components(forest, len(photos))
    meets = np.flatnonzero(_holds_two(component, photos)[component[forest.i]])
    if not len(meets):
        return forest
    meets = meets[np.argsort(forest.weight[meets], kind="stable")]
    refused = np.zeros(len(forest.i), bool)
    parent: dict[int, int] = {}
    size: dict[int, int] = {}
    seen: dict[int, set[int]] = {}

    def root(face: int) -> int:
        if face not in parent:
            parent[face], size[face] = face, 1
            seen[face] = {int(photos[face])} - {NO_PHOTO}
        while parent[face] != face:
            parent[face] = parent[parent[face]]
            face = parent[face]
        return face

    for edge in meets.tolist():
        a, b = root(int(forest.i[edge])), root(int(forest.j[edge]))
        few, many = sorted((a, b), key=lambda group: len(seen[group]))
        if len(seen[few] & seen[many]) > TOLERANCE * min(size[a], size[b]):
            refused[edge] = True
            continue
        parent[few] = many
        size[many] += size[few]
        seen[many] |= seen.pop(few)
    return Edges(forest.i[~refused], forest.j[~refused], forest.weight[~refused])


def photos_in_common(labels: np.ndarray, photos: np.ndarray, a: np.ndarray, b: np.ndarray):
    """(m,) int64: in how many photos both label a and label b have a face.

    Args:
      labels: (n,) int64 from 0.
      photos: (n,) int64, -1 for none.
      a, b: (m,) labels.
    """
    faces = np.flatnonzero(photos != NO_PHOTO)
    n_photos = int(photos.max(initial=0)) + 1
    keys = np.unique(labels[faces].astype(np.int64) * n_photos + photos[faces])
    starts = {label: np.searchsorted(keys, np.stack([of, of + 1]) * n_photos)
              for label, of in (("a", a), ("b", b))}  # fmt: skip
    # The photos of the one with fewer are looked for among the other's.
    a_has_fewer = np.diff(starts["a"], axis=0)[0] <= np.diff(starts["b"], axis=0)[0]
    start, stop = np.where(a_has_fewer, starts["a"], starts["b"])
    pair = np.repeat(np.arange(len(a)), stop - start)
    place = np.arange(len(pair)) - np.repeat(np.cumsum(stop - start) - (stop - start), stop - start)
    photo = keys[start[pair] + place] % n_photos
    wanted = np.where(a_has_fewer, b, a)[pair] * n_photos + photo
    return np.bincount(pair[np.isin(wanted, keys)], minlength=len(a))


def _holds_two(component: np.ndarray, photos: np.ndarray) -> np.ndarray:
    """(n_components,) bool: which components hold two faces of one photo."""
    faces = np.flatnonzero(photos != NO_PHOTO)
    keys = component[faces].astype(np.int64) * (photos.max(initial=0) + 1) + photos[faces]
    keys, counts = np.unique(keys, return_counts=True)
    holds = np.zeros(component.max(initial=-1) + 1, bool)
    holds[keys[counts > 1] // (photos.max(initial=0) + 1)] = True
    return holds
