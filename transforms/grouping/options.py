"""The options of grouping: which faces are grouped, and how they become people."""

from dataclasses import dataclass

from facecluster.transforms.option_fields import at_least, between, option


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
        0.9, "faces with a lower detection score are not grouped; 0: no limit",
        type=between(0, 1),
    )  # fmt: skip
    max_yaw: float = option(
        60.0, "faces turned further to either side are not grouped, degrees; 90: no limit",
        type=between(0, 90),
    )  # fmt: skip


@dataclass(frozen=True)
class ClusterOptions(FaceFilterOptions):
    """How faces become people. Distances are Euclidean between unit vectors: sqrt(2 - 2 cos)."""

    n_neighbors: int = option(64, "nearest neighbors searched for each face", type=at_least(2))
    min_cluster_size: int = option(
        2, "fewest faces that make a person; 1 leaves no face unassigned", type=at_least(1)
    )
    min_samples: int = option(
        1,
        "a face's core distance (HDBSCAN) is the distance to its neighbor of this rank, the face "
        "itself not counted",
        type=at_least(1),
    )
    min_distance: float = option(
        0.65,
        "smaller distances count as this one, so that duplicates and bursts of photos do not "
        "become people of their own",
        type=between(0.01, 2),
    )
    max_distance: float = option(
        0.89, "faces farther apart than this are never linked directly; large collections use a "
        "smaller distance, see --chance-neighbors", type=between(0, 2),
    )  # fmt: skip
    chance_neighbors: float = option(
        0.5, "reduces --max-distance until a face is expected to have this many impostors (faces "
        "of other people) within it; 0: do not reduce it", type=at_least(0, float),
    )  # fmt: skip
    merge_distance: float = option(
        0.89, "clusters and unassigned faces whose mean vectors are within this distance become "
        "one person; the larger they are, the smaller the distance must be; at most the reduced "
        "--max-distance; 0: do not merge", type=between(0, 2),
    )  # fmt: skip
    ignore_photos: bool = option(False, "let two faces in one photo be the same person", type=bool)
    probes: int = option(
        16, "with more than 50,000 faces, each face is compared with the faces in this many of "
        "4 sqrt(faces) cells; 0: in all cells, which is exact and slow, and needs the memory for "
        "all faces on each worker", type=at_least(0),
    )  # fmt: skip
