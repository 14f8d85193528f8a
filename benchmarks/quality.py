"""How well the default options group people they were not tuned on, and what the codec does to it.

    python benchmarks/quality.py --images FOLDER [--pairs pairsDevTrain.txt] [--work runs/quality]
                                 [--write-codec FILE.npz]

FOLDER holds one folder of photos per person. The people are cut into two halves by a hash of their
name: options were chosen, and the 128-byte codec was fitted, on the tuning half alone. Each half is
embedded once, with all its vectors kept, grouped with the default options, and scored; so are all
people together. The pairs are scored with the same vectors.
"""

import argparse
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from facecluster.model_export.validation.pairs import read_pairs
from facecluster.model_export.validation.verification import verify
from facecluster.model_export.weights import zoo
from facecluster.pipeline.evaluation.clustering_metrics import clustering_scores
from facecluster.pipeline.evaluation.labels import find_labeled_faces
from facecluster.pipeline.options import EmbedOptions
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.grouping.group_faces import group_faces
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.tables.codec import decode_embeddings, fit_pca128, make_codec

HALVES = ("tuning", "held-out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--pairs", help="pairs to verify too")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"))
    parser.add_argument("--write-codec", help="keep the codec fitted on the tuning half here")
    arguments = parser.parse_args()

    halves = {half: read_half(arguments.images, half, arguments.work) for half in HALVES}
    if arguments.write_codec:
        np.savez_compressed(arguments.write_codec, **fit_pca128(halves["tuning"].vectors))
    halves["all"] = Half.together(list(halves.values()))
    print("people    codec    BCubed P, R, F          pairwise P, R, F         found  unassigned")
    for name, half in halves.items():
        for codec in ("float32", "pca128"):
            scores = half.clustering(through_codec(codec))
            print(f"{name:9} {codec:8}", in_columns(scores))
    if arguments.pairs:
        print("pairs     codec     accuracy          VAL at FAR 1e-3   AUC     EER")
        for codec in ("float32", "pca128"):
            v = halves["all"].verification(arguments.pairs, through_codec(codec))
            print(f"{'all':9} {codec:8} {v.accuracy:8.4f} +- {v.accuracy_std:.4f} "
                  f"{v.val:8.4f} +- {v.val_std:.4f} {v.auc:8.4f} {v.eer:7.4f}")  # fmt: skip


class Half:
    """The faces of some people: all faces of their photos, of which one a photo is labelled."""

    def __init__(self, vectors: np.ndarray, photo_ids: np.ndarray, faces_of: dict[str, int]):
        self.vectors = vectors  # (n, d) float32, of all faces
        self.photo_ids = photo_ids  # (n,) str, of all faces
        self.faces_of = faces_of  # photo uri -> the row of its labelled face

    @classmethod
    def together(cls, halves: "list[Half]") -> "Half":
        faces_of, offset = {}, 0
        for half in halves:
            faces_of.update({uri: row + offset for uri, row in half.faces_of.items()})
            offset += len(half.vectors)
        vectors, photo_ids = (
            np.concatenate([getattr(half, name) for half in halves])
            for name in ("vectors", "photo_ids")
        )
        return cls(vectors, photo_ids, faces_of)

    def clustering(self, through: Callable[[np.ndarray], np.ndarray]) -> dict:
        order = np.argsort(self.photo_ids, kind="stable")  # as a run groups them
        photos = np.unique(self.photo_ids[order], return_inverse=True)[1]
        grouping = group_faces(through(self.vectors[order]), photos, ClusterOptions())
        labels = np.empty(len(order), np.int64)
        labels[order] = grouping.labels.labels
        truth = np.array([Path(uri).parent.name for uri in self.faces_of])
        return clustering_scores(truth, labels[list(self.faces_of.values())])

    def verification(self, pairs_path: str, through: Callable[[np.ndarray], np.ndarray]):
        pairs = read_pairs(pairs_path)
        row_of = {
            f"{Path(uri).parent.name}/{Path(uri).stem}": row for uri, row in self.faces_of.items()
        }
        first, second = ([row_of[stem] for stem in side] for side in (pairs.first, pairs.second))
        vectors = through(self.vectors)
        return verify(vectors[first], vectors[second], pairs.is_same, pairs.folds)


def read_half(images: Path, half: str, work: Path) -> Half:
    """Embeds the photos of one half of the people, or takes them from an earlier time."""
    people = [folder for folder in sorted(images.iterdir()) if half_of(folder.name) == half]
    run = RunDirectory(str(work / half))
    command = ["facecluster", "embed", "--output", run.root, "--codec", "float32", "--input"]
    subprocess.run([*command, *map(str, people)], check=True)
    photos, _ = run.read_shards("photos", ["photo_id", "uri", "width", "height"])
    faces, _ = run.read_shards("faces", ["photo_id", "box", "embedding"])
    photo_ids = faces["photo_id"].to_numpy().astype(str)
    return Half(decode_embeddings(faces["embedding"]), photo_ids, find_labeled_faces(photos, faces))


def half_of(name: str) -> str:
    return HALVES[hashlib.sha256(name.encode()).digest()[-1] % 2]


def in_columns(scores: dict) -> str:
    """A line's columns: BCubed and pairwise precision, recall and F, people, share unassigned."""
    figures = [
        f"{scores[f'{measure}_{figure}']:7.4f}"
        for measure in ("bcubed", "pairwise")
        for figure in ("precision", "recall", "f")
    ]
    return " ".join(
        [*figures, f"{scores['n_people_found']:7,}", f"{scores['fraction_unassigned']:11.3f}"]
    )


def through_codec(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Stores vectors of the default model as a codec does, and reads them back."""
    codec = make_codec(name, SavedModel(str(zoo.fetch(EmbedOptions.model))).codec_arrays())
    return lambda vectors: decode_embeddings(codec.encode(vectors))


if __name__ == "__main__":
    main()
