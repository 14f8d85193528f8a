"""Which faces the filter leaves out of grouping, and what that does to the people found.

    python benchmarks/face_quality.py --images LFW [--work runs/quality] [--min-sharpness 0.08 ...]

LFW's photos show one labelled person each, and whoever stood behind: faces that are small, blurred
or turned away, and of nobody in particular. Each half of the people (see quality.py; limits were
chosen on the tuning half alone) is embedded once. Printed are the shares of labelled and of other
faces that fail each criterion by itself and that the filter leaves out; and how well the labelled
faces are grouped among all faces and among those that are kept, a labelled face that is left out
counting as unassigned.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from quality import HALVES, Half, in_columns, read_half, through_codec

from facecluster.pipeline.evaluation.clustering_metrics import clustering_scores
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.grouping.face_filter import (
    FILTER_COLUMNS,
    REASONS,
    find_left_out_reasons,
)
from facecluster.transforms.grouping.group_faces import group_faces
from facecluster.transforms.grouping.hdbscan_labels import NOISE
from facecluster.transforms.grouping.options import ClusterOptions, FaceFilterOptions
from facecluster.transforms.option_fields import add_options, from_arguments

EVERY_FACE = FaceFilterOptions(0.0, 0.0, 0.0, 90.0)
LIMIT_OF = {"size": "min_face_px", "sharpness": "min_sharpness", "score": "min_detection_score",
            "pose": "max_yaw"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/quality"))
    add_options(parser, FaceFilterOptions)
    arguments = parser.parse_args()
    limits = from_arguments(FaceFilterOptions, arguments)

    print("people    faces         ", *(f"{reason:>9}" for reason in REASONS), " left out")
    grouped = []
    for name in HALVES:
        half = read_half(arguments.images, name, arguments.work)
        run = RunDirectory(str(arguments.work / name))
        faces, _ = run.read_shards("faces", FILTER_COLUMNS)
        kept = find_left_out_reasons(faces, limits).is_null().to_numpy(zero_copy_only=False)
        fails = [~kept_by(faces, limits, reason) for reason in REASONS]
        labelled = np.zeros(len(kept), bool)
        labelled[list(half.faces_of.values())] = True
        for kind, rows in (("labelled", labelled), ("other", ~labelled)):
            shares = (f"{100 * out[rows].mean():7.2f} %" for out in (*fails, ~kept))
            print(f"{name:9} {kind:8} {rows.sum():5,}", *shares)
        grouped.append((name, half, kept))

    print(
        "people    grouped       BCubed P, R, F          pairwise P, R, F         found  unassigned"
    )
    for name, half, kept in grouped:
        for kind, rows in (("all", np.ones_like(kept)), ("kept", kept)):
            scores = clustering(half, rows, through_codec("pca128"))
            print(f"{name:9} {kind:4} {rows.sum():8,}", in_columns(scores))


def kept_by(faces, limits: FaceFilterOptions, reason: str) -> np.ndarray:
    """Faces that pass one criterion."""
    field = LIMIT_OF[reason]
    alone = replace(EVERY_FACE, **{field: getattr(limits, field)})
    return find_left_out_reasons(faces, alone).is_null().to_numpy(zero_copy_only=False)


def clustering(half: Half, kept: np.ndarray, through) -> dict:
    """Scores of the labelled faces when only some faces are grouped."""
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(half.photo_ids[rows], kind="stable")]  # as a run groups them
    photos = np.unique(half.photo_ids[rows], return_inverse=True)[1]
    labels = np.full(len(kept), NOISE)
    labels[rows] = group_faces(through(half.vectors[rows]), photos, ClusterOptions()).labels.labels
    truth = np.array([Path(uri).parent.name for uri in half.faces_of])
    return clustering_scores(truth, labels[list(half.faces_of.values())])


if __name__ == "__main__":
    main()
