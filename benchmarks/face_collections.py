"""Makes and loads the kinds of face collections that grouping is judged on.

    python benchmarks/face_collections.py --images LFW --collections FOLDER [--work runs/quality]

A grouping that is right for one collection may be wrong for another: libraries have few people or
many, strangers or relatives, sharp photos or tiny ones. The kinds are:

- the two halves of LFW of quality.py, with the faces in the background, which are not scored;
- the files web.npz, tight_crops.npz and tiny_crops.npz in FOLDER: vectors of the default model from
  other photos, as arrays embedding (n, 128) int8, person (-1: not scored), photo and grouped;
- degraded faces: about 1,500 labeled faces of a half, degraded in the photo and cropped again at
  the box found in the original, so that no face is lost. They are embedded once, into the work
  folder;
- mixed quality: half of the people of such a sample degraded, the others not;
- parts of a half: few people, many, one, strangers only, and a family among strangers;
- files and halves together.

Development collections are the files and those made from the tuning half; report collections are
made from the held-out half alone. The table has, of each, the faces that are grouped and scored,
people, the median and the largest number of faces of one person, the length of the mean of all unit
vectors, and over pairs of scored faces the median cosine of two people and the median distance
between two faces of one person.
"""

import argparse
import hashlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFilter
from quality import load_half

from facecluster.model_export.weights import zoo
from facecluster.pipeline.evaluation.clustering_metrics import clustering_scores
from facecluster.pipeline.options import EmbedOptions
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.faces.align import crop_face
from facecluster.transforms.faces.embed import embed_crops
from facecluster.transforms.faces.quality import LUMA_SIZE, measure_sharpness
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.grouping.face_filter import FILTER_COLUMNS, find_left_out_reasons
from facecluster.transforms.grouping.neighbors import hash_rows
from facecluster.transforms.grouping.options import FaceFilterOptions
from facecluster.transforms.photos.decode_image import decode_image
from facecluster.transforms.tables.codec import make_codec, stored_vectors, unit_rows

FILES = ("web", "tight_crops", "tiny_crops")
NOT_SCORED = -1
# Two people of two collections are one if their mean vectors have a larger cosine than this.
SAME_PERSON_COSINE = 0.65

SAMPLE_FACES = 1500  # of a half, in each degraded kind
MAX_FACES_PER_PERSON = 60  # in that sample, so that no person fills it
BATCH = 32  # crops embedded together
BLUR = 1 / 40  # Gaussian sigma by width of the face
JPEG_QUALITY = 20
DARK = 0.25  # of the pixels' values
MASK_COLOR = (170, 200, 220)  # a surgical mask
TABLE_FACES = 3000  # first scored faces that pairs are formed of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path, help="one folder of photos a person")
    parser.add_argument("--collections", required=True, type=Path, help="folder of the three files")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="as in quality.py")
    arguments = parser.parse_args()
    collections = {
        **development_collections(arguments.images, arguments.collections, arguments.work),
        **report_collections(arguments.images, arguments.work),
    }
    print("collection                  faces  scored  people  median  largest  "
          "mean  impostors  same person")  # fmt: skip
    for name, collection in collections.items():
        print(f"{name:25}", format_description(collection))


@dataclass(frozen=True, eq=False)
class Collection:
    """Faces to group, without those that the default quality filter leaves out.

    Their order is that of a hash of their bytes, which does not depend on who they show.

    Attributes:
      stored: (n, 128) int8, as the default codec stores them.
      photos: (n,) int64, the photo that each face is in.
      person: (n,) int64, who it shows; -1: not scored.
    """

    name: str
    stored: np.ndarray
    photos: np.ndarray
    person: np.ndarray

    @property
    def scored(self) -> np.ndarray:
        """(n,) bool."""
        return self.person != NOT_SCORED

    @property
    def sizes(self) -> np.ndarray:
        """The number of faces of each person, by number."""
        return np.bincount(self.person[self.scored])

    def take(self, name: str, rows: np.ndarray) -> "Collection":
        """Some of the faces, (m,) bool or int64."""
        return make_collection(name, self.stored[rows], self.photos[rows], self.person[rows])

    def score_clustering(self, labels: np.ndarray) -> dict:
        """Scores of the scored faces by (n,) labels; unassigned faces, -1, are people each."""
        return clustering_scores(self.person[self.scored], labels[self.scored])


def make_collection(
    name: str, stored: np.ndarray, photos: np.ndarray, person: np.ndarray
) -> Collection:
    """A collection of these faces, in the order of the hash of their bytes."""
    order = np.lexsort((photos, hash_rows(stored)))
    return Collection(
        name, stored[order], photos[order].astype(np.int64), person[order].astype(np.int64)
    )


def development_collections(images: Path, files: Path, work: Path) -> dict[str, Collection]:
    """The files, and what is made from the tuning half and them, by name."""
    web, tight, tiny = (load_file(files, name) for name in FILES)
    half, *others = make_half_collections(LfwHalf(images, "tuning", work))
    mixtures = [
        mix("web + tuning", web, half),
        mix("tiny_crops + web", tiny, web),
        mix("tiny_crops + tuning", tiny, half),
        mix("tight_crops + web", tight, web),
        mix("web + tight + tiny", web, tight, tiny),
        take_sixty_people("60 people x 10", mix("", web, tight, tiny, half)),
    ]
    return {c.name: c for c in (web, tight, tiny, half, *others, *mixtures)}


def report_collections(images: Path, work: Path) -> dict[str, Collection]:
    """What is made from the held-out half alone, by name."""
    collections = make_half_collections(LfwHalf(images, "held-out", work))
    return {collection.name: collection for collection in collections}


def load_file(folder: Path, name: str) -> Collection:
    """One of FILES."""
    with np.load(folder / f"{name}.npz") as file:
        grouped = file["grouped"]
        columns = (file[column][grouped] for column in ("embedding", "photo", "person"))
        return make_collection(name, *columns)


class LfwHalf:
    """The faces of one half of LFW, in the order of its tables.

    People are numbered in the order of a hash of their names: the first are a random sample.

    Attributes:
      stored: (n, 128) int8.
      photos: (n,) int64.
      person: (n,) int64; -1: not the labeled face of its photo.
      paths: the photo of each labeled face, by row.
      faces: a table of columns box, landmarks and FILTER_COLUMNS.
    """

    def __init__(self, images: Path, name: str, work: Path):
        half = load_half(images, name, work)
        self.name, self.work = name, work
        self.stored = encode(half.vectors)
        self.photos = np.unique(half.photo_ids, return_inverse=True)[1]
        names = sorted(set(half.people), key=hash_name)
        number = {person: i for i, person in enumerate(names)}
        self.person = np.full(len(self.stored), NOT_SCORED)
        self.person[half.labeled_rows] = [number[person] for person in half.people]
        self.paths = {
            row: images / Path(uri).parent.name / Path(uri).name
            for uri, row in half.row_of_photo.items()
        }
        run = RunDirectory(str(work / name))
        self.faces, _ = run.read_shards("faces", ["box", "landmarks", *FILTER_COLUMNS])

    @cached_property
    def sample(self) -> np.ndarray:
        """(m,) int64, the rows that are degraded: faces of the first people."""
        rows = np.flatnonzero(self.person != NOT_SCORED)
        rows = rows[np.lexsort((hash_rows(self.stored[rows]), self.person[rows]))]
        rows = rows[rank_in_group(self.person[rows]) < MAX_FACES_PER_PERSON]
        return rows[:SAMPLE_FACES]

    def collect(self, name: str, rows: np.ndarray) -> Collection:
        """The faces in these rows that pass the filter."""
        rows = rows[passes_filter(self.faces.take(rows))]
        return make_collection(name, self.stored[rows], self.photos[rows], self.person[rows])

    def collect_degraded(self, name: str, kind: str) -> Collection:
        """The sample with a degradation, without faces that no longer pass the filter.

        They are embedded unless an earlier call with this work folder did.
        """
        path = self.work / "degraded" / f"{self.name}-{kind}.npz"
        if not path.exists():
            print(f"embedding {name}", file=sys.stderr)
            path.parent.mkdir(exist_ok=True)
            np.savez(path, **self.degrade(kind))
        with np.load(path) as file:
            columns = dict(file)
        rows = columns["row"]
        faces = self.faces.take(rows)
        for column in ("size_px", "sharpness"):
            place = faces.column_names.index(column)
            faces = faces.set_column(place, column, pa.array(columns[column]))
        kept = passes_filter(faces)
        rows = rows[kept]
        return make_collection(
            name, columns["embedding"][kept], self.photos[rows], self.person[rows]
        )

    def degrade(self, kind: str) -> dict[str, np.ndarray]:
        """Degrades and embeds the sample: row, embedding, size_px and sharpness of each face."""
        model = SavedModel(str(zoo.fetch(EmbedOptions.model)))
        card = model.card()
        margin = 0 if kind == "tight" else card.margin
        boxes = np.stack(self.faces["box"].to_numpy())
        landmarks = np.stack(self.faces["landmarks"].to_numpy()).reshape(-1, 5, 2)
        vectors, sizes, sharpness = [], [], []
        for start in range(0, len(self.sample), BATCH):
            crops = []
            for row in self.sample[start : start + BATCH]:
                photo = decode_image(self.paths[row].read_bytes()).image
                degraded = DEGRADATIONS[kind](photo, boxes[row], landmarks[row])
                box = boxes[row] * np.tile(np.divide(degraded.size, photo.size), 2)
                crops.append(np.asarray(crop_face(degraded, box, card.input_size, margin)))
                luma = np.asarray(crop_face(degraded, box, LUMA_SIZE, 0).convert("L"))
                sizes.append(face_size(box))
                sharpness.append(measure_sharpness(luma))
            vectors.append(embed_crops(model, crops))
        return {
            "row": self.sample,
            "embedding": encode(np.concatenate(vectors)),
            "size_px": np.array(sizes, np.float32),
            "sharpness": np.array(sharpness, np.float32),
        }


def encode(vectors: np.ndarray) -> np.ndarray:
    """(n, d) float32 vectors of the default model as its codec stores them, (n, 128) int8."""
    model = SavedModel(str(zoo.fetch(EmbedOptions.model)))
    return stored_vectors(make_codec("pca128", model.codec_arrays()).encode(vectors))


def passes_filter(faces: pa.Table) -> np.ndarray:
    """(n,) bool, the faces that the default filter keeps, by columns FILTER_COLUMNS."""
    reasons = find_left_out_reasons(faces, FaceFilterOptions())
    return reasons.is_null().to_numpy(zero_copy_only=False)


def hash_name(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def face_size(box: np.ndarray) -> float:
    """The geometric mean of the sides of x0 y0 x1 y1, px."""
    return float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))


def reduce_photo(
    photo: Image.Image, box: np.ndarray, landmarks: np.ndarray, px: int
) -> Image.Image:
    """The photo at the resolution at which the face has this size."""
    scale = min(px / face_size(box), 1)
    return photo.resize((round(photo.width * scale), round(photo.height * scale)))


def blur_photo(photo: Image.Image, box: np.ndarray, landmarks: np.ndarray) -> Image.Image:
    return photo.filter(ImageFilter.GaussianBlur(BLUR * float(box[2] - box[0])))


def compress_photo(photo: Image.Image, box: np.ndarray, landmarks: np.ndarray) -> Image.Image:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=JPEG_QUALITY)
    return Image.open(file).convert("RGB")


def mask_face(photo: Image.Image, box: np.ndarray, landmarks: np.ndarray) -> Image.Image:
    """Draws a rectangle over nose and mouth: from between eyes and nose down to the chin."""
    eyes, nose = landmarks[:2, 1].mean(), landmarks[2, 1]
    masked = photo.copy()
    top = (eyes + nose) / 2
    ImageDraw.Draw(masked).rectangle((box[0], top, box[2], max(box[3], top)), MASK_COLOR)
    return masked


# How a photo is degraded, given the box and landmarks of the face in it. The crop's box is that of
# the original photo, scaled with it.
DEGRADATIONS: dict[str, Callable[[Image.Image, np.ndarray, np.ndarray], Image.Image]] = {
    "tight": lambda photo, box, landmarks: photo,  # cropped without margin
    "64px": partial(reduce_photo, px=64),
    "32px": partial(reduce_photo, px=32),
    "blurred": blur_photo,
    "jpeg": compress_photo,
    "gray": lambda photo, box, landmarks: photo.convert("L").convert("RGB"),
    "dark": lambda photo, box, landmarks: photo.point(lambda value: value * DARK),
    "masked": mask_face,
}


def make_half_collections(half: LfwHalf) -> list[Collection]:
    """A half, its parts, its degraded kinds and those of mixed quality."""
    whole = half.collect(half.name, np.arange(len(half.stored)))
    original = half.collect(f"{half.name} sample", half.sample)
    degraded, mixed = [], []
    for kind in DEGRADATIONS:
        degraded.append(half.collect_degraded(f"{half.name} {kind}", kind))
        mixed.append(mix_quality(f"{half.name} half {kind}", original, degraded[-1]))
    return [whole, *take_parts(whole), original, *degraded, *mixed]


def take_parts(whole: Collection) -> list[Collection]:
    """Some people of a collection, by their scored faces: few, many, one, strangers, a family."""
    sizes = whole.sizes
    largest = np.argsort(-sizes, kind="stable")[:10]
    others = np.setdiff1d(np.flatnonzero(sizes), largest)[:1000]
    family = np.concatenate([find_faces(whole, largest), find_faces(whole, others, 1)])
    parts = {
        "10 people": find_faces(whole, largest),
        "40 people x 10": find_faces(whole, np.flatnonzero(sizes >= 10)[:40], 10),
        "200 people": find_faces(whole, np.flatnonzero(sizes >= 2)[:200]),
        "one person": find_faces(whole, largest[:1]),
        "strangers": find_faces(whole, np.flatnonzero(sizes)[:1000], 1),
        "family": family,
    }
    return [whole.take(f"{whole.name} {name}", rows) for name, rows in parts.items()]


def find_faces(
    collection: Collection, people: np.ndarray, max_faces: int | None = None
) -> np.ndarray:
    """(m,) int64, the rows of these people; of each, the first if there are more than max_faces."""
    rows = np.flatnonzero(np.isin(collection.person, people))
    if max_faces is None:
        return rows
    return rows[rank_in_group(collection.person[rows]) < max_faces]


def rank_in_group(groups: np.ndarray) -> np.ndarray:
    """(n,) int64: how many earlier elements are in the same group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
    return ranks


def take_sixty_people(name: str, mixture: Collection) -> Collection:
    """The first sixty people with at least ten faces, ten of each.

    Of web, tight_crops, tiny_crops and LFW, in this order, they are all such people of the three
    files, of whom there are fewer than sixty, and some of LFW.
    """
    people = np.flatnonzero(mixture.sizes >= 10)[:60]
    return mixture.take(name, find_faces(mixture, people, 10))


def mix_quality(name: str, original: Collection, degraded: Collection) -> Collection:
    """People of even number degraded, the others not; both have the same numbers."""
    sharp, poor = original.person % 2 == 1, degraded.person % 2 == 0
    return make_collection(
        name,
        np.concatenate([original.stored[sharp], degraded.stored[poor]]),
        np.concatenate([original.photos[sharp], degraded.photos[poor]]),
        np.concatenate([original.person[sharp], degraded.person[poor]]),
    )


def mix(name: str, *collections: Collection) -> Collection:
    """All faces of several collections; whoever is in two of them is one person."""
    return replace(reduce(mix_two, collections), name=name)


def mix_two(first: Collection, second: Collection) -> Collection:
    return make_collection(
        "",
        np.concatenate([first.stored, second.stored]),
        np.concatenate([first.photos, second.photos + first.photos.max() + 1]),
        np.concatenate([first.person, unify_people(first, second)]),
    )


def unify_people(first: Collection, second: Collection) -> np.ndarray:
    """The people of the second collection by the first's numbers: (n,) int64.

    Two people are one if each is the other's nearest, by their mean vectors, and the cosine is
    above SAME_PERSON_COSINE. All others get new numbers, in their order.
    """
    cosines = mean_vectors(first) @ mean_vectors(second).T
    nearest = cosines.argmax(axis=0)
    people = np.arange(cosines.shape[1])
    is_same = cosines[nearest, people] > SAME_PERSON_COSINE
    is_same &= cosines.argmax(axis=1)[nearest] == people
    number = np.where(is_same, nearest, len(cosines) + np.cumsum(~is_same) - 1)
    return np.where(second.scored, number[second.person], NOT_SCORED)


def mean_vectors(collection: Collection) -> np.ndarray:
    """(people, 128) float32 unit vectors: each person's mean direction; zero for no faces."""
    means = np.zeros((len(collection.sizes), collection.stored.shape[1]), np.float32)
    scored = collection.scored
    np.add.at(means, collection.person[scored], unit_rows(collection.stored[scored]))
    return unit_rows(means)


def format_description(collection: Collection) -> str:
    """A row of the table, see the module's docstring."""
    sizes = collection.sizes
    sizes = sizes[sizes > 0]
    length = np.linalg.norm(unit_rows(collection.stored).mean(axis=0))
    rows = np.flatnonzero(collection.scored)[:TABLE_FACES]
    vectors, person = unit_rows(collection.stored[rows]), collection.person[rows]
    first, second = np.triu_indices(len(rows), 1)
    cosines = (vectors @ vectors.T)[first, second]
    is_same = person[first] == person[second]
    return (
        f"{len(collection.stored):7,} {sizes.sum():7,} {len(sizes):7,} {np.median(sizes):7.0f} "
        f"{sizes.max():8,} {length:5.2f} {format_median(cosines[~is_same]):>10} "
        f"{format_median(np.sqrt(np.maximum(2 - 2 * cosines[is_same], 0))):>12}"
    )


def format_median(values: np.ndarray) -> str:
    return f"{round(float(np.median(values)), 2) + 0.0:.2f}" if len(values) else "-"  # no -0.00


if __name__ == "__main__":
    main()
