"""Scores a run: the people it found against labels, or its embeddings on pairs of photos."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from facecluster.errors import InputError
from facecluster.model_export.validation.pairs import ImagePairs, read_pairs
from facecluster.model_export.validation.verification import verify
from facecluster.pipeline.evaluation.assignments import assigned_people, read_assignments
from facecluster.pipeline.evaluation.clustering_metrics import NOISE, clustering_scores
from facecluster.pipeline.evaluation.labels import find_labeled_faces, label_photos, split_path
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.inputs.listing import absolute_uri, list_photos
from facecluster.transforms.tables.codec import decode_embeddings, find_usable, stored_vectors
from facecluster.transforms.tables.files import write_bytes


def evaluate_clustering(run: RunDirectory, labels: str) -> dict[str, Any]:
    """Scores the people that a run found and writes evaluation/clustering.json.

    A label names the person of a photo, so each photo is scored by one face (see
    `find_labeled_faces`). Its other faces take part in the clustering but not in the score. A photo
    with several URIs is scored under each.

    Args:
      run: a run with assignments.
      labels: "folder" or a CSV file, as in `label_photos`. Photos labeled with several people are
        not scored, because it is unknown which face is which person.

    Returns:
      `clustering_scores`, and coverage (n_photos_scored / n_photos_labeled), n_photos_labeled
      (with one person; photos that failed included), n_photos_scored, n_photos_several_people,
      n_photos_unlabeled and n_labels_unmatched (CSV rows whose photo is not in the run).

    Raises:
      InputError: the run has no assignments, or outdated ones; the labels cannot be read or match
        no photo of the run.
    """
    assignments = read_assignments(run)
    photos, _ = run.read_shards("photos", ["photo_id", "uri", "width", "height"])
    faces, _ = run.read_shards("faces", ["face_id", "photo_id", "box"])
    failures, _ = run.read_shards("failures", ["uri"])

    photo_ids = dict(zip(photos["uri"].to_pylist(), photos["photo_id"].to_pylist(), strict=True))
    # A failed input has no photo_id; its URI takes its place.
    inputs = {**{uri: uri for uri in failures["uri"].to_pylist()}, **photo_ids}
    people, n_labels_unmatched = label_photos(labels, inputs)
    person = {uri: names[0] for uri, names in people.items() if len(names) == 1}
    rows = find_labeled_faces(photos, faces)
    scored = [uri for uri in person if uri in rows]
    if not scored:
        raise InputError(
            f"{run.root} has no face in any of the {len(person)} photos labeled with one person: "
            "there is nothing to score"
        )
    truth = np.array([person[uri] for uri in scored])
    found = _found_people(run, assignments, faces["face_id"].take([rows[uri] for uri in scored]))
    result = {
        **clustering_scores(truth, found),
        "coverage": len(scored) / len(person),
        "n_photos_labeled": len(person),
        "n_photos_scored": len(scored),
        "n_photos_several_people": len(people) - len(person),
        "n_photos_unlabeled": len(photo_ids.keys() - people.keys()),
        "n_labels_unmatched": n_labels_unmatched,
    }
    _write(run, "clustering", result)
    return result


def evaluate_verification(run: RunDirectory, images: str, pairs_path: str) -> dict[str, Any]:
    """Scores a run's embeddings on pairs of photos and writes evaluation/verification.json.

    Each photo is represented by its largest central face (see `find_labeled_faces`); faces with
    damaged vectors are left out. Pairs in which a photo has no face, or could not be read, are
    skipped; the others keep the folds of the file.

    Args:
      run: a run that holds the photos of all pairs (see `find_pair_images`).
      images: the folder of the photos, Name/Name_0001 with any extension.
      pairs_path: an LFW pairs file (see `read_pairs`).

    Returns:
      The fields of `Verification`, n_pairs in the file and n_pairs_skipped.

    Raises:
      InputError: the pairs cannot be read, the run lacks some of their photos, or too few pairs
        have faces to fill the folds.
    """
    pairs = read_pairs(pairs_path)
    photos, _ = run.read_shards("photos", ["photo_id", "uri", "width", "height"])
    faces, _ = run.read_shards("faces", ["photo_id", "box", "embedding"])
    faces = faces.filter(pa.array(find_usable(stored_vectors(faces["embedding"]))))
    failures, _ = run.read_shards("failures", ["uri"])

    # Another folder of the run may contain the same names: photos under `images` come first.
    inputs = sorted(
        {*photos["uri"].to_pylist(), *failures["uri"].to_pylist()},
        key=lambda uri: (not uri.startswith(absolute_uri(images)), uri),
    )
    uris = _index_by_name(inputs)
    needed = sorted({*pairs.first, *pairs.second})
    missing = [name for name in needed if name not in uris]
    if missing:
        raise InputError(
            f"{run.root} lacks {len(missing)} of the {len(needed)} photos that {pairs_path} names, "
            f"first {missing[0]}: embed the photos of {images} into this run first"
        )
    row_of = find_labeled_faces(photos, faces)
    rows = np.array(
        [[row_of.get(uris[name], -1) for name in names] for names in (pairs.first, pairs.second)]
    )
    has_faces = np.all(rows >= 0, axis=0)
    rows_used, positions = np.unique(rows[:, has_faces], return_inverse=True)
    if not len(rows_used):
        raise InputError(f"none of the pairs of {pairs_path} has a face in both photos")
    first, second = decode_embeddings(faces["embedding"].take(rows_used))[positions.reshape(2, -1)]
    try:
        scores = verify(first, second, pairs.is_same[has_faces], pairs.folds[has_faces])
    except ValueError as error:
        raise InputError(f"{pairs_path}: {error}") from error
    result = {
        **asdict(scores),
        "n_pairs": len(has_faces),
        "n_pairs_skipped": int(np.sum(~has_faces)),
    }
    _write(run, "verification", result)
    return result


def find_pair_images(images: str, pairs: ImagePairs) -> list[str]:
    """The image files that the pairs name, each once, sorted.

    Args:
      images: the folder of the photos, Name/Name_0001 with any extension.

    Raises:
      InputError: an image does not exist.
    """
    paths = _index_by_name(list_photos([images], containers=False).uris)
    needed = {*pairs.first, *pairs.second}
    missing = sorted(needed - paths.keys())
    if missing:
        raise InputError(
            f"{images} lacks {len(missing)} of the {len(needed)} images that the pairs name, first "
            f"{missing[0]}: give the folder that contains one folder of images per person"
        )
    return sorted(paths[name] for name in needed)


def _found_people(
    run: RunDirectory, assignments: pa.Table, face_ids: pa.ChunkedArray
) -> np.ndarray:
    """(n,) int, a number for the found person of each face, NOISE if it is unassigned."""
    people = assigned_people(run, assignments, face_ids).dictionary_encode()
    return people.indices.fill_null(NOISE).to_numpy(zero_copy_only=False)


def _index_by_name(paths: Iterable[str]) -> dict[str, str]:
    """{FOLDER/NAME without extension: path}; of several such paths, the first."""
    found = {}
    for path in paths:
        *_, folder, name = ("", *split_path(path))
        found.setdefault(f"{folder}/{name.rpartition('.')[0] or name}", path)
    return found


def _write(run: RunDirectory, name: str, result: dict[str, Any]) -> None:
    text = json.dumps(result, indent=2) + "\n"
    write_bytes(run.path("evaluation", f"{name}.json"), text.encode())
