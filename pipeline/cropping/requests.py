"""Which crops to cut from which photos: from labeled photos, or from the faces of a run."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from facecluster.errors import UsageError
from facecluster.pipeline.evaluation.assignments import assigned_people, read_assignments
from facecluster.pipeline.evaluation.labels import find_labeled_faces, label_photos
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.crops.cut import NO_FACE
from facecluster.transforms.crops.names import crop_name, unique_names
from facecluster.transforms.faces.boxes import is_possible
from facecluster.transforms.records import Face, Failure
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.codec import stored_vectors
from facecluster.transforms.tables.distinct import distinct_rows

PEOPLE_LABELS = "people"  # instead of labels: the people that a run found


@dataclass(frozen=True)
class CropRequest:
    """The crops to cut from one photo.

    Attributes:
      uri: of the photo.
      names: of the crops, PERSON/NAME; if `faces` are given, one for each of them.
      faces: the faces to cut; empty if they are still to be detected.
      photo_id: of the photo when its faces were found.
      failure: why there is nothing to cut.
    """

    uri: str
    names: tuple[str, ...]
    faces: tuple[Face, ...] = ()
    photo_id: str | None = None
    failure: Failure | None = None


def request_photo_crops(uris: Sequence[str], labels: str, form: str) -> list[CropRequest]:
    """Requests one crop of each photo that is labeled with one person.

    Args:
      uris: the photos.
      labels: "folder" or a CSV file, as in `label_photos`.
      form: of the crops, as in CropOptions.

    Returns:
      Requests for the photos labeled with one person, sorted by URI.

    Raises:
      InputError: the labels cannot be read or match none of the photos.
      UsageError: the labels are the people of a run.
    """
    if labels == PEOPLE_LABELS:
        raise UsageError("--labels people are those of a run: give --run instead of --input")
    people, _ = label_photos(labels, {uri: uri for uri in uris})
    return _with_unique_names(
        CropRequest(uri, (crop_name(people[uri][0], uri, form),))
        for uri in sorted(people)
        if len(people[uri]) == 1
    )


def request_run_crops(run: RunDirectory, labels: str, form: str) -> list[CropRequest]:
    """Requests crops of faces whose boxes a run has stored.

    Args:
      run: a run; if `labels` is "people", with assignments.
      labels: "people" (every assigned face, once, under its person_id), or "folder" or a CSV file
        (the largest central face of each photo labeled with one person).
      form: of the crops, as in CropOptions.

    Returns:
      Requests for the photos of these faces, sorted by URI. With "folder" or a CSV file, labeled
      photos without a face are included as failures.

    Raises:
      InputError: the labels cannot be read or match none of the photos; the run has no
        assignments, or outdated ones.
    """
    photos, _ = run.read_shards("photos", ["photo_id", "uri", "width", "height"])
    faces, _ = run.read_shards(
        "faces", ["face_id", "photo_id", "box", "landmarks", "detection_score", "turn"]
    )
    if labels == PEOPLE_LABELS:
        return _with_unique_names(_request_assigned_faces(run, photos, faces, form))
    return _with_unique_names(_request_labeled_faces(run, labels, photos, faces, form))


def hash_requests(requests: Sequence[CropRequest]) -> str:
    """A SHA-256 in hexadecimal of the photos, names, boxes and turns of requests."""
    digest = hashlib.sha256()
    for request in requests:
        faces = [(face.box.tolist(), face.turn) for face in request.faces]
        content = [request.uri, request.names, request.photo_id, faces]
        digest.update(json.dumps(content).encode())
    return digest.hexdigest()


def _request_assigned_faces(
    run: RunDirectory, photos: pa.Table, faces: pa.Table, form: str
) -> list[CropRequest]:
    """Requests all faces that have a person; of duplicate photos, only those of the first URI.

    A face whose box is damaged is left out.
    """
    faces = distinct_rows(faces, "face_id")
    people = assigned_people(run, read_assignments(run), faces["face_id"]).to_pylist()
    boxes = stored_vectors(faces["box"])
    rows: dict[str, list[tuple[str, int]]] = {}  # {photo_id: [(face_id, row)]}
    for row, (face_id, photo_id) in enumerate(
        zip(faces["face_id"].to_pylist(), faces["photo_id"].to_pylist(), strict=True)
    ):
        if people[row] is not None:
            rows.setdefault(photo_id, []).append((face_id, row))
    face_at = _face_reader(faces)
    requests = []
    for photo in distinct_rows(photos.sort_by("uri"), "photo_id").to_pylist():
        uri, photo_id = photo["uri"], photo["photo_id"]
        of_photo = sorted(
            (face_id, row)
            for face_id, row in rows.get(photo_id, [])
            if is_possible(boxes[row : row + 1], photo["width"], photo["height"])
        )
        indices = [int(face_id.rpartition("-")[2]) for face_id, _ in of_photo]
        if len(of_photo) == 1:
            indices = [None]
        names = tuple(
            crop_name(people[row], uri, form, index)
            for (_, row), index in zip(of_photo, indices, strict=True)
        )
        if names:
            found = tuple(face_at(row) for _, row in of_photo)
            requests.append(CropRequest(uri, names, found, photo_id))
    return requests


def _request_labeled_faces(
    run: RunDirectory, labels: str, photos: pa.Table, faces: pa.Table, form: str
) -> list[CropRequest]:
    """Requests the labeled face of each photo; a photo that failed in the run fails here too."""
    photo_ids = dict(zip(photos["uri"].to_pylist(), photos["photo_id"].to_pylist(), strict=True))
    failures, _ = run.read_shards("failures", schema.FAILURES.names)
    failed = {row.pop("uri"): Failure(**row) for row in failures.to_pylist()}
    people, _ = label_photos(labels, {**{uri: uri for uri in failed}, **photo_ids})
    row_of = find_labeled_faces(photos, faces)
    face_at = _face_reader(faces)
    requests = []
    for uri in sorted(people):
        if len(people[uri]) != 1:
            continue
        names = (crop_name(people[uri][0], uri, form),)
        if uri in row_of:
            requests.append(CropRequest(uri, names, (face_at(row_of[uri]),), photo_ids[uri]))
        else:
            requests.append(CropRequest(uri, names, failure=failed.get(uri, NO_FACE)))
    return requests


def _face_reader(faces: pa.Table) -> Callable[[int], Face]:
    """A function that makes a Face of a row of a faces table."""
    boxes, landmarks = (stored_vectors(faces[column]) for column in ("box", "landmarks"))
    landmarks = landmarks.reshape(-1, 5, 2)
    scores, turns = faces["detection_score"].to_numpy(), faces["turn"].to_pylist()
    # Copies, because pickling a view would pickle the whole column.
    return lambda row: Face(
        boxes[row].copy(), landmarks[row].copy(), float(scores[row]), turn=turns[row]
    )


def _with_unique_names(requests: Iterable[CropRequest]) -> list[CropRequest]:
    """The requests, with numbers appended to names that occur twice."""
    requests = list(requests)
    names = iter(unique_names([name for request in requests for name in request.names]))
    return [
        replace(request, names=tuple(next(names) for _ in request.names)) for request in requests
    ]
