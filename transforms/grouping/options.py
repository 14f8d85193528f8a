"""The options of grouping: which faces are grouped, and how they become people."""

from dataclasses import dataclass

from facecluster.transforms.option_fields import at_least, between, option

# The share of wrongly grouped faces that the constants in edges.py and merge_groups.py amount to,
# on average over many kinds of collections (docs/results.md).
WRONG_SHARE = 0.05


@dataclass(frozen=True)
class FaceFilterOptions:
    """Which faces are grouped; the others keep their rows in the tables, see face_filter.py.

    The defaults leave out fewer than one in a thousand of the faces that LFW's photos are named
    after, and one in three of the faces in the background (benchmarks/face_quality.py).
    """

    min_face_px: float = option(
        24.0, "smaller faces are not grouped: geometric mean of the box's sides, px of the upright "
        "photo; 0: no limit", type=at_least(0, float),
    )  # fmt: skip
    min_sharpness: float = option(
        0.08, "more blurred faces are not grouped: column sharpness of the faces table; "
        "0: no limit", type=between(0, 1),
    )  # fmt: skip
    min_detection_score: float = option(
        0.9, "faces with a lower detection score are not grouped, nor are those below 0.98 that "
        "are less sharp than 0.12 or smaller than 32 px; 0: no limit", type=between(0, 1),
    )  # fmt: skip
    max_yaw: float = option(
        60.0, "faces turned further to either side are not grouped, degrees; 90: no limit",
        type=between(0, 90),
    )  # fmt: skip


@dataclass(frozen=True)
class ClusterOptions(FaceFilterOptions):
    """How faces become people."""

    n_neighbors: int = option(64, "nearest neighbors searched for each face", type=at_least(2))
    min_cluster_size: int = option(
        2,
        "fewest photos that make a person, where copies and bursts count as one; 1 leaves no face "
        "unassigned",
        type=at_least(1),
    )
    wrong_share: float = option(
        WRONG_SHARE,
        "the share of grouped faces that may be with the wrong person: a smaller one rather splits "
        "people, a larger one rather merges them",
        type=between(0.001, 0.5),
    )
    ignore_photos: bool = option(False, "let two faces in one photo be the same person", type=bool)
    probes: int = option(
        16, "with more than 50,000 faces, each face is compared with the faces in this many of "
        "4 sqrt(faces) cells; 0: in all cells, which is exact and slow, and needs the memory for "
        "all faces on each worker", type=at_least(0),
    )  # fmt: skip
