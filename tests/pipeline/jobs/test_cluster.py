import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.errors import UsageError
from facecluster.pipeline.jobs.cluster import cluster_run
from facecluster.pipeline.options import WorkerOptions
from facecluster.pipeline.report.report import write_report
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.pipeline.run.manifest import EmbedCounts, EmbedEntry
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.photos.write import ShardWriter
from facecluster.transforms.records import Face, Failure, Photo, Quality, Shard
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.codec import Codec
from facecluster.transforms.tables.parquet_files import TableError

DIMENSIONS = 64
GOOD = Quality(100.0, 0.2, 0.5, 0.0, 0.0, 0.0)
WRITER = ShardWriter("", Codec("float32"), DIMENSIONS, "model a", "space a")


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def face_of(person, seed, noise=0.7):
    """A unit vector near the person's axis."""
    spread = np.random.default_rng(seed).normal(size=DIMENSIONS) * noise / np.sqrt(DIMENSIONS)
    return unit(np.eye(DIMENSIONS)[person] + spread)


def photo(uri, people, content=None, quality=GOOD):
    """A photo of these people (numbers of axes); photos of equal content are duplicates."""
    name = _name(content or uri)
    vectors = [face_of(person, [index, *name.encode()]) for index, person in enumerate(people)]
    return photo_of(uri, vectors, name, quality)


def photo_of(uri, vectors, name=None, quality=GOOD):
    """A photo of faces with these embeddings."""
    faces = tuple(
        Face(np.zeros(4), np.zeros((5, 2)), 0.9, thumbnail=b"", quality=quality, embedding=vector)
        for vector in vectors
    )
    name = name or _name(uri)
    return Photo(uri, Shard("", 0), photo_id=name, width=10, height=10, n_frames=1, faces=faces)


def _name(uri):
    return uri.encode().hex().ljust(64, "0")


def at_angle(degrees):
    """A unit vector in the plane of the first two axes."""
    vector = np.zeros(DIMENSIONS, np.float32)
    vector[:2] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return vector


def write_run(root, photos, n_shards=2, writer=WRITER) -> RunDirectory:
    for number in range(n_shards):
        replace(writer, root=str(root)).write(f"shard{number}", photos[number::n_shards])
    return RunDirectory(str(root))


def cluster(run, **options):
    return asdict(cluster_run(run, ClusterOptions(**options), lambda words: None))


def people_of(run):
    """{face_id: person_id} and {person_id: its row}."""
    assignments = run.read("assignments").to_pylist()
    people = run.read("people").to_pylist()
    return (
        {row["face_id"]: row["person_id"] for row in assignments},
        {row["person_id"]: row for row in people},
    )


# People 0 and 1 appear twice or more; 8 and 9 appear once.
ALBUM = [
    photo("a/1.jpg", [0, 1]),
    photo("a/2.jpg", [0]),
    photo("a/3.jpg", [0, 8]),
    photo("a/4.jpg", [1]),
    photo("a/5.jpg", [9]),
    photo("a/6.jpg", []),
    Photo("a/7.jpg", Shard("", 0), failure=Failure("decode", "OSError", "broken")),
]


def test_faces_become_people(tmp_path):
    run = write_run(tmp_path, ALBUM)
    entry = cluster(run)
    assert entry["state"] == "done"
    assert entry["counts"] == {
        "faces": 7, "people": 2, "unassigned": 2, "left_out": 0, "largest_person": 3,
    }  # fmt: skip
    assigned, people = people_of(run)
    groups = {}
    for p in ALBUM:
        for index, person in enumerate(p.faces):
            name = assigned[schema.face_id(p.photo_id, index)]
            groups.setdefault(int(np.argmax(person.embedding)), set()).add(name)
    assert [len(groups[person]) for person in (0, 1, 8, 9)] == [1, 1, 1, 1]
    assert groups[8] == groups[9] == {None}
    assert groups[0] != groups[1]
    assert [row["size"] for row in people.values()] == [3, 2]
    assert [row["n_photos"] for row in people.values()] == [3, 2]


def test_the_manifest_keeps_the_entries_of_other_steps(tmp_path):
    run = write_run(tmp_path, ALBUM)
    run.update_manifest(EmbedEntry.start().finish(counts=EmbedCounts(photos=6)))
    entry = cluster(run, n_neighbors=20, wrong_share=0.02)
    manifest = run.manifest()
    assert manifest.embed.counts == EmbedCounts(photos=6)
    assert asdict(manifest.cluster) == entry
    assert manifest.cluster.options["wrong_share"] == 0.02
    assert manifest.cluster.options["n_neighbors"] == 20


def test_progress_is_reported(tmp_path):
    messages = []
    cluster_run(write_run(tmp_path, ALBUM), ClusterOptions(), messages.append)
    assert [words.split()[0] for words in messages] == [
        "reading", "normalizing", "finding", "grouping", "writing",
    ]  # fmt: skip
    assert messages[2].endswith("7 faces: 100%")


def test_duplicates_count_once(tmp_path):
    # In one shard and in another.
    copies = [photo(f"copy {i}.jpg", [0, 3], content="a/2.jpg") for i in range(3)]
    alone = write_run(tmp_path / "alone", [copies[0], *ALBUM])
    thrice = write_run(tmp_path / "thrice", [*copies, *ALBUM], n_shards=2)
    assert cluster(alone)["counts"] == cluster(thrice)["counts"]
    assert people_of(alone) == people_of(thrice)
    rows = thrice.read("assignments")
    assert len(rows) == len(set(rows["face_id"].to_pylist()))


@settings(deadline=None, max_examples=15)
@given(st.randoms(use_true_random=False), st.integers(1, 5))
def test_neither_shards_nor_the_order_of_rows_change_the_tables(tmp_path_factory, random, n):
    photos = [photo(f"{i}.jpg", [i % 4, 4 + i % 3]) for i in range(20)]
    tables = []
    for shuffled, n_shards in ((photos, 1), (random.sample(photos, 20), n)):
        run = write_run(tmp_path_factory.mktemp("run"), shuffled, n_shards)
        cluster(run)
        tables.append((run.read("people"), run.read("assignments")))
    assert tables[0] == tables[1]
    assert len(tables[0][0]) == 7


def test_grouping_again_keeps_the_ids(tmp_path):
    photos = [photo(f"{i}.jpg", [i % 3]) for i in range(12)]
    run = write_run(tmp_path, photos[:6], n_shards=1)
    cluster(run)
    before, _ = people_of(run)
    # Photos whose names sort before and after the others, of the same people and a new one.
    more = [photo(f"{name}{person}.jpg", [person]) for name in "!~" for person in range(4)]
    replace(WRITER, root=run.root).write("more", [*photos[6:], *more])
    cluster(run)
    after, people = people_of(run)
    assert {face: after[face] for face in before} == before
    assert len(people) == 4
    assert len(set(before.values())) == 3


def test_options_may_change_between_groupings(tmp_path):
    run = write_run(tmp_path, ALBUM)
    cluster(run)
    before = people_of(run)
    assert cluster(run, min_cluster_size=4)["counts"] == {
        "faces": 7, "people": 0, "unassigned": 7, "left_out": 0, "largest_person": 0,
    }  # fmt: skip
    assert people_of(run)[1] == {}
    cluster(run)
    assert people_of(run) == before


def test_grouping_again_keeps_the_ids_of_an_earlier_version(tmp_path):
    run = write_run(tmp_path, ALBUM)
    cluster(run)
    before, _ = people_of(run)
    run.write("assignments", run.read("assignments").drop_columns(["repeated_in_photo"]))
    run.write("people", run.read("people").drop_columns(["spread"]))
    cluster(run)
    assert people_of(run)[0] == before


# ---- faces that are left out ----

BLURRED, SMALL, TURNED = (
    replace(GOOD, **bad) for bad in ({"sharpness": 0.05}, {"size_px": 20.0}, {"yaw": -70.0})
)
EVERY_FACE = {"min_face_px": 0, "min_sharpness": 0, "min_detection_score": 0, "max_yaw": 90}


def test_faces_that_cannot_be_recognized_are_not_grouped_but_keep_their_rows(tmp_path):
    bad = {"blurred.jpg": BLURRED, "small.jpg": SMALL, "turned.jpg": TURNED}
    photos = [photo(name, [0, 1], quality=quality) for name, quality in bad.items()]
    alone = write_run(tmp_path / "alone", ALBUM)
    run = write_run(tmp_path / "both", [*photos, *ALBUM])
    before, entry = cluster(alone), cluster(run)
    assert entry["counts"] == before["counts"] | {"faces": 13, "left_out": 6}
    reasons = {"vector": 0, "size": 2, "sharpness": 2, "score": 0, "pose": 2}
    assert entry["diagnostics"]["left_out"] == reasons
    for name in ("fraction_unassigned", "fraction_of_largest_person", "impostor_width"):
        assert entry["diagnostics"][name] == before["diagnostics"][name]
    assert run.read("people") == alone.read("people")
    rows = run.read("assignments").to_pylist()
    assert [row["face_id"] for row in rows] == sorted(row["face_id"] for row in rows)
    others = [row for row in rows if row["left_out"] is None]
    assert others == alone.read("assignments").to_pylist()
    photo_names = {p.photo_id: name for p, name in zip(photos, bad, strict=True)}
    for row in (row for row in rows if row["left_out"]):
        assert photo_names[row["photo_id"]].startswith(
            {"size": "small", "sharpness": "blurred", "pose": "turned"}[row["left_out"]]
        )
        assert (row["person_id"], row["probability"], row["distance"]) == (None, 0, None)
        assert row["repeated_in_photo"] is False


def test_without_limits_nothing_is_left_out(tmp_path):
    bad = [photo(f"{i}.jpg", [4], quality=replace(BLURRED, yaw=89, size_px=1)) for i in range(3)]
    run = write_run(tmp_path, [*bad, *ALBUM])
    assert cluster(run)["counts"]["left_out"] == 3
    entry = cluster(run, **EVERY_FACE)
    assert entry["counts"]["left_out"] == 0
    assert entry["counts"]["people"] == 3
    assert entry["options"]["max_yaw"] == 90
    assert run.read("assignments")["left_out"].null_count == entry["counts"]["faces"]


@pytest.mark.parametrize("min_cluster_size", [1, 2])
def test_if_all_faces_are_left_out_there_are_no_people(tmp_path, min_cluster_size):
    run = write_run(tmp_path, [photo(f"{i}.jpg", [0], quality=SMALL) for i in range(3)])
    assert cluster(run, min_cluster_size=min_cluster_size)["counts"] == {
        "faces": 3, "people": 0, "unassigned": 0, "left_out": 3, "largest_person": 0,
    }  # fmt: skip
    assert set(run.read("assignments")["left_out"].to_pylist()) == {"size"}


def test_people_keep_their_ids_when_the_limits_change(tmp_path):
    # Person 0 is named after a face that one limit leaves out and another does not.
    blurred = [photo("!.jpg", [0], quality=BLURRED), photo("~.jpg", [1, 5], quality=BLURRED)]
    run = write_run(tmp_path, [*blurred, *ALBUM])
    cluster(run, **EVERY_FACE)
    before, _ = people_of(run)
    cluster(run)
    without, _ = people_of(run)
    assert {face: person for face, person in before.items() if without[face] != person} == {
        schema.face_id(p.photo_id, index): before[schema.face_id(p.photo_id, index)]
        for p in blurred
        for index, person in enumerate(p.faces)
        if before[schema.face_id(p.photo_id, index)]
    }
    cluster(run, **EVERY_FACE)
    assert people_of(run)[0] == before


# ---- diagnostics ----


def diagnostics_of(run, **options):
    entry = cluster(run, **options)
    assert asdict(run.manifest().cluster.diagnostics) == entry["diagnostics"]
    return entry["diagnostics"]


def test_a_good_grouping_has_no_doubtful_people(tmp_path):
    found = diagnostics_of(write_run(tmp_path, ALBUM))
    assert found["recall"] == 1
    assert found["fraction_unassigned"] == round(2 / 7, 4)
    assert found["fraction_of_largest_person"] == round(3 / 7, 4)
    assert found["same_photo_violations"] == found["repeated_in_photo"] == 0
    assert found["doubtful_people"] == found["collages"] == 0
    assert found["most_doubtful"] == []
    assert not found["cohort"]


def test_what_is_estimated_is_recorded(tmp_path):
    run = write_run(tmp_path, [photo(f"{i}.jpg", [i % 20]) for i in range(80)])
    found = diagnostics_of(run)
    assert abs(found["impostor_median"]) < 0.1
    assert found["impostor_width"] == pytest.approx(1 / 8, rel=0.4)
    assert found["singles"] < 0.1
    assert found["components"] >= 15
    assert found["largest_component"] < 20
    assert found["seconds"].keys() == {"normalization", "neighbors", "forest", "people"}
    alone = write_run(tmp_path / "alone", [photo(f"{i}.jpg", [i]) for i in range(60)])
    assert diagnostics_of(alone)["singles"] > 0.5


def test_repeated_faces_are_flagged_and_counted(tmp_path):
    # A face and its mirror image in one photo and the same person in another; two similar faces in
    # a third photo, and other people.
    mirror = photo_of("mirror.jpg", [at_angle(0), at_angle(10)])
    alike = photo_of("alike.jpg", [at_angle(180), at_angle(245)])
    again = photo_of("again.jpg", [at_angle(50)])
    others = [photo(f"{i}.jpg", [4 + i % 20]) for i in range(60)]
    run = write_run(tmp_path, [mirror, again, alike, *others], n_shards=1)
    found = diagnostics_of(run)
    assert found["repeated_in_photo"] == 2
    assert found["same_photo_violations"] == 1
    rows = run.read("assignments").to_pylist()
    marked = {row["face_id"] for row in rows if row["repeated_in_photo"]}
    assert marked == {schema.face_id(mirror.photo_id, index) for index in (0, 1)}
    person_of = {row["face_id"]: row["person_id"] for row in rows}
    theirs = {person_of[face] for face in [*marked, schema.face_id(again.photo_id, 0)]}
    assert len(theirs) == 1
    assert theirs != {None}
    assert [person_of[schema.face_id(alike.photo_id, index)] for index in (0, 1)] == [None, None]
    ignoring = diagnostics_of(run, ignore_photos=True)
    assert ignoring["same_photo_violations"] == 2
    assert ignoring["fraction_unassigned"] == 0


# ---- missing, empty and damaged tables ----


def test_a_run_without_faces_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match=r"nothing here.* holds no faces.*facecluster embed"):
        cluster(RunDirectory(str(tmp_path / "nothing here")))


def test_an_incomplete_shard_is_ignored(tmp_path):
    run = write_run(tmp_path, ALBUM)
    (tmp_path / "photos" / "shard0.parquet").unlink()
    n_faces = sum(len(p.faces) for p in ALBUM[1::2])
    assert cluster(run)["counts"]["faces"] == n_faces
    (tmp_path / "photos" / "shard1.parquet").unlink()
    with pytest.raises(UsageError):
        cluster(run)


@pytest.mark.parametrize("photos", [[], ALBUM[5:], ALBUM[4:5]])
def test_no_or_one_face_is_not_an_error(tmp_path, photos):
    run = write_run(tmp_path, photos)
    n_faces = sum(len(p.faces) for p in photos)
    assert cluster(run)["counts"] == {
        "faces": n_faces, "people": 0, "unassigned": n_faces, "left_out": 0, "largest_person": 0,
    }  # fmt: skip
    assert len(run.read("assignments")) == n_faces


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            replace(WRITER, model_sha256="model b", embedding_space="space b"),
            "made with embedding_space 'space b' but .*'space a'",
        ),
        (replace(WRITER, codec=Codec("float16")), "made with codec 'float16' but .*'float32'"),
    ],
)
def test_two_models_or_codecs_are_refused(tmp_path, other, message):
    run = write_run(tmp_path, ALBUM)
    replace(other, root=run.root).write("shard9", ALBUM[:2])
    with pytest.raises(TableError, match=message):
        cluster(run)
    assert not run.exists("people")


def test_faces_of_models_that_share_a_space_are_grouped_together(tmp_path):
    run = write_run(tmp_path, ALBUM[:3])
    alone = cluster(run)["counts"]
    replace(WRITER, root=run.root, model_sha256="model b").write("shard9", ALBUM[3:])
    together = cluster(run)["counts"]
    assert together["faces"] > alone["faces"]
    assert together == cluster(write_run(tmp_path / "one model", ALBUM))["counts"]


def test_a_damaged_shard_is_named(tmp_path):
    run = write_run(tmp_path, ALBUM)
    (tmp_path / "faces" / "shard1.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(TableError, match=r"shard1\.parquet cannot be read"):
        cluster(run)


def test_tables_are_plain_parquet_files(tmp_path):
    run = write_run(tmp_path, ALBUM)
    cluster(run)
    assert pq.read_table(tmp_path / "people" / "people.parquet").num_rows == 2
    assert json.loads((tmp_path / "manifest.json").read_text())["steps"]["cluster"]
    leftovers = [path for path in Path(run.root).rglob("*") if path.name.endswith(".tmp")]
    assert leftovers == []


# ---- shots ----


@pytest.mark.parametrize("distribute", [False, True])
def test_frames_and_near_duplicates_count_as_one_photo(tmp_path, distribute):
    others = [photo(f"b/{i}.jpg", [i % 8]) for i in range(40)]
    first, stranger = photo("burst/0.jpg", [9]), photo("stranger.jpg", [20])
    frames = [
        photo_of(f"burst/{i}.jpg", [unit(first.faces[0].embedding + 0.1 * face_of(i, [i]))])
        for i in range(10, 30)
    ]
    second = photo("second.jpg", [9])
    small = unit(stranger.faces[0].embedding + 0.5 * face_of(40, 1))
    thumbnail = photo_of("thumbnail.jpg", [small])
    run = write_run(tmp_path, [*others, first, *frames, second, stranger, thumbnail])
    workers, people = WorkerOptions(distribute=distribute), []
    for near_duplicates in (False, True):
        if near_duplicates:
            row = (thumbnail.photo_id, stranger.photo_id, 1)
            row = dict(zip(schema.NEAR_DUPLICATES.names, row, strict=True))
            stamped = schema.stamped(schema.NEAR_DUPLICATES)
            run.write("near_duplicates", pa.Table.from_pylist([row], stamped))
        cluster_run(run, ClusterOptions(), lambda words: None, workers)
        assigned, rows = people_of(run)
        burst = rows[assigned[schema.face_id(first.photo_id, 0)]]
        assert (burst["size"], burst["n_photos"]) == (22, 2)
        people.append([assigned[schema.face_id(p.photo_id, 0)] for p in (stranger, thumbnail)])
    assert people[0][0] == people[0][1] is not None
    assert people[1] == [None, None]


# ---- damaged rows ----


def damage(run, shard, **columns):
    """Puts values into the first rows of a shard's faces; a value of None is null."""
    path = run.shard_path("faces", shard)
    faces = pq.read_table(path)
    for name, values in columns.items():
        field = faces.schema.field(name).with_nullable(True)
        column = [*values, *faces[name].to_pylist()[len(values) :]]
        place = faces.column_names.index(name)
        faces = faces.set_column(place, field, pa.array(column, field.type))
    pq.write_table(faces, path)


@pytest.mark.parametrize("distribute", [False, True])
def test_damaged_faces_are_left_out_and_change_nothing_else(tmp_path, distribute):
    whole = write_run(tmp_path / "whole", ALBUM)
    cluster(whole)
    run = write_run(tmp_path / "damaged", ALBUM)
    nan = [np.nan] * DIMENSIONS
    vectors = [
        nan,
        [np.inf, *nan[1:]],
        [None, *[1.0] * 63],
        [0.0] * DIMENSIONS,
        [None] * DIMENSIONS,
    ]
    extra = [photo(f"b/{i}.jpg", [i]) for i in range(9)]
    replace(WRITER, root=str(run.root)).write("shard9", extra)
    damage(
        run,
        "shard9",
        embedding=vectors,
        size_px=[100.0] * 5 + [None, np.nan],
        sharpness=[0.2] * 7 + [None, np.nan],
        box=[[None] * 4, [np.nan] * 4, [5, 5, 1, 1], [0, 0, 1e30, 1e30]],
        landmarks=[[None] * 10, [np.nan] * 10],
    )
    workers = WorkerOptions(distribute=distribute)
    entry = asdict(cluster_run(run, ClusterOptions(), lambda words: None, workers))
    assert entry["diagnostics"]["left_out"] == {
        "vector": 5, "size": 2, "sharpness": 2, "score": 0, "pose": 0,
    }  # fmt: skip
    named = [schema.face_id(p.photo_id, 0) for p in extra[:5]]
    assert entry["diagnostics"]["damaged_vectors"] == sorted(named)
    found, people = people_of(run)
    expected, expected_people = people_of(whole)
    assert {face: found[face] for face in expected} == expected
    assert people == expected_people
    write_report(run)


def test_a_face_without_an_id_is_a_damaged_table(tmp_path):
    run = write_run(tmp_path, ALBUM)
    damage(run, "shard1", photo_id=[None])
    with pytest.raises(TableError, match=r"shard1.* has a row without photo_id: "):
        cluster(run)


@pytest.mark.parametrize("distribute", [False, True])
def test_collages_are_named(tmp_path, distribute):
    sheets = [
        photo_of(
            f"sheet{i}.jpg", [face_of(p, [i, j, p]) for p in (20, 21, 22, 23) for j in range(6)]
        )
        for i in range(2)
    ]
    run = write_run(tmp_path, [*ALBUM, *sheets, *[photo(f"b/{i}.jpg", [i % 8]) for i in range(40)]])
    workers = WorkerOptions(distribute=distribute)
    entry = asdict(cluster_run(run, ClusterOptions(), lambda words: None, workers))
    found = entry["diagnostics"]
    assert found["collages"] == 2
    assert found["collage_photos"] == sorted(sheet.photo_id for sheet in sheets)
    uris = run.find_uris(found["collage_photos"])
    assert uris == {sheet.photo_id: sheet.uri for sheet in sheets}
