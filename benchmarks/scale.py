"""How long grouping takes and how much memory, from ten thousand synthetic faces to ten million.

    python benchmarks/scale.py --images LFW [--work runs/quality] [--picture scale.png]
                               [--parts growth strangers million peers workers ten-million]
                               [--peer-python PEER/bin/python] [--peers NAME ...]
                               [--peer-faces 100000] [--patience 300]

The faces are those of synthetic.py, fitted to the tuning half of LFW, in random order. Each
measurement is a process of its own, whose peak of resident memory counts everything, the vectors
included. The peers of `peers` run in the environment PEER, with
`pip install scikit-learn==1.9.1 hdbscan==0.8.44 fast_hdbscan[nndescent]==0.3.4 evoc==0.3.2`.

    growth       seconds and memory at 1e4, 1e5, 1e6 as 128-byte vectors
    strangers    1e5 faces with several --chance-neighbors
    million      1e6 faces of 512 floats; a sample of 1e5 grouped with exact neighbours too
    peers        other packages on the same vectors, stopped after --patience seconds
    workers      1e5 faces on Beam's workers and in memory
    ten-million  1e7 faces of 128 bytes
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

PARTS = ("growth", "strangers", "million", "peers", "workers", "ten-million")
STRANGERS = (0.1, 0.2, 0.5, 1.0, 2.0, 0.0)
GROWTH = (10_000, 100_000, 1_000_000)
PEER_FACES = 100_000
PEERS = ("scikit-learn HDBSCAN", "hdbscan", "fast_hdbscan", "EVoC")
SEED = 20
# What each asks of its own, scored; the peers have no same-photo constraint, so neither has ours.
WORKER = """
import json, resource, sys, time
import numpy as np
name, path = sys.argv[1:3]
options = json.loads(sys.argv[3])
started = time.perf_counter()
vectors = np.load(path)
loaded = time.perf_counter()
said = {}
if name == "facecluster":
    from facecluster.transforms.grouping.group_faces import group_faces
    from facecluster.transforms.grouping.options import ClusterOptions
    loaded = time.perf_counter()
    grouping = group_faces(vectors, np.arange(len(vectors)), ClusterOptions(**options))
    labels, said = grouping.labels.labels, grouping.diagnostics
else:
    vectors = vectors.astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if name == "scikit-learn HDBSCAN":
        from sklearn.cluster import HDBSCAN
        labels = HDBSCAN(min_cluster_size=2, min_samples=2, n_jobs=-1).fit_predict(vectors)
    elif name == "hdbscan":
        import hdbscan
        labels = hdbscan.HDBSCAN(
            min_cluster_size=2, min_samples=1, core_dist_n_jobs=-1).fit_predict(vectors)
    elif name == "fast_hdbscan":
        import fast_hdbscan
        labels = fast_hdbscan.HDBSCAN(min_cluster_size=2, min_samples=1).fit_predict(vectors)
    else:
        import evoc
        labels = evoc.EVoC(base_min_cluster_size=2, min_samples=1).fit_predict(vectors)
seconds = time.perf_counter() - loaded
np.save(path + ".labels.npy", np.asarray(labels, np.int64))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, peak / 2**20, said]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/quality"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--peer-faces", type=int, default=PEER_FACES)
    parser.add_argument("--patience", type=float, default=300, help="seconds that a peer may take")
    parser.add_argument("--picture", type=Path, help="draw the growth here")
    arguments = parser.parse_args()
    folder = arguments.work / "scale"
    folder.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts:
        PART_FUNCTIONS[part](arguments, folder)
        for path in folder.glob("*.npy"):
            path.unlink()


def growth(arguments, folder: Path) -> None:
    print("faces        seconds   peak GiB  BCubed F  pairwise F  max_distance  recall  of which")
    rows = []
    for n in GROWTH:
        path, labels = faces(arguments, folder, n, "pca128")
        seconds, peak, said = group(path)
        rows.append((n, seconds, peak))
        print(
            f"{n:9,} {seconds:10.1f} {peak:10.2f} {scores(labels, path)} {told(said)}", flush=True
        )
    n, seconds, _ = (np.array(column, float) for column in zip(*rows, strict=True))
    slopes = np.diff(np.log(seconds)) / np.diff(np.log(n))
    print("exponent of time:", *(f"{slope:.2f}" for slope in slopes))
    if arguments.picture:
        draw(rows, arguments.picture)


def strangers(arguments, folder: Path) -> None:
    path, labels = faces(arguments, folder, 100_000, "pca128")
    print("chance neighbours  BCubed F  pairwise F  max_distance  largest component")
    for number in STRANGERS:
        _, _, said = group(path, chance_neighbors=number)
        distance, largest = said["max_distance"], said["largest_component"]
        figures = f"{scores(labels, path)} {distance:12.3f} {largest:12,}"
        print(f"{number:12.1f}      {figures}", flush=True)


def million(arguments, folder: Path) -> None:
    path, labels = faces(arguments, folder, 1_000_000, "float32")
    seconds, peak, said = group(path)
    print(
        f"1,000,000 faces of 512 floats: {seconds:.1f} s, {peak:.2f} GiB, F {scores(labels, path)}"
    )
    print("   ", told(said))
    few, few_labels = faces(arguments, folder, PEER_FACES, "float32")
    for name, options in (("16 probes", {}), ("exact neighbours", {"probes": 0})):
        seconds, peak, said = group(few, **options)
        print(f"{PEER_FACES:,} of them, {name}: {seconds:.1f} s, F {scores(few_labels, few)}")
        print("   ", told(said), flush=True)


def peers(arguments, folder: Path) -> None:
    path, labels = faces(arguments, folder, arguments.peer_faces, "pca128")
    print(f"{arguments.peer_faces:,} faces     seconds   peak GiB  BCubed F  pairwise F")
    seconds, peak, _ = group(path)
    print(f"{'facecluster':20} {seconds:8.1f} {peak:8.2f} {scores(labels, path)}", flush=True)
    for name in arguments.peers:
        try:
            seconds, peak, _ = run_worker(arguments.peer_python, name, path, {}, arguments.patience)
            print(f"{name:20} {seconds:8.1f} {peak:8.2f} {scores(labels, path)}", flush=True)
        except subprocess.TimeoutExpired:
            print(f"{name:20} stopped after {arguments.patience:.0f} s", flush=True)
        except subprocess.CalledProcessError as error:
            print(f"{name:20} failed: {error.stderr.strip().splitlines()[-1][:120]}", flush=True)


def workers(arguments, folder: Path) -> None:
    from synthetic import EIGHT_BIT, write_run

    from facecluster.pipeline.jobs.evaluate import evaluate_clustering
    from facecluster.pipeline.run.directory import RunDirectory

    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    write_run(model(arguments, "pca128"), PEER_FACES, SEED, run, EIGHT_BIT)
    for name, options in (("in memory", []), ("on workers", ["--distribute"])):
        command = ["facecluster", "cluster", "--output", str(run), *options]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        scored = evaluate_clustering(RunDirectory(str(run)), "folder")
        print(
            f"{PEER_FACES:,} faces {name:10}: {seconds:7.1f} s, BCubed F {scored['bcubed_f']:.4f}, "
            f"pairwise F {scored['pairwise_f']:.4f}",
            flush=True,
        )
    shutil.rmtree(run)


def ten_million(arguments, folder: Path) -> None:
    path, labels = faces(arguments, folder, 10_000_000, "pca128")
    seconds, peak, said = group(path)
    print(f"10,000,000 faces of 128 bytes: {seconds / 60:.1f} minutes, {peak:.2f} GiB, "
          f"F {scores(labels, path)}")  # fmt: skip
    print("   ", told(said))


def faces(arguments, folder: Path, n: int, space: str) -> tuple[Path, np.ndarray]:
    """A file of n vectors as they are stored, in random order, and their labels."""
    place = np.random.default_rng(SEED).permutation(n)
    path = folder / f"{space}-{n}.npy"
    labels = np.empty(n, np.int64)
    stored, start = None, 0
    for vectors, people in model(arguments, space).sample(n, SEED):
        if space == "pca128":
            largest = np.abs(vectors).max(axis=1, keepdims=True)
            vectors = np.rint(vectors * (127 / largest)).astype(np.int8)
        if stored is None:
            shape = (n, vectors.shape[1])
            stored = np.lib.format.open_memmap(path, "w+", vectors.dtype, shape)
        rows = place[start : start + len(vectors)]
        stored[rows], labels[rows] = vectors, people
        start += len(vectors)
    stored.flush()
    return path, labels


def model(arguments, space: str):
    """The model of synthetic faces, fitted to the tuning half."""
    from quality import read_half, through_codec
    from synthetic import fitted, labelled, labels_of

    half = read_half(arguments.images, "tuning", arguments.work)
    vectors = through_codec(space)(half.vectors)
    return fitted(arguments.work, space, *labelled(vectors, labels_of(half)))


def group(path: Path, **options):
    return run_worker(sys.executable, "facecluster", path, options, None)


def run_worker(python: str, name: str, path: Path, options: dict, patience: float | None):
    """(seconds, peak GiB, diagnostics) of one grouping in a process of its own."""
    command = [python, "-c", WORKER, name, str(path), json.dumps(options)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=patience)
    return json.loads(done.stdout.splitlines()[-1])


def scores(labels: np.ndarray, path: Path) -> str:
    from facecluster.pipeline.evaluation.clustering_metrics import bcubed, pairwise

    found = np.load(f"{path}.labels.npy")
    return f"{bcubed(labels, found)[2]:9.4f} {pairwise(labels, found)[2]:9.4f}"


def told(said: dict) -> str:
    parts = " ".join(f"{name} {seconds:.1f}" for name, seconds in said["seconds"].items())
    return f"{said['max_distance']:9.3f} {said['recall']:9.4f}   {parts}"


def draw(rows, path: Path) -> None:
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
    "growth": growth,
    "strangers": strangers,
    "million": million,
    "peers": peers,
    "workers": workers,
    "ten-million": ten_million,
}

if __name__ == "__main__":
    main()
