"""Groups the vectors of a file with one package in this process; scale.py starts it.

    grouping_worker.py NAME FILE.npy OPTIONS

Prints as JSON: seconds, without reading the file; peak GiB of this process; facecluster's
diagnostics. Writes the labels to FILE.npy.labels.npy. OPTIONS is a JSON object of ClusterOptions.
Each package imports only what it needs, so that peers can run in an environment without
facecluster. All make clusters of two faces and more. Each face is taken for a photo of its own,
because the peers have no constraint for faces in one photo.
"""

import json
import resource
import sys
import time

import numpy as np

MIN_CLUSTER_SIZE = 2


def main():
    name, path, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    vectors = np.load(path)
    if name == "facecluster":
        labels, diagnostics, seconds = run_facecluster(vectors, options)
    else:
        started = time.perf_counter()
        vectors = vectors.astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        labels, diagnostics = PEERS[name](vectors), {}
        seconds = time.perf_counter() - started
    np.save(f"{path}.labels.npy", np.asarray(labels, np.int64))
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([seconds, peak_kib / 2**20, diagnostics]))


def run_facecluster(vectors, options):
    from quality import load_model

    from facecluster.transforms.grouping.group_faces import group_faces
    from facecluster.transforms.grouping.options import ClusterOptions

    # Synthetic faces are vectors of the default model; vectors of another length are not.
    cohort = load_model().cohort("pca128" if vectors.dtype == np.int8 else "float32")
    if cohort and cohort.vectors.shape[1] != vectors.shape[1]:
        cohort = None
    started = time.perf_counter()
    grouping = group_faces(vectors, np.arange(len(vectors)), ClusterOptions(**options), cohort)
    seconds = time.perf_counter() - started
    return grouping.labels.labels, grouping.diagnostics, seconds


def run_scikit_learn(vectors):
    from sklearn.cluster import HDBSCAN

    # scikit-learn counts the face itself among min_samples, the others do not.
    clusterer = HDBSCAN(min_cluster_size=MIN_CLUSTER_SIZE, min_samples=2, n_jobs=-1)
    return clusterer.fit_predict(vectors)


def run_hdbscan(vectors):
    import hdbscan

    clusterer = hdbscan.HDBSCAN(
        min_cluster_size=MIN_CLUSTER_SIZE, min_samples=1, core_dist_n_jobs=-1
    )
    return clusterer.fit_predict(vectors)


def run_fast_hdbscan(vectors):
    import fast_hdbscan

    clusterer = fast_hdbscan.HDBSCAN(min_cluster_size=MIN_CLUSTER_SIZE, min_samples=1)
    return clusterer.fit_predict(vectors)


def run_evoc(vectors):
    import evoc

    clusterer = evoc.EVoC(base_min_cluster_size=MIN_CLUSTER_SIZE, min_samples=1)
    return clusterer.fit_predict(vectors)


PEERS = {
    "scikit-learn HDBSCAN": run_scikit_learn,
    "hdbscan": run_hdbscan,
    "fast_hdbscan": run_fast_hdbscan,
    "EVoC": run_evoc,
}

if __name__ == "__main__":
    main()
