"""Tiny models and synthetic crops that the tests of trainings share."""

from pathlib import Path

import keras
import numpy as np
from PIL import Image

from facecluster.model_export.networks.export import (
    export,
    load_networks,
    standardize,
    weights_sha256,
)
from facecluster.pipeline.jobs.train import TrainJob
from facecluster.pipeline.options import TrainOptions
from facecluster.transforms.faces.model_card import ModelCard
from facecluster.transforms.faces.saved_model import SavedModel

N_PEOPLE, N_CROPS, CROP_SIZE = 8, 6, 40
PEOPLE = range(N_PEOPLE)
SIZE, DIMENSIONS, MARGIN = 32, 16, 6  # of the models


def write_crops(folder: Path, people=PEOPLE, n_crops=N_CROPS, size=CROP_SIZE) -> Path:
    """Synthetic crops: a person is a pattern of a few colored squares, with noise in each crop."""
    for person in people:
        pattern = np.random.default_rng(person).integers(0, 256, (4, 4, 3))
        (folder / f"P{person}").mkdir(parents=True)
        for i in range(n_crops):
            noise = np.random.default_rng([person, i]).integers(-60, 60, (4, 4, 3))
            pixels = np.clip(pattern + noise, 0, 255).astype(np.uint8)
            image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
            image.save(folder / f"P{person}" / f"{i}.png")
    return folder


def write_model(folder: Path, seed: int, dimensions: int = DIMENSIONS, codec=None) -> SavedModel:
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(8, 5, 4, activation="relu")(x)
    x = keras.layers.Conv2D(16, 3, 2, activation="relu")(x)
    x = keras.layers.Dense(dimensions)(keras.layers.Flatten()(x))
    x = keras.layers.Activation("linear", name="prelogits")(x)
    network = keras.Model(inputs, keras.layers.UnitNormalization()(x))
    card = ModelCard(
        name=f"model-{seed}",
        sha256=weights_sha256(network),
        standardization="per-image",
        architecture="two convolutions",
        input_size=SIZE,
        margin=MARGIN,
        dimensions=dimensions,
    )
    export({"embed": network}, card, folder, codec)
    return SavedModel(str(folder))


def train(folder: Path, options: TrainOptions, *sources) -> tuple[SavedModel, list[str]]:
    """The trained model, and the reported lines."""
    lines: list[str] = []
    job = TrainJob(folder, options, SavedModel, lines.append)
    return SavedModel(str(job([str(source) for source in sources]))), lines


def pixels_of(crops: Path, size: int) -> np.ndarray:
    """The central windows of all crops, sorted by name."""
    images = []
    for path in sorted(crops.glob("*/*.png")):
        with Image.open(path) as image:
            edge = (image.width - size) // 2
            images.append(np.asarray(image.crop((edge, edge, edge + size, edge + size))))
    return np.stack(images)


def keras_vectors(model: SavedModel, pixels: np.ndarray) -> np.ndarray:
    network = load_networks(Path(model.path))["embed"]
    return network(standardize(pixels, model.card().standardization), training=False).numpy()
