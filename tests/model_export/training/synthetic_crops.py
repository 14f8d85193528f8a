"""Crops and batches that the tests of this folder share."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from facecluster.model_export.crops import Crops, list_crops
from facecluster.model_export.training.augmentation import Augmentation
from facecluster.model_export.training.batches import training_batches

ALL_AUGMENTATIONS = Augmentation(flip=True, random_crop=True, rotation=15, color=0.5)


def make_face(seed: int, size: int = 40) -> np.ndarray:
    """(size, size, 3) uint8, smooth, so that resampling changes it little."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC))


def write_crops(folder: Path, images: Mapping[str, np.ndarray]) -> Crops:
    """The crops of a folder with these images, by PERSON/NAME.EXTENSION."""
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return list_crops([str(folder)])


def write_twelve_crops(folder: Path) -> Crops:
    """Three crops each of four people, 40 px; crop i of person p is make_face(10 * p + i)."""
    return write_crops(
        folder, {f"{p}/{i}.png": make_face(10 * p + i) for p in range(4) for i in range(3)}
    )


def take_batches(
    crops: Crops,
    indices: Callable[[int], np.ndarray],
    augmentation: Augmentation = ALL_AUGMENTATIONS,
    seed: int = 0,
    first_step: int = 0,
    n: int = 3,
    input_size: int = 32,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first n training batches: (pixels, labels) each."""
    batches = training_batches(crops, indices, input_size, augmentation, seed, first_step)
    return list(itertools.islice(batches.as_numpy_iterator(), n))
