"""The report: its numbers, limits and escaping, and how a browser displays it."""

import base64
import colorsys
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facecluster.pipeline.report import report
from facecluster.pipeline.report.report import write_report
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.pipeline.run.manifest import (
    ClusterDiagnostics,
    ClusterEntry,
    EmbedCounts,
    EmbedEntry,
)
from facecluster.transforms.inputs.paths import uri_of_path
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.parquet_files import write_table

HOSTILE = "<img src=x onerror=alert(1)>.jpg"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


def write_run(root, photos, failures=(), n_shards=2, people=None) -> RunDirectory:
    """A small run on disk, its thumbnails plain colors (see `color_of`).

    Args:
      root: the folder.
      photos: {uri: [person_id or None of each face, "-REASON" if it was left out]}; the
        probability of the i-th face of a person falls with i, its first face is the representative.
      failures: rows of the failures table.
      n_shards: the photos are distributed over this many shards.
      people: False writes no people and assignments, as before grouping.
    """
    run = RunDirectory(str(root))
    shards = [{"photos": [], "faces": [], "failures": []} for _ in range(n_shards)]
    shards[0]["failures"] = list(failures)
    assignments, sheets = {}, {}
    for number, (uri, persons) in enumerate(photos.items()):
        shard, photo_id = shards[number % n_shards], photo_id_of(uri)
        shard["photos"].append((photo_id, uri, 640, 480, None, 1, False, len(persons), None))
        for index, person_id in enumerate(persons):
            face_id = schema.face_id(photo_id, index)
            picture = jpeg(color_of(face_id))
            shard["faces"].append(
                (face_id, photo_id, [0] * 4, [0] * 10, 0, 0.9, *[1] * 6, picture, [0.0])
            )
            reason, person_id = _left_out(person_id)
            rank = len(sheets.setdefault(person_id, {}))
            sheets[person_id][face_id] = photo_id
            sure = (0.0, None) if person_id is None else (0.5**rank, 0.25)
            assignments.setdefault(face_id, (face_id, photo_id, person_id, *sure, False, reason))
    for number, shard in enumerate(shards):
        for name, rows in shard.items():
            table_schema = {"photos": schema.PHOTOS, "failures": schema.FAILURES,
                            "faces": schema.faces(pa.list_(pa.float32(), 1))}[name]  # fmt: skip
            write_table(run.shard_path(name, f"{number:03d}"), table(rows, table_schema))
    if people is not False:
        sheets.pop(None, None)
        rows = [(person_id, len(sheet), len(set(sheet.values())), next(iter(sheet)), 0.9, 0.5)
                for person_id, sheet in sheets.items()]  # fmt: skip
        run.write("people", table(rows, schema.PEOPLE))
        run.write("assignments", table(list(assignments.values()), schema.ASSIGNMENTS))
    return run


def _left_out(person_id):
    is_left_out = (person_id or "").startswith("-")
    return (person_id[1:], None) if is_left_out else (None, person_id)


def photo_id_of(uri: str) -> str:
    """Names that differ only in a trailing "+copy" are the same photo."""
    return hashlib.sha256(uri.removesuffix("+copy").encode()).hexdigest()


def color_of(face_id: str) -> tuple[int, int, int]:
    """A saturated color, which nothing else on the page has."""
    hue = int(hashlib.sha256(face_id.encode()).hexdigest()[:4], 16) / 0xFFFF
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 1, 1))


def jpeg(color, side=160) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), color).save(file, "JPEG")
    return file.getvalue()


def table(rows, table_schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [[]] * len(table_schema)
    arrays = [pa.array(column, field.type)
              for column, field in zip(columns, table_schema, strict=True)]  # fmt: skip
    return pa.Table.from_arrays(arrays, schema=schema.stamped(table_schema))


class Page(HTMLParser):
    """The parsed page: elements as (tag, attributes), text, faces by section."""

    def __init__(self, source: str):
        super().__init__()
        self.source, self.elements, self.words, self.people, self.loose = source, [], [], [], []
        self.feed(source)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        classes = (attributes.get("class") or "").split()
        if "person" in classes:
            self.people.append([])
        elif attributes.get("id") == "unassigned":
            self.people.append(self.loose)
        elif attributes.get("id") == "left-out":
            self.people.append([])
        elif "face" in classes:
            self.people[-1].append(attributes | {"picture": None})
        elif tag == "img":
            self.people[-1][-1]["picture"] = attributes["src"]

    def handle_data(self, data):
        self.words.append(data)

    def sheets(self):
        return self.people[:-1]


def page_of(run, **caps) -> Page:
    path = write_report(run, **caps)
    assert path == run.path("report", "index.html")
    return Page(Path(path).read_text(encoding="utf-8"))


def names(faces) -> list[str]:
    return [face["title"].splitlines()[0] for face in faces]


def test_header_has_the_numbers_of_the_tables(tmp_path):
    photos = {f"/p/{i}.jpg": ["ann"] for i in range(1100)}
    photos |= {"/p/both.jpg": ["ann", "bob"], "/p/bob.jpg": ["bob"], "/p/who.jpg": [None, None]}
    run = write_run(tmp_path / "A & B", photos, [("/p/x", "decode", "OSError", "broken")] * 3)
    counts = EmbedCounts(photos=4321, new_photos=7, failure_reasons={"damaged": 3})
    run.update_manifest(replace(EmbedEntry.start().finish(counts=counts), seconds=3700))
    run.update_manifest(replace(ClusterEntry.start().finish(), seconds=4.24))
    page = page_of(run)
    numbers = "1,103 photos 1,105 faces 2 people 2 unassigned faces 3 failures"
    for expected in (
        "A & B",
        numbers,
        "embed 1 h 01 min · photos 4,321",
        "new photos 7",
        "cluster 4.2 s",
    ):
        assert expected in page.text


def test_people_are_ordered_by_size_and_faces_by_probability_after_the_representative(tmp_path):
    run = write_run(tmp_path, {"/p/1.jpg": ["ann"]} | {f"/p/{i}.jpg": ["bob"] for i in range(2, 6)})
    people, assignments = run.read("people").to_pylist(), run.read("assignments").to_pylist()
    by_name = {f"{i}.jpg": schema.face_id(photo_id_of(f"/p/{i}.jpg"), 0) for i in range(1, 6)}
    probabilities = {"2.jpg": 0.3, "3.jpg": 0.9, "4.jpg": 0.1, "5.jpg": 0.6}
    for row in people:
        if row["person_id"] == "bob":
            row["representative_face_id"] = by_name["5.jpg"]
    for row in assignments:
        for name, probability in probabilities.items():
            if row["face_id"] == by_name[name]:
                row["probability"] = probability
    for name, rows in ("people", people), ("assignments", assignments):
        run.write(name, table([tuple(row.values()) for row in rows], run.read(name).schema))

    page = page_of(run)
    bob, ann = page.sheets()
    assert names(bob) == ["5.jpg", "3.jpg", "2.jpg", "4.jpg"]
    assert names(ann) == ["1.jpg"]
    assert ["first" in face["class"] for face in bob] == [True, False, False, False]
    assert "probability 0.90, distance 0.25" in bob[1]["title"]
    assert "4 faces in 4 photos bob" in page.text
    assert "1 face in 1 photo ann" in page.text


def test_every_face_shows_its_own_thumbnail_and_the_representative_a_larger_one(tmp_path):
    photos = {f"/p/{i}.jpg": [person] for i, person in enumerate(["ann", "bob", None] * 3)}
    page = page_of(write_run(tmp_path, photos, n_shards=3))
    faces = [face for sheet in page.people for face in sheet]
    assert len(faces) == 9
    for face in faces:
        uri = "/p/" + face["title"].splitlines()[0]
        header, data = face["picture"].split(",")
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert header == "data:image/jpeg;base64"
        assert image.size == ((160, 160) if "first" in face["class"] else (report.TILE_PX,) * 2)
        expected = color_of(schema.face_id(photo_id_of(uri), 0))
        difference = [abs(a - b) for a, b in zip(image.getpixel((50, 50)), expected, strict=True)]
        assert max(difference) < 12


def test_faces_beyond_the_cap_are_counted(tmp_path):
    run = write_run(tmp_path, {f"/p/{i}.jpg": ["ann"] for i in range(30)})
    page = page_of(run, faces_per_person=7)
    assert names(page.sheets()[0]) == [f"{i}.jpg" for i in range(7)]
    assert "and 23 more" in page.text
    assert page.source.count("data:image/jpeg") == 7
    assert " more" not in page_of(run, faces_per_person=30).text


def test_faces_left_out_are_shown_apart_with_their_reasons(tmp_path):
    photos = {f"/p/{i}.jpg": ["-sharpness"] for i in range(3)}
    photos |= {"/p/small.jpg": ["-size", "ann"], "/p/ann.jpg": ["ann"], "/p/who.jpg": [None]}
    page = page_of(write_run(tmp_path / "a", photos))
    assert "7 faces 1 person 1 unassigned face 4 faces left out 0 failures" in page.text
    assert "Faces left out 4" in page.text
    assert "too blurred 3, too small 1." in page.text
    unassigned, left_out = page.people[-2:]
    assert names(unassigned) == ["who.jpg"]
    titles = sorted(face["title"] for face in left_out)
    assert titles == [*(f"{i}.jpg\ntoo blurred" for i in range(3)), "small.jpg\ntoo small"]
    assert all(face["picture"] for face in left_out)
    assert "left out" not in page_of(write_run(tmp_path / "b", {"/p/1.jpg": ["ann"]})).text


def test_faces_left_out_beyond_the_cap_are_counted(tmp_path):
    n = report.LEFT_OUT_SHOWN + 7
    page = page_of(write_run(tmp_path, {f"/p/{i}.jpg": ["-pose"] for i in range(n)}))
    assert len(page.people[-1]) == report.LEFT_OUT_SHOWN
    assert "and 7 more" in page.text
    assert "Every face that was grouped belongs to a person." in page.text


def test_people_beyond_the_cap_are_counted(tmp_path):
    run = write_run(
        tmp_path, {f"/p/{i}-{j}.jpg": [f"person-{i}"] for i in range(9) for j in range(i + 1)}
    )
    page = page_of(run, max_people=4)
    assert [len(sheet) for sheet in page.sheets()] == [9, 8, 7, 6]
    assert "5 people are not shown here: the page shows the 4 largest people" in page.text
    assert "9 people" in page.text
    assert "1 person is not shown here" in page_of(run, max_people=8).text
    assert "not shown" not in page_of(run, max_people=9).text


def test_unassigned_faces_are_shown_up_to_the_cap(tmp_path):
    n = report.UNASSIGNED_SHOWN + 5
    page = page_of(write_run(tmp_path, {"/p/ann.jpg": ["ann"], "/p/crowd.jpg": [None] * n}))
    assert len(page.loose) == report.UNASSIGNED_SHOWN
    assert set(names(page.loose)) == {"crowd.jpg"}
    assert "and 5 more" in page.text
    assert not any("probability" in face["title"] for face in page.loose)


def test_failures_are_grouped_counted_and_capped(tmp_path):
    errors = ["OSError"] * 11 + ["SyntaxError"]
    failures = [
        (f"/p/{i}.jpg", "decode", error, f"cut off at {i}") for i, error in enumerate(errors)
    ]
    failures += [("/p/a.jpg", "read", "OSError", "gone"), ("/p/b.jpg", "decode", "Big", "b" * 999)]
    page = page_of(write_run(tmp_path, {}, failures))
    assert "damaged 12 decode: OSError, decode: SyntaxError /p/0.jpg cut off at 0" in page.text
    assert f"and {12 - report.FAILURES_SHOWN} more" in page.text
    assert f"cut off at {report.FAILURES_SHOWN - 1} " in page.text
    assert f"cut off at {report.FAILURES_SHOWN} " not in page.text
    assert "cannot be read 1 read: OSError /p/a.jpg gone" in page.text
    assert "Big 1 decode: Big /p/b.jpg bbb" in page.text
    assert "b" * (report.MESSAGE_LENGTH + 1) not in page.text


def test_a_photo_with_a_person_twice_is_marked(tmp_path):
    photos = {"/p/1.jpg": ["ann", "ann", "bob"], "/p/2.jpg": ["ann"], "/p/3.jpg": ["ann", "ann"],
              "/p/4.jpg": ["bob"], "/p/5.jpg": ["cat", "cat"]}  # fmt: skip
    page = page_of(write_run(tmp_path, photos))
    assert "5 faces in 3 photos 2 photos contain this person more than once" in page.text
    assert "2 faces in 1 photo 1 photo contains this person more than once" in page.text
    assert page.text.count("this person more than once") == 2
    ann = page.sheets()[0]
    marked = [
        name
        for name, face in zip(names(ann), ann, strict=True)
        if "more than once" in face["title"]
    ]
    assert sorted(marked) == ["1.jpg", "1.jpg", "3.jpg", "3.jpg"]


def with_confidences(run, confidences):
    """Gives people other confidences, by the beginning of their ids."""
    people = run.read("people")
    names = people["person_id"].to_pylist()
    values = pa.array([confidences.get(name, 0.9) for name in names], pa.float32())
    place = people.column_names.index("confidence")
    run.write("people", people.set_column(place, people.schema.field("confidence"), values))


def test_doubtful_people_are_marked_and_listed(tmp_path):
    photos = {f"/p/{i}.jpg": ["ann", "bob", "dan"] for i in range(5)} | {"/p/x.jpg": ["cat"]}
    photos |= {f"/p/{i}.jpg": ["dan"] for i in range(5, 9)}
    run = write_run(tmp_path, photos)
    note = "doubtful: perhaps more than one person"
    assert note not in page_of(run).text
    # Cat is one face, which can hardly be doubted; of Dan's nine faces most are wrong.
    with_confidences(run, {"bob": 0.4, "cat": 0.1, "dan": 0.4})
    page = page_of(run)
    assert page.text.count(note) == 2
    assert f"5 faces in 5 photos {note} bob" in page.text
    assert "5 faces in 5 photos ann" in page.text
    assert (
        "2 people are doubtful: most of the faces are expected to be wrong. dan , bob" in page.text
    )


def test_collages_are_listed_with_links(tmp_path):
    run = write_run(tmp_path, {f"/p/{i}.jpg": ["ann"] for i in range(3)})
    assert "like a collage" not in page_of(run).text
    ids = [photo_id_of(f"/p/{i}.jpg") for i in (1, 2)]
    diagnostics = ClusterDiagnostics(collages=9, collage_photos=ids)
    run.update_manifest(ClusterEntry.start().finish(diagnostics=diagnostics))
    page = page_of(run)
    assert "9 photos look like a collage, in which a person may be more than once:" in page.text
    assert ".jpg , ..." in page.text
    assert '<a href="file:///p/1.jpg"><bdi>1.jpg</bdi></a>' in page.source


def test_a_photo_under_two_names_is_shown_once(tmp_path):
    photos = {"/p/1.jpg": ["ann"], "/p/1.jpg+copy": ["ann"], "/p/2.jpg": ["ann"]}
    run = write_run(tmp_path, photos)
    doubled = pa.concat_tables([run.read("assignments")] * 2)
    run.write("assignments", doubled)
    page = page_of(run)
    assert sorted(names(page.sheets()[0])) == ["1.jpg", "2.jpg"]
    assert "3 photos 2 faces 1 person 0 unassigned faces" in page.text
    assert "1 photo is a duplicate of another" in page.text
    assert "twice" not in page.text


def test_hostile_names_and_messages_are_escaped(tmp_path):
    photos = {f"/p/{HOSTILE}": ["ann", None], "/p/\"' onload='x.jpg": ["<b>bob</b>"]}
    failures = [(f"/p/{HOSTILE}", "<i>step</i>", "<i>Error</i>", "</bdi><script>alert(2)</script>")]
    run = write_run(tmp_path / "<script>run", photos, failures)
    entry = EmbedEntry.start(options={"<u>key": "<script>"}, models={"<u>": "<u>"})
    run.update_manifest(entry)
    manifest = json.loads((tmp_path / "<script>run" / "manifest.json").read_text())
    manifest["steps"]["<u>step"] = {"options": {"<u>key": "<script>"}, "counts": {"<u>": "<u>"}}
    manifest["versions"]["<u>"] = "<script>"
    (tmp_path / "<script>run" / "manifest.json").write_text(json.dumps(manifest))
    page = page_of(run)
    assert HOSTILE in names(page.loose)
    assert "\"' onload='x.jpg" in [name for sheet in page.sheets() for name in names(sheet)]
    assert f"/p/{HOSTILE} </bdi><script>alert(2)</script>" in page.text
    assert "<b>bob</b>" in page.text
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "u", "iframe", "object"}
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert all(attrs["src"].startswith("data:") for tag, attrs in page.elements if tag == "img")


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    uris = [
        "/p/1.jpg",
        "https://example.org/2.jpg",
        "gs://bucket/3.jpg",
        "javascript://%0aalert(1)",
    ]
    page = page_of(write_run(tmp_path, {uri: ["ann"] for uri in uris}))
    assert {tag for tag, attrs in page.elements if "src" in attrs} == {"img"}
    assert "srcset" not in page.source
    assert not re.search(r"url\(|@import|@font-face", page.source)
    loaded = [attrs["href"] for tag, attrs in page.elements if tag == "link"]
    assert loaded == ["data:,"]
    links = {name: face.get("href") for sheet in page.sheets()
             for name, face in zip(names(sheet), sheet, strict=True)}  # fmt: skip
    assert links == {"1.jpg": "file:///p/1.jpg", "2.jpg": "https://example.org/2.jpg",
                     "3.jpg": None, "%0aalert(1)": None}  # fmt: skip


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1))
def test_a_local_path_can_be_recovered_from_its_link(name):
    path = f"/photos/{name}/x"
    link = urlsplit(report._link(path))
    assert (link.scheme, link.netloc, link.query, link.fragment) == ("file", "", "", "")
    expected = {".": "/photos/x", "..": "/x"}.get(name, path)
    assert unquote(link.path) == expected


FILE_NAMES = st.lists(  # of which some are no UTF-8, and some look like what is written for it
    st.sampled_from([b"\xe9", b"\\xe9", b"\\", b"x5c", b"#", b"?", b"%", b"%20", b" ", b"\n", b"!"])
    | st.binary(min_size=1, max_size=4),
    min_size=1, max_size=8,
).map(lambda parts: b"".join(parts).replace(b"/", b"").replace(b"\0", b""))  # fmt: skip


@settings(deadline=None)
@given(FILE_NAMES.filter(lambda name: name not in (b"", b".", b"..")))
def test_any_file_can_be_opened_by_its_link(name):
    with tempfile.TemporaryDirectory() as folder:
        path = os.fsencode(folder) + b"/" + name
        open(path, "wb").close()
        link = report._link(uri_of_path(os.fsdecode(path)))
        assert re.fullmatch(r"file:///[A-Za-z0-9/%._~-]+", link)
        assert unquote_to_bytes(link.removeprefix("file://")) == path


def test_an_address_on_the_web_keeps_its_meaning():
    assert report._link("https://a.org/b c/\u00e9.jpg?d=1&e=%20#f") == (
        "https://a.org/b%20c/%C3%A9.jpg?d=1&e=%20#f"
    )
    assert report._link("s3://bucket/a.tar!/b.jpg") is None


@settings(deadline=None)
@given(st.floats(0, 1e6))
def test_a_duration_is_right_to_its_last_unit(seconds):
    units = {"h": 3600, "min": 60, "s": 1}
    parts = re.findall(r"([\d.]+) (h|min|s)", report._duration(seconds))
    shown = sum(float(number) * units[unit] for number, unit in parts)
    assert abs(shown - seconds) <= {"h": 3600, "min": 60.5, "s": 0.5001}[parts[-1][1]]
    assert all(float(number) < 60 for number, unit in parts if unit != "h")


def test_an_empty_run_gives_a_page(tmp_path):
    page = page_of(RunDirectory(str(tmp_path / "nothing")))
    assert "0 photos 0 faces 0 people 0 unassigned faces 0 failures" in page.text
    page = page_of(write_run(tmp_path / "tables", {}))
    assert "No face was found." in page.text
    page = page_of(write_run(tmp_path / "faceless", {"/p/1.jpg": []}))
    assert "1 photo 0 faces" in page.text
    page = page_of(write_run(tmp_path / "loose", {"/p/1.jpg": [None]}))
    assert "No person was found: no face appears in enough photos." in page.text


def test_a_run_before_grouping_shows_its_faces(tmp_path):
    run = write_run(tmp_path, {"/p/1.jpg": ["ann"], "/p/2.jpg": ["ann"]}, people=False)
    page = page_of(run)
    assert "2 faces 0 people 2 unassigned faces" in page.text
    assert "not been grouped into people yet" in page.text
    assert sorted(names(page.loose)) == ["1.jpg", "2.jpg"]


def test_a_thumbnail_that_is_no_image_leaves_an_empty_tile(tmp_path):
    run = write_run(tmp_path, {"/p/1.jpg": ["ann"], "/p/2.jpg": ["ann"]}, n_shards=1)
    path = run.shard_path("faces", "000")
    rows = run.read_shards("faces", schema.faces(pa.list_(pa.float32(), 1)).names)[0]
    broken = pa.array([b"", jpeg((255, 0, 0))[:200]], pa.binary())
    index = rows.schema.get_field_index("thumbnail")
    write_table(path, rows.set_column(index, rows.schema.field(index), broken))
    assert [face["picture"] for face in page_of(run).sheets()[0]] == [None, None]


def test_settings_and_versions_are_at_the_end(tmp_path):
    run = write_run(tmp_path, {})
    options = {"codec": "float16", "sizes": {"face": 40}}
    run.update_manifest(EmbedEntry.start(options=options, models={"m1": "abc"}))
    end = page_of(run).text.partition("Settings and versions")[2]
    for expected in ("codec float16", "sizes.face 40", "models.m1 abc",
                     "numpy", "python"):  # fmt: skip
        assert expected in end


def test_only_shards_with_faces_on_the_page_are_read_for_their_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "UNASSIGNED_SHOWN", 1)
    run = write_run(tmp_path, {f"/p/{i}.jpg": [None] for i in range(6)}, n_shards=6, people=False)
    read = []
    read_shards = RunDirectory.read_shards

    def record(self, table, columns, shards=None):
        read.extend([shards] if "thumbnail" in columns else [])
        return read_shards(self, table, columns, shards)

    monkeypatch.setattr(RunDirectory, "read_shards", record)
    page = page_of(run)
    assert len(page.loose) == len(read) == 1
    assert page.loose[0]["picture"] is not None


def test_writing_again_writes_the_same_page(tmp_path):
    run = write_run(tmp_path, {f"/p/{i}.jpg": ["ann", "bob", None] for i in range(8)})
    run.update_manifest(EmbedEntry.start().finish())
    assert page_of(run).source == page_of(run).source
    assert [p.name for p in (tmp_path / "report").iterdir()] == ["index.html"]


# A page that opens the report at a phone's width and writes down what the browser displays, because
# the report itself runs no script.
PROBE = """<!doctype html><iframe src="index.html" style="width:WIDTHpx;height:800px"></iframe>
<p>waiting</p>
<script>onload = () => {
  const page = document.querySelector('iframe').contentDocument;
  const decoded = [...page.images].filter(image => image.naturalWidth > 0).length;
  const requests = page.defaultView.performance.getEntriesByType('resource')
    .filter(entry => !entry.name.startsWith('data:')).length;
  const ids = [...page.querySelectorAll('.person header code')];
  ids.forEach(id => id.style.display = 'block');  // the width of inline text is not told
  document.querySelector('p').textContent = `decoded ${decoded} of ${page.images.length}, ` +
    `requests ${requests}, scripts ${page.scripts.length}, ` +
    `ids ${ids.filter(id => id.scrollWidth <= id.clientWidth + 1).length} of ${ids.length}, ` +
    `overflow ${page.documentElement.scrollWidth - page.documentElement.clientWidth}`;
}</script>"""


def browse(profile, *arguments) -> str:
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
               "--force-color-profile=srgb", "--virtual-time-budget=10000",
               f"--user-data-dir={profile}", *arguments]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def test_a_browser_shows_the_page(tmp_path):
    if CHROMIUM is None:
        pytest.skip("no browser: install one with `apt-get install chromium`")
    long_name = "a_name_without_a_place_to_break_" * 8
    photos = {f"/p/{i}.jpg": ["ann"] for i in range(25)}
    photos |= {"/p/b.jpg": ["bob", "bob"], f"/p/{HOSTILE}": [None]}
    run = write_run(
        tmp_path / ("run " + long_name[:150]), photos, [(f"/p/{long_name}", "decode", "E", "m")]
    )
    path = Path(write_report(run))

    screenshot = tmp_path / "page.png"
    dom = browse(tmp_path / "a", "--dump-dom", path.as_uri())
    assert Page(dom).text.count("25 faces") == 1
    browse(tmp_path / "a", "--window-size=1200,900", f"--screenshot={screenshot}", path.as_uri())
    image = Image.open(screenshot).convert("RGB")
    shown = {color for count, color in image.getcolors(1 << 24) if count > 500}
    for i in range(25):
        expected = color_of(schema.face_id(photo_id_of(f"/p/{i}.jpg"), 0))
        distances = [max(abs(a - b) for a, b in zip(c, expected, strict=True)) for c in shown]
        assert min(distances) < 12, f"the face of /p/{i}.jpg is not on the screen"

    probe = path.with_name("probe.html")
    for width in (400, 1280):
        probe.write_text(PROBE.replace("WIDTH", str(width)))
        dom = browse(tmp_path / "b", "--allow-file-access-from-files", "--dump-dom", probe.as_uri())
        expected = "decoded 28 of 28, requests 0, scripts 0, ids 2 of 2, overflow 0"
        assert expected in dom, f"{width} px"


def test_a_member_of_a_container_is_linked_to_the_container(tmp_path):
    (tmp_path / "a.tar").touch()
    link = (tmp_path / "a.tar").as_uri()
    assert report._link(f"{tmp_path}/a.tar!/b.jpg") == link
    assert report._link(f"{tmp_path}/a.tar!/b!/c.jpg") == link
    strange = os.fsencode(tmp_path) + b"/\xe9 #!.tar"
    open(strange, "wb").close()
    link = report._link(uri_of_path(os.fsdecode(strange)) + "!/b\\xe9.jpg")
    assert link == f"{tmp_path.as_uri()}/%E9%20%23%21.tar"
    (tmp_path / "c!").mkdir()
    (tmp_path / "c!" / "b.jpg").touch()
    assert report._link(f"{tmp_path}/c!/b.jpg") == (tmp_path / "c!" / "b.jpg").as_uri()
