"""Measures which faces are found: turned, on panoramas, filling the picture, and where none is.

    python benchmarks/detection.py --images LFW [--n 200] [--n-free 300]

The first look is the search of the upright photo alone, on a copy whose longer side is at most
1,600 px. It is compared with the whole detector, which gives photos without a sure face a second
look and searches panoramas in pieces; both in this process, on the same photos of LFW's held-out
half. A face is found if its score is 0.9 or more. Prints the percentage of photos whose face is
found:

- photos turned by 90, 180 and 270 degrees, saved without loss and as JPEG; and of those found,
  whose nearest vector among the other photos is of the same person, with the same measured for the
  upright photos;
- heads of several heights on panoramas of 16,000 x 1,200 px;
- pictures that a face fills or exceeds.

Then the percentage of face-free pictures with a face that passes the filter of faces, and the time
of the whole detector as a multiple of the first look's: backgrounds are strips beside the faces of
LFW's photos, drawings are noise, gradients, hills and blots.
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw
from quality import choose_half, load_model

from facecluster.model_export.face_model import FaceModel
from facecluster.model_export.weights import zoo
from facecluster.pipeline.options import EmbedOptions
from facecluster.transforms.faces.align import align_faces
from facecluster.transforms.faces.boxes import prominence
from facecluster.transforms.faces.detections import Detections
from facecluster.transforms.faces.mtcnn import Detector
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.faces.turns import turn_back, turn_image
from facecluster.transforms.grouping.face_filter import find_left_out_reasons
from facecluster.transforms.grouping.options import FaceFilterOptions
from facecluster.transforms.records import Face, Photo, Shard

MIN_SCORE = 0.9  # of a face that counts, the limit of the face filter
PHOTOS_PER_BATCH = 32
JPEG_QUALITY = 90
PANORAMA_SIZE = 16_000, 1_200  # px
PANORAMAS, HEADS_PER_PANORAMA = 3, 20
HEAD_HEIGHTS = 60, 75, 100, 150, 200  # px of the face's box
SELFIE_SIZE = 360, 480  # px
SELFIE_SHARES = 1.0, 0.9, 0.8, 0.7, 0.6  # of the face's height that the picture shows
FREE_SIZES = 100, 250, 1600  # px, the longer side
STRIP_WIDTH, STRIPS = 60, 4  # px of LFW's photos beside the face; strips in a picture

Find = Callable[[Sequence[Image.Image]], list[Detections]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path, help="one folder of photos a person")
    parser.add_argument("--n", type=int, default=200, help="photos of faces, of two a person")
    parser.add_argument("--n-free", type=int, default=300, help="face-free pictures of each kind")
    arguments = parser.parse_args()
    detector = Detector(
        SavedModel(str(zoo.fetch(EmbedOptions.detector))),
        EmbedOptions.min_face_size, EmbedOptions.detection_size,
    )  # fmt: skip
    looks = {"first look": make_first_look(detector), "whole": in_batches(detector.detect)}
    photos, people = load_pairs(arguments.images, arguments.n)
    looks["whole"](photos[:PHOTOS_PER_BATCH])  # warm-up

    print_time("LFW, upright", looks, photos)
    upright = looks["whole"](photos)
    first = looks["first look"](photos)
    same = [
        len(a.scores) == len(b.scores) and np.array_equal(a.boxes, b.boxes)
        for a, b in zip(first, upright, strict=True)
    ]
    print(f"LFW, upright: {np.mean(same):.1%} of photos have exactly the first look's faces")
    print_turned(detector, looks, photos, upright, people)
    boxes = [
        found.boxes[prominence(found.boxes, *photo.size).argmax()]
        for photo, found in zip(photos, upright, strict=True)
    ]
    print_panoramas(looks, photos, boxes)
    for share in SELFIE_SHARES:
        selfies = [fill_with_face(*pair, share) for pair in zip(photos, boxes, strict=True)]
        print_found(f"a face of which {share:.0%} of the height is visible", looks, selfies)
    print_face_free(looks, photos, upright, arguments.n_free)


def load_pairs(images: Path, n: int) -> tuple[list[Image.Image], np.ndarray]:
    """Two photos of each of n / 2 people of the held-out half, and (n,) people."""
    people = [p for p in sorted(images.iterdir()) if choose_half(p.name) == "held-out"]
    people = [p for p in people if len(list(p.glob("*.jpg"))) >= 2]
    chosen = [people[i] for i in np.linspace(0, len(people) - 1, n // 2).astype(int)]
    paths = [path for person in chosen for path in sorted(person.glob("*.jpg"))[:2]]
    photos = [Image.open(path).convert("RGB") for path in paths]
    return photos, np.array([path.parent.name for path in paths])


def in_batches(find: Find) -> Find:
    def find_all(images: Sequence[Image.Image]) -> list[Detections]:
        starts = range(0, len(images), PHOTOS_PER_BATCH)
        return [f for start in starts for f in find(images[start : start + PHOTOS_PER_BATCH])]

    return find_all


def make_first_look(detector: Detector) -> Find:
    """The search of upright photos alone, on a copy whose longer side is at most 1,600 px."""

    def find(images: Sequence[Image.Image]) -> list[Detections]:
        reductions = [max(1.0, max(image.size) / detector.detection_size) for image in images]
        copies = [
            image if r == 1 else resize(image, r)
            for image, r in zip(images, reductions, strict=True)
        ]
        found = detector.search(copies, detector.min_face_size)
        return [faces.move(r, 0, 0) for faces, r in zip(found, reductions, strict=True)]

    return in_batches(find)


def resize(image: Image.Image, reduction: float) -> Image.Image:
    width, height = (max(1, round(side / reduction)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def is_found(found: Detections) -> bool:
    return found.best_score >= MIN_SCORE


def print_found(title: str, looks: dict[str, Find], images: Sequence[Image.Image]) -> None:
    shares = (
        f"{name} {np.mean([*map(is_found, look(images))]):.1%}" for name, look in looks.items()
    )
    print(f"{title}: found by {', '.join(shares)}", flush=True)


def print_time(title: str, looks: dict[str, Find], images: Sequence[Image.Image]) -> None:
    """Prints the CPU time of each look, the smaller of two measurements."""
    milliseconds = {}
    for _ in range(2):
        for name, look in looks.items():
            started = time.process_time()
            look(images)
            taken = 1000 * (time.process_time() - started) / len(images)
            milliseconds[name] = min(taken, milliseconds.get(name, taken))
    first, whole = milliseconds.values()
    print(f"{title}: {first:.1f} and {whole:.1f} ms a picture, {whole / first:.2f} x", flush=True)


def print_turned(detector, looks, photos, upright, people: np.ndarray) -> None:
    """Prints, for turned copies, how many are found and how many are nearest to their person."""
    model = FaceModel(load_model(), detector.model)
    vectors = embed_main_faces(model, photos, upright)
    print(f"upright photos: {count_nearest(vectors, vectors, people):.1%} nearest to their person")
    for turn in (90, 180, 270):
        turned = [turn_image(photo, turn) for photo in photos]
        for kind, copies in (("without loss", turned), ("as JPEG", [*map(save_as_jpeg, turned)])):
            first, found = (look(copies) for look in looks.values())
            right = [is_found(f) and np.all(f.turns == turn_back(turn)) for f in found]
            copied = embed_main_faces(model, copies, found)
            shares = {
                "found by first look": np.mean([*map(is_found, first)]),
                "whole": np.mean([*map(is_found, found)]),
                "upright": np.mean(right),
                "nearest to their person": count_nearest(copied, vectors, people),
            }
            figures = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
            print(f"turned by {turn}, {kind}: {figures}", flush=True)


def save_as_jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    return Image.open(file).convert("RGB")


def embed_main_faces(
    model: FaceModel, photos: Sequence[Image.Image], detections: Sequence[Detections]
) -> np.ndarray:
    """(n, d) float32: the vector of each photo's most prominent face, nan without a face."""
    vectors = np.full((len(photos), model.embedder.card().dimensions), np.nan, np.float32)
    for i, (photo, found) in enumerate(zip(photos, detections, strict=True)):
        if len(found.scores):
            row = prominence(found.boxes, *photo.size).argmax()
            vectors[i] = model.embed(photo, found.take([row]))[0]
    return vectors


def count_nearest(copies: np.ndarray, vectors: np.ndarray, people: np.ndarray) -> float:
    """The fraction of copies whose nearest vector of another photo is of their person."""
    return float(np.mean([is_nearest(i, copies[i], vectors, people) for i in range(len(copies))]))


def is_nearest(i: int, vector: np.ndarray, vectors: np.ndarray, people: np.ndarray) -> bool:
    """Whether the vector nearest to photo i's, among those of the other photos, is its person's."""
    similarities = np.nan_to_num(vectors @ vector, nan=-1)
    similarities[i] = -2
    return bool(people[similarities.argmax()] == people[i] and np.isfinite(vector).all())


def print_panoramas(looks, photos: Sequence[Image.Image], boxes: Sequence[np.ndarray]) -> None:
    for height in HEAD_HEIGHTS:
        n_found = dict.fromkeys(looks, 0)
        n_heads = min(len(photos), PANORAMAS * HEADS_PER_PANORAMA)
        for start in range(0, n_heads, HEADS_PER_PANORAMA):
            panorama = Image.new("RGB", PANORAMA_SIZE, (90, 120, 90))
            centers = []
            for k in range(HEADS_PER_PANORAMA):
                photo, box = photos[start + k], boxes[start + k]
                small = resize(photo, (box[3] - box[1]) / height)
                corner = 300 + 780 * k, (PANORAMA_SIZE[1] - small.height) // 2 + 5 * k
                panorama.paste(small, corner)
                middle = (box[:2] + box[2:]) / 2 * small.width / photo.width
                centers.append(np.add(corner, middle))
            for name, look in looks.items():
                (found,) = look([panorama])
                sure = found.boxes[found.scores >= MIN_SCORE]
                n_found[name] += sum(
                    np.any(np.all((sure[:, :2] < c) & (c < sure[:, 2:]), axis=1)) for c in centers
                )
        shares = ", ".join(f"{name} {n / n_heads:.1%}" for name, n in n_found.items())
        print(f"faces of {height} px on panoramas: found by {shares}", flush=True)


def fill_with_face(photo: Image.Image, box: np.ndarray, share: float) -> Image.Image:
    """The part of a photo that shows this share of a face's height."""
    x, y = (box[:2] + box[2:]) / 2
    half = share * (box[3] - box[1]) / 2
    width = half * SELFIE_SIZE[0] / SELFIE_SIZE[1]
    part = photo.crop((int(x - width), int(y - half), int(x + width), int(y + half)))
    return part.resize(SELFIE_SIZE, Image.Resampling.BICUBIC)


def print_face_free(looks, photos, upright: Sequence[Detections], n: int) -> None:
    random = np.random.default_rng(0)
    backgrounds = make_backgrounds(photos, upright, n, random)
    drawings = [draw_picture(random) for _ in range(n)]
    for title, pictures in (("backgrounds", backgrounds), ("drawings", drawings)):
        shares = []
        for name, look in looks.items():
            found = look(pictures)
            for kind, limits in (("score .9", None), ("filter", FaceFilterOptions())):
                false = [has_face(*pair, limits) for pair in zip(pictures, found, strict=True)]
                shares.append(f"{name}, {kind} {np.mean(false):.2%}")
        print(f"{title}: with a face by {', '.join(shares)}", flush=True)
        for side in FREE_SIZES:
            chosen = pictures if side < 1000 else pictures[:10]
            resized = [p.resize(fit(p, side), Image.Resampling.BICUBIC) for p in chosen]
            print_time(f"{title} of {side} px", looks, resized)


def fit(picture: Image.Image, side: int) -> tuple[int, int]:
    scale = side / max(picture.size)
    return round(picture.width * scale), round(picture.height * scale)


def has_face(picture: Image.Image, found: Detections, limits: FaceFilterOptions | None) -> bool:
    """Whether a face has a score of MIN_SCORE and passes the limits, if there are any."""
    if limits is None or not is_found(found):
        return is_found(found)
    faces = tuple(
        Face(found.boxes[i], found.landmarks[i], float(score), turn=int(found.turns[i]))
        for i, score in enumerate(found.scores)
    )
    photo = Photo("", Shard("", 1), image=picture, faces=faces,
                  width=picture.width, height=picture.height)  # fmt: skip
    aligned = align_faces(photo, 160, 32).faces
    rows = {
        "embedding": pa.array([[1.0]] * len(aligned), pa.list_(pa.float32(), 1)),
        "detection_score": pa.array([face.score for face in aligned], pa.float32()),
    }
    for name in ("size_px", "sharpness", "yaw"):
        values = [getattr(face.quality, name) for face in aligned]
        rows[name] = pa.array(values, pa.float32())
    return find_left_out_reasons(pa.table(rows), limits).null_count > 0


def make_backgrounds(
    photos: Sequence[Image.Image], upright: Sequence[Detections], n: int, random
) -> list[Image.Image]:
    """Pictures of strips of LFW's photos beside all faces that were found upright."""
    strips = []
    for photo, found in zip(photos, upright, strict=True):
        for left in (0, photo.width - STRIP_WIDTH):
            right = left + STRIP_WIDTH
            if np.all((found.boxes[:, 2] < left - 8) | (found.boxes[:, 0] > right + 8)):
                strips.append(photo.crop((left, 0, right, photo.height)))
    pictures = []
    for _ in range(n):
        picture = Image.new("RGB", (STRIPS * STRIP_WIDTH, photos[0].height))
        for k, i in enumerate(random.choice(len(strips), STRIPS, replace=False)):
            picture.paste(strips[i], (k * STRIP_WIDTH, 0))
        pictures.append(picture)
    return pictures


def draw_picture(random: np.random.Generator) -> Image.Image:
    """Noise, a gradient, blurred noise, hills, or ellipses and rectangles."""
    width, height = 400, 300
    kind = random.integers(5)
    if kind == 0:
        return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
    if kind == 1:
        upper, lower = random.integers(0, 256, (2, 3))
        share = np.linspace(0, 1, height)[:, None, None]
        rows = upper * (1 - share) + lower * share
        return Image.fromarray(np.broadcast_to(rows, (height, width, 3)).astype(np.uint8))
    if kind == 2:
        cells = random.integers(0, 256, (*random.integers(4, 40, 2), 3), np.uint8)
        return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
    picture = Image.new("RGB", (width, height), tuple(random.integers(120, 256, 3).tolist()))
    pen = ImageDraw.Draw(picture)
    for _ in range(random.integers(5, 60)):
        x, y, size = (
            random.integers(width),
            random.integers(height // 4, height),
            random.integers(5, 120),
        )
        color = tuple(random.integers(0, 256, 3).tolist())
        if kind == 3:
            pen.polygon([(x - size, height), (x, y), (x + size, height)], fill=color)
        elif random.integers(2):
            pen.ellipse((x - size / 2, y - size / 2, x + size / 2, y + size / 2), fill=color)
        else:
            pen.rectangle((x - size / 2, y - size / 2, x + size / 2, y + size / 3), fill=color)
    return picture


if __name__ == "__main__":
    main()
