"""Decoding of 12-megapixel JPEGs: alone, apart from the worker, and as a part of the whole road.

    python benchmarks/decoding.py [--photos ../shared/photos] [--n 8]

The photos are put together of those in the folder; of noise and gradients where it is not there.
Prints milliseconds of each step, and photos/s of decode, detect, align and embed in this process:
as the job does it, with --jpeg-size 1600, which halves their sides, and beside plain loops of
Pillow and the mtcnn package's detector, on the full photo and on the reduced copy that ours
searches. Each has all cores.
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from facecluster.model_export.weights import zoo
from facecluster.pipeline.options import EmbedOptions
from facecluster.transforms.faces.align import crop_face
from facecluster.transforms.faces.detect import PHOTOS_PER_BATCH, Detector
from facecluster.transforms.faces.embed import embed_crops
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.photos.decode_image import decode_image
from facecluster.transforms.photos.decoder_process import DecoderProcess

SIZE = 4000, 3000  # px
INPUT_SIZE, MARGIN = 160, 32  # px, of the default model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=Path("../shared/photos"))
    parser.add_argument("--n", type=int, default=8)
    arguments = parser.parse_args()
    photos = made_photos(arguments.photos, arguments.n)
    decoder = DecoderProcess(EmbedOptions().limits())
    scaled = DecoderProcess(EmbedOptions(jpeg_size=EmbedOptions.detection_size).limits())
    decoder.start()
    scaled.start()
    ways = {
        "decode": decode_image,
        "decode, apart": decoder.decode,
        "decode, apart, --jpeg-size": scaled.decode,
        "decode by Pillow": plainly_decoded,
    }
    for name, way in ways.items():
        rate = photos_a_second(lambda way=way: [way(content) for content in photos], len(photos))
        print(f"{name:34} {rate:6.2f} photos/s {1000 / rate:7.0f} ms")

    detector = Detector(
        SavedModel(str(zoo.fetch(EmbedOptions.detector))),
        EmbedOptions.min_face_size, EmbedOptions.detection_size,
    )  # fmt: skip
    embedder = SavedModel(str(zoo.fetch(EmbedOptions.model)))
    embed_crops(embedder, [np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)])
    image = decode_image(photos[0]).image
    seen = tuple(round(side * EmbedOptions.detection_size / max(SIZE)) for side in SIZE)
    steps = {
        "reduce to the detector's size": lambda: image.resize(seen, Image.Resampling.BOX),
        "reduce and detect": lambda: detector.detect([image]),
    }
    for name, step in steps.items():
        print(f"{name:34} {1000 / photos_a_second(step, 1):25.0f} ms")

    def ours(decode: Callable[[bytes], Image.Image]) -> int:
        n_faces = 0
        for start in range(0, len(photos), PHOTOS_PER_BATCH):
            images = [decode(content) for content in photos[start : start + PHOTOS_PER_BATCH]]
            found = [found.boxes for found in detector.detect(images)]
            n_faces += embed_faces(embedder, images, found)
        return n_faces

    roads = {
        "facecluster": lambda: ours(lambda content: decoder.decode(content).image),
        "facecluster, --jpeg-size": lambda: ours(lambda content: scaled.decode(content).image),
        "Pillow and mtcnn": plain_loop(embedder, photos, None),
        "Pillow and mtcnn, reduced copy": plain_loop(embedder, photos, seen),
    }
    rates = {name: measured(road, len(photos)) for name, road in roads.items()}
    for name, (rate, n_faces) in rates.items():
        ratio = rates["facecluster"][0] / rate
        print(f"{name:34} {rate:6.2f} photos/s {n_faces:5} faces; ours is {ratio:.2f} times that")
    decoder.close()
    scaled.close()


def made_photos(folder: Path, n: int) -> list[bytes]:
    """n JPEGs of SIZE, of four photos each, with a camera's noise and quality."""
    rng = np.random.default_rng(0)
    sources = sorted(folder.glob("*.jp*g")) if folder.exists() else []
    photos = []
    for i in range(n):
        image = Image.new("RGB", SIZE)
        for corner in range(4):
            half = SIZE[0] // 2, SIZE[1] // 2
            if sources:
                with Image.open(sources[(4 * i + corner) % len(sources)]) as source:
                    part = source.convert("RGB").resize(half, Image.Resampling.BICUBIC)
            else:
                part = Image.linear_gradient("L").rotate(90 * corner).resize(half).convert("RGB")
            image.paste(part, (half[0] * (corner % 2), half[1] * (corner // 2)))
        noisy = np.asarray(image) + rng.normal(0, 4, (SIZE[1], SIZE[0], 1))
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        photos.append(file.getvalue())
    return photos


def plainly_decoded(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def plain_loop(
    embedder: SavedModel, photos: Sequence[bytes], seen: tuple[int, int] | None
) -> Callable[[], int]:
    """What one writes first: a photo at a time, the detector as it comes, the same embedder.

    Args:
      seen: width and height of the copy that the detector searches; None for the photo itself.
    """
    from mtcnn import MTCNN

    detector = MTCNN()
    detector.detect_faces(np.zeros((200, 200, 3), np.uint8))  # the first time does not count

    def loop() -> int:
        n_faces = 0
        for content in photos:
            image = Image.open(io.BytesIO(content)).convert("RGB")
            searched = image.resize(seen, Image.Resampling.BOX) if seen else image
            faces = detector.detect_faces(np.asarray(searched), box_format="xyxy")
            boxes = [np.array(face["box"]) * (image.width / searched.width) for face in faces]
            n_faces += embed_faces(embedder, [image], [boxes])
        return n_faces

    return loop


def embed_faces(embedder: SavedModel, images: Sequence[Image.Image], found: Sequence) -> int:
    """Embeds the faces that were found in each image; returns how many they are."""
    crops = []
    for image, boxes in zip(images, found, strict=True):
        for box in boxes:
            box = np.clip(np.asarray(box, float), 0, [*image.size, *image.size])
            if min(box[2:] - box[:2]) > 1:
                crops.append(np.asarray(crop_face(image, box, INPUT_SIZE, MARGIN)))
    if crops:
        embed_crops(embedder, crops)
    return len(crops)


def measured(road: Callable[[], int], n_photos: int) -> tuple[float, int]:
    """Photos/s and faces of one time."""
    started = time.perf_counter()
    n_faces = road()
    return n_photos / (time.perf_counter() - started), n_faces


def photos_a_second(work: Callable, n: int) -> float:
    """After a first time that does not count."""
    work()
    started = time.perf_counter()
    work()
    return n / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
