"""Inputs name the photos they should, shards partition them, and bytes arrive or fail."""

import hashlib
import os
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from facecluster.transforms.photo import Photo, Shard
from facecluster.transforms.read_photos import (
    PHOTO_SUFFIXES,
    InputError,
    ReadPhotos,
    list_photos,
    plan_shards,
    read_photo,
)


def make(folder: Path, *names: str) -> list[str]:
    """Files whose content is their name; returns their paths."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return sorted(str(folder / name) for name in names)


# --- listing


def test_a_folder_names_the_photos_in_and_below_it(tmp_path):
    photos = make(
        tmp_path, "b.jpg", "a.PNG", "2019/c.JpEg", "2019/may/d.webp", "e f.tif",
        ".hidden/h.gif", "i.backup.bmp", "j.jpe", "k.tiff",
    )  # fmt: skip
    make(tmp_path, "notes.txt", "2019/l.mov", "jpg", "m.jpg.part", ".jpg", "._b.jpg")
    listing = list_photos([str(tmp_path)])
    assert listing.uris == tuple(photos)
    assert listing.n_other_files == 6


@pytest.mark.parametrize("suffix", sorted(PHOTO_SUFFIXES))
def test_every_suffix_counts_in_either_case(tmp_path, suffix):
    photos = make(tmp_path, f"a{suffix}", f"b{suffix.upper()}")
    assert list_photos([str(tmp_path)]).uris == tuple(photos)


def test_each_photo_once_and_sorted_however_often_it_is_named(tmp_path):
    photos = make(tmp_path, "z/a.jpg", "b.jpg", "y/c.jpg")
    make(tmp_path, "z/notes.txt")
    z, y = tmp_path / "z", tmp_path / "y"
    inputs = [tmp_path, y, z, z / "a.jpg", f"{tmp_path}/*/*.jpg", tmp_path]
    listing = list_photos(list(map(str, inputs)))
    assert listing.uris == tuple(photos)
    assert listing.n_other_files == 1


def test_a_named_file_is_taken_at_its_word(tmp_path):
    (scan,) = make(tmp_path, "scan")
    assert list_photos([scan]).uris == (scan,)
    (photo,) = make(tmp_path, "a.jpg")
    listing = list_photos([str(tmp_path), scan])
    assert (listing.uris, listing.n_other_files) == ((photo, scan), 0)


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("[!a].jpg", ["b.jpg"]),
        ("?.jpg", ["a.jpg", "b.jpg"]),
        ("*/*.jpg", ["sub/c.jpg"]),
        ("**/*.jpg", ["a.jpg", "b.jpg", "sub/c.jpg", "sub/deep/d.jpg"]),
        ("*.txt", ["notes.txt"]),
        ("s*", ["sub/c.jpg", "sub/deep/d.jpg"]),  # folders, as the shell would hand them over
        ("*", ["a.jpg", "b.jpg", "notes.txt", "sub/c.jpg", "sub/deep/d.jpg"]),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_globs(tmp_path, monkeypatch, pattern, matched, relative):
    make(tmp_path, "a.jpg", "b.jpg", "notes.txt", ".e.jpg")
    make(tmp_path, "sub/c.jpg", "sub/deep/d.jpg", "sub/more.txt")
    monkeypatch.chdir(tmp_path)
    folder = "" if relative else f"{tmp_path}/"
    assert list_photos([folder + pattern]).uris == tuple(f"{tmp_path}/{name}" for name in matched)


@pytest.mark.parametrize("name", ["IMG[1].jpg", "who?.jpg", "s*r.jpg", "two words.jpg", "né.jpg",
                                  "new\nline.jpg", "50%20.jpg", "back\\xe9slash.jpg"])  # fmt: skip
def test_odd_names_are_names(tmp_path, name):
    make(tmp_path / "in[2]?", name, "other.jpg")
    path = str(tmp_path / "in[2]?" / name)
    for named in (path, str(tmp_path / "in[2]?")):
        assert path in list_photos([named]).uris
    assert list_photos([path]).uris == (path,)
    assert read_photo(Photo(path, Shard("s", 1))).content == name.encode()


def test_names_that_are_not_utf_8(tmp_path):
    names = [b"caf\xe9.jpg", b"\xff\xfe.jpg", "ça \\xzz.jpg".encode() + b"\x80.jpg"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(name)
    uris = list_photos([str(tmp_path)]).uris
    assert [Path(uri).name for uri in uris] == [
        "\\xff\\xfe.jpg",
        "caf\\xe9.jpg",
        "ça \\xzz.jpg\\x80.jpg",
    ]
    "".join(uris).encode()  # as tables need it
    contents = {read_photo(Photo(uri, Shard("s", 3))).content for uri in uris}
    assert contents == set(names)
    assert plan_shards(uris, 2)


def test_inputs_that_are_not_there(tmp_path):
    (photo,) = make(tmp_path, "a.jpg")
    for missing in ("b.jpg", "nowhere/", "*.png", "[b].jpg"):
        with pytest.raises(InputError, match=r"does not exist") as raised:
            list_photos([photo, str(tmp_path / missing)])
        assert str(tmp_path / missing) in str(raised.value)


@pytest.mark.parametrize("uri", ["nosuch://bucket/photos", "gs://bucket/photos", "s3://bucket/*"])
def test_stores_that_cannot_be_reached(uri):
    with pytest.raises(InputError) as raised:
        list_photos([uri])
    assert str(raised.value).startswith(uri)


def test_folders_without_photos(tmp_path):
    with pytest.raises(InputError, match=r"no photos in .*photos end in .*jpg"):
        list_photos([str(tmp_path)])
    make(tmp_path, "a.txt", "b.mov")
    with pytest.raises(InputError, match="of 2 files none is named like one"):
        list_photos([str(tmp_path)])


def test_a_folder_that_cannot_be_looked_into_is_not_passed_over_in_silence(tmp_path):
    # A path longer than the system takes: files that os.walk cannot reach by their full name.
    make(tmp_path, "a.jpg")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    photo, closed = list_photos([str(tmp_path)]).uris
    assert photo == str(tmp_path / "a.jpg")
    failed = read_photo(Photo(closed, Shard("s", 1)))
    assert failed.failure.step == "read"


def test_a_broken_link_is_a_photo_that_fails(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    (uri,) = list_photos([str(tmp_path)]).uris
    failure = read_photo(Photo(uri, Shard("s", 1))).failure
    assert (failure.step, failure.error) == ("read", "FileNotFoundError")


def test_object_stores(bucket):
    names = [
        "a.jpg",
        "2019.05/b.JPG",
        "2019.05/deep/c.png",
        "2019.05/notes.txt",
        "scan",
        "2019/d.jpg",
    ]
    objects = {f"bucket://b/{name}": name.encode() for name in names}
    bucket(objects)

    def listed(*inputs):
        listing = list_photos([f"bucket://b{name}" for name in inputs])
        return [uri.removeprefix("bucket://b/") for uri in listing.uris], listing.n_other_files

    everything = ["2019.05/b.JPG", "2019.05/deep/c.png", "2019/d.jpg", "a.jpg"]
    assert listed("/2019.05") == (["2019.05/b.JPG", "2019.05/deep/c.png"], 1)
    assert listed("/2019.05/") == listed("/2019.05")
    assert listed("/2019") == (["2019/d.jpg"], 0)
    assert listed("") == listed("/") == (everything, 2)
    assert listed("/scan", "/a.jpg") == (["a.jpg", "scan"], 0)
    assert listed("/2019.05/*") == (["2019.05/b.JPG", "2019.05/notes.txt"], 0)
    for missing in ("/2020", "/b.jpg", "/*.gif"):
        with pytest.raises(
            InputError, match=rf"bucket://b{missing.replace('*', '.')} does not exist"
        ):
            listed("/a.jpg", missing)
    assert read_photo(Photo("bucket://b/a.jpg", Shard("s", 1))).content == b"a.jpg"


# --- shards

uri_lists = st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True).map(sorted)


@given(uri_lists, st.integers(1, 10))
def test_shards_partition_the_photos_in_order(uris, photos_per_shard):
    shards = plan_shards(uris, photos_per_shard)
    assert [uri for _, part in shards for uri in part] == uris
    assert all(shard.n_photos == len(part) for shard, part in shards)
    assert all(len(part) == photos_per_shard for _, part in shards[:-1])
    assert all(1 <= len(part) <= photos_per_shard for _, part in shards)
    assert len({shard.name for shard, _ in shards}) == len(shards)
    assert all(shard.name.isalnum() for shard, _ in shards)


@given(uri_lists, uri_lists, st.integers(1, 5))
def test_a_shard_is_named_after_its_photos(uris, others, photos_per_shard):
    names = {part: shard.name for shard, part in plan_shards(uris, photos_per_shard)}
    assert names == {part: shard.name for shard, part in plan_shards(uris, photos_per_shard)}
    for shard, part in plan_shards(others, photos_per_shard):
        assert (shard.name in names.values()) == (part in names)


def test_shard_names_tell_a_line_break_from_two_photos():
    ((one, _),) = plan_shards(["a\nb"], 2)
    ((two, _),) = plan_shards(["a", "b"], 2)
    assert one.name != two.name


# --- reading


def test_bytes_and_the_photo_id(tmp_path):
    paths = make(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "b.jpg").write_bytes(b"a.jpg")
    a, b = (read_photo(Photo(path, Shard("s", 2))) for path in paths)
    assert a.content == b"a.jpg"
    assert a.photo_id == b.photo_id == hashlib.sha256(b"a.jpg").hexdigest()


def test_what_cannot_be_read_fails(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    for name, error in [
        ("empty.jpg", "ValueError"),
        ("folder.jpg", "IsADirectoryError"),
        ("gone.jpg", "FileNotFoundError"),
    ]:
        photo = read_photo(Photo(str(tmp_path / name), Shard("s", 1)))
        assert (photo.failure.step, photo.failure.error) == ("read", error)
        assert photo.failure.message
        assert photo.photo_id is None


def test_in_a_pipeline(tmp_path):
    paths = make(tmp_path, *(f"{i}.jpg" for i in range(7)))
    with beam.Pipeline(FnApiRunner()) as pipeline:
        shards = plan_shards([*paths, str(tmp_path / "gone.jpg")], 3)
        photos = pipeline | beam.Create(shards) | ReadPhotos()
        read = photos | beam.Map(lambda photo: (photo.shard, photo.uri, photo.content))
        expected = [
            (shard, uri, None if "gone" in uri else os.path.basename(uri).encode())
            for shard, part in shards
            for uri in part
        ]
        assert_that(read, equal_to(expected))


def test_a_file_larger_than_the_limit_fails_and_one_as_large_does_not(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    photo = Photo(str(path), Shard("s", 1))
    assert read_photo(photo, 5).content == b"12345"
    failed = read_photo(photo, 4)
    assert failed.content is None
    assert (failed.failure.step, failed.failure.error) == ("read", "ValueError")
    assert "limit of 4 bytes" in failed.failure.message
