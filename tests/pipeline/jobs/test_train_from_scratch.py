"""Tests of a training of a new network, which is long enough to learn something."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facecluster.model_export.crops import list_crops
from facecluster.model_export.networks.export import load_networks, weights_sha256
from facecluster.model_export.validation.calibration import calibration_table
from facecluster.model_export.validation.held_out import hold_out_people
from facecluster.pipeline.options import TrainOptions
from facecluster.transforms.faces.model_card import ModelCard
from facecluster.transforms.faces.saved_model import SavedModel
from tests.pipeline.training.tiny_models import keras_vectors, pixels_of, train

N_PEOPLE, N_CROPS = 40, 15
CROP_SIZE, CROP_MARGIN = 84, 20  # px
OPTIONS = TrainOptions(
    input_size=75, width=0.1, embedding_size=32, batch_size=30, epochs=2, steps_per_epoch=50,
    optimizer="momentum", learning_rate=0.1, center_loss_factor=0.01, flip=True, random_crop=True,
    rotation=10.0, color=0.2, standardization="per-image", validation_fraction=0.25,
)  # fmt: skip


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> Path:
    """Crops of people who are patterns of large blots.

    Crops of a person differ in position, brightness, contrast and noise.
    """
    folder = tmp_path_factory.mktemp("people")
    generator = np.random.default_rng(0)
    size = CROP_SIZE + 12
    for person in range(N_PEOPLE):
        (folder / f"P{person}").mkdir()
        blots = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        pattern = np.asarray(blots.resize((size, size), Image.Resampling.BICUBIC))
        for i in range(N_CROPS):
            top, left = generator.integers(0, 13, 2)
            crop = pattern[top : top + CROP_SIZE, left : left + CROP_SIZE]
            crop = crop * generator.uniform(0.6, 1.2) + generator.uniform(-40, 40)
            crop += generator.normal(0, 20, crop.shape)
            pixels = crop.clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"P{person}" / f"{i:02d}.png")
    made = {"options": {"crop_size": CROP_SIZE, "crop_margin": CROP_MARGIN}}
    (folder / "crops.json").write_text(json.dumps(made))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, crops) -> tuple[SavedModel, list[str]]:
    """The trained model and the reported lines; most of its time is TensorFlow's tracing."""
    return train(tmp_path_factory.mktemp("trained") / "out", OPTIONS, crops)


def scores_of(line: str) -> dict[str, float]:
    """The scores of a reported line."""
    return {
        name: float(value) for name, value in (score.split(" ") for score in line.split("  ")[1:])
    }


def test_a_network_from_scratch_by_softmax(crops, trained):
    model, lines = trained
    folder = Path(model.path).parent
    assert model.path == str(folder / "model")
    assert lines[0] == "training on 450 crops of 30 people, validating on 400 pairs"
    assert lines[1].startswith("before training  val_accuracy")
    assert lines[-1].startswith("epoch 2/2  ")
    assert {"cross_entropy", "center_loss", "val_auc"} <= set(lines[-1].split())
    assert list((folder / "tensorboard").rglob("events.out.tfevents.*"))

    card = model.card()
    network = load_networks(Path(model.path))["embed"]
    measured = card.measured
    assert replace(card, measured={}) == ModelCard(
        name="trained",
        sha256=weights_sha256(network),
        standardization="per-image",
        architecture="Inception-ResNet-v1, width 0.1",
        source="trained by facecluster on 450 crops of 30 people, loss softmax",
        license="that of its training data",
        embedding_space=card.sha256,
        input_size=75,
        margin=11,  # 84 - 20 px of face, seen through a window of 75
        dimensions=32,
    )
    assert not any("BatchNorm" in layer.name for layer in network.layers)

    # The exported model, the Keras file and the trained network, which made the scores, agree.
    pixels = pixels_of(crops, 75)
    vectors = model.call("embed", pixels)
    np.testing.assert_allclose(vectors, keras_vectors(model, pixels), atol=1e-5)
    assert measured["on"] == "150 crops of 10 people held out from the training"
    labels = list_crops([str(crops)]).labels
    held_out = hold_out_people(labels, OPTIONS.validation_fraction, OPTIONS.seed)
    expected = calibration_table(vectors[held_out], labels[held_out])
    assert len(measured["calibration"]["float32"]) == len(expected)
    for found, row in zip(measured["calibration"]["float32"], expected, strict=True):
        assert found == pytest.approx(row, abs=1e-3)  # rounding may move a pair over a threshold
    assert measured["float32"].keys() == {"accuracy", "validation_rate", "auc"}


def test_a_network_from_scratch_separates_unseen_people(trained):
    """100 steps of a narrow network; its accuracy rises from 0.62 to about 0.87."""
    _, lines = trained
    untrained, first, last = (scores_of(line) for line in lines[1:])
    assert last["val_accuracy"] > untrained["val_accuracy"] + 0.15
    assert last["val_auc"] > untrained["val_auc"] + 0.2
    assert last["loss"] < 0.6 * first["loss"]
