"""The options of grouping: which faces are grouped, and how they become people."""

from dataclasses import dataclass

from facecluster.transforms.option_fields import at_least, between, option


@dataclass(frozen=True)
class FaceFilterOptions:
    """Which faces are grouped; the others keep their place in the tables, see face_filter.py.

    Of LFW's people they leave out not one face in a thousand, of those behind them one in three
    (benchmarks/face_quality.py).
    """

    min_face_px: float = option(
        24.0, "smaller faces are not grouped: geometric mean of the box's sides, px of the upright "
        "photo; 0: of any size", type=at_least(0, float),
    )  # fmt: skip
    min_sharpness: float = option(
        0.08, "faces more blurred than this are not grouped: column sharpness of the faces table; "
        "0: however blurred", type=between(0, 1),
    )  # fmt: skip
    min_detection_score: float = option(
        0.9, "what is less probably a face is not grouped; 0: however improbable",
        type=between(0, 1),
    )  # fmt: skip
    max_yaw: float = option(
        60.0, "faces turned further to either side are not grouped, degrees; 90: however far",
        type=between(0, 90),
    )  # fmt: skip


@dataclass(frozen=True)
class ClusterOptions(FaceFilterOptions):
    """How faces become people. Distances are Euclidean between unit vectors: sqrt(2 - 2 cos)."""

    n_neighbors: int = option(64, "nearest neighbours searched for each face", type=at_least(2))
    min_cluster_size: int = option(
        2, "faces that make a person, at least; 1 leaves no face unassigned", type=at_least(1)
    )
    min_samples: int = option(
        1,
        "neighbours that a face must have within a distance to count as dense there, not "
        "counting itself",
        type=at_least(1),
    )
    min_distance: float = option(
        0.65,
        "faces nearer than this count as this far apart, so that copies of a photo and bursts do "
        "not become people of their own",
        type=between(0.01, 2),
    )
    max_distance: float = option(
        0.89, "faces farther apart than this never join directly; large collections join less far, "
        "see --chance-neighbors", type=between(0, 2),
    )  # fmt: skip
    chance_neighbors: float = option(
        0.5, "strangers that a face may have within --max-distance, as far as can be told from the "
        "collection; 0: any number", type=at_least(0, float),
    )  # fmt: skip
    join_distance: float = option(
        0.89, "people and unassigned faces whose mean faces are this near become one person, the "
        "larger they are the nearer they must be; never more than what --max-distance comes to; "
        "0: never", type=between(0, 2),
    )  # fmt: skip
    ignore_photos: bool = option(
        False, "let two faces of one photo be the same person like any others", type=bool
    )
    probes: int = option(
        16, "beyond 50,000 faces, a face is compared with those in so many of 4 sqrt(faces) cells; "
        "0: with all, which takes long and lets no worker do with less than all",
        type=at_least(0),
    )  # fmt: skip
