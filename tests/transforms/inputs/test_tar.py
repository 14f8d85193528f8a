"""Tars with any names are listed and read; damage costs only the members at and after it."""

import io
import subprocess
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.transforms.inputs.containers import list_container
from facecluster.transforms.inputs.sources import (
    ChangedError,
    Container,
    DamagedError,
    Source,
    TooLargeError,
)
from facecluster.transforms.inputs.tar import list_members, read_member

CONTAINER = Container("a.tar", "tar")
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
names = names.map(lambda name: name.rstrip("/") or "_")
long_names = st.builds(lambda name, n: name + "/" + "n" * n, names, st.integers(1, 300))
members = st.lists(st.tuples(names | long_names, st.binary(max_size=1500)), max_size=6)


def tar_of(contents, tar_format=tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        for name, content in contents:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def sources_of(file, found: list[Source] | None = None) -> list[Source]:
    """The members. If listing raises, those before the error are in `found`."""
    found = [] if found is None else found
    for member in list_members(file):
        found.append(Source(member.name, CONTAINER, *member[1:]))
    return found


def read_all(file, max_bytes=10_000):
    return [(source.uri, read_member(file, source, max_bytes)) for source in sources_of(file)]


@settings(deadline=None)
@given(members, st.sampled_from(FORMATS[1:]))
def test_members_that_are_written_are_read(contents, tar_format):
    assert read_all(io.BytesIO(tar_of(contents, tar_format))) == contents


@settings(deadline=None)
@given(members, st.randoms())
def test_members_are_read_in_any_order(contents, random):
    file = io.BytesIO(tar_of(contents))
    sources = sources_of(file)
    expected = dict(zip(sources, (content for _, content in contents), strict=True))
    random.shuffle(sources)
    assert {source: read_member(file, source, 10_000) for source in sources} == expected


def test_names_that_are_not_utf_8():
    content = tar_of([("caf\udce9.jpg", b"1")], tarfile.GNU_FORMAT)
    assert [source.uri for source in sources_of(io.BytesIO(content))] == ["caf\udce9.jpg"]


@pytest.mark.parametrize("tar_format", ["gnu", "pax", "ustar"])
def test_tars_written_by_the_tar_command(tmp_path, tar_format):
    folder = tmp_path / "in"
    (folder / "empty").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"a" * 700)
    (folder / "hard.jpg").hardlink_to(folder / "a.jpg")
    (folder / "soft.jpg").symlink_to("a.jpg")
    (folder / ("n" * 90)).mkdir()
    (folder / ("n" * 90) / "b é.jpg").write_bytes(b"b")
    path = tmp_path / "a.tar"
    subprocess.run(["tar", "cf", path, f"--format={tar_format}", "-C", folder, "."], check=True)
    with open(path, "rb") as file:
        read = dict(read_all(file))
    (link,) = {
        "./a.jpg",
        "./hard.jpg",
    } & read.keys()  # of a file and its hard link, the one that tar wrote first
    assert read == {link: b"a" * 700, f"./{'n' * 90}/b é.jpg": b"b"}


def test_sparse_members_fail(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"a")
    (tmp_path / "b.jpg").write_bytes(b"b")
    for tar_format in ("gnu", "pax"):
        path = tmp_path / f"{tar_format}.tar"
        command = ["tar", "cSf", path, f"--format={tar_format}", "-C", tmp_path, "a.jpg", "b.jpg"]
        subprocess.run(command, check=True)
        with open(path, "rb") as file:
            sparse, b = sources_of(file)
            with pytest.raises(DamagedError, match="stored as a sparse file"):
                read_member(file, sparse, 1 << 30)
            assert read_member(file, b, 10) == b"b"


@settings(deadline=None)
@given(members, st.data())
def test_a_truncated_tar_raises_after_the_members_before_the_cut(contents, data):
    content = tar_of(contents)
    end = len(content.rstrip(b"\0")) if contents else 0
    cut = data.draw(st.integers(0, max(end - 1, 0)))
    file = io.BytesIO(content[:cut])
    found = []
    with pytest.raises(DamagedError):
        sources_of(file, found)
    for source, (name, expected) in zip(found, contents[: len(found)], strict=True):
        assert source.uri == name
        try:
            assert read_member(file, source, 10_000) == expected
        except DamagedError as error:
            assert "is truncated" in str(error)  # noqa: PT017
            assert source is found[-1]


@settings(deadline=None)
@given(members, st.data())
def test_a_flipped_bit_costs_at_most_the_members_after_it(contents, data):
    content = bytearray(tar_of(contents))
    place = data.draw(st.integers(0, len(content) - 1))
    whole = sources_of(io.BytesIO(bytes(content)))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    file = io.BytesIO(bytes(content))
    found, detected = [], False
    try:
        sources_of(file, found)
    except Exception:
        detected = True
    before = [
        source for source in whole if source.offset + source.header_size + source.size <= place
    ]
    assert found[: len(before)] == before
    for source, (_, expected) in zip(before, contents[: len(before)], strict=True):
        assert read_member(file, source, 10_000) == expected
    assert detected or len(found) == len(whole)


def test_a_replaced_tar_never_gives_another_photo():
    sources = sources_of(io.BytesIO(tar_of([("a", b"one"), ("b", b"two")])))
    other = io.BytesIO(tar_of([("a", b"one"), ("c", b"six")]))
    assert read_member(other, sources[0], 10) == b"one"
    for file in (other, io.BytesIO(b"")):
        with pytest.raises(ChangedError, match=r"a\.tar has changed since it was listed: run"):
            read_member(file, sources[1], 10)


def test_the_limit_on_bytes():
    file = io.BytesIO(tar_of([("a", b"12345")]))
    (source,) = sources_of(file)
    assert read_member(file, source, 5) == b"12345"
    with pytest.raises(TooLargeError, match="5 bytes are more than the limit of 4 bytes a photo"):
        read_member(file, source, 4)


def test_tars_joined_with_cat_are_detected():
    one, two = tar_of([("a.jpg", b"1")]), tar_of([("b.jpg", b"2")])
    found = []
    with pytest.raises(DamagedError, match="data follows the end-of-archive marker"):
        sources_of(io.BytesIO(one + two), found)
    assert [source.uri for source in found] == ["a.jpg"]


def test_a_header_of_unlimited_size():
    info = tarfile.TarInfo("x")
    info.type = tarfile.GNUTYPE_LONGNAME
    info.size = 1 << 40
    content = info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000)
    with pytest.raises(DamagedError, match=r"more than 1,048,576 bytes"):
        list(list_members(io.BytesIO(content)))


def test_listing_a_tar_larger_than_memory_reads_only_headers(tmp_path):
    """64 photos of 1 GiB, in a sparse file."""
    size, n = 1 << 30, 64
    path = tmp_path / "large.tar"
    with open(path, "wb") as file:
        for number in range(n):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = size
            file.write(info.tobuf())
            file.seek(size, 1)
        file.write(bytes(1024))
    tracemalloc.start()
    contents = list_container(str(path), "tar")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert contents.problem is None
    assert [source.offset for source in contents.sources] == [i * (size + 512) for i in range(n)]
    assert peak < 3 << 20
