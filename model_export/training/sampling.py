"""Which images form a training batch, as a function of the seed and the step number alone."""

from functools import lru_cache

import numpy as np

from facecluster.errors import InputError


def shuffled_batches(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The indices of batch number `step` when all n images are reshuffled in every epoch.

    Batches continue across the end of an epoch, so that all have the same size.

    Returns:
      (batch_size,) int64 indices below n.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"{n} images in batches of {batch_size}: both must be at least 1")
    positions = step * batch_size + np.arange(batch_size)
    epochs = range(positions[0] // n, positions[-1] // n + 1)
    orders = np.concatenate([_permutation(n, seed, epoch) for epoch in epochs])
    return orders[positions - epochs[0] * n]


def identity_batches(
    labels: np.ndarray, n_people: int, n_images: int, seed: int, step: int
) -> np.ndarray:
    """The indices of batch number `step`: n_images each of n_people, for triplet mining.

    Section 3.2 of the FaceNet paper (arXiv 1503.03832), which uses about 40 images per person.
    People are drawn at random among those with at least two images, and n_images of each, without
    repetition. If a person has fewer, all of them are used and further people fill the batch. The
    last person may also contribute fewer images, but a single one only if the batch size is odd and
    everyone else contributes two. If all people together do not fill the batch, each contributes
    further images; if there are none left, images repeat.

    Args:
      labels: (n,) int, the person of each image.
      n_people, n_images: at least 2 each.

    Returns:
      (n_people * n_images,) int64 indices below n.

    Raises:
      InputError: fewer than two people have two images.
    """
    if n_people < 2 or n_images < 2:
        raise ValueError(f"{n_people} people with {n_images} images: triplets need 2 of each")
    random = np.random.default_rng([seed, step])
    by_person = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[by_person], return_index=True, return_counts=True)
    eligible = random.permutation(np.flatnonzero(counts >= 2))
    if len(eligible) < 2:
        raise InputError(
            f"{len(eligible)} of {len(counts)} people have two images or more, and triplets need "
            "two such people: give more crops"
        )
    size = n_people * n_images
    takes = _images_per_person(counts[eligible], n_images, size)
    chosen = [
        by_person[starts[person] + random.permutation(counts[person])[:take]]
        for person, take in zip(eligible, takes, strict=False)  # as many people as needed
    ]
    return np.concatenate(chosen) if np.sum(takes) == size else _round_robin(chosen, size)


@lru_cache(maxsize=4)  # the steps of an epoch share one; a step across epochs needs two
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


def _images_per_person(counts: np.ndarray, n_images: int, size: int) -> np.ndarray:
    """How many images to take of each of the first people, `size` in all; everything if too few."""
    takes = np.minimum(counts, n_images)
    filled = np.cumsum(takes)
    if filled[-1] < size:
        return counts
    takes = takes[: np.searchsorted(filled, size) + 1]
    takes[-1] -= filled[len(takes) - 1] - size
    if takes[-1] == 1 and takes.max() > 2:  # a single image makes no pair
        takes[takes.argmax()] -= 1
        takes[-1] = 2
    return takes


def _round_robin(images: list[np.ndarray], size: int) -> np.ndarray:
    """Everyone's first image, everyone's second, and so on; repeated if they run out."""
    turns = np.concatenate([np.arange(len(own)) for own in images])
    return np.resize(np.concatenate(images)[np.argsort(turns, kind="stable")], size)
