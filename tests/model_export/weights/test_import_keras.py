"""load_facenet against Keras models, saved in all layouts that Keras has had.

The network has the layer names of the widespread facenet_keras.h5, and its Lambda layers, for which
Keras 3 refuses to load such files.
"""

import re

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from facecluster.model_export.networks.inception_resnet_v1 import inception_resnet_v1_for_training
from facecluster.model_export.weights.import_facenet import load_facenet
from facecluster.model_export.weights.weight_files import WeightsError

TOLERANCE = 1e-4  # of a component of a unit vector
EMBEDDING_SIZE = 16
CONV = "Block17_7_Branch_1_Conv2d_0b_1x7"
CONV_OF_DEEPFACE = "Block17_7_Branch_7_Conv2d_0b_1x7"


# ---- The network ----


def keras_facenet() -> keras.Model:
    def norm(x, name):
        name = f"{name}_BatchNorm"
        return layers.BatchNormalization(momentum=0.995, epsilon=1e-3, scale=False, name=name)(x)

    def conv(x, filters, size, name, stride=1, padding="same"):
        x = layers.Conv2D(filters, size, stride, padding, use_bias=False, name=name)(x)
        return layers.Activation("relu", name=f"{name}_Activation")(norm(x, name))

    def residual(x, branches, name, scale, activation="relu"):
        mixed = layers.Concatenate(name=f"{name}_Concatenate")(branches)
        up = layers.Conv2D(x.shape[-1], 1, name=f"{name}_Conv2d_1x1")(mixed)
        up = layers.Lambda(lambda x, scale: x * scale, arguments={"scale": scale})(up)
        return layers.Activation(activation)(layers.add([x, up]))

    def block35(x, name):
        a = conv(x, 32, 1, f"{name}_Branch_0_Conv2d_1x1")
        b = conv(x, 32, 1, f"{name}_Branch_1_Conv2d_0a_1x1")
        b = conv(b, 32, 3, f"{name}_Branch_1_Conv2d_0b_3x3")
        c = conv(x, 32, 1, f"{name}_Branch_2_Conv2d_0a_1x1")
        c = conv(c, 32, 3, f"{name}_Branch_2_Conv2d_0b_3x3")
        c = conv(c, 32, 3, f"{name}_Branch_2_Conv2d_0c_3x3")
        return residual(x, [a, b, c], name, 0.17)

    def two_branches(x, filters, size, name, scale, activation="relu"):
        a = conv(x, filters, 1, f"{name}_Branch_0_Conv2d_1x1")
        b = conv(x, filters, 1, f"{name}_Branch_1_Conv2d_0a_1x1")
        b = conv(b, filters, (1, size), f"{name}_Branch_1_Conv2d_0b_1x{size}")
        b = conv(b, filters, (size, 1), f"{name}_Branch_1_Conv2d_0c_{size}x1")
        return residual(x, [a, b], name, scale, activation)

    def halve(x, name, *branches):
        outputs = []
        for i, filters in enumerate(branches):
            y, branch = x, f"{name}_Branch_{i}_Conv2d"
            for n, size, end in zip(filters[:-1], (1, 3), ("0a_1x1", "0b_3x3"), strict=False):
                y = conv(y, n, size, f"{branch}_{end}")
            outputs.append(conv(y, filters[-1], 3, f"{branch}_1a_3x3", 2, "valid"))
        return layers.Concatenate(name=name)([*outputs, layers.MaxPooling2D(3, 2)(x)])

    crops = keras.Input((160, 160, 3))
    x = conv(crops, 32, 3, "Conv2d_1a_3x3", 2, "valid")
    x = conv(x, 32, 3, "Conv2d_2a_3x3", 1, "valid")
    x = conv(x, 64, 3, "Conv2d_2b_3x3")
    x = layers.MaxPooling2D(3, 2)(x)
    x = conv(x, 80, 1, "Conv2d_3b_1x1", 1, "valid")
    x = conv(x, 192, 3, "Conv2d_4a_3x3", 1, "valid")
    x = conv(x, 256, 3, "Conv2d_4b_3x3", 2, "valid")
    for i in range(1, 6):
        x = block35(x, f"Block35_{i}")
    x = halve(x, "Mixed_6a", [384], [192, 192, 256])
    for i in range(1, 11):
        x = two_branches(x, 128, 7, f"Block17_{i}", 0.10)
    x = halve(x, "Mixed_7a", [256, 384], [256, 256], [256, 256, 256])
    for i in range(1, 6):
        x = two_branches(x, 192, 3, f"Block8_{i}", 0.20)
    x = two_branches(x, 192, 3, "Block8_6", 1.0, "linear")
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D(name="AvgPool")(x))
    x = layers.Dense(EMBEDDING_SIZE, use_bias=False, name="Bottleneck")(x)
    return keras.Model(crops, norm(x, "Bottleneck"))


def randomize(network):
    """Changes all variables, as training would: no bias, mean or variance keeps its default."""
    random = np.random.default_rng(0)
    for variable in network.weights:
        shape = variable.shape
        if variable.name == "moving_variance":
            variable.assign(random.uniform(0.5, 2, shape))
        elif variable.name == "kernel":
            variable.assign(random.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape))
        else:
            variable.assign(random.normal(0, 0.2, shape))
    return network


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).normal(size=(4, 160, 160, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def published():
    return randomize(keras_facenet())


@pytest.fixture(scope="module")
def saved(published, tmp_path_factory):
    """A folder with the network in every layout."""
    folder = tmp_path_factory.mktemp("saved")
    published.compile("adam", "mse")  # for a file with an optimizer's variables
    published.optimizer.build(published.trainable_variables)
    published.save(folder / "facenet_keras.h5")
    with h5py.File(folder / "facenet_keras.h5", "a") as file:  # their name in Keras 2
        momentum = file["optimizer_weights"].create_group("Adam/m")
        momentum["Bottleneck/kernel:0"] = np.zeros((1792, EMBEDDING_SIZE))
    published.save(folder / "facenet.keras")
    published.save_weights(folder / "facenet.weights.h5")
    write_as_keras_2(published, folder / "facenet_weights.h5")
    write_as_deepface(folder / "facenet_weights.h5", folder / "deepface_weights.h5")
    return folder


def write_as_keras_2(network, path):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in network.layers]
        for layer in network.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{variable.name}:0" for variable in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights(), strict=True):
                group[name] = value


def write_as_deepface(path, renamed_path):
    """deepface's network names branch 1 of the n-th of these blocks branch n."""
    repeated = [("Block17", n) for n in range(2, 11)] + [("Block8", n) for n in range(2, 6)]
    branches = {f"{block}_{n}_Branch_1": f"{block}_{n}_Branch_{n}" for block, n in repeated}
    with h5py.File(path) as file, h5py.File(renamed_path, "w") as renamed:
        for layer in file:
            branch, conv, rest = layer.partition("_Conv2d")
            own = branches.get(branch, branch) + conv + rest
            for name, value in file[layer].get(layer, {}).items():
                renamed[f"{own}/{own}/{name}"] = value[()]


@pytest.fixture(scope="module")
def imported(saved):
    return load_facenet(saved / "facenet_keras.h5")


def check_same_weights(network, expected):
    assert len(network.weights) == len(expected.weights) == 2 * 133
    for ours, theirs in zip(network.weights, expected.weights, strict=True):
        assert ours.path == theirs.path
        assert np.array_equal(ours.numpy(), theirs.numpy()), ours.path


# ---- keras-facenet ----


def test_an_imported_model_has_the_same_embeddings(published, imported, crops):
    prelogits = published(crops).numpy()
    expected = prelogits / np.linalg.norm(prelogits, axis=1, keepdims=True)
    assert expected.shape == (4, EMBEDDING_SIZE)
    assert np.abs(imported(crops).numpy() - expected).max() <= TOLERANCE
    distances = np.linalg.norm(expected[:, None] - expected, axis=2)
    assert distances[np.triu_indices(4, 1)].min() > 100 * TOLERANCE  # they differ


@pytest.mark.parametrize(
    "name",
    ["facenet_weights.h5", "facenet.keras", "facenet.weights.h5", "deepface_weights.h5"],
)
def test_other_layouts_have_the_same_weights(saved, imported, name):
    check_same_weights(load_facenet(saved / name), imported)


def test_lambda_layers_are_not_run(saved):
    """This is why arrays are read, and not models."""
    with pytest.raises(ValueError, match=r"Lambda.*unsafe"):
        keras.models.load_model(saved / "facenet.keras")


# ---- Our own forms ----


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_our_network_is_read_back_unchanged(tmp_path, imported, suffix):
    path = tmp_path / f"own{suffix}"
    imported.save_weights(path) if suffix == ".weights.h5" else imported.save(path)
    check_same_weights(load_facenet(path), imported)


def test_our_training_form_has_the_same_embeddings(tmp_path, crops):
    network = randomize(inception_resnet_v1_for_training(EMBEDDING_SIZE, dropout=0.5))
    network.save(tmp_path / "own.keras")
    expected = network(crops, training=False)
    assert np.abs(load_facenet(tmp_path / "own.keras")(crops) - expected).max() <= TOLERANCE


# ---- Incomplete files ----


@pytest.mark.parametrize(
    ("file", "group", "named"),
    [
        ("facenet_keras.h5", f"model_weights/{CONV}", f"has no {CONV}/kernel"),
        (
            "facenet_keras.h5",
            f"model_weights/{CONV}_BatchNorm",
            f"has neither {CONV}/bias nor {CONV}_BatchNorm/beta",
        ),
        (
            "facenet_weights.h5",
            "Bottleneck_BatchNorm/Bottleneck_BatchNorm/moving_mean:0",
            "has no Bottleneck_BatchNorm/moving_mean",
        ),
        ("facenet_weights.h5", "Bottleneck", "has no Bottleneck/kernel"),
        ("deepface_weights.h5", CONV_OF_DEEPFACE, f"has no {CONV_OF_DEEPFACE}/kernel"),
        ("facenet.weights.h5", "layers/conv2d_3", "has no Conv2d_3b_1x1/kernel"),
    ],
)
def test_a_missing_variable_is_named(saved, tmp_path, file, group, named):
    path = tmp_path / file
    path.write_bytes((saved / file).read_bytes())
    with h5py.File(path, "a") as weights:
        del weights[group]
    with pytest.raises(WeightsError, match=f"{re.escape(str(path))} {named}"):
        load_facenet(path)


@pytest.mark.parametrize(
    ("file", "dataset", "named"),
    [
        ("facenet_weights.h5", f"{CONV}/{CONV}/kernel:0", f"{CONV}/kernel"),
        ("facenet_weights.h5", "Bottleneck/Bottleneck/kernel:0", "Bottleneck/kernel"),
        ("facenet.weights.h5", "layers/conv2d_3/vars/0", "Conv2d_3b_1x1/kernel"),
    ],
)
def test_a_variable_of_a_wrong_shape_is_named(saved, tmp_path, file, dataset, named):
    path = tmp_path / file
    path.write_bytes((saved / file).read_bytes())
    with h5py.File(path, "a") as weights:
        value = weights[dataset][()]
        del weights[dataset]
        weights[dataset] = value[..., 1:, :]
    with pytest.raises(WeightsError, match=f"{re.escape(str(path))}: {named} has shape .* needs "):
        load_facenet(path)


@pytest.mark.parametrize("name", ["facenet_keras.h5", "facenet.keras", "facenet.weights.h5"])
def test_a_truncated_file_is_named(saved, tmp_path, name):
    content = (saved / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(WeightsError, match=rf"{re.escape(str(path))} cannot be read as a Keras "):
        load_facenet(path)


def test_the_error_for_a_file_without_layer_names_says_what_to_do(saved, tmp_path):
    path = tmp_path / "old.weights.h5"
    path.write_bytes((saved / "facenet.weights.h5").read_bytes())
    with h5py.File(path, "a") as weights:
        for layer in weights["layers"].values():
            layer["vars"].attrs.pop("name")
    with pytest.raises(WeightsError, match=r"does not name its layers.* save it as \.h5"):
        load_facenet(path)


def test_a_model_of_another_network_is_refused(tmp_path):
    other = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="Bottleneck")])
    other.save(tmp_path / "other.keras")
    with pytest.raises(WeightsError, match=r"other\.keras has no Conv2d_1a_3x3/kernel"):
        load_facenet(tmp_path / "other.keras")
