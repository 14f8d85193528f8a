"""Tests of the training loop: exact resumption, reports, optimizers, devices, precision."""

import multiprocessing
import random
import re
import resource
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facecluster.errors import JobError
from facecluster.model_export.networks.export import standardize
from facecluster.model_export.training.batches import batch_rows
from facecluster.model_export.training.losses import triplet_loss
from facecluster.model_export.training.objectives import Softmax, Triplets
from facecluster.model_export.training.sampling import identity_batches, shuffled_batches
from facecluster.model_export.training.schedule import Schedule
from facecluster.model_export.training.trainer import OPTIMIZERS, Learner, train

# Child processes fork from a server that has imported TensorFlow but not used it. A fork of this
# process, where TensorFlow has been used, might hang and could not configure devices.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["facecluster.model_export.training.trainer"])

N_PEOPLE, N_EPOCHS, STEPS_PER_EPOCH, BATCH_SIZE = 6, 3, 3, 12
SCHEDULE = Schedule(((0, 0.1), (1, 0.05), (2, 0.01)))
LABELS = (np.arange(60) % N_PEOPLE).astype(np.int32)
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)


def network(batch_norm=True, dropout=0.3, decay=1e-3) -> keras.Model:
    """A small network with every kind of state: averages, seeds, penalties."""
    penalty = keras.regularizers.L2(decay / 2)
    x = crops = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, kernel_regularizer=penalty)(x)
    if batch_norm:
        x = keras.layers.BatchNormalization(scale=False, momentum=0.9)(x)
    x = keras.layers.Flatten()(keras.layers.ReLU()(x))
    x = keras.layers.Dropout(dropout, seed=3)(x)
    x = keras.layers.Dense(32, kernel_regularizer=penalty)(x)
    x = keras.layers.Activation("linear", dtype="float32", name="prelogits")(x)
    return keras.Model(crops, keras.layers.UnitNormalization(dtype="float32")(x))


def softmax(center_loss_factor=0.5) -> Softmax:
    return Softmax(N_PEOPLE, 32, center_loss_factor, norm_loss_factor=0.01, weight_decay=1e-3)


def new_learner(objective_of=softmax, seed=0, **options) -> Learner:
    keras.utils.set_random_seed(seed)
    return Learner(network(**options), objective_of(), "fixed")


def batches_of(indices):
    """Maps a step to the batches of this and all later steps, as `train` takes them."""

    def batches_from(step):
        inputs, labels = batch_rows(PIXELS, indices, step), batch_rows(LABELS, indices, step)
        return tf.data.Dataset.zip((inputs, {"labels": labels}))

    return batches_from


def shuffled(step):
    return shuffled_batches(len(PIXELS), BATCH_SIZE, 7, step)


def run(folder, learner=None, batches=None, optimizer="adam", schedule=SCHEDULE, **options):
    """Trains in the folder and returns the learner."""
    learner = learner or new_learner()
    batches = batches or batches_of(shuffled)
    options = {"n_epochs": N_EPOCHS, "steps_per_epoch": STEPS_PER_EPOCH} | options
    train(learner, OPTIMIZERS[optimizer](), batches, schedule, Path(folder), **options)
    return learner


def state(learner: Learner) -> list[np.ndarray]:
    return [value.numpy() for value in [*learner.variables, *learner.optimizer.variables]]


def checkpoint(folder) -> dict[str, np.ndarray]:
    with np.load(folder / "checkpoint.npz") as file:
        return dict(file)


def assert_same(first: list[np.ndarray], second: list[np.ndarray]):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def scalars(folder) -> dict[str, dict[int, float]]:
    """The TensorBoard scalars: {name: {step: value}}."""
    from tensorboard.backend.event_processing.event_accumulator import (
        SCALARS,
        TENSORS,
        EventAccumulator,
    )
    from tensorboard.util import tensor_util

    found = {}
    for file in sorted((folder / "tensorboard").iterdir()):
        events = EventAccumulator(str(file), {SCALARS: 0, TENSORS: 0}).Reload()
        for name in events.Tags()["tensors"]:
            for event in events.Tensors(name):
                value = float(tensor_util.make_ndarray(event.tensor_proto))
                again = found.setdefault(name, {}).setdefault(event.step, value)
                assert again == value  # if a step was trained twice
    return found


def in_child(target, *arguments) -> int:
    """Runs a function of this file in another process; returns the exit code."""
    child = FORKS.Process(target=target, args=arguments)
    child.start()
    child.join(120)
    return child.exitcode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(folder, final state) of a training without interruptions."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, state(run(folder))


# ---- resuming ----


def test_training_interrupted_at_every_step_ends_with_the_same_weights(tmp_path, undisturbed):
    def dying_at(last):
        def indices(step):
            if step == last:
                raise InterruptedError(f"dead at step {step}")
            return shuffled(step)

        return batches_of(indices)

    for step in range(N_EPOCHS * STEPS_PER_EPOCH):
        # TensorFlow wraps the error, except for the first batch.
        with pytest.raises((tf.errors.OpError, InterruptedError), match=f"dead at step {step}"):
            run(tmp_path, new_learner(), dying_at(step))
        done = step // STEPS_PER_EPOCH
        assert (tmp_path / "checkpoint.npz").exists() == (done > 0)
        assert done == 0 or checkpoint(tmp_path)["epoch"] == done
    # The checkpoint replaces the initial weights.
    assert_same(state(run(tmp_path, new_learner(seed=99))), undisturbed[1])


def train_slowly(folder):
    def batches_from(step):
        return batches_of(shuffled)(step).map(slowly)

    def slowly(inputs, targets):
        inputs = tf.numpy_function(lambda x: time.sleep(0.1) or x, [inputs], inputs.dtype)
        return tf.ensure_shape(inputs, (BATCH_SIZE, 8, 8, 3)), targets

    run(folder, batches=batches_from)


def test_training_killed_at_random_moments_ends_with_the_same_weights(tmp_path, undisturbed):
    moments = random.Random(0)
    path = tmp_path / "checkpoint.npz"
    killed_in = []
    for _ in range(20):
        before = path.stat().st_mtime_ns if path.exists() else None
        child = FORKS.Process(target=train_slowly, args=(tmp_path,))
        child.start()
        while child.is_alive() and (not path.exists() or path.stat().st_mtime_ns == before):
            child.join(0.005)
        child.join(moments.uniform(0, 0.3))
        child.kill()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        killed_in.append(int(checkpoint(tmp_path)["epoch"]))
    assert any(0 < epoch < N_EPOCHS for epoch in killed_in)
    run(tmp_path)  # in case the last one was killed before its end
    expected = checkpoint(undisturbed[0])
    found = checkpoint(tmp_path)
    assert found.keys() == expected.keys()
    assert_same(list(found.values()), list(expected.values()))
    assert scalars(tmp_path) == scalars(undisturbed[0])


def train_until_a_write_is_cut_short(folder):
    """Is killed by the system while it writes the second checkpoint."""
    epochs = []

    def validate():
        epochs.append(len(epochs))
        if len(epochs) == 3:  # before training, after the first epoch, after the second
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            size = (folder / "checkpoint.npz").stat().st_size // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return {}

    run(folder, validate=validate)


def test_interrupted_checkpoint_write_keeps_the_previous_checkpoint(tmp_path, undisturbed):
    assert in_child(train_until_a_write_is_cut_short, tmp_path) == -signal.SIGXFSZ
    (remains,) = tmp_path.glob("*.tmp")
    assert 0 < remains.stat().st_size < (tmp_path / "checkpoint.npz").stat().st_size
    assert checkpoint(tmp_path)["epoch"] == 1
    assert_same(state(run(tmp_path)), undisturbed[1])
    assert not remains.exists()


def test_finished_training_continues_with_more_epochs(tmp_path, undisturbed):
    run(tmp_path, n_epochs=1)
    learner = run(tmp_path)
    assert_same(state(learner), undisturbed[1])

    def no_more(step):
        raise AssertionError("the training has ended")

    again = run(tmp_path, new_learner(seed=1), batches=no_more)
    assert_same(state(again), undisturbed[1])


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damaged_checkpoint_is_refused(tmp_path, undisturbed, one_learner, data):
    content = bytearray((undisturbed[0] / "checkpoint.npz").read_bytes())
    if data.draw(st.booleans(), "cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        # At the beginning, or in the table of contents at the end.
        places = st.integers(-3000, 3000)
        for place in data.draw(st.lists(places, min_size=1, max_size=5)):
            content[place] ^= data.draw(st.integers(1, 255))
    (tmp_path / "checkpoint.npz").write_bytes(content)
    refusal = None
    try:
        run(tmp_path, one_learner)
    except JobError as error:
        refusal = str(error)
    if refusal is None:  # the damage is in an unused field, such as a date
        assert_same(state(one_learner), undisturbed[1])
    else:
        path = re.escape(str(tmp_path / "checkpoint.npz"))
        damaged = rf"the checkpoint {path} is damaged: .*Remove it to train from the beginning"
        assert re.match(rf"{damaged}|the checkpoint {path} is of another network", refusal)


@pytest.fixture(scope="module")
def one_learner():
    return new_learner()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x93NUMPY\x01\x00"])
def test_file_that_is_not_a_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "checkpoint.npz").write_bytes(content)
    with pytest.raises(JobError, match=r"checkpoint\.npz is damaged: .*Remove it"):
        run(tmp_path)
    assert (tmp_path / "checkpoint.npz").read_bytes() == content


@pytest.mark.parametrize(
    ("learner", "optimizer"),
    [
        pytest.param(lambda: new_learner(batch_norm=False), "adam", id="another network"),
        pytest.param(lambda: new_learner(lambda: Softmax(7, 32)), "adam", id="other people"),
        pytest.param(lambda: new_learner(Triplets), "adam", id="another objective"),
        pytest.param(new_learner, "momentum", id="another optimizer"),
    ],
)
def test_checkpoint_of_another_network_is_refused(tmp_path, undisturbed, learner, optimizer):
    content = (undisturbed[0] / "checkpoint.npz").read_bytes()
    (tmp_path / "checkpoint.npz").write_bytes(content)
    with pytest.raises(JobError, match="is of another network: take another output folder"):
        run(tmp_path, learner(), optimizer=optimizer)
    assert (tmp_path / "checkpoint.npz").read_bytes() == content


# ---- divergence ----


@pytest.mark.parametrize(
    ("rate", "steps_per_epoch", "sentence"),
    [
        pytest.param(1e38, 3, r"the loss is (nan|inf) in epoch 3", id="the loss"),
        # The loss of the only step was still finite.
        pytest.param(1e39, 1, r"weights of .*/kernel are infinite or NaN in epoch 3", id="weights"),
    ],
)
def test_diverging_training_keeps_the_previous_checkpoint(
    tmp_path, rate, steps_per_epoch, sentence
):
    learner, lines = new_learner(), []

    def validate():
        vectors = learner(PIXELS)["embeddings"].numpy()
        assert np.all(np.isfinite(vectors)), "validated after divergence"
        return {}

    explosive = Schedule(((0, 0.01), (2, rate)))
    with pytest.raises(
        JobError, match=f"{sentence}: try a lower learning rate; the checkpoint is of epoch 2$"
    ):
        run(
            tmp_path,
            learner,
            optimizer="momentum",
            schedule=explosive,
            steps_per_epoch=steps_per_epoch,
            validate=validate,
            report=lines.append,
        )
    assert [line.split("  ")[0] for line in lines] == ["before training", "epoch 1/3", "epoch 2/3"]
    saved = checkpoint(tmp_path)
    assert saved["epoch"] == 2
    assert all(np.all(np.isfinite(value)) for value in saved.values())
    assert max(scalars(tmp_path)["loss"]) == 2
    mild = Schedule(((0, 0.01),))
    run(tmp_path, optimizer="momentum", schedule=mild, steps_per_epoch=steps_per_epoch)
    assert checkpoint(tmp_path)["epoch"] == N_EPOCHS


def test_training_that_diverges_in_the_first_epoch_has_no_checkpoint(tmp_path):
    with pytest.raises(JobError, match=r"in epoch 1: try a lower learning rate$"):
        run(tmp_path, optimizer="momentum", schedule=Schedule(((0, 1e38),)))
    assert not (tmp_path / "checkpoint.npz").exists()


# ---- reports ----


def test_scalars_and_progress_lines_report_every_epoch(tmp_path):
    learner, lines = new_learner(), []
    scores = iter([0.1, 0.2, 0.3, 0.4])
    options = {"validate": lambda: {"accuracy": next(scores)}, "report": lines.append}
    run(tmp_path, learner, n_epochs=2, **options)
    run(tmp_path, **options)  # continues, without validation before the first epoch
    found = scalars(tmp_path)
    names = ["accuracy", "center_loss", "cross_entropy", "loss", "learning_rate", "val_accuracy"]
    assert sorted(found) == sorted(names)
    for values in found.values():
        assert sorted(values) == [1, 2, 3]
    assert list(found["learning_rate"].values()) == pytest.approx([0.1, 0.05, 0.01])
    assert list(found["val_accuracy"].values()) == pytest.approx([0.2, 0.3, 0.4])
    assert lines[0] == "before training  val_accuracy 0.1"
    for epoch, line in enumerate(lines[1:], 1):
        head, *figures = line.split("  ")
        assert head == f"epoch {epoch}/{2 if epoch < 3 else 3}"
        shown = dict(figure.split(" ") for figure in figures)
        assert {name: float(value) for name, value in shown.items()} == pytest.approx(
            {name: values[epoch] for name, values in found.items()}, rel=1e-3
        )


def train_without_tensorboard(folder):
    sys.modules["tensorboard"] = None  # as if not installed
    lines = []
    run(folder, n_epochs=1, report=lines.append)
    (folder / "lines").write_text("\n".join(lines))


def test_training_continues_without_tensorboard(tmp_path):
    assert in_child(train_without_tensorboard, tmp_path) == 0
    first, second = (tmp_path / "lines").read_text().splitlines()
    assert first == "no TensorBoard scalars: install facecluster[train] for them"
    assert second.startswith("epoch 1/1  accuracy ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.npz", "lines"]


def test_loss_is_the_objective_plus_every_penalty_once(tmp_path):
    learner = new_learner(batch_norm=False, dropout=0.0)
    pixels, labels = PIXELS[shuffled(0)], LABELS[shuffled(0)]
    outputs = learner.outputs_of((pixels.astype(np.float32) - 127.5) / 128)
    objective, monitored = learner.objective(outputs, {"labels": labels})
    kernels = [v.numpy() for v in learner.weights if v.path.endswith("/kernel")]
    assert len(kernels) == 3
    expected = float(objective) + 1e-3 / 2 * sum(np.sum(kernel**2) for kernel in kernels)
    run(tmp_path, learner, n_epochs=1, steps_per_epoch=1)
    found = scalars(tmp_path)
    assert found["loss"][1] == pytest.approx(expected, rel=1e-5)
    for name, value in monitored.items():
        assert found[name][1] == pytest.approx(float(value), rel=1e-5, abs=1e-7)


def test_negative_rate_ends_the_training(tmp_path):
    ending = Schedule(((0, 0.1), (1, 0.05), (2, -1.0)))
    for _ in range(2):
        run(tmp_path, schedule=ending)
        assert checkpoint(tmp_path)["epoch"] == 2
    assert list(scalars(tmp_path)["learning_rate"].values()) == pytest.approx([0.1, 0.05])


@pytest.mark.parametrize("standardization", ["fixed", "per-image", None])
def test_learner_standardizes_pixels_like_the_exported_model(standardization):
    learner = Learner(network(), softmax(), standardization)
    inputs = PIXELS.astype(np.float32)
    outputs = learner(PIXELS if standardization else inputs)
    expected = learner.network(standardize(inputs, standardization) if standardization else inputs)
    np.testing.assert_allclose(outputs["embeddings"], expected, atol=1e-6)


# ---- the optimizers ----


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_match_the_published_ones(name):
    """The published code uses TensorFlow 1's with these settings (src/facenet.py, train)."""
    rate, published = 0.05, tf.compat.v1.train
    theirs = {
        "adagrad": lambda: published.AdagradOptimizer(rate),
        "adam": lambda: published.AdamOptimizer(rate, beta1=0.9, beta2=0.999, epsilon=0.1),
        "rmsprop": lambda: published.RMSPropOptimizer(rate, 0.9, momentum=0.9, epsilon=1.0),
        "momentum": lambda: published.MomentumOptimizer(rate, 0.9, use_nesterov=True),
    }[name]()
    ours = OPTIMIZERS[name]()
    ours.learning_rate = rate
    start, target = np.float32([3, -2, 0.5]), np.float32([-1, 4, 0.4])
    place, published_place = keras.Variable(start), tf.Variable(start)
    ours.build([place])
    if name == "rmsprop":  # the only difference
        (mean_of_squares,) = (v for v in ours.variables if v.path.endswith("_velocity"))
        mean_of_squares.assign([1, 1, 1])
    path, published_path = [], []
    for _ in range(60):
        ours.apply([2 * (place.value - target)], [place])
        path.append(place.numpy())
        theirs.apply_gradients([(2 * (published_place - target), published_place)])
        published_path.append(published_place.numpy())
    assert np.abs(path[-1] - start).max() > 0.5
    np.testing.assert_allclose(path, published_path, atol=1e-4)


# ---- several GPUs, half precision ----


def train_on_two_devices(folder, center_loss_factor):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        learner = new_learner(lambda: softmax(center_loss_factor), batch_norm=False, dropout=0.0)
        optimizer = OPTIMIZERS["adam"]()
    options = {"n_epochs": N_EPOCHS, "steps_per_epoch": STEPS_PER_EPOCH}
    train(learner, optimizer, batches_of(shuffled), SCHEDULE, folder, **options)


@pytest.mark.parametrize("center_loss_factor", [0.0, 0.5])
def test_two_devices_train_like_one(tmp_path, center_loss_factor):
    one, two = tmp_path / "one", tmp_path / "two"
    learner = new_learner(lambda: softmax(center_loss_factor), batch_norm=False, dropout=0.0)
    before = learner.get_weights()
    run(one, learner)
    assert in_child(train_on_two_devices, two, center_loss_factor) == 0
    expected, found = checkpoint(one), checkpoint(two)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6)
    moved = [np.abs(a - b).max() for a, b in zip(before, learner.get_weights(), strict=True)]
    assert sum(change > 0.01 for change in moved) >= 4 + (center_loss_factor > 0)
    for name, values in scalars(one).items():
        assert scalars(two)[name] == pytest.approx(values, rel=1e-4, abs=1e-6)


def people_by_people(step):
    return identity_batches(LABELS, 4, 3, 7, step)


def train_triplets_on_two_devices(folder):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        learner = new_learner(Triplets, batch_norm=False, dropout=0.0, decay=0.0)
        optimizer = keras.optimizers.SGD()
    batches, once = batches_of(people_by_people), {"n_epochs": 1, "steps_per_epoch": 1}
    train(learner, optimizer, batches, SCHEDULE, folder, **once)


def test_each_device_mines_triplets_in_its_part_of_the_batch(tmp_path):
    assert in_child(train_triplets_on_two_devices, tmp_path) == 0
    learner = new_learner(Triplets, batch_norm=False, dropout=0.0, decay=0.0)
    before = [v.numpy() for v in learner.trainable_variables]
    batch = people_by_people(0)
    with tf.GradientTape() as tape:
        halves = [
            triplet_loss(learner(PIXELS[half])["embeddings"], LABELS[half])[0]
            for half in (batch[:6], batch[6:])
        ]
        loss = sum(halves) / 2
    weights = [v.value for v in learner.trainable_variables]
    steps = tape.gradient(loss, weights)
    assert max(np.abs(step).max() for step in steps) > 0.01
    whole, _ = triplet_loss(learner(PIXELS[batch])["embeddings"], LABELS[batch])
    assert abs(float(whole) - float(loss)) > 1e-3

    saved = checkpoint(tmp_path)
    for variable, value in zip(learner.variables, sorted(saved), strict=False):
        variable.assign(saved[value])
    for found, weight, step in zip(learner.trainable_variables, before, steps, strict=True):
        np.testing.assert_allclose(found, weight - 0.1 * step, atol=1e-6)
    assert scalars(tmp_path)["loss"][1] == pytest.approx(float(loss), rel=1e-5)


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def half_precision(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield
    keras.config.set_dtype_policy(before)


def test_half_precision_training_resumes_exactly(tmp_path, half_precision):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    learner = run(whole)
    run(parts, n_epochs=2)
    assert_same(state(run(parts)), state(learner))
    assert {v.dtype for v in learner.weights} == {"float32"}
    assert learner.network.layers[1].compute_dtype in ("bfloat16", "float16")
    losses = list(scalars(whole)["loss"].values())
    assert np.all(np.isfinite(losses))
    assert losses[-1] < losses[0]
