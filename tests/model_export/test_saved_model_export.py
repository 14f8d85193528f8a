"""What is exported here is what transforms/saved_model.py loads: both sides of the same folder."""

import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

from facecluster.model_export import saved_model
from facecluster.model_export.saved_model import export
from facecluster.transforms.saved_model import ModelError, SavedModel

CARD = {"name": "tiny", "dimensions": 4, "nested": {"accuracy": 0.5}}


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


def standardised(pixels):
    return (pixels.astype(np.float32) - 127.5) / 128


def test_an_endpoint_takes_any_number_of_uint8_images(tmp_path):
    network = tiny_network()
    export({"embed": network}, CARD, tmp_path / "model")
    model = SavedModel(str(tmp_path / "model"))
    for n in (1, 5, 32):
        pixels = images(n, 8, 8, 3)
        output = model.call("embed", pixels)
        assert isinstance(output, np.ndarray)
        assert output == pytest.approx(network(standardised(pixels)).numpy(), abs=1e-5)


def test_several_networks_share_a_folder(tmp_path):
    networks = {"a": tiny_network(1), "b": two_headed_network(), "c": tiny_network(3, size=12)}
    export(networks, CARD, tmp_path / "model")
    model = SavedModel(str(tmp_path / "model"))
    for name, pixels in (("a", images(2, 8, 8, 3)), ("c", images(3, 12, 12, 3))):
        expected = networks[name](standardised(pixels)).numpy()
        assert model.call(name, pixels) == pytest.approx(expected, abs=1e-5)
    for size in ((5, 9), (31, 17)):  # an input of any size stays one
        pixels = images(2, *size, 3)
        outputs = model.call("b", pixels)
        assert isinstance(outputs, list)
        for output, expected in zip(outputs, networks["b"](standardised(pixels)), strict=True):
            assert output == pytest.approx(expected.numpy(), abs=1e-5)


def test_the_card_says_what_was_given_and_its_version(tmp_path):
    export({"embed": tiny_network()}, CARD, tmp_path / "deep" / "model")
    card = SavedModel(str(tmp_path / "deep" / "model")).card()
    assert card == {"card_version": saved_model.CARD_VERSION, **CARD}


def test_a_codec_comes_back_as_it_was(tmp_path):
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


def test_a_model_of_another_version_or_none_says_so(tmp_path):
    model = SavedModel(str(tmp_path))
    with pytest.raises(ModelError, match=f"there is no model in {tmp_path}"):
        model.card()
    (tmp_path / "model_card.json").write_text(json.dumps({"card_version": 0} | CARD))
    with pytest.raises(ModelError, match="version 0, this facecluster reads version 1: export"):
        model.card()


def test_a_model_is_loaded_once_for_all_threads(tmp_path):
    export({"embed": tiny_network()}, CARD, tmp_path / "model")
    model = SavedModel(str(tmp_path / "model"))
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: SavedModel(model.path).load(), range(8)))
    assert len({id(one) for one in loaded}) == 1


# ---- whole or not at all ----


def outputs_of(folder, pixels):
    loaded = tf.saved_model.load(str(folder / "saved_model"))  # anew, whatever was loaded before
    return loaded.embed(pixels).numpy()


def test_an_export_replaces_what_was_there(tmp_path):
    folder = tmp_path / "model"
    export({"embed": tiny_network(1)}, CARD, folder, {"mean": np.zeros(4)})
    export({"embed": tiny_network(2)}, {"name": "new"}, folder)
    pixels = images(2, 8, 8, 3)
    expected = tiny_network(2)(standardised(pixels)).numpy()
    assert outputs_of(folder, pixels) == pytest.approx(expected, abs=1e-5)
    assert SavedModel(str(folder)).card()["name"] == "new"
    assert SavedModel(str(folder)).codec_arrays() is None
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_export_that_fails_leaves_what_was_there(tmp_path):
    folder = tmp_path / "model"
    cannot_be_written = {"name": object()}
    with pytest.raises(TypeError, match="JSON serializable"):
        export({"embed": tiny_network()}, cannot_be_written, folder)
    assert list(tmp_path.iterdir()) == []
    export({"embed": tiny_network(1)}, CARD, folder)
    with pytest.raises(TypeError, match="JSON serializable"):
        export({"embed": tiny_network(2)}, cannot_be_written, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    pixels = images(2, 8, 8, 3)
    expected = tiny_network(1)(standardised(pixels)).numpy()
    assert outputs_of(folder, pixels) == pytest.approx(expected, abs=1e-5)
    assert SavedModel(str(folder)).card()["name"] == "tiny"


def test_an_export_that_is_killed_leaves_no_model(tmp_path):
    script = f"""
        import os, sys
        from collections.abc import Mapping
        from pathlib import Path
        import keras
        from facecluster.model_export.saved_model import export

        class Deadly(Mapping):  # a card that is the end of whoever reads it
            def __len__(self): return 1
            def __iter__(self): os._exit(7)
            def __getitem__(self, key): os._exit(7)

        pixels = keras.Input((8, 8, 3))
        network = keras.Model(pixels, keras.layers.Flatten()(pixels))
        export({{"embed": network}}, Deadly(), Path({str(tmp_path / "model")!r}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert done.returncode == 7, done.stderr
    leftovers = [path.name for path in tmp_path.iterdir()]
    assert len(leftovers) == 1
    assert leftovers[0].endswith(".tmp")
    with pytest.raises(ModelError, match="there is no model"):
        SavedModel(str(tmp_path / "model")).card()
