"""Measures the decoding of 12-megapixel JPEGs, by itself and as a part of embedding their faces.

    python benchmarks/decoding.py [--photos ../shared/photos] [--n 8]

Each large photo is a mosaic of four photos in the folder, or of gradients if there is no such
folder. First, prints the milliseconds of each step. Then prints photos/s of decoding, detecting,
aligning and embedding in this process, with all cores: as the embed job does it, the same with
--jpeg-size 1600, which halves the photos' sides, and a plain loop of Pillow and the mtcnn package's
detector, which searches the full photo, or a copy of the size that facecluster searches.
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
from facecluster.transforms.faces.detect import PHOTOS_PER_BATCH
from facecluster.transforms.faces.embed import embed_crops
from facecluster.transforms.faces.mtcnn import Detector
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.photos.decode_image import decode_image
from facecluster.transforms.photos.decoder_process import DecoderProcess

SIZE = 4000, 3000  # px
NOISE_STD = 4  # gray levels, as a camera's
INPUT_SIZE, MARGIN = 160, 32  # px, of the default model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--photos", type=Path, default=Path("../shared/photos"), help="a folder of JPEG files"
    )
    parser.add_argument("--n", type=int, default=8, help="number of large photos")
    arguments = parser.parse_args()
    photos = make_photos(arguments.photos, arguments.n)
    decoder = DecoderProcess(EmbedOptions().limits())
    reducing_decoder = DecoderProcess(EmbedOptions(jpeg_size=EmbedOptions.detection_size).limits())
    decoder.start()
    reducing_decoder.start()
    decoders = {
        "decode in this process": decode_image,
        "decode": decoder.decode,
        "decode, --jpeg-size": reducing_decoder.decode,
        "decode with Pillow": decode_with_pillow,
    }
    for name, decode in decoders.items():
        seconds = time_second_call(lambda decode=decode: [decode(content) for content in photos])
        rate = len(photos) / seconds
        print(f"{name:34} {rate:6.2f} photos/s {1000 / rate:7.0f} ms")

    detector = Detector(
        SavedModel(str(zoo.fetch(EmbedOptions.detector))),
        EmbedOptions.min_face_size, EmbedOptions.detection_size,
    )  # fmt: skip
    embedder = SavedModel(str(zoo.fetch(EmbedOptions.model)))
    embed_crops(embedder, [np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)])  # warm-up
    image = decode_image(photos[0]).image
    scale = EmbedOptions.detection_size / max(SIZE)
    searched_size = round(SIZE[0] * scale), round(SIZE[1] * scale)
    steps = {
        "reduce to the searched size": lambda: image.resize(searched_size, Image.Resampling.BOX),
        "reduce and detect": lambda: detector.detect([image]),
    }
    for name, step in steps.items():
        print(f"{name:34} {1000 * time_second_call(step):25.0f} ms")

    def run_facecluster(decode: Callable[[bytes], Image.Image]) -> int:
        n_faces = 0
        for start in range(0, len(photos), PHOTOS_PER_BATCH):
            images = [decode(content) for content in photos[start : start + PHOTOS_PER_BATCH]]
            boxes = [found.boxes for found in detector.detect(images)]
            n_faces += embed_faces(embedder, images, boxes)
        return n_faces

    pipelines = {
        "facecluster": lambda: run_facecluster(lambda content: decoder.decode(content).image),
        "facecluster, --jpeg-size": lambda: run_facecluster(
            lambda content: reducing_decoder.decode(content).image
        ),
        "Pillow and mtcnn": make_plain_loop(embedder, photos, None),
        "Pillow and mtcnn, reduced copy": make_plain_loop(embedder, photos, searched_size),
    }
    results = {name: measure(pipeline, len(photos)) for name, pipeline in pipelines.items()}
    for name, (rate, n_faces) in results.items():
        ratio = results["facecluster"][0] / rate
        print(f"{name:34} {rate:6.2f} photos/s {n_faces:5} faces; facecluster: {ratio:.2f} x")
    decoder.close()
    reducing_decoder.close()


def make_photos(folder: Path, n: int) -> list[bytes]:
    """n JPEG files of SIZE: mosaics of four photos each, with noise, at quality 90."""
    rng = np.random.default_rng(0)
    sources = sorted(folder.glob("*.jp*g")) if folder.exists() else []
    width, height = SIZE[0] // 2, SIZE[1] // 2
    photos = []
    for i in range(n):
        mosaic = Image.new("RGB", SIZE)
        for corner in range(4):
            if sources:
                with Image.open(sources[(4 * i + corner) % len(sources)]) as source:
                    tile = source.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
            else:
                gradient = Image.linear_gradient("L").rotate(90 * corner)
                tile = gradient.resize((width, height)).convert("RGB")
            mosaic.paste(tile, (width * (corner % 2), height * (corner // 2)))
        noisy = np.asarray(mosaic) + rng.normal(0, NOISE_STD, (SIZE[1], SIZE[0], 1))
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        photos.append(file.getvalue())
    return photos


def decode_with_pillow(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def make_plain_loop(
    embedder: SavedModel, photos: Sequence[bytes], searched_size: tuple[int, int] | None
) -> Callable[[], int]:
    """A function that processes photos one by one with mtcnn's defaults and returns their faces.

    Args:
      embedder: the same as facecluster's.
      photos: JPEG files.
      searched_size: width and height of the copy that mtcnn searches; None: the full photo.
    """
    from mtcnn import MTCNN

    detector = MTCNN()
    detector.detect_faces(np.zeros((200, 200, 3), np.uint8))  # warm-up

    def run() -> int:
        n_faces = 0
        for content in photos:
            image = Image.open(io.BytesIO(content)).convert("RGB")
            searched = image
            if searched_size:
                searched = image.resize(searched_size, Image.Resampling.BOX)
            faces = detector.detect_faces(np.asarray(searched), box_format="xyxy")
            boxes = [np.array(face["box"]) * (image.width / searched.width) for face in faces]
            n_faces += embed_faces(embedder, [image], [boxes])
        return n_faces

    return run


def embed_faces(
    embedder: SavedModel,
    images: Sequence[Image.Image],
    boxes_of_images: Sequence[Sequence[np.ndarray] | np.ndarray],
) -> int:
    """Embeds the faces in the boxes of each image; returns their number."""
    crops = []
    for image, boxes in zip(images, boxes_of_images, strict=True):
        for box in boxes:
            box = np.clip(np.asarray(box, float), 0, [*image.size, *image.size])
            if min(box[2:] - box[:2]) > 1:
                crops.append(np.asarray(crop_face(image, box, INPUT_SIZE, MARGIN)))
    if crops:
        embed_crops(embedder, crops)
    return len(crops)


def measure(pipeline: Callable[[], int], n_photos: int) -> tuple[float, int]:
    """(photos/s, faces) of one call."""
    started = time.perf_counter()
    n_faces = pipeline()
    return n_photos / (time.perf_counter() - started), n_faces


def time_second_call(work: Callable) -> float:
    """Seconds of a call after a first one, which warms up."""
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
