"""Scores a run against labels: the people it found, or its embeddings on pairs of photos."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from facecluster.errors import InputError
from facecluster.model_export.validation.pairs import ImagePairs, read_pairs
from facecluster.model_export.validation.verification import verify
from facecluster.pipeline.jobs.clustering_metrics import NOISE, clustering_scores
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.faces.boxes import prominence
from facecluster.transforms.inputs.listing import absolute_uri, list_photos
from facecluster.transforms.tables.codec import decode
from facecluster.transforms.tables.files import write_bytes

FOLDER_LABELS = "folder"  # instead of a CSV: a photo's person is the name of its folder
PEOPLE_SEPARATOR = ";"  # between the people of one photo in a labels CSV

# What each figure means to the reader of the command's output.
DESCRIPTIONS = {
    "bcubed_precision": "BCubed precision: a face's group is the same person",
    "bcubed_recall": "BCubed recall: a person's faces are in the face's group",
    "bcubed_f": "BCubed F",
    "pairwise_precision": "Pairwise precision: two faces put together are one person",
    "pairwise_recall": "Pairwise recall: two faces of one person are put together",
    "pairwise_f": "Pairwise F",
    "nmi": "Normalised mutual information",
    "n_people_true": "People by the labels",
    "n_people_found": "People found among the scored faces",
    "share_unassigned": "Share of scored faces left unassigned",
    "coverage": "Coverage: labelled photos in which a face was found",
    "n_photos_labelled": "Photos labelled with one person",
    "n_photos_scored": "Photos scored, by their largest central face",
    "n_photos_several_people": "Photos not scored: labelled with several people",
    "n_photos_unlabelled": "Photos not scored: in the run but without a label",
    "n_labels_unmatched": "Labels not used: their photo is not in the run",
    "accuracy": "Accuracy: pairs judged right, mean over the folds",
    "accuracy_std": "Accuracy, standard deviation over the folds",
    "val": "Validation rate: matched pairs accepted at a FAR of 0.001",
    "val_std": "Validation rate, standard deviation over the folds",
    "far": "False accept rate (FAR) measured at that threshold",
    "auc": "Area under the ROC curve",
    "eer": "Equal error rate: false accepts as frequent as false rejects",
    "threshold": "Squared distance below which a pair is judged the same",
    "n_pairs": "Pairs in the file",
    "n_pairs_skipped": "Pairs left out: a photo not there or without a face",
}


def evaluate_clustering(run: RunDirectory, labels: str) -> dict[str, Any]:
    """Scores the people that a run found and writes evaluation/clustering.json.

    A label names the person of a photo, so each photo is scored by one face (see
    `labelled_faces`). Its other faces take part in the clustering but not in the score. A photo
    known under several uris is scored under each.

    Args:
      run: a run with assignments.
      labels: "folder" (a photo's person is the name of its folder), or a CSV file with a header:
        photo (file name, or as much of the end of its path as tells it apart), person (several
        people as `a;b`: no face can be told to be one of them, so such a photo is not scored).

    Returns:
      `clustering_scores`, and coverage (n_photos_scored / n_photos_labelled), n_photos_labelled
      (one person; photos that failed included), n_photos_scored, n_photos_several_people,
      n_photos_unlabelled and n_labels_unmatched (CSV rows whose photo is not in the run).

    Raises:
      InputError: no assignments, or older than the faces; labels that cannot be read or name
        no photo of the run.
    """
    assignments = read_assignments(run)
    photos, _ = run.read_shards("photos", ["photo_id", "uri", "width", "height"])
    faces, _ = run.read_shards("faces", ["face_id", "photo_id", "box"])
    failures, _ = run.read_shards("failures", ["uri"])

    photo_ids = dict(zip(photos["uri"].to_pylist(), photos["photo_id"].to_pylist(), strict=True))
    # A failed input has no photo_id; its uri stands for it.
    tried = {**{uri: uri for uri in failures["uri"].to_pylist()}, **photo_ids}
    people, n_labels_unmatched = labelled_people(labels, tried)
    person = {uri: names[0] for uri, names in people.items() if len(names) == 1}
    rows = labelled_faces(photos, faces)
    scored = [uri for uri in person if uri in rows]
    if not scored:
        raise InputError(
            f"{run.root} has no face in any of the {len(person)} photos with one labelled person: "
            "there is nothing to score"
        )
    truth = np.array([person[uri] for uri in scored])
    found = _found_people(run, assignments, faces["face_id"].take([rows[uri] for uri in scored]))
    result = {
        **clustering_scores(truth, found),
        "coverage": len(scored) / len(person),
        "n_photos_labelled": len(person),
        "n_photos_scored": len(scored),
        "n_photos_several_people": len(people) - len(person),
        "n_photos_unlabelled": len(photo_ids.keys() - people.keys()),
        "n_labels_unmatched": n_labels_unmatched,
    }
    _write(run, "clustering", result)
    return result


def evaluate_verification(run: RunDirectory, images: str, pairs_path: str) -> dict[str, Any]:
    """Scores a run's embeddings on pairs of photos and writes evaluation/verification.json.

    Each photo is its largest central face (see `labelled_faces`). Pairs in which a photo has no
    face, or could not be read, are left out; the others keep the folds of the file.

    Args:
      run: a run that holds the photos of all pairs (see `pair_image_paths`).
      images: the folder of the photos, Name/Name_0001 with any extension.
      pairs_path: an LFW pairs file (see `read_pairs`).

    Returns:
      The fields of `Verification`, n_pairs in the file and n_pairs_skipped.

    Raises:
      InputError: pairs that cannot be read, photos that the run does not hold, or too few
        pairs with faces for the folds.
    """
    try:
        pairs = read_pairs(pairs_path)
    except ValueError as error:
        raise InputError(str(error)) from error
    photos, _ = run.read_shards("photos", ["photo_id", "uri", "width", "height"])
    faces, _ = run.read_shards("faces", ["photo_id", "box", "embedding"])
    failures, _ = run.read_shards("failures", ["uri"])

    # Another folder of the run may hold the same names: photos under `images` come first.
    tried = sorted(
        {*photos["uri"].to_pylist(), *failures["uri"].to_pylist()},
        key=lambda uri: (not uri.startswith(absolute_uri(images)), uri),
    )
    uris = _by_stem(tried)
    wanted = sorted({*pairs.first, *pairs.second})
    missing = [stem for stem in wanted if stem not in uris]
    if missing:
        raise InputError(
            f"{run.root} lacks {len(missing)} of the {len(wanted)} photos that {pairs_path} names, "
            f"first {missing[0]}: embed the photos of {images} into this run first"
        )
    row_of = labelled_faces(photos, faces)
    rows = np.array(
        [[row_of.get(uris[stem], -1) for stem in stems] for stems in (pairs.first, pairs.second)]
    )
    with_faces = np.all(rows >= 0, axis=0)
    rows_used, positions = np.unique(rows[:, with_faces], return_inverse=True)
    if not len(rows_used):
        raise InputError(f"none of the pairs of {pairs_path} has a face in both photos")
    first, second = decode(faces["embedding"].take(rows_used))[positions.reshape(2, -1)]
    try:
        scores = verify(first, second, pairs.is_same[with_faces], pairs.folds[with_faces])
    except ValueError as error:
        raise InputError(f"{pairs_path}: {error}") from error
    result = {
        **asdict(scores),
        "n_pairs": len(with_faces),
        "n_pairs_skipped": int(np.sum(~with_faces)),
    }
    _write(run, "verification", result)
    return result


def pair_image_paths(images: str, pairs: ImagePairs) -> list[str]:
    """The image files that the pairs need, each once, sorted.

    Args:
      images: the folder of the photos, Name/Name_0001 with any extension.

    Raises:
      InputError: an image is not there.
    """
    paths = _by_stem(list_photos([images], containers=False).uris)
    wanted = {*pairs.first, *pairs.second}
    missing = sorted(wanted - paths.keys())
    if missing:
        raise InputError(
            f"{images} lacks {len(missing)} of the {len(wanted)} images that the pairs name, first "
            f"{missing[0]}: give the folder that holds one folder of images per person"
        )
    return sorted(paths[stem] for stem in wanted)


def labelled_people(
    labels: str, photo_ids: dict[str, str]
) -> tuple[dict[str, tuple[str, ...]], int]:
    """Whom each photo shows.

    Args:
      labels: "folder" or a CSV file, as in `evaluate_clustering`.
      photo_ids: {uri: photo_id}; a label may fit several uris of one photo.

    Returns:
      ({uri: its people} of all uris with a label, how many labels fit none of the uris).

    Raises:
      InputError: labels that cannot be read or fit none of the uris.
    """
    if labels == FOLDER_LABELS:
        return {uri: (_folder(uri),) for uri in photo_ids}, 0
    return _people_in_csv(labels, photo_ids)


def labelled_faces(photos: pa.Table, faces: pa.Table) -> dict[str, int]:
    """The face that a photo's label is about: the row in `faces` of its largest central face.

    That is the most prominent one (see `prominence`), of equal ones the first.

    Args:
      photos: columns photo_id, uri, width, height; a photo may stand under several uris.
      faces: columns photo_id, box; a face may stand several times.

    Returns:
      {uri: row} of all photos that have a face.
    """
    # Photos of the same bytes share one row of `photos`, that of their photo_id.
    photo_ids = photos["photo_id"].combine_chunks()
    photo = pc.index_in(photo_ids, value_set=photo_ids).to_numpy(zero_copy_only=False)
    owner = pc.index_in(faces["photo_id"].combine_chunks(), value_set=photo_ids)
    rows = np.flatnonzero(owner.is_valid().to_numpy(zero_copy_only=False))
    owner = owner.drop_null().to_numpy()

    boxes = faces["box"].combine_chunks().flatten().to_numpy().reshape(-1, 4)[rows]
    width, height = (photos[side].to_numpy()[owner] for side in ("width", "height"))
    order = np.lexsort((-prominence(boxes, width, height), owner))

    best = np.full(len(photos), -1)
    owners_with_face, first = np.unique(owner[order], return_index=True)
    best[owners_with_face] = rows[order[first]]
    row_of = best[photo]
    return {
        uri: row
        for uri, row in zip(photos["uri"].to_pylist(), row_of.tolist(), strict=True)
        if row >= 0
    }


def format_scores(scores: dict[str, Any]) -> str:
    """The scores as aligned text, one described figure per line."""
    lines = [(DESCRIPTIONS.get(name, name), _figure(value)) for name, value in scores.items()]
    left = max((len(description) for description, _ in lines), default=0)
    right = max((len(figure) for _, figure in lines), default=0)
    return "\n".join(f"{description:<{left}}  {figure:>{right}}" for description, figure in lines)


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def read_assignments(run: RunDirectory) -> pa.Table:
    """The assignments table; InputError when the run has none."""
    if not run.exists("assignments"):
        raise InputError(f"{run.root} has no people yet: run `facecluster cluster` first")
    return run.read("assignments")


def assigned_people(run: RunDirectory, assignments: pa.Table, face_ids: pa.ChunkedArray):
    """(n,) pyarrow string: the person_id of each face, null where it is unassigned.

    Raises:
      InputError: a face is not in the assignments.
    """
    at = pc.index_in(face_ids, value_set=assignments["face_id"].combine_chunks())
    if at.null_count:
        raise InputError(
            f"{run.root} has faces that were embedded after its people were found: run "
            "`facecluster cluster` again"
        )
    return assignments["person_id"].combine_chunks().take(at.combine_chunks())


def _found_people(run: RunDirectory, assignments: pa.Table, face_ids: pa.ChunkedArray):
    """(n,) int: the found person of each face as a number, NOISE where it is unassigned."""
    people = assigned_people(run, assignments, face_ids).dictionary_encode()
    return people.indices.fill_null(NOISE).to_numpy(zero_copy_only=False)


def _people_in_csv(path: str, photo_ids: dict[str, str]) -> tuple[dict[str, tuple[str, ...]], int]:
    """The labelled people of each uri, and how many labels fit none of the uris.

    A label fits the uris that end in its path; of several labels that fit, the longest is meant.
    """
    labels = _read_labels(path)
    lengths = sorted({len(ending) for ending in labels}, reverse=True)
    people, uri_of = {}, {}
    for uri, photo_id in photo_ids.items():
        parts = _path_parts(uri)
        endings = (parts[-length:] for length in lengths if length <= len(parts))
        ending = next((ending for ending in endings if ending in labels), None)
        if ending is None:
            continue
        other = uri_of.setdefault(ending, uri)
        if photo_ids[other] != photo_id:
            raise InputError(
                f"{path} labels {'/'.join(ending)}, but {other} and {uri} both end so: write as "
                "much of the path as tells them apart"
            )
        people[uri] = labels[ending]
    if not people:
        first = "/".join(next(iter(labels), ("nothing",)))
        raise InputError(
            f"{path} labels none of the {len(photo_ids)} photos of the run (its first label is for "
            f"{first}): the first column must hold their file names or the ends of their paths"
        )
    return people, len(labels) - len(uri_of)


def _read_labels(path: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    """{parts of the photo's path: its people} of a labels CSV; rows without a person left out."""
    rows = _csv_rows(path)
    for line, row in rows or [(1, [""])]:
        if len(row) < 2:
            raise InputError(
                f"{path} line {line}: expected two columns separated by a comma, photo and person, "
                f"found {row[0]!r}"
            )
    labels = {}
    for line, row in rows[1:]:  # the first is the header
        photo = _path_parts(row[0].strip())
        people = tuple(sorted({name.strip() for name in row[1].split(PEOPLE_SEPARATOR)} - {""}))
        if photo and people and labels.setdefault(photo, people) != people:
            raise InputError(
                f"{path} line {line}: {row[0]!r} is labelled twice, as "
                f"{PEOPLE_SEPARATOR.join(labels[photo])!r} and as {row[1]!r}: write all people of "
                f"a photo in one row, as `a{PEOPLE_SEPARATOR}b`"
            )
    return labels


def _csv_rows(path: str) -> list[tuple[int, list[str]]]:
    """(line number, cells) of every row of a CSV file that is not blank."""
    if not FileSystems.exists(path):
        raise InputError(
            f"{path} is not there: give a CSV file of photo and person, or `{FOLDER_LABELS}` where "
            "each photo lies in a folder named after its person"
        )
    try:
        with FileSystems.open(path) as file:
            text = file.read().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""))
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error


def _path_parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))


def _folder(uri: str) -> str:
    return "".join(_path_parts(uri)[-2:-1])


def _by_stem(paths: Iterable[str]) -> dict[str, str]:
    """{folder/name without extension: path}; of several paths the first."""
    found = {}
    for path in paths:
        *_, folder, name = ("", *_path_parts(path))
        found.setdefault(f"{folder}/{name.rpartition('.')[0] or name}", path)
    return found


def _write(run: RunDirectory, name: str, result: dict[str, Any]) -> None:
    text = json.dumps(result, indent=2) + "\n"
    write_bytes(run.path("evaluation", f"{name}.json"), text.encode())
