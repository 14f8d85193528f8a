"""The commands `facecluster model ...`."""

import json
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facecluster.model_export.crops import list_crops
from facecluster.model_export.networks.export import export, weights_sha256
from facecluster.model_export.validation.pairs import read_pairs
from facecluster.model_export.validation.validate import validate_pairs
from facecluster.pipeline.cli.main import main
from facecluster.transforms.faces.model_card import ModelCard, ModelIdentity
from facecluster.transforms.faces.saved_model import SavedModel
from tests.end_to_end.command import COMMAND

SIZE, DIMENSIONS, MARGIN = 32, 16, 6
N_PEOPLE, N_PHOTOS = 4, 4


@pytest.fixture
def facecluster(capfd):
    """Runs a command in this process. Returns its exit code, stdout and stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write_model(folder: Path, seed: int, codec=None) -> SavedModel:
    """A tiny model with all that training depends on: dropout, moving averages."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(8, 5, 4, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2D(16, 3, 2, activation="relu")(x)
    x = keras.layers.Dropout(0.2)(keras.layers.Flatten()(x))
    x = keras.layers.Activation("linear", name="prelogits")(keras.layers.Dense(DIMENSIONS)(x))
    network = keras.Model(inputs, keras.layers.UnitNormalization()(x))
    card = ModelCard(
        name=f"model-{seed}",
        sha256=weights_sha256(network),
        standardization="fixed",
        architecture="two convolutions",
        source="random",
        license="MIT",
        input_size=SIZE,
        margin=MARGIN,
        dimensions=DIMENSIONS,
    )
    export({"embed": network}, card, folder, codec)
    return SavedModel(str(folder))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> SavedModel:
    random = np.random.default_rng(0)
    codec = {
        "mean": random.normal(size=DIMENSIONS).astype(np.float32),
        "components": random.normal(size=(DIMENSIONS, 128)).astype(np.float32),
    }
    return write_model(tmp_path_factory.mktemp("models") / "base", 1, codec)


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> Path:
    """Crops NAME/NAME_0001.png of synthetic people."""
    folder = tmp_path_factory.mktemp("crops")
    write_crops(folder, 6)
    return folder


def write_crops(folder: Path, n_people: int) -> None:
    for person in range(n_people):
        pattern = np.random.default_rng(person).integers(0, 256, (4, 4, 3))
        (folder / f"P{person}").mkdir(parents=True)
        for i in range(1, 6):
            noise = np.random.default_rng([person, i]).integers(-60, 60, (4, 4, 3))
            pixels = np.clip(pattern + noise, 0, 255).astype(np.uint8)
            image = Image.fromarray(pixels).resize((40, 40), Image.Resampling.BILINEAR)
            image.save(folder / f"P{person}" / f"P{person}_{i:04d}.png")


@pytest.fixture(scope="module")
def photos(copy_people, mtcnn_folder, tmp_path_factory) -> Path:
    """Four photos of each of four people."""
    folder = tmp_path_factory.mktemp("photos")
    copy_people(folder, N_PEOPLE, N_PHOTOS)
    return folder


def write_pairs(path: Path, people: list[str]) -> Path:
    """Two folds of two matched and two mismatched pairs, in the format of LFW's View 2."""
    a, b, c, d = people[:4]
    matched = [[f"{p}\t1\t2", f"{p}\t3\t4"] for p in (a, b)]
    mismatched = [[f"{p}\t1\t{q}\t2", f"{p}\t3\t{q}\t4"] for p, q in ((a, b), (c, d))]
    lines = ["2\t2", *matched[0], *mismatched[0], *matched[1], *mismatched[1]]
    path.write_text("\n".join(lines) + "\n")
    return path


# ---- import, export, card ----


def test_importing_a_keras_file(facecluster, facenet_folder, tmp_path):
    weights = Path(facenet_folder) / "keras" / "embed.keras"
    output = tmp_path / "models" / "mine"
    output.mkdir(parents=True)  # an empty folder may be there
    code, out, _ = facecluster(
        "model", "import", weights, "--output", output, "--source", "somebody", "--license", "MIT"
    )
    assert (code, out) == (0, f"{output}\n")
    assert {path.name for path in output.iterdir()} == {"saved_model", "keras", "model_card.json"}
    published = SavedModel(facenet_folder).card()
    card = SavedModel(str(output)).card()
    same = ("architecture", "input_size", "margin", "standardization", "dimensions")
    assert [getattr(card, name) for name in same] == [getattr(published, name) for name in same]
    assert (card.name, card.source, card.license) == ("mine", "somebody", "MIT")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), np.uint8)
    np.testing.assert_allclose(
        SavedModel(str(output)).call("embed", pixels),
        SavedModel(facenet_folder).call("embed", pixels),
        atol=1e-5,
    )


def test_files_without_weights_are_refused(facecluster, tmp_path):
    (tmp_path / "photo.keras").write_bytes(b"not a network")
    (tmp_path / "photo.jpg").write_bytes(b"a photo")
    for name, message in (
        ("photo.keras", "cannot be read as a Keras model"),
        ("photo.jpg", "is of an unknown kind"),
        ("nowhere.pb", "does not exist"),
    ):
        code, _, err = facecluster(
            "model", "import", tmp_path / name, "--output", tmp_path / "model"
        )
        assert code == 2
        assert err.startswith("facecluster: ")
        assert f"{name} {message}" in err
        assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("action", ["import", "export"])
def test_a_folder_that_is_not_empty_is_refused(facecluster, base, tmp_path, action):
    (tmp_path / "photo.jpg").write_bytes(b"a photo")
    weights = Path(base.path) / "keras" / "embed.keras" if action == "import" else base.path
    for output in (tmp_path, tmp_path / "photo.jpg"):
        code, _, err = facecluster("model", action, weights, "--output", output)
        assert code == 2
        assert f"{output} exists already: take another output folder" in err
    assert files_of(tmp_path) == {"photo.jpg": b"a photo"}
    code, _, err = facecluster("model", action, weights, "--output", "gs://bucket/model")
    assert code == 2
    assert "gs://bucket/model is not a local folder" in err


def test_a_negative_margin_is_refused(facecluster, tmp_path, capfd):
    with pytest.raises(SystemExit) as exit:
        facecluster("model", "import", "x.pb", "--output", tmp_path / "m", "--margin", "-1")
    assert exit.value.code == 2
    assert "-1 is less than 0" in capfd.readouterr().err


def test_export_in_half_precision(facecluster, base, tmp_path):
    code, out, _ = facecluster(
        "model", "export", base.path, "--output", tmp_path / "half", "--float16"
    )
    assert (code, out) == (0, f"{tmp_path / 'half'}\n")
    half = SavedModel(str(tmp_path / "half"))
    assert half.card() == replace(base.card(), compute="float16")
    for name, array in base.codec_arrays().items():
        np.testing.assert_array_equal(half.codec_arrays()[name], array)
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    difference = np.abs(half.call("embed", pixels) - base.call("embed", pixels)).max()
    assert 0 < difference < 0.01
    # The half-precision model keeps its float32 weights, and can be exported back.
    code, *_ = facecluster("model", "export", half.path, "--output", tmp_path / "full")
    full = SavedModel(str(tmp_path / "full"))
    assert full.card() == base.card()
    np.testing.assert_allclose(full.call("embed", pixels), base.call("embed", pixels), atol=1e-6)


def test_the_card_is_printed(facecluster, base):
    code, out, _ = facecluster("model", "card", base.path)
    assert code == 0
    assert out == (Path(base.path) / "model_card.json").read_text()
    assert json.loads(out)["sha256"] == base.card().sha256
    code, out, err = facecluster("model", "card", "/no/such/model")
    assert (code, out) == (2, "")
    assert "there is no model in /no/such/model" in err


# ---- validate ----


def figures(out: str, name: str) -> dict[str, float]:
    """One of the printed figures, by codec."""
    found, codec = {}, None
    for line in out.splitlines():
        if line in ("float32", "pca128"):
            codec = line
        elif line.startswith(name):
            found[codec] = float(line.split()[-1])
    return found


def test_validation_on_crops(facecluster, base, crops, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.txt", ["P0", "P1", "P2", "P3"])
    command = ["model", "validate", base.path, "--pairs", pairs, "--crops", crops]
    code, out, _ = facecluster(*command)
    assert code == 0
    expected = validate_pairs(base, list_crops([str(crops)]), read_pairs(str(pairs)))
    accuracies = {codec: scores["accuracy"] for codec, scores in expected.items()}
    assert figures(out, "Accuracy: ") == pytest.approx(accuracies, abs=1e-4)
    assert "Squared distance below which" in out
    assert "calibration" not in out

    options = {"flip": True, "subtract_mean": True, "metric": "cosine"}
    code, out, _ = facecluster(*command, "--flip", "--subtract-mean", "--metric", "cosine")
    assert code == 0
    varied = validate_pairs(base, list_crops([str(crops)]), read_pairs(str(pairs)), **options)
    threshold = varied["float32"]["threshold"]
    assert f"{threshold:.4f}" in out.split("Angle, as a fraction of 180 degrees")[1].splitlines()[0]
    assert "Squared distance" not in out


def test_scores_are_written_to_the_card(facecluster, base, crops, tmp_path):
    shutil.copytree(base.path, tmp_path / "model")
    model = SavedModel(str(tmp_path / "model"))
    pairs = write_pairs(tmp_path / "pairs.txt", ["P0", "P1", "P2", "P3"])
    command = ["model", "validate", model.path, "--pairs", pairs, "--crops", crops]
    assert facecluster(*command)[0] == 0
    assert model.card() == base.card()  # written only with --write-card
    code, out, _ = facecluster(*command, "--write-card")
    assert code == 0
    assert out.endswith(f"{tmp_path / 'model' / 'model_card.json'}\n")
    card = model.card()
    assert replace(card, measured={}) == base.card()
    expected = validate_pairs(base, list_crops([str(crops)]), read_pairs(str(pairs)))
    assert card.measured == {
        "on": str(pairs),
        "calibration": {codec: scores.pop("calibration") for codec, scores in expected.items()},
        **expected,
    }

    before = (tmp_path / "model" / "model_card.json").read_bytes()
    for option in (["--flip"], ["--subtract-mean"], ["--metric", "cosine"]):
        code, _, err = facecluster(*command, "--write-card", *option)
        assert code == 2
        assert "leave out --write-card" in err
    assert (tmp_path / "model" / "model_card.json").read_bytes() == before


def test_a_cohort_is_fitted_and_travels_with_the_model(facecluster, base, tmp_path):
    shutil.copytree(base.path, tmp_path / "model")
    model = SavedModel(str(tmp_path / "model"))
    people = [f"P{person}" for person in range(20)]
    write_crops(tmp_path / "crops", len(people))
    pairs = write_pairs(tmp_path / "pairs.txt", people[:4])
    command = ["model", "validate", model.path, "--pairs", pairs]
    code, out, _ = facecluster(*command, "--crops", tmp_path / "crops", "--write-card")
    assert code == 0
    cohorts = {name: model.cohort(name) for name in ("float32", "pca128")}
    levels = {name: cohort.level for name, cohort in cohorts.items()}
    assert figures(out, "Cohort: mean similarity") == pytest.approx(levels, abs=1e-4)
    typical = {name: cohort.same_person for name, cohort in cohorts.items()}
    assert figures(out, "Cohort: normalized similarity") == pytest.approx(typical, abs=1e-4)
    assert model.card().measured["cohort"] == {"people": 20}
    assert '"people": 20' in facecluster("model", "card", model.path)[1]

    # Too few people change the scores, and not the cohort.
    shutil.copytree(tmp_path / "crops", tmp_path / "few")
    for person in people[4:]:
        shutil.rmtree(tmp_path / "few" / person)
    code, _, err = facecluster(*command, "--crops", tmp_path / "few", "--write-card")
    assert code == 0
    assert "no cohort is fitted: it takes crops of 20 people" in err
    assert model.card().measured["cohort"] == {"people": 20}
    assert model.cohort("pca128").level == levels["pca128"]

    code, *_ = facecluster("model", "export", model.path, "--output", tmp_path / "h", "--float16")
    assert code == 0
    half = SavedModel(str(tmp_path / "h"))
    assert half.cohort("pca128").level == levels["pca128"]
    assert half.card().measured == {"cohort": {"people": 20}}


def test_validation_of_the_default_model_on_photos(facecluster, facenet_folder, photos, tmp_path):
    people = sorted(path.name for path in photos.iterdir())
    pairs = write_pairs(tmp_path / "pairs.txt", people)
    command = ["model", "validate", facenet_folder, "--pairs", pairs]
    code, out, _ = facecluster(*command, "--images", photos, "--crops", tmp_path / "crops")
    assert code == 0
    assert figures(out, "Area under the ROC") == {"float32": 1.0, "pca128": 1.0}
    kept = list_crops([str(tmp_path / "crops")])
    assert set(kept.people) == set(people)
    with Image.open(kept.locations[0].path) as crop:
        assert crop.size == (160, 160)
    again = facecluster(*command, "--crops", tmp_path / "crops")
    assert again[:2] == (0, out)


def test_the_card_of_a_published_model_is_not_changed(facecluster, facenet_folder, crops, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.txt", ["P0", "P1", "P2", "P3"])
    before = (Path(facenet_folder) / "model_card.json").read_bytes()
    code, _, err = facecluster(
        "model", "validate", "facenet-casia-webface", "--pairs", pairs, "--crops", crops,
        "--write-card",
    )  # fmt: skip
    assert code == 2
    assert "`facecluster model export facenet-casia-webface --output DIR`" in err
    assert (Path(facenet_folder) / "model_card.json").read_bytes() == before


def test_validation_on_videos(facecluster, base, photos, tmp_path):
    """The photos of a person are the frames of two videos, in the layout of YouTube Faces."""
    people = sorted(path.name for path in photos.iterdir())
    root = tmp_path / "aligned_images_DB"
    for person in people:
        frames = sorted((photos / person).iterdir())
        for video in (0, 1):
            (root / person / str(video)).mkdir(parents=True)
            for number, frame in enumerate(frames[2 * video : 2 * video + 2]):
                name = f"aligned_detect_{video}.{9 + number}.jpg"
                shutil.copy(frame, root / person / str(video) / name)
    lines = ["split number, pair number, first name, second name, is same"]
    for split, (a, b) in enumerate([people[:2], people[2:4]], 1):
        pairs = [(a, 0, a, 1, 1), (b, 0, b, 1, 1), (a, 0, b, 1, 0), (b, 0, a, 0, 0)]
        for number, (p, i, q, j, same) in enumerate(pairs, 1):
            lines.append(f"{split}, {number}, {p}/{i}, {q}/{j}, {same}")
    splits = tmp_path / "splits.txt"
    splits.write_text("\n".join(lines) + "\n")

    shutil.copytree(base.path, tmp_path / "model")
    model = SavedModel(str(tmp_path / "model"))
    before = {"on": "pairs", "calibration": {"float32": [1]}}
    model.write_card(replace(model.card(), measured=before))
    command = ["model", "validate", model.path, "--splits", splits]
    code, out, _ = facecluster(
        *command, "--images", root, "--crops", tmp_path / "c", "--write-card"
    )
    assert code == 0
    assert len(list((tmp_path / "c").glob("*~*/*.png"))) == N_PEOPLE * N_PHOTOS
    assert figures(out, "Pairs in the file") == {"float32": 8}
    assert figures(out, "Pairs skipped") == {"float32": 0}
    measured = model.card().measured
    assert measured["on"] == "pairs"  # scores on photos are kept
    assert measured["calibration"] == {"float32": [1]}
    assert measured["videos"]["on"] == str(splits)
    assert measured["videos"]["float32"]["n_pairs"] == 8
    assert facecluster(*command, "--crops", tmp_path / "c")[1] == out.rpartition("\n\n")[0] + "\n\n"

    shutil.rmtree(root / people[0] / "1")
    code, _, err = facecluster(*command, "--images", root)
    assert code == 2
    assert f"{root / people[0] / '1'} does not exist" in err


def test_validation_without_its_inputs_is_refused(facecluster, base, crops, photos, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.txt", ["P0", "P1", "P2", "P3"])
    splits = tmp_path / "splits.txt"
    splits.write_text("1, 1, P0/0, P0/1, 1\n")
    absent = write_pairs(tmp_path / "absent.txt", ["Q0", "Q1", "Q2", "Q3"])
    (tmp_path / "empty").mkdir()
    of = ["model", "validate", base.path]
    for arguments, code, message in (
        (["--pairs", pairs], 2, "give --images, --crops or both"),
        (["--pairs", tmp_path / "no.txt", "--crops", crops], 2, "no.txt does not exist"),
        (["--splits", tmp_path / "no.txt", "--crops", crops], 2, "no.txt does not exist"),
        (["--splits", pairs, "--crops", crops], 2, "pairs.txt line 2: expected the split"),
        (["--pairs", splits, "--crops", crops], 2, "splits.txt line 1"),
        (["--pairs", pairs, "--crops", tmp_path / "nowhere"], 2, "nowhere does not exist"),
        (["--pairs", pairs, "--crops", tmp_path / "empty"], 2, "there are no photos in"),
        (["--pairs", absent, "--crops", crops], 2, "none of the images that the pairs name"),
        (["--pairs", pairs, "--images", photos], 2, "lacks 12 of the 12 images"),
        (["--splits", splits, "--crops", crops, "--flip"], 2, "--flip, --subtract-mean and"),
    ):
        found, _, err = facecluster(*of, *arguments)
        assert (found, message in err) == (code, True), err
    code, _, err = facecluster("model", "validate", "mtcnn", "--pairs", pairs, "--crops", crops)
    assert code == 2
    assert "mtcnn makes no embeddings" in err


def test_validation_on_images_without_faces_is_refused(facecluster, base, mtcnn_folder, tmp_path):
    for person in ("P0", "P1", "P2", "P3"):
        (tmp_path / "images" / person).mkdir(parents=True)
        for i in range(1, 5):
            gray = Image.new("RGB", (64, 64), (i, i, i))
            gray.save(tmp_path / "images" / person / f"{person}_{i:04d}.png")
    pairs = write_pairs(tmp_path / "pairs.txt", ["P0", "P1", "P2", "P3"])
    code, _, err = facecluster(
        "model", "validate", base.path, "--pairs", pairs, "--images", tmp_path / "images"
    )
    assert code == 2
    assert "no face was found in any of the 12 images needed" in err


# ---- train ----

TINY = ["--epochs", "1", "--steps-per-epoch", "2", "--validation-fraction", "0"]


def test_training_by_the_command(facecluster, base, crops, tmp_path):
    code, out, err = facecluster(
        "model", "train", "--crops", crops, "--output", tmp_path / "out", "--backbone", base.path,
        "--embedding-size", 4, "--batch-size", 8, "--name", "head", *TINY,
    )  # fmt: skip
    assert (code, out) == (0, f"{tmp_path / 'out' / 'model'}\n")
    assert "training on 30 crops of 6 people" in err
    assert "epoch 1/1  " in err
    assert SavedModel(out.strip()).card().name == "head"
    assert "facecluster.log" not in {path.name for path in Path(out.strip()).iterdir()}


def test_wrong_training_options_are_refused(facecluster, base, crops, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"a photo")
    (tmp_path / "rates.txt").write_text("often: 0.1\n")
    of = ["--backbone", base.path, *TINY]
    for arguments, code, message in (
        (["--crops", tmp_path / "none", *of], 2, "none does not exist"),
        (["--crops", crops, *of, "--start-from", base.path], 2, "give one of them"),
        (["--crops", crops, *of, "--flip"], 2, "--flip has no effect with --backbone"),
        (["--crops", crops, *of, "--embedding-size", 20], 2, "too few for 20 components"),
        (["--crops", crops, "--backbone", "mtcnn"], 2, "mtcnn makes no embeddings"),
        (["--crops", crops, "--backbone", "nowhere"], 2, "there is no model in nowhere"),
        (["--crops", crops / "P0", *of], 2, "takes at least two"),
        (["--crops", crops, *of, "--output", tmp_path / "mine"], 2, "not a training"),
        (["--crops", crops, *of, "--output", "gs://b/out"], 2, "gs://b/out is not a local folder"),
        (
            ["--crops", crops, *of, "--learning-rate-schedule", tmp_path / "rates.txt"],
            2, "rates.txt line 1: expected `epoch: rate`",
        ),
    ):  # fmt: skip
        command = ["model", "train", "--output", tmp_path / "out", *arguments]
        found, out, err = facecluster(*command)
        assert (found, out, message in err) == (code, "", True), err
    assert (tmp_path / "mine" / "photo.jpg").read_bytes() == b"a photo"
    assert not (tmp_path / "out" / "model").exists()


def test_a_killed_training_continues_to_the_same_weights(base, crops, tmp_path):
    """The command is killed after its first checkpoint; another one runs to its end."""
    command = [
        COMMAND, "model", "train", "--crops", crops, "--start-from", base.path, "--batch-size", "8",
        "--flip", "--random-crop", "--color", "0.2", "--center-loss-factor", "0.1", "--epochs",
        "6", "--steps-per-epoch", "60", "--validation-fraction", "0", "--deterministic",
    ]  # fmt: skip

    def start(name: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*map(str, command), "--output", str(tmp_path / name)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    with start("killed") as killed, start("undisturbed") as undisturbed:
        deadline = time.monotonic() + 900  # against hanging
        while not (tmp_path / "killed" / "checkpoint.npz").exists():
            assert killed.poll() is None, killed.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        killed.kill()  # SIGKILL
        assert killed.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed" / "model").exists()
        with start("killed") as again:
            log = again.communicate()[1]
        assert again.returncode == 0, log
        assert "epoch 1/6" not in log
        assert "epoch 6/6" in log
        log = undisturbed.communicate()[1]
        assert undisturbed.returncode == 0, log
    cards = [SavedModel(str(tmp_path / n / "model")).card() for n in ("killed", "undisturbed")]
    assert cards[0] == cards[1]
    assert cards[0].sha256 != base.card().sha256


# ---- two models in one run ----


def test_only_compatible_models_share_a_run(facecluster, base, photos, mtcnn_folder, tmp_path):
    made = tmp_path / "crops"
    code, *_ = facecluster(
        "crops", "--input", photos, "--output", made, "--crop-size", SIZE, "--crop-margin", MARGIN
    )
    assert code == 0
    code, out, _ = facecluster(
        "model", "train", "--crops", made, "--output", tmp_path / "v2", "--start-from", base.path,
        "--compatible-with", base.path, "--loss", "triplet", "--people-per-batch", 4,
        "--images-per-person", 2, "--name", "v2", *TINY,
    )  # fmt: skip
    assert code == 0
    v2 = SavedModel(out.strip())
    assert v2.card().compatible_with == ModelIdentity("model-1", base.card().sha256)

    run = tmp_path / "run"
    first, second, third, _ = sorted(photos.iterdir())
    embed = ["embed", "--output", run, "--detector", mtcnn_folder]
    assert facecluster(*embed, "--input", first, "--model", base.path)[0] == 0
    assert facecluster(*embed, "--input", second, "--model", v2.path)[0] == 0
    other = write_model(tmp_path / "other", seed=2, codec=base.codec_arrays())
    before = files_of(run / "faces")
    code, _, err = facecluster(*embed, "--input", third, "--model", other.path)
    assert code == 1
    assert "was made with embedding_space" in err
    assert "faces made with different settings cannot be compared; take another output" in err
    assert files_of(run / "faces") == before

    code, out, _ = facecluster("cluster", "--output", run)
    assert code == 0
    faces = pq.read_table(run / "faces", columns=["face_id"])["face_id"].to_pylist()
    assigned = pq.read_table(run / "assignments")["face_id"].to_pylist()
    assert sorted(assigned) == sorted(faces)
    assert len(faces) >= 2 * N_PHOTOS
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["steps"]["embed"]["models"] == {
        "model-1": base.card().sha256,
        "v2": v2.card().sha256,
    }
