"""The three networks give the outputs of the package mtcnn, with the same weights."""

from pathlib import Path

import mtcnn
import numpy as np
import pytest
from mtcnn.network.onet import ONet
from mtcnn.network.pnet import PNet
from mtcnn.network.rnet import RNet
from mtcnn.utils.tensorflow import load_weights
from PIL import Image

from facecluster.model_export.weights.import_mtcnn import load_mtcnn
from facecluster.transforms.faces.saved_model import SavedModel

TOLERANCE = 1e-4
WEIGHTS = Path(mtcnn.__file__).parent / "assets" / "weights"
# Its outputs are corrections, landmarks (of O-Net), and the probabilities (no face, face); ours are
# the probability of a face, corrections, landmarks.
PUBLISHED = {
    "p_net": (PNet, "pnet.lz4", (1, 0)),
    "r_net": (RNet, "rnet.lz4", (1, 0)),
    "o_net": (ONet, "onet.lz4", (2, 0, 1)),
}
SIZES = {"p_net": (61, 94), "r_net": (24, 24), "o_net": (48, 48)}


@pytest.fixture(scope="module")
def networks():
    return load_mtcnn(WEIGHTS)


def published_outputs(name, images):
    network_class, weights, order = PUBLISHED[name]
    network = network_class()
    network.build()
    network.set_weights(load_weights(weights))
    outputs = [np.asarray(output) for output in network(images)]
    probability, *others = (outputs[i] for i in order)
    return [probability[..., 1:], *others]


def real_images(name, lfw_images) -> np.ndarray:
    """(16, h, w, 3) uint8, the centers of photos at a network's input size."""
    height, width = SIZES[name]
    paths = sorted(lfw_images.glob("*/*_0001.jpg"))[:1600:100]
    return np.stack([
        np.asarray(Image.open(path).crop((75, 75, 175, 175)).resize((width, height)))
        for path in paths
    ])  # fmt: skip


def standardized(images):
    return (images.astype(np.float32) - 127.5) / 128


def check_equal(outputs, expected):
    assert len(outputs) == len(expected)
    for ours, theirs in zip(outputs, expected, strict=True):
        assert np.shape(ours) == theirs.shape
        assert np.abs(np.asarray(ours) - theirs).max() <= TOLERANCE


@pytest.mark.parametrize("name", PUBLISHED)
def test_outputs_on_real_images_equal_the_published_ones(name, networks, lfw_images):
    images = standardized(real_images(name, lfw_images))
    expected = published_outputs(name, images)
    check_equal(networks[name](images), expected)
    if name != "p_net":
        assert expected[0].max() > 0.9  # some images show a face


@pytest.mark.parametrize("name", PUBLISHED)
def test_outputs_on_noise_equal_the_published_ones(name, networks):
    images = np.random.default_rng(0).normal(size=(5, *SIZES[name], 3)).astype(np.float32)
    check_equal(networks[name](images), published_outputs(name, images))


@pytest.mark.parametrize("name", PUBLISHED)
def test_exported_networks_take_pixels(name, mtcnn_folder, lfw_images):
    images = real_images(name, lfw_images)
    outputs = SavedModel(mtcnn_folder).call(name, images)
    check_equal(outputs, published_outputs(name, standardized(images)))


@pytest.mark.parametrize("size", [(12, 12), (13, 12), (14, 15), (37, 12), (61, 94)])
def test_p_net_takes_any_size(size, networks):
    images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    outputs = networks["p_net"](images)
    check_equal(outputs, published_outputs("p_net", images))
    height, width = (-(-(side - 2) // 2) - 4 for side in size)  # as documented
    assert outputs[0].shape == (2, height, width, 1)
    assert outputs[1].shape == (2, height, width, 4)


def test_the_numbers_of_parameters_are_the_published_ones(networks):
    counts = {name: network.count_params() for name, network in networks.items()}
    assert counts == {"p_net": 6_632, "r_net": 100_178, "o_net": 389_040}
