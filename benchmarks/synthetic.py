"""Synthetic face collections of any size that are as hard to group as a real one.

    python benchmarks/synthetic.py --images FOLDER [--work runs/quality] [--space pca128|float32]
                                   [--picture synthetic.png] [--write RUN --faces N]

FOLDER and --work are those of quality.py. Fits the model to the tuning half, which takes minutes,
samples collections as large as that, and prints what decides how faces group: distances, and sizes
of people. Beside them stand those of both real halves; the held-out half, which the model has not
seen, shows how far two real collections are apart. --picture draws it (needs matplotlib). --write
makes a run directory of N synthetic faces, for `facecluster cluster --output RUN`, and
RUN-labels.npy.
"""

import argparse
import hashlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from quality import HALVES, Half, read_half, through_codec
from sklearn.cluster import KMeans

from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.photos.write import ShardWriter
from facecluster.transforms.records import Face, Photo, Quality, Shard
from facecluster.transforms.tables.codec import COMPONENTS, Codec

FACES_PER_BLOCK = 10_000  # drawn, and written as one shard, at a time; about
# What fit chooses from.
GROUPS = (1, 32, 64, 96, 128, 160, 192)  # of alike people
TAILS = (0.0, 0.2, 0.4, 0.6, 0.8)
FACE_SPREADS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
# How much people differ in how much their faces do: the standard deviation, over people of 5 faces
# and more, of the mean logarithm of a face's distance from the person's mean, less its sampling
# error. Measured on the tuning half; distances alone do not tell it from the spread of faces.
PERSON_SPREAD = 0.1
PEOPLE_PER_GROUP = 8  # at least: fewer do not tell where a group lies
FIT_SEEDS = (1, 2, 3, 4)  # each choice is judged by so many samples
SHOWN_SEEDS = (11, 12, 13, 14)  # samples to print, together: one alone may be .03 off in a tail

LARGE_PERSON = 30  # faces; larger people are not measured: one would make most of all pairs
SAME, DIFFERENT, NEAREST = "same person", "different people", "nearest other person"
QUANTILES = {
    SAME: (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99),
    DIFFERENT: (0.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
    NEAREST: (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99),
}
# What fit makes alike. The last quantile of different people rests on about ten pairs, of which
# some are one person under two names; so do the last of the same person on two under one name.
FITTED = {**QUANTILES, SAME: QUANTILES[SAME][:-1], DIFFERENT: QUANTILES[DIFFERENT][:-1]}
BINS = 10_000  # of a histogram of distances, which go from 0 to 2
SIZES = (1, 2, 3, 5, 10, 30)  # where the bins of the people-size table begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/quality"))
    parser.add_argument("--space", choices=("pca128", "float32"), default="pca128")
    parser.add_argument("--picture", type=Path, help="draw the histograms here")
    parser.add_argument("--write", type=Path, help="write a run directory of synthetic faces")
    parser.add_argument("--faces", type=int, default=10_000, help="that many")
    parser.add_argument("--seed", type=int, default=0, help="of the faces of --write")
    arguments = parser.parse_args()

    through = through_codec(arguments.space)
    collections = {}
    for name in HALVES:
        half = read_half(arguments.images, name, arguments.work)
        collections[name] = labelled(through(half.vectors), labels_of(half))
    vectors, _ = collections["tuning"]
    model = fitted(arguments.work, arguments.space, *collections["tuning"])
    print(f"{len(model.means)} groups, tail {model.tail}, spread of faces {model.face_spread}")
    samples = [together(model.sample(len(vectors), seed)) for seed in SHOWN_SEEDS]
    shown = {
        "tuning": [collections["tuning"]],
        "synthetic": samples,
        "held-out": [collections["held-out"]],
    }
    measured = {name: add([distances(*one) for one in several]) for name, several in shown.items()}
    sizes = {
        name: np.concatenate([np.bincount(labels) for _, labels in several])
        for name, several in shown.items()
    }
    print_table(measured, sizes)
    if arguments.picture:
        draw(measured, sizes, arguments.picture)
    if arguments.write:
        codec = Codec("float32") if arguments.space == "float32" else EIGHT_BIT
        write_run(model, arguments.faces, arguments.seed, arguments.write, codec)


def fitted(work: Path, space: str, vectors: np.ndarray, labels: np.ndarray) -> "FaceModel":
    """A model of these faces, which takes minutes to fit, or the one kept in the work folder."""
    path = work / f"synthetic-{space}.pickle"
    if not path.exists():
        path.write_bytes(pickle.dumps(FaceModel.fit(vectors, labels)))
    return pickle.loads(path.read_bytes())


@dataclass(frozen=True)
class FaceModel:
    """Where the faces of people lie: a mixture of groups of alike people, with heavy tails.

    A person's centre is means[group] + between @ h, where each component of h is a normal number
    times exp(tail * normal), so that people who share much of what is unusual are not too rare. A
    face is its person's centre + person's scale * face's scale * within @ g, g normal; the scales
    are exp(spread * normal), of PERSON_SPREAD and face_spread. These factors have a mean square of
    1. Then the face is normalised.

    The groups are what makes the tail of different-person distances, and each face's nearest
    stranger, come out as measured. They are learnt from the people of one collection, so beyond
    some million people the nearest strangers are an extrapolation.

    Attributes:
      sizes: (p,) int64, faces of each real person; people are as large as one of them at random.
      weights: (k,) float64, share of the people in each group.
      means: (k, d) float32.
      between, within: (d, d) float32, roots of the covariance of a group's people and of a
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
        """Fits a model to the labelled faces of a collection.

        Covariances and groups (k-means of people) are measured; the number of groups, tail and
        spread are those of a small grid with which samples of the collection's size are most like
        it: least squares of the quantiles of distances.

        Args:
          vectors: (n, d) float32, unit.
          labels: (n,) int, -1 for a face whose person is not known.

        Raises:
          ValueError: fewer than PEOPLE_PER_GROUP people, or none with 2 to LARGE_PERSON - 1 faces.
        """
        vectors, labels = labelled(vectors, labels)
        sizes = np.bincount(labels)
        several = np.sum((sizes >= 2) & (sizes < LARGE_PERSON))
        if len(sizes) < PEOPLE_PER_GROUP or not several:
            raise ValueError(
                f"{len(sizes)} people, {several} with 2 to {LARGE_PERSON - 1} faces, are too few "
                f"to fit: label {PEOPLE_PER_GROUP} people, some of them with several faces"
            )
        target = quantiles(distances(vectors, labels), FITTED)

        def error(model: FaceModel) -> float:
            samples = [together(model.sample(len(vectors), seed)) for seed in FIT_SEEDS]
            found = [quantiles(distances(*sample), FITTED) for sample in samples]
            return float(np.sum((np.mean(found, axis=0) - target) ** 2))

        most = max(len(sizes) // PEOPLE_PER_GROUP, 1)
        grouped = [cls._measured(vectors, labels, k) for k in GROUPS if k <= most]

        def with_best_spread(model: FaceModel) -> FaceModel:
            return min((replace(model, face_spread=s) for s in FACE_SPREADS), key=error)

        # Groups and tail hardly move same-person distances, nor the spread the others.
        spread = with_best_spread(grouped[-1]).face_spread
        trials = [
            replace(model, tail=tail, face_spread=spread) for model, tail in product(grouped, TAILS)
        ]
        return with_best_spread(min(trials, key=error))

    @classmethod
    def _measured(cls, vectors: np.ndarray, labels: np.ndarray, n_groups: int) -> "FaceModel":
        within = within_covariance(vectors, labels)
        one_each = vectors[np.unique(labels, return_index=True)[1]].astype(np.float64)
        groups = KMeans(n_groups, n_init=3, random_state=0).fit(one_each)
        means = groups.cluster_centers_
        apart = one_each - means[groups.labels_]  # by who it is and by which photo it is
        return cls(
            sizes=np.bincount(labels),
            weights=np.bincount(groups.labels_, minlength=n_groups) / len(one_each),
            means=means.astype(np.float32),
            between=root(apart.T @ apart / len(one_each) - within),
            within=root(within),
        )

    def sample(self, n: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A collection of n faces, in blocks of about FACES_PER_BLOCK: vectors, (m, d) float32
        unit, and labels, (m,) int64 from 0 on.

        A person's faces stand together in one block. A larger collection of the same seed begins
        with the smaller one.
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
        centres = (normal(n_people, d) * scales(n_people, d, spread=self.tail)) @ self.between.T
        centres += self.means[random.choice(len(self.means), n_people, p=self.weights)]
        vectors = normal(len(labels), d) @ self.within.T
        vectors *= scales(len(labels), 1, spread=self.face_spread)
        vectors *= scales(n_people, 1, spread=PERSON_SPREAD)[labels]
        vectors += centres[labels]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors, labels

    @property
    def identity(self) -> str:
        """SHA-256 of all that a sample depends on but the seed."""
        content = hashlib.sha256(repr((self.tail, self.face_spread)).encode())
        for array in (self.sizes, self.weights, self.means, self.between, self.within):
            content.update(array.tobytes())
        return content.hexdigest()


# How a model of COMPONENTS dimensions stores a face in 128 bytes: it has been projected already.
EIGHT_BIT = Codec("pca128", np.zeros(COMPONENTS, np.float32), np.eye(COMPONENTS, dtype=np.float32))


def write_run(model: FaceModel, n: int, seed: int, folder: Path, codec: Codec) -> None:
    """Writes a run directory as if n photos of one face each had been embedded into it.

    A photo's id is the SHA-256 of the face's number from 0; its uri is PERSON/NUMBER.jpg, so that
    `facecluster evaluate clustering --labels folder` can score the run. FOLDER-labels.npy beside
    it holds the labels in the order of the numbers. There are no thumbnails.

    Raises:
      ValueError: there is a run in the folder already.
    """
    folder = Path(folder)
    if RunDirectory(str(folder)).complete_shards():
        raise ValueError(f"{folder} holds a run already: name another folder, or delete it")
    for table in ("photos", "faces", "failures"):
        (folder / table).mkdir(parents=True, exist_ok=True)
    space = hashlib.sha256(f"{model.identity} {seed}".encode()).hexdigest()
    writer = ShardWriter(str(folder), codec, model.means.shape[1], space, space)
    everyone = []
    number = 0
    for index, (vectors, labels) in enumerate(model.sample(n, seed)):
        shard = Shard(f"{index:06d}", len(labels))
        photos = []
        for vector, label in zip(vectors, labels.tolist(), strict=True):
            photos.append(synthetic_photo(shard, number, label, vector))
            number += 1
        writer.write(shard.name, photos)
        everyone.append(labels)
    np.save(folder.with_name(f"{folder.name}-labels.npy"), np.concatenate(everyone))


def synthetic_photo(shard: Shard, number: int, label: int, vector: np.ndarray) -> Photo:
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


def within_covariance(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(d, d) float64: half the mean outer product of the differences of all same-person pairs.

    Of people below LARGE_PERSON, as these are measured. It takes the deviations from the person's
    mean, of which a face has one: a person of n has n - 1 degrees of freedom and n (n - 1) / 2
    pairs.
    """
    sizes = np.bincount(labels)
    measured = (sizes[labels] >= 2) & (sizes[labels] < LARGE_PERSON)
    sums = np.zeros((len(sizes), vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    n = sizes[labels[measured]][:, None]
    apart = vectors[measured] - sums[labels[measured]] / n
    return (apart * n).T @ apart / np.sum(n - 1)


def root(covariance: np.ndarray) -> np.ndarray:
    """R, float32, with R @ R.T = covariance; what is negative in an estimate counts as 0."""
    values, axes = np.linalg.eigh(covariance)
    return (axes * np.sqrt(np.maximum(values, 0))).astype(np.float32)


def labelled(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The faces with a label, and these without gaps."""
    known = labels >= 0
    return vectors[known], np.unique(labels[known], return_inverse=True)[1]


def labels_of(half: Half) -> np.ndarray:
    """(n,) int64: the number of the person of each face, -1 where quality.py has no label."""
    _, people = np.unique([Path(uri).parent.name for uri in half.faces_of], return_inverse=True)
    labels = np.full(len(half.vectors), -1)
    labels[list(half.faces_of.values())] = people
    return labels


def together(blocks: Iterator[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    vectors, labels = zip(*blocks, strict=True)
    return np.concatenate(vectors), np.concatenate(labels)


def distances(vectors: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Histograms, (BINS,) int64, of the distances between faces of people below LARGE_PERSON.

    SAME and DIFFERENT count pairs, each in both directions; NEAREST counts faces.
    """
    small = np.bincount(labels)[labels] < LARGE_PERSON
    vectors, labels = vectors[small], labels[small]
    found = {kind: np.zeros(BINS, np.int64) for kind in QUANTILES}
    for start in range(0, len(vectors), 1000):
        rows = slice(start, start + 1000)
        apart = np.sqrt(np.maximum(2 - 2 * (vectors[rows] @ vectors.T), 0))
        is_same = labels[rows, None] == labels
        different = apart[~is_same]
        nearest = np.where(is_same, np.float32(2), apart).min(axis=1)
        np.fill_diagonal(is_same[:, start:], False)  # a face and itself
        for kind, of in ((SAME, apart[is_same]), (DIFFERENT, different), (NEAREST, nearest)):
            bins = np.minimum(of * (BINS / 2), BINS - 1).astype(np.int64)
            found[kind] += np.bincount(bins, minlength=BINS)
    return found


def add(histograms: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {kind: sum(one[kind] for one in histograms) for kind in QUANTILES}


def quantiles(histograms: dict[str, np.ndarray], wanted: dict[str, tuple]) -> np.ndarray:
    """The wanted quantiles of each kind, one after the other."""
    edges = np.linspace(0, 2, BINS + 1)
    found = []
    for kind, shares in wanted.items():
        below = np.concatenate([[0], np.cumsum(histograms[kind])])
        found.append(np.interp(np.array(shares) * below[-1], below, edges))
    return np.concatenate(found)


def size_shares(sizes: np.ndarray) -> np.ndarray:
    """The share of the people in each bin of SIZES."""
    return np.histogram(sizes, [*SIZES, np.inf])[0] / len(sizes)


def print_table(measured: dict, sizes: dict) -> None:
    heads = "".join(f"{name:>11}" for name in measured)
    for kind, shares in QUANTILES.items():
        print(f"\n{'distance, ' + kind:32}{heads}")
        columns = [quantiles(histograms, {kind: shares}) for histograms in measured.values()]
        for share, row in zip(shares, np.transpose(columns), strict=True):
            print(f"  quantile {share:<21g}", *(f"{value:10.3f}" for value in row))
    print(f"\n{'share of people':32}{heads}")
    for label, row in zip(
        size_labels(), np.transpose([size_shares(s) for s in sizes.values()]), strict=True
    ):
        print(f"  {label + ' faces':30}", *(f"{value:10.4f}" for value in row))
    for name, values in (
        ("faces", [s.sum() for s in sizes.values()]),
        ("people", [len(s) for s in sizes.values()]),
        ("faces of the largest", [s.max() for s in sizes.values()]),
    ):
        print(f"{name:32}", *(f"{value:10,}" for value in values))


def size_labels() -> list[str]:
    ends = [end - 1 for end in SIZES[1:]]
    labels = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(SIZES, ends, strict=False)]
    return [*labels, f"{SIZES[-1]}+"]


def draw(measured: dict, sizes: dict, path: Path) -> None:
    """Real and synthetic side by side; the outline on the synthetic side is the real one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    edges = np.linspace(0, 2, 201)
    colours = {SAME: "tab:green", DIFFERENT: "tab:red"}
    titles = {"tuning": "real (tuning half)", "synthetic": "synthetic"}
    figure, axes = pyplot.subplots(3, 2, figsize=(11, 11), sharex="row", sharey="row")
    for column, (name, title) in enumerate(titles.items()):
        for row, scale in enumerate(("linear", "log")):
            panel = axes[row, column]
            for kind, colour in colours.items():
                panel.stairs(density(measured[name][kind]), edges, fill=True, alpha=0.5,
                             color=colour, label=kind)  # fmt: skip
                if name != "tuning":
                    outline = density(measured["tuning"][kind])
                    panel.stairs(outline, edges, color="black", linewidth=0.8,
                                 label="real" if kind == DIFFERENT else None)  # fmt: skip
            panel.set(yscale=scale, xlim=(0.2, 1.7), xlabel="distance")
            panel.set_title(f"{title}, {scale} scale")
        axes[1, column].set_ylim(1e-6, 10)
        axes[0, column].legend()
        panel = axes[2, column]
        shares = size_shares(sizes[name])
        panel.bar(size_labels(), shares, color="tab:blue", alpha=0.5)
        for x, share in enumerate(shares):
            panel.text(x, share, f"{share:.4f}", ha="center", va="bottom")
        panel.set(yscale="log", xlabel="faces of a person", ylim=(1e-3, 2))
        panel.set_title(f"{title}, people")
    axes[0, 0].set_ylabel("density of pairs")
    axes[1, 0].set_ylabel("density of pairs")
    axes[2, 0].set_ylabel("share of people")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def density(histogram: np.ndarray) -> np.ndarray:
    """Over 200 bins from 0 to 2, with an integral of 1."""
    return histogram.reshape(200, -1).sum(axis=1) / histogram.sum() * 100


if __name__ == "__main__":
    main()
