"""Verification of video pairs, same person or not, by the protocol of YouTube Faces.

    pairs = read_splits("splits.txt")
    frames = list_frames("aligned_images_DB", pairs.first[0])
    ...
    scores, n_skipped = verify_videos(embeddings, pairs)

The benchmark is that of Wolf, Hassner and Maoz (Face Recognition in Unconstrained Videos with
Matched Background Similarity, CVPR 2011): 5,000 pairs of videos in ten splits; each split is scored
at the threshold that is best on the other nine. FaceNet uses the mean similarity of all pairs of
frames, from the first hundred frames of each video (arXiv 1503.03832, section 5.6).
"""

import re
from collections.abc import Mapping

import numpy as np
from apache_beam.io.filesystems import FileSystems

from facecluster.errors import InputError
from facecluster.model_export.validation.pairs import LabeledPairs, read_lines
from facecluster.model_export.validation.verification import Verification, verify_distances
from facecluster.transforms.inputs.listing import list_photos

N_FRAMES = 100  # of each video (arXiv 1503.03832, section 5.6)


class VideoPairs(LabeledPairs):
    """Pairs of videos, named `PERSON/VIDEO`; the folds are the splits of the benchmark."""


def read_splits(path: str) -> VideoPairs:
    """Reads the pairs of YouTube Faces, splits.txt or splits_corrected.txt.

    After a line of column names, each line is a pair: `1, 7, Ann_Lee/0, Bob_Ray/3, 0`. The fields
    used are the first, the number of the split; the two that contain a slash, the videos; and the
    last, 1 for one person and 0 for two. In splits_corrected.txt the last field is the corrected
    label, which follows the original one.

    Raises:
      InputError: the file does not exist or contains no pair, or a line is malformed.
    """
    rows = [
        (number, [field.strip() for field in line.split(",")])
        for number, line in read_lines(path, "splits.txt of YouTube Faces")
    ]
    if rows and not any("/" in field for field in rows[0][1]):
        del rows[0]  # column names
    if not rows:
        raise InputError(f"{path} contains no pairs: give splits.txt of YouTube Faces")
    pairs = [_parse_pair(path, number, fields) for number, fields in rows]
    splits, first, second, is_same = zip(*pairs, strict=True)
    return VideoPairs(list(first), list(second), np.array(is_same), np.array(splits) - 1)


def list_frames(folder: str, video: str, n_frames: int = N_FRAMES) -> list[str]:
    """The files of a video's first frames, in the order of their numbers.

    A frame's number is the last number in its name, so both forms of the data set can be read:
    aligned_images_DB/PERSON/VIDEO/aligned_detect_VIDEO.FRAME.jpg and
    frame_images_DB/PERSON/VIDEO/VIDEO.FRAME.jpg. The numbers need not start at 1 or be consecutive.
    Request more than a hundred to keep the first hundred with a detected face.

    Args:
      folder: the folder of the people, aligned_images_DB or frame_images_DB.
      video: `PERSON/VIDEO`.

    Raises:
      InputError: the video does not exist or has no frames.
    """
    path = FileSystems.join(folder, *video.split("/"))
    frames = [
        (int(number[1]), name)
        for name in list_photos([path], containers=False).uris
        if (number := re.search(r"(\d+)\.[^./]+$", name))
    ]
    if not frames:
        raise InputError(
            f"{path} has no frames: none of its photos has a number in its name (`1.72.jpg`)"
        )
    return [name for _, name in sorted(frames)[:n_frames]]


def video_distances(embeddings: Mapping[str, np.ndarray], pairs: VideoPairs) -> np.ndarray:
    """The mean squared Euclidean distance over all pairs of frames of two videos.

    It follows from the mean of each video: for frames a of one video and b of the other, the mean
    of |a - b|^2 is mean |a|^2 + mean |b|^2 - 2 mean a . mean b. For unit vectors that is
    2 - 2 mean a . mean b, which is 2 minus twice the mean cosine.

    Args:
      embeddings: {video: (f, d)}, the vectors of a video's frames, each of unit length (or
        concatenated with that of the mirrored crop), with f > 0.

    Returns:
      (n,) float64, the distance of each pair.

    Raises:
      ValueError: a video of the pairs has no embeddings.
    """
    videos = sorted({*pairs.first, *pairs.second})
    without = [video for video in videos if video not in embeddings or not len(embeddings[video])]
    if without:
        raise ValueError(
            f"{len(without)} of {len(videos)} videos have no embeddings, first {without[0]}: embed "
            "the frames of all videos that the pairs name"
        )
    row = {video: i for i, video in enumerate(videos)}
    means = np.stack([np.mean(embeddings[video], axis=0, dtype=np.float64) for video in videos])
    squares = np.array(
        [
            np.mean(np.sum(np.square(embeddings[video], dtype=np.float64), axis=1))
            for video in videos
        ]
    )
    first, second = ([row[video] for video in names] for names in (pairs.first, pairs.second))
    products = np.sum(means[first] * means[second], axis=1)
    # Rounding can make the distance of equal frames slightly negative.
    return np.maximum(squares[first] + squares[second] - 2 * products, 0)


def verify_videos(
    embeddings: Mapping[str, np.ndarray], pairs: VideoPairs
) -> tuple[Verification, int]:
    """Scores pairs of videos by cross-validation over the splits, on their `video_distances`.

    Args:
      embeddings: {video: (f, d)} of every video of the pairs; (0, d) if no frame has a face.

    Returns:
      The scores, and the number of pairs skipped because one of the videos has no face.

    Raises:
      ValueError: a video of the pairs is not in embeddings, or too few pairs with faces are left
        for the splits.
    """
    faceless = {video for video, frames in embeddings.items() if not len(frames)}
    used = np.array(
        [not faceless & {*videos} for videos in zip(pairs.first, pairs.second, strict=True)]
    )
    kept = VideoPairs(
        [video for video, use in zip(pairs.first, used, strict=True) if use],
        [video for video, use in zip(pairs.second, used, strict=True) if use],
        pairs.is_same[used],
        pairs.folds[used],
    )
    if not kept.first:
        raise ValueError("no pair has a face in both videos")
    scores = verify_distances(video_distances(embeddings, kept), kept.is_same, kept.folds)
    return scores, int(np.sum(~used))


def _parse_pair(path: str, number: int, fields: list[str]) -> tuple[int, str, str, bool]:
    """(split, first video, second video, whether they show one person) of a line."""
    split, label = fields[0], fields[-1]
    videos = [field for field in fields if re.fullmatch(r"[^/]+/[^/]+", field)]
    if not (split.isdecimal() and int(split) and len(videos) == 2 and label in ("0", "1")):
        raise InputError(
            f"{path} line {number}: expected the split, two videos, and 1 for one person or 0 for "
            f"two (`1, 7, Ann_Lee/0, Bob_Ray/3, 0`), found {', '.join(fields)!r}"
        )
    first, second = videos
    return int(split), first, second, label == "1"
