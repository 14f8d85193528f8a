"""How good a model is, by the public protocols, on aligned crops.

scores = validate_pairs(model, list_crops(["lfw_crops"]), read_pairs("pairs.txt"))
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from facecluster.errors import InputError
from facecluster.model_export.crops import Crops
from facecluster.model_export.validation.calibration import calibration_table
from facecluster.model_export.validation.verification import Pairs, verify
from facecluster.model_export.validation.youtube_faces import VideoPairs, verify_videos
from facecluster.transforms.faces.embed import CROPS_PER_CALL, embed_crops
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.tables.codec import decode, make_codec

VIDEO_SEPARATOR = "~"  # between person and video in the folder name of a video's crops


def embed_with_model(model: SavedModel, crops: Crops, flip: bool = False) -> np.ndarray:
    """(n, d) float32 unit vectors of crops, by an exported model.

    Args:
      flip: embed each crop's mirror image too and put its vector behind the crop's: (n, 2d), not
        of unit length (the published --use_flipped_images).

    Raises:
      InputError: a crop cannot be read or decoded; names it.
    """
    from facecluster.model_export.training.training_data import evaluation_batches

    parts = []
    for pixels in evaluation_batches(crops, model.card().input_size, CROPS_PER_CALL):
        vectors = embed_crops(model, pixels)
        if flip:
            mirrored = embed_crops(model, pixels[:, :, ::-1])
            vectors = np.concatenate([vectors, mirrored], axis=1)
        parts.append(vectors)
    return np.concatenate(parts)


def network_embedder(network: Any, standardization: str) -> Callable[[Crops], np.ndarray]:
    """From crops to (n, d) float32 unit vectors, by a Keras network as it is when it is called."""
    import tensorflow as tf

    from facecluster.model_export.networks.export import standardize
    from facecluster.model_export.training.training_data import evaluation_batches

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
    pairs: Pairs,
    *,
    flip: bool = False,
    subtract_mean: bool = False,
    metric: str = "euclidean",
) -> dict[str, dict[str, Any]]:
    """LFW's protocol, as src/validate_on_lfw.py of davidsandberg/facenet.

    Args:
      crops: hold the images of the pairs by name; pairs of which one is missing, for lack of a
        face, are left out and counted.
      pairs: see `read_pairs`.
      flip, subtract_mean, metric: the published options, see `embed_with_model` and `verify`.

    Returns:
      By codec, "float32" and, where the model has it and nothing is flipped, "pca128": the fields
      of `Verification`, n_pairs, n_pairs_skipped, and the calibration over all pairs of crops.

    Raises:
      InputError: too few pairs are left.
      InputError: a crop cannot be read or decoded; names it.
    """
    row_of = {name: row for row, name in enumerate(crops.names)}
    if row_of.keys().isdisjoint([*pairs.first, *pairs.second]):
        raise InputError(
            f"none of the images that the pairs name, such as {pairs.first[0]}, is among the "
            f"{len(crops):,} crops, such as {crops.names[0]}: give the crops of those images"
        )
    rows = np.array(
        [[row_of.get(name, -1) for name in names] for names in (pairs.first, pairs.second)]
    )
    there = np.all(rows >= 0, axis=0)
    first, second = rows[:, there]
    vectors = embed_with_model(model, crops, flip)
    spaces = {"float32": vectors}
    if not flip and model.codec_arrays():
        codec = make_codec("pca128", model.codec_arrays())
        spaces["pca128"] = decode(codec.encode(vectors))
    scores = {}
    for name, space in spaces.items():
        try:
            found = verify(
                space[first],
                space[second],
                pairs.is_same[there],
                pairs.folds[there],
                metric,
                subtract_mean,
            )
        except ValueError as error:
            raise InputError(f"too few pairs have a face in both images: {error}") from error
        scores[name] = {
            **asdict(found),
            "n_pairs": len(there),
            "n_pairs_skipped": int(np.sum(~there)),
        }
        if not flip:
            scores[name]["calibration"] = calibration_table(space, crops.labels)
    return scores


def validate_videos(model: SavedModel, crops: Crops, pairs: VideoPairs) -> dict[str, Any]:
    """YouTube Faces' protocol, on crops whose person is PERSON/VIDEO with a `~` for the slash.

    Returns:
      The fields of `Verification`, n_pairs and n_pairs_skipped, for lack of a face in a video.

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
