"""Measures the time and memory of grouping from ten thousand to ten million synthetic faces.

    python benchmarks/scale.py --images LFW [--work runs/quality] [--picture scale.png]
                               [--parts growth million peers workers ten-million]
                               [--peer-python PEER/bin/python] [--peers NAME ...]
                               [--peer-faces 100000] [--peer-timeout 300]

The faces are those of synthetic.py, fitted to the tuning half of LFW, in random order. Each
measurement runs in a process of its own, whose peak resident memory includes the vectors. PEER is
an environment for the part `peers`, with
`pip install scikit-learn==1.9.1 hdbscan==0.8.44 fast_hdbscan[nndescent]==0.3.4 evoc==0.3.2`.

    growth       seconds and memory for 1e4, 1e5 and 1e6 faces of 128 bytes
    million      1e6 faces of 512 floats; 1e5 of them also with exact neighbors
    peers        other packages on the same vectors, stopped after --peer-timeout seconds
    workers      1e5 faces in memory and on Beam workers
    ten-million  1e7 faces of 128 bytes
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from grouping_worker import PEERS
from quality import load_half, make_round_trip
from synthetic import EIGHT_BIT_CODEC, FaceModel, load_or_fit_model, write_run

from facecluster.pipeline.evaluation.clustering_metrics import bcubed, pairwise
from facecluster.pipeline.jobs.evaluate import evaluate_clustering
from facecluster.pipeline.run.directory import RunDirectory

GROUPING_WORKER = Path(__file__).with_name("grouping_worker.py")
GROWTH = (10_000, 100_000, 1_000_000)  # faces
N_FACES = 100_000  # of the parts that do not say otherwise
SEED = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path, help="one folder of photos a person")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="as in quality.py")
    parser.add_argument(
        "--parts", nargs="+", choices=list(PART_FUNCTIONS), default=list(PART_FUNCTIONS)
    )
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has them")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--peer-faces", type=int, default=N_FACES, help="faces that peers group")
    parser.add_argument("--peer-timeout", type=float, default=300, help="for each peer, s")
    parser.add_argument("--picture", type=Path, help="draw the growth here (needs matplotlib)")
    arguments = parser.parse_args()
    folder = arguments.work / "scale"
    folder.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts:
        PART_FUNCTIONS[part](arguments, folder)
        for path in folder.glob("*.npy"):
            path.unlink()


def measure_growth(arguments: argparse.Namespace, folder: Path) -> None:
    print(
        "faces        seconds   peak GiB  BCubed F  pairwise F  largest component  recall  of which"
    )
    rows = []
    for n in GROWTH:
        path, labels = write_faces(arguments, folder, n, "pca128")
        seconds, peak, diagnostics = group(path)
        rows.append((n, seconds, peak))
        print(
            f"{n:9,} {seconds:10.1f} {peak:10.2f} {format_scores(labels, path)} "
            f"{format_diagnostics(diagnostics)}",
            flush=True,
        )
    n, seconds, _ = (np.array(column, float) for column in zip(*rows, strict=True))
    exponents = np.diff(np.log(seconds)) / np.diff(np.log(n))
    print("exponents of time:", *(f"{exponent:.2f}" for exponent in exponents))
    if arguments.picture:
        draw_growth(rows, arguments.picture)


def measure_million(arguments: argparse.Namespace, folder: Path) -> None:
    n = 1_000_000
    path, labels = write_faces(arguments, folder, n, "float32")
    seconds, peak, diagnostics = group(path)
    scores = format_scores(labels, path)
    print(f"{n:,} faces of 512 floats: {seconds:.1f} s, {peak:.2f} GiB, F {scores}")
    print("   ", format_diagnostics(diagnostics))
    path, labels = write_faces(arguments, folder, N_FACES, "float32")
    for name, options in (("16 probes", {}), ("exact neighbors", {"probes": 0})):
        seconds, _, diagnostics = group(path, **options)
        scores = format_scores(labels, path)
        print(f"{N_FACES:,} of them, {name}: {seconds:.1f} s, F {scores}")
        print("   ", format_diagnostics(diagnostics), flush=True)


def compare_peers(arguments: argparse.Namespace, folder: Path) -> None:
    path, labels = write_faces(arguments, folder, arguments.peer_faces, "pca128")
    print(f"{arguments.peer_faces:,} faces     seconds   peak GiB  BCubed F  pairwise F")
    runs = {"facecluster": (sys.executable, None)}
    runs.update({name: (arguments.peer_python, arguments.peer_timeout) for name in arguments.peers})
    for name, (python, timeout) in runs.items():
        try:
            seconds, peak, _ = run_worker(python, name, path, {}, timeout)
            row = f"{seconds:8.1f} {peak:8.2f} {format_scores(labels, path)}"
        except subprocess.TimeoutExpired:
            row = f"stopped after {timeout:.0f} s"
        except subprocess.CalledProcessError as error:
            row = f"failed: {error.stderr.strip().splitlines()[-1][:120]}"
        print(f"{name:20} {row}", flush=True)


def compare_workers(arguments: argparse.Namespace, folder: Path) -> None:
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    write_run(load_model(arguments, "pca128"), N_FACES, SEED, run, EIGHT_BIT_CODEC)
    for name, options in (("in memory", []), ("on workers", ["--distribute"])):
        command = ["facecluster", "cluster", "--output", str(run), *options]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        scores = evaluate_clustering(RunDirectory(str(run)), "folder")
        print(
            f"{N_FACES:,} faces {name:10}: {seconds:7.1f} s, BCubed F {scores['bcubed_f']:.4f}, "
            f"pairwise F {scores['pairwise_f']:.4f}",
            flush=True,
        )
    shutil.rmtree(run)


def measure_ten_million(arguments: argparse.Namespace, folder: Path) -> None:
    path, labels = write_faces(arguments, folder, 10_000_000, "pca128")
    seconds, peak, diagnostics = group(path)
    print(
        f"10,000,000 faces of 128 bytes: {seconds / 60:.1f} minutes, {peak:.2f} GiB, "
        f"F {format_scores(labels, path)}"
    )
    print("   ", format_diagnostics(diagnostics))


def write_faces(
    arguments: argparse.Namespace, folder: Path, n: int, codec: str
) -> tuple[Path, np.ndarray]:
    """A file of n vectors in random order, as the codec stores them, and (n,) their labels."""
    row_of = np.random.default_rng(SEED).permutation(n)
    path = folder / f"{codec}-{n}.npy"
    labels = np.empty(n, np.int64)
    stored, start = None, 0
    for vectors, people in load_model(arguments, codec).sample(n, SEED):
        if codec == "pca128":
            largest = np.abs(vectors).max(axis=1, keepdims=True)
            vectors = np.rint(vectors * (127 / largest)).astype(np.int8)
        if stored is None:
            shape = (n, vectors.shape[1])
            stored = np.lib.format.open_memmap(path, "w+", vectors.dtype, shape)
        rows = row_of[start : start + len(vectors)]
        stored[rows], labels[rows] = vectors, people
        start += len(vectors)
    stored.flush()
    return path, labels


def load_model(arguments: argparse.Namespace, codec: str) -> FaceModel:
    """The model of synthetic faces, fitted to the tuning half."""
    half = load_half(arguments.images, "tuning", arguments.work)
    return load_or_fit_model(arguments.work, codec, half, make_round_trip(codec))


def group(path: Path, **options) -> tuple[float, float, dict]:
    """(seconds, peak GiB, diagnostics) of facecluster's grouping with these ClusterOptions."""
    return run_worker(sys.executable, "facecluster", path, options, None)


def run_worker(
    python: str, name: str, path: Path, options: dict, timeout: float | None
) -> tuple[float, float, dict]:
    """(seconds, peak GiB, diagnostics) of one grouping in a process of its own."""
    command = [python, str(GROUPING_WORKER), name, str(path), json.dumps(options)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout)
    return json.loads(done.stdout.splitlines()[-1])


def format_scores(labels: np.ndarray, path: Path) -> str:
    """BCubed F and pairwise F of the labels that the worker wrote beside a file of vectors."""
    found = np.load(f"{path}.labels.npy")
    return f"{bcubed(labels, found)[2]:9.4f} {pairwise(labels, found)[2]:9.4f}"


def format_diagnostics(diagnostics: dict) -> str:
    seconds = " ".join(f"{name} {seconds:.1f}" for name, seconds in diagnostics["seconds"].items())
    return f"{diagnostics['largest_component']:9,} {diagnostics['recall']:9.4f}   {seconds}"


def draw_growth(rows: Sequence[tuple[int, float, float]], path: Path) -> None:
    import matplotlib.pyplot as plt

    n, seconds, peak = zip(*rows, strict=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    for axes, values, name in ((left, seconds, "seconds"), (right, peak, "peak GiB")):
        axes.loglog(n, values, marker="o")
        axes.set(xlabel="faces", title=name)
        axes.grid(True, which="both", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


PART_FUNCTIONS = {
    "growth": measure_growth,
    "million": measure_million,
    "peers": compare_peers,
    "workers": compare_workers,
    "ten-million": measure_ten_million,
}

if __name__ == "__main__":
    main()
