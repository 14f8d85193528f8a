"""Tests of the train job with tiny networks and synthetic crops."""

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from facecluster.errors import InputError, UsageError
from facecluster.model_export.crops import list_crops
from facecluster.model_export.networks.export import (
    load_networks,
    weights_sha256,
)
from facecluster.model_export.validation.pairs import read_pairs
from facecluster.model_export.validation.validate import embed_with_model, validate_pairs
from facecluster.pipeline.jobs.train import TrainJob
from facecluster.pipeline.options import TrainOptions
from facecluster.transforms.faces.model_card import ModelIdentity
from facecluster.transforms.faces.saved_model import ModelError, SavedModel
from facecluster.transforms.inputs.folders import Rules
from tests.pipeline.training.tiny_models import (
    MARGIN,
    SIZE,
    keras_vectors,
    pixels_of,
    train,
    write_crops,
    write_model,
)

OTHER_PEOPLE = range(20, 24)
TINY = TrainOptions(epochs=2, steps_per_epoch=2, validation_fraction=0.0, learning_rate=0.01)
HEAD = replace(TINY, embedding_size=8, batch_size=8)
TRIPLETS = replace(TINY, loss="triplet", people_per_batch=3, images_per_person=3)


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> Path:
    return write_crops(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> SavedModel:
    return write_model(tmp_path_factory.mktemp("models") / "base", seed=1)


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> SavedModel:
    """A model of other dimensions than `base`, with a codec."""
    random = np.random.default_rng(0)
    codec = {
        "mean": random.normal(size=12).astype(np.float32),
        "components": random.normal(size=(12, 128)).astype(np.float32),
    }
    return write_model(tmp_path_factory.mktemp("models") / "old", 2, dimensions=12, codec=codec)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# ---- the exported model ----


@pytest.mark.slow  # building and tracing the network takes long, however narrow it is
def test_a_network_from_scratch_by_triplets(tmp_path, crops):
    options = replace(
        TRIPLETS, input_size=75, width=0.05, embedding_size=8, mining="batch-hard", epochs=1,
        steps_per_epoch=1,
    )  # fmt: skip
    model, lines = train(tmp_path / "out", options, crops)
    assert "active_triplets" in lines[-1]
    assert model.card().dimensions == 8
    assert model.card().margin == 15  # 32 at 160 px: there is no crops.json
    pixels = np.random.default_rng(0).integers(0, 256, (3, 75, 75, 3), np.uint8)
    vectors = model.call("embed", pixels)
    np.testing.assert_allclose(vectors, keras_vectors(model, pixels), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.fixture(scope="module")
def head(tmp_path_factory, crops, base) -> Path:
    """The folder of a training of a head on `base`, two epochs long."""
    folder = tmp_path_factory.mktemp("head") / "out"
    train(folder, replace(HEAD, backbone=base.path, name="head"), crops)
    return folder


def test_head_on_a_frozen_model(head, crops, base):
    model = SavedModel(str(head / "model"))
    card = model.card()
    assert card.name == "head"
    assert card.architecture == "two convolutions with a linear head"
    assert card.trained_from == ModelIdentity("model-1", base.card().sha256)
    assert (card.input_size, card.margin) == (SIZE, MARGIN)
    assert card.standardization == "per-image"
    assert card.dimensions == 8
    assert card.embedding_space == card.sha256 != base.card().sha256
    pixels = pixels_of(crops, SIZE)
    vectors = model.call("embed", pixels)
    np.testing.assert_allclose(vectors, keras_vectors(model, pixels), atol=1e-5)
    # Apart from the normalization, the head is a linear function of the frozen model's vectors.
    affine = np.c_[base.call("embed", pixels), np.ones(len(pixels))]
    weights = load_networks(Path(model.path))["embed"].get_layer("head").get_weights()
    projected = affine @ np.vstack(weights)
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, projected, atol=1e-4)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, crops, base) -> Path:
    """The folder of a training that starts from `base`, two epochs long."""
    folder = tmp_path_factory.mktemp("tuned") / "out"
    train(folder, replace(TRIPLETS, start_from=base.path, flip=True), crops)
    return folder


def test_training_continues_from_an_exported_model(tuned, crops, base):
    model = SavedModel(str(tuned / "model"))
    card = model.card()
    for name in ("architecture", "input_size", "margin", "standardization", "dimensions"):
        assert getattr(card, name) == getattr(base.card(), name)
    assert card.sha256 != base.card().sha256
    pixels = pixels_of(crops, SIZE)
    vectors = model.call("embed", pixels)
    np.testing.assert_allclose(vectors, keras_vectors(model, pixels), atol=1e-5)
    assert np.abs(vectors - base.call("embed", pixels)).max() > 1e-3  # the weights changed
    config = json.dumps(load_networks(Path(model.path))["embed"].get_config())
    assert "L2" not in config  # weight decay is not exported


@pytest.fixture(scope="module")
def softmax_tuned(tmp_path_factory, crops, base) -> SavedModel:
    """The model of a training by softmax that starts from `base`, one epoch long."""
    return train(tmp_path_factory.mktemp("softmax") / "out", softmax_options(base), crops)[0]


def softmax_options(base: SavedModel) -> TrainOptions:
    return replace(TINY, start_from=base.path, batch_size=8, flip=True, epochs=1)


def test_format_of_the_crops_makes_no_difference(tmp_path, crops, base, softmax_tuned):
    with tarfile.open(tmp_path / "crops.tar", "w") as tar:
        tar.add(crops, ".")
    with tf.io.TFRecordWriter(str(tmp_path / "crops.tfrecord")) as writer:
        for path in crops.glob("*/*.png"):
            values = {
                "image/encoded": path.read_bytes(),
                "image/class/text": path.parent.name.encode(),
                "image/filename": path.name.encode(),
            }
            features = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for name, value in values.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    for name in ("crops.tar", "crops.tfrecord"):
        model, _ = train(tmp_path / f"from {name}", softmax_options(base), tmp_path / name)
        assert model.card().sha256 == softmax_tuned.card().sha256


def test_model_compatible_with_another(tmp_path, crops, base, old):
    options = replace(TRIPLETS, backbone=base.path, compatible_with=old.path, epochs=1)
    model, _ = train(tmp_path / "out", options, crops)
    card, old_card = model.card(), old.card()
    assert card.embedding_space == old_card.embedding_space != card.sha256
    assert card.compatible_with == ModelIdentity("model-2", old_card.sha256)
    assert card.dimensions == 12
    codec = model.codec_arrays()
    assert codec.keys() == {"mean", "components"}
    for name, array in old.codec_arrays().items():
        np.testing.assert_array_equal(codec[name], array)
    # Its vectors are near the old model's of the same person; those of `base` are not comparable.
    pixels = pixels_of(crops, SIZE)
    cosines = np.sum(model.call("embed", pixels) * old.call("embed", pixels), axis=1)
    assert cosines.mean() > 0.9


# ---- continuing ----


def test_finished_training_run_again_changes_nothing(tuned, crops, base):
    before = files_of(tuned)
    model, lines = train(tuned, replace(TRIPLETS, start_from=base.path, flip=True), crops)
    assert lines == ["training on 48 crops of 8 people"]
    after = files_of(tuned)
    # A .keras file contains the time it was written.
    changed = {name for name in before if after.get(name) != before[name]}
    assert after.keys() == before.keys()
    assert all(name.startswith(("model/keras/", "model/saved_model/")) for name in changed)
    assert weights_sha256(load_networks(Path(model.path))["embed"]) == model.card().sha256


def test_training_with_more_epochs_equals_one_without_a_break(tuned, tmp_path, crops, base):
    shutil.copytree(tuned, tmp_path / "on")
    options = replace(TRIPLETS, start_from=base.path, flip=True, epochs=3)
    on, lines = train(tmp_path / "on", replace(options, name="longer"), crops)
    assert [line.partition("  ")[0] for line in lines[1:]] == ["epoch 3/3"]
    assert on.card().name == "longer"
    at_once, _ = train(tmp_path / "at once", options, crops)
    assert on.card().sha256 == at_once.card().sha256


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"triplet_margin": 0.3}, "was made with triplet_margin 0.2, now it is 0.3"),
        ({"seed": 1}, "with seed 0, now it is 1"),
        ({"flip": False}, "with flip True, now it is False"),
        ({"crop_margin": 7}, "with crop_margin 6, now it is 7"),
        ({"steps_per_epoch": 3}, "with steps_per_epoch 2, now it is 3"),
    ],
)
def test_other_options_are_refused(tuned, crops, base, change, sentence):
    before = files_of(tuned)
    options = replace(replace(TRIPLETS, start_from=base.path, flip=True), **change)
    with pytest.raises(UsageError, match=f"{sentence}: take another output folder"):
        train(tuned, options, crops)
    assert files_of(tuned) == before


def test_other_crops_or_another_model_are_refused(tuned, tmp_path, crops, base):
    options = replace(TRIPLETS, start_from=base.path, flip=True)
    with pytest.raises(UsageError, match="crops_sha256"):
        train(tuned, options, crops / "P0", crops / "P1")
    shutil.copytree(base.path, tmp_path / "base")
    copied = replace(options, start_from=str(tmp_path / "base"))
    train(tmp_path / "out", replace(copied, epochs=1), crops)
    shutil.rmtree(tmp_path / "base")
    write_model(tmp_path / "base", seed=3)  # another model at the same path
    with pytest.raises(UsageError, match="start_from_sha256"):
        train(tmp_path / "out", copied, crops)


def test_only_the_leftovers_of_a_killed_run_are_removed(head, tmp_path, crops, base):
    folder = tmp_path / "out"
    options = replace(HEAD, backbone=base.path)
    shutil.copytree(head, folder)
    kept = {"training.json", "checkpoint.npz", "facecluster.log", "vectors", "tensorboard", "model"}
    (folder / "facecluster.log").write_text("a log")
    (folder / "model.1f.tmp" / "keras").mkdir(parents=True)
    (folder / "model.1f.old" / "keras").mkdir(parents=True)
    (folder / "checkpoint.npz.tmp").write_bytes(b"half")
    (folder / "vectors" / "half.tmp").write_bytes(b"half")
    shutil.rmtree(folder / "model")  # as if killed while exporting
    model, _ = train(folder, options, crops)
    assert {path.name for path in folder.iterdir()} == kept
    assert {path.suffix for path in (folder / "vectors").iterdir()} == {".npy"}
    assert model.card().dimensions == 8


def test_damaged_settings_are_refused(head, tmp_path, crops, base):
    options = replace(HEAD, backbone=base.path)
    shutil.copytree(head, tmp_path / "out")
    (tmp_path / "out" / "training.json").write_text("{")
    with pytest.raises(InputError, match=r"training\.json is damaged"):
        train(tmp_path / "out", options, crops)


def test_foreign_folder_is_refused_and_left_alone(tmp_path, crops, base):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds files that are not a training, such as model"):
        train(tmp_path, replace(HEAD, backbone=base.path), crops)
    assert files_of(tmp_path) == {"model/mine.txt": b"mine"}


def test_a_training_is_no_input_from_its_start(tmp_path, crops, base):
    options = replace(HEAD, backbone=base.path)
    job = TrainJob(tmp_path / "out", options, SavedModel, print)
    job._folder.open(job._settings(list_crops([str(crops)]), 32))
    files = [str(path) for path in tmp_path.rglob("*.json")]
    assert Rules().find_own_output(files) == {f"{tmp_path}/out"}


def test_options_may_change_before_the_first_checkpoint(tmp_path, crops, base):
    with pytest.raises(Exception, match="too few"):  # 8 people give 48 crops, not 128
        train(tmp_path / "out", replace(HEAD, backbone=base.path, embedding_size=128), crops)
    model, _ = train(tmp_path / "out", replace(HEAD, backbone=base.path, epochs=1), crops)
    assert model.card().dimensions == 8


# ---- which crops are used ----


def test_filtering_drops_the_impostor(head, tmp_path, base):
    clean = SavedModel(str(head / "model"))
    crops = write_crops(tmp_path / "crops")
    impostor = write_crops(tmp_path / "other", people=[99], n_crops=1)
    shutil.copy(impostor / "P99" / "0.png", crops / "P3" / "impostor.png")
    options = replace(HEAD, backbone=base.path, filter_with=base.path)
    filtered, lines = train(tmp_path / "filtered", options, crops)
    assert "filtering keeps 48 of 49 crops" in lines
    assert filtered.card().sha256 == clean.card().sha256
    everything, _ = train(tmp_path / "all", replace(options, filter_percentile=100.0), crops)
    assert everything.card().sha256 != clean.card().sha256


def test_people_with_few_crops_are_left_out(tmp_path, base):
    crops = write_crops(tmp_path / "crops")
    write_crops(crops, people=[20], n_crops=3)
    options = replace(HEAD, backbone=base.path, min_images_per_person=4, epochs=1)
    model, _ = train(tmp_path / "out", options, crops)
    assert "on 48 crops of 8 people" in model.card().source


def write_pairs(path: Path, n_folds: int, people=OTHER_PEOPLE) -> Path:
    """Two matched and two mismatched pairs in each fold."""
    names = [f"P{person}" for person in people]
    fold = "".join(f"{name}\t1\t2\n" for name in names[:2]) + "".join(
        f"{a}\t1\t{b}\t2\n" for a, b in (names[:2], names[2:])
    )
    path.write_text(f"{n_folds}\t2\n" + n_folds * fold)
    return path


@pytest.fixture
def validation_crops(tmp_path) -> Path:
    """Crops of four other people, named like LFW's images."""
    folder = write_crops(tmp_path / "validation", people=OTHER_PEOPLE, n_crops=3)
    for path in folder.glob("*/*.png"):
        path.rename(path.with_name(f"{path.parent.name}_{int(path.stem):04d}.png"))
    return folder


def test_validation_on_given_pairs(tmp_path, crops, validation_crops, base):
    write_crops(crops_and_few := tmp_path / "crops")
    write_crops(crops_and_few, people=[30], n_crops=1)  # too few to train on
    pairs = write_pairs(tmp_path / "pairs.txt", n_folds=3)
    options = replace(
        HEAD, backbone=base.path, validation_crops=str(validation_crops),
        validation_pairs=str(pairs),
    )  # fmt: skip
    model, lines = train(tmp_path / "out", options, crops_and_few)
    assert "training on 48 crops of 8 people, validating on 12 pairs" in lines
    measured = model.card().measured
    assert measured["on"] == f"12 crops of 4 people in {validation_crops}, pairs of {pairs}"
    expected = validate_pairs(model, list_crops([str(validation_crops)]), read_pairs(str(pairs)))
    assert measured["float32"]["accuracy"] == pytest.approx(expected["float32"]["accuracy"])
    assert measured["calibration"]["float32"] == expected["float32"]["calibration"]


def test_pairs_that_cannot_be_scored(tmp_path, crops, validation_crops, base):
    pairs = tmp_path / "pairs.txt"
    options = replace(
        HEAD,
        backbone=base.path,
        validation_crops=str(validation_crops),
        validation_pairs=str(pairs),
    )
    with pytest.raises(InputError, match="does not exist"):
        train(tmp_path / "out", options, crops)
    write_pairs(pairs, n_folds=1)
    with pytest.raises(InputError, match=r"pairs\.txt: all pairs are in one fold"):
        train(tmp_path / "out", options, crops)
    write_pairs(pairs, n_folds=3, people=range(21, 25))
    with pytest.raises(InputError, match="first P24/P24_0002"):
        train(tmp_path / "out", options, crops)


def test_all_people_are_trained_on_if_too_few_can_be_held_out(tmp_path, crops, base):
    options = replace(HEAD, backbone=base.path, validation_fraction=0.125, epochs=1)
    model, lines = train(tmp_path / "out", options, crops)
    assert lines[0].startswith("no validation: 6 crops of 1 people")
    assert "on 48 crops of 8 people" in model.card().source
    assert not model.card().measured


def test_one_person_is_not_enough(tmp_path, crops, base):
    with pytest.raises(UsageError, match="takes at least two"):
        train(tmp_path / "out", replace(HEAD, backbone=base.path), crops / "P0")


@pytest.mark.parametrize("way", ["backbone", "start_from"])
def test_error_names_the_broken_crop(tmp_path, base, way):
    crops = write_crops(tmp_path / "crops", people=range(3), n_crops=2)
    (crops / "P1" / "1.png").write_bytes(b"no image")
    options = replace(TINY, batch_size=6, **{way: base.path})
    options = replace(options, embedding_size=4) if way == "backbone" else options
    with pytest.raises(InputError, match=r"^P1/1 of .*P1/1\.png cannot be decoded") as raised:
        train(tmp_path / "out", options, crops)
    assert "\n" not in str(raised.value)


# ---- the margin ----


def test_default_margin_is_the_published_one(tmp_path):
    for input_size, margin in ((160, 32), (80, 16)):
        job = TrainJob(tmp_path, replace(TINY, input_size=input_size), SavedModel, print)
        assert job._margin([str(tmp_path)]) == margin


def test_input_smaller_than_the_face_box_is_refused(tmp_path):
    made = {"options": {"crop_size": 182, "crop_margin": 44}}
    (tmp_path / "crops.json").write_text(json.dumps(made))
    job = TrainJob(tmp_path, replace(TINY, input_size=80), SavedModel, print)
    with pytest.raises(UsageError, match=r"80 px of the crops, which is less than the face's box"):
        job._margin([str(tmp_path)])


def test_note_on_crops_with_another_margin_than_the_model(tmp_path, base):
    wanted, size = base.card().margin, base.card().input_size
    lines = []
    job = TrainJob(tmp_path, replace(TINY, backbone=base.path), SavedModel, lines.append)
    for margin, n_notes in ((wanted, 0), (wanted + 2, 1)):
        made = {"options": {"crop_size": size, "crop_margin": margin}}
        (tmp_path / "crops.json").write_text(json.dumps(made))
        assert job._margin([str(tmp_path)]) == wanted
        assert len(lines) == n_notes
    assert f"with a margin of {wanted + 2} px" in lines[0]
    assert f"but expects {wanted}:" in lines[0]
    assert f"--crop-size {size} --crop-margin {wanted}" in lines[0]


# ---- how it is trained ----


def test_schedule_may_end_the_training(tmp_path, crops, base):
    (tmp_path / "rates.txt").write_text("0: 0.01\n1: -1\n")
    options = replace(
        HEAD, backbone=base.path, learning_rate=TrainOptions.learning_rate, epochs=5,
        learning_rate_schedule=str(tmp_path / "rates.txt"),
    )  # fmt: skip
    _, lines = train(tmp_path / "out", options, crops)
    assert lines[-1].startswith("epoch 1/1  ")
    assert "learning_rate 0.01" in lines[-1]
    (tmp_path / "rates.txt").write_text("first: 0.01\n")
    with pytest.raises(InputError, match=r"rates\.txt line 1"):
        train(tmp_path / "new", options, crops)
    assert not (tmp_path / "new").exists()


def test_mixed_precision_applies_to_training_only(tmp_path, crops, base, softmax_tuned):
    full = softmax_tuned
    half, _ = train(tmp_path / "half", replace(softmax_options(base), mixed_precision=True), crops)
    assert half.card().sha256 != full.card().sha256  # it had an effect
    found = list_crops([str(crops)])
    cosines = np.sum(embed_with_model(half, found) * embed_with_model(full, found), axis=1)
    assert cosines.min() > 0.99
    network = load_networks(Path(half.path))["embed"]
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


def test_models_of_unequal_dimensions_are_refused(tmp_path, crops, base, old):
    compatible = replace(TRIPLETS, compatible_with=old.path)
    with pytest.raises(UsageError, match=r"12 dimensions, and --embedding-size asks for 8"):
        train(tmp_path / "a", replace(compatible, backbone=base.path, embedding_size=8), crops)
    with pytest.raises(UsageError, match=r"12 dimensions, and --start-from asks for 16"):
        train(tmp_path / "b", replace(compatible, start_from=base.path), crops)
    with pytest.raises(ModelError, match="there is no model in nowhere"):
        train(tmp_path / "c", replace(HEAD, backbone="nowhere"), crops)
    assert not (tmp_path / "c").exists()
