"""Measures what training improves: heads compared with PCA, harmonic embeddings, a small network.

    facecluster crops --input FOLDER --output CROPS --crop-size 160 --crop-margin 32
    python benchmarks/training.py --crops CROPS [--parts heads harmonic scratch]
                                  [--work runs/training]

FOLDER holds one folder of photos per person. Of the people with several photos, a fifth, chosen by
a hash of their names, is held out of the training and scored: by LFW's protocol on random pairs,
and by VAL at a false accept rate of 0.001 over all pairs.
"""

import argparse
import hashlib
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from facecluster.model_export.crops import Crops, list_crops, select_people
from facecluster.model_export.face_model import find_model
from facecluster.model_export.networks.export import export, load_networks, weights_sha256
from facecluster.model_export.validation.calibration import validation_rate
from facecluster.model_export.validation.held_out import HeldOut, sample_pairs
from facecluster.model_export.validation.validate import embed_with_model
from facecluster.model_export.weights import zoo
from facecluster.pipeline.jobs.train import TrainJob
from facecluster.pipeline.options import EmbedOptions, TrainOptions
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.tables.codec import decode_embeddings, fit_pca128, make_codec

# These options were chosen on a fifth of the training people (--validation-fraction 0.2), never on
# the people scored here.
HEAD = TrainOptions(
    backbone=EmbedOptions.model, validation_fraction=0.0, dropout=0.0, steps_per_epoch=50, epochs=4
)
TRIPLET_HEAD = replace(
    HEAD, loss="triplet", people_per_batch=60, images_per_person=5, learning_rate=0.02
)
SOFTMAX_HEAD = replace(
    HEAD, loss="softmax", batch_size=180, learning_rate=0.5, center_loss_factor=10.0,
    weight_decay=0.0,
)  # fmt: skip
HARMONIC_SIZE = 64
HARMONIC_HEAD = replace(TRIPLET_HEAD, epochs=16, weight_decay=0.0)
NARROW = TrainOptions(
    width=0.25, embedding_size=128, input_size=96, epochs=4, steps_per_epoch=100, flip=True,
    learning_rate=0.05, validation_fraction=0.0, dropout=0.0,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crops", required=True, type=Path, help="one folder of crops a person")
    parser.add_argument("--work", type=Path, default=Path("runs/training"), help="of the models")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    arguments = parser.parse_args()

    crops = select_people(list_crops([str(arguments.crops)]), 2)
    is_scored = np.array([is_held_out(person) for person in crops.people])
    held_out = crops.select(is_scored[crops.labels])
    training = crops.select(~is_scored[crops.labels])
    sources = [str(arguments.crops / person) for person in training.people]
    print(f"training: {len(training):,} crops of {len(training.people):,} people; held out: "
          f"{len(held_out):,} crops of {len(held_out.people):,} people\n")  # fmt: skip
    for part in arguments.parts:
        PARTS[part](sources, training, held_out, arguments.work)


def is_held_out(person: str) -> bool:
    return int(hashlib.sha256(person.encode()).hexdigest(), 16) % 5 == 0


def compare_heads(sources: list[str], training: Crops, held_out: Crops, work: Path) -> None:
    """Heads of 128 dimensions on the frozen default model."""
    base = SavedModel(str(zoo.fetch(EmbedOptions.model)))
    vectors = embed_with_model(base, held_out)
    codec = make_codec("pca128", fit_pca128(embed_with_model(base, training)))
    vectors_of = {
        "model's vectors, 512 float32": vectors,
        "128 bytes by PCA": decode_embeddings(codec.encode(vectors)),
    }
    for name, options in (
        ("softmax, center loss", SOFTMAX_HEAD),
        ("semi-hard triplets", TRIPLET_HEAD),
    ):
        model = train(work / f"head-{options.loss}", options, sources)
        vectors_of[f"head of 128, {name}"] = embed_with_model(model, held_out)
    pairs = HeldOut(held_out, sample_pairs(held_out.labels, held_out.names, seed=0))
    print(f"{'heads on ' + EmbedOptions.model:36}accuracy    VAL@FAR 0.001")
    for name, vectors in vectors_of.items():
        scores = pairs.score(vectors)
        print(f"{name:36}{scores['accuracy']:8.4f}{scores['validation_rate']:17.4f}")
    print()


def compare_harmonic(sources: list[str], training: Crops, held_out: Crops, work: Path) -> None:
    """A weak head v1, and a head v2 trained to be compatible with it."""
    base = SavedModel(str(zoo.fetch(EmbedOptions.model)))
    old = make_weak_head(base, work / "harmonic-v1")
    options = replace(HARMONIC_HEAD, compatible_with=old.path)
    new = train(work / "harmonic-v2", options, sources)
    v1, v2 = (embed_with_model(model, held_out) for model in (old, new))
    print(f"harmonic embeddings, {HARMONIC_SIZE} dimensions    VAL@FAR 0.001")
    for name, first, second in (("v2, v2", v2, v2), ("v2, v1", v2, v1), ("v1, v1", v1, v1)):
        print(f"{name:36}{validation_rate(first, second, held_out.labels):12.4f}")
    print()


def make_weak_head(base: SavedModel, folder: Path) -> SavedModel:
    """Exports a random projection of the model's vectors as a model."""
    from facecluster.model_export.networks.heads import Projection, linear_head, on_backbone

    random = np.random.default_rng(0)
    card = base.card()
    kernel = random.normal(size=(card.dimensions, HARMONIC_SIZE)).astype(np.float32)
    head = linear_head(Projection(kernel, np.zeros(HARMONIC_SIZE, np.float32)))
    network = on_backbone(load_networks(Path(base.path))["embed"], head)
    export(
        {"embed": network},
        replace(
            card, name="v1", architecture="random head", dimensions=HARMONIC_SIZE,
            source="a random projection", sha256=weights_sha256(network), embedding_space="",
            accuracy={}, measured={},
        ),
        folder,
    )  # fmt: skip
    return SavedModel(str(folder))


def train_from_scratch(sources: list[str], training: Crops, held_out: Crops, work: Path) -> None:
    """A network of a fraction of the published width, before and after some hundred steps."""
    started = time.monotonic()
    pairs = HeldOut(held_out, sample_pairs(held_out.labels, held_out.names, seed=0))
    model = train(work / "scratch", NARROW, sources)
    seconds = time.monotonic() - started
    untrained = train(
        work / "scratch-untrained",
        replace(NARROW, epochs=1, steps_per_epoch=1, learning_rate=0.0), sources,
    )  # fmt: skip
    print(f"{'narrow network, width ' + str(NARROW.width):36}accuracy    VAL@FAR 0.001")
    steps = NARROW.epochs * NARROW.steps_per_epoch
    for name, scored in (("untrained", untrained), (f"{steps} steps, {seconds:.0f} s", model)):
        scores = pairs.score(embed_with_model(scored, held_out))
        print(f"{name:36}{scores['accuracy']:8.4f}{scores['validation_rate']:17.4f}")
    print()


def train(folder: Path, options: TrainOptions, sources: list[str]) -> SavedModel:
    """Trains and exports a model, unless the folder has it."""
    return SavedModel(str(TrainJob(folder, options, find_model, print)(sources)))


PARTS = {"heads": compare_heads, "harmonic": compare_harmonic, "scratch": train_from_scratch}

if __name__ == "__main__":
    main()
