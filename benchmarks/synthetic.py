"""Makes synthetic face collections of any size that are as hard to group as a real one.

    python benchmarks/synthetic.py --images FOLDER [--work runs/quality] [--codec pca128|float32]
                                   [--picture synthetic.png] [--write RUN --faces N]

FOLDER and --work are those of quality.py. Fits the model to the tuning half, which takes minutes,
samples collections of the same size, and prints what decides how faces group: distances, and faces
per person, beside those of both real halves. The model has not seen the held-out half, which shows
how much two real collections differ. --picture draws the same. --write makes a run of N synthetic
faces, for `facecluster cluster --output RUN`, and RUN-labels.npy.
"""

import argparse
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path

import numpy as np
from quality import HALVES, Half, RoundTrip, load_half, make_round_trip
from sklearn.cluster import KMeans

from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.photos.write import ShardWriter
from facecluster.transforms.records import Face, Photo, Quality, Shard
from facecluster.transforms.tables.codec import COMPONENTS, Codec

FACES_PER_BLOCK = 10_000  # about; a block is sampled at a time, and written as one shard
# The grids that `FaceModel.fit` searches.
N_GROUPS = (1, 32, 64, 96, 128, 160, 192)
TAILS = (0.0, 0.2, 0.4, 0.6, 0.8)
FACE_SPREADS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
# How much people differ in the spread of their faces: the standard deviation, over people with 5
# faces and more, of the mean logarithm of a face's distance from the person's mean, without its
# sampling error. Measured on the tuning half; distances alone do not tell it from FACE_SPREADS.
PERSON_SPREAD = 0.1
MIN_PEOPLE_PER_GROUP = 8  # fewer do not determine a group's mean
FIT_SEEDS = (1, 2, 3, 4)  # each choice is judged by this many samples
PRINTED_SEEDS = (11, 12, 13, 14)  # one sample alone may be .03 off in a tail

# People with this many faces and more are not measured: one would make most of all pairs.
LARGE_PERSON = 30
SAME, DIFFERENT, NEAREST = "same person", "different people", "nearest other person"
QUANTILES = {
    SAME: (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99),
    DIFFERENT: (0.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
    NEAREST: (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99),
}
# The quantiles that are fitted. Wrong labels affect the others: some of the ten or so nearest pairs
# of different people are one person under two names, and some of the farthest pairs of one person
# are two people under one name.
FITTED = {**QUANTILES, SAME: QUANTILES[SAME][:-1], DIFFERENT: QUANTILES[DIFFERENT][:-1]}
BINS = 10_000  # of a histogram of distances, from 0 to 2
SIZE_BINS = (1, 2, 3, 5, 10, 30)  # lower edges, in faces per person

Histograms = Mapping[str, np.ndarray]  # of SAME, DIFFERENT and NEAREST, each (BINS,) int64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path, help="one folder of photos a person")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="as in quality.py")
    parser.add_argument("--codec", choices=("pca128", "float32"), default="pca128")
    parser.add_argument("--picture", type=Path, help="draw the distances here (needs matplotlib)")
    parser.add_argument("--write", type=Path, help="write a run of synthetic faces here")
    parser.add_argument("--faces", type=int, default=10_000, help="number of faces for --write")
    parser.add_argument("--seed", type=int, default=0, help="of the faces for --write")
    arguments = parser.parse_args()

    round_trip = make_round_trip(arguments.codec)
    halves = {name: load_half(arguments.images, name, arguments.work) for name in HALVES}
    model = load_or_fit_model(arguments.work, arguments.codec, halves["tuning"], round_trip)
    print(f"{len(model.means)} groups, tail {model.tail}, spread of faces {model.face_spread}")
    real = {name: labeled_faces(half, round_trip) for name, half in halves.items()}
    n_faces = len(real["tuning"][1])
    samples = [concatenate_blocks(model.sample(n_faces, seed)) for seed in PRINTED_SEEDS]
    collections = {
        "tuning": [real["tuning"]],
        "synthetic": samples,
        "held-out": [real["held-out"]],
    }
    histograms = {
        name: add_histograms([measure_distances(*collection) for collection in parts])
        for name, parts in collections.items()
    }
    sizes = {
        name: np.concatenate([np.bincount(labels) for _, labels in parts])
        for name, parts in collections.items()
    }
    print_tables(histograms, sizes)
    if arguments.picture:
        draw(histograms, sizes, arguments.picture)
    if arguments.write:
        codec = Codec("float32") if arguments.codec == "float32" else EIGHT_BIT_CODEC
        write_run(model, arguments.faces, arguments.seed, arguments.write, codec)


def load_or_fit_model(work: Path, codec: str, half: Half, round_trip: RoundTrip) -> "FaceModel":
    """The model that was fitted to a half before, or else a new one, which takes minutes."""
    path = work / f"synthetic-{codec}.npz"
    if not path.exists():
        FaceModel.fit(*labeled_faces(half, round_trip)).save(path)
    return FaceModel.load(path)


def labeled_faces(half: Half, round_trip: RoundTrip) -> tuple[np.ndarray, np.ndarray]:
    """(m, d) vectors of the labeled faces, and (m,) int64, their people numbered from 0.

    A face with several labels, as duplicates of a photo in two folders have, counts once.
    """
    people = np.full(len(half.vectors), -1)
    people[half.labeled_rows] = np.unique(half.people, return_inverse=True)[1]
    is_labeled = people >= 0
    vectors = round_trip(half.vectors)[is_labeled]
    return vectors, np.unique(people[is_labeled], return_inverse=True)[1]


@dataclass(frozen=True)
class FaceModel:
    """A model of where faces lie: a mixture of groups of similar people, with heavy tails.

    A person's center is means[group] + between @ h, where each component of h is a standard normal
    number times exp(tail * normal); the heavy tails are needed for enough pairs of people who are
    unusually similar. A face is the person's center + person scale * face scale * within @ g, with
    g standard normal and scales exp(spread * normal), of spreads PERSON_SPREAD and face_spread.
    All these factors are scaled to a mean square of 1. Then the face is normalized.

    The groups make the near tail of different-person distances, and the distance of each face's
    nearest impostor, as measured. They are fitted to the people of one collection, so for more than
    some million people the nearest impostors are an extrapolation.

    Attributes:
      sizes: (p,) int64, faces of each real person; sampled people have one of these sizes.
      weights: (k,) float64, fraction of the people in each group.
      means: (k, d) float32.
      between, within: (d, d) float32, square roots of the covariance of a group's people and of a
        person's faces.
      tail, face_spread: standard deviations of natural logarithms.
    """

    sizes: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    between: np.ndarray
    within: np.ndarray
    tail: float = 0.3
    face_spread: float = 0.2

    @classmethod
    def fit(cls, vectors: np.ndarray, labels: np.ndarray) -> "FaceModel":
        """Fits a model to the faces of a collection.

        Covariances and groups (k-means of people) are measured. The number of groups, tail and
        spread are chosen from small grids, so that the quantiles of the distances in samples of the
        collection's size are nearest to the collection's by least squares.

        Args:
          vectors: (n, d) float32 unit vectors.
          labels: (n,) int64, the person of each face, numbered from 0 without gaps.

        Raises:
          ValueError: there are fewer than MIN_PEOPLE_PER_GROUP people, or none with 2 to
            LARGE_PERSON - 1 faces.
        """
        sizes = np.bincount(labels)
        n_several = np.sum((sizes >= 2) & (sizes < LARGE_PERSON))
        if len(sizes) < MIN_PEOPLE_PER_GROUP or not n_several:
            raise ValueError(
                f"{len(sizes)} people, {n_several} with 2 to {LARGE_PERSON - 1} faces, are too few "
                f"to fit: give at least {MIN_PEOPLE_PER_GROUP} people, some with several faces"
            )
        target = compute_quantiles(measure_distances(vectors, labels), FITTED)

        def error(model: FaceModel) -> float:
            samples = [concatenate_blocks(model.sample(len(vectors), seed)) for seed in FIT_SEEDS]
            found = [compute_quantiles(measure_distances(*sample), FITTED) for sample in samples]
            return float(np.sum((np.mean(found, axis=0) - target) ** 2))

        max_groups = max(len(sizes) // MIN_PEOPLE_PER_GROUP, 1)
        models = [cls._measure(vectors, labels, k) for k in N_GROUPS if k <= max_groups]

        def with_best_spread(model: FaceModel) -> FaceModel:
            return min((replace(model, face_spread=s) for s in FACE_SPREADS), key=error)

        # Groups and tail hardly change same-person distances; the spread hardly changes the others.
        spread = with_best_spread(models[-1]).face_spread
        trials = [
            replace(model, tail=tail, face_spread=spread) for model, tail in product(models, TAILS)
        ]
        return with_best_spread(min(trials, key=error))

    @classmethod
    def _measure(cls, vectors: np.ndarray, labels: np.ndarray, n_groups: int) -> "FaceModel":
        within = compute_within_covariance(vectors, labels)
        one_each = vectors[np.unique(labels, return_index=True)[1]].astype(np.float64)
        groups = KMeans(n_groups, n_init=3, random_state=0).fit(one_each)
        means = groups.cluster_centers_
        # These deviations contain both covariances.
        deviations = one_each - means[groups.labels_]
        return cls(
            sizes=np.bincount(labels),
            weights=np.bincount(groups.labels_, minlength=n_groups) / len(one_each),
            means=means.astype(np.float32),
            between=matrix_root(deviations.T @ deviations / len(one_each) - within),
            within=matrix_root(within),
        )

    def save(self, path: Path) -> None:
        np.savez_compressed(
            path, **{field.name: getattr(self, field.name) for field in fields(self)}
        )

    @classmethod
    def load(cls, path: Path) -> "FaceModel":
        with np.load(path) as arrays:
            values = {name: arrays[name] for name in arrays.files}
        return cls(
            **{name: value if value.ndim else value.item() for name, value in values.items()}
        )

    def sample(self, n: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Samples a collection of n faces, in blocks of about FACES_PER_BLOCK.

        A person's faces are consecutive and in one block. A larger collection of the same seed
        begins with the smaller one.

        Yields:
          (vectors, labels): (m, d) float32 unit vectors, and (m,) int64 people, numbered from 0.
        """
        index = n_people = 0
        while n > 0:
            vectors, labels = self._block(np.random.default_rng([seed, index]))
            yield vectors[:n], labels[:n] + n_people
            n_people += labels[-1] + 1
            n -= len(labels)
            index += 1

    def _block(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        n_people = max(round(FACES_PER_BLOCK / self.sizes.mean()), 1)
        labels = np.repeat(np.arange(n_people), random.choice(self.sizes, n_people))

        def normal(*shape: int) -> np.ndarray:
            return random.standard_normal(shape, dtype=np.float32)

        def scales(*shape: int, spread: float) -> np.ndarray:
            return np.exp(np.float32(spread) * normal(*shape) - np.float32(spread**2))

        d = self.means.shape[1]
        centers = (normal(n_people, d) * scales(n_people, d, spread=self.tail)) @ self.between.T
        centers += self.means[random.choice(len(self.means), n_people, p=self.weights)]
        vectors = normal(len(labels), d) @ self.within.T
        vectors *= scales(len(labels), 1, spread=self.face_spread)
        vectors *= scales(n_people, 1, spread=PERSON_SPREAD)[labels]
        vectors += centers[labels]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors, labels

    @property
    def identity(self) -> str:
        """SHA-256 of all that a sample depends on, without the seed."""
        content = hashlib.sha256(repr((self.tail, self.face_spread)).encode())
        for array in (self.sizes, self.weights, self.means, self.between, self.within):
            content.update(array.tobytes())
        return content.hexdigest()


# Stores sampled faces of COMPONENTS dimensions in 128 bytes; they have been projected already.
EIGHT_BIT_CODEC = Codec(
    "pca128", np.zeros(COMPONENTS, np.float32), np.eye(COMPONENTS, dtype=np.float32)
)


def write_run(model: FaceModel, n: int, seed: int, folder: Path, codec: Codec) -> None:
    """Writes a run as if n photos with one face each had been embedded.

    A photo's id is the SHA-256 of the face's number, counted from 0. Its URI is PERSON/NUMBER.jpg,
    so that `facecluster evaluate clustering --labels folder` can score the run. FOLDER-labels.npy
    holds the labels in the order of the numbers. There are no thumbnails.

    Raises:
      ValueError: the folder holds a run already.
    """
    folder = Path(folder)
    if RunDirectory(str(folder)).complete_shards():
        raise ValueError(f"{folder} holds a run already: name another folder, or delete it")
    for table in ("photos", "faces", "failures"):
        (folder / table).mkdir(parents=True, exist_ok=True)
    space = hashlib.sha256(f"{model.identity} {seed}".encode()).hexdigest()
    writer = ShardWriter(str(folder), codec, model.means.shape[1], space, space)
    all_labels = []
    number = 0
    for index, (vectors, labels) in enumerate(model.sample(n, seed)):
        shard = Shard(f"{index:06d}", len(labels))
        photos = []
        for vector, label in zip(vectors, labels.tolist(), strict=True):
            photos.append(make_photo(shard, number, label, vector))
            number += 1
        writer.write(shard.name, photos)
        all_labels.append(labels)
    np.save(folder.with_name(f"{folder.name}-labels.npy"), np.concatenate(all_labels))


def make_photo(shard: Shard, number: int, label: int, vector: np.ndarray) -> Photo:
    face = Face(
        box=np.array([0, 0, 160, 160], np.float32),
        landmarks=np.zeros((5, 2), np.float32),
        score=1.0,
        thumbnail=b"",
        quality=Quality(160.0, 0.2, 0.5, 0.0, 0.0, 0.0),
        embedding=vector,
    )
    photo_id = hashlib.sha256(str(number).encode()).hexdigest()
    uri = f"/synthetic/{label:08d}/{number:010d}.jpg"
    return Photo(uri, shard, photo_id=photo_id, width=160, height=160, n_frames=1, faces=(face,))


def compute_within_covariance(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(d, d) float64: half the mean outer product of the differences of all same-person pairs.

    Only people with fewer than LARGE_PERSON faces count. It is computed from the deviations from
    each person's mean: a person with n faces has n - 1 degrees of freedom and n (n - 1) / 2 pairs.
    """
    sizes = np.bincount(labels)
    measured = (sizes[labels] >= 2) & (sizes[labels] < LARGE_PERSON)
    sums = np.zeros((len(sizes), vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    n = sizes[labels[measured]][:, None]
    deviations = vectors[measured] - sums[labels[measured]] / n
    return (deviations * n).T @ deviations / np.sum(n - 1)


def matrix_root(covariance: np.ndarray) -> np.ndarray:
    """R, float32, with R @ R.T = covariance; negative eigenvalues of an estimate count as 0."""
    values, axes = np.linalg.eigh(covariance)
    return (axes * np.sqrt(np.maximum(values, 0))).astype(np.float32)


def concatenate_blocks(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    vectors, labels = zip(*blocks, strict=True)
    return np.concatenate(vectors), np.concatenate(labels)


def measure_distances(vectors: np.ndarray, labels: np.ndarray) -> Histograms:
    """Histograms of the distances between faces of people with fewer than LARGE_PERSON faces.

    SAME and DIFFERENT count pairs, each in both directions; NEAREST counts faces.
    """
    measured = np.bincount(labels)[labels] < LARGE_PERSON
    vectors, labels = vectors[measured], labels[measured]
    histograms = {kind: np.zeros(BINS, np.int64) for kind in QUANTILES}
    for start in range(0, len(vectors), 1000):
        rows = slice(start, start + 1000)
        distances = np.sqrt(np.maximum(2 - 2 * (vectors[rows] @ vectors.T), 0))
        is_same = labels[rows, None] == labels
        different = distances[~is_same]
        nearest = np.where(is_same, np.float32(2), distances).min(axis=1)
        np.fill_diagonal(is_same[:, start:], False)  # a face and itself
        for kind, of in ((SAME, distances[is_same]), (DIFFERENT, different), (NEAREST, nearest)):
            bins = np.minimum(of * (BINS / 2), BINS - 1).astype(np.int64)
            histograms[kind] += np.bincount(bins, minlength=BINS)
    return histograms


def add_histograms(histograms: Sequence[Histograms]) -> Histograms:
    return {kind: np.sum([one[kind] for one in histograms], axis=0) for kind in QUANTILES}


def compute_quantiles(
    histograms: Histograms, fractions: Mapping[str, Sequence[float]]
) -> np.ndarray:
    """The quantiles of each kind of distance, concatenated."""
    edges = np.linspace(0, 2, BINS + 1)
    found = []
    for kind, of_kind in fractions.items():
        below = np.concatenate([[0], np.cumsum(histograms[kind])])
        found.append(np.interp(np.array(of_kind) * below[-1], below, edges))
    return np.concatenate(found)


def size_fractions(sizes: np.ndarray) -> np.ndarray:
    """The fraction of the people in each of SIZE_BINS."""
    return np.histogram(sizes, [*SIZE_BINS, np.inf])[0] / len(sizes)


def print_tables(histograms: Mapping[str, Histograms], sizes: Mapping[str, np.ndarray]) -> None:
    """Prints distances and faces per person, with a column for each collection."""
    header = "".join(f"{name:>11}" for name in histograms)
    for kind, fractions in QUANTILES.items():
        print(f"\n{'distance, ' + kind:32}{header}")
        columns = [compute_quantiles(of, {kind: fractions}) for of in histograms.values()]
        for fraction, row in zip(fractions, np.transpose(columns), strict=True):
            print(f"  quantile {fraction:<21g}", *(f"{value:10.3f}" for value in row))
    print(f"\n{'fraction of people, by faces':32}{header}")
    columns = [size_fractions(of) for of in sizes.values()]
    for label, row in zip(size_labels(), np.transpose(columns), strict=True):
        print(f"  {label:30}", *(f"{value:10.4f}" for value in row))
    for name, values in (
        ("faces", [s.sum() for s in sizes.values()]),
        ("people", [len(s) for s in sizes.values()]),
        ("faces of the largest person", [s.max() for s in sizes.values()]),
    ):
        print(f"{name:32}", *(f"{value:10,}" for value in values))


def size_labels() -> list[str]:
    last = [edge - 1 for edge in SIZE_BINS[1:]]
    labels = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(SIZE_BINS, last, strict=False)]
    return [*labels, f"{SIZE_BINS[-1]}+"]


def draw(histograms: Mapping[str, Histograms], sizes: Mapping[str, np.ndarray], path: Path) -> None:
    """Draws the tuning half beside the synthetic faces, with its outline over them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    edges = np.linspace(0, 2, 201)
    colors = {SAME: "tab:green", DIFFERENT: "tab:red"}
    titles = {"tuning": "real (tuning half)", "synthetic": "synthetic"}
    figure, axes = pyplot.subplots(3, 2, figsize=(11, 11), sharex="row", sharey="row")
    for column, (name, title) in enumerate(titles.items()):
        for row, scale in enumerate(("linear", "log")):
            panel = axes[row, column]
            for kind, color in colors.items():
                panel.stairs(density(histograms[name][kind]), edges, fill=True, alpha=0.5,
                             color=color, label=kind)  # fmt: skip
                if name != "tuning":
                    outline = density(histograms["tuning"][kind])
                    panel.stairs(outline, edges, color="black", linewidth=0.8,
                                 label="real" if kind == DIFFERENT else None)  # fmt: skip
            panel.set(yscale=scale, xlim=(0.2, 1.7), xlabel="distance")
            panel.set_title(f"{title}, {scale} scale")
        axes[1, column].set_ylim(1e-6, 10)
        axes[0, column].legend()
        panel = axes[2, column]
        fractions = size_fractions(sizes[name])
        panel.bar(size_labels(), fractions, color="tab:blue", alpha=0.5)
        for x, fraction in enumerate(fractions):
            panel.text(x, fraction, f"{fraction:.4f}", ha="center", va="bottom")
        panel.set(yscale="log", xlabel="faces per person", ylim=(1e-3, 2))
        panel.set_title(f"{title}, people")
    axes[0, 0].set_ylabel("density of pairs")
    axes[1, 0].set_ylabel("density of pairs")
    axes[2, 0].set_ylabel("fraction of people")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def density(histogram: np.ndarray) -> np.ndarray:
    """(200,) density over equal bins from 0 to 2, with an integral of 1."""
    return histogram.reshape(200, -1).sum(axis=1) / histogram.sum() * 100


if __name__ == "__main__":
    main()
