"""Writes a run's report: one self-contained HTML page with a contact sheet for each person."""

import base64
import io
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from facecluster.pipeline.run.directory import RunDirectory, select_uris
from facecluster.pipeline.run.manifest import ClusterDiagnostics, Manifest, StepEntry
from facecluster.transforms.grouping.face_filter import REASONS, format_left_out_counts
from facecluster.transforms.inputs.paths import path_of_uri
from facecluster.transforms.inputs.sources import SEPARATOR
from facecluster.transforms.people.summary import rank_doubtful_people
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.distinct import distinct_rows
from facecluster.transforms.tables.files import write_bytes
from facecluster.transforms.tables.reasons import count_failure_reasons, failure_reason

UNASSIGNED_SHOWN = 240  # faces
LEFT_OUT_SHOWN = 120  # faces
DOUBTFUL_SHOWN = 50  # people whose names head the page
FAILURES_SHOWN = 5  # inputs of each reason
MESSAGE_LENGTH = 300  # characters of a failure's message
TILE_PX = 112  # side of a tile's image: sharp at the page's 56 px on a high-density screen
LARGE_PX = 224  # the same for a representative's tile, which is twice as large
IMAGE_QUALITY = 80  # JPEG; at TILE_PX about 3 KB a face, half of a 160 px thumbnail
URL_CHARACTERS = ":/?#[]@!$&'()*+,;=%"  # that a URL may have (RFC 3986), besides letters and digits
LEAST_FACES = {"wide": 21, "middle": 7, "narrow": 0}  # of a contact sheet, by its card's width


@dataclass(frozen=True)
class FaceTile:
    """A face on the page.

    Attributes:
      title: what the browser shows when the pointer is on the tile.
      link: URL of the photo, None if a browser cannot open it.
      image: the thumbnail as a data URI, None if it cannot be decoded.
      probability: of belonging to the person, None if unassigned.
      pair: number of the photo among those that contain the person more than once.
    """

    title: str
    link: str | None
    image: str | None
    probability: float | None = None
    pair: int | None = None


@dataclass(frozen=True)
class ContactSheet:
    """A person on the page.

    Attributes:
      size, n_photos: faces of the person, and photos that they are in.
      n_doubled: photos that contain the person more than once.
      is_doubtful: whether most faces are probably of other people.
      tiles: the representative face, then others by falling probability.
      n_hidden: faces that the page does not show.
    """

    person_id: str
    size: int
    n_photos: int
    n_doubled: int
    is_doubtful: bool
    tiles: list[FaceTile]
    n_hidden: int

    @property
    def width(self) -> str:
        """The width of the card, which its tiles should fill."""
        return next(width for width, least in LEAST_FACES.items() if len(self.tiles) >= least)


@dataclass(frozen=True)
class FailureGroup:
    """The failures for one reason, in words; `first` holds (uri, message) of a few."""

    reason: str
    errors: list[str]  # such as "decode: OSError"
    count: int
    first: list[tuple[str, str]]


@dataclass(frozen=True)
class StepSummary:
    """A step's entry in the manifest, as the page shows it; settings by dotted name."""

    name: str
    finished_at: str | None
    seconds: float | None
    counts: dict[str, int]
    settings: dict[str, str]


def write_report(run: RunDirectory, max_people: int = 500, faces_per_person: int = 48) -> str:
    """Writes RUN/report/index.html from the run's tables and manifest, and returns its path.

    The page contains its images as data URIs, loads nothing and runs no script, so it can be opened
    from a disk, copied and sent. Only the thumbnails on the page are held in memory.

    Args:
      run: a run with embedded photos; before grouping, all its faces are shown as unassigned.
      max_people: contact sheets on the page, largest people first.
      faces_per_person: faces on a contact sheet, the representative included; at least 1.
    """
    photos = run.read_shards("photos", ["photo_id", "uri"])[0]
    failures = run.read_shards("failures", schema.FAILURES.names)[0]
    assignments = _assignments(run)
    people = run.read("people") if run.exists("people") else schema.PEOPLE.empty_table()

    largest = people.sort_by([("size", "descending"), ("person_id", "ascending")])[:max_people]
    rows_of = _rows_by_person(largest, assignments)
    is_left_out = pc.is_valid(assignments["left_out"])
    is_unassigned = pc.and_not(pc.is_null(assignments["person_id"]), is_left_out)
    unassigned = assignments.filter(is_unassigned).sort_by("face_id")
    unassigned_rows = unassigned[:UNASSIGNED_SHOWN].to_pylist()
    left_out = assignments.filter(is_left_out).sort_by("face_id")
    left_out_rows = left_out[:LEFT_OUT_SHOWN].to_pylist()

    shown = [rows[:faces_per_person] for rows in rows_of.values()]
    large = {rows[0]["face_id"] for rows in shown if rows}
    rows = [row for rows in [*shown, unassigned_rows, left_out_rows] for row in rows]
    tiles = _TileMaker(
        uris=select_uris(photos, {row["photo_id"] for row in rows}),
        images=_images(run, {row["face_id"] for row in rows}, large),
    )

    manifest = run.manifest()
    steps = _summarize_steps(manifest)
    doubtful = [person_id for person_id, _ in rank_doubtful_people(people)]
    is_shown = set(largest["person_id"].to_pylist())
    diagnostics = (manifest.cluster and manifest.cluster.diagnostics) or ClusterDiagnostics()
    collages = [
        (_file_name(uri), _link(uri))
        for _, uri in sorted(select_uris(photos, diagnostics.collage_photos).items())
    ]
    page = _template().render(
        name=PurePosixPath(run.root).name or run.root,
        versions=manifest.versions,
        steps=steps,
        finished_at=next((s.finished_at for s in reversed(steps) if s.finished_at), None),
        n_photos=len(photos),
        n_duplicates=len(photos) - len(distinct_rows(photos, "photo_id")),
        n_faces=len(assignments),
        n_people=len(people),
        n_unassigned=len(unassigned),
        n_left_out=len(left_out),
        collages=collages,
        n_collages=diagnostics.collages,
        left_out_reasons=format_left_out_counts(Counter(left_out["left_out"].to_pylist())),
        n_failures=len(failures),
        is_grouped=run.exists("people"),
        people=[
            _contact_sheet(person, rows_of[person["person_id"]], faces_per_person, tiles, doubtful)
            for person in largest.to_pylist()
        ],
        n_doubtful=len(doubtful),
        doubtful=[name for name in doubtful if name in is_shown][:DOUBTFUL_SHOWN],
        unassigned=[tiles.make(row) for row in unassigned_rows],
        left_out=[tiles.make(row) for row in left_out_rows],
        failures=_failure_groups(failures),
        message_length=MESSAGE_LENGTH,
    )
    path = run.path("report", "index.html")
    write_bytes(path, page.encode("utf-8", "replace"))
    return path


def _assignments(run: RunDirectory) -> pa.Table:
    """The assignments, one row per face: the faces of a photo with two URIs are stored twice."""
    if run.exists("assignments"):
        table = run.read("assignments")
    else:
        table = run.read_shards("faces", ["face_id", "photo_id"])[0]
        for field in list(schema.ASSIGNMENTS)[2:]:
            table = table.append_column(field.name, pa.nulls(len(table), field.type))
    return distinct_rows(table, "face_id")


def _rows_by_person(people: pa.Table, assignments: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Each person's assignments: the representative face, then by falling probability."""
    rows = assignments.filter(pc.is_in(assignments["person_id"], people["person_id"]))
    rows = rows.sort_by([("probability", "descending"), ("distance", "ascending"),
                         ("face_id", "ascending")])  # fmt: skip
    rows_of = {person_id: [] for person_id in people["person_id"].to_pylist()}
    for row in rows.to_pylist():
        rows_of[row["person_id"]].append(row)
    representatives = set(people["representative_face_id"].to_pylist())
    for rows in rows_of.values():
        rows.sort(key=lambda row: row["face_id"] not in representatives)  # stable
    return rows_of


def _contact_sheet(
    person: Mapping[str, Any],
    rows: list[dict[str, Any]],
    faces_per_person: int,
    tiles: "_TileMaker",
    doubtful: Collection[str],
) -> ContactSheet:
    faces_of_photo = Counter(row["photo_id"] for row in rows)
    doubled = [photo_id for photo_id, count in faces_of_photo.items() if count > 1]
    pairs = {photo_id: number for number, photo_id in enumerate(doubled, start=1)}
    return ContactSheet(
        person_id=person["person_id"],
        size=person["size"],
        n_photos=person["n_photos"],
        n_doubled=len(doubled),
        is_doubtful=person["person_id"] in doubtful,
        tiles=[tiles.make(row, pairs.get(row["photo_id"])) for row in rows[:faces_per_person]],
        n_hidden=max(0, len(rows) - faces_per_person),
    )


@dataclass(frozen=True)
class _TileMaker:
    """Makes tiles from rows of the assignments.

    Attributes:
      uris: by photo_id.
      images: data URIs by face_id.
    """

    uris: Mapping[str, str]
    images: Mapping[str, str | None]

    def make(self, row: Mapping[str, Any], pair: int | None = None) -> FaceTile:
        uri = self.uris.get(row["photo_id"])
        lines = [_file_name(uri) if uri else f"photo {row['photo_id']}"]
        if row["left_out"]:
            lines.append(REASONS[row["left_out"]])
        assigned = row["person_id"] is not None
        if assigned:
            lines.append(f"probability {row['probability']:.2f}, distance {row['distance']:.2f}")
        if pair:
            lines.append(f"photo {pair} of those that contain this person more than once")
        return FaceTile(
            title="\n".join(lines),
            link=_link(uri) if uri else None,
            image=self.images.get(row["face_id"]),
            probability=row["probability"] if assigned else None,
            pair=pair,
        )


def _file_name(uri: str) -> str:
    """The last part of a path; for a member of a container, the container's and its own."""
    path, separator, member = uri.rpartition(SEPARATOR)
    name = PurePosixPath(path).name + separator + member if separator else PurePosixPath(uri).name
    return name or uri


def _link(uri: str) -> str | None:
    """A URL that a browser can open: for a member of a container that of the container.

    None for gs:// and the like, which a browser cannot open.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    if scheme and scheme[1].lower() not in ("file", "http", "https"):
        return None
    if scheme:
        return quote(uri, safe=URL_CHARACTERS)
    return Path(os.path.abspath(_local_file(uri))).as_uri()


def _local_file(uri: str) -> str:
    """The path of a photo, or of the container that holds it."""
    path = path_of_uri(uri)
    if not os.path.exists(path):
        for separator in re.finditer(re.escape(SEPARATOR), uri):
            container = path_of_uri(uri[: separator.start()])
            if os.path.isfile(container):
                return container
    return path


def _images(
    run: RunDirectory, face_ids: Collection[str], large: Collection[str]
) -> dict[str, str | None]:
    """Thumbnails of `face_ids` as data URIs, of LARGE_PX for `large`, else of TILE_PX."""
    images: dict[str, str | None] = {}
    wanted = pa.array(face_ids, pa.string())
    for shard in run.complete_shards():  # one at a time, as a shard holds many thumbnails
        face_ids = run.read_shards("faces", ["face_id"], [shard])[0]["face_id"]
        if not pc.any(pc.is_in(face_ids, wanted)).as_py():
            continue
        faces = run.read_shards("faces", ["face_id", "thumbnail"], [shard])[0]
        for row in faces.filter(pc.is_in(faces["face_id"], wanted)).to_pylist():
            face_id = row["face_id"]
            if face_id not in images:
                side = LARGE_PX if face_id in large else TILE_PX
                images[face_id] = _data_uri(row["thumbnail"], side)
    return images


def _data_uri(jpeg: bytes, side: int) -> str | None:
    """The JPEG as a data URI, reduced to `side` if it is larger; None if it is not an image."""
    try:
        image = Image.open(io.BytesIO(jpeg))
        if max(image.size) > side:
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            small = io.BytesIO()
            image.save(small, "JPEG", quality=IMAGE_QUALITY)
            jpeg = small.getvalue()
    except OSError:
        return None
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _failure_groups(failures: pa.Table) -> list[FailureGroup]:
    """Failures by reason, the most frequent first."""
    counts = count_failure_reasons(failures)
    groups = {reason: ([], set()) for reason in counts}
    for row in failures.select(["step", "error", "uri", "message"]).to_pylist():
        first, errors = groups[failure_reason(row["step"], row["error"])]
        errors.add(f"{row['step']}: {row['error']}")
        if len(first) < FAILURES_SHOWN:
            first.append((row["uri"], row["message"]))
    return [
        FailureGroup(reason, sorted(errors), counts[reason], first)
        for reason, (first, errors) in groups.items()
    ]


def _summarize_steps(manifest: Manifest) -> list[StepSummary]:
    """The steps of the run, in the order in which they finished; a running one is the last."""

    def finished(entry: StepEntry) -> tuple[bool, datetime]:
        return entry.finished_at is None, entry.finished_at or entry.started_at

    return [_summarize(entry) for entry in sorted(manifest.steps.values(), key=finished)]


def _summarize(entry: StepEntry) -> StepSummary:
    values = {name: value for name, value in asdict(entry).items() if value is not None}
    counts, options = values.pop("counts", {}), values.pop("options")
    numbers = {
        name.removeprefix("n_"): count for name, count in counts.items() if isinstance(count, int)
    }
    shown_in_header = ("started_at", "finished_at", "seconds")
    details = {name: values[name] for name in sorted(values) if name not in shown_in_header}
    return StepSummary(
        name=entry.step,
        finished_at=_format_date(entry.finished_at) if entry.finished_at else None,
        seconds=entry.seconds,
        counts=numbers,
        settings=_flatten(options) | _flatten(details),
    )


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names, their values as one would type them."""
    flat = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _format_date(at: datetime) -> str:
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


def _amount(number: int) -> str:
    return f"{number:,}"


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
