"""Validation of a model on aligned crops, by the protocols of LFW and YouTube Faces.

scores = validate_pairs(model, list_crops(["lfw_crops"]), read_pairs("pairs.txt"))
"""

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from facecluster.errors import InputError
from facecluster.model_export.crops import Crops
from facecluster.model_export.validation.calibration import calibration_table
from facecluster.model_export.validation.cohort import fit_cohort
from facecluster.model_export.validation.pairs import ImagePairs
from facecluster.model_export.validation.verification import verify
from facecluster.model_export.validation.youtube_faces import VideoPairs, verify_videos
from facecluster.transforms.faces.embed import CROPS_PER_CALL, embed_crops
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.tables.codec import decode_embeddings, make_codec

VIDEO_SEPARATOR = "~"  # separates person and video in the name of the folder of a video's crops


def embed_with_model(model: SavedModel, crops: Crops, flip: bool = False) -> np.ndarray:
    """Embeds crops with an exported model.

    Args:
      flip: also embed each crop's mirror image and append its vector to the crop's (the published
        --use_flipped_images).

    Returns:
      (n, d) float32 unit vectors; with `flip` (n, 2d), not of unit length.

    Raises:
      InputError: a crop cannot be read or decoded; the message names it.
    """
    from facecluster.model_export.training.batches import evaluation_batches

    parts = []
    for pixels in evaluation_batches(crops, model.card().input_size, CROPS_PER_CALL):
        vectors = embed_crops(model, pixels)
        if flip:
            mirrored = embed_crops(model, pixels[:, :, ::-1])
            vectors = np.concatenate([vectors, mirrored], axis=1)
        parts.append(vectors)
    return np.concatenate(parts)


def network_embedder(network: Any, standardization: str) -> Callable[[Crops], np.ndarray]:
    """A function that embeds crops, (n, d) float32 unit vectors, by a network's current weights."""
    import tensorflow as tf

    from facecluster.model_export.networks.export import standardize
    from facecluster.model_export.training.batches import evaluation_batches

    size = network.input_shape[1]

    @tf.function(input_signature=[tf.TensorSpec((None, size, size, 3), tf.uint8)])
    def embed(pixels):
        return network(standardize(pixels, standardization), training=False)

    def embed_all(crops: Crops) -> np.ndarray:
        batches = evaluation_batches(crops, size, CROPS_PER_CALL)
        return np.concatenate([embed(pixels).numpy() for pixels in batches])

    return embed_all


def validate_pairs(
    model: SavedModel,
    crops: Crops,
    pairs: ImagePairs,
    *,
    flip: bool = False,
    subtract_mean: bool = False,
    metric: str = "euclidean",
    with_cohorts: bool = False,
) -> dict[str, dict[str, Any]]:
    """LFW's protocol, as src/validate_on_lfw.py of davidsandberg/facenet.

    Args:
      crops: the images of the pairs, by name. Pairs with a missing image, in which no face was
        found, are skipped and counted.
      pairs: see `read_pairs`.
      flip, subtract_mean, metric: the published options, see `embed_with_model` and `verify`.
      with_cohorts: also fit a `Cohort` to the crops, unless they are of too few people; not with
        `flip`.

    Returns:
      For each codec ("float32" and, if the model has one and `flip` is off, "pca128"): the fields
      of `Verification`, n_pairs, n_pairs_skipped, the calibration over all pairs of crops, and the
      cohort.

    Raises:
      InputError: too few pairs are left, or a crop cannot be read or decoded.
    """
    row_of = {name: row for row, name in enumerate(crops.names)}
    if row_of.keys().isdisjoint([*pairs.first, *pairs.second]):
        raise InputError(
            f"none of the images that the pairs name, such as {pairs.first[0]}, is among the "
            f"{len(crops):,} crops, such as {crops.names[0]}: give the crops of these images"
        )
    rows = np.array(
        [[row_of.get(name, -1) for name in names] for names in (pairs.first, pairs.second)]
    )
    is_available = np.all(rows >= 0, axis=0)
    first, second = rows[:, is_available]
    vectors = embed_with_model(model, crops, flip)
    spaces = {"float32": vectors}
    if not flip and model.codec_arrays():
        codec = make_codec("pca128", model.codec_arrays())
        spaces["pca128"] = decode_embeddings(codec.encode(vectors))
    scores = {}
    for name, space in spaces.items():
        try:
            found = verify(
                space[first],
                space[second],
                pairs.is_same[is_available],
                pairs.folds[is_available],
                metric,
                subtract_mean,
            )
        except ValueError as error:
            raise InputError(f"too few pairs have a face in both images: {error}") from error
        scores[name] = {
            **asdict(found),
            "n_pairs": len(is_available),
            "n_pairs_skipped": int(np.sum(~is_available)),
        }
        if not flip:
            scores[name]["calibration"] = calibration_table(space, crops.labels)
        if with_cohorts:
            with contextlib.suppress(InputError):
                scores[name]["cohort"] = fit_cohort(space, crops.labels)
    return scores


def validate_videos(model: SavedModel, crops: Crops, pairs: VideoPairs) -> dict[str, Any]:
    """YouTube Faces' protocol, on crops whose person is PERSON/VIDEO with a `~` for the slash.

    Returns:
      The fields of `Verification`, n_pairs, and n_pairs_skipped because a video has no face.

    Raises:
      InputError: too few pairs are left.
    """
    vectors = embed_with_model(model, crops)
    of_video = {
        video: np.empty((0, vectors.shape[1]), np.float32)
        for video in {*pairs.first, *pairs.second}
    }
    for person, label in enumerate(crops.people):
        of_video[label.replace(VIDEO_SEPARATOR, "/")] = vectors[crops.labels == person]
    try:
        found, n_skipped = verify_videos(of_video, pairs)
    except ValueError as error:
        raise InputError(f"too few pairs have a face in both videos: {error}") from error
    return {**asdict(found), "n_pairs": len(pairs.is_same), "n_pairs_skipped": n_skipped}
