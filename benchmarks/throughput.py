"""Photos a second: the bare embedding loop, detectors side by side, and the whole embed job.

    python benchmarks/throughput.py --photos FOLDER [--n 1000] [--n-detect 200]

FOLDER holds one-face photos named Name/Name_0001.jpg with the face in the middle, as LFW's are.
The detectors see the same photos and search faces from 20 px with their own default thresholds,
each in one process with all cores and in one process a core; the better of the two counts.
facenet-pytorch needs older libraries than ours: point --torch-python at the Python of an
environment that has it, or it is left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from facecluster.model_export.weights import zoo
from facecluster.pipeline.options import EmbedOptions
from facecluster.transforms.faces.align import crop_face
from facecluster.transforms.faces.embed import CROPS_PER_CALL, embed_crops
from facecluster.transforms.faces.saved_model import SavedModel

DETECTOR_WORKER = Path(__file__).with_name("detector_worker.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--n", type=int, default=1000, help="photos for the embed job")
    parser.add_argument("--n-detect", type=int, default=200, help="photos for the detectors")
    parser.add_argument("--torch-python", help="a Python that can import facenet_pytorch")
    arguments = parser.parse_args()
    every = sorted(arguments.photos.glob("*/*.jpg"))
    paths = [str(path) for path in spread(every, arguments.n)]

    loop = bare_loop(paths[:: max(1, len(paths) // (4 * CROPS_PER_CALL))])
    print(f"{'bare SavedModel loop':28} {loop:26.1f} faces/s")
    detectors(paths[:: max(1, len(paths) // arguments.n_detect)], arguments.torch_python)
    photos, faces, seconds, start = embed_job(paths)
    without_start = f"  without its {start:.0f} s of start", seconds - start
    for title, time_taken in ((f"embed job, {photos:,} photos", seconds), without_start):
        print(
            f"{title:28} {photos / time_taken:8.1f} photos/s {faces / time_taken:8.1f} faces/s, "
            f"{faces / time_taken / loop:.2f} of the bare loop's faces/s"
        )


def spread(items: Sequence, n: int) -> list:
    """n of the items, evenly spaced."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(n, len(items))).astype(int)]


def bare_loop(paths: Sequence[str]) -> float:
    """Faces/s of nothing but the exported network on crops that are there already."""
    model = SavedModel(str(zoo.fetch(EmbedOptions.model)))
    middle = np.array([65, 65, 185, 185])
    crops = [np.asarray(crop_face(Image.open(p).convert("RGB"), middle, 160, 32)) for p in paths]
    embed_crops(model, crops)
    started = time.perf_counter()
    rounds = 3
    for _ in range(rounds):
        embed_crops(model, crops)
    return rounds * len(crops) / (time.perf_counter() - started)


def detectors(paths: Sequence[str], torch_python: str | None) -> None:
    pythons = {"facecluster": sys.executable, "mtcnn": sys.executable}
    if torch_python:
        pythons["facenet-pytorch"] = torch_python
    else:
        print("facenet-pytorch is left out: no --torch-python")
    cores = len(os.sched_getaffinity(0))
    rows = {}
    for name, python in pythons.items():
        one, labelled, boxes = measure(python, name, paths, n_processes=1, threads=cores)
        per_core, *_ = measure(python, name, paths, n_processes=cores, threads=1)
        rows[name] = one, per_core, labelled, boxes
    fastest_peer = max(max(row[:2]) for name, row in rows.items() if name != "facecluster")
    print(f"{'detector':16} one process  one a core  (photos/s)  labelled faces found  boxes")
    for name, (one, per_core, labelled, boxes) in rows.items():
        print(
            f"{name:16} {one:11.1f} {per_core:11.1f} {max(one, per_core) / fastest_peer:8.1f} x"
            f"{labelled:14} of {len(paths):4} {boxes:8}"
        )


def measure(python: str, name: str, paths: Sequence[str], n_processes: int, threads: int):
    """(photos/s, photos whose labelled face was found, boxes); reading photos is not counted."""
    command = [python, str(DETECTOR_WORKER), name, str(threads), str(EmbedOptions.min_face_size)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    workers = [subprocess.Popen(command, text=True, **pipes) for _ in range(n_processes)]
    for i, worker in enumerate(workers):
        print(json.dumps(paths[i::n_processes]), file=worker.stdin, flush=True)
    for worker in workers:
        if worker.stdout.readline().strip() != "ready":
            sys.exit(f"the detector {name} did not start with {python}")
    for worker in workers:
        print(file=worker.stdin, flush=True)
    results = [json.loads(worker.communicate()[0]) for worker in workers]
    seconds, labelled, boxes = zip(*results, strict=True)
    return len(paths) / max(seconds), sum(labelled), sum(boxes)


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
        command += ["--direct_num_workers", str(len(os.sched_getaffinity(0)))]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    return seconds, json.loads((run / "manifest.json").read_text())["steps"]["embed"]["counts"]


if __name__ == "__main__":
    main()
