"""Measures which faces the quality filter leaves out, and how that changes the people found.

    python benchmarks/face_quality.py --images LFW [--work runs/quality] [--min-sharpness 0.08 ...]

Each of LFW's photos shows one labeled person, and often other people behind: faces that are small,
blurred or turned away. The halves of the people are those of quality.py; limits were chosen on the
tuning half alone. The first table has the percentages of labeled and of other faces that fail each
criterion by itself, and that the filter leaves out; and how many faces have a doubtful score, above
the limit and below 0.98, and how many of those are left out because they are blurred or small. The
second has the scores of the labeled faces when all faces are grouped, and when only those that pass
the filter are; there, a labeled face that is left out counts as unassigned.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from quality import (
    HALVES,
    Half,
    RoundTrip,
    format_scores,
    load_half,
    load_model,
    make_round_trip,
)

from facecluster.pipeline.evaluation.clustering_metrics import clustering_scores
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.grouping.face_filter import (
    DOUBTFUL_SCORE,
    FILTER_COLUMNS,
    find_left_out_reasons,
)
from facecluster.transforms.grouping.group_faces import group_faces
from facecluster.transforms.grouping.hdbscan_labels import NOISE
from facecluster.transforms.grouping.options import ClusterOptions, FaceFilterOptions
from facecluster.transforms.option_fields import add_options, from_arguments

NO_LIMITS = FaceFilterOptions(
    min_face_px=0.0, min_sharpness=0.0, min_detection_score=0.0, max_yaw=90.0
)
OPTION_OF_REASON = {
    "size": "min_face_px",
    "sharpness": "min_sharpness",
    "score": "min_detection_score",
    "pose": "max_yaw",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path, help="one folder of photos a person")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="as in quality.py")
    add_options(parser, FaceFilterOptions)
    arguments = parser.parse_args()
    limits = from_arguments(FaceFilterOptions, arguments)
    halves = {name: load_half(arguments.images, name, arguments.work) for name in HALVES}

    titles = (f"{reason:>9}" for reason in OPTION_OF_REASON)
    print("half      faces         ", *titles, " left out")
    kept = {}
    for name, half in halves.items():
        run = RunDirectory(str(arguments.work / name))
        faces, _ = run.read_shards("faces", FILTER_COLUMNS)
        kept[name] = passes(faces, limits)
        failing = [~passes(faces, single_limit(limits, reason)) for reason in OPTION_OF_REASON]
        labeled = np.zeros(len(half.vectors), bool)
        labeled[half.labeled_rows] = True
        for kind, rows in (("labeled", labeled), ("other", ~labeled)):
            percentages = (f"{100 * out[rows].mean():7.2f} %" for out in (*failing, ~kept[name]))
            print(f"{name:9} {kind:8} {rows.sum():5,}", *percentages)
            doubtful = rows & find_doubtful(faces, limits)
            n_poor = np.sum(doubtful & ~passes(faces, single_limit(limits, "score")))
            print(f"{'':9} {doubtful.sum()} of a doubtful score, {n_poor} of them left out for it")

    print(
        "half      grouped       BCubed P, R, F          pairwise P, R, F        people  unassigned"
    )
    round_trip = make_round_trip("pca128")
    for name, half in halves.items():
        for kind, rows in (("all", np.ones_like(kept[name])), ("kept", kept[name])):
            scores = score_clustering(half, rows, round_trip)
            print(f"{name:9} {kind:4} {rows.sum():8,}", format_scores(scores))


def passes(faces: pa.Table, limits: FaceFilterOptions) -> np.ndarray:
    """(n,) bool, the faces that are within the limits."""
    return find_left_out_reasons(faces, limits).is_null().to_numpy(zero_copy_only=False)


def find_doubtful(faces: pa.Table, limits: FaceFilterOptions) -> np.ndarray:
    """(n,) bool, the faces with a score above the limit and below that of sure faces."""
    score = faces["detection_score"].to_numpy()
    return (score >= np.float32(limits.min_detection_score)) & (score < DOUBTFUL_SCORE)


def single_limit(limits: FaceFilterOptions, reason: str) -> FaceFilterOptions:
    """Only the limit of one criterion."""
    field = OPTION_OF_REASON[reason]
    return replace(NO_LIMITS, **{field: getattr(limits, field)})


def score_clustering(half: Half, kept: np.ndarray, round_trip: RoundTrip) -> dict:
    """Scores of the labeled faces when only the faces in `kept`, (n,) bool, are grouped."""
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(half.photo_ids[rows], kind="stable")]  # a run's order
    photos = np.unique(half.photo_ids[rows], return_inverse=True)[1]
    cohort = load_model().cohort("pca128")
    grouping = group_faces(round_trip(half.vectors[rows]), photos, ClusterOptions(), cohort)
    labels = np.full(len(kept), NOISE)
    labels[rows] = grouping.labels.labels
    return clustering_scores(half.people, labels[half.labeled_rows])


if __name__ == "__main__":
    main()
