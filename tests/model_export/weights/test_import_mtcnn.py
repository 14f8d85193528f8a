"""load_mtcnn with weights other than the published ones.

The import of the published weights is tested with the networks.
"""

import shutil
from pathlib import Path

import joblib
import mtcnn
import numpy as np
import pytest

from facecluster.model_export.weights.import_mtcnn import load_mtcnn
from facecluster.model_export.weights.weight_files import WeightsError


@pytest.fixture
def mtcnn_weights(tmp_path) -> Path:
    """A copy of the published weights."""
    return shutil.copytree(Path(mtcnn.__file__).parent / "assets" / "weights", tmp_path / "weights")


def test_all_published_arrays_are_used(mtcnn_weights):
    networks = load_mtcnn(mtcnn_weights)
    assert list(networks) == ["p_net", "r_net", "o_net"]
    for name, network in networks.items():
        published = joblib.load(mtcnn_weights / f"{name[0]}net.lz4")
        assert len(published) == len(network.weights)
        sums = sorted(float(array.sum()) for array in published)
        assert sorted(float(np.sum(w)) for w in network.get_weights()) == pytest.approx(sums)


@pytest.mark.parametrize("n_more", [-1, 1])
def test_a_file_with_a_wrong_number_of_arrays_is_named(mtcnn_weights, n_more):
    path = mtcnn_weights / "rnet.lz4"
    arrays = joblib.load(path)
    joblib.dump((arrays + arrays)[: len(arrays) + n_more], path)
    message = rf"rnet\.lz4 holds {len(arrays) + n_more} arrays, r_net has {len(arrays)}"
    with pytest.raises(WeightsError, match=message):
        load_mtcnn(mtcnn_weights)


@pytest.mark.parametrize("index", [0, 5, -1])
def test_an_array_of_a_wrong_shape_is_named(mtcnn_weights, index):
    path = mtcnn_weights / "onet.lz4"
    arrays = joblib.load(path)
    arrays[index] = arrays[index][..., :-1]
    joblib.dump(arrays, path)
    with pytest.raises(WeightsError, match=r"onet\.lz4: .* has shape .*, the network's is "):
        load_mtcnn(mtcnn_weights)


def test_weights_of_another_of_the_three_networks_are_refused(mtcnn_weights):
    shutil.copy(mtcnn_weights / "onet.lz4", mtcnn_weights / "rnet.lz4")
    with pytest.raises(WeightsError, match=r"rnet\.lz4"):
        load_mtcnn(mtcnn_weights)


def test_a_missing_file_is_named(mtcnn_weights):
    (mtcnn_weights / "pnet.lz4").unlink()
    with pytest.raises(FileNotFoundError, match=r"pnet\.lz4"):
        load_mtcnn(mtcnn_weights)
