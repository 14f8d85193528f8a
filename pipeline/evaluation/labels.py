"""Labels of photos: who is on each photo, and which of its faces the label is about."""

import csv
import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from facecluster.errors import InputError
from facecluster.transforms.faces.boxes import is_possible, prominence
from facecluster.transforms.tables.codec import stored_vectors
from facecluster.transforms.tables.distinct import distinct_rows

FOLDER_LABELS = "folder"  # instead of a CSV file: a photo's person is the name of its folder
PEOPLE_SEPARATOR = ";"  # between the people of one photo in a labels CSV


def label_photos(labels: str, photo_ids: dict[str, str]) -> tuple[dict[str, tuple[str, ...]], int]:
    """The people on each photo.

    Args:
      labels: "folder" (a photo's person is the name of its folder), or a CSV file with a header and
        the columns photo (its file name, or as much of the end of its path as identifies it) and
        person (several people as `a;b`).
      photo_ids: {uri: photo_id}; one label may match several URIs of the same photo.

    Returns:
      ({uri: its people} of all URIs with a label, number of labels that match no URI).

    Raises:
      InputError: the labels cannot be read, or match none of the URIs.
    """
    if labels == FOLDER_LABELS:
        return {uri: (_folder_name(uri),) for uri in photo_ids}, 0
    return _match_labels(labels, photo_ids)


def find_labeled_faces(photos: pa.Table, faces: pa.Table) -> dict[str, int]:
    """The face that each photo's label is about: its largest central face.

    This is the face with the highest `prominence`; of several, the first. A face whose box is
    damaged is left out.

    Args:
      photos: columns photo_id, uri, width, height; duplicates have one row per URI.
      faces: columns photo_id, box; a face may have several rows.

    Returns:
      {uri: row in `faces`} of all photos with a face.
    """
    distinct = distinct_rows(photos, "photo_id")
    photo_ids = distinct["photo_id"].combine_chunks()
    owner = pc.index_in(faces["photo_id"].combine_chunks(), value_set=photo_ids)
    rows = np.flatnonzero(owner.is_valid().to_numpy(zero_copy_only=False))
    owner = owner.drop_null().to_numpy()

    boxes = stored_vectors(faces["box"])[rows]
    width, height = (distinct[side].to_numpy()[owner] for side in ("width", "height"))
    kept = is_possible(boxes, width, height)
    boxes, rows, owner, width, height = (
        values[kept] for values in (boxes, rows, owner, width, height)
    )
    order = np.lexsort((-prominence(boxes, width, height), owner))

    best = np.full(len(distinct), -1)
    owners_with_face, first = np.unique(owner[order], return_index=True)
    best[owners_with_face] = rows[order[first]]
    photo = pc.index_in(photos["photo_id"].combine_chunks(), value_set=photo_ids)
    row_of = best[photo.to_numpy(zero_copy_only=False)]
    return {
        uri: row
        for uri, row in zip(photos["uri"].to_pylist(), row_of.tolist(), strict=True)
        if row >= 0
    }


def split_path(path: str) -> tuple[str, ...]:
    """The folders and the file name of a path or URI."""
    return tuple(part for part in path.split("/") if part not in ("", "."))


def _match_labels(path: str, photo_ids: dict[str, str]) -> tuple[dict[str, tuple[str, ...]], int]:
    """As `label_photos`, for a CSV file.

    A label matches the URIs that end in its path; of several matching labels, the longest applies.
    """
    labels = _read_labels(path)
    lengths = sorted({len(ending) for ending in labels}, reverse=True)
    people, uri_of = {}, {}
    for uri, photo_id in photo_ids.items():
        parts = split_path(uri)
        endings = (parts[-length:] for length in lengths if length <= len(parts))
        ending = next((ending for ending in endings if ending in labels), None)
        if ending is None:
            continue
        other = uri_of.setdefault(ending, uri)
        if photo_ids[other] != photo_id:
            raise InputError(
                f"{path} labels {'/'.join(ending)}, but {other} and {uri} both end in it: write as "
                "much of the path as distinguishes them"
            )
        people[uri] = labels[ending]
    if not people:
        first = "/".join(next(iter(labels), ("nothing",)))
        raise InputError(
            f"{path} labels none of the {len(photo_ids)} photos of the run (its first label is for "
            f"{first}): the first column must contain their file names or the ends of their paths"
        )
    return people, len(labels) - len(uri_of)


def _read_labels(path: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    """{parts of the photo's path: its people} of a labels CSV; skips rows without a person."""
    rows = _read_csv(path)
    for line, row in rows or [(1, [""])]:
        if len(row) < 2:
            raise InputError(
                f"{path} line {line}: expected two columns separated by a comma, photo and person, "
                f"found {row[0]!r}"
            )
    labels = {}
    for line, row in rows[1:]:  # the first is the header
        photo = split_path(row[0].strip())
        people = tuple(sorted({name.strip() for name in row[1].split(PEOPLE_SEPARATOR)} - {""}))
        if photo and people and labels.setdefault(photo, people) != people:
            raise InputError(
                f"{path} line {line}: {row[0]!r} is labeled twice, as "
                f"{PEOPLE_SEPARATOR.join(labels[photo])!r} and as {row[1]!r}: write all people of "
                f"a photo in one row, as `a{PEOPLE_SEPARATOR}b`"
            )
    return labels


def _read_csv(path: str) -> list[tuple[int, list[str]]]:
    """(line number, cells) of every row of a CSV file that is not blank."""
    if not FileSystems.exists(path):
        raise InputError(
            f"{path} does not exist: give a CSV file of photo and person, or `{FOLDER_LABELS}` if "
            "each photo is in a folder named after its person"
        )
    try:
        with FileSystems.open(path) as file:
            text = file.read().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""))
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error


def _folder_name(uri: str) -> str:
    return "".join(split_path(uri)[-2:-1])
