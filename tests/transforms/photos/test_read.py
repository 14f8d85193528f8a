"""Shards partition the photos, tasks read a container once, and every photo is read or fails."""

import gzip
import hashlib
import io
import os
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from facecluster.transforms.inputs.listing import list_photos
from facecluster.transforms.inputs.sources import Container, Source
from facecluster.transforms.inputs.tfrecord import make_record
from facecluster.transforms.photos.read import (
    ReadPhotos,
    read_photo,
    read_photos,
)
from facecluster.transforms.photos.shards import make_read_tasks, split_into_shards
from facecluster.transforms.records import Photo, Shard
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.parquet_files import write_table


def make(folder: Path, *names: str) -> list[str]:
    """Writes files whose content is their name; returns their paths."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return sorted(str(folder / name) for name in names)


# --- shards

uri_lists = st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True).map(sorted)
source_lists = uri_lists.map(lambda uris: list(map(Source, uris)))


@given(source_lists, st.integers(1, 10))
def test_shards_partition_the_photos_in_order(sources, photos_per_shard):
    shards = split_into_shards(sources, photos_per_shard)
    assert [source for _, part in shards for source in part] == sources
    assert all(shard.n_photos == len(part) for shard, part in shards)
    assert all(len(part) == photos_per_shard for _, part in shards[:-1])
    assert all(1 <= len(part) <= photos_per_shard for _, part in shards)
    assert len({shard.name for shard, _ in shards}) == len(shards)
    assert all(shard.name.isalnum() for shard, _ in shards)


@given(source_lists, source_lists, st.integers(1, 5))
def test_a_shards_name_depends_only_on_its_photos(uris, others, photos_per_shard):
    names = {part: shard.name for shard, part in split_into_shards(uris, photos_per_shard)}
    assert names == {part: shard.name for shard, part in split_into_shards(uris, photos_per_shard)}
    for shard, part in split_into_shards(others, photos_per_shard):
        assert (shard.name in names.values()) == (part in names)


def test_shard_names_distinguish_a_line_break_from_two_photos():
    ((one, _),) = split_into_shards([Source("a\nb")], 2)
    ((two, _),) = split_into_shards([Source("a"), Source("b")], 2)
    assert one.name != two.name


def make_members(
    path: str, file_format: str, n: int, gzipped: bool, group: int = 5
) -> list[Source]:
    """n photos of a container, not in the order of their names; Parquet rows in groups."""
    is_parquet = file_format == "parquet"
    return [
        Source(
            f"{path}!/{(i * 7919) % 10_007:05d}",
            Container(
                path,
                file_format,
                gzipped,
                row_group=i // group if is_parquet else None,
            ),
            offset=i,
        )
        for i in range(n)
    ]


collections = st.lists(
    st.tuples(st.sampled_from(["file", "tar", "tgz", "parquet"]), st.integers(1, 25)), max_size=8
).map(
    lambda parts: [
        source
        for i, (file_format, n) in enumerate(parts)
        for source in (
            [Source(f"{i}/{j:05d}") for j in range(n)]
            if file_format == "file"
            else make_members(f"{i}", file_format.replace("tgz", "tar"), n, file_format == "tgz")
        )
    ]
)


@given(collections, st.integers(1, 12), st.randoms())
def test_tasks_read_a_container_once(sources, photos_per_shard, random):
    shards = split_into_shards(sources, photos_per_shard)
    assert sorted(s for _, part in shards for s in part) == sorted(sources)
    assert all(1 <= shard.n_photos == len(part) <= photos_per_shard for shard, part in shards)
    assert len({shard.name for shard, _ in shards}) == len(shards)
    assert split_into_shards(random.sample(sources, len(sources)), photos_per_shard) == shards
    left = random.sample(shards, random.randint(0, len(shards)))  # the others are complete
    tasks = make_read_tasks(left)
    assert sorted(shard.name for task in tasks for shard, _ in task) == sorted(
        shard.name for shard, _ in left
    )
    passes = [
        container
        for task in tasks
        for container in {source.container for _, part in task for source in part}
        if container is not None and container.read_in_one_pass
    ]
    assert len(passes) == len(set(passes))
    for task in tasks:  # no other photos wait for such a container
        assert len(task) == 1 or len({s.container for _, part in task for s in part}) == 1


def test_neighboring_members_are_in_one_shard():
    sources = make_members("a.tar", "tar", 20, False)
    for _, part in split_into_shards(sorted(sources), 7):
        offsets = [source.offset for source in part]
        assert offsets == list(range(offsets[0], offsets[0] + len(part)))


# --- reading


def test_content_and_photo_id(tmp_path):
    paths = make(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "b.jpg").write_bytes(b"a.jpg")
    a, b = (read_photo(Photo(path, Shard("s", 2))) for path in paths)
    assert a.content == b"a.jpg"
    assert a.photo_id == b.photo_id == hashlib.sha256(b"a.jpg").hexdigest()


def test_files_that_cannot_be_read_fail(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    for name, error in [
        ("empty.jpg", "EmptyFileError"),
        ("folder.jpg", "IsADirectoryError"),
        ("gone.jpg", "FileNotFoundError"),
    ]:
        photo = read_photo(Photo(str(tmp_path / name), Shard("s", 1)))
        assert (photo.failure.step, photo.failure.error) == ("read", error)
        assert photo.failure.message
        assert photo.photo_id is None


def test_reading_in_a_pipeline(tmp_path):
    paths = make(tmp_path, *(f"{i}.jpg" for i in range(7)))
    with beam.Pipeline(FnApiRunner()) as pipeline:
        shards = split_into_shards([*map(Source, paths), Source(str(tmp_path / "gone.jpg"))], 3)
        photos = pipeline | beam.Create(make_read_tasks(shards)) | ReadPhotos()
        read = photos | beam.Map(lambda photo: (photo.shard, photo.uri, photo.content))
        expected = [
            (shard, uri, None if "gone" in uri else os.path.basename(uri).encode())
            for shard, part in shards
            for uri, *_ in part
        ]
        assert_that(read, equal_to(expected))


# --- every form of input

COLLECTION = {f"Ann Lee/{i}.jpg": bytes([i]) * (i * 700 + 1) for i in range(9)}


def write_tar(path: Path, mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:
        for name, content in COLLECTION.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_tfrecord(path: Path) -> None:
    path.write_bytes(b"".join(make_record({"image/encoded": c}) for c in COLLECTION.values()))


def write_folder(folder: Path) -> None:
    for name, content in COLLECTION.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def write_images(path: Path, row_group_size: int = 4) -> None:
    """Writes a column as Hugging Face's datasets write the Image feature."""
    images = [{"bytes": content, "path": name} for name, content in COLLECTION.items()]
    pq.write_table(pa.table({"image": images}), path, row_group_size=row_group_size)


def write_list(path: Path, names: list[str]) -> None:
    path.write_text("\n".join(names))


def write_forms(folder: Path) -> dict[str, list[str]]:
    """Writes the collection in each form; returns {form: inputs}."""
    write_folder(folder / "files")
    write_tar(folder / "a.tar")
    write_tar(folder / "b.tar.gz", "w:gz")
    write_tar(folder / "c.tgz", "w:gz")
    write_tfrecord(folder / "d.tfrecord")
    write_tfrecord(folder / "e-00000-of-00001")
    (folder / "f.tfrecord.gz").write_bytes(gzip.compress((folder / "d.tfrecord").read_bytes()))
    write_images(folder / "g.parquet")
    pq.write_table(pa.table({"jpg": list(COLLECTION.values())}), folder / "h.parquet")
    names = [f"files/{name}" for name in COLLECTION]
    write_list(folder / "i.txt", names)
    write_list(folder / "j.csv", ["uri,n", *(f"{name},1" for name in names)])
    pq.write_table(pa.table({"uri": names}), folder / "k.parquet")
    write_list(folder / "l.txt", [f"a.tar!/{name}" for name in COLLECTION])
    forms = {path.name: [str(path)] for path in sorted(folder.iterdir())}
    half = [f"{folder}/files/{name}" for name in list(COLLECTION)[:4]]
    forms["members and files"] = half + [f"{folder}/a.tar!/{n}" for n in list(COLLECTION)[4:]]
    forms["glob"] = [f"{folder}/[a]*"]
    failures = [{"uri": uri, "step": "read", "error": "E", "message": "m"} for uri in
                [f"{folder}/b.tar.gz!/{name}" for name in COLLECTION]]  # fmt: skip
    table = pa.Table.from_pylist(failures, schema=schema.stamped(schema.FAILURES))
    write_table(str(folder / "run" / "failures" / "0.parquet"), table)
    forms["failures"] = [f"{folder}/run/failures"]
    return forms


def test_a_collection_has_the_same_photos_in_every_form(tmp_path):
    expected = {hashlib.sha256(content).hexdigest(): content for content in COLLECTION.values()}
    forms = write_forms(tmp_path)
    with beam.Pipeline(FnApiRunner()) as pipeline:
        for form, inputs in forms.items():
            shards = split_into_shards(list_photos(inputs).sources, 4)
            photos = (
                pipeline
                | f"{form} shards" >> beam.Create(make_read_tasks(shards))
                | f"{form} read" >> ReadPhotos()
            )
            found = photos | f"{form} bytes" >> beam.Map(
                lambda photo: (photo.photo_id, photo.content)
            )
            assert_that(found, equal_to(list(expected.items())), label=form)


def test_all_forms_mixed(tmp_path):
    forms = write_forms(tmp_path)
    inputs = [name for form in forms.values() for name in form]
    tasks = make_read_tasks(split_into_shards(list_photos(inputs).sources, 5))
    photos = [photo for task in tasks for photo in read_photos(task)]
    assert not [photo for photo in photos if photo.failure]
    assert len({photo.uri for photo in photos}) == len(photos)
    # Files, three tars, three TFRecords and two Parquet files; the lists name them again.
    n_duplicates = 9
    assert Counter(photo.content for photo in photos) == dict.fromkeys(
        COLLECTION.values(), n_duplicates
    )


def test_the_limit_on_bytes_in_every_form(tmp_path):
    for inputs in write_forms(tmp_path).values():
        tasks = make_read_tasks(split_into_shards(list_photos(inputs).sources, 4))
        photos = [photo for task in tasks for photo in read_photos(task, max_bytes=3000)]
        failed = [photo.failure for photo in photos if photo.failure]
        assert sorted(len(photo.content) for photo in photos if photo.content) == [
            1, 701, 1401, 2101, 2801
        ]  # fmt: skip
        assert [failure.error for failure in failed] == ["TooLargeError"] * 4
        assert all("the limit of 3,000 bytes a photo" in failure.message for failure in failed)


def test_a_huge_file_named_like_a_photo_is_not_read_to_its_end(tmp_path):
    with open(tmp_path / "x.jpg", "wb") as file:
        file.truncate(20 << 30)
    tracemalloc.start()
    photo = read_photo(Photo(str(tmp_path / "x.jpg"), Shard("s", 1)), 8 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert photo.failure.message == "it has more than the limit of 8,388,608 bytes a photo"
    assert peak < 16 << 20


def test_a_source_that_failed_in_listing_becomes_a_failed_photo(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"not a tar")
    listing = list_photos([str(tmp_path)])
    ((shard, part),) = split_into_shards(listing.sources, 4)
    (photo,) = read_photos([(shard, part)])
    assert (photo.uri, photo.shard) == (str(tmp_path / "a.tar"), shard)
    assert photo.failure.step == "read"
