"""Whatever happens to photos between jobs, a run ends with the tables of a new run over them."""

import contextlib
import hashlib
import os
import shutil
import tarfile
import tempfile
from collections import defaultdict
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.errors import InputError
from facecluster.pipeline.jobs.embed_plan import EmbedPlan
from facecluster.pipeline.jobs.input_changes import (
    InputChanges,
    check_removal,
    find_changes,
    is_gone_from_listed,
)
from facecluster.pipeline.jobs.shard_edits import read_edits
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.inputs.listing import Listing, list_photos
from facecluster.transforms.inputs.sources import Source
from facecluster.transforms.photos.read import read_photos
from facecluster.transforms.photos.shards import make_read_tasks, split_into_shards
from facecluster.transforms.photos.write import ShardWriter
from facecluster.transforms.records import Face, Failure, Photo, mark_failed
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.codec import Codec
from tests.conftest import BucketFileSystem
from tests.pipeline.jobs.test_embed_plan import (
    DIMENSIONS,
    QUALITY,
    Killed,
    killed_at,
    plan_of,
    shards_of,
    tables,
)

NO_IMAGE = Failure("decode", "UnidentifiedImageError", "no image")
BROKEN = b"broken"


def embedded(photo: Photo) -> Photo:
    """What the steps after reading make of a photo: faces that depend on its bytes."""
    if photo.failure:
        return photo
    if photo.content == BROKEN:
        return mark_failed(photo, NO_IMAGE)
    seed = int(photo.photo_id[:8], 16)
    vectors = np.random.default_rng(seed).normal(size=(seed % 3, DIMENSIONS)).astype(np.float32)
    faces = tuple(
        Face(np.zeros(4, np.float32), np.zeros((5, 2), np.float32), 1.0, None, b"", v, QUALITY)
        for v in vectors
    )
    return Photo(photo.uri, photo.shard, photo_id=photo.photo_id, width=1, height=1, n_frames=1,
                 faces=faces)  # fmt: skip


class Reader:
    """Reads inputs for `find_changes`, and remembers which."""

    def __init__(self):
        self.uris: list[str] = []

    def __call__(self, sources) -> pa.Table:
        self.uris += [source.uri for source in sources]
        tasks = make_read_tasks(split_into_shards(sources, 3))
        rows = [{"uri": p.uri, "photo_id": p.photo_id} for task in tasks for p in read_photos(task)]
        return pa.Table.from_pylist(rows, schema.PHOTO_IDS)


def job(root, *inputs, forget=False, size=3) -> tuple[InputChanges, list[str], list[str]]:
    """Runs an embed job without networks; returns changes, and URIs that were checked, embedded."""
    run, read = RunDirectory(str(root)), Reader()
    writer = ShardWriter(str(root), Codec("float32"), DIMENSIONS, "model", "space")
    listing = list_photos([str(name) for name in inputs])
    run.remove_unfinished()
    plan = EmbedPlan.load(run).with_edits_finished().without_superseded()
    plan = plan.without_broken_shards(listing)
    changes = find_changes(plan, listing, read)
    if forget:
        check_removal(plan, listing, changes)
    plan = plan.with_edits(changes.edits(forget))
    plan = plan.with_inputs(listing, lambda n: size, False, changes.changed)
    todo = plan.pending_shards(listing)
    for task in make_read_tasks(todo):
        photos = [embedded(photo) for photo in read_photos(task)]
        for shard, _ in task:
            writer.write(shard.name, [photo for photo in photos if photo.shard == shard])
    EmbedPlan.load(run).without_superseded().without_repaired(listing)
    return changes, sorted(read.uris), sorted(source.uri for _, part in todo for source in part)


class Disk:
    """A folder of photos whose files are changed in any way; each change has a time of its own."""

    def __init__(self, root: Path):
        self.root, self.clock = root, 10**18
        (root / "a").mkdir(parents=True)
        (root / "b").mkdir()
        self.write("keep.jpg", b"keep")

    def path(self, name: str) -> Path:
        return self.root / name

    def uri(self, name: str) -> str:
        return str(self.root / name)

    def write(self, name: str, content: bytes) -> None:
        self.path(name).parent.mkdir(exist_ok=True)
        self.path(name).write_bytes(content)
        self.touch(name)

    def touch(self, name: str) -> None:
        self.clock += 1
        if self.path(name).exists():
            os.utime(self.path(name), ns=(0, self.clock))

    def move(self, name: str, other: str) -> None:
        if self.path(name).exists() and name != other:
            self.path(other).parent.mkdir(exist_ok=True)
            os.replace(self.path(name), self.path(other))

    def copy(self, name: str, other: str) -> None:
        if self.path(name).is_file() and name != other:
            self.path(other).parent.mkdir(exist_ok=True)
            shutil.copy2(self.path(name), self.path(other))

    def delete(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def rename_folder(self, name: str, other: str) -> None:
        if self.path(name).is_dir() and not self.path(other).exists():
            self.path(name).rename(self.path(other))

    def write_tar(self, name: str, members: dict[str, bytes]) -> None:
        self.clock += 1
        with tarfile.open(self.path(name), "w") as tar:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size, info.mtime = len(content), self.clock - 10**18
                tar.addfile(info, BytesIO(content))


FOLDERS = ["a", "b", "z"]
NAMES = [f"{folder}/{name}.jpg" for folder in FOLDERS for name in "12"]
CONTENTS = [b"one", b"two", b"six", b"eleven", BROKEN, b""]
names, contents = st.sampled_from(NAMES), st.sampled_from(CONTENTS)
tars = st.sampled_from(["c.tar", "d.tar"])
changes = st.one_of(
    st.tuples(st.just("write"), names, contents),
    st.tuples(st.just("touch"), names),
    st.tuples(st.just("move"), names, names),
    st.tuples(st.just("copy"), names, names),
    st.tuples(st.just("delete"), names | tars),
    st.tuples(st.just("rename_folder"), st.sampled_from(FOLDERS), st.sampled_from(FOLDERS)),
    st.tuples(
        st.just("write_tar"), tars, st.dictionaries(st.sampled_from(["m.jpg", "n.jpg"]), contents)
    ),
    st.tuples(st.just("move"), tars, tars),
)
moments = st.fixed_dictionaries(
    {
        "changes": st.lists(changes, max_size=6),
        "forget": st.booleans(),
        "size": st.integers(1, 4),
        "killed_at": st.integers(0, 30) | st.none(),
        "plan_lost_after": st.booleans(),
    }
)


def photo_ids(rows) -> dict[str, str]:
    return {row["uri"]: row["photo_id"] for row in rows["photos"]}


def photos_that_may_stay(root: Path) -> dict[str, set[str]]:
    """{uri: photo_ids} of a run, two if a job was killed; without those whose removal has begun."""
    run = RunDirectory(str(root))
    removed, found = read_edits(run)["uri"].to_pylist(), defaultdict(set)
    for row in run.read_shards("photos", ["uri", "photo_id"])[0].to_pylist():
        if row["uri"] not in removed:
            found[row["uri"]].add(row["photo_id"])
    return found


@settings(max_examples=80, deadline=None)
@given(st.lists(moments, min_size=1, max_size=5))
def test_after_any_changes_a_run_has_the_tables_of_a_new_one(history):
    with tempfile.TemporaryDirectory() as folder:
        disk, run = Disk(Path(folder, "photos")), Path(folder, "run")
        for number, now in enumerate([*history, {"forget": True, "changes": []}]):
            for name, *arguments in now["changes"]:
                getattr(disk, name)(*arguments)
            before = photos_that_may_stay(run)
            if now.get("killed_at") is not None:
                with contextlib.suppress(Killed), killed_at(now["killed_at"]):
                    job(run, disk.root, forget=now["forget"], size=now["size"])
                continue
            job(run, disk.root, forget=now["forget"], size=now.get("size", 3))
            fresh = Path(folder, f"fresh{number}")
            job(fresh, disk.root)
            if now["forget"] and now.get("plan_lost_after"):  # or versions would stay unknown
                os.remove(run / "plan.parquet")
                job(run, disk.root, forget=now["forget"])
            rows, expected = tables(run), tables(fresh)
            if now["forget"]:
                assert rows == expected
                assert set(plan_of(run)) == set(plan_of(fresh))
            else:
                for table in rows:
                    missing = [row for row in expected[table] if row not in rows[table]]
                    assert missing == []
                found, there = photo_ids(rows), set(plan_of(fresh))
                assert set(plan_of(run)) == {
                    row["uri"] for table in ("photos", "failures") for row in rows[table]
                }
                for uri, ids in before.items():
                    if uri not in there:  # it stays, or was found somewhere else
                        arrived = {new for new, photo_id in found.items() if photo_id in ids}
                        assert found.get(uri) in ids or arrived - before.keys()
            uris = [row["uri"] for table in ("photos", "failures") for row in rows[table]]
            assert len(uris) == len(set(uris))


@pytest.fixture
def disk(tmp_path) -> Disk:
    disk = Disk(tmp_path / "photos")
    for i, name in enumerate(NAMES[:4]):
        disk.write(name, b"photo %d" % i)
    return disk


@pytest.fixture
def run(tmp_path) -> Path:
    return tmp_path / "run"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_an_edited_photo_is_embedded_again_and_others_are_left(disk, run):
    job(run, disk.root)
    disk.write(NAMES[0], b"edited")
    changes, checked, done = job(run, disk.root)
    assert checked == done == changes.changed.to_pylist() == [disk.uri(NAMES[0])]
    assert photo_ids(tables(run))[disk.uri(NAMES[0])] == sha256(b"edited")
    _, checked, done = job(run, disk.root)
    assert checked == done == []


def test_a_photo_that_was_touched_is_read_once_and_not_embedded(disk, run):
    job(run, disk.root)
    files = {path: path.stat().st_mtime_ns for path in (run / "photos").iterdir()}
    disk.touch(NAMES[0])
    changes, checked, done = job(run, disk.root)
    assert (checked, done, len(changes.changed)) == ([disk.uri(NAMES[0])], [], 0)
    assert job(run, disk.root)[1:] == ([], [])
    assert {path: path.stat().st_mtime_ns for path in (run / "photos").iterdir()} == files


def test_a_failure_that_was_edited_is_tried_again(disk, run):
    disk.write(NAMES[0], BROKEN)
    job(run, disk.root)
    assert job(run, disk.root)[2] == []
    disk.write(NAMES[0], b"repaired")
    _, checked, done = job(run, disk.root)
    assert (checked, done) == ([], [disk.uri(NAMES[0])])
    assert tables(run)["failures"] == []
    disk.write(NAMES[0], BROKEN)
    job(run, disk.root)
    assert disk.uri(NAMES[0]) not in photo_ids(tables(run))


def test_faces_stay_for_another_photo_with_the_same_bytes(disk, run):
    with_faces = next(b"%d" % i for i in range(9) if int(sha256(b"%d" % i)[:8], 16) % 3 == 2)
    for name in NAMES[:2]:
        disk.write(name, with_faces)
    job(run, disk.root, size=9)
    count = len([row for row in tables(run)["faces"] if row["photo_id"] == sha256(with_faces)])
    assert count == 4
    disk.write(NAMES[0], BROKEN)
    job(run, disk.root, size=9)
    rows = [row["face_id"] for row in tables(run)["faces"] if row["photo_id"] == sha256(with_faces)]
    assert rows == [f"{sha256(with_faces)}-{i:03}" for i in range(2)]


def test_a_renamed_folder_is_not_embedded_again(disk, run):
    job(run, disk.root)
    before = photo_ids(tables(run))
    disk.rename_folder("a", "z")
    changes, checked, done = job(run, disk.root)
    moved = [disk.uri(name.replace("a/", "z/")) for name in NAMES[:2]]
    assert (checked, done, len(changes.moved)) == (moved, [], 2)
    renamed = {uri.replace("/a/", "/z/"): photo_id for uri, photo_id in before.items()}
    assert photo_ids(tables(run)) == renamed
    assert set(plan_of(run)) == renamed.keys()
    assert job(run, disk.root)[1:] == ([], [])


def test_a_photo_that_moves_to_another_input_is_found_there(disk, run, tmp_path):
    other = Disk(tmp_path / "other")
    job(run, disk.root)
    os.rename(disk.path(NAMES[0]), other.path(NAMES[1]))
    assert job(run, other.root)[2] == [other.uri("keep.jpg")]
    assert disk.uri(NAMES[0]) not in photo_ids(tables(run))


def test_a_copy_is_embedded_and_its_original_stays(disk, run):
    job(run, disk.root)
    disk.copy(NAMES[0], "z/copy.jpg")
    _, checked, done = job(run, disk.root)
    assert (checked, done) == ([], [disk.uri("z/copy.jpg")])
    job(run, disk.path("a"))  # the original of which is listed, the copy not
    assert disk.uri("z/copy.jpg") in photo_ids(tables(run))


def test_the_members_of_a_renamed_container_are_not_embedded_again(disk, run):
    disk.write_tar("c.tar", {"m.jpg": b"m", "n.jpg": b"n"})
    job(run, disk.root)
    disk.move("c.tar", "d.tar")
    changes, _, done = job(run, disk.root)
    assert (done, len(changes.moved)) == ([], 2)
    disk.write_tar("d.tar", {"m.jpg": b"other", "n.jpg": b"n"})
    changes, _, done = job(run, disk.root)
    assert done == changes.changed.to_pylist() == [disk.uri("d.tar!/m.jpg")]


def test_a_run_whose_plan_is_lost_learns_the_versions_silently(disk, run):
    job(run, disk.root)
    os.remove(run / "plan.parquet")
    assert job(run, disk.root)[1:] == ([], [])
    disk.write(NAMES[0], b"edited")
    assert job(run, disk.root)[2] == [disk.uri(NAMES[0])]


@pytest.mark.parametrize("n", range(30))
def test_a_job_that_is_killed_at_any_write_is_finished_by_the_next(disk, run, tmp_path, n):
    disk.write_tar("c.tar", {"m.jpg": b"m", "n.jpg": BROKEN})
    job(run, disk.root)
    disk.write(NAMES[0], b"edited")
    disk.touch(NAMES[1])
    disk.rename_folder("b", "z")
    disk.delete("z/1.jpg")
    disk.write_tar("c.tar", {"n.jpg": b"repaired"})
    with contextlib.suppress(Killed), killed_at(n):
        job(run, disk.root, forget=True)
    job(run, disk.root, forget=True)
    job(tmp_path / "fresh", disk.root)
    assert tables(run) == tables(tmp_path / "fresh")
    assert plan_of(run).keys() == plan_of(tmp_path / "fresh").keys()
    assert set(plan_of(run).values()) == shards_of(run)
    assert not (run / "edits.parquet").exists()
    assert job(run, disk.root, forget=True)[1:] == ([], [])


@pytest.mark.parametrize("n", range(12))
def test_removal_that_was_begun_is_finished_without_the_option(disk, run, n):
    job(run, disk.root)
    disk.delete(NAMES[0])
    disk.delete(NAMES[2])
    with contextlib.suppress(Killed), killed_at(n):
        job(run, disk.root, forget=True)
    job(run, disk.root)
    left = {disk.uri(NAMES[0]), disk.uri(NAMES[2])} & set(photo_ids(tables(run)))
    assert len(left) == (2 if n == 0 else 0)


@pytest.mark.parametrize("name", NAMES[:4])  # the names of their new shards are in any order
@pytest.mark.parametrize("n", range(3, 9))
def test_if_the_plan_is_lost_in_an_interrupted_change_the_photo_is_in_the_run_once(
    disk, run, n, name
):
    job(run, disk.root)
    disk.write(name, b"edited")
    with contextlib.suppress(Killed), killed_at(n):
        job(run, disk.root)
    embedded_ids = RunDirectory(str(run)).read_shards("photos", ["photo_id"])[0]["photo_id"]
    was_embedded = sha256(b"edited") in embedded_ids.to_pylist()
    os.remove(run / "plan.parquet")
    job(run, disk.root)
    uris = [row["uri"] for row in tables(run)["photos"]]
    assert len(uris) == len(set(uris))
    if was_embedded:
        assert photo_ids(tables(run))[disk.uri(name)] == sha256(b"edited")


def test_a_change_is_not_lost_if_its_planned_shard_breaks_up(disk, run):
    job(run, disk.root)
    for name in NAMES[:2]:
        disk.write(name, b"edited " + name.encode())
    for n in (1, 2):  # the plan is written; the second job first removes a temporary file
        with pytest.raises(Killed), killed_at(n):
            job(run, disk.root)
    disk.delete(NAMES[1])
    assert job(run, disk.root)[2] == [disk.uri(NAMES[0])]
    assert photo_ids(tables(run))[disk.uri(NAMES[0])] == sha256(b"edited " + NAMES[0].encode())


def test_photos_in_an_object_store_that_change_and_disappear(bucket, monkeypatch, run):
    bucket({f"bucket://b/in/{name}.jpg": name.encode() for name in "abc"})
    monkeypatch.setattr(BucketFileSystem, "updated_at", 1.0)
    job(run, "bucket://b/in")
    bucket({f"bucket://b/in/{name}.jpg": name.encode() for name in "bcd"})
    changes, *_ = job(run, "bucket://b/in", forget=True)
    assert changes.missing["uri"].to_pylist() == ["bucket://b/in/a.jpg"]
    bucket({"bucket://b/in/b.jpg": b"B", "bucket://b/in/c.jpg": b"c"})
    monkeypatch.setattr(BucketFileSystem, "updated_at", 2.0)
    changes, checked, done = job(run, "bucket://b/in")
    assert checked == ["bucket://b/in/b.jpg", "bucket://b/in/c.jpg"]
    assert done == changes.changed.to_pylist() == ["bucket://b/in/b.jpg"]
    assert changes.missing["uri"].to_pylist() == ["bucket://b/in/d.jpg"]


# ---- photos that are no longer there ----


def test_removed_photos_stay_in_the_run_unless_they_are_to_be_forgotten(disk, run):
    disk.write(NAMES[1], BROKEN)
    job(run, disk.root)
    for name in NAMES[:2]:
        disk.delete(name)
    changes, *_ = job(run, disk.root)
    assert changes.missing["uri"].to_pylist() == [disk.uri(name) for name in NAMES[:2]]
    assert disk.uri(NAMES[0]) in photo_ids(tables(run))
    job(run, disk.root, forget=True)
    assert set(photo_ids(tables(run))) == {disk.uri("keep.jpg"), *map(disk.uri, NAMES[2:4])}
    assert tables(run)["failures"] == []


def test_only_what_was_listed_completely_is_missing(disk, run):
    job(run, disk.root)
    for name in NAMES[:4]:
        disk.delete(name)
    changes, *_ = job(run, disk.path("keep.jpg"), f"{disk.root}/*.jpg", forget=True)
    assert len(changes.missing) == 0
    disk.write(NAMES[0], b"new")
    changes, *_ = job(run, disk.path("a"), forget=True)
    assert changes.missing["uri"].to_pylist() == [disk.uri(NAMES[1])]


def test_photos_behind_a_link_to_a_disk_that_is_not_mounted_are_not_missing(disk, run, tmp_path):
    other = Disk(tmp_path / "mounted")
    disk.path("link").symlink_to(other.root)
    job(run, disk.root)
    os.rename(other.root, tmp_path / "elsewhere")
    changes, *_ = job(run, disk.root, forget=True)
    assert len(changes.missing) == 0
    disk.path("link").unlink()
    changes, *_ = job(run, disk.root, forget=True)
    assert changes.missing["uri"].to_pylist() == [disk.uri("link/keep.jpg")]


def test_the_photos_of_a_damaged_container_are_not_missing(disk, run):
    disk.write_tar("c.tar", {"m.jpg": b"m", "n.jpg": b"n"})
    job(run, disk.root)
    content = disk.path("c.tar").read_bytes()
    disk.path("c.tar").write_bytes(content[:1024])  # between the members
    changes, *_ = job(run, disk.root, forget=True)
    assert len(changes.missing) == 0
    disk.delete("c.tar")
    changes, *_ = job(run, disk.root, forget=True)
    members = [disk.uri(f"c.tar{member}") for member in ("", "!/m.jpg", "!/n.jpg")]
    assert sorted(changes.missing["uri"].to_pylist()) == members


def test_an_input_folder_that_lists_none_of_its_photos_is_refused(disk, run, tmp_path):
    other = Disk(tmp_path / "mounted")
    job(run, disk.root, other.root)
    other.move("keep.jpg", "a/1.jpg")
    job(run, disk.root, other.root, forget=True)  # its photo has only moved
    before = tables(run)
    other.delete("a/1.jpg")
    other.write("new.jpg", b"new")
    with pytest.raises(
        InputError, match=r"mounted does not list its only photo in the run: is its disk mounted\?"
    ):
        job(run, disk.root, other.root, forget=True)
    assert tables(run) == before
    job(run, disk.root, other.root)
    job(run, disk.root, other.root, forget=True)  # now another photo of the folder is in the run
    assert other.uri("a/1.jpg") not in photo_ids(tables(run))
    shutil.rmtree(disk.root)
    disk.root.mkdir()
    with pytest.raises(InputError, match=r"photos does not list any of its 5 photos in the run"):
        job(run, disk.root, other.root, forget=True)
    changes, *_ = job(run, disk.root, other.root)
    assert len(changes.missing) == 5


def test_the_innermost_folder_or_container_decides_whether_an_input_is_gone():
    listing = Listing(
        (Source("/a/closed"), Source("/a/cut.tar"), Source("gs://b/in/x.jpg")),
        fully_listed=frozenset(["/a", "/a/open", "/a/closed/open", "/a/c.tar", "gs://b/in"]),
    )
    gone = {
        "/a/x.jpg": True,
        "/a/open/x.jpg": True,
        "/a/removed/x.jpg": True,
        "/a/closed/x.jpg": False,
        "/a/closed/open/x.jpg": True,
        "/a/c.tar!/x.jpg": True,
        "/a/c.tar!/deep/x.jpg": True,
        "/a/removed.tar!/x.jpg": True,
        "/a/cut.tar!/x.jpg": False,
        "/b/x.jpg": False,
        "x.jpg": False,
        "gs://b/in/deep/y.jpg": True,
        "gs://b/inside/y.jpg": False,
    }
    flags = is_gone_from_listed(pa.array(gone), listing)
    assert dict(zip(gone, flags.to_pylist(), strict=True)) == gone
