"""Tests of the crops job: what it cuts, and how it continues or refuses a folder."""

import argparse
import contextlib
import hashlib
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facecluster.errors import InputError, JobError, UsageError
from facecluster.pipeline.cropping.manifest import CropsManifest
from facecluster.pipeline.cropping.requests import request_photo_crops, request_run_crops
from facecluster.pipeline.jobs.crops import CropsJob, format_crops
from facecluster.pipeline.options import CropOptions
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.faces.align import crop_face
from facecluster.transforms.inputs.listing import list_photos
from facecluster.transforms.option_fields import add_options, from_arguments
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.parquet_files import write_table

CENTRAL, CORNER = (30, 30, 70, 70), (0, 0, 20, 30)  # boxes in photos of 100 x 100 px
QUALITY = dict.fromkeys(schema.QUALITY_COLUMNS, 1)
OPTIONS = CropOptions(photos_per_shard=2)


def names(requests) -> dict[str, tuple[str, ...]]:
    return {request.uri: request.names for request in requests}


def make_photo(path: Path, seed: int) -> str:
    """A photo of noise; returns its photo_id."""
    pixels = np.random.default_rng(seed).integers(0, 256, (100, 100, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_run(folder: Path) -> RunDirectory:
    """A run directory as the embed and cluster jobs leave it.

    Ann/1 shows p1 and p2; Ann/2 shows p1 in the corner and an unassigned face in the center; Bob/1
    shows p2, and Bob/copy is a duplicate of it; Bob/3 shows no face; Bob/4 is broken.
    """
    run = RunDirectory(str(folder / "run"))
    faces_of = {
        "Ann/1": [(CENTRAL, "p1"), (CORNER, "p2")],
        "Ann/2": [(CENTRAL, None), (CORNER, "p1")],
        "Bob/1": [(CENTRAL, "p2")],
        "Bob/3": [],
    }
    photos, faces, assignments = [], [], []
    for seed, (name, found) in enumerate(faces_of.items()):
        path = folder / "photos" / f"{name}.png"
        photo_id = make_photo(path, seed)
        paths = [path, path.with_name("copy.png")] if name == "Bob/1" else [path]
        for uri in paths:
            uri.write_bytes(path.read_bytes())
            photos.append({"photo_id": photo_id, "uri": str(uri), "width": 100, "height": 100,
                           "n_frames": 1, "damaged": False, "n_faces": len(found)})  # fmt: skip
            for index, (box, person) in enumerate(found):
                face_id = schema.face_id(photo_id, index)
                faces.append({"face_id": face_id, "photo_id": photo_id, "box": box,
                              "landmarks": range(10), "turn": 0, "detection_score": 1,
                              "thumbnail": b"",
                              "embedding": [1, 0], **QUALITY})  # fmt: skip
                assignments.append({"face_id": face_id, "photo_id": photo_id, "person_id": person,
                                    "probability": 1, "repeated_in_photo": False})  # fmt: skip
    failure = {"uri": str(folder / "photos" / "Bob" / "4.png"), "step": "decode",
               "error": "OSError", "message": "broken"}  # fmt: skip
    rows = {"failures": (schema.FAILURES, [failure]), "photos": (schema.PHOTOS, photos),
            "faces": (schema.faces(pa.list_(pa.float32(), 2)), faces)}  # fmt: skip
    for table, (columns, content) in rows.items():
        table_rows = pa.Table.from_pylist(content, schema.stamped(columns))
        write_table(run.shard_path(table, "s"), table_rows)
    run.write("assignments", pa.Table.from_pylist(assignments, schema.stamped(schema.ASSIGNMENTS)))
    return run


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return make_run(tmp_path)


@pytest.fixture
def photo(tmp_path):
    return lambda name: tmp_path / "photos" / f"{name}.png"


def cut(output: Path, requests, options: CropOptions = OPTIONS) -> CropsManifest:
    return CropsJob(str(output), options)(requests, lambda count, total: contextlib.nullcontext())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(run, output, requests, manifest) of a finished job by folder labels; for reading only."""
    folder = tmp_path_factory.mktemp("finished")
    run = make_run(folder)
    requests = request_run_crops(run, "folder", "folder")
    return run, folder / "out", requests, cut(folder / "out", requests)


def crops(output: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in output.glob("*/*.png"):
        with Image.open(path) as image:
            found[f"{path.parent.name}/{path.stem}"] = np.asarray(image)
    return found


def failures(output: Path) -> dict[str, dict]:
    return {row["uri"]: row for row in pq.read_table(output / "failures").to_pylist()}


def expected_crop(path: Path, box, size: int = 182, margin: int = 44) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(crop_face(image, np.array(box), size, margin))


# --- options


def test_default_options_are_the_published_training_alignment():
    parser = argparse.ArgumentParser()
    add_options(parser, CropOptions)
    options = from_arguments(CropOptions, parser.parse_args([]))
    assert options == CropOptions()
    assert (options.form, options.labels) == ("folder", None)
    assert (options.crop_size, options.crop_margin) == (182, 44)
    assert (options.detector, options.min_face_size) == ("mtcnn", 20)
    with pytest.raises(SystemExit):
        parser.parse_args(["--form", "zip"])
    with pytest.raises(SystemExit):
        parser.parse_args(["--crop-margin", "-1"])


# --- requests from photos


def test_photos_labeled_by_a_csv_file(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("photo,person\n1.jpg,Ann\n2.jpg,Ann;Bob\n")
    requests = request_photo_crops(["/x/1.jpg", "/x/2.jpg", "/x/3.jpg"], str(path), "folder")
    assert names(requests) == {"/x/1.jpg": ("Ann/1",)}
    path.write_text("photo,person\n2.jpg,Ann;Bob\n")
    with pytest.raises(InputError, match="nothing to cut"):
        cut(tmp_path / "out", request_photo_crops(["/x/2.jpg"], str(path), "folder"))
    with pytest.raises(InputError, match="labels none of the 1 photos"):
        request_photo_crops(["/x/1.jpg"], str(path), "folder")


# --- requests from a run


def test_people_labels_crop_every_assigned_face_once(run, photo, tmp_path):
    requests = request_run_crops(run, "people", "folder")
    assert names(requests) == {
        str(photo("Ann/1")): ("p1/1_0", "p2/1_1"),
        str(photo("Ann/2")): ("p1/2",),
        str(photo("Bob/1")): ("p2/1",),  # and not its duplicate
    }
    manifest = cut(tmp_path / "out", requests)
    assert manifest.counts == {
        "photos": 3, "crops": 4, "people": 2, "without_a_face": 0, "failures": 0
    }  # fmt: skip
    boxes = {"p1/1_0": ("Ann/1", CENTRAL), "p2/1_1": ("Ann/1", CORNER),
             "p1/2": ("Ann/2", CORNER), "p2/1": ("Bob/1", CENTRAL)}  # fmt: skip
    found = crops(tmp_path / "out")
    assert found.keys() == boxes.keys()
    for name, (source, box) in boxes.items():
        np.testing.assert_array_equal(found[name], expected_crop(photo(source), box))


def test_folder_labels_crop_the_central_face(finished):
    _, output, _, manifest = finished

    def photo(name):
        return output.parent / "photos" / f"{name}.png"

    assert manifest.counts == {
        "photos": 6, "crops": 4, "people": 2, "without_a_face": 1, "failures": 1
    }  # fmt: skip
    found = crops(output)
    assert found.keys() == {"Ann/1", "Ann/2", "Bob/1", "Bob/copy"}
    for name, pixels in found.items():
        np.testing.assert_array_equal(pixels, expected_crop(photo(name), CENTRAL))
    failed = failures(output)
    assert failed.keys() == {str(photo("Bob/3")), str(photo("Bob/4"))}
    assert failed[str(photo("Bob/3"))]["error"] == "NoFace"
    assert failed[str(photo("Bob/4"))]["message"] == "broken"


def test_a_run_without_people_says_what_to_do(run):
    Path(run.path("assignments", "assignments.parquet")).unlink()
    with pytest.raises(InputError, match="run `facecluster cluster` first"):
        request_run_crops(run, "people", "folder")
    assert len(request_run_crops(run, "folder", "folder")) == 6


def test_missing_or_changed_photos_of_a_run_are_failures(run, photo, tmp_path):
    requests = request_run_crops(run, "people", "folder")
    photo("Ann/1").unlink()
    make_photo(photo("Bob/1"), seed=99)
    manifest = cut(tmp_path / "out", requests)
    assert manifest.counts == {
        "photos": 3, "crops": 1, "people": 1, "without_a_face": 0, "failures": 2
    }  # fmt: skip
    assert crops(tmp_path / "out").keys() == {"p1/2"}
    failed = failures(tmp_path / "out")
    assert {row["step"] for row in failed.values()} == {"read"}
    assert "has changed" in failed[str(photo("Bob/1"))]["message"]
    assert str(photo("Ann/1")) in failed


def test_a_face_with_a_damaged_box_is_not_cropped_and_others_are(run, photo):
    expected = names(request_run_crops(run, "people", "folder"))
    (path,) = Path(run.path("faces")).iterdir()
    faces = pq.read_table(path)
    boxes = faces["box"].to_pylist()
    row = faces["box"].to_pylist().index(list(CORNER))
    for box in ([np.nan] * 4, [0, 0, 1e30, 1e30], [70, 70, 30, 30]):
        boxes[row] = box
        place = faces.column_names.index("box")
        column = pa.array(boxes, faces.schema.field("box").type)
        pq.write_table(faces.set_column(place, faces.schema.field("box"), column), path)
        assert names(request_run_crops(run, "people", "folder")) == expected | {
            str(photo("Ann/1")): ("p1/1",)
        }


@pytest.mark.parametrize("suffix", ["tar", "tgz"])
def test_photos_of_a_run_in_a_container(run, tmp_path, suffix):
    requests = request_run_crops(run, "people", "folder")
    cut(tmp_path / "files", requests)
    container = tmp_path / f"photos.{suffix}"
    with tarfile.open(container, "w:gz" if suffix == "tgz" else "w") as tar:
        tar.add(tmp_path / "photos", ".")
    folder = str(tmp_path / "photos")
    packed = [replace(r, uri=r.uri.replace(folder, f"{container}!/.")) for r in requests]
    gone = replace(packed[0], uri=f"{container}!/gone.png", names=("p1/gone",))
    manifest = cut(tmp_path / "packed", [*packed, gone])
    assert manifest.counts == {
        "photos": 4, "crops": 4, "people": 2, "without_a_face": 0, "failures": 1
    }  # fmt: skip
    assert failures(tmp_path / "packed")[gone.uri]["message"] == "its container has no such member"
    expected, found = crops(tmp_path / "files"), crops(tmp_path / "packed")
    assert found.keys() == expected.keys()
    for name, pixels in found.items():
        np.testing.assert_array_equal(pixels, expected[name])


# --- continuing and refusing


def times(output: Path) -> dict[Path, int]:
    files = [path for path in output.rglob("*") if path.suffix in (".png", ".parquet", ".tar")]
    return {path: path.stat().st_mtime_ns for path in files}


def many_photos(folder: Path, n: int) -> list:
    """Requests for n photos with known boxes."""
    run = RunDirectory(str(folder / "run"))
    ids = {str(folder / "in" / "Ann" / f"{i:02}.png"): None for i in range(n)}
    for seed, uri in enumerate(ids):
        ids[uri] = make_photo(Path(uri), seed)
    photos = [{"photo_id": id, "uri": uri, "width": 100, "height": 100, "n_frames": 1,
               "damaged": False, "n_faces": 1} for uri, id in ids.items()]  # fmt: skip
    faces = [{"face_id": schema.face_id(id, 0), "photo_id": id, "box": CENTRAL,
              "landmarks": range(10), "turn": 0, "detection_score": 1, "thumbnail": b"",
              "embedding": [1, 0], **QUALITY}
             for id in ids.values()]  # fmt: skip
    columns = {"failures": schema.FAILURES, "photos": schema.PHOTOS,
               "faces": schema.faces(pa.list_(pa.float32(), 2))}  # fmt: skip
    rows = {"failures": [], "photos": photos, "faces": faces}
    for table, content in rows.items():
        table_rows = pa.Table.from_pylist(content, schema.stamped(columns[table]))
        write_table(run.shard_path(table, "s"), table_rows)
    return request_run_crops(run, "folder", "tar")


def test_finished_job_does_nothing_and_killed_job_continues(tmp_path):
    output, options = tmp_path / "out", CropOptions(form="tar", photos_per_shard=3)
    requests = many_photos(tmp_path, 10)
    first = cut(output, requests, options)
    before = times(output)
    tars = {path.stem: path.read_bytes() for path in output.glob("*.tar")}
    assert len(tars) == 4  # one file a shard
    again = cut(output, requests, options)
    assert times(output) == before
    assert again.counts == first.counts

    # As if killed while writing one shard.
    unfinished = sorted(output.glob("*.tar"))[1]
    unfinished.unlink()
    (output / "failures" / f"{unfinished.stem}.parquet").unlink()
    (output / f"{unfinished.name}.{'0' * 32}.tmp").write_text("half")
    manifest = json.loads((output / "crops.json").read_text())
    (output / "crops.json").write_text(
        json.dumps({"state": "running", "options": manifest["options"]})
    )
    assert cut(output, requests, options).counts == first.counts
    assert {path.stem: path.read_bytes() for path in output.glob("*.tar")} == tars
    assert not list(output.rglob("*.tmp"))
    rewritten = {path for path, at in times(output).items() if at != before[path]}
    assert {path.stem for path in rewritten} == {unfinished.stem}


def test_a_running_job_is_no_input(tmp_path):
    requests = many_photos(tmp_path, 2)
    before = list_photos([str(tmp_path)])
    seen = []

    @contextlib.contextmanager
    def watch(count, total):
        yield
        assert list(tmp_path.glob("out/Ann/*.png"))
        seen.append(list_photos([str(tmp_path)]))

    CropsJob(str(tmp_path / "out"), CropOptions())(requests, watch)
    assert seen[0].uris == before.uris
    assert seen[0].other_files["facecluster's own output"] >= 3


def test_shards_do_not_depend_on_the_number_of_workers(tmp_path):
    requests = many_photos(tmp_path, 40)
    found = []
    for name, arguments in [("one", ["--direct_num_workers=1"]), ("three", THREE_THREADS)]:
        job = CropsJob(str(tmp_path / name), CropOptions(form="tar"), None, arguments)
        job(requests, lambda count, total: contextlib.nullcontext())
        found.append({f.name: f.read_bytes() for f in (tmp_path / name).glob("*.tar")})
    assert len(found[0]) == 3  # of 16 photos, at least
    assert found[0] == found[1]


def test_shards_do_not_depend_on_the_order_in_a_container(run, tmp_path):
    container, folder = tmp_path / "photos.tar", tmp_path / "photos"
    requests = [
        replace(r, uri=r.uri.replace(str(folder), f"{container}!"))
        for r in request_run_crops(run, "people", "tar")
    ]
    written = []
    for order in (1, -1):
        with tarfile.open(container, "w") as tar:
            for path in sorted(path for path in folder.rglob("*") if path.is_file())[::order]:
                tar.add(path, path.relative_to(folder))
        cut(tmp_path / str(order), requests, replace(OPTIONS, form="tar", photos_per_shard=1))
        written.append({file.name for file in (tmp_path / str(order)).glob("*.tar")})
    assert written[0] == written[1]
    assert len(written[0]) > 1


THREE_THREADS = ["--direct_running_mode=multi_threading", "--direct_num_workers=3"]


def test_progress_counts_the_photos_of_finished_shards(tmp_path):
    counts = []

    @contextlib.contextmanager
    def watch(count, total):
        counts.append((count(), total))
        yield
        counts.append((count(), total))

    CropsJob(str(tmp_path / "out"), OPTIONS)(many_photos(tmp_path, 5), watch)
    assert counts == [(0, 5), (5, 5)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (CropOptions(photos_per_shard=2, crop_size=160), "with crop_size 182, now it is 160"),
        (CropOptions(photos_per_shard=2, crop_margin=32), "with crop_margin 44, now it is 32"),
        (CropOptions(photos_per_shard=2, form="tar"), "with form folder, now it is tar"),
        (CropOptions(photos_per_shard=3), "with photos_per_shard 2, now it is 3"),
    ],
    ids=lambda value: "" if isinstance(value, str) else repr(value)[12:],
)
def test_other_options_are_refused(finished, options, sentence):
    _, output, requests, _ = finished
    before = times(output)
    with pytest.raises(JobError, match=sentence):
        cut(output, requests, options)
    assert times(output) == before


def test_other_photos_or_labels_are_refused(finished):
    run, output, requests, _ = finished
    for other in (requests[1:], request_run_crops(run, "people", "folder")):
        with pytest.raises(JobError, match="holds the crops of other photos"):
            cut(output, other)


def test_foreign_folder_is_refused_and_left_alone(run, photo, tmp_path):
    before = times(tmp_path)
    with pytest.raises(UsageError, match="holds files that are not crops"):
        cut(tmp_path / "photos", request_run_crops(run, "folder", "folder"))
    assert times(tmp_path) == before
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "facecluster.log").write_text("of this command")
    (tmp_path / "out" / "crops.json").write_text("{")
    with pytest.raises(InputError, match=r"crops\.json is damaged"):
        cut(tmp_path / "out", request_run_crops(run, "folder", "folder"))
    (tmp_path / "out" / "crops.json").unlink()
    assert cut(tmp_path / "out", request_run_crops(run, "folder", "folder")).counts["crops"] == 4


def test_margin_as_large_as_the_crop_is_refused(run, tmp_path):
    options = CropOptions(crop_size=160, crop_margin=160)
    with pytest.raises(UsageError, match="smaller --crop-margin"):
        cut(tmp_path / "out", request_run_crops(run, "folder", "folder"), options)


def test_summary_of_a_crops_job():
    counts = {"photos": 12345, "crops": 12000, "people": 90, "without_a_face": 300, "failures": 45}
    assert format_crops(CropsManifest("done", {}, counts, 61.5)).splitlines() == [
        "photos          12,345",
        "crops           12,000",
        "people              90",
        "without a face     300",
        "failures            45",
        "time            61.5 s",
    ]
