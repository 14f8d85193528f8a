"""The outputs for a crop have the same bits in every batch.

So a job that was killed and resumed, with other batches, writes the same bytes as one that was not.
"""

import subprocess
import sys

import numpy as np
import pytest

from facecluster.transforms.faces.embed import CROPS_PER_CALL as FACES_PER_CALL
from facecluster.transforms.faces.embed import embed_crops
from facecluster.transforms.faces.mtcnn import CROPS_PER_CALL, O_NET_SIZE, R_NET_SIZE
from facecluster.transforms.faces.saved_model import CROPS_MULTIPLE, SavedModel

SIZES = {"r_net": R_NET_SIZE, "o_net": O_NET_SIZE, "embed": 160}
MAX_BATCH = {"r_net": CROPS_PER_CALL[R_NET_SIZE], "o_net": CROPS_PER_CALL[O_NET_SIZE],
        "embed": FACES_PER_CALL}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def no_gpu():
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("GPU kernels do not guarantee it")


@pytest.fixture(scope="module")
def models(mtcnn_folder, facenet_folder) -> dict[str, SavedModel]:
    mtcnn = SavedModel(mtcnn_folder)
    return {"p_net": mtcnn, "r_net": mtcnn, "o_net": mtcnn, "embed": SavedModel(facenet_folder)}


def random_images(n: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), np.uint8)


def outputs(model, endpoint, pixels, multiple_of=CROPS_MULTIPLE) -> np.ndarray:
    """(n, values): all outputs of an endpoint, flattened for each image."""
    found = model.call(endpoint, pixels, multiple_of)
    parts = found if isinstance(found, list) else [found]
    return np.concatenate([part.reshape(len(pixels), -1) for part in parts], axis=1)


@pytest.mark.parametrize("endpoint", ["r_net", "o_net", "embed"])
def test_crops_in_batches_of_any_size_and_order(models, endpoint):
    model, max_batch = models[endpoint], MAX_BATCH[endpoint]
    crops = random_images(max_batch, SIZES[endpoint], SIZES[endpoint])
    whole_batch = outputs(model, endpoint, crops)
    rng = np.random.default_rng(1)
    for size in sorted({1, 2, 7, 9, 24, max_batch - 1}):
        chosen = rng.permutation(max_batch)[:size]
        np.testing.assert_array_equal(outputs(model, endpoint, crops[chosen]), whole_batch[chosen])


def test_batches_without_padding_differ(models):
    crops = random_images(FACES_PER_CALL, 160, 160)
    whole_batch = outputs(models["embed"], "embed", crops)
    parts = [outputs(models["embed"], "embed", crops[i : i + 7], 1) for i in range(0, 21, 7)]
    assert not np.array_equal(np.concatenate(parts), whole_batch[:21])


@pytest.mark.parametrize("shape", [(12, 12), (30, 40), (101, 77), (250, 340), (600, 800)])
def test_canvases_in_batches_of_any_size(models, shape):
    canvases = random_images(max(2, min(20, 500_000 // (shape[0] * shape[1]))), *shape)
    whole_batch = outputs(models["p_net"], "p_net", canvases, 1)
    for size in {1, 2, 3, len(canvases) - 1} - {0}:
        part = outputs(models["p_net"], "p_net", canvases[-size:], 1)
        np.testing.assert_array_equal(part, whole_batch[-size:])


def test_faces_in_any_network_call(models):
    crops = list(random_images(FACES_PER_CALL + 13, 160, 160))
    whole_batch = embed_crops(models["embed"], crops)
    np.testing.assert_array_equal(embed_crops(models["embed"], crops[11:]), whole_batch[11:])


CALL = """
import sys
import numpy as np
from facecluster.transforms.faces.saved_model import SavedModel
folder, endpoint, size, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
crops = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), np.uint8)
found = SavedModel(folder, threads).call(endpoint, crops)
for part in found if isinstance(found, list) else [found]:
    sys.stdout.buffer.write(part.tobytes())
"""


@pytest.mark.parametrize("endpoint", ["p_net", "embed"])
def test_any_number_of_threads(models, endpoint):
    size = {"p_net": 300, "embed": 160}[endpoint]
    found = {
        subprocess.run(
            [sys.executable, "-c", CALL, models[endpoint].path, endpoint, str(size), str(threads)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
        ).stdout
        for threads in (1, 2)
    }  # fmt: skip
    assert len(found) == 1
