"""Listing finds the photos of every kind of input, and reports inputs that cannot be used."""

import gzip
import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facecluster.errors import InputError
from facecluster.transforms.inputs.listing import Listing, list_photos, locate_photos
from facecluster.transforms.inputs.photo_suffixes import readable_suffixes
from facecluster.transforms.photos.read import read_photo, read_photos
from facecluster.transforms.photos.shards import split_into_shards
from facecluster.transforms.records import Photo, Shard
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.parquet_files import write_table
from tests.conftest import BucketFileSystem
from tests.transforms.inputs.counting import count_calls

FILES_PER_FOLDER = 1000


def make(folder: Path, *names: str) -> list[str]:
    """Writes files whose content is their name; returns their paths."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return sorted(str(folder / name) for name in names)


# --- files, folders, globs


def test_photos_in_a_folder_and_its_subfolders(tmp_path):
    photos = make(
        tmp_path, "b.jpg", "a.PNG", "2019/c.JpEg", "2019/may/d.webp", "e f.tif",
        "i.backup.bmp", "j.jpe", "k.tiff",
    )  # fmt: skip
    make(tmp_path, "notes.txt", "2019/l.mov", "jpg", "m.jpg.part", ".jpg", "._b.jpg")
    make(tmp_path, ".hidden/h.gif", "run.lock", "facecluster.log")
    listing = list_photos([str(tmp_path)])
    assert listing.uris == tuple(photos)
    assert listing.other_files == {"not named like photos": 4, "hidden": 3}
    assert listing.n_other_files == 7


@pytest.mark.parametrize("suffix", sorted(readable_suffixes()))
def test_every_suffix_counts_in_upper_and_lower_case(tmp_path, suffix):
    photos = make(tmp_path, f"a{suffix}", f"b{suffix.upper()}")
    assert list_photos([str(tmp_path)]).uris == tuple(photos)


def test_photos_are_sorted_and_not_repeated(tmp_path):
    photos = make(tmp_path, "z/a.jpg", "b.jpg", "y/c.jpg")
    make(tmp_path, "z/notes.txt")
    z, y = tmp_path / "z", tmp_path / "y"
    inputs = [tmp_path, y, z, z / "a.jpg", f"{tmp_path}/*/*.jpg", tmp_path]
    listing = list_photos(list(map(str, inputs)))
    assert listing.uris == tuple(photos)
    assert listing.n_other_files == 1


def test_a_file_that_is_an_input_counts_whatever_its_name(tmp_path):
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
        ("s*", ["sub/c.jpg", "sub/deep/d.jpg"]),  # folders, as a shell expands it
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
def test_names_with_special_characters(tmp_path, name):
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
    assert split_into_shards(list_photos([str(tmp_path)]).sources, 2)


def test_inputs_that_do_not_exist(tmp_path):
    (photo,) = make(tmp_path, "a.jpg")
    for missing in ("b.jpg", "nowhere/", "*.png", "[b].jpg"):
        with pytest.raises(InputError, match=r"does not exist") as raised:
            list_photos([photo, str(tmp_path / missing)])
        assert str(tmp_path / missing) in str(raised.value)


@pytest.mark.parametrize("uri", ["nosuch://bucket/photos", "gs://bucket/photos", "s3://bucket/*"])
def test_object_stores_that_cannot_be_reached(uri):
    with pytest.raises(InputError) as raised:
        list_photos([uri])
    assert str(raised.value).startswith(uri)


def test_folders_without_photos(tmp_path):
    with pytest.raises(InputError, match=r"no photos in .*photos end in .*jpg"):
        list_photos([str(tmp_path)])
    make(tmp_path, "a.txt")
    with pytest.raises(InputError, match=r"\(its only file is not named like photos\); photos end"):
        list_photos([str(tmp_path)])
    make(tmp_path, "b.mov", "c.PSD", "d.xcf", "e.psd")
    with pytest.raises(InputError) as raised:
        list_photos([str(tmp_path)])
    assert (
        "(all 5 files are not named like photos; formats that are not read: .psd 2, .xcf 1)"
    ) in str(raised.value)
    make(tmp_path, ".e/a.jpg", ".e/b.jpg")
    with pytest.raises(InputError) as raised:
        list_photos([str(tmp_path)], exclude=["a.txt"])
    assert (
        "(none of its 7 files is used: not named like photos 4, hidden 2, excluded 1; formats"
    ) in str(raised.value)


def test_a_folder_that_cannot_be_read_becomes_a_failure(tmp_path):
    # Its path is longer than the system allows.
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


def test_a_broken_link_becomes_a_failure(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    (uri,) = list_photos([str(tmp_path)]).uris
    failure = read_photo(Photo(uri, Shard("s", 1))).failure
    assert (failure.step, failure.error) == ("read", "FileNotFoundError")


def test_links_to_folders_are_followed_once(tmp_path):
    photos = make(tmp_path, "in/a.jpg", "out/b.jpg", "out/deep/c.jpg")
    inside, out = tmp_path / "in", tmp_path / "out"
    for link, target in {
        "album": out,
        "again": out,
        "self": inside,
        "up": tmp_path,
    }.items():
        (inside / link).symlink_to(target)
    (out / "deep" / "back").symlink_to(out)
    listing = list_photos([str(inside)])
    assert listing.uris == (photos[0], f"{inside}/again/b.jpg", f"{inside}/again/deep/c.jpg")
    assert list_photos([str(tmp_path)]).uris == tuple(photos)


def test_a_pipe_becomes_a_failure(tmp_path):
    for name in ("a.jpg", "b.tar"):
        os.mkfifo(tmp_path / name)
    listing = list_photos([str(tmp_path)])
    assert [source.uri for source in listing.sources] == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.tar"]
    assert "a pipe or a device" in listing.sources[1].failure.message
    failure = read_photo(Photo(listing.uris[0], Shard("s", 1))).failure
    assert "a pipe or a device" in failure.message


def test_of_two_paths_with_one_uri_neither_is_lost(tmp_path):
    plain, bytes_ = os.fsencode(tmp_path / r"\xff.jpg"), os.fsencode(tmp_path) + b"/\xff.jpg"
    for path in (plain, bytes_):
        with open(path, "wb") as file:
            file.write(path)
    listing = list_photos([str(tmp_path)])
    assert [bool(source.failure) for source in listing.sources] == [False, True]
    assert "another file has the URI" in listing.sources[1].failure.message
    assert read_photo(Photo(listing.uris[0], Shard("s", 1))).content == plain


def test_fully_listed_folders_containers_and_lists(tmp_path):
    make(tmp_path, "sub/a.jpg")
    whole, empty = write_tar(tmp_path / "b.tar", "x.jpg"), write_tar(tmp_path / "c.tar")
    cut = Path(write_tar(tmp_path / "d.tar", "x.jpg"))
    cut.write_bytes(cut.read_bytes()[:1100])
    (tmp_path / "list.txt").write_text("sub/a.jpg")
    listing = list_photos([str(tmp_path), f"{tmp_path}/list.txt"])
    names = {str(tmp_path), f"{tmp_path}/sub", whole, empty, f"{tmp_path}/list.txt"}
    assert listing.fully_listed == names
    assert list_photos([f"{whole}!/x.jpg"]).fully_listed == set()


def test_files_have_their_size_and_time_and_members_their_checksum(tmp_path):
    in_folder, link, listed, gone = (
        str(tmp_path / name) for name in ("f/a.jpg", "f/l.jpg", "b.jpg", "c.jpg")
    )
    make(tmp_path, "f/a.jpg", "b.jpg")
    os.symlink(listed, link)
    (tmp_path / "list.txt").write_text(f"{listed}\n{gone}\n")
    for path, time in ((in_folder, 1_000_000_007), (listed, 2_000_000_009)):
        os.utime(path, ns=(0, time))
    with tarfile.open(tmp_path / "f" / "d.tar", "w") as tar:
        tar.add(listed, "d.jpg")
    inputs = [str(tmp_path / "f"), str(tmp_path / "list.txt")]
    found = {source.uri: source for source in list_photos([*inputs, in_folder]).sources}
    assert {uri: (s.size, s.version) for uri, s in found.items() if s.container is None} == {
        in_folder: (len("f/a.jpg"), 1_000_000_007),
        link: (len("b.jpg"), 2_000_000_009),
        listed: (len("b.jpg"), 2_000_000_009),
        gone: (0, None),
    }
    member = found[f"{tmp_path}/f/d.tar!/d.jpg"]
    assert member.size == len("b.jpg")
    assert member.version == google_crc32c.value(
        (tmp_path / "f" / "d.tar").read_bytes()[: member.header_size]
    )


def test_objects_have_the_size_and_time_that_a_listing_gives(bucket, monkeypatch):
    bucket(
        {
            "bucket://b/in/a.jpg": b"a",
            "bucket://b/b.jpg": b"bb",
            "bucket://b/list.txt": b"in/a.jpg\nb.jpg",
        }
    )

    def versions(*names):
        return [
            (s.size, s.version) for s in list_photos([f"bucket://b/{n}" for n in names]).sources
        ]

    assert versions("in") == [(1, None)]
    monkeypatch.setattr(BucketFileSystem, "updated_at", 1.5)
    assert (
        versions("in")
        == versions("in", "list.txt")[1:]
        == versions("in/a.jpg")
        == [(1, 1_500_000_000)]
    )
    assert versions("list.txt") == [(0, None)] * 2  # each would be a request


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
    assert listed("/2019.05/*.*G", "/sc*") == (["2019.05/b.JPG", "scan"], 0)
    for missing in ("/2020", "/b.jpg", "/*.gif"):
        with pytest.raises(
            InputError, match=rf"bucket://b{missing.replace('*', '.')} does not exist"
        ):
            listed("/a.jpg", missing)
    assert read_photo(Photo("bucket://b/a.jpg", Shard("s", 1))).content == b"a.jpg"


# --- containers


def write_tar(path: Path, *names: str, mode: str = "w") -> str:
    """Writes a tar of files whose content is their name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name.encode())
            tar.addfile(info, io.BytesIO(name.encode()))
    return str(path)


def contents(listing: Listing) -> dict[str, str]:
    """{URI: its content or error message}."""
    photos = [
        photo for task in [split_into_shards(listing.sources, 3)] for photo in read_photos(task)
    ]
    return {p.uri: p.failure.message if p.failure else p.content.decode() for p in photos}


def test_containers_in_folders(tmp_path):
    make(tmp_path, "a.jpg", "sub/b.jpg", "list.txt", "rows.csv", "e-1-of-2", "f.zip", "._h.tar")
    tar = write_tar(tmp_path / "sub" / "c.tar", "x.jpg", "x.json")
    tgz = write_tar(tmp_path / "d.tgz", "y.png", mode="w:gz")
    parquet = str(tmp_path / "g.parquet")
    pq.write_table(pa.table({"image": [b"z"]}), parquet)
    listing = list_photos([str(tmp_path)])
    assert contents(listing) == {
        f"{tmp_path}/a.jpg": "a.jpg",
        f"{tmp_path}/sub/b.jpg": "sub/b.jpg",
        f"{tar}!/x.jpg": "x.jpg",
        f"{tgz}!/y.png": "y.png",
        f"{parquet}!/00000000": "z",
    }
    assert listing.n_other_files == 6
    assert list_photos([str(tmp_path), tar, f"{tmp_path}/sub/*", f"{tar}!/x.jpg"]) == listing


def test_a_container_is_detected_by_its_content(tmp_path):
    tar = write_tar(tmp_path / "shard", "x.jpg")
    Path(tar + "2").write_bytes(gzip.compress(Path(tar).read_bytes()))
    assert contents(list_photos([tar, tar + "2"])) == {
        f"{tar}!/x.jpg": "x.jpg",
        f"{tar}2!/x.jpg": "x.jpg",
    }


def test_members_by_their_uris(tmp_path):
    tar = write_tar(tmp_path / "c.tar", "x.jpg", "./y.jpg", "x.jpg", "z.jpg")
    found = contents(list_photos([f"{tar}!/x.jpg#2", f"{tar}!/./y.jpg", f"{tar}!/no.jpg"]))
    assert found == {
        f"{tar}!/x.jpg#2": "x.jpg",
        f"{tar}!/./y.jpg": "./y.jpg",
        f"{tar}!/no.jpg": "its container has no such member",
    }
    for inputs in ([tar, f"{tar}!/no.jpg"], [f"{tar}!/no.jpg", str(tmp_path)]):
        found = contents(list_photos(inputs))
        assert len(found) == 5
        assert found[f"{tar}!/no.jpg"] == "its container has no such member"
    (tmp_path / "list.txt").write_text("c.tar!/no.jpg\nc.tar!/z.jpg")
    assert contents(list_photos([tar, f"{tmp_path}/list.txt"])) == found
    gone = f"{tmp_path}/gone.tar!/x.jpg"
    assert "No such file" in contents(list_photos([gone]))[gone]


def test_a_file_with_the_name_of_a_member(tmp_path):
    (path,) = make(tmp_path, "x.tar!/a.jpg")
    tar = write_tar(tmp_path / "x.tar", "a.jpg", "b.jpg")
    for inputs in ([path], [f"{tmp_path}/x.tar!"]):
        assert contents(list_photos(inputs)) == {path: "x.tar!/a.jpg"}
    assert contents(list_photos([str(tmp_path)])) == {
        path: "x.tar!/a.jpg",
        f"{tar}!/a.jpg#2": "a.jpg",
        f"{tar}!/b.jpg": "b.jpg",
    }


def test_a_damaged_container_is_a_failure_in_addition_to_its_photos(tmp_path):
    tar = Path(write_tar(tmp_path / "c.tar", "x.jpg", "y.jpg"))
    tar.write_bytes(tar.read_bytes()[:1100])
    (tmp_path / "d.tfrecord").write_bytes(b"not a TFRecord")
    (tmp_path / "e.parquet").write_bytes(b"")
    for listing in (list_photos([str(tmp_path)]), list_photos([f"{tmp_path}/*"])):
        found = contents(listing)
        assert found.pop(f"{tar}!/x.jpg") == "x.jpg"
        assert "truncated" in found.pop(str(tar))
        assert str(next(s for s in listing.sources if s.uri == str(tar)).failure.step) == "read"
        assert "no record starts at byte 0" in found.pop(f"{tmp_path}/d.tfrecord")
        assert "not a Parquet file" in found.pop(f"{tmp_path}/e.parquet")
        assert not found


def test_a_damaged_part_of_a_dataset_becomes_a_failure(tmp_path):
    for name in ("a.tfrecord-00000-of-00002", "b-00000-of-00002.gz"):
        (tmp_path / name).write_bytes(b"\x1f\x8b\x08 not gzip")
    found = contents(list_photos([str(tmp_path)]))
    assert sorted(found) == [
        f"{tmp_path}/a.tfrecord-00000-of-00002",
        f"{tmp_path}/b-00000-of-00002.gz",
    ]


def test_many_members_of_a_container(tmp_path):
    tar = write_tar(tmp_path / "c.tar", *(f"{i}.jpg" for i in range(50_000)))
    uris = [
        f"{tar}!/{i}.jpg" for i in range(50_000)
    ]  # takes minutes if each copies the set of those before
    assert [source.uri for source in locate_photos(uris)] == uris


def test_containers_count_as_files_if_they_are_not_listed(tmp_path):
    (photo,) = make(tmp_path, "a.jpg")
    tar = write_tar(tmp_path / "c.tar", "x.jpg")
    assert list_photos([str(tmp_path)], containers=False).uris == (photo,)
    assert list_photos([tar], containers=False).uris == (tar,)


def test_containers_in_an_object_store(tmp_path, bucket):
    tar = Path(write_tar(tmp_path / "c.tar", "x.jpg", "y.jpg")).read_bytes()
    record = io.BytesIO()
    pq.write_table(pa.table({"image": [b"z"]}), record)
    listed = b"a.jpg\nin/c.tar!/y.jpg\ns://no/b.jpg\nin/deep\n"
    bucket(
        {
            "bucket://b/in/c.tar": tar,
            "bucket://b/in/deep/d.tgz": gzip.compress(tar),
            "bucket://b/in/e.parquet": record.getvalue(),
            "bucket://b/a.jpg": b"a",
            "bucket://b/list.txt": listed,
            "bucket://b/shard": tar,
        }
    )
    deep = {f"bucket://b/in/deep/d.tgz!/{name}.jpg": f"{name}.jpg" for name in "xy"}
    assert contents(list_photos(["bucket://b/in"])) == {
        "bucket://b/in/c.tar!/x.jpg": "x.jpg",
        "bucket://b/in/c.tar!/y.jpg": "y.jpg",
        "bucket://b/in/e.parquet!/00000000": "z",
        **deep,
    }
    assert contents(list_photos(["bucket://b/shard", "bucket://b/in/c.tar!/x.jpg"])) == {
        "bucket://b/shard!/x.jpg": "x.jpg",
        "bucket://b/shard!/y.jpg": "y.jpg",
        "bucket://b/in/c.tar!/x.jpg": "x.jpg",
    }
    found = contents(list_photos(["bucket://b/list.txt"]))
    assert "Unable to get filesystem" in found.pop("s://no/b.jpg")
    assert found == {"bucket://b/a.jpg": "a", "bucket://b/in/c.tar!/y.jpg": "y.jpg", **deep}


# --- lists


def test_lists_of_photos_folders_containers_and_members(tmp_path):
    make(tmp_path, "a.jpg", "sub/b.jpg", "scan")
    tar = write_tar(tmp_path / "c.tar", "x.jpg", "y.jpg")
    other = write_tar(tmp_path / "d.tar", "z.jpg")
    lines = ["a.jpg", "sub", "scan", f"{tar}!/y.jpg", "d.tar", "gone.jpg", "gone.tar", "gone"]
    expected = {
        f"{tmp_path}/a.jpg": "a.jpg",
        f"{tmp_path}/sub/b.jpg": "sub/b.jpg",
        f"{tmp_path}/scan": "scan",
        f"{tar}!/y.jpg": "y.jpg",
        f"{other}!/z.jpg": "z.jpg",
        **{f"{tmp_path}/{name}": "No such file" for name in ("gone.jpg", "gone.tar", "gone")},
    }
    (tmp_path / "list.txt").write_text("\n".join(["# photos", *lines]))
    (tmp_path / "list.csv").write_text("\n".join(["n,path", *(f"1,{line}" for line in lines)]))
    pq.write_table(pa.table({"uri": [*lines, None], "n": range(9)}), tmp_path / "list.parquet")
    for name in ("list.txt", "list.csv", "list.parquet"):
        found = contents(list_photos([f"{tmp_path}/{name}"]))
        assert {uri: "No such file" if "No such file" in text else text
                for uri, text in found.items()} == expected  # fmt: skip


def test_a_list_within_a_list_and_text_that_is_not_a_list(tmp_path):
    make(tmp_path, "a.jpg")
    (tmp_path / "inner.txt").write_text("a.jpg")
    pq.write_table(pa.table({"uri": ["a.jpg"]}), tmp_path / "inner.parquet")
    (tmp_path / "list.txt").write_text("inner.txt\ninner.parquet\nlist.txt\n")
    found = contents(list_photos([f"{tmp_path}/list.txt"]))
    names = ("inner.txt", "inner.parquet", "list.txt")
    assert found.keys() == {f"{tmp_path}/{name}" for name in names}
    assert all("a list within a list" in text for text in found.values())
    (tmp_path / "readme.txt").write_text("These are\nmy photos.\n")
    found = contents(list_photos([f"{tmp_path}/a.jpg", f"{tmp_path}/readme.txt"]))
    assert found == {
        f"{tmp_path}/a.jpg": "a.jpg",
        f"{tmp_path}/readme.txt": "it is not a list of photos: none of its lines names one",
    }


def test_lists_that_cannot_be_used(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\0b")
    pq.write_table(pa.table({"one": [b"1"], "two": [b"2"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "c.parquet")
    for name, reason in [
        ("a.txt", "it is not text"),
        ("b.parquet", "any of its columns one, two may have the photos"),
        ("c.parquet", r"no column of photos .* but n \(int64\)"),
    ]:
        with pytest.raises(InputError, match=rf"{name} cannot be read as an input: .*{reason}"):
            list_photos([f"{tmp_path}/{name}"])
    make(tmp_path, "a.jpg")
    listing = list_photos([str(tmp_path)])  # in a folder, a file that may have photos is a failure
    assert listing.uris == (f"{tmp_path}/a.jpg", f"{tmp_path}/b.parquet")
    assert listing.n_other_files == 2


# --- a run's tables


def write_failures(run: Path, shard: str, *uris: str) -> None:
    rows = [{"uri": uri, "step": "read", "error": "E", "message": "m"} for uri in uris]
    table = pa.Table.from_pylist(rows, schema=schema.stamped(schema.FAILURES))
    write_table(str(run / "failures" / f"{shard}.parquet"), table)


def test_the_failures_of_a_run(tmp_path):
    (a, b) = make(tmp_path / "in[1]", "a.jpg", "b")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/in[1]/caf\xe9.jpg")
    Path(odd).write_bytes(b"odd")
    tar = write_tar(tmp_path / "in[1]" / "c.tar", "x.jpg", "y.jpg")
    whole = write_tar(tmp_path / "in[1]" / "d.tar", "z.jpg")
    odd_uri = f"{tmp_path}/in[1]/caf\\xe9.jpg"
    run = tmp_path / "run[1]"
    write_failures(run, "one", a, f"{tar}!/y.jpg", odd_uri)
    write_failures(run, "two", b, whole)
    write_failures(run, "three")
    for name in ("failures", "failures/"):
        assert contents(list_photos([f"{run}/{name}"])) == {
            a: "a.jpg",
            b: "b",
            odd_uri: "odd",
            f"{tar}!/y.jpg": "y.jpg",
            f"{whole}!/z.jpg": "z.jpg",
        }
    for name in ("one", "two", "three"):
        (run / "failures" / f"{name}.parquet").unlink()
    write_failures(run, "three")
    with pytest.raises(InputError, match="no photos in"):
        list_photos([f"{run}/failures"])


def test_other_tables_of_a_run(tmp_path):
    run = tmp_path / "run"
    write_failures(run, "one", "/no/a.jpg")
    for name, columns in [
        ("photos", schema.PHOTOS),
        ("people", schema.PEOPLE),
        ("assignments", schema.ASSIGNMENTS),
        ("faces", schema.faces(pa.list_(pa.int8()))),
    ]:
        write_table(str(run / name / "one.parquet"), schema.stamped(columns).empty_table())
        for named in (f"{run}/{name}", f"{run}/{name}/one.parquet"):
            with pytest.raises(InputError, match=r"one\.parquet: .*a table of a run .*failures/"):
                list_photos([named])
    (run / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match=r"one\.parquet is a table of a run, not photos"):
        list_photos([str(run)])
    (photo,) = make(tmp_path, "a.jpg")
    listing = list_photos([str(tmp_path)])  # a run within the folder of its photos
    assert (listing.uris, listing.n_other_files) == ((photo,), 6)


# --- many photos


def make_many(folder: Path, n: int) -> None:
    """n empty files named like photos, FILES_PER_FOLDER to a folder."""
    for i in range(n):
        subfolder = folder / f"{i // FILES_PER_FOLDER}"
        if i % FILES_PER_FOLDER == 0:
            subfolder.mkdir(parents=True)
        os.close(os.open(subfolder / f"IMG_{i:06d}.jpg", os.O_CREAT))


def test_listing_a_folder_takes_work_and_memory_linear_in_its_files(tmp_path):
    n_calls = {}
    for n in (2000, 10_000):
        folder = tmp_path / str(n)
        make_many(folder, n)
        listing, calls = count_calls(list_photos, [str(folder)])
        assert len(listing.sources) == n
        n_folders = n // FILES_PER_FOLDER + 1
        assert calls["scandir"] == n_folders
        assert calls["stat"] + calls["lstat"] <= n + n_folders + 10  # one of each file
        assert calls["open"] == 0
        n_calls[n] = calls.total()
    assert n_calls[10_000] / 10_000 <= 1.01 * n_calls[2000] / 2000
    tracemalloc.start()
    listing = list_photos([str(tmp_path / "10000")])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"\n{peak / len(listing.sources):.0f} bytes a photo")
    assert peak / len(listing.sources) < 1500
