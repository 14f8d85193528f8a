"""Tests of the validation of a model, with a tiny network and synthetic crops."""

from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from facecluster.errors import InputError
from facecluster.model_export.crops import list_crops
from facecluster.model_export.networks.export import (
    export,
    load_networks,
    standardize,
    weights_sha256,
)
from facecluster.model_export.validation.calibration import calibration_table
from facecluster.model_export.validation.cohort import fit_cohort
from facecluster.model_export.validation.pairs import ImagePairs
from facecluster.model_export.validation.validate import (
    embed_with_model,
    network_embedder,
    validate_pairs,
    validate_videos,
)
from facecluster.model_export.validation.verification import verify, verify_distances
from facecluster.model_export.validation.youtube_faces import VideoPairs
from facecluster.transforms.faces.model_card import ModelCard
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.tables.codec import decode_embeddings, make_codec

SIZE, DIMENSIONS, N_PEOPLE, N_CROPS = 24, 8, 6, 4


def write_crops(folder: Path, names: list[str], size: int) -> Path:
    """Synthetic crops PERSON/NAME: a pattern for each person, with noise."""
    for number, name in enumerate(names):
        person = name.partition("/")[0].partition("~")[0]
        pattern = np.random.default_rng(list(person.encode())).integers(0, 256, (4, 4, 3))
        noise = np.random.default_rng(number).integers(-90, 90, (4, 4, 3))
        pixels = np.clip(pattern + noise, 0, 255).astype(np.uint8)
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST).save(path)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    names = [f"P{p}/P{p}_{i:04d}" for p in range(N_PEOPLE) for i in range(1, N_CROPS + 1)]
    return write_crops(tmp_path_factory.mktemp("crops"), names, SIZE + 6)


@pytest.fixture(scope="module")
def crops(folder):
    return list_crops([str(folder)])


@pytest.fixture(scope="module")
def pairs() -> ImagePairs:
    """Three folds of four matched and four mismatched pairs."""
    random = np.random.default_rng(0)
    first, second, same = [], [], []
    for i in range(24):
        a, b = random.choice(N_PEOPLE, 2, replace=False)
        same.append(i % 8 < 4)
        j, k = random.choice(N_CROPS, 2, replace=False) + 1
        b = a if same[-1] else b
        first.append(f"P{a}/P{a}_{j:04d}")
        second.append(f"P{b}/P{b}_{k:04d}")
    return ImagePairs(first, second, np.array(same), np.arange(24) // 8)


def network(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(8, 5, 3, activation="relu")(x)
    x = keras.layers.Dense(DIMENSIONS)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.UnitNormalization()(x))


def write_model(folder: Path, codec=None) -> SavedModel:
    embed = network()
    card = ModelCard(
        name="tiny",
        sha256=weights_sha256(embed),
        standardization="fixed",
        input_size=SIZE,
        dimensions=DIMENSIONS,
    )
    export({"embed": embed}, card, folder, codec)
    return SavedModel(str(folder))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> SavedModel:
    return write_model(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="module")
def model_with_codec(tmp_path_factory) -> SavedModel:
    components = np.random.default_rng(1).normal(size=(DIMENSIONS, 128)).astype(np.float32)
    codec = {"mean": np.zeros(DIMENSIONS, np.float32), "components": components}
    return write_model(tmp_path_factory.mktemp("models") / "codec", codec)


@pytest.fixture(scope="module")
def vectors(folder, model) -> np.ndarray:
    """The vectors of the Keras network for the central windows of the crops."""
    embed = load_networks(Path(model.path))["embed"]
    return embed(standardize(central_windows(folder), "fixed"), training=False).numpy()


def central_windows(folder: Path) -> np.ndarray:
    images = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*/*.png"))]
    return np.stack([image[3:-3, 3:-3] for image in images])


def test_exported_model_embeds_the_central_window_of_each_crop(model, crops, vectors):
    np.testing.assert_allclose(embed_with_model(model, crops), vectors, atol=1e-5)


def test_vectors_of_mirrored_crops_are_appended(model, crops, folder, vectors):
    both = embed_with_model(model, crops, flip=True)
    assert both.shape == (len(crops), 2 * DIMENSIONS)
    np.testing.assert_allclose(both[:, :DIMENSIONS], vectors, atol=1e-5)
    mirrored = model.call("embed", np.flip(central_windows(folder), axis=2))
    np.testing.assert_allclose(both[:, DIMENSIONS:], mirrored, atol=1e-5)
    assert np.abs(mirrored - vectors).max() > 0.1


def test_network_embedder_uses_the_current_weights(crops, vectors):
    trained = network(0)
    embed = network_embedder(trained, "fixed")
    np.testing.assert_allclose(embed(crops), vectors, atol=1e-5)
    trained.set_weights(network(1).get_weights())
    pixels = np.stack([crop[3:-3, 3:-3] for crop in map(_pixels, crops.locations)])
    np.testing.assert_allclose(
        embed(crops), trained(standardize(pixels, "fixed")).numpy(), atol=1e-5
    )


def _pixels(location) -> np.ndarray:
    return np.asarray(Image.open(location.path))


def test_error_names_the_crop_that_cannot_be_decoded(tmp_path, model):
    write_crops(tmp_path, ["A/1", "A/2"], SIZE)
    (tmp_path / "A" / "2.png").write_bytes(b"no image")
    for embed in (
        lambda crops: embed_with_model(model, crops),
        network_embedder(network(), "fixed"),
    ):
        with pytest.raises(InputError, match=r"A/2 of .*2\.png cannot be decoded"):
            embed(list_crops([str(tmp_path)]))


# ---- image pairs ----


def of(pairs: ImagePairs, crops, vectors) -> tuple[np.ndarray, np.ndarray]:
    return tuple(
        vectors[[crops.names.index(name) for name in names]]
        for names in (pairs.first, pairs.second)
    )


def test_pairs_are_scored_by_lfws_protocol(model, crops, pairs, vectors):
    scores = validate_pairs(model, crops, pairs)
    assert scores.keys() == {"float32"}
    found = scores["float32"]
    expected = verify(*of(pairs, crops, vectors), pairs.is_same, pairs.folds)
    assert {name: found[name] for name in asdict(expected)} == pytest.approx(asdict(expected))
    assert (found["n_pairs"], found["n_pairs_skipped"]) == (24, 0)
    assert found["calibration"] == calibration_table(
        embed_with_model(model, crops), [name.partition("/")[0] for name in crops.names]
    )
    assert 0.5 < found["accuracy"] < 1  # otherwise many wrong results would be equal


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("subtract_mean", [False, True])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_published_options(model, crops, pairs, flip, subtract_mean, metric):
    scores = validate_pairs(
        model, crops, pairs, flip=flip, subtract_mean=subtract_mean, metric=metric
    )
    both = of(pairs, crops, embed_with_model(model, crops, flip))
    expected = verify(*both, pairs.is_same, pairs.folds, metric, subtract_mean)
    assert expected.accuracy == scores["float32"]["accuracy"]
    assert expected.threshold == scores["float32"]["threshold"]
    # Calibration needs unit vectors, which concatenated vectors are not.
    assert ("calibration" in scores["float32"]) == (not flip)


def test_codec_is_scored_beside_the_vectors(model_with_codec, crops, pairs):
    scores = validate_pairs(model_with_codec, crops, pairs)
    assert scores.keys() == {"float32", "pca128"}
    vectors = embed_with_model(model_with_codec, crops)
    codec = make_codec("pca128", model_with_codec.codec_arrays())
    stored = decode_embeddings(codec.encode(vectors))
    for name, space in (("float32", vectors), ("pca128", stored)):
        expected = verify(*of(pairs, crops, space), pairs.is_same, pairs.folds)
        assert scores[name]["auc"] == expected.auc
        assert scores[name]["threshold"] == expected.threshold
        assert scores[name]["calibration"] == calibration_table(space, crops.labels)
    assert scores["float32"]["calibration"] != scores["pca128"]["calibration"]
    assert validate_pairs(model_with_codec, crops, pairs, flip=True).keys() == {"float32"}


def test_cohorts_are_fitted_if_there_are_enough_people(tmp_path, model_with_codec, crops, pairs):
    few = validate_pairs(model_with_codec, crops, pairs, with_cohorts=True)
    assert not any("cohort" in found for found in few.values())
    names = [f"P{p}/P{p}_{i:04d}" for p in range(20) for i in range(1, N_CROPS + 1)]
    enough = list_crops([str(write_crops(tmp_path, names, SIZE))])
    assert "cohort" not in validate_pairs(model_with_codec, enough, pairs)["float32"]
    scores = validate_pairs(model_with_codec, enough, pairs, with_cohorts=True)
    vectors = embed_with_model(model_with_codec, enough)
    codec = make_codec("pca128", model_with_codec.codec_arrays())
    stored = decode_embeddings(codec.encode(vectors))
    for name, space in (("float32", vectors), ("pca128", stored)):
        expected = fit_cohort(space, enough.labels)
        np.testing.assert_array_equal(scores[name]["cohort"].vectors, expected.vectors)
        assert scores[name]["cohort"].same_person == expected.same_person


def test_pairs_without_a_face_are_left_out_and_counted(model, crops, pairs, vectors):
    gone = pairs.first[0]
    some = crops.select(np.array([name != gone for name in crops.names]))
    scores = validate_pairs(model, some, pairs)["float32"]
    there = np.array([gone not in both for both in zip(pairs.first, pairs.second, strict=True)])
    assert 1 <= scores["n_pairs_skipped"] == np.sum(~there) < 8
    assert scores["n_pairs"] == 24
    first, second = (side[there] for side in of(pairs, crops, vectors))
    expected = verify(first, second, pairs.is_same[there], pairs.folds[there])
    assert scores["accuracy"] == expected.accuracy
    assert scores["auc"] == pytest.approx(expected.auc)


def test_too_few_crops_are_an_error(model, crops, pairs):
    of_one = crops.select(crops.labels == 0)
    with pytest.raises(InputError, match="too few pairs have a face in both images"):
        validate_pairs(model, of_one, pairs)
    others = ImagePairs(["Ann/Ann_0001"], ["Ann/Ann_0002"], np.array([True]), np.array([0]))
    with pytest.raises(InputError, match=r"none of the images .* such as Ann/Ann_0001, is among"):
        validate_pairs(model, crops, others)


# ---- video pairs ----


@pytest.fixture(scope="module")
def video_pairs() -> VideoPairs:
    """Two splits of two matched and two mismatched pairs of videos."""
    first = ["P0/0", "P1/0", "P0/0", "P1/1", "P2/0", "P3/0", "P2/1", "P3/0"]
    second = ["P0/1", "P1/1", "P1/0", "P2/0", "P2/1", "P3/1", "P3/1", "P0/1"]
    return VideoPairs(first, second, np.tile([True, True, False, False], 2), np.arange(8) // 4)


def frames(videos: list[str]) -> list[str]:
    """Names of frames: two more than the number of the video."""
    return [
        f"{video.replace('/', '~')}/aligned_detect_{video[-1]}.{frame}"
        for video in videos
        for frame in range(int(video[-1]) + 2)
    ]


def test_videos_are_scored_by_the_mean_over_all_pairs_of_frames(tmp_path, model, video_pairs):
    videos = sorted({*video_pairs.first, *video_pairs.second})
    crops = list_crops([str(write_crops(tmp_path, frames(videos), SIZE))])
    vectors = embed_with_model(model, crops)
    of_video = {
        video: [v for v, name in zip(vectors, crops.names, strict=True)
                if name.startswith(video.replace("/", "~"))]
        for video in videos
    }  # fmt: skip
    assert {len(of) for of in of_video.values()} == {2, 3}
    distances = np.array(
        [
            np.mean([[np.sum((a - b) ** 2) for b in of_video[two]] for a in of_video[one]])
            for one, two in zip(video_pairs.first, video_pairs.second, strict=True)
        ]
    )
    expected = verify_distances(distances, video_pairs.is_same, video_pairs.folds)
    found = validate_videos(model, crops, video_pairs)
    assert found == {**asdict(expected), "n_pairs": 8, "n_pairs_skipped": 0}


def test_videos_without_a_face_are_left_out_and_counted(tmp_path, model, video_pairs):
    videos = sorted({*video_pairs.first, *video_pairs.second} - {"P3/1"})
    crops = list_crops([str(write_crops(tmp_path, frames(videos), SIZE))])
    found = validate_videos(model, crops, video_pairs)
    assert (found["n_pairs"], found["n_pairs_skipped"]) == (8, 2)
    without = list_crops([str(tmp_path / "P0~0")])
    with pytest.raises(InputError, match="too few pairs have a face in both videos"):
        validate_videos(model, without, video_pairs)
