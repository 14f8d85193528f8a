"""What is passed over below an input: the same on disk, in an object store and in a tar."""

import gzip
import io
import json
import os
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.errors import InputError
from facecluster.transforms.inputs.listing import Listing, list_photos, locate_photos
from facecluster.transforms.inputs.passed_over import Excludes, judge_folder
from facecluster.transforms.inputs.tfrecord import make_record
from tests.conftest import BucketFileSystem

CROPS = json.dumps({"state": "running", "options": {"form": "folder"}}).encode()
RUN = json.dumps({"manifest_version": 2, "versions": {}, "steps": {}}).encode()
CARD = json.dumps({"card_version": 3, "name": "a", "sha256": "b"}).encode()
TRAINING = json.dumps({"crops_sha256": "a"}).encode()
MARKERS = {
    "crops.json": CROPS,
    "manifest.json": RUN,
    "model_card.json": CARD,
    "training.json": TRAINING,
}
OTHERS = {"manifest.json": b'{"name": "an app"}', "crops.json": b"not JSON"}


def write(folder: Path, *names: str) -> None:
    """Writes files, empty ones unless they mark output."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(MARKERS.get(path.name, b""))


def make_tar(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


def names_below(listing: Listing, folder: str | Path) -> list[str]:
    return [uri.removeprefix(f"{folder}/") for uri in listing.uris]


# ---- any tree


NAMES = ["a", "2019", ".hidden", "@eaDir", "#recycle", "thumbs", "upload", "cache", "thumbnails",
         "A.photoslibrary", "originals", "resources"]  # fmt: skip
FOLDERS = st.lists(st.sampled_from(NAMES), max_size=4)
FILES = st.sampled_from(["x.jpg", "y.PNG", ".z.jpg", "notes.txt", "raw.xcf", "b.psd"])
PATTERNS = st.lists(
    st.sampled_from(["*.jpg", "!x.jpg", "/a", "a/2019", "2019/", "**/upload/**", "!a", "*", "!*/"]),
    max_size=3,
)


@st.composite
def trees(draw) -> dict[str, bytes]:
    """{path below the input: content} of files, some of which are like markers."""
    paths = draw(st.lists(st.tuples(FOLDERS, FILES), max_size=12))
    files = {"/".join([*folders, name]): b"photo" for folders, name in paths}
    marked = draw(st.lists(st.tuples(FOLDERS, st.sampled_from(sorted(MARKERS))), max_size=2))
    other = draw(st.lists(st.tuples(FOLDERS, st.sampled_from(sorted(OTHERS))), max_size=1))
    files |= {"/".join([*folders, name]): OTHERS[name] for folders, name in other}
    files |= {"/".join([*folders, name]): MARKERS[name] for folders, name in marked}
    return {**files, "a.jpg": b"photo"}  # at least one photo


def judge(
    files: dict[str, bytes], patterns: list[str]
) -> tuple[list[str], Counter[str], Counter[str]]:
    """The photos; the others by reason, and those in unread formats by suffix: by definition."""
    excludes = Excludes(patterns)
    folders = {path[:end] for path in files for end in range(len(path)) if path[end] == "/"}
    output = {
        os.path.dirname(path) for path, content in files.items() if content in MARKERS.values()
    }

    def reason_of(path: str) -> str | None:
        parts = path.split("/")
        for n in range(1, len(parts)):
            above, folder = "/".join(parts[: n - 1]), "/".join(parts[:n])
            reason = judge_folder(
                parts[n - 2] if n > 1 else "input", parts[n - 1],
                lambda other, above=above: f"{above}/{other}".lstrip("/") in folders,
            )  # fmt: skip
            if reason:
                return reason
            if excludes.match(folder, is_folder=True):
                return "excluded"
            if folder in output:
                return "facecluster's own output"
        if parts[-1].startswith("."):
            return "hidden"
        if excludes.match(path, is_folder=False):
            return "excluded"
        return None if path.endswith((".jpg", ".PNG")) else "not named like photos"

    reasons = {path: reason_of(path) for path in sorted(files)}
    photos = [path for path, reason in reasons.items() if reason is None]
    other = [path for path, reason in reasons.items() if reason == "not named like photos"]
    unread = Counter(path[-4:] for path in other if path.endswith((".xcf", ".psd")))
    return photos, Counter(filter(None, reasons.values())), unread


@settings(max_examples=150)
@given(trees(), PATTERNS, st.booleans())
def test_a_tree_has_the_same_photos_on_disk_in_a_store_and_in_a_tar(files, patterns, dotted):
    photos, others, unread = judge(files, patterns)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder, "input")
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        start = "./" if dotted else ""
        tar, tgz = f"{folder}/in.tar", f"{folder}/in.tar.gz"
        Path(tar).write_bytes(make_tar({start + path: files[path] for path in files}))
        Path(tgz).write_bytes(gzip.compress(Path(tar).read_bytes()))
        patch.setattr(BucketFileSystem, "objects",
                      {f"bucket://b/input/{path}": files[path] for path in files})  # fmt: skip
        for name in (str(root), "bucket://b/input", tar, tgz):
            prefix = f"{name}!/{start}" if name in (tar, tgz) else f"{name}/"
            if not photos:
                with pytest.raises(InputError, match="no photos in"):
                    list_photos([name], exclude=patterns)
                continue
            listing = list_photos([name], exclude=patterns)
            assert [uri.removeprefix(prefix) for uri in listing.uris] == photos
            assert listing.other_files == others
            assert listing.n_other_files == len(files) - len(photos)
            assert list(listing.other_files.values()) == sorted(others.values(), reverse=True)
            assert listing.unread_photos == unread


# ---- own output


@pytest.mark.parametrize("marker", sorted(MARKERS))
@pytest.mark.parametrize("place", ["out", "2019/out", "out/2019/out", ".hidden/out", "a b/out"])
def test_folders_that_facecluster_wrote_are_passed_over_wherever_they_lie(tmp_path, marker, place):
    write(tmp_path, "a.jpg", "2019/b.jpg", f"{place}/{marker}", f"{place}/Ann/c.png",
          f"{place}/run.lock")  # fmt: skip
    listing = list_photos([str(tmp_path)])
    assert names_below(listing, tmp_path) == ["2019/b.jpg", "a.jpg"]
    reason = "hidden" if place.startswith(".") else "facecluster's own output"
    assert listing.other_files == {reason: 3}


def test_a_file_of_somebody_else_does_not_hide_photos(tmp_path):
    write(tmp_path, "album/a.jpg")
    (tmp_path / "album" / "manifest.json").write_text('{"name": "album", "steps": 3}')
    (tmp_path / "album" / "crops.json").write_text("{")
    assert names_below(list_photos([str(tmp_path)]), tmp_path) == ["album/a.jpg"]


def test_output_that_is_an_input_itself_is_read_but_not_what_lies_below(tmp_path):
    write(tmp_path, "crops/crops.json", "crops/Ann/a.png", "crops/run/manifest.json",
          "crops/run/b.jpg", "crops/crops/crops.json", "crops/crops/c.png")  # fmt: skip
    for name in ("crops", "crop*"):
        listing = list_photos([f"{tmp_path}/{name}"])
        assert names_below(listing, tmp_path) == ["crops/Ann/a.png"]
        assert listing.other_files == {"facecluster's own output": 4, "not named like photos": 1}
    listing = list_photos([f"{tmp_path}/crops", f"{tmp_path}/crops/run"])
    assert names_below(listing, tmp_path) == ["crops/Ann/a.png", "crops/run/b.jpg"]
    assert listing.n_other_files == 4  # a file that an input has is not passed over
    assert names_below(list_photos([f"{tmp_path}/crops/Ann"]), tmp_path) == ["crops/Ann/a.png"]


def test_crops_to_train_on_are_read_below_a_folder(tmp_path):
    write(tmp_path, "one/crops.json", "one/Ann/a.png", "two/crops.json", "two/Bob/b.png")
    listing = list_photos([str(tmp_path)], containers=False, own_output=True)
    assert names_below(listing, tmp_path) == ["one/Ann/a.png", "two/Bob/b.png"]
    with pytest.raises(InputError, match=r"\(all 4 files are facecluster's own output\)"):
        list_photos([str(tmp_path)], containers=False)


def test_a_tar_of_crops_is_read_only_as_an_input(tmp_path):
    files = {"Ann/a.png": b"a", "crops.json": CROPS, "Ann/b.png": b"b"}
    write(tmp_path, "a.jpg")
    (tmp_path / "crops.tar").write_bytes(make_tar(files))
    listing = list_photos([str(tmp_path)])
    assert names_below(listing, tmp_path) == ["a.jpg"]
    assert listing.other_files == {"facecluster's own output": 3}
    listing = list_photos([f"{tmp_path}/crops.tar"])
    assert names_below(listing, f"{tmp_path}/crops.tar!") == ["Ann/a.png", "Ann/b.png"]


# ---- folders that are no photos to people


def test_folders_of_systems_and_of_photo_software(tmp_path):
    write(
        tmp_path, "a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", ".thumbnails/a.jpg",
        ".Trash-1000/files/b.jpg", ".photoprism/cache/c.jpg", "#recycle/d.jpg",
        "A.photoslibrary/originals/0/e.jpg", "A.photoslibrary/resources/derivatives/0/e.jpg",
        "immich/upload/f.jpg", "immich/thumbs/f.jpg", "thumbs/g.jpg",
    )  # fmt: skip
    listing = list_photos([str(tmp_path)])
    assert names_below(listing, tmp_path) == [
        "A.photoslibrary/originals/0/e.jpg", "a.jpg", "immich/upload/f.jpg", "thumbs/g.jpg",
    ]  # fmt: skip
    assert listing.other_files == {"hidden": 3, "thumbnails": 3, "trash or system files": 1}


@pytest.mark.parametrize("name", [".photos", "@eaDir", "lost+found", "a.lrdata/.b"])
def test_an_input_may_have_any_name(tmp_path, name):
    write(tmp_path / name, "a.jpg", "@eaDir/b.jpg")
    listing = list_photos([str(tmp_path / name)])
    assert names_below(listing, tmp_path / name) == ["a.jpg"]
    (tmp_path / "list.txt").write_text(f"{name}\n")
    assert list_photos([f"{tmp_path}/list.txt"]).uris == listing.uris


def test_the_parts_of_a_library_that_is_the_input(tmp_path):
    library = tmp_path / "A.photoslibrary"
    write(library, "originals/a.jpg", "resources/derivatives/a.jpg")
    assert names_below(list_photos([str(library)]), library) == ["originals/a.jpg"]
    named = library / "resources" / "derivatives"
    assert names_below(list_photos([str(named)]), named) == ["a.jpg"]


def test_containers_in_folders_that_are_passed_over_are_not_opened(tmp_path):
    write(tmp_path, "a.jpg", ".Trash/damaged.tar", "crops/crops.json", "crops/damaged.tfrecord")
    listing = list_photos([str(tmp_path)])
    assert names_below(listing, tmp_path) == ["a.jpg"]
    assert listing.n_other_files == 3


def test_links_into_and_out_of_folders_that_are_passed_over(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    write(inside, "a.jpg", ".store/b.jpg", "crops/crops.json", "crops/c.jpg")
    write(outside, "d.jpg")
    (inside / "album").symlink_to(inside / ".store")  # its only name that people see
    (inside / "best").symlink_to(inside / "crops")
    (inside / ".link").symlink_to("/")  # whose files are not even counted
    (inside / "@eaDir").symlink_to(outside)
    listing = list_photos([str(inside)])
    assert names_below(listing, inside) == ["a.jpg", "album/b.jpg"]
    assert listing.other_files == {"facecluster's own output": 2, "hidden": 1}


# ---- patterns


def test_inputs_and_entries_of_lists_are_never_excluded(tmp_path):
    write(tmp_path, "in/a.jpg", "in/b/c.jpg", "in/b/d.png", "e.jpg")
    (tmp_path / "list.txt").write_text("e.jpg\nin/b\n")
    listing = list_photos([f"{tmp_path}/list.txt"], exclude=["*.jpg", "b"])
    assert names_below(listing, tmp_path) == ["e.jpg", "in/b/d.png"]
    listing = list_photos([f"{tmp_path}/in", f"{tmp_path}/in/a.jpg"], exclude=["*.jpg"])
    assert names_below(listing, tmp_path) == ["in/a.jpg", "in/b/d.png"]
    assert listing.other_files == {"excluded": 1}
    listing = list_photos([f"{tmp_path}/in/*.jpg"], exclude=["*.jpg"])
    assert names_below(listing, tmp_path) == ["in/a.jpg"]


def test_patterns_are_relative_to_each_input(tmp_path):
    write(tmp_path, "a/b/x.jpg", "a/x.jpg", "b/x.jpg", "b/a/x.jpg")
    listing = list_photos([f"{tmp_path}/a", f"{tmp_path}/b"], exclude=["/b"])
    assert names_below(listing, tmp_path) == ["a/x.jpg", "b/a/x.jpg", "b/x.jpg"]


def test_members_of_all_containers_can_be_excluded_and_named(tmp_path):
    tar, records, rows = (f"{tmp_path}/{name}" for name in ("a.tar", "b.tfrecord", "c.parquet"))
    Path(tar).write_bytes(make_tar({"x/1.jpg": b"1", "x/.2/3.jpg": b"3", "4.jpg": b"4"}))
    Path(records).write_bytes(make_record({"image/encoded": b"5"}) * 2)
    images = pa.StructArray.from_arrays([[b"6", b"7"], ["x/6.jpg", "7.jpg"]], ["bytes", "path"])
    pq.write_table(pa.table({"image": images}), rows)
    inputs = [tar, records, rows]
    listing = list_photos(inputs, exclude=["x", "00000001"])
    assert names_below(listing, tmp_path) == [
        "a.tar!/4.jpg", "b.tfrecord!/00000000",
    ]  # fmt: skip
    assert listing.other_files == {"excluded": 5}
    named = [f"{tar}!/x/1.jpg", f"{tar}!/x/.2/3.jpg", f"{records}!/00000001"]
    (tmp_path / "list.txt").write_text("\n".join(named))
    for more in (named, [f"{tmp_path}/list.txt"]):
        for order in ([*inputs, *more], [*more, *inputs]):
            again = list_photos(order, exclude=["x", "00000001"])
            assert set(again.uris) == {*listing.uris, *named}
            assert again.other_files == {"excluded": 2}
    assert [source.failure for source in locate_photos(named)] == [None] * 3


# ---- globs


@pytest.mark.parametrize("store", [False, True])
def test_a_glob_that_searches_subfolders_is_like_an_input(tmp_path, bucket, store):
    names = ["a.jpg", "b/c.jpg", "b/@eaDir/d.jpg", "crops/crops.json", "crops/Ann/e.jpg", "f/g.jpg"]
    write(tmp_path / "in", *names)
    root = "bucket://b/in" if store else f"{tmp_path}/in"
    bucket({f"{root}/{name}": MARKERS.get(os.path.basename(name), b"") for name in names})
    listing = list_photos([f"{root}/**/*.jpg"], exclude=["/f"])
    # In a store, ** stands for at least one folder.
    assert names_below(listing, root) == ["a.jpg", "b/c.jpg"][store:]
    assert listing.other_files == {"excluded": 1, "facecluster's own output": 1, "thumbnails": 1}
    listing = list_photos([f"{root}/**"], exclude=["/f"])
    assert names_below(listing, root) == ["a.jpg", "b/c.jpg"]
    listing = list_photos([f"{root}/crops/*/*.jpg"])
    assert names_below(listing, root) == ["crops/Ann/e.jpg"]
