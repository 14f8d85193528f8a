"""Scores the default grouping on two halves of a labeled collection, with and without the codec.

    python benchmarks/quality.py --images FOLDER [--pairs pairsDevTrain.txt] [--work runs/quality]
                                 [--write-codec FILE.npz] [--write-cohort FILE.npz]

FOLDER holds one folder of photos per person. A hash of their names divides the people into two
halves. Options were chosen, and the 128-byte codec and the cohort were fitted, on the tuning half
alone. Each half is
embedded once, as float32 vectors, into the work folder. The halves, and all people together, are
grouped with the default options and scored; the pairs are scored with the same vectors.
"""

import argparse
import hashlib
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facecluster.model_export.validation.cohort import fit_cohort
from facecluster.model_export.validation.pairs import read_pairs
from facecluster.model_export.validation.verification import Verification, verify
from facecluster.model_export.weights import zoo
from facecluster.pipeline.evaluation.clustering_metrics import clustering_scores
from facecluster.pipeline.evaluation.labels import find_labeled_faces
from facecluster.pipeline.options import EmbedOptions
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.grouping.group_faces import group_faces
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.similarity.cohort_file import pack_cohorts
from facecluster.transforms.tables.codec import Codec, decode_embeddings, fit_pca128, make_codec

HALVES = ("tuning", "held-out")

RoundTrip = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path, help="one folder of photos a person")
    parser.add_argument("--pairs", help="also verify these pairs, an LFW pairs file")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="of the embeddings")
    parser.add_argument("--write-codec", help="write the codec fitted on the tuning half here")
    parser.add_argument("--write-cohort", help="write the cohort fitted on the tuning half here")
    arguments = parser.parse_args()

    halves = {name: load_half(arguments.images, name, arguments.work) for name in HALVES}
    if arguments.write_codec:
        np.savez_compressed(arguments.write_codec, **fit_pca128(halves["tuning"].vectors))
    if arguments.write_cohort:
        Path(arguments.write_cohort).write_bytes(pack_cohorts(halves["tuning"].fit_cohorts()))
    halves["all"] = concatenate_halves(list(halves.values()))
    print("half      codec    BCubed P, R, F          pairwise P, R, F        people  unassigned")
    for name, half in halves.items():
        for codec in ("float32", "pca128"):
            scores = half.score_clustering(make_round_trip(codec), load_model().cohort(codec))
            print(f"{name:9} {codec:8}", format_scores(scores))
    if arguments.pairs:
        print("pairs     codec     accuracy          VAL at FAR 1e-3   AUC     EER")
        for codec in ("float32", "pca128"):
            v = halves["all"].score_pairs(arguments.pairs, make_round_trip(codec))
            print(f"{'all':9} {codec:8} {v.accuracy:8.4f} +- {v.accuracy_std:.4f} "
                  f"{v.val:8.4f} +- {v.val_std:.4f} {v.auc:8.4f} {v.eer:7.4f}")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Half:
    """The faces in the photos of some people. One face of each photo is labeled.

    Attributes:
      vectors: (n, d) float32 unit vectors of all faces.
      photo_ids: (n,) str, of all faces.
      row_of_photo: for each photo's URI, the row of its labeled face.
    """

    vectors: np.ndarray
    photo_ids: np.ndarray
    row_of_photo: dict[str, int]

    @property
    def labeled_rows(self) -> np.ndarray:
        """(m,) int64, the rows of the labeled faces."""
        return np.array(list(self.row_of_photo.values()), np.int64)

    @property
    def people(self) -> np.ndarray:
        """(m,) str, the person of each labeled face: the name of its photo's folder."""
        return np.array([Path(uri).parent.name for uri in self.row_of_photo])

    def fit_cohorts(self) -> dict[str, Cohort]:
        """The cohorts of the default model by the identity of their codec."""
        cohorts, rows = {}, self.labeled_rows
        for name in ("float32", "pca128"):
            codec = load_codec(name)
            vectors = decode_embeddings(codec.encode(self.vectors[rows]))
            cohorts[codec.identity] = cohort = fit_cohort(vectors, self.people)
            print(
                f"cohort of {len(np.unique(self.people)):,} people, {name}: "
                f"level {cohort.level:.4f}, same person {cohort.same_person:.4f}"
            )
        return cohorts

    def score_clustering(self, round_trip: RoundTrip, cohort: Cohort | None = None) -> dict:
        """Groups all faces with the default options and scores the labeled ones."""
        order = np.argsort(self.photo_ids, kind="stable")  # the order in which a run groups them
        photos = np.unique(self.photo_ids[order], return_inverse=True)[1]
        grouping = group_faces(round_trip(self.vectors[order]), photos, ClusterOptions(), cohort)
        labels = np.empty(len(order), np.int64)
        labels[order] = grouping.labels.labels
        return clustering_scores(self.people, labels[self.labeled_rows])

    def score_pairs(self, pairs_path: str, round_trip: RoundTrip) -> Verification:
        """Verifies pairs of photos, each by its labeled face."""
        pairs = read_pairs(pairs_path)
        row_of = {
            f"{Path(uri).parent.name}/{Path(uri).stem}": row
            for uri, row in self.row_of_photo.items()
        }
        first, second = ([row_of[name] for name in side] for side in (pairs.first, pairs.second))
        vectors = round_trip(self.vectors)
        return verify(vectors[first], vectors[second], pairs.is_same, pairs.folds)


def concatenate_halves(halves: Sequence[Half]) -> Half:
    row_of_photo, offset = {}, 0
    for half in halves:
        row_of_photo.update({uri: row + offset for uri, row in half.row_of_photo.items()})
        offset += len(half.vectors)
    return Half(
        np.concatenate([half.vectors for half in halves]),
        np.concatenate([half.photo_ids for half in halves]),
        row_of_photo,
    )


def load_half(images: Path, name: str, work: Path) -> Half:
    """Embeds the photos of a half, except those that an earlier call with this folder embedded."""
    people = [folder for folder in sorted(images.iterdir()) if choose_half(folder.name) == name]
    run = RunDirectory(str(work / name))
    for model in (EmbedOptions.detector, EmbedOptions.model):
        zoo.fetch(model)
    command = ["facecluster", "embed", "--output", run.root, "--codec", "float32", "--input"]
    subprocess.run([*command, *map(str, people)], check=True)
    photos, _ = run.read_shards("photos", ["photo_id", "uri", "width", "height"])
    faces, _ = run.read_shards("faces", ["photo_id", "box", "embedding"])
    photo_ids = faces["photo_id"].to_numpy().astype(str)
    return Half(decode_embeddings(faces["embedding"]), photo_ids, find_labeled_faces(photos, faces))


def choose_half(person: str) -> str:
    """The half of a person, by a hash of the name."""
    return HALVES[hashlib.sha256(person.encode()).digest()[-1] % 2]


def format_scores(scores: dict) -> str:
    """BCubed and pairwise precision, recall and F, people found, fraction unassigned."""
    figures = [
        f"{scores[f'{measure}_{figure}']:7.4f}"
        for measure in ("bcubed", "pairwise")
        for figure in ("precision", "recall", "f")
    ]
    return " ".join(
        [*figures, f"{scores['n_people_found']:7,}", f"{scores['fraction_unassigned']:11.3f}"]
    )


def make_round_trip(codec_name: str) -> RoundTrip:
    """A function that encodes vectors of the default model with a codec and decodes them again."""
    codec = load_codec(codec_name)
    return lambda vectors: decode_embeddings(codec.encode(vectors))


def load_codec(name: str) -> Codec:
    """A codec of the default model."""
    return make_codec(name, load_model().codec_arrays())


def load_model() -> SavedModel:
    return SavedModel(str(zoo.fetch(EmbedOptions.model)))


if __name__ == "__main__":
    main()
