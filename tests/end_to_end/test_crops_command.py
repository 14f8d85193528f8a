"""The command crops, on real photos and on runs."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facecluster.transforms.faces.align import crop_face
from facecluster.transforms.faces.detect import Detector
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.photos.decode_image import decode_image
from tests.end_to_end.command import facecluster

N_PEOPLE, N_PHOTOS = 3, 2


def crops(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in folder.glob("*/*.png"):
        with Image.open(path) as image:
            found[f"{path.parent.name}/{path.stem}"] = np.asarray(image)
    return found


@pytest.fixture(scope="module")
def labeled_photos(copy_people, mtcnn_folder, facenet_folder, tmp_path_factory) -> Path:
    """6 photos of 3 people, in a folder each, a broken photo, and a photo without a face."""
    folder = tmp_path_factory.mktemp("photos")
    copy_people(folder, N_PEOPLE, N_PHOTOS)
    (folder / "Nobody").mkdir()
    (folder / "Nobody" / "broken.jpg").write_text("not a photo")
    Image.new("RGB", (250, 250), "gray").save(folder / "Nobody" / "gray.png")
    return folder


@pytest.fixture(scope="module")
def some_crops(labeled_photos, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("output") / "crops"
    done = facecluster("crops", "--input", labeled_photos, "--output", output)
    assert done.returncode == 0, done.stderr
    figures = [line.rsplit(maxsplit=1) for line in done.stdout.splitlines()[:-1]]
    assert {name: int(figure) for name, figure in figures} == {
        "photos": 8, "crops": 6, "people": 3, "without a face": 1, "failures": 1
    }  # fmt: skip
    return output


@pytest.fixture(scope="module")
def some_run(labeled_photos, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    done = facecluster("run", "--input", labeled_photos, "--output", run)
    assert done.returncode == 0, done.stderr
    return run


def test_each_labeled_photo_gives_the_crop_of_its_main_face(
    labeled_photos, some_crops, mtcnn_folder
):
    photos = sorted(labeled_photos.glob("*/*.jpg"))[: N_PEOPLE * N_PHOTOS]
    found = crops(some_crops)
    assert found.keys() == {f"{photo.parent.name}/{photo.stem}" for photo in photos}
    detector = Detector(SavedModel(mtcnn_folder), min_face_size=20, detection_size=1600)
    for photo in photos:
        image = decode_image(photo.read_bytes()).image
        (detections,) = detector.detect([image])
        x0, y0, x1, y1 = detections.boxes.T
        off_center = ((x0 + x1 - image.width) / 2) ** 2 + ((y0 + y1 - image.height) / 2) ** 2
        best = np.argmax((x1 - x0) * (y1 - y0) - 2 * off_center)
        expected = np.asarray(crop_face(image, detections.boxes[best], 182, 44)).astype(int)
        crop = found[f"{photo.parent.name}/{photo.stem}"]
        assert crop.shape == (182, 182, 3)
        # The last bits of a box depend on the batch that its photo is in.
        assert np.abs(crop - expected).max() <= 2


def test_photos_without_a_crop_are_failures(some_crops):
    rows = pq.read_table(some_crops / "failures").to_pylist()
    assert {Path(row["uri"]).name: (row["step"], row["error"]) for row in rows} == {
        "broken.jpg": ("decode", "UnidentifiedImageError"),
        "gray.png": ("detect", "NoFace"),
    }


def test_the_output_has_no_other_files(some_crops):
    others = {path.name for path in some_crops.iterdir() if not list(path.glob("*.png"))}
    assert others == {"crops.json", "failures", "facecluster.log", "run.lock"}
    manifest = json.loads((some_crops / "crops.json").read_text())
    assert manifest["state"] == "done"
    assert manifest["options"]["crop_size"] == 182


def test_what_facecluster_wrote_below_an_input_is_not_read(labeled_photos, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(labeled_photos, folder)
    shutil.copy(folder / "Nobody" / "gray.png", folder / "raw.psd")
    run = ["run", "--input", folder, "--exclude", "broken.*", "--output", folder / "2024" / "run"]
    first = facecluster(*run)
    assert first.returncode == 0, first.stderr
    assert line_of(first, "passed over") == (
        "2  (excluded 1, not named like photos 1)  (photo formats that are not read: .psd 1)"
    )
    cut = facecluster("crops", "--run", run[-1], "--output", folder / "crops")
    assert cut.returncode == 0, cut.stderr
    again = facecluster(*run)
    assert again.returncode == 0, again.stderr
    for name in ("photos", "faces", "people"):
        assert line_of(again, name).split()[0] == line_of(first, name).split()[0]
    assert "facecluster's own output" in line_of(again, "passed over")
    again = facecluster("crops", "--input", folder, "--exclude", "[A-M]*/", "--exclude", "broken.*",
                        "--output", tmp_path / "more")  # fmt: skip
    n_excluded = sum(path.name < "N" for path in labeled_photos.iterdir()) * N_PHOTOS
    assert line_of(again, "photos") == str(N_PEOPLE * N_PHOTOS + 1 - n_excluded)
    refused = facecluster("embed", *run[1:3], "--exclude", "!", *run[-2:])
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--exclude: Invalid git pattern: '!'" in refused.stderr


def line_of(done, name: str) -> str:
    """What a command printed after a name."""
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"{name} "))
    return line.removeprefix(name).strip()


def test_repeating_the_command_changes_nothing_and_other_options_are_refused(
    labeled_photos, some_crops
):
    before = {path: path.stat().st_mtime_ns for path in some_crops.glob("*/*")}
    command = ["crops", "--input", labeled_photos, "--output", some_crops]
    again = facecluster(*command)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split()[:4] == ["photos", "8", "crops", "6"]
    other = facecluster(*command, "--crop-size", "160", "--crop-margin", "32")
    assert other.returncode == 1
    assert "was made with crop_size 182, now it is 160" in other.stderr
    assert {path: path.stat().st_mtime_ns for path in some_crops.glob("*/*")} == before


def test_a_run_gives_the_same_crops(some_crops, some_run, tmp_path):
    done = facecluster("crops", "--run", some_run, "--labels", "folder", "--output", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    expected, found = crops(some_crops), crops(tmp_path / "c")
    assert found.keys() == expected.keys()
    for name, pixels in expected.items():
        assert np.abs(found[name].astype(int) - pixels).max() <= 2
    names = {
        Path(uri).name for uri in pq.read_table(tmp_path / "c" / "failures")["uri"].to_pylist()
    }
    assert names == {"broken.jpg", "gray.png"}


def test_crops_of_people_are_those_of_assigned_faces(some_run, tmp_path):
    done = facecluster("crops", "--run", some_run, "--output", tmp_path / "c", "--form", "tar")
    assert done.returncode == 0, done.stderr
    members = []
    for path in (tmp_path / "c").glob("*.tar"):
        with tarfile.open(path) as tar:
            members += [Path(name).parent.name for name in tar.getnames()]
    people = pq.read_table(some_run / "assignments")["person_id"].to_pylist()
    assigned = [person for person in people if person is not None]
    assert assigned
    assert sorted(members) == sorted(assigned)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --input --run is required"),
        (["--run", "r", "--input", "p"], "not allowed with argument"),
        (["--run", "nowhere"], "is not the folder of a run"),
        (["--input", "nowhere"], "does not exist"),
        (["--run", "r", "--crop-sise", "160"], "unknown argument --crop-sise"),
    ],
    ids=["nothing", "both", "no run", "no photos", "no option"],
)
def test_wrong_use_is_refused(tmp_path, arguments, message):
    done = facecluster("crops", *arguments, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_job_fails_if_no_photo_gives_a_crop(labeled_photos, tmp_path):
    photos = labeled_photos / "Nobody" / "broken.jpg"
    done = facecluster("crops", "--input", photos, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "none of the 1 photos gave a crop" in done.stderr
