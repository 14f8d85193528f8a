"""load_facenet against the state dict of facenet-pytorch's network, run by PyTorch."""

import importlib
import pickle
import re
import sys

import numpy as np
import pytest

from facecluster.model_export.weights.import_facenet import load_facenet
from facecluster.model_export.weights.registry import Package, fetch_files
from facecluster.model_export.weights.weight_files import WeightsError

TOLERANCE = 1e-4  # of a component of a unit vector
PACKAGE = Package(
    "facenet-pytorch==2.6.0", "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca"
)
CONV = "repeat_2.6.branch1.1.conv.weight"
NORM = "mixed_6a.branch0.bn"


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def network_class(torch, tmp_path_factory):
    """The network's class, without the rest of its package, which needs torchvision."""
    folder = tmp_path_factory.mktemp("source")
    package = folder / "published_facenet_pytorch"
    fetch_files(PACKAGE, ["facenet_pytorch/models/inception_resnet_v1.py"], package)
    (package / "utils").mkdir()
    # It downloads trained weights, which the tests do not need.
    (package / "utils" / "download.py").write_text("download_url_to_file = None\n")
    sys.path.append(str(folder))
    try:
        name = "published_facenet_pytorch.inception_resnet_v1"
        yield importlib.import_module(name).InceptionResnetV1
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def published(torch, network_class):
    """Random weights, as after training: no scale, bias, mean or variance keeps its default."""
    torch.manual_seed(0)
    network = network_class(classify=True, num_classes=10)
    for name, value in network.state_dict().items():
        if name.endswith(("running_var", "bn.weight")):
            value.uniform_(0.5, 2)
        elif value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        elif value.ndim == 1:
            value.normal_(0, 0.2)
    network.classify = False
    return network.eval()


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).normal(size=(4, 160, 160, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(torch, published, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "published.pt"
    torch.save(published.state_dict(), path)
    return path


def test_an_imported_state_dict_has_the_same_embeddings(torch, published, saved, crops):
    with torch.no_grad():
        expected = published(torch.from_numpy(crops.transpose(0, 3, 1, 2).copy())).numpy()
    assert expected.shape == (4, 512)
    assert np.abs(load_facenet(saved)(crops).numpy() - expected).max() <= TOLERANCE
    distances = np.linalg.norm(expected[:, None] - expected, axis=2)
    assert distances[np.triu_indices(4, 1)].min() > 100 * TOLERANCE  # they differ


def test_half_precision_is_read(torch, published, tmp_path):
    state = {name: value.half() for name, value in published.state_dict().items()}
    torch.save(state, tmp_path / "half.pth")
    kernel, _ = load_facenet(tmp_path / "half.pth").get_layer("Block8-Conv2d_1x1").get_weights()
    expected = published.block8.conv2d.weight.detach().numpy()[:, :, 0, 0].T
    assert kernel[0, 0] == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (CONV, f"has no {CONV}"),
        (f"{NORM}.weight", f"has no {NORM}.weight"),
        (f"{NORM}.running_var", f"has no {NORM}.running_var"),
        ("last_linear.weight", "has no last_linear.weight"),
        ("block8.conv2d.bias", r"has neither block8.conv2d.bias nor "),
    ],
)
def test_a_missing_variable_is_named(torch, published, tmp_path, missing, message):
    path = tmp_path / "partial.pt"
    state = published.state_dict()
    del state[missing]
    torch.save(state, path)
    with pytest.raises(WeightsError, match=f"{re.escape(str(path))} {message}"):
        load_facenet(path)


@pytest.mark.parametrize("name", [CONV, f"{NORM}.running_mean", "last_linear.weight"])
def test_a_variable_of_a_wrong_shape_is_named(torch, published, tmp_path, name):
    path = tmp_path / "misshapen.pt"
    state = published.state_dict()
    torch.save(state | {name: state[name][..., :1]}, path)
    if name == CONV:  # a kernel of height 1 and width 7
        torch.save(state | {name: state[name].transpose(2, 3)}, path)
    with pytest.raises(WeightsError, match=f"{re.escape(str(path))}: {name} has shape .* needs "):
        load_facenet(path)


@pytest.mark.parametrize("left", [0.1, 0.9])
def test_a_truncated_file_is_named(torch, saved, tmp_path, left):
    content = saved.read_bytes()
    path = tmp_path / "truncated.pt"
    path.write_bytes(content[: int(left * len(content))])
    message = rf"{re.escape(str(path))} cannot be read as a PyTorch state dict"
    with pytest.raises(WeightsError, match=message):
        load_facenet(path)


def test_a_pickled_network_is_not_run(torch, published, tmp_path):
    torch.save(published, tmp_path / "network.pt")
    with pytest.raises(WeightsError, match=r"network\.pt cannot be read as a PyTorch state dict"):
        load_facenet(tmp_path / "network.pt")


def test_a_file_without_a_dictionary_is_named(torch, tmp_path):
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(WeightsError, match=r"tensor\.pt cannot be .* it holds a Tensor"):
        load_facenet(tmp_path / "tensor.pt")


def test_the_error_without_pytorch_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)  # makes the import fail
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps({}))
    with pytest.raises(WeightsError, match=r"weights\.pt .*pip install facecluster\[torch\]"):
        load_facenet(path)
