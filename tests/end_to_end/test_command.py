"""The commands run, embed, cluster and evaluate on real photos."""

import csv
import hashlib
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.end_to_end.command import COMMAND, facecluster

TABLES = ("photos", "faces", "failures")


def read(run: Path, table: str) -> list[dict]:
    rows = pq.read_table(run / table).to_pylist()
    return sorted(rows, key=lambda row: (row.get("uri", ""), row.get("face_id", "")))


def hashes(folder: Path) -> dict[Path, str]:
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def some_photos(copy_people, tmp_path_factory) -> Path:
    """40 photos of 8 people, in a folder each."""
    folder = tmp_path_factory.mktemp("photos")
    copy_people(folder, 8, 5)
    return folder


@pytest.fixture(scope="module")
def some_run(some_photos, tmp_path_factory) -> Path:
    """A run on some_photos that was not interrupted."""
    run = tmp_path_factory.mktemp("runs") / "run"
    done = facecluster("run", "--input", some_photos, "--output", run)
    assert done.returncode == 0, done.stderr
    return run


def test_run_finds_the_people_of_group_photos(group_photos, tmp_path):
    before = hashes(group_photos)
    done = facecluster("run", "--input", group_photos, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert hashes(group_photos) == before

    # The true people of a photo are known by name and the found ones by id. Photos of one person
    # link the two. A person in a single photo has no cluster.
    person_of = {row["face_id"]: row["person_id"] for row in read(tmp_path / "run", "assignments")}
    photos = {row["photo_id"]: Path(row["uri"]).name for row in read(tmp_path / "run", "photos")}
    found: dict[str, set] = {name: set() for name in photos.values()}
    for face in read(tmp_path / "run", "faces"):
        if person := person_of[face["face_id"]]:
            found[photos[face["photo_id"]]].add(person)
    with open(group_photos / "truth.csv", newline="") as file:
        truth = {row["photo"]: set(row["people"].split(";")) for row in csv.DictReader(file)}
    alone = {name: people for name, people in truth.items() if len(people) == 1}
    id_of = {name: found[photo] for photo, (name,) in alone.items() if found[photo]}
    assert set(id_of) == {"alex", "biden", "kit", "obama", "rose"}
    assert all(len(ids) == 1 for ids in id_of.values())
    assert len(set.union(*id_of.values())) == 5
    for photo, names in truth.items():
        expected = set().union(*(id_of.get(name, set()) for name in names))
        assert found[photo] == expected, photo


def test_people_match_the_labels(some_run):
    done = facecluster("evaluate", "clustering", "--run", some_run, "--labels", "folder")
    assert done.returncode == 0, done.stderr
    scores = json.loads((some_run / "evaluation" / "clustering.json").read_text())
    assert scores["n_photos_scored"] == 40
    assert scores["bcubed_f"] > 0.9
    assert scores["bcubed_precision"] == 1


def test_report_and_summary_agree_with_the_tables(some_photos, some_run):
    again = facecluster("run", "--input", some_photos, "--output", some_run)
    assert again.returncode == 0, again.stderr
    summary = dict(line.split(maxsplit=1) for line in again.stdout.splitlines())
    assert summary["photos"] == "40  (all read before)"
    assert int(summary["faces"]) == len(read(some_run, "faces"))
    assert int(summary["people"].split()[0]) == len(read(some_run, "people"))
    assert Path(summary["report"]).read_text().count("person-") >= len(read(some_run, "people"))
    noise = ("TensorFlow", "oneDNN", "WARNING", "apitools")
    assert not any(word in again.stderr for word in noise)


def test_worker_processes_give_the_same_tables(some_photos, some_run, tmp_path):
    done = facecluster("embed", "--input", some_photos, "--output", tmp_path / "run",
                       "--direct_num_workers", "2", "--photos-per-shard", "7")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run" / "photos").iterdir())) >= 3
    for table in TABLES:
        assert read(tmp_path / "run", table) == read(some_run, table)


def test_faces_are_in_the_same_places_when_jpegs_are_decoded_at_reduced_size(
    group_photos, tmp_path
):
    photo, faces = group_photos / "obama_and_biden.jpg", []  # 2000 x 1428
    for name, options in (("full", ()), ("scaled", ("--jpeg-size", "1000"))):
        done = facecluster("embed", "--input", photo, "--output", tmp_path / name, *options)
        assert done.returncode == 0, done.stderr
        (row,) = read(tmp_path / name, "photos")
        assert (row["width"], row["height"]) == (2000, 1428)
        faces.append(read(tmp_path / name, "faces"))
    full, scaled = faces
    for one, other in zip(full[:2], scaled[:2], strict=True):  # the third face is small and blurred
        for column in ("box", "landmarks"):
            assert one[column] == pytest.approx(other[column], abs=20)
        assert one["embedding"] != other["embedding"]
        vectors = np.array([one["embedding"], other["embedding"]], float)
        vectors /= np.linalg.norm(vectors, axis=1)[:, None]
        assert vectors[0] @ vectors[1] > 0.95
    refused = facecluster("embed", "--input", photo, "--output", tmp_path / "full", *options)
    assert refused.returncode == 1
    assert "jpeg_size" in refused.stderr


def test_a_killed_job_continues_to_the_same_tables(some_photos, some_run, tmp_path):
    run = tmp_path / "run"
    arguments = ["embed", "--input", some_photos, "--output", run, "--photos-per-shard", "4"]
    process = subprocess.Popen(
        [COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 900  # against hanging
    while process.poll() is None and not list((run / "photos").glob("*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    complete = {path: path.stat().st_mtime_ns for path in (run / "photos").glob("*.parquet")}
    assert complete
    shutil.copy(next(iter(complete)), run / "faces" / "of-an-incomplete-shard.parquet")
    (run / "photos" / "x.parquet.0.tmp").write_text("half")

    done = facecluster(*arguments)
    assert done.returncode == 0, done.stderr
    for path, written_at in complete.items():
        assert path.stat().st_mtime_ns == written_at
    assert read(run, "photos") == read(some_run, "photos")
    assert sorted(path.name for path in (run / "faces").iterdir()) == sorted(
        path.name for path in (run / "photos").iterdir()
    )
    ids = [face["face_id"] for face in read(run, "faces")]
    assert ids == [face["face_id"] for face in read(some_run, "faces")]


def test_added_photos_join_the_run_and_people_keep_their_ids(some_photos, tmp_path):
    photos, run = tmp_path / "photos", tmp_path / "run"
    people = sorted(some_photos.iterdir())
    for person in people[:4]:
        shutil.copytree(person, photos / person.name)
    assert facecluster("run", "--input", photos, "--output", run).returncode == 0
    before = {row["face_id"]: row["person_id"] for row in read(run, "assignments")}
    for person in people[4:]:
        shutil.copytree(person, photos / person.name)
    done = facecluster("run", "--input", photos, "--output", run)
    assert done.returncode == 0, done.stderr
    assert "40  (20 read now, 20 before)" in done.stdout
    after = {row["face_id"]: row["person_id"] for row in read(run, "assignments")}
    assert len(read(run, "photos")) == 40
    assert {before[face] for face in before} - {None} <= {after[face] for face in before}


def test_near_duplicates_are_found_and_updated_when_a_larger_original_is_added(
    lfw_images, tmp_path
):
    photos, run = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    first, second = sorted(lfw_images.glob("*/*.jpg"))[:2]
    shutil.copy(first, photos / "first.jpg")
    shutil.copy(first, photos / "copy.jpg")
    shutil.copy(second, photos / "second.jpg")
    with Image.open(first) as image:
        image.resize((125, 125)).save(photos / "small.jpg", quality=60)
        image.resize((500, 500)).save(tmp_path / "large.png")
        Image.new("RGB", image.size).save(photos / "black.png")
        Image.new("RGB", image.size, (1, 1, 1)).save(photos / "blacker.png")
    before = facecluster("run", "--input", photos, "--output", run)
    assert before.returncode == 0, before.stderr
    summary = dict(line.split(maxsplit=1) for line in before.stdout.splitlines())
    assert summary["photos"] == "6  (1 duplicate, 1 near-duplicate)"
    name_of = {row["photo_id"]: Path(row["uri"]).name for row in read(run, "photos")}

    def originals() -> dict[str, str]:
        rows = read(run, "near_duplicates")
        assert all(0 <= row["distance"] <= 4 for row in rows)
        return {name_of[row["photo_id"]]: row["original_photo_id"] for row in rows}

    by_name = {name: photo_id for photo_id, name in name_of.items()}
    original = hashes(photos)[photos / "first.jpg"]
    assert originals() == {"small.jpg": original}
    people = read(run, "people")

    shutil.copy(tmp_path / "large.png", photos)
    (run / "near_duplicates" / "near_duplicates.parquet").write_bytes(b"damaged")
    assert facecluster("embed", "--input", photos, "--output", run).returncode == 0
    larger = hashes(photos)[photos / "large.png"]
    assert originals() == {"small.jpg": larger, name_of[original]: larger}
    assert read(run, "people") == people
    assert by_name["second.jpg"] not in {row["photo_id"] for row in read(run, "near_duplicates")}


def test_unusable_photos_are_failures_and_the_others_are_embedded(lfw_images, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    good = next(lfw_images.glob("*/*.jpg"))
    shutil.copy(good, photos / "good.jpg")
    (photos / "truncated.jpg").write_bytes(good.read_bytes()[:3000])
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.png").write_text("not a photo")
    Image.new("RGB", (8, 8)).save(photos / "tiny.png")
    done = facecluster("run", "--input", photos, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    failures = {Path(row["uri"]).name: row for row in read(tmp_path / "run", "failures")}
    assert set(failures) == {"truncated.jpg", "empty.jpg", "text.png"}
    assert failures["empty.jpg"]["step"] == "read"
    assert "truncated" in failures["truncated.jpg"]["message"]
    n_faces = {Path(row["uri"]).name: row["n_faces"] for row in read(tmp_path / "run", "photos")}
    assert n_faces.keys() == {"good.jpg", "tiny.png"}
    assert n_faces["good.jpg"] >= 1
    assert n_faces["tiny.png"] == 0
    assert "failures      3  (damaged 1, empty 1, not an image 1)" in done.stdout
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "truncated.jpg" in page


def test_the_job_fails_if_no_photo_is_usable(tmp_path):
    (tmp_path / "a.jpg").write_text("no")
    done = facecluster("run", "--input", tmp_path, "--output", tmp_path / "run")
    assert done.returncode == 1
    assert "none of the 1 photos could be read" in done.stderr


@pytest.mark.parametrize(
    ("files", "message"),
    [((), "there are no photos in"), (("a.txt", "b.csv"), "all 2 files are not named like photos")],
    ids=["empty folder", "text files"],
)
def test_an_input_without_photos_is_refused(tmp_path, files, message):
    (tmp_path / "photos").mkdir()
    for name in files:
        (tmp_path / "photos" / name).write_text("text")
    done = facecluster("run", "--input", tmp_path / "photos", "--output", tmp_path / "run")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_model_is_refused(some_photos, tmp_path):
    done = facecluster(
        "run", "--input", some_photos, "--output", tmp_path / "run", FACECLUSTER_CACHE=str(tmp_path)
    )
    assert done.returncode == 2
    assert "facecluster model fetch facenet-casia-webface" in done.stderr
    done = facecluster("run", "--input", some_photos, "--output", tmp_path / "run",
                       "--model", tmp_path / "nowhere")  # fmt: skip
    assert done.returncode == 2
    assert "there is no model in" in done.stderr


def test_an_output_that_cannot_be_written_is_refused(some_photos, tmp_path):
    (tmp_path / "file").write_text("in the way")
    output = tmp_path / "file" / "run"
    done = facecluster("run", "--input", some_photos, "--output", output)
    assert done.returncode == 2
    assert f"cannot write to {output}" in done.stderr


def test_a_run_with_other_settings_is_refused(some_photos, some_run):
    done = facecluster("run", "--input", some_photos, "--output", some_run, "--codec", "float32")
    assert done.returncode == 1
    assert "was made with codec pca128-" in done.stderr
    assert "now it is float32" in done.stderr


def test_an_unknown_option_is_refused(some_photos, tmp_path):
    done = facecluster("run", "--input", some_photos, "--output", tmp_path, "--min-face-sise", "30")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "facecluster: unknown argument --min-face-sise: did you mean --min-face-size?",
        "See facecluster run --help",
    ]


def test_beam_options_need_distribute(some_run):
    done = facecluster("cluster", "--output", some_run, "--direct_num_workers=2")
    assert done.returncode == 2
    assert "--direct_num_workers=2 is for Beam: add --distribute" in done.stderr


def test_verification_prints_the_figures_of_lfw(lfw_images, lfw_pairs, tmp_path):
    lines = lfw_pairs.read_text().splitlines()
    same, different = lines[1:21], lines[1101:1121]
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join(["20", *same, *different]))
    done = facecluster("evaluate", "verification", "--images", lfw_images, "--pairs", pairs)
    assert done.returncode == 0, done.stderr
    figures = [line.rsplit(maxsplit=1) for line in done.stdout.splitlines()]
    accuracy = next(float(figure) for name, figure in figures if name.startswith("Accuracy: "))
    assert accuracy > 0.9


@pytest.mark.slow
def test_all_development_people_of_lfw(lfw_images, lfw_pairs, tmp_path):
    """The figures in docs/results.md, from the command with its defaults."""
    run = tmp_path / "run"
    done = facecluster("run", "--input", lfw_images, "--output", run)
    assert done.returncode == 0, done.stderr
    done = facecluster("evaluate", "clustering", "--run", run, "--labels", "folder")
    print(done.stdout)
    scores = json.loads((run / "evaluation" / "clustering.json").read_text())
    assert scores["bcubed_f"] >= 0.955
    assert scores["pairwise_f"] >= 0.985
    assert scores["coverage"] >= 0.995
    done = facecluster(
        "evaluate", "verification", "--images", lfw_images, "--pairs", lfw_pairs, "--run", run
    )
    print(done.stdout)
    scores = json.loads((run / "evaluation" / "verification.json").read_text())
    assert scores["accuracy"] >= 0.980
