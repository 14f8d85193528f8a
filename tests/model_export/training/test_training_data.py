"""Batches are functions of seed and step alone, and pixels vary as asked and no further."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from facecluster.errors import InputError
from facecluster.model_export.crops import list_crops
from facecluster.model_export.training.training_data import (
    DRAWS,
    Augmentation,
    augment,
    evaluation_batches,
    identity_batches,
    rows,
    shuffled_batches,
    training_batches,
)

EVERYTHING = Augmentation(flip=True, random_crop=True, rotation=15, colour=0.5)
seeds = st.integers(0, 2**32)


def face(seed: int, size: int = 40) -> np.ndarray:
    """(size, size, 3) uint8, smooth, so that resampling changes it little."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC))


def crops_of(folder, images: dict[str, np.ndarray]):
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return list_crops([str(folder)])


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Twelve crops of four people, 40 px."""
    images = {f"{p}/{i}.png": face(10 * p + i) for p in range(4) for i in range(3)}
    return crops_of(tmp_path_factory.mktemp("crops"), images)


def taken(crops, indices, augmentation=EVERYTHING, seed=0, first_step=0, n=3, input_size=32):
    """n batches of a dataset: [(pixels, labels), ...]."""
    batches = training_batches(crops, indices, input_size, augmentation, seed, first_step)
    return list(itertools.islice(batches.as_numpy_iterator(), n))


# --- which crops


@given(st.integers(1, 30), st.integers(1, 40), seeds, st.integers(0, 5))
def test_every_epoch_has_each_image_once(n, batch_size, seed, first_epoch):
    batches = -(-3 * n // batch_size) + 1
    first = first_epoch * n // batch_size
    indices = [shuffled_batches(n, batch_size, seed, first + i) for i in range(batches)]
    assert {batch.shape for batch in indices} == {(batch_size,)}
    stream = np.concatenate(indices)
    start = -first * batch_size % n  # where the first whole epoch begins
    whole = (len(stream) - start) // n
    assert whole >= 2
    epochs = stream[start : start + whole * n].reshape(whole, n)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(n), (whole, 1)))


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    orders = {tuple(shuffled_batches(50, 50, seed, step)) for seed in (0, 1) for step in range(3)}
    assert len(orders) == 6
    assert tuple(range(50)) not in orders


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), seeds, st.integers(0, 1000))
def test_batches_are_functions_of_seed_and_step(counts, seed, step):
    labels = np.repeat(np.arange(len(counts)), counts)
    assume(sum(count >= 2 for count in counts) >= 2)

    def at(step):
        return shuffled_batches(len(labels), 7, seed, step), identity_batches(
            labels, 2, 3, seed, step
        )

    before = [at(s) for s in range(step, step + 4)]
    after = [at(s) for s in reversed(range(step, step + 4))]
    for ours, again in zip(before, reversed(after), strict=True):
        np.testing.assert_array_equal(ours[0], again[0])
        np.testing.assert_array_equal(ours[1], again[1])


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=12),
    st.integers(2, 6),
    st.integers(2, 6),
    seeds,
    st.integers(0, 1000),
)
def test_identity_batches_are_pairs_at_least(counts, n_people, n_images, seed, step):
    counts = np.array(counts)
    n_eligible = np.sum(counts >= 2)
    assume(n_eligible >= 2)
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    size = n_people * n_images
    batch = identity_batches(labels, n_people, n_images, seed, step)
    assert batch.shape == (size,)
    people, given_by = np.unique(labels[batch], return_counts=True)
    assert np.all(counts[people] >= 2)
    available = counts[counts >= 2].sum()
    repeats = np.unique(batch, return_counts=True)[1]
    if available >= size:
        assert repeats.max() == 1
    else:
        assert len(repeats) == available  # all there is, equally often but for one
        assert np.ptp(repeats) <= 1
    alone = np.sum(given_by == 1)
    if alone:  # nobody could have given one image less
        assert alone == 1
        assert size % 2 == 1
        assert given_by.max() == 2
    if np.minimum(counts[counts >= 2], n_images).sum() >= size:
        assert given_by.max() <= n_images
    else:
        assert len(people) == n_eligible
    if np.sum(counts >= n_images) == n_eligible >= n_people:
        assert len(people) == n_people
        assert np.all(given_by == n_images)


def test_identity_batches_reach_everybody_and_every_image():
    labels = np.repeat(np.arange(10), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    steps = [identity_batches(labels, 3, 4, 5, step) for step in range(200)]
    np.testing.assert_array_equal(np.unique(steps), np.arange(1, len(labels)))
    assert len({tuple(sorted(step)) for step in steps}) > 190


def test_batches_that_cannot_be_made():
    with pytest.raises(InputError, match="1 of 3 people have two images or more"):
        identity_batches(np.array([0, 1, 1, 2]), 2, 2, 0, 0)
    with pytest.raises(ValueError, match="1 people with 5 images"):
        identity_batches(np.array([0, 0, 1, 1]), 1, 5, 0, 0)
    with pytest.raises(ValueError, match="0 images in batches of 5"):
        shuffled_batches(0, 5, 0, 0)


# --- the dataset


def test_a_training_taken_up_at_a_step_sees_what_it_would_have_seen(crops):
    def indices(step):
        return identity_batches(crops.labels, 2, 3, 9, step)

    whole = taken(crops, indices, seed=1, n=6)
    for step in (1, 4):
        resumed = taken(crops, indices, seed=1, first_step=step, n=2)
        for ours, expected in zip(resumed, whole[step:], strict=False):
            np.testing.assert_array_equal(ours[0], expected[0])
            np.testing.assert_array_equal(ours[1], expected[1])
    for (images, labels), step in zip(whole, range(6), strict=True):
        assert images.shape == (6, 32, 32, 3)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(labels, crops.labels[indices(step)])


def test_an_image_varies_with_seed_step_and_place(crops):
    repeated = [taken(crops, lambda _: np.zeros(4, int), seed=seed, n=3) for seed in (0, 1)]
    images = np.concatenate([pixels for batches in repeated for pixels, _ in batches])
    assert len({image.tobytes() for image in images}) == 24


def test_a_batch_is_in_the_order_of_its_indices(crops):
    shuffled = np.random.default_rng(0).permutation(len(crops))
    ((images, labels),) = taken(crops, lambda _: shuffled, Augmentation(), n=1, input_size=40)
    whole = np.concatenate(list(evaluation_batches(crops, 40, 5)))
    np.testing.assert_array_equal(images, whole[shuffled])
    np.testing.assert_array_equal(labels, crops.labels[shuffled])
    names = [f"{person}/{image}" for person in range(4) for image in range(3)]
    assert list(crops.names) == names
    expected = [face(10 * int(name[0]) + int(name[2])) for name in names]
    np.testing.assert_array_equal(whole, expected)


def test_shapes_are_known_before_the_first_batch(crops):
    dataset = training_batches(crops, lambda _: np.arange(5), 32, EVERYTHING, 0, 0)
    pixels, labels = dataset.element_spec
    assert (pixels.shape, pixels.dtype) == ((5, 32, 32, 3), tf.uint8)
    assert (labels.shape, labels.dtype) == ((5,), tf.int32)


def test_a_batch_of_another_size_is_refused(crops):
    with pytest.raises(tf.errors.InvalidArgumentError, match="step 1 has 3 crops, the first had 2"):
        taken(crops, lambda step: np.arange(2 + step))


def test_evaluation_takes_the_central_window_in_order(crops):
    batches = list(evaluation_batches(crops, 31, 5))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    expected = [face(10 * p + i)[4:35, 4:35] for p in range(4) for i in range(3)]
    np.testing.assert_array_equal(np.concatenate(batches), expected)


def test_sizes_and_kinds_of_images(tmp_path):
    large, small, wide, grey = face(1, 50), face(2, 20), face(3)[:25], face(4)[..., 0]
    made = crops_of(
        tmp_path, {"a/1.png": large, "a/2.png": small, "a/3.png": wide, "b/4.png": grey}
    )

    def stretched(pixels):
        return np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR))

    expected = np.stack(
        [
            large[9:41, 9:41],
            stretched(small),
            stretched(wide),
            np.repeat(grey[4:36, 4:36, None], 3, axis=2),
        ]
    )
    (evaluated,) = evaluation_batches(made, 32, 4)
    ((trained, _),) = taken(made, lambda _: np.arange(4), Augmentation(), n=1)
    np.testing.assert_array_equal(evaluated, expected)
    np.testing.assert_array_equal(trained, expected)


@pytest.mark.parametrize(
    "damage", [lambda whole: b"no image", lambda whole: whole[: len(whole) // 2]]
)
def test_a_damaged_image_is_named(tmp_path, damage):
    made = crops_of(tmp_path, {"Ann/1.png": face(1), "Ann/2.jpg": face(2)})
    (tmp_path / "Ann/2.jpg").write_bytes(damage((tmp_path / "Ann/2.jpg").read_bytes()))
    sentence = r"Ann/2 of .*Ann/2\.jpg cannot be decoded: .*leave it out"
    with pytest.raises(InputError, match=sentence):
        list(evaluation_batches(made, 32, 2))
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        taken(made, lambda _: np.arange(2))


# --- what arrays hold for the same batches


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.uint8, np.float16])
@pytest.mark.parametrize("shape", [(), (5,), (4, 3)])
@pytest.mark.parametrize("first_step", [0, 3])
def test_rows_are_those_of_the_batches(dtype, shape, first_step):
    array = np.random.default_rng(0).integers(0, 200, (12, *shape)).astype(dtype)

    def indices(step):
        return shuffled_batches(12, 5, 7, step)

    dataset = rows(array, indices, first_step)
    assert (dataset.element_spec.shape, dataset.element_spec.dtype) == ((5, *shape), dtype)
    taken_up = list(itertools.islice(dataset.as_numpy_iterator(), 10))
    for step, batch in enumerate(taken_up, first_step):
        np.testing.assert_array_equal(batch, array[indices(step)])


def test_rows_belong_to_the_crops_of_their_batch(crops):
    def indices(step):
        return identity_batches(crops.labels, 2, 3, 9, step)

    both = tf.data.Dataset.zip(
        training_batches(crops, indices, 32, EVERYTHING, 0, 2), rows(crops.labels, indices, 2)
    )
    for (_, labels), again in itertools.islice(both.as_numpy_iterator(), 4):
        np.testing.assert_array_equal(labels, again)


def test_rows_of_batches_of_another_size_are_refused():
    batches = rows(np.arange(9), lambda step: np.arange(2 + step), 0).as_numpy_iterator()
    np.testing.assert_array_equal(next(batches), [0, 1])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[3\].*\[2\]"):
        next(batches)


# --- augmentation


def varied(image: np.ndarray, size: int, augmentation: Augmentation, **draws: float) -> np.ndarray:
    """`augment` with these draws, 0.5 for all others: no turn, no mirror, no change of colour."""
    values = [draws.get(name, 0.5) for name in DRAWS]
    return augment(tf.constant(image), tf.constant(values), size, augmentation).numpy()


def test_nothing_varies_unless_asked_for(crops):
    batches = taken(crops, lambda _: np.arange(len(crops)), Augmentation())
    (expected,) = evaluation_batches(crops, 32, 100)
    for images, _ in batches:
        np.testing.assert_array_equal(images, expected)


def test_flip_mirrors_half_of_the_images(crops):
    ((images, _),) = taken(crops, lambda _: np.zeros(200, int), Augmentation(flip=True), n=1)
    (plain,) = evaluation_batches(crops.select(np.arange(len(crops)) == 0), 32, 1)
    mirrored = [np.array_equal(image, plain[0][:, ::-1]) for image in images]
    straight = [np.array_equal(image, plain[0]) for image in images]
    assert np.all(np.logical_xor(mirrored, straight))
    assert 60 <= np.sum(mirrored) <= 140  # six standard deviations


def test_random_windows_are_all_the_windows(crops):
    only = Augmentation(random_crop=True)
    ((images, _),) = taken(crops, lambda _: np.zeros(300, int), only, n=1, input_size=38)
    windows = [face(0)[top : top + 38, left : left + 38] for top in range(3) for left in range(3)]
    assert {image.tobytes() for image in images} == {window.tobytes() for window in windows}
    last = varied(face(0), 38, only, top=np.float32(1 - 2**-24), left=0.0)
    np.testing.assert_array_equal(last, windows[6])


@pytest.mark.parametrize("degrees", [-30, -5, 10])
def test_rotation_is_pillows(degrees):
    """Which turns counter-clockwise, takes the picture's middle and fills with black."""
    image = face(1, 60)
    draw = (degrees / 30 + 1) / 2
    ours = varied(image, 30, Augmentation(rotation=30), angle=draw).astype(int)
    picture = Image.fromarray(image)
    both = [
        np.asarray(picture.rotate(sign * degrees, Image.Resampling.BILINEAR))[15:45, 15:45]
        for sign in (1, -1)
    ]
    differences = [np.abs(ours - theirs.astype(int)).max() for theirs in both]
    assert min(differences) <= 2
    assert max(differences) > 20


def test_rotation_either_way_up_to_its_limit():
    image = face(1, 60)
    limit = Augmentation(rotation=20)
    turned = [varied(image, 60, limit, angle=draw) for draw in (0.0, 0.25, 0.5, 0.75)]
    half = [varied(image, 60, Augmentation(rotation=10), angle=draw) for draw in (0.0, 0.5)]
    np.testing.assert_array_equal(turned[2], image)
    np.testing.assert_array_equal(turned[1], half[0])
    assert len({pixels.tobytes() for pixels in turned}) == 4


def test_a_window_of_a_turned_image_is_cut_from_the_whole_one_turned():
    image = face(1, 61)[:47]
    both = Augmentation(rotation=30, random_crop=True)
    square = np.pad(image, ((7, 7), (0, 0), (0, 0)), mode="symmetric")  # the same centre
    for draw, top, left in ((0.2, 0, 0), (0.9, 15, 20), (0.7, 5, 29)):
        draws = {"angle": draw, "top": (top + 0.5) / 16, "left": (left + 0.5) / 30}
        window = varied(image, 32, both, **draws)
        whole = varied(square, 61, Augmentation(rotation=30), angle=draw)
        assert window.shape == (32, 32, 3)
        expected = whole[7 + top : 39 + top, left : left + 32].astype(int)
        np.testing.assert_allclose(window.astype(int), expected, atol=1)


def test_the_corners_of_a_turned_image_are_filled_with_its_own_colours():
    image = np.full((40, 40, 3), (200, 100, 150), np.uint8)
    for angle in (0.0, 0.1, 0.8):
        turned = varied(image, 40, Augmentation(rotation=45), angle=angle)
        np.testing.assert_array_equal(turned, image)


@pytest.mark.parametrize(
    ("draw", "enhancer"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("value", [0.0, 0.2, 0.9])
def test_colour_is_pillows(draw, enhancer, value):
    image = face(2)
    ours = varied(image, 40, Augmentation(colour=0.6), **{draw: value})
    theirs = enhancer(Image.fromarray(image)).enhance(1 + (2 * value - 1) * 0.6)
    np.testing.assert_allclose(ours.astype(int), np.asarray(theirs).astype(int), atol=2)
    assert not np.array_equal(ours, image)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=7, max_size=7), seeds)
def test_pixels_stay_within_what_they_vary_from(draws, seed):
    """A wrapped overflow would turn white into black."""
    augmentation = Augmentation(flip=True, random_crop=True, rotation=180, colour=1)
    white = augment(tf.fill((40, 40, 3), np.uint8(255)), tf.constant(draws), 32, augmentation)
    assert white.dtype == tf.uint8
    brightness = min(2 * draws[DRAWS.index("brightness")], 1)
    np.testing.assert_allclose(white, np.full((32, 32, 3), 255 * brightness), atol=1)
    black = augment(tf.zeros((40, 40, 3), tf.uint8), tf.constant(draws), 32, augmentation)
    assert np.max(black) == 0
    other = augment(tf.constant(face(seed)), tf.constant(draws), 32, augmentation)
    assert other.shape == (32, 32, 3)


def test_what_an_augmentation_cannot_be():
    with pytest.raises(ValueError, match="rotation is 200: give 0 to 180 degrees"):
        Augmentation(rotation=200)
    with pytest.raises(ValueError, match=r"colour is -0\.1: give a strength from 0 to 1"):
        Augmentation(colour=-0.1)
