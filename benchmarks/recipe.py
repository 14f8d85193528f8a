"""Measures the recipe of grouping: its parts, its one knob, its probabilities, and other spaces.

    python benchmarks/recipe.py --images LFW --collections FOLDER [--work runs/quality]
        [--parts ablation knob reliability spaces] [--pictures docs]

The options are those of face_collections.py. All faces are taken for photos of their own.

ablation     scores of the development collections, with each part of the recipe taken away
knob         BCubed precision and recall over --wrong-share, for each development collection
reliability  how often faces with a given probability are right, in development and report
             collections
spaces       scores in other embedding spaces: the network's own 512 floats, a linear head of 128
             dimensions trained on half of the tuning half's people, and a random projection to 48
             dimensions; each with a cohort fitted to the other half of them, and without one

--pictures draws the knob and the reliability (needs matplotlib).
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

import numpy as np
from face_collections import Collection, development_collections, report_collections
from quality import load_half

from facecluster.model_export.validation.cohort import fit_cohort
from facecluster.model_export.weights import zoo
from facecluster.pipeline.evaluation.clustering_metrics import bcubed, clustering_scores
from facecluster.pipeline.options import EmbedOptions
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.grouping import edges, group_faces, merge_groups
from facecluster.transforms.grouping.hdbscan_labels import Labels
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.similarity import normalization
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.tables.codec import unit_rows

PARTS = ("ablation", "knob", "reliability", "spaces")
# Printed and drawn; the others count in the means.
SHOWN = ("web", "tight_crops", "tiny_crops", "tuning", "web + tuning", "tiny_crops + web",
         "60 people x 10", "tuning 200 people", "tuning masked")  # fmt: skip
WRONG_SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
PROBABILITY_BINS = np.linspace(0, 1, 11)
LEAST_FACES = 20  # with others, for the reliability of a collection
PROJECTION = 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path, help="one folder of photos a person")
    parser.add_argument("--collections", required=True, type=Path, help="folder of the three files")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="as in quality.py")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pictures", type=Path, help="draw pictures into this folder")
    arguments = parser.parse_args()
    development = development_collections(arguments.images, arguments.collections, arguments.work)
    cohort = SavedModel(str(zoo.fetch(EmbedOptions.model))).cohort("pca128")
    if "ablation" in arguments.parts:
        measure_ablation(development, cohort)
    if "knob" in arguments.parts:
        measure_knob(development, cohort, arguments.pictures)
    if "reliability" in arguments.parts:
        report = report_collections(arguments.images, arguments.work)
        measure_reliability(development, report, cohort, arguments.pictures)
    if "spaces" in arguments.parts:
        measure_spaces(arguments)


def group(collection: Collection, cohort: Cohort | None, **options) -> Labels:
    grouping = group_faces.group_faces(
        collection.stored,
        np.arange(len(collection.stored)),
        ClusterOptions(**options),
        cohort,
    )
    return grouping.labels


# ---- ablation ----


@contextlib.contextmanager
def patched(module, **constants) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, value in constants.items():
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def without_centering():
    """No mean is subtracted from the vectors."""
    return patched(normalization, _means_around=lambda vectors, *_: np.zeros_like(vectors))


def with_one_mean():
    """The mean of the whole collection is subtracted, instead of the mean around each face."""
    return patched(normalization, CONCENTRATION=0.0)


def without_shared_neighbors():
    """Similarity alone makes distances, with the weight of both."""
    return patched(edges, SHARED_WEIGHT=0.0, SIMILARITY_WEIGHT=0.91)


def without_penalty():
    """Two faces are linked as easily as many."""
    return patched(edges, PENALTY=0.0)


def without_attaching():
    """Single faces and small groups stay alone."""
    return patched(merge_groups, LARGE_SIZE=np.inf)


def without_priors():
    """Attaching does not depend on how often it is right in the collection."""
    return patched(merge_groups, LEAST_PROBABILITY=0.0)


def without_merging():
    """Groups of several faces are not merged."""
    return patched(merge_groups, EXPECTED_FALSE_MERGES=1e-300)


ABLATIONS: Mapping[str, Callable] = {
    "everything": contextlib.nullcontext,
    "no centering": without_centering,
    "one mean for all": with_one_mean,
    "no cohort": contextlib.nullcontext,
    "no shared neighbors": without_shared_neighbors,
    "no penalty": without_penalty,
    "no attaching": without_attaching,
    "attaching without priors": without_priors,
    "no merging of groups": without_merging,
}


def measure_ablation(development: Mapping[str, Collection], cohort: Cohort | None) -> None:
    print(f"\n{'BCubed F pairwise F':26}", *(f"{name:>17}" for name in SHOWN), "        all")
    for name, taken_away in ABLATIONS.items():
        scores = {}
        for kind, collection in development.items():
            with taken_away():
                labels = group(collection, None if name == "no cohort" else cohort).labels
            scores[kind] = collection.score_clustering(labels)
        print_scores(name, scores)


def print_scores(title: str, scores: Mapping[str, dict]) -> None:
    pairs = {kind: (one["bcubed_f"], one["pairwise_f"]) for kind, one in scores.items()}
    # Pairwise F is not defined where nobody has two photos.
    mean = np.mean([pair for kind, pair in pairs.items() if "strangers" not in kind], axis=0)
    shown = [pairs[kind] for kind in SHOWN if kind in pairs]
    cells = " ".join(f"{a:11.3f} {b:.3f}" for a, b in shown)
    print(f"{title:26} {cells} {mean[0]:9.4f} {mean[1]:.4f}", flush=True)


# ---- the knob ----


def measure_knob(
    development: Mapping[str, Collection], cohort: Cohort | None, pictures: Path | None
) -> None:
    print("\nwrong share  BCubed precision, recall, F: mean  wrong, of the grouped: mean  median")
    curves: dict[str, list] = {name: [] for name in SHOWN}
    for share in WRONG_SHARES:
        scores, wrong = [], []
        for name, collection in development.items():
            labels = group(collection, cohort, wrong_share=share).labels
            score = bcubed(collection.person[collection.scored], labels[collection.scored])
            scores.append(score)
            grouped = np.mean(labels[collection.scored] >= 0)
            wrong.append((1 - score[0]) / max(grouped, 1e-9))
            if name in curves:
                curves[name].append(score[:2])
        precision, recall, f = np.mean(scores, axis=0)
        print(
            f"{share:11.3f} {precision:20.4f} {recall:.4f} {f:.4f} "
            f"{np.mean(wrong):37.4f} {np.median(wrong):7.4f}",
            flush=True,
        )
    if pictures:
        draw_knob(curves, pictures / "knob.png")


def draw_knob(curves: Mapping[str, list], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 5))
    default = WRONG_SHARES.index(ClusterOptions.wrong_share)
    for name, points in curves.items():
        precision, recall = np.array(points).T
        (line,) = axes.plot(recall, precision, marker=".", label=name)
        axes.plot(recall[default], precision[default], "o", markersize=9, color=line.get_color())
    axes.set(xlabel="BCubed recall", ylabel="BCubed precision",
             title="--wrong-share from 0.002 (left) to 0.4; circles: the default")  # fmt: skip
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


# ---- reliability of probabilities ----


def measure_reliability(
    development: Mapping[str, Collection],
    report: Mapping[str, Collection],
    cohort: Cohort | None,
    pictures: Path | None,
) -> None:
    curves = {}
    for title, collections in (("development", development), ("report", report)):
        found = [right_by_probability(one, cohort) for one in collections.values()]
        # Each collection counts the same, whatever its size. A wrong pair among strangers should
        # not count as much as a thousand faces.
        found = [pair for pair in found if len(pair[0]) >= LEAST_FACES]
        probability, right = (np.concatenate(part) for part in zip(*found, strict=True))
        weight = np.concatenate([np.full(len(pair[0]), 1 / len(pair[0])) for pair in found])
        bins = np.digitize(probability, PROBABILITY_BINS[1:-1])
        print(f"\n{title} collections: probability  faces  mean probability  right")
        points, error = [], 0.0
        for number in np.unique(bins):
            rows = bins == number
            mean = np.average(probability[rows], weights=weight[rows])
            actual = np.average(right[rows], weights=weight[rows])
            error += weight[rows].sum() / weight.sum() * abs(mean - actual)
            points.append((mean, actual))
            print(
                f"{PROBABILITY_BINS[number]:30.1f} {np.count_nonzero(rows):8,} "
                f"{mean:13.3f} {actual:11.3f}"
            )
        print(f"expected calibration error {error:.4f}", flush=True)
        curves[title] = points
    if pictures:
        draw_reliability(curves, pictures / "reliability.png")


def right_by_probability(
    collection: Collection, cohort: Cohort | None
) -> tuple[np.ndarray, np.ndarray]:
    """Of each scored face in a group with others: its probability, and how many of these others
    show the same person, as a fraction."""
    labels = group(collection, cohort)
    rows = np.flatnonzero(collection.scored & (labels.labels >= 0))
    of_label, of_both = labels.labels[rows], collection.person[rows]
    _, both, n_both = np.unique(
        np.stack([of_label, of_both]), axis=1, return_inverse=True, return_counts=True
    )
    n_label = np.bincount(of_label)[of_label]
    has_others = n_label > 1
    right = (n_both[both.ravel()] - 1)[has_others] / (n_label[has_others] - 1)
    return labels.probabilities[rows][has_others], right


def draw_reliability(curves: Mapping[str, list], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 5))
    axes.plot([0, 1], [0, 1], color="gray", linewidth=1)
    for name, points in curves.items():
        axes.plot(*np.array(points).T, marker="o", label=f"{name} collections")
    axes.set(xlabel="mean probability", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


# ---- other embedding spaces ----


def measure_spaces(arguments: argparse.Namespace) -> None:
    halves = {name: load_half(arguments.images, name, arguments.work)
              for name in ("tuning", "held-out")}  # fmt: skip
    tuning = halves["tuning"]
    vectors, people = tuning.vectors[tuning.labeled_rows], tuning.people
    # A cohort must be of people whom the model was not trained on: the people are divided.
    trains = np.unique(people, return_inverse=True)[1] % 2 == 0
    spaces: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "512 floats": lambda vectors: vectors,
        "trained head, 128": fit_head(vectors[trains], people[trains]),
        "random, 48": project_at_random,
    }
    print("\nspace              same person  cohort  tuning half: BCubed F, pairwise F   held-out")
    for name, transform in spaces.items():
        cohort = fit_cohort(transform(vectors[~trains]), people[~trains])
        for used in (cohort, None):
            cells = []
            for half in halves.values():
                embedded = transform(half.vectors)
                order = np.argsort(half.photo_ids, kind="stable")
                grouping = group_faces.group_faces(
                    embedded[order], np.arange(len(order)), ClusterOptions(), used
                )
                labels = np.empty(len(order), np.int64)
                labels[order] = grouping.labels.labels
                scores = clustering_scores(half.people, labels[half.labeled_rows])
                cells.append(f"{scores['bcubed_f']:.4f} {scores['pairwise_f']:.4f}")
            print(
                f"{name:18} {cohort.same_person:11.3f}  {'yes' if used else 'no ':6}  "
                f"{cells[0]:>33} {cells[1]:>14}",
                flush=True,
            )


def fit_head(vectors: np.ndarray, people: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A linear head of 128 dimensions, fitted by discriminant analysis to people of two photos."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    head = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.5, n_components=128)
    _, of_face, n_photos = np.unique(people, return_inverse=True, return_counts=True)
    several = n_photos[of_face] > 1
    head.fit(vectors[several], people[several])
    return lambda faces: unit_rows(head.transform(faces))


def project_at_random(vectors: np.ndarray) -> np.ndarray:
    """A random projection to PROJECTION dimensions, the same in each call."""
    axes = np.random.default_rng(0).normal(size=(vectors.shape[1], PROJECTION))
    return unit_rows(vectors @ axes)


if __name__ == "__main__":
    main()
