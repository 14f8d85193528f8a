"""Files are written whole, read column by column, and checked to belong to one table."""

import contextlib
import io
import os
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystems import FileSystems
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facecluster.transforms.tables import schema
from facecluster.transforms.tables.files import (
    all_files,
    delete_files,
    delete_folder,
    list_files,
    write_bytes,
)
from facecluster.transforms.tables.parquet_files import (
    TableError,
    count_rows,
    read_footers,
    read_table,
    write_table,
)

PLAIN = pa.schema([pa.field("name", pa.string()), pa.field("number", pa.int32())])


def table(names, numbers, **stamp) -> pa.Table:
    return pa.table({"name": names, "number": numbers}, schema=schema.stamped(PLAIN, **stamp))


def files(folder) -> list[str]:
    return sorted(os.listdir(folder))


# --- writing


def test_writing_makes_folders_replaces_files_and_leaves_no_others(tmp_path):
    path = str(tmp_path / "a" / "b.bin")
    write_bytes(path, b"first")
    write_bytes(path, b"second")
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"second"
    assert files(tmp_path / "a") == ["b.bin"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "a.bin"
    versions = [bytes([i]) * 3_000_000 for i in range(2)]
    write_bytes(str(path), versions[0])
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(20):
        write_bytes(str(path), versions[i % 2])
    done.set()
    reader.join()
    assert seen <= set(versions)


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    path = str(tmp_path / "a.bin")
    contents = [bytes([i]) * 1_000_000 for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            list(pool.map(write_bytes, [path] * 4, contents))  # raises the errors of writers
    assert (tmp_path / "a.bin").read_bytes() in contents
    assert files(tmp_path) == ["a.bin"]


def test_the_same_table_is_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_table(str(tmp_path / name), table(["x"], [1], model="m"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# --- listing


FOLDERS = pytest.mark.parametrize("folder", ["photos", "run[1]/photos", "what?/photos", "st*r"])


@FOLDERS
@pytest.mark.parametrize("relative", [False, True])
def test_finished_files_are_listed_by_name(tmp_path, monkeypatch, folder, relative):
    monkeypatch.chdir(tmp_path)
    where = folder if relative else str(tmp_path / folder)
    for name in ("b.parquet", "a.parquet", "c.parquet.0123.tmp", "notes.txt"):
        write_bytes(f"{where}/{name}", b"")
    write_bytes("other/d.parquet", b"")
    assert list_files(where) == [f"{where}/a.parquet", f"{where}/b.parquet"]


def test_a_file_that_was_not_finished_is_not_listed(tmp_path):
    path = tmp_path / "photos" / "a.parquet"
    path.mkdir(parents=True)  # makes the last step of writing fail
    with pytest.raises(OSError, match=r"a\.parquet"):
        write_bytes(str(path), b"content")
    path.rmdir()
    assert list_files(str(tmp_path / "photos")) == []


def test_a_folder_that_does_not_exist_has_no_files(tmp_path):
    assert list_files(str(tmp_path / "nowhere")) == []
    assert all_files(str(tmp_path / "nowhere")) == []
    delete_folder(str(tmp_path / "nowhere"))


@FOLDERS
def test_all_files_are_listed_and_deleted(tmp_path, folder):
    beside = str(tmp_path / "run1" / "photos" / "b.parquet")  # which run[1] matches as a pattern
    write_bytes(beside, b"")
    where = tmp_path / folder
    paths = [str(where / name) for name in ("a.tmp", "b.parquet", "deep/er/a.txt", "deep/z[1].txt")]
    for path in paths:
        write_bytes(path, b"")
    assert all_files(str(where)) == paths
    delete_files([])
    delete_files(paths[1::2])
    assert all_files(str(where)) == paths[::2]
    delete_folder(str(where))
    assert not where.exists()
    assert all_files(str(tmp_path)) == [beside]


def test_an_object_store_is_listed(bucket):
    bucket({"bucket://run/b/c.txt": b"", "bucket://run/a.txt": b"", "bucket://running": b""})
    assert all_files("bucket://run") == ["bucket://run/a.txt", "bucket://run/b/c.txt"]


# --- reading

rows = st.lists(st.tuples(st.text(max_size=5), st.integers(-(2**31), 2**31 - 1)), max_size=5)


@given(st.lists(rows, min_size=1, max_size=4))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_files_read_back_as_one_table_in_their_order(tmp_path, parts):
    paths = []
    for i, part in enumerate(parts):
        paths.append(str(tmp_path / f"{len(parts) - i}.parquet"))
        names, numbers = zip(*part, strict=True) if part else ((), ())
        write_table(paths[-1], table(names, numbers, model="m"))
    read, stamp = read_table(paths, ["number", "name"])
    assert read.column_names == ["number", "name"]
    expected = [{"name": name, "number": number} for part in parts for name, number in part]
    assert read.to_pylist() == expected
    assert stamp == {"schema_version": schema.SCHEMA_VERSION, "model": "m"}


def test_no_files(tmp_path):
    with pytest.raises(TableError, match="no files"):
        read_table([], ["name"])
    read, stamp = read_table([], ["number"], schema.stamped(PLAIN, model="m"))
    assert (len(read), read.column_names) == (0, ["number"])
    assert stamp["model"] == "m"


# --- reading only what is requested


class CountingFile(io.BytesIO):
    """A file in an object store; `fetched` counts the bytes read from all such files."""

    fetched = 0

    def read(self, size=-1):
        content = super().read(size)
        CountingFile.fetched += len(content)
        return content


def bytes_read_by_process() -> int:
    """Bytes that this process has read since it started (Linux)."""
    with open("/proc/self/io") as file:
        return int(file.readline().removeprefix("rchar:"))


@pytest.fixture(params=["local", "bucket"])
def faces_files(request, tmp_path, bucket, monkeypatch):
    """(paths, function that counts the bytes read so far) of two faces files of 4 MB each."""
    paths = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    noise = np.random.default_rng(0)
    for number, path in enumerate(paths):
        columns = {
            "face_id": [f"{number}-{row:04d}" for row in range(1000)],
            "thumbnail": [noise.bytes(3000) for _ in range(1000)],
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(noise.normal(size=256_000).astype(np.float32)), 256
            ),
            "sharpness": noise.uniform(size=1000),
        }
        faces = pa.table(columns)
        write_table(path, faces.replace_schema_metadata(schema.stamped(faces.schema).metadata))
        assert os.path.getsize(path) > 3_900_000
    if request.param == "local":
        return paths, bytes_read_by_process
    objects = {
        f"bucket://run/{number}": Path(path).read_bytes() for number, path in enumerate(paths)
    }
    bucket(objects)
    filesystem = FileSystems.get_filesystem("bucket://")
    monkeypatch.setattr(
        type(filesystem), "open", lambda self, path, *_, **__: CountingFile(objects[path])
    )
    return list(objects), lambda: CountingFile.fetched


def test_a_column_is_read_without_its_neighbors(faces_files):
    paths, count_bytes = faces_files
    before = count_bytes()
    faces, _ = read_table(paths, ["face_id", "sharpness"])
    fetched = count_bytes() - before
    assert faces["face_id"].to_pylist() == [
        f"{n}-{row:04d}" for n in range(2) for row in range(1000)
    ]
    assert fetched < 300_000  # of 8 MB; footers are read with 64 KiB
    faces, _ = read_table(paths, ["thumbnail"])
    assert (
        count_bytes() - before - fetched > 6_000_000
    )  # thumbnails are 6 of 8 MB: the counter works


def test_rows_are_counted_without_reading_any(faces_files):
    paths, count_bytes = faces_files
    before = count_bytes()
    assert count_rows(paths) == 2000
    assert count_bytes() - before < 200_000
    assert [footer.n_rows for footer in read_footers(paths)] == [1000, 1000]
    assert count_rows([]) == 0


def test_files_are_read_in_parallel_and_kept_in_order(tmp_path, bucket, monkeypatch):
    """Opening a file waits until all eight files are being opened."""
    objects = {}
    for number in range(8):
        write_table(str(tmp_path / "one"), table([str(number)], [number]))
        objects[f"bucket://run/{number}"] = (tmp_path / "one").read_bytes()
    bucket(objects)
    all_open = threading.Barrier(len(objects), timeout=60)

    def open_with_others(self, path, *_, **__):
        all_open.wait()
        return io.BytesIO(objects[path])

    monkeypatch.setattr(type(FileSystems.get_filesystem("bucket://")), "open", open_with_others)
    paths = sorted(objects, reverse=True)
    assert read_table(paths, ["number"])[0]["number"].to_pylist() == list(range(8))[::-1]


def test_a_buffered_remote_file_is_not_read_ahead(tmp_path, bucket, monkeypatch):
    """A file on S3 is, in Beam, a buffered reader of 16 MiB over a raw file that fetches ranges."""

    class RangeFile(io.RawIOBase):
        fetched = 0

        def __init__(self, content):
            self.content = io.BytesIO(content)

        def readinto(self, buffer):
            n = self.content.readinto(buffer)
            RangeFile.fetched += n
            return n

        def seek(self, offset, whence=0):
            return self.content.seek(offset, whence)

        def tell(self):
            return self.content.tell()

        def seekable(self):
            return True

        def readable(self):
            return True

    rows = pa.table({"id": ["a", "b"], "blob": [os.urandom(3_000_000) for _ in range(2)]})
    stamped = rows.replace_schema_metadata(schema.stamped(rows.schema).metadata)
    write_table(str(tmp_path / "one"), stamped)
    content = (tmp_path / "one").read_bytes()
    bucket({"bucket://one": content})
    monkeypatch.setattr(
        type(FileSystems.get_filesystem("bucket://")),
        "open",
        lambda *_, **__: io.BufferedReader(RangeFile(content), 16 << 20),
    )
    assert read_table(["bucket://one"], ["id"])[0]["id"].to_pylist() == ["a", "b"]
    assert RangeFile.fetched < 200_000
    assert read_table(["bucket://one"], ["id", "blob"])[0].equals(rows)


@pytest.fixture
def sound(tmp_path) -> str:
    path = str(tmp_path / "sound.parquet")
    write_table(path, table(["a", "b"], [1, 2], model="m", codec="pca128"))
    return path


@pytest.mark.parametrize("stamp", [{"model": "n", "codec": "pca128"}, {"model": "m"},
                                   {"model": "m", "codec": "float32"}])  # fmt: skip
def test_two_models_or_codecs_are_not_mixed(tmp_path, sound, stamp):
    other = str(tmp_path / "other.parquet")
    write_table(other, table(["c"], [3], **stamp))
    for paths in ([sound, other], [other, sound]):
        with pytest.raises(TableError, match="cannot be compared") as raised:
            read_table(paths, ["name"])
        assert sound in str(raised.value)
        assert other in str(raised.value)
    assert len(read_table([other], ["name"])[0]) == 1


def test_another_version_is_refused(tmp_path, sound):
    old = str(tmp_path / "old.parquet")
    write_table(old, table(["c"], [3], model="m", codec="pca128", schema_version=0))
    with pytest.raises(TableError, match="version 0, this facecluster reads version 3") as raised:
        read_table([sound, old], ["name"])
    assert old in str(raised.value)
    assert "--overwrite, or take another output folder" in str(raised.value)
    with pytest.raises(TableError, match="version 0"):  # not that the column is missing
        read_table([old], ["a column of later versions"])


def test_a_write_that_fails_leaves_the_old_file_and_no_others(tmp_path):
    path = str(tmp_path / "table")
    write_bytes(path, b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as on a full disk
    try:
        with pytest.raises(OSError, match="table cannot be written: File too large"):
            write_bytes(path, bytes(10**6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "table").read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["table"]


def test_a_write_onto_a_folder_fails_with_the_reason(tmp_path):
    (tmp_path / "table").mkdir()
    with pytest.raises(OSError, match="table cannot be written: Is a directory"):
        write_bytes(str(tmp_path / "table"), b"x")
    assert os.listdir(tmp_path) == ["table"]


def test_foreign_tables_are_refused(tmp_path):
    foreign = str(tmp_path / "foreign.parquet")
    pq.write_table(pa.table({"name": ["a"]}), foreign)
    with pytest.raises(TableError, match=r"foreign\.parquet"):
        read_table([foreign], ["name"])
    with pytest.raises(TableError, match=r"foreign\.parquet has no column 'number'"):
        read_table([foreign], ["name", "number"])


def test_missing_files_are_named(tmp_path):
    with pytest.raises(TableError, match=r"gone\.parquet cannot be read"):
        read_table([str(tmp_path / "gone.parquet")], ["name"])


def test_damaged_files_are_named(tmp_path, sound):
    content = (tmp_path / "sound.parquet").read_bytes()
    damaged = tmp_path / "damaged.parquet"
    cut = [content[:length] for length in (0, 3, 8, len(content) // 2, len(content) - 1)]
    for broken in [*cut, b"no table", content[: -len(content) // 3] + content[-8:]]:
        damaged.write_bytes(broken)
        with pytest.raises(TableError, match=r"damaged\.parquet cannot be read"):
            read_table([sound, str(damaged)], ["name", "number"])


@given(st.integers(0, 10_000), st.integers(1, 255))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_changed_byte_raises_a_table_error_or_nothing(tmp_path, place, change):
    path = tmp_path / "changed.parquet"
    numbers = np.arange(50)
    write_table(str(path), table([f"name {i}" for i in numbers], numbers, model="m"))
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= change
    path.write_bytes(content)
    with contextlib.suppress(TableError):
        read_table([str(path)], ["name", "number"])
