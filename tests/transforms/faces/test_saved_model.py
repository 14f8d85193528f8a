"""Damaged model files are refused, and the networks of a model are loaded once."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from facecluster.transforms.faces.model_card import ModelCard, ModelError
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.tables.codec import fit_pca128, make_codec, unit_rows

CODEC_ARRAYS = {
    "mean": np.zeros(300, np.float32),
    "components": np.eye(300, 128, dtype=np.float32),
}


def test_the_card_is_written_and_read_back(tmp_path):
    model = SavedModel(str(tmp_path))
    card = ModelCard(name="m", sha256="5a", standardization="fixed", dimensions=512)
    assert model.write_card(card) == str(tmp_path / "model_card.json")
    assert model.card() == card


def test_codec_arrays_are_read_back(tmp_path):
    model = SavedModel(str(tmp_path))
    assert model.codec_arrays() is None
    arrays = fit_pca128(np.random.default_rng(0).standard_normal((200, 150)).astype(np.float32))
    path = model.write_codec(arrays)
    assert path == str(tmp_path / "codec.npz")
    read = model.codec_arrays()
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize("length", [0, 5, 500, -1])
def test_damaged_codec_arrays(tmp_path, length):
    model = SavedModel(str(tmp_path))
    model.write_codec({"mean": np.zeros(300), "components": np.zeros((300, 128))})
    path = tmp_path / "codec.npz"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"codec\.npz is damaged"):
        model.codec_arrays()


def make_cohort(level: float, d: int = 128) -> Cohort:
    vectors = np.random.default_rng(0).standard_normal((20, d)).astype(np.float32)
    return Cohort(unit_rows(vectors), level, 0.7)


def test_cohorts_belong_to_codecs(tmp_path):
    model, codec = SavedModel(str(tmp_path)), make_codec("pca128", CODEC_ARRAYS)
    assert model.cohorts() == {}
    assert model.cohort() is None
    model.write_codec(CODEC_ARRAYS)
    path = model.write_cohorts({"float32": make_cohort(0.3, 300), codec.identity: make_cohort(0.4)})
    assert path == str(tmp_path / "cohort.npz")
    assert model.cohort().level == 0.4  # the model's own codec
    levels = {name: model.cohort(name).level for name in ("pca128", "float16", "float32")}
    assert levels == {"pca128": 0.4, "float16": 0.3, "float32": 0.3}
    # With another codec, the vectors are others.
    model.write_codec({**CODEC_ARRAYS, "mean": np.ones(300, np.float32)})
    assert model.cohort("pca128") is None
    assert model.cohort("float32").level == 0.3


@pytest.mark.parametrize("length", [0, 5, 500, -1])
def test_damaged_cohorts(tmp_path, length):
    model = SavedModel(str(tmp_path))
    model.write_cohorts({"float32": make_cohort(0.3)})
    path = tmp_path / "cohort.npz"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"cohort\.npz is damaged, validate the model again"):
        model.cohort("float32")


def test_threads_share_the_loaded_networks(mtcnn_folder):
    model, loaded = SavedModel(mtcnn_folder), []
    threads = [threading.Thread(target=lambda: loaded.append(model.load())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 4
    assert all(networks is loaded[0] for networks in loaded)
    assert SavedModel(mtcnn_folder).load() is loaded[0]


def test_endpoints_return_arrays(mtcnn_folder):
    model = SavedModel(mtcnn_folder)
    scores, corrections = model.call("p_net", np.zeros((2, 32, 40, 3), np.uint8))
    # Windows of 12 px with a stride of 2.
    assert scores.shape == (2, 11, 15, 1)
    assert corrections.shape == (2, 11, 15, 4)
    assert isinstance(scores, np.ndarray)
    assert np.all((scores >= 0) & (scores <= 1))


def test_an_endpoint_with_one_output_returns_an_array(facenet_folder):
    vectors = SavedModel(facenet_folder).call("embed", np.zeros((1, 160, 160, 3), np.uint8))
    assert isinstance(vectors, np.ndarray)
    assert vectors.shape == (1, 512)


def test_an_empty_batch_returns_empty_arrays(mtcnn_folder, facenet_folder):
    detector = SavedModel(mtcnn_folder)
    for endpoint, size, widths in [("r_net", 24, (1, 4)), ("o_net", 48, (1, 4, 10))]:
        outputs = detector.call(endpoint, np.empty((0, size, size, 3), np.uint8))
        assert [output.shape for output in outputs] == [(0, width) for width in widths]
    vectors = SavedModel(facenet_folder).call("embed", np.empty((0, 160, 160, 3), np.uint8))
    assert vectors.shape == (0, 512)


def test_loading_imports_neither_keras_nor_torch(mtcnn_folder):
    code = """
import os, sys
from facecluster.transforms.faces.saved_model import SavedModel
SavedModel(sys.argv[1]).load()
print(*{"tensorflow", "keras", "torch", "sklearn", "matplotlib"} & set(sys.modules))
print(os.environ.get("TF_USE_LEGACY_KERAS"))
import keras, tensorflow
print(tensorflow.keras.layers.Dense is keras.layers.Dense)
"""
    command = [sys.executable, "-c", code, mtcnn_folder]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["tensorflow", "None", "True"], done.stderr
