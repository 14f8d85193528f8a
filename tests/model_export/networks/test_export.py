"""A model folder that `export` writes is read by `SavedModel`, and again by Keras."""

import json
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from facecluster.model_export.networks.export import (
    export,
    load_networks,
    weights_sha256,
    with_weight_decay,
)
from facecluster.model_export.networks.inception_resnet_v1 import inception_resnet_v1
from facecluster.transforms.faces.model_card import ModelCard, ModelError
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.inputs.folders import Rules

CARD = ModelCard(
    name="tiny",
    sha256="5a",
    standardization="fixed",
    dimensions=4,
    accuracy={"LFW": 0.5},
)


def tiny_network(seed=0, size=8) -> keras.Model:
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(4, 3)(pixels)
    return keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(x))


def two_headed_network() -> keras.Model:
    pixels = keras.Input((None, None, 3))
    heads = [keras.layers.Conv2D(n, 3)(pixels) for n in (1, 2)]
    return keras.Model(pixels, heads)


def images(*shape) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def standardized(pixels):
    return (pixels.astype(np.float32) - 127.5) / 128


def test_an_endpoint_takes_batches_of_any_size(tmp_path):
    network = tiny_network()
    export({"embed": network}, CARD, tmp_path / "model")
    model = SavedModel(str(tmp_path / "model"))
    for n in (1, 5, 32):
        pixels = images(n, 8, 8, 3)
        output = model.call("embed", pixels)
        assert isinstance(output, np.ndarray)
        assert output == pytest.approx(network(standardized(pixels)).numpy(), abs=1e-5)


def test_several_networks_share_a_folder(tmp_path):
    networks = {"a": tiny_network(1), "b": two_headed_network(), "c": tiny_network(3, size=12)}
    export(networks, CARD, tmp_path / "model")
    model = SavedModel(str(tmp_path / "model"))
    for name, pixels in (("a", images(2, 8, 8, 3)), ("c", images(3, 12, 12, 3))):
        expected = networks[name](standardized(pixels)).numpy()
        assert model.call(name, pixels) == pytest.approx(expected, abs=1e-5)
    for size in ((5, 9), (31, 17)):  # the input size is not fixed
        pixels = images(2, *size, 3)
        outputs = model.call("b", pixels)
        assert isinstance(outputs, list)
        for output, expected in zip(outputs, networks["b"](standardized(pixels)), strict=True):
            assert output == pytest.approx(expected.numpy(), abs=1e-5)


def test_the_card_is_the_given_one(tmp_path):
    export({"embed": tiny_network()}, CARD, tmp_path / "deep" / "model")
    card = SavedModel(str(tmp_path / "deep" / "model")).card()
    assert card == replace(CARD, embedding_space="5a", compute="float32")


def test_a_codec_is_read_back_unchanged(tmp_path):
    codec = {"mean": np.arange(4, dtype=np.float32), "components": np.ones((4, 2), np.float32)}
    export({"embed": tiny_network()}, CARD, tmp_path / "with", codec)
    export({"embed": tiny_network()}, CARD, tmp_path / "without")
    found = SavedModel(str(tmp_path / "with")).codec_arrays()
    assert found.keys() == codec.keys()
    for name, array in codec.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    without = SavedModel(str(tmp_path / "without"))
    assert without.codec_arrays() is None
    assert without.write_codec(codec) == str(tmp_path / "without" / "codec.npz")
    assert np.array_equal(without.codec_arrays()["components"], codec["components"])


def test_a_missing_model_and_one_of_another_version_are_refused(tmp_path):
    model = SavedModel(str(tmp_path))
    with pytest.raises(ModelError, match=f"there is no model in {tmp_path}"):
        model.card()
    values = json.loads(CARD.to_json()) | {"card_version": 0}
    (tmp_path / "model_card.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match="version 0, this facecluster reads version 3: fetch or"):
        model.card()


def test_a_model_is_loaded_once_for_all_threads(tmp_path):
    export({"embed": tiny_network()}, CARD, tmp_path / "model")
    model = SavedModel(str(tmp_path / "model"))
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: SavedModel(model.path).load(), range(8)))
    assert len({id(one) for one in loaded}) == 1


def test_a_new_export_under_the_same_path_is_loaded(tmp_path):
    folder, pixels = tmp_path / "model", images(2, 8, 8, 3)

    def expected(network):
        return pytest.approx(network(standardized(pixels)).numpy(), abs=1e-5)

    export({"embed": tiny_network(1)}, CARD, folder)
    before = SavedModel(str(folder))
    assert before.call("embed", pixels) == expected(tiny_network(1))
    export({"embed": tiny_network(2)}, CARD, folder)
    assert SavedModel(str(folder)).call("embed", pixels) == expected(tiny_network(2))
    # An object keeps the networks that it has loaded; a copy sent to a worker loads its own.
    assert before.call("embed", pixels) == expected(tiny_network(1))
    copy = pickle.loads(pickle.dumps(before))
    assert copy == before
    assert copy.call("embed", pixels) == expected(tiny_network(2))


# ---- whole or not at all ----


def outputs_of(folder, pixels):
    loaded = tf.saved_model.load(str(folder / "saved_model"))  # not the cached one
    return loaded.embed(pixels).numpy()


def test_an_export_replaces_an_existing_model(tmp_path):
    folder = tmp_path / "model"
    export({"embed": tiny_network(1)}, CARD, folder, {"mean": np.zeros(4)})
    export({"embed": tiny_network(2)}, replace(CARD, name="new"), folder)
    pixels = images(2, 8, 8, 3)
    expected = tiny_network(2)(standardized(pixels)).numpy()
    assert outputs_of(folder, pixels) == pytest.approx(expected, abs=1e-5)
    assert SavedModel(str(folder)).card().name == "new"
    assert SavedModel(str(folder)).codec_arrays() is None
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_export_keeps_the_existing_model(tmp_path):
    folder = tmp_path / "model"
    cannot_be_written = replace(CARD, name=object())
    with pytest.raises(TypeError, match="JSON serializable"):
        export({"embed": tiny_network()}, cannot_be_written, folder)
    assert list(tmp_path.iterdir()) == []
    export({"embed": tiny_network(1)}, CARD, folder)
    with pytest.raises(TypeError, match="JSON serializable"):
        export({"embed": tiny_network(2)}, cannot_be_written, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    pixels = images(2, 8, 8, 3)
    expected = tiny_network(1)(standardized(pixels)).numpy()
    assert outputs_of(folder, pixels) == pytest.approx(expected, abs=1e-5)
    assert SavedModel(str(folder)).card().name == "tiny"


def test_a_killed_export_leaves_no_model(tmp_path):
    script = f"""
        import os, sys
        from collections.abc import Mapping
        from pathlib import Path
        import keras
        from facecluster.model_export.networks.export import export
        from facecluster.transforms.faces.model_card import ModelCard

        class Deadly(Mapping):  # a codec that ends the process when it is read
            def __len__(self): return 1
            def __iter__(self): os._exit(7)
            def __getitem__(self, key): os._exit(7)

        pixels = keras.Input((8, 8, 3))
        network = keras.Model(pixels, keras.layers.Flatten()(pixels))
        export({{"embed": network}}, {CARD!r}, Path({str(tmp_path / "model")!r}), Deadly())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert done.returncode == 7, done.stderr
    leftovers = [path.name for path in tmp_path.iterdir()]
    assert len(leftovers) == 1
    assert leftovers[0].endswith(".tmp")
    files = [str(path) for path in tmp_path.rglob("*.json")]
    assert Rules().find_own_output(files) == {f"{tmp_path}/{leftovers[0]}"}
    with pytest.raises(ModelError, match="there is no model"):
        SavedModel(str(tmp_path / "model")).card()


# ---- standardization and precision ----


def prewhitened(pixels):
    """The published src/facenet.py, prewhiten, crop by crop."""
    return np.stack(
        [(crop - crop.mean()) / max(crop.std(), 1 / np.sqrt(crop.size)) for crop in pixels]
    ).astype(np.float32)


def test_pixels_are_standardized_per_image(tmp_path):
    network = tiny_network()
    card = replace(CARD, standardization="per-image")
    export({"embed": network}, card, tmp_path / "model")
    pixels = images(3, 8, 8, 3)
    pixels[1] = 7  # a crop of one color has a standard deviation of 0
    output = SavedModel(str(tmp_path / "model")).call("embed", pixels)
    assert output == pytest.approx(network(prewhitened(pixels)).numpy(), abs=1e-5)


def test_an_unknown_standardization_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'none': there are fixed, per-image"):
        export({"embed": tiny_network()}, replace(CARD, standardization="none"), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_float16_gives_nearly_the_same_vectors_and_half_the_size(tmp_path):
    network = inception_resnet_v1(8, input_size=96, width=0.25)
    export({"embed": network}, CARD, tmp_path / "full")
    export({"embed": network}, CARD, tmp_path / "half", float16=True)
    pixels = images(4, 96, 96, 3)
    full, half = (SavedModel(str(tmp_path / form)) for form in ("full", "half"))
    vectors, halves = full.call("embed", pixels), half.call("embed", pixels)
    assert halves.dtype == np.float32
    assert not np.array_equal(halves, vectors)
    assert halves == pytest.approx(vectors, abs=5e-3)
    assert half.card() == replace(full.card(), compute="float16")
    assert size_of_variables(tmp_path / "half") < 0.6 * size_of_variables(tmp_path / "full")


def size_of_variables(folder) -> int:
    return sum(path.stat().st_size for path in (folder / "saved_model" / "variables").iterdir())


def test_keras_networks_are_loaded_again(tmp_path):
    networks = {"a": tiny_network(1), "b": two_headed_network()}
    export(networks, CARD, tmp_path / "model")
    loaded = load_networks(tmp_path / "model")
    assert loaded.keys() == networks.keys()
    x = standardized(images(2, 8, 8, 3))
    assert loaded["a"](x).numpy() == pytest.approx(networks["a"](x).numpy(), abs=1e-6)
    with pytest.raises(ModelError, match="no Keras network"):
        load_networks(tmp_path)


def test_the_hash_depends_on_the_weights():
    assert weights_sha256(tiny_network(1)) == weights_sha256(tiny_network(1))
    assert weights_sha256(tiny_network(1)) != weights_sha256(tiny_network(2))


def test_the_first_endpoint_is_the_serving_signature(tmp_path):
    network = tiny_network()
    export({"embed": network}, CARD, tmp_path / "model")
    serve = tf.saved_model.load(str(tmp_path / "model" / "saved_model")).signatures[
        "serving_default"
    ]
    pixels = images(3, 8, 8, 3)
    (output,) = serve(pixels=tf.constant(pixels)).values()
    assert output.numpy() == pytest.approx(network(standardized(pixels)).numpy(), abs=1e-5)


# ---- weight decay ----


def nested_network() -> keras.Model:
    """Kernels in a network and in one nested in it, dropout, and batch normalization."""
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Dropout(0.5, seed=7)(tiny_network()(pixels))
    x = keras.layers.Dense(5, kernel_regularizer="l1")(x)
    return keras.Model(pixels, keras.layers.BatchNormalization(name="norm")(x))


def test_weight_decay_is_half_the_sum_of_squares_of_all_kernels():
    network = nested_network()
    network.get_layer("norm").set_weights([np.arange(1, 6)] * 4)
    decayed = with_weight_decay(network, 2e-3)
    kernels = [v.numpy() for v in network.weights if v.path.endswith("kernel")]
    assert len(kernels) == 2
    expected = 2e-3 / 2 * sum(np.sum(np.square(kernel)) for kernel in kernels)
    assert float(sum(decayed.losses)) == pytest.approx(expected, rel=1e-5)
    assert with_weight_decay(decayed, 0.0).losses == []


@pytest.mark.parametrize("weight_decay", [0.0, 2e-3])
def test_a_copy_with_weight_decay_has_equal_but_separate_weights(weight_decay):
    network = nested_network()
    copy = with_weight_decay(network, weight_decay)
    assert weights_sha256(copy) == weights_sha256(network)
    x = standardized(images(4, 8, 8, 3))
    for training in (False, True):  # and with the same dropout
        assert np.array_equal(copy(x, training=training), network(x, training=training))
    sha256 = weights_sha256(network)
    copy.set_weights([value + 1 for value in copy.get_weights()])
    assert weights_sha256(network) == sha256
    assert len(network.losses) == 1  # only its own
