"""load_facenet against a TensorFlow 1 network, saved and frozen by TensorFlow.

The network is built like the published one for training: variable scopes, batch normalization with
moving averages, and a placeholder phase_train that switches between these and the batch's.
"""

import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from facecluster.model_export.weights.import_facenet import load_facenet
from facecluster.model_export.weights.weight_files import WeightsError

v1 = tf.compat.v1
TOLERANCE = 1e-4  # of a component of a unit vector
EMBEDDING_SIZE = 16
SCOPE = "InceptionResnetV1"
CONV = f"{SCOPE}/Repeat_2/block8_4/Branch_1/Conv2d_0b_1x3"
NAME = "model-20180402-114759"  # as published: the .meta is named without the number of steps


# ---- The network ----


def embeddings(crops, phase_train):
    normal, uniform = v1.random_normal_initializer, v1.random_uniform_initializer

    def weights(*shape):
        stddev = (2 / np.prod(shape[:-1])) ** 0.5
        return v1.get_variable("weights", shape, initializer=normal(0, stddev))

    def conv(x, filters, size, name, stride=1, padding="SAME"):
        height, width = size if isinstance(size, tuple) else (size, size)
        with v1.variable_scope(name):
            kernel = weights(height, width, x.shape[-1], filters)
            return tf.nn.relu(batch_norm(tf.nn.conv2d(x, kernel, stride, padding)))

    def batch_norm(x):
        with v1.variable_scope("BatchNorm"):
            shape = x.shape[-1:]
            beta = v1.get_variable("beta", shape, initializer=normal(0, 0.2))
            mean = v1.get_variable("moving_mean", shape, initializer=normal(0, 0.2))
            variance = v1.get_variable("moving_variance", shape, initializer=uniform(0.5, 2))
            one, epsilon = tf.ones(shape), 0.001
            if x.shape.rank == 2:  # has no fused operation
                batch_mean, batch_variance = tf.nn.moments(x, [0])
                mean = v1.cond(phase_train, lambda: batch_mean, lambda: mean)
                variance = v1.cond(phase_train, lambda: batch_variance, lambda: variance)
                return tf.nn.batch_normalization(x, mean, variance, beta, None, epsilon)
            fused = v1.nn.fused_batch_norm
            return v1.cond(
                phase_train,
                lambda: fused(x, one, beta, epsilon=epsilon, is_training=True)[0],
                lambda: fused(x, one, beta, mean, variance, epsilon, is_training=False)[0],
            )

    def residual(x, branches, scale, activation=tf.nn.relu):
        mixed = tf.concat(branches, 3)
        with v1.variable_scope("Conv2d_1x1"):
            kernel = weights(1, 1, mixed.shape[-1], x.shape[-1])
            bias = v1.get_variable("biases", x.shape[-1:], initializer=normal(0, 0.2))
            up = tf.nn.conv2d(mixed, kernel, 1, "SAME") + bias
        return activation(x + scale * up)

    def block35(x):
        with v1.variable_scope("Branch_0"):
            a = conv(x, 32, 1, "Conv2d_1x1")
        with v1.variable_scope("Branch_1"):
            b = conv(conv(x, 32, 1, "Conv2d_0a_1x1"), 32, 3, "Conv2d_0b_3x3")
        with v1.variable_scope("Branch_2"):
            c = conv(conv(x, 32, 1, "Conv2d_0a_1x1"), 32, 3, "Conv2d_0b_3x3")
            c = conv(c, 32, 3, "Conv2d_0c_3x3")
        return residual(x, [a, b, c], 0.17)

    def two_branches(x, filters, size, scale, activation=tf.nn.relu):
        with v1.variable_scope("Branch_0"):
            a = conv(x, filters, 1, "Conv2d_1x1")
        with v1.variable_scope("Branch_1"):
            b = conv(x, filters, 1, "Conv2d_0a_1x1")
            b = conv(b, filters, (1, size), f"Conv2d_0b_1x{size}")
            b = conv(b, filters, (size, 1), f"Conv2d_0c_{size}x1")
        return residual(x, [a, b], scale, activation)

    def halve(x, *branches):
        outputs = []
        for i, filters in enumerate(branches):
            with v1.variable_scope(f"Branch_{i}"):
                y, names = x, ("Conv2d_0a_1x1", "Conv2d_0b_3x3")
                for n, size, name in zip(filters[:-1], (1, 3), names, strict=False):
                    y = conv(y, n, size, name)
                outputs.append(conv(y, filters[-1], 3, "Conv2d_1a_3x3", 2, "VALID"))
        return tf.concat([*outputs, tf.nn.max_pool2d(x, 3, 2, "VALID")], 3)

    def repeat(name, n, block, *args):
        nonlocal x
        for i in range(1, n + 1):
            with v1.variable_scope(f"{name}_{i}"):
                x = block(x, *args)

    with v1.variable_scope(SCOPE):
        x = conv(crops, 32, 3, "Conv2d_1a_3x3", 2, "VALID")
        x = conv(x, 32, 3, "Conv2d_2a_3x3", 1, "VALID")
        x = conv(x, 64, 3, "Conv2d_2b_3x3")
        x = tf.nn.max_pool2d(x, 3, 2, "VALID")
        x = conv(x, 80, 1, "Conv2d_3b_1x1", 1, "VALID")
        x = conv(x, 192, 3, "Conv2d_4a_3x3", 1, "VALID")
        x = conv(x, 256, 3, "Conv2d_4b_3x3", 2, "VALID")
        repeat("Repeat/block35", 5, block35)
        with v1.variable_scope("Mixed_6a"):
            x = halve(x, [384], [192, 192, 256])
        repeat("Repeat_1/block17", 10, two_branches, 128, 7, 0.10)
        with v1.variable_scope("Mixed_7a"):
            x = halve(x, [256, 384], [256, 256], [256, 256, 256])
        repeat("Repeat_2/block8", 5, two_branches, 192, 3, 0.20)
        with v1.variable_scope("Block8"):
            x = two_branches(x, 192, 3, 1.0, tf.identity)
        x = tf.reduce_mean(x, [1, 2])
        with v1.variable_scope("Bottleneck"):
            x = batch_norm(tf.matmul(x, weights(1792, EMBEDDING_SIZE)))
    return tf.nn.l2_normalize(x, 1, 1e-10, name="embeddings")


def training_only_variables():
    """Further variables of a checkpoint, with values that would change the embeddings."""
    ones = v1.ones_initializer()
    v1.get_variable("global_step", [], initializer=ones)
    v1.get_variable("centers", [20, EMBEDDING_SIZE], initializer=ones)
    v1.get_variable("Logits/weights", [EMBEDDING_SIZE, 20], initializer=ones)
    for variable in v1.global_variables(SCOPE)[:4]:
        for slot in ("ExponentialMovingAverage", "Adam", "Adam_1"):
            v1.get_variable(f"{variable.op.name}/{slot}", variable.shape, initializer=ones)


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).normal(size=(4, 160, 160, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def published(tmp_path_factory, crops):
    """A folder like those of the published models, and the embeddings of the crops."""
    folder = tmp_path_factory.mktemp("published")
    v1.disable_control_flow_v2()  # TensorFlow 1 has switches, not functions
    try:
        with tf.Graph().as_default() as graph, v1.Session() as session:
            v1.set_random_seed(0)
            images = v1.placeholder(tf.float32, (None, 160, 160, 3), name="image_batch")
            phase_train = v1.placeholder(tf.bool, [], name="phase_train")
            with v1.variable_scope("", use_resource=False):
                outputs = embeddings(tf.identity(images, "input"), phase_train)
                training_only_variables()
            session.run(v1.global_variables_initializer())
            expected = session.run(outputs, {images: crops, phase_train: False})

            saver = v1.train.Saver()
            prefix = str(folder / f"{NAME}.ckpt-275")
            saver.save(session, prefix, write_meta_graph=False)
            saver.export_meta_graph(str(folder / f"{NAME}.meta"))
            frozen = v1.graph_util.convert_variables_to_constants(
                session, graph.as_graph_def(), ["embeddings"]
            )
            (folder / "20180402-114759.pb").write_bytes(frozen.SerializeToString())
    finally:
        v1.enable_control_flow_v2()
    (folder / "checkpoint").unlink()  # as published
    return folder, expected


def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


# ---- The embeddings ----


def test_the_saved_network_is_like_the_published_one(published):
    folder, expected = published
    assert expected.shape == (4, EMBEDDING_SIZE)
    distances = np.linalg.norm(expected[:, None] - expected, axis=2)
    assert distances[np.triu_indices(4, 1)].min() > 100 * TOLERANCE
    assert sorted(path.name for path in folder.iterdir()) == [
        "20180402-114759.pb",
        f"{NAME}.ckpt-275.data-00000-of-00001",
        f"{NAME}.ckpt-275.index",
        f"{NAME}.meta",
    ]
    graph = v1.GraphDef.FromString((folder / "20180402-114759.pb").read_bytes())
    assert {"Switch", "Merge", "FusedBatchNormV3"} <= {node.op for node in graph.node}


def test_an_imported_frozen_graph_has_the_same_embeddings(published, crops):
    folder, expected = published
    network = load_facenet(folder / "20180402-114759.pb")
    assert np.abs(network(crops).numpy() - expected).max() <= TOLERANCE


@pytest.mark.parametrize("named", ["", f"{NAME}.meta"])
def test_an_imported_checkpoint_has_the_same_embeddings(published, crops, named):
    folder, expected = published
    network = load_facenet(str(folder / named))
    assert np.abs(network(crops).numpy() - expected).max() <= TOLERANCE


# ---- The choice of the checkpoint ----


@pytest.fixture
def small_checkpoints(tmp_path):
    """Writes checkpoints of one variable of a wrong shape; the error tells which one was read."""

    def write(*names):
        for i, name in enumerate(names):
            save(tmp_path / name, {f"{SCOPE}/Bottleneck/weights": np.zeros([3] * (i + 3))})
        return tmp_path

    return write


def save(prefix, arrays):
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(arrays),
        shape_and_slices=[""] * len(arrays),
        tensors=list(arrays.values()),
    )


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("", "model-1.ckpt-1000"),
        ("model-1.meta", "model-1.ckpt-1000"),
        ("model-1.ckpt-90", "model-1.ckpt-90"),
        ("model-1.ckpt-90.index", "model-1.ckpt-90"),
        ("model-1.ckpt-90.meta", "model-1.ckpt-90"),
        ("model-1.ckpt-90.data-00000-of-00001", "model-1.ckpt-90"),
    ],
)
def test_the_named_checkpoint_or_the_last_is_read(small_checkpoints, named, expected):
    folder = small_checkpoints("model-1.ckpt-9", "model-1.ckpt-1000", "model-1.ckpt-90")
    path = re.escape(str(folder / expected))
    with pytest.raises(WeightsError, match=rf"{path}: .* needs two dimensions"):
        load_facenet(folder / named)


def test_one_of_two_models_must_be_named(small_checkpoints):
    folder = small_checkpoints("model-1.ckpt-9", "model-2.ckpt-9")
    with pytest.raises(WeightsError, match=rf"{re.escape(str(folder))} has .* several models"):
        load_facenet(folder)
    with pytest.raises(WeightsError, match=r"model-2\.ckpt-9: .* needs two dimensions"):
        load_facenet(folder / "model-2.meta")


# ---- Incomplete files ----


def checkpoint_arrays(folder):
    reader = tf.train.load_checkpoint(str(folder / f"{NAME}.ckpt-275"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.mark.parametrize(
    "missing",
    [f"{CONV}/weights", f"{CONV}/BatchNorm/moving_mean", f"{SCOPE}/Bottleneck/BatchNorm/beta"],
)
def test_a_missing_variable_is_named(published, tmp_path, missing):
    arrays = checkpoint_arrays(published[0])
    del arrays[missing]
    save(tmp_path / "model.ckpt-1", arrays)
    with pytest.raises(WeightsError, match=rf"model\.ckpt-1 has no {missing}: "):
        load_facenet(tmp_path)


@pytest.mark.parametrize("name", [f"{CONV}/weights", f"{CONV}/BatchNorm/moving_variance"])
def test_a_variable_of_a_wrong_shape_is_named(published, tmp_path, name):
    arrays = checkpoint_arrays(published[0])
    arrays[name] = arrays[name][..., :1]
    save(tmp_path / "model.ckpt-1", arrays)
    with pytest.raises(WeightsError, match=rf"model\.ckpt-1: {name} has shape .* needs "):
        load_facenet(tmp_path)


@pytest.mark.parametrize("ending", [".index", ".data-00000-of-00001", ".pb"])
@pytest.mark.parametrize("left", [0.3, 0.9])
def test_a_truncated_file_is_named(published, tmp_path, ending, left):
    folder = copy(published[0], tmp_path)
    (path,) = folder.glob(f"*{ending}")
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    named = re.escape(str(path if ending == ".pb" else folder / f"{NAME}.ckpt-275"))
    with pytest.raises(WeightsError, match=rf"{named} (cannot be read as a |has no {SCOPE}/)"):
        load_facenet(path if ending == ".pb" else folder)


def test_an_index_without_its_data_is_named(published, tmp_path):
    folder = copy(published[0], tmp_path)
    next(folder.glob("*.data-*")).unlink()
    with pytest.raises(WeightsError, match=r"ckpt-275 cannot be read as a TensorFlow checkpoint"):
        load_facenet(folder)
