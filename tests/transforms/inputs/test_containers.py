"""Containers of each format are detected, listed and read; damage is detected."""

import contextlib
import gzip
import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.transforms.inputs import containers
from facecluster.transforms.inputs.containers import (
    ContainerContents,
    format_from_content,
    format_from_name,
    list_container,
    read_members,
)
from facecluster.transforms.inputs.sources import DamagedError
from facecluster.transforms.inputs.tfrecord import make_record
from tests.transforms.inputs.counting import count_calls, measure_peak_memory


def tar_of(members: dict[str, bytes] | list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in dict(members).items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def tfrecord_of(photos: list[bytes]) -> bytes:
    return b"".join(make_record({"image/encoded": photo}) for photo in photos)


def read(contents: ContainerContents) -> dict[str, bytes | Exception]:
    """{member: its content or error}."""
    return {
        source.uri.partition("!/")[2]: content
        for container in {source.container for source in contents.sources}
        for source, content in read_members(
            container, [s for s in contents.sources if s.container == container], 1 << 30
        )
    }


def write_and_list(path: Path, content: bytes, file_format: str) -> ContainerContents:
    path.write_bytes(content)
    return list_container(str(path), file_format)


@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        ("a.tar", "tar"),
        ("a.b.TAR.GZ", "tar"),
        ("a.tgz", "tar"),
        ("a.tar.zst", "tar"),
        ("a.tfrecord", "tfrecord"),
        ("a.tfrecords", "tfrecord"),
        ("a.tfrec.gz", "tfrecord"),
        ("train-00000-of-00002.tfrecord", "tfrecord"),
        ("train-00000-of-00002.parquet", "parquet"),
        ("train-00000-of-00002", None),
        ("._a.tar", None),
        ("tar", None),
        ("a.tar.jpg", None),
        ("a.gz", None),
    ],
)
def test_formats_by_name(name, file_format):
    assert format_from_name(f"gs://b/{name}") == file_format


def test_formats_by_content(tmp_path):
    path = tmp_path / "shard"
    parquet = io.BytesIO()
    pq.write_table(pa.table({"image": [b"x"]}), parquet)
    tar, tfrecord = tar_of({"a.jpg": b"a"}), tfrecord_of([b"a"])
    for content, file_format in [
        (tar, "tar"),
        (gzip.compress(tar), "tar"),
        (tfrecord, "tfrecord"),
        (gzip.compress(tfrecord), "tfrecord"),
        (parquet.getvalue(), "parquet"),
        (b"", None),
        (bytes(2000), None),
        (b"\xff\xd8\xff" + b"x" * 600, None),
        (gzip.compress(b"x" * 600), None),
    ]:
        path.write_bytes(content)
        assert format_from_content(str(path)) == file_format
    path.write_bytes(gzip.compress(tar)[:12])
    with pytest.raises(DamagedError, match="it cannot be decompressed"):
        format_from_content(str(path))


@settings(deadline=None)
@given(st.binary(max_size=700))
def test_any_content_is_detected_and_listed_without_an_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "a"
    for written in (content, b"\x1f\x8b\x08" + content, gzip.compress(content)):
        path.write_bytes(written)
        with contextlib.suppress(DamagedError):
            format_from_content(str(path))
        for file_format in ("tar", "tfrecord", "parquet"):
            contents = list_container(str(path), file_format)
            assert contents.problem or (file_format == "tfrecord" and not contents.sources)


TARS = {"tar": lambda content: content, "tar.gz": gzip.compress}


@pytest.mark.parametrize("suffix", TARS)
def test_names_in_a_tar(tmp_path, suffix):
    members = [
        ("a.jpg", b"1"),
        ("b/a.JPG", b"2"),
        ("a.jpg", b"3"),
        ("a.jpg#2", b"not named like a photo"),
        ("a.jpg", b"5"),
        ("._a.jpg", b"other"),
        ("b/.hidden.jpg", b"other"),
        ("a.json", b"other"),
        ("./a.jpg", b"6"),
        ("a!/b.jpg", b"7"),
    ]
    contents = write_and_list(tmp_path / f"x.{suffix}", TARS[suffix](tar_of(members)), "tar")
    assert contents.problem is None
    assert contents.other_files == {"not named like photos": 2, "hidden": 2}
    assert read(contents) == {
        "a.jpg": b"1",
        "b/a.JPG": b"2",
        "a.jpg#2": b"3",
        "a.jpg#3": b"5",
        "./a.jpg": b"6",
        "a!/b.jpg": b"7",
    }


def test_a_member_does_not_get_the_uri_of_a_file(tmp_path):
    (tmp_path / "x.tar!").mkdir()
    (tmp_path / "x.tar!" / "a.jpg").write_bytes(b"file")
    contents = write_and_list(tmp_path / "x.tar", tar_of({"a.jpg": b"1", "b.jpg": b"2"}), "tar")
    assert read(contents) == {"a.jpg#2": b"1", "b.jpg": b"2"}


@given(st.lists(st.sampled_from(["a.jpg", "a.jpg#2", "a.jpg#2#2", "b.jpg"]), max_size=9))
def test_member_uris_are_unique(names):
    uri_of_member = containers._MemberUris("/nowhere/x.tar")
    uris = [uri_of_member(name) for name in names]
    assert len(set(uris)) == len(names)
    assert all(
        uri.startswith(f"/nowhere/x.tar!/{name}") for uri, name in zip(uris, names, strict=True)
    )


def test_uris_of_many_members_of_one_name_take_linear_work():
    def name_members(n: int) -> str:
        uri_of_member = containers._MemberUris("/nowhere/x.tar")
        return [uri_of_member("a.jpg") for _ in range(n)][-1]

    n_calls = {}
    for n in (1000, 100_000):
        last, calls = count_calls(name_members, n)
        assert last.endswith(f"a.jpg#{n}")
        n_calls[n] = calls.total()
    assert n_calls[100_000] / 100_000 <= 1.01 * n_calls[1000] / 1000


CONTAINER_OF = {"tar": tar_of, "tfrecord": lambda photos: tfrecord_of(list(photos.values()))}


@pytest.mark.parametrize("file_format", CONTAINER_OF)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_truncated_gzip_has_a_problem_and_the_photos_before_the_cut(
    tmp_path_factory, file_format, data
):
    photos = {f"{i}.jpg": bytes([i]) * 20 + bytes(range(40)) for i in range(6)}
    whole = CONTAINER_OF[file_format](photos)
    cut = data.draw(st.integers(3, len(gzip.compress(whole)) - 1))
    path = tmp_path_factory.mktemp("cut") / "a"
    contents = write_and_list(path, gzip.compress(whole)[:cut], file_format)
    assert contents.problem
    in_order = list(photos.values())
    found = read(contents)
    for place, (source, expected) in enumerate(zip(contents.sources, in_order)):  # noqa: B905
        content = found[source.uri.partition("!/")[2]]
        assert content == expected or (
            isinstance(content, Exception) and place >= len(contents.sources) - 1
        )


@pytest.mark.parametrize("file_format", CONTAINER_OF)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_flipped_bit_in_a_gzip_is_detected(tmp_path_factory, file_format, data):
    photos = {f"{i}.jpg": bytes([i]) * 20 + bytes(range(40)) for i in range(6)}
    content = bytearray(gzip.compress(CONTAINER_OF[file_format](photos), mtime=0))
    content[data.draw(st.integers(10, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flip") / "a"
    contents = write_and_list(path, bytes(content), file_format)
    found = list(read(contents).values())
    if not contents.problem:  # an unused bit: the deflate stream ends within a byte
        assert found == list(photos.values())
    for place, photo in enumerate(found):
        if file_format == "tfrecord" and isinstance(photo, bytes):
            assert photo == list(photos.values())[place]


def test_a_gzip_is_decompressed_once_and_not_held_in_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.tgz"
    n, size = 300, 200_000
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for i in range(n):
            info = tarfile.TarInfo(f"{i}.jpg")
            info.size = size
            tar.addfile(info, io.BytesIO(b"%03d" % i + bytes(size - 3)))
    monkeypatch.setattr(gzip.GzipFile, "rewind", lambda _: pytest.fail("it is decompressed twice"))

    def list_and_read() -> list[tuple[int, str]]:
        wanted = list_container(str(path), "tar").sources[::-7]
        read_numbers = []
        for source, content in read_members(wanted[0].container, wanted, size):
            assert len(content) == size
            read_numbers.append((int(content[:3]), source.uri))
        return read_numbers

    read_numbers, peak = measure_peak_memory(list_and_read)
    assert read_numbers == [(i, f"{path}!/{i}.jpg") for i in range(5, n, 7)]
    assert peak < n * size / 20  # Python 3.12 itself reads in larger blocks


def test_unsupported_compressions(tmp_path):
    for magic, name in containers.UNSUPPORTED_COMPRESSIONS.items():
        contents = write_and_list(tmp_path / "a.tar", magic + bytes(600), "tar")
        assert str(contents.problem) == f"it is compressed with {name}: decompress it, or use gzip"


def test_a_container_that_does_not_exist(tmp_path):
    contents = list_container(str(tmp_path / "gone.tar"), "tar")
    assert isinstance(contents.problem, FileNotFoundError)
    contents = write_and_list(tmp_path / "a.tar", tar_of({"a.jpg": b"1", "b.jpg": b"2"}), "tar")
    (tmp_path / "a.tar").unlink()
    assert [type(error) for error in read(contents).values()] == [FileNotFoundError] * 2


def test_a_gzip_that_changed_since_it_was_listed(tmp_path):
    for content in (gzip.compress(tar_of({"b.jpg": b"1"})), b"not gzip", b""):
        contents = write_and_list(tmp_path / "a.tgz", gzip.compress(tar_of({"a.jpg": b"1"})), "tar")
        (tmp_path / "a.tgz").write_bytes(content)
        assert isinstance(read(contents)["a.jpg"], Exception)
