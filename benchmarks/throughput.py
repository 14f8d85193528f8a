"""Photos a second: the bare embedding loop, detectors side by side, and the whole embed job.

    python benchmarks/throughput.py --photos FOLDER [--n 1000] [--n-detect 100]

FOLDER holds one-face photos named Name/Name_0001.jpg with the face in the middle, as LFW's are.
The detectors see the same photos, one call a photo for those that take one, all with a smallest
face of 20 px and their own default thresholds. A detector has found a photo's labelled face when
one of its boxes holds the photo's centre. facenet-pytorch needs older libraries than ours: point
--torch-python at the Python of an environment that has it, or it is left out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from facecluster.model_export import zoo
from facecluster.transforms.align import crop_face
from facecluster.transforms.detect import PHOTOS_PER_BATCH, Detector
from facecluster.transforms.embed import CROPS_PER_CALL, embed_crops
from facecluster.transforms.saved_model import SavedModel

MIN_FACE_SIZE, DETECTION_SIZE = 20, 1600
PEER_SCRIPT = Path(__file__).with_name("peer_facenet_pytorch.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--n", type=int, default=1000, help="photos for the embed job")
    parser.add_argument("--n-detect", type=int, default=100, help="photos for the detectors")
    parser.add_argument("--torch-python", help="a Python that can import facenet_pytorch")
    arguments = parser.parse_args()
    every = sorted(arguments.photos.glob("*/*.jpg"))
    paths = [str(path) for path in spread(every, arguments.n)]

    loop = bare_loop(paths[:: max(1, len(paths) // (4 * CROPS_PER_CALL))])
    print(f"bare SavedModel loop            {loop:8.1f} faces/s")
    detectors(paths[:: max(1, len(paths) // arguments.n_detect)], arguments.torch_python)
    photos, faces, seconds, start = embed_job(paths)
    print(f"embed job, {photos:,} photos        {photos / seconds:8.1f} photos/s"
          f" {faces / seconds:8.1f} faces/s  {photos / seconds / loop:.2f} of the bare loop in"
          f" photos, {faces / seconds / loop:.2f} in faces")  # fmt: skip
    print(f"  the same without its start    {photos / (seconds - start):8.1f} photos/s"
          f" {faces / (seconds - start):8.1f} faces/s  {photos / (seconds - start) / loop:.2f}"
          f" and {faces / (seconds - start) / loop:.2f}; the start takes {start:.0f} s")  # fmt: skip


def spread(items: Sequence, n: int) -> list:
    """n of the items, evenly spaced."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(n, len(items))).astype(int)]


def bare_loop(paths: Sequence[str]) -> float:
    """Faces/s of nothing but the exported network on crops that are there already."""
    model = SavedModel(str(zoo.fetch(zoo.DEFAULT_EMBEDDER)))
    middle = np.array([65, 65, 185, 185])
    crops = [np.asarray(crop_face(Image.open(p).convert("RGB"), middle, 160, 32)) for p in paths]
    embed_crops(model, crops)
    started = time.perf_counter()
    rounds = 3
    for _ in range(rounds):
        embed_crops(model, crops)
    return rounds * len(crops) / (time.perf_counter() - started)


def detectors(paths: Sequence[str], torch_python: str | None) -> None:
    rows = {"facecluster": measure(facecluster_detector(), paths)}
    rows["mtcnn 1.0.0"] = measure(mtcnn_detector(), paths)
    if torch_python:
        command = [torch_python, str(PEER_SCRIPT), str(MIN_FACE_SIZE)]
        done = subprocess.run(command, input="\n".join(paths), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"facenet-pytorch failed:\n{done.stderr}")
        rows["facenet-pytorch 2.6.0"] = tuple(json.loads(done.stdout.splitlines()[-1]))
    else:
        print("facenet-pytorch is left out: no --torch-python")
    fastest_peer = max(rate for name, (rate, *_) in rows.items() if name != "facecluster")
    for name, (rate, labelled, boxes) in rows.items():
        print(f"detector {name:22} {rate:8.1f} photos/s  {labelled:4} of {len(paths)} labelled faces,"
              f" {boxes} boxes, {rate / fastest_peer:5.1f} x the faster peer")  # fmt: skip


def measure(detect: Callable[[list[Image.Image]], list], paths: Sequence[str]):
    """(photos/s, labelled faces found, boxes), reading and decoding the photos not counted."""
    images = [Image.open(path).convert("RGB") for path in paths]
    detect(images[:PHOTOS_PER_BATCH])
    started = time.perf_counter()
    found = detect(images)
    rate = len(images) / (time.perf_counter() - started)
    labelled = sum(
        any(holds_centre(box, image.size) for box in boxes)
        for boxes, image in zip(found, images, strict=True)
    )
    return rate, labelled, sum(len(boxes) for boxes in found)


def holds_centre(box: Sequence[float], size: tuple[int, int]) -> bool:
    x, y = size[0] / 2, size[1] / 2
    return box[0] < x < box[2] and box[1] < y < box[3]


def facecluster_detector():
    detector = Detector(SavedModel(str(zoo.fetch(zoo.DETECTOR))), MIN_FACE_SIZE, DETECTION_SIZE)

    def detect(images):
        return [
            found.boxes
            for start in range(0, len(images), PHOTOS_PER_BATCH)
            for found in detector.detect(images[start : start + PHOTOS_PER_BATCH])
        ]

    return detect


def mtcnn_detector():
    from mtcnn import MTCNN

    detector = MTCNN()

    def detect(images):
        found = (
            detector.detect_faces(np.asarray(image), min_face_size=MIN_FACE_SIZE, box_format="xyxy")
            for image in images
        )
        return [[face["box"] for face in faces] for faces in found]

    return detect


def embed_job(paths: Sequence[str]) -> tuple[int, int, float, float]:
    """(photos, faces, seconds, seconds of a job of one photo a worker) of the command itself."""
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch, "photos")
        for i, path in enumerate(paths):
            link = photos / f"{i % 100:02}" / f"{i}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(path).resolve())
        start, _ = timed_embed(photos / "00" / "0.jpg", Path(scratch, "one"), workers=True)
        seconds, counts = timed_embed(photos, Path(scratch, "all"))
    return counts["photos"], counts["faces"], seconds, start


def timed_embed(photos: Path, run: Path, workers: bool = False) -> tuple[float, dict]:
    command = ["facecluster", "embed", "--input", str(photos), "--output", str(run)]
    if workers:
        command += ["--direct_num_workers", "2"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    return seconds, json.loads((run / "manifest.json").read_text())["steps"]["embed"]["counts"]


if __name__ == "__main__":
    main()
