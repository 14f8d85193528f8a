"""Shards are written once as three tables, the same in whatever order and bundles photos arrive."""

import os
import random
from collections.abc import Sequence
from datetime import datetime

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from facecluster.transforms.photos.write import ShardWriter, WriteShards
from facecluster.transforms.records import Face, Failure, Photo, Quality, Shard
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.codec import Codec, decode_embeddings, fit_pca128, make_codec
from facecluster.transforms.tables.parquet_files import TableError, read_table

DIMENSIONS = 16
QUALITY = Quality(100.0, 0.2, 0.5, 0.0, 0.0, 0.0)
TABLES = ("photos", "faces", "failures")


def unit(rng: np.random.Generator, dimensions: int = DIMENSIONS) -> np.ndarray:
    vector = rng.standard_normal(dimensions).astype(np.float32)
    return vector / np.linalg.norm(vector)


def make_photo(number: int, shard: Shard) -> Photo:
    """Every fifth photo failed; the others have 0 to 3 faces, and some have a date."""
    uri = f"photos/{number:04}.jpg"
    if number % 5 == 4:
        return Photo(uri, shard, failure=Failure("decode", "OSError", f"damage {number}"))
    rng = np.random.default_rng(number)
    faces = tuple(
        Face(
            box=rng.uniform(0, 100, 4).astype(np.float32),
            landmarks=rng.uniform(0, 100, (5, 2)).astype(np.float32),
            score=float(np.float32(rng.uniform(0.7, 1))),
            thumbnail=rng.bytes(20),
            quality=Quality(*rng.uniform(0, 1, 6).astype(np.float32).tolist()),
            embedding=unit(rng),
            turn=90 * i,
        )
        for i in range(number % 4)
    )
    taken_at = datetime(2020, 1, 1 + number % 28, 3, 4, 5) if number % 3 else None
    return Photo(
        uri, shard, photo_id=f"{number:064x}", width=100 + number, height=50, taken_at=taken_at,
        n_frames=1 + number % 3, damaged=number % 5 == 0, faces=faces,
        perceptual_hash=None if number % 7 == 0 else -(number**11),
    )  # fmt: skip


def make_shards(*sizes: int) -> dict[str, list[Photo]]:
    shards, number = {}, 0
    for size in sizes:
        shard = Shard(f"shard{len(shards)}", size)
        shards[shard.name] = [make_photo(number + i, shard) for i in range(size)]
        number += size
    return shards


class CountingWriter(ShardWriter):
    """A writer that logs each shard that it writes."""

    def write(self, name, photos):
        super().write(name, photos)
        with open(f"{self.root}.written", "a") as file:
            file.write(name + "\n")


def make_writer(root, kind=ShardWriter) -> ShardWriter:
    return kind(str(root), Codec("float32"), DIMENSIONS, "abc", "space")


def write(root, photos: Sequence[Photo], n_bundles: int) -> None:
    """Sends photos to the writer in n_bundles bundles."""
    options = PipelineOptions(
        ["--direct_running_mode=multi_threading", f"--direct_num_workers={n_bundles}"]
    )
    with beam.Pipeline(FnApiRunner(), options) as pipeline:
        _ = (
            pipeline
            | beam.Create(photos)
            | beam.Reshuffle()
            | WriteShards(make_writer(root, CountingWriter))
        )


def list_written(root) -> list[str]:
    path = f"{root}.written"
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return sorted(file.read().split())


def read_files(root) -> dict[str, bytes]:
    return {
        f"{table}/{name}": (root / table / name).read_bytes()
        for table in TABLES
        for name in os.listdir(root / table)
    }


def assert_holds(root, shards: dict[str, list[Photo]]) -> None:
    for table in TABLES:
        assert sorted(os.listdir(root / table)) == sorted(f"{name}.parquet" for name in shards)
    for name, photos in shards.items():
        read = {table: pq.read_table(root / table / f"{name}.parquet") for table in TABLES}
        sound = [photo for photo in photos if not photo.failure]
        assert read["photos"].to_pylist() == [
            {
                "photo_id": photo.photo_id, "uri": photo.uri, "width": photo.width,
                "height": photo.height, "taken_at": photo.taken_at, "n_frames": photo.n_frames,
                "damaged": photo.damaged,
                "n_faces": len(photo.faces), "perceptual_hash": photo.perceptual_hash,
            }
            for photo in sound
        ]  # fmt: skip
        assert read["failures"].to_pylist() == [
            {"uri": p.uri, "step": "decode", "error": "OSError", "message": p.failure.message}
            for p in photos
            if p.failure
        ]
        assert read["faces"].to_pylist() == [
            {
                "face_id": f"{photo.photo_id}-{index:03d}",
                "photo_id": photo.photo_id,
                "box": face.box.tolist(),
                "landmarks": face.landmarks.ravel().tolist(),
                "turn": face.turn,
                "detection_score": face.score,
                **vars(face.quality),
                "thumbnail": face.thumbnail,
                "embedding": face.embedding.tolist(),
            }
            for photo in sound
            for index, face in enumerate(photo.faces)
        ]


# --- in a pipeline


@pytest.mark.parametrize("n_bundles", [1, 2, 5])
def test_every_shard_is_written_once_with_its_three_tables(tmp_path, n_bundles):
    root = tmp_path / "run"
    shards = make_shards(7, 1, 30, 4)
    photos = [photo for part in shards.values() for photo in part]
    random.Random(0).shuffle(photos)
    write(root, photos, n_bundles)
    assert_holds(root, shards)
    assert list_written(root) == sorted(shards)


def test_the_bundles_of_these_tests_split_shards(tmp_path):
    photos = make_shards(40)["shard0"]
    options = PipelineOptions(["--direct_running_mode=multi_threading", "--direct_num_workers=5"])

    def check(sizes):
        assert sum(sizes) == 40
        assert len(sizes) > 1

    with beam.Pipeline(FnApiRunner(), options) as pipeline:
        sizes = pipeline | beam.Create(photos) | beam.Reshuffle() | beam.ParDo(BundleSizes())
        assert_that(sizes, check)


class BundleSizes(beam.DoFn):
    def start_bundle(self):
        self.n = 0

    def process(self, photo):
        self.n += 1

    def finish_bundle(self):
        yield WindowedValue(self.n, 0, [GlobalWindow()])


def test_the_files_do_not_depend_on_the_order_and_the_bundles_of_photos(tmp_path):
    photos = [photo for part in make_shards(6, 9, 1).values() for photo in part]
    write(tmp_path / "whole", photos, n_bundles=1)
    write(tmp_path / "split", photos[::-1], n_bundles=4)
    write(tmp_path / "whole again", photos, n_bundles=1)
    assert read_files(tmp_path / "whole") == read_files(tmp_path / "split")
    assert read_files(tmp_path / "whole") == read_files(tmp_path / "whole again")
    before = read_files(tmp_path / "whole")
    write(tmp_path / "whole", photos, n_bundles=3)  # over the existing files
    assert read_files(tmp_path / "whole") == before


def test_no_photos_write_nothing(tmp_path):
    write(tmp_path / "run", [], n_bundles=1)
    assert list(tmp_path.iterdir()) == []


# --- one shard


def test_shards_without_photos_or_faces_have_empty_tables(tmp_path):
    shard = Shard("s", 2)
    failed = [make_photo(number, shard) for number in (4, 9)]
    make_writer(tmp_path).write("failed", failed)
    make_writer(tmp_path).write("faceless", [make_photo(0, shard), make_photo(8, shard)])
    assert_holds(tmp_path, {"failed": failed, "faceless": [make_photo(n, shard) for n in (0, 8)]})


def test_the_photos_table_is_written_last(tmp_path):
    # A folder in its place makes writing it fail; the other tables are written by then.
    (tmp_path / "photos" / "s.parquet").mkdir(parents=True)
    photos = [make_photo(number, Shard("s", 3)) for number in range(3)]
    with pytest.raises(OSError, match=r"s\.parquet"):
        make_writer(tmp_path).write("s", photos)
    for table in ("faces", "failures"):
        assert os.listdir(tmp_path / table) == ["s.parquet"]


@pytest.mark.parametrize("blocked", ["faces", "failures"])
def test_a_shard_without_all_its_tables_is_not_marked_complete(tmp_path, blocked):
    (tmp_path / blocked / "s.parquet").mkdir(parents=True)
    with pytest.raises(OSError, match=r"s\.parquet"):
        make_writer(tmp_path).write("s", [make_photo(1, Shard("s", 1))])
    assert not (tmp_path / "photos" / "s.parquet").exists()


def test_tables_carry_schema_and_stamp(tmp_path):
    make_writer(tmp_path).write("s", make_shards(10)["shard0"])
    faces = pq.read_schema(tmp_path / "faces" / "s.parquet")
    assert faces.equals(schema.faces(Codec("float32").column_type(DIMENSIONS)))
    stamp = {
        "schema_version": schema.SCHEMA_VERSION,
        "model": "abc",
        "embedding_space": "space",
        "codec": "float32",
    }
    assert schema.stamp_of(faces) == stamp
    for table, expected in [("photos", schema.PHOTOS), ("failures", schema.FAILURES)]:
        found = pq.read_schema(tmp_path / table / "s.parquet")
        assert found.equals(expected)
        assert schema.stamp_of(found) == {"schema_version": schema.SCHEMA_VERSION}


def test_embeddings_go_through_the_codec(tmp_path):
    rng = np.random.default_rng(0)
    vectors = np.stack([unit(rng, 256) for _ in range(200)])
    codec = make_codec("pca128", fit_pca128(vectors))
    faces = tuple(
        Face(np.zeros(4, np.float32), np.zeros((5, 2), np.float32), 1.0, None, b"", vector, QUALITY)
        for vector in vectors
    )
    photo = Photo("a.jpg", Shard("s", 1), photo_id="id", width=1, height=1, n_frames=1, faces=faces)
    ShardWriter(str(tmp_path), codec, 256, "abc", "space").write("s", [photo])
    table, stamp = read_table([str(tmp_path / "faces" / "s.parquet")], ["embedding"])
    assert stamp["codec"] == codec.identity
    assert table["embedding"].type == codec.column_type(256)
    np.testing.assert_array_equal(
        decode_embeddings(table["embedding"]), decode_embeddings(codec.encode(vectors))
    )


def test_faces_of_two_fits_of_a_codec_are_not_read_together(tmp_path):
    rng = np.random.default_rng(0)
    vectors = np.stack([unit(rng, 256) for _ in range(200)])
    for name, sample in [("a", vectors), ("b", vectors[:150])]:
        codec = make_codec("pca128", fit_pca128(sample))
        ShardWriter(str(tmp_path), codec, 256, "abc", "space").write(
            name, [make_photo(0, Shard(name, 1))]
        )
    paths = [str(tmp_path / "faces" / f"{name}.parquet") for name in "ab"]
    with pytest.raises(TableError, match="made with codec 'pca128-"):
        read_table(paths, ["face_id"])


def test_faces_of_two_embedding_spaces_are_not_read_together(tmp_path):
    paths = []
    for name, space in [("a", "one"), ("b", "one"), ("c", "another")]:  # a model each
        writer = ShardWriter(str(tmp_path), Codec("float32"), DIMENSIONS, f"model {name}", space)
        writer.write(name, [make_photo(1, Shard(name, 1))])
        paths.append(str(tmp_path / "faces" / f"{name}.parquet"))
    assert read_table(paths[:2], ["face_id"])[0].num_rows == 2 * len(
        make_photo(1, Shard("", 1)).faces
    )
    with pytest.raises(TableError, match=r"embedding_space 'another'.*'one'"):
        read_table(paths, ["face_id"])
