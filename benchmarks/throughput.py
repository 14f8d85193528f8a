"""Measures photos per second of detectors, of the embedding network, and of the whole embed job.

    python benchmarks/throughput.py --photos FOLDER [--n 1000] [--n-detect 200]
                                    [--torch-python PEER/bin/python]

FOLDER holds photos named Name/Name_0001.jpg with one labeled face each, in the center, as LFW's
are. All detectors search the same photos for faces of 20 px and larger, with their own default
thresholds: in one process with all cores, and in one process per core; the faster way counts.
facenet-pytorch needs older libraries than facecluster, so PEER is an environment of its own;
without --torch-python it is not measured.
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
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.pipeline.run.manifest import EmbedCounts
from facecluster.transforms.faces.align import crop_face
from facecluster.transforms.faces.embed import CROPS_PER_CALL, embed_crops
from facecluster.transforms.faces.saved_model import SavedModel

DETECTOR_WORKER = Path(__file__).with_name("detector_worker.py")
CENTRAL_BOX = np.array([65, 65, 185, 185])  # px, about the face in LFW's photos of 250 x 250 px
INPUT_SIZE, MARGIN = 160, 32  # px, of the default model
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True, type=Path, help="one folder of photos a person")
    parser.add_argument("--n", type=int, default=1000, help="photos for the embed job")
    parser.add_argument("--n-detect", type=int, default=200, help="photos for the detectors")
    parser.add_argument("--torch-python", help="a Python that can import facenet_pytorch")
    arguments = parser.parse_args()
    paths = [str(p) for p in take_evenly(sorted(arguments.photos.glob("*/*.jpg")), arguments.n)]

    network_rate = measure_network(paths[:: max(1, len(paths) // (4 * CROPS_PER_CALL))])
    print(f"{'network alone':28} {network_rate:26.1f} faces/s")
    compare_detectors(paths[:: max(1, len(paths) // arguments.n_detect)], arguments.torch_python)
    counts, seconds, start = measure_embed_job(paths)
    rows = {
        f"embed job, {counts.photos:,} photos": seconds,
        f"  without its {start:.0f} s of start": seconds - start,
    }
    for title, duration in rows.items():
        print(
            f"{title:28} {counts.photos / duration:8.1f} photos/s "
            f"{counts.faces / duration:8.1f} faces/s, "
            f"{counts.faces / duration / network_rate:.2f} of the network's faces/s"
        )


def take_evenly(items: Sequence, n: int) -> list:
    """n of the items, evenly spaced."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(n, len(items))).astype(int)]


def measure_network(paths: Sequence[str]) -> float:
    """Faces/s of the exported network alone, on crops that are in memory."""
    model = SavedModel(str(zoo.fetch(EmbedOptions.model)))
    crops = [
        np.asarray(crop_face(Image.open(path).convert("RGB"), CENTRAL_BOX, INPUT_SIZE, MARGIN))
        for path in paths
    ]
    embed_crops(model, crops)  # warm-up
    started = time.perf_counter()
    for _ in range(ROUNDS):
        embed_crops(model, crops)
    return ROUNDS * len(crops) / (time.perf_counter() - started)


def compare_detectors(paths: Sequence[str], torch_python: str | None) -> None:
    """Prints the table of the detectors."""
    pythons = {"facecluster": sys.executable, "mtcnn": sys.executable}
    if torch_python:
        pythons["facenet-pytorch"] = torch_python
    else:
        print("facenet-pytorch is not measured: --torch-python is not given")
    n_cores = len(os.sched_getaffinity(0))
    rows = {}
    for name, python in pythons.items():
        one, n_found, n_boxes = measure_detector(python, name, paths, 1, threads=n_cores)
        per_core, *_ = measure_detector(python, name, paths, n_cores, threads=1)
        rows[name] = one, per_core, n_found, n_boxes
    fastest_peer = max(max(row[:2]) for name, row in rows.items() if name != "facecluster")
    print(
        f"{'photos/s':16} one process  one a core  of the fastest peer  labeled faces found  boxes"
    )
    for name, (one, per_core, n_found, n_boxes) in rows.items():
        print(
            f"{name:16} {one:11.1f} {per_core:11.1f} {max(one, per_core) / fastest_peer:18.1f} x"
            f"{n_found:13} of {len(paths):4} {n_boxes:6}"
        )


def measure_detector(
    python: str, name: str, paths: Sequence[str], n_processes: int, threads: int
) -> tuple[float, int, int]:
    """(photos/s, photos whose labeled face was found, boxes); reading photos is not measured."""
    command = [python, str(DETECTOR_WORKER), name, str(threads), str(EmbedOptions.min_face_size)]
    workers = [
        subprocess.Popen(
            command,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(n_processes)
    ]
    for i, worker in enumerate(workers):
        print(json.dumps(paths[i::n_processes]), file=worker.stdin, flush=True)
    for worker in workers:
        if worker.stdout.readline().strip() != "ready":
            sys.exit(f"the detector {name} did not start with {python}")
    for worker in workers:
        print(file=worker.stdin, flush=True)
    results = [json.loads(worker.communicate()[0]) for worker in workers]
    seconds, n_found, n_boxes = zip(*results, strict=True)
    return len(paths) / max(seconds), sum(n_found), sum(n_boxes)


def measure_embed_job(paths: Sequence[str]) -> tuple[EmbedCounts, float, float]:
    """Runs the embed command: its counts, its seconds, and the seconds of a job with one photo.

    The job with one photo starts as many workers as there are cores, as the larger job does.
    """
    with tempfile.TemporaryDirectory() as temporary:
        photos = Path(temporary, "photos")
        for i, path in enumerate(paths):
            link = photos / f"{i % 100:02}" / f"{i}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(path).resolve())
        n_workers = ["--direct_num_workers", str(len(os.sched_getaffinity(0)))]
        start, _ = run_embed(photos / "00" / "0.jpg", Path(temporary, "one"), n_workers)
        seconds, counts = run_embed(photos, Path(temporary, "all"))
    return counts, seconds, start


def run_embed(photos: Path, run: Path, options: Sequence[str] = ()) -> tuple[float, EmbedCounts]:
    """(seconds, counts) of the command."""
    command = ["facecluster", "embed", "--input", str(photos), "--output", str(run), *options]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    return seconds, RunDirectory(str(run)).manifest().embed.counts


if __name__ == "__main__":
    main()
