"""Writes a run's report: one HTML page, complete in itself, with a contact sheet per person."""

import base64
import io
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.grouping.face_filter import REASONS, in_words
from facecluster.transforms.inputs.sources import SEPARATOR
from facecluster.transforms.people.checks import heterogeneous
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.distinct import distinct_rows
from facecluster.transforms.tables.files import write_bytes

UNASSIGNED_SHOWN = 240  # faces
LEFT_OUT_SHOWN = 120  # faces
FAILURES_SHOWN = 5  # inputs of each (step, error)
MESSAGE_LENGTH = 300  # characters of a failure's message
TILE_PX = 112  # side of a face's picture: sharp at the page's 56 px on a dense screen
LARGE_PX = 224  # the same for a representative, which is twice as large
PICTURE_QUALITY = 80  # JPEG; at TILE_PX about 3 KB a face, half of a 160 px thumbnail
STEP_RECORD = {"finished_at", "seconds", "counts", "options"}  # shown in their own places


@dataclass(frozen=True)
class Face:
    """A face on the page; `pair` numbers the photos that show the same person more than once."""

    title: str
    link: str | None
    picture: str | None
    probability: float | None = None
    pair: int | None = None


@dataclass(frozen=True)
class Person:
    """A contact sheet; faces[0] is the representative, n_hidden counts the faces left out.

    is_doubtful tells that the faces differ too much for one person.
    """

    person_id: str
    size: int
    n_photos: int
    n_doubled: int
    is_doubtful: bool
    faces: list[Face]
    n_hidden: int

    @property
    def width(self) -> str:
        """How wide a card its faces fill."""
        return "wide" if len(self.faces) > 20 else "middle" if len(self.faces) > 6 else "narrow"


@dataclass(frozen=True)
class FailureGroup:
    """The inputs that one step refused with one error; `first` holds (uri, message) of a few."""

    step: str
    error: str
    count: int
    first: list[tuple[str, str]]


@dataclass(frozen=True)
class Step:
    """A step of the run as the manifest tells of it; settings by dotted name."""

    name: str
    finished_at: str | None
    seconds: float | None
    counts: dict[str, Any]
    settings: dict[str, str]


def write_report(run: RunDirectory, max_people: int = 500, faces_per_person: int = 48) -> str:
    """Writes RUN/report/index.html from the run's tables and manifest, and returns its path.

    The page holds its pictures as data URIs, loads nothing and runs no script, so it can be opened
    from a disk, copied and sent. Of the thumbnails only those on the page are held in memory.

    Args:
      run: a run with embedded photos; until its faces are grouped, all of them are unassigned.
      max_people: contact sheets on the page, largest people first.
      faces_per_person: faces on a contact sheet, the representative included; at least 1.
    """
    photos = run.read_shards("photos", ["photo_id", "uri"])[0]
    failures = run.read_shards("failures", schema.FAILURES.names)[0]
    assignments = _assignments(run)
    people = run.read("people") if run.exists("people") else schema.PEOPLE.empty_table()

    largest = people.sort_by([("size", "descending"), ("person_id", "ascending")])[:max_people]
    sheets = _contact_sheets(largest, assignments)
    is_left_out = pc.is_valid(assignments["left_out"])
    is_unassigned = pc.and_not(pc.is_null(assignments["person_id"]), is_left_out)
    unassigned = assignments.filter(is_unassigned).sort_by("face_id")
    unassigned_rows = unassigned[:UNASSIGNED_SHOWN].to_pylist()
    left_out = assignments.filter(is_left_out).sort_by("face_id")
    left_out_rows = left_out[:LEFT_OUT_SHOWN].to_pylist()

    shown = [rows[:faces_per_person] for rows in sheets.values()]
    large = {rows[0]["face_id"] for rows in shown if rows}
    rows = [row for rows in [*shown, unassigned_rows, left_out_rows] for row in rows]
    pictures = _pictures(run, {row["face_id"] for row in rows}, large)
    uris = _uris(photos, {row["photo_id"] for row in rows})

    manifest = run.manifest()
    doubtful = set(heterogeneous(largest)["person_id"].to_pylist())
    page = _template().render(
        name=PurePosixPath(run.root).name or run.root,
        versions=manifest.get("versions", {}),
        steps=_steps(manifest),
        n_photos=len(photos),
        n_copies=len(photos) - len(distinct_rows(photos, "photo_id")),
        n_faces=len(assignments),
        n_people=len(people),
        n_unassigned=len(unassigned),
        n_left_out=len(left_out),
        left_out_for=in_words(Counter(left_out["left_out"].to_pylist())),
        n_failures=len(failures),
        is_grouped=run.exists("people"),
        people=[
            _person(person, sheets[person["person_id"]], faces_per_person, uris, pictures, doubtful)
            for person in largest.to_pylist()
        ],
        unassigned=[_face(row, uris, pictures) for row in unassigned_rows],
        left_out=[_face(row, uris, pictures) for row in left_out_rows],
        failures=_failure_groups(failures),
        message_length=MESSAGE_LENGTH,
    )
    path = run.path("report", "index.html")
    write_bytes(path, page.encode("utf-8", "replace"))
    return path


def _assignments(run: RunDirectory) -> pa.Table:
    """The assignments, one row per face: a photo under two names brings its faces twice."""
    if run.exists("assignments"):
        table = run.read("assignments")
    else:
        table = run.read_shards("faces", ["face_id", "photo_id"])[0]
        for field in list(schema.ASSIGNMENTS)[2:]:
            table = table.append_column(field.name, pa.nulls(len(table), field.type))
    return distinct_rows(table, "face_id")


def _contact_sheets(people: pa.Table, assignments: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Each person's assignments: the representative face, then by falling probability."""
    rows = assignments.filter(pc.is_in(assignments["person_id"], people["person_id"]))
    rows = rows.sort_by([("probability", "descending"), ("distance", "ascending"),
                         ("face_id", "ascending")])  # fmt: skip
    sheets = {person_id: [] for person_id in people["person_id"].to_pylist()}
    for row in rows.to_pylist():
        sheets[row["person_id"]].append(row)
    representatives = set(people["representative_face_id"].to_pylist())
    for sheet in sheets.values():
        sheet.sort(key=lambda row: row["face_id"] not in representatives)  # stable: order stays
    return sheets


def _person(
    person: Mapping[str, Any],
    rows: list[dict[str, Any]],
    faces_per_person: int,
    uris: Mapping[str, str],
    pictures: Mapping[str, str | None],
    doubtful: Collection[str],
) -> Person:
    faces_of_photo = Counter(row["photo_id"] for row in rows)
    doubled = [photo_id for photo_id, count in faces_of_photo.items() if count > 1]
    pairs = {photo_id: number for number, photo_id in enumerate(doubled, start=1)}
    return Person(
        person_id=person["person_id"],
        size=person["size"],
        n_photos=person["n_photos"],
        n_doubled=len(doubled),
        is_doubtful=person["person_id"] in doubtful,
        faces=[_face(row, uris, pictures, pairs) for row in rows[:faces_per_person]],
        n_hidden=max(0, len(rows) - faces_per_person),
    )


def _face(
    row: Mapping[str, Any],
    uris: Mapping[str, str],
    pictures: Mapping[str, str | None],
    pairs: Mapping[str, int] | None = None,
) -> Face:
    uri = uris.get(row["photo_id"])
    lines = [_file_name(uri) if uri else f"photo {row['photo_id']}"]
    if row["left_out"]:
        lines.append(REASONS[row["left_out"]])
    assigned = row["person_id"] is not None
    if assigned:
        lines.append(f"probability {row['probability']:.2f}, distance {row['distance']:.2f}")
    pair = (pairs or {}).get(row["photo_id"])
    if pair:
        lines.append(f"photo {pair} of those that contain this person twice")
    return Face(
        title="\n".join(lines),
        link=_link(uri) if uri else None,
        picture=pictures.get(row["face_id"]),
        probability=row["probability"] if assigned else None,
        pair=pair,
    )


def _file_name(uri: str) -> str:
    """The last part of a path; of a member of a container, behind the container's."""
    path, separator, member = uri.rpartition(SEPARATOR)
    name = PurePosixPath(path).name + separator + member if separator else PurePosixPath(uri).name
    return name or uri


def _link(uri: str) -> str | None:
    """What a browser can open: file:// for a local path, nothing for gs:// and the like."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    if scheme is None:
        if os.path.isfile(uri.partition(SEPARATOR)[0]) and SEPARATOR in uri:
            return None  # a member of a container
        return Path(os.path.abspath(uri)).as_uri()
    return uri if scheme[1].lower() in ("file", "http", "https") else None


def _uris(photos: pa.Table, photo_ids: Collection[str]) -> dict[str, str]:
    """The uri of each of `photo_ids`; of a photo under several names, the first."""
    wanted = photos.filter(pc.is_in(photos["photo_id"], pa.array(photo_ids, pa.string())))
    first = distinct_rows(wanted, "photo_id")
    return dict(zip(first["photo_id"].to_pylist(), first["uri"].to_pylist(), strict=True))


def _pictures(
    run: RunDirectory, face_ids: Collection[str], large: Collection[str]
) -> dict[str, str | None]:
    """Thumbnails of `face_ids` as data URIs, read shard by shard, and shrunk if not `large`."""
    pictures: dict[str, str | None] = {}
    wanted = pa.array(face_ids, pa.string())
    for shard in run.complete_shards():
        faces = run.read_shards("faces", ["face_id", "thumbnail"], [shard])[0]
        for row in faces.filter(pc.is_in(faces["face_id"], wanted)).to_pylist():
            face_id = row["face_id"]
            if face_id not in pictures:
                side = LARGE_PX if face_id in large else TILE_PX
                pictures[face_id] = _picture(row["thumbnail"], side)
    return pictures


def _picture(jpeg: bytes, side: int) -> str | None:
    """The JPEG as a data URI, no larger than `side`; None when it is not an image."""
    try:
        image = Image.open(io.BytesIO(jpeg))
        if max(image.size) > side:
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            small = io.BytesIO()
            image.save(small, "JPEG", quality=PICTURE_QUALITY)
            jpeg = small.getvalue()
    except OSError:
        return None
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _failure_groups(failures: pa.Table) -> list[FailureGroup]:
    """Failures by (step, error), the most frequent first."""
    groups = defaultdict(list)
    counts = Counter()
    for row in failures.select(["step", "error", "uri", "message"]).to_pylist():
        key = row["step"], row["error"]
        counts[key] += 1
        if len(groups[key]) < FAILURES_SHOWN:
            groups[key].append((row["uri"], row["message"]))
    return [
        FailureGroup(step, error, counts[step, error], groups[step, error])
        for step, error in sorted(counts, key=lambda key: (-counts[key], key))
    ]


def _steps(manifest: Mapping[str, Any]) -> list[Step]:
    """What the manifest tells of each step, in the order in which they finished."""
    entries = manifest.get("steps", {})
    return [
        Step(
            name=name,
            finished_at=_date(entry.get("finished_at")),
            seconds=entry.get("seconds"),
            counts=entry.get("counts", {}),
            settings=_flat(entry.get("options", {}))
            | _flat({key: entry[key] for key in sorted(entry.keys() - STEP_RECORD)}),
        )
        for name, entry in sorted(
            entries.items(), key=lambda item: (str(item[1].get("finished_at", "")), item[0])
        )
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names, their values as a person would type them."""
    flat = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _date(iso: str | None) -> str | None:
    if iso is None:
        return None
    at = datetime.fromisoformat(iso)
    return f"{at.day} {at:%B %Y, %H:%M} {at.tzname() or ''}".rstrip()


def _duration(seconds: float) -> str:
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _amount(value: Any) -> str:
    """A count from the manifest."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(amount=_amount, counted=_counted, duration=_duration)
    return environment.get_template("report.html.j2")
