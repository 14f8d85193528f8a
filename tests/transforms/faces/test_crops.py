"""Crops are of the right face, under names of their own, and come back from all three forms."""

import io
import os
import random
import re
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facecluster.transforms.faces.align import crop_face
from facecluster.transforms.faces.boxes import prominence
from facecluster.transforms.faces.crops import (
    NO_FACE,
    CropWriter,
    LabelledPhoto,
    check_unchanged,
    crop_name,
    cut_crops,
    keep_central_face,
    unique_names,
)
from facecluster.transforms.records import Face, Failure, Shard
from facecluster.transforms.tables import schema

SHARD = Shard("shard0", 4)


def face(*box) -> Face:
    return Face(np.array(box, np.float32), np.zeros((5, 2), np.float32), 1.0)


def picture(seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels_of(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


# --- the face that is meant

COORDINATE = st.integers(-20, 120)
BOX = st.tuples(COORDINATE, COORDINATE, st.integers(1, 60), st.integers(1, 60)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(st.lists(BOX, min_size=1, max_size=5), st.integers(1, 150), st.integers(1, 150))
def test_the_largest_central_face_is_kept(boxes, width, height):
    def score(box):
        x0, y0, x1, y1 = box
        off_centre = ((x0 + x1) / 2 - width / 2) ** 2 + ((y0 + y1) / 2 - height / 2) ** 2
        return (x1 - x0) * (y1 - y0) - 2 * off_centre

    expected = [score(box) for box in boxes]
    assert prominence(np.array(boxes), width, height).tolist() == expected
    photo = LabelledPhoto("a.jpg", SHARD, width=width, height=height)
    photo = replace(photo, faces=tuple(face(*box) for box in boxes))
    (kept,) = keep_central_face(photo).faces
    assert kept is photo.faces[expected.index(max(expected))]


def test_a_photo_without_a_face_fails():
    photo = LabelledPhoto("a.jpg", SHARD, image=Image.new("RGB", (9, 9)), width=9, height=9)
    failed = keep_central_face(photo)
    assert failed.failure == NO_FACE
    assert failed.image is None
    assert cut_crops(failed, 16, 4) is failed


# --- the crop


def test_crops_are_the_aligned_faces_without_loss():
    image = Image.fromarray(picture(0, 100))
    faces = (face(10, 20, 50, 60), face(40, 0, 99, 70))
    photo = LabelledPhoto("a.jpg", SHARD, image=image, faces=faces, names=("p/a_0", "p/a_1"))
    done = cut_crops(photo, 182, 44)
    assert done.image is None
    assert done.names == photo.names
    for content, found in zip(done.crops, faces, strict=True):
        expected = np.asarray(crop_face(image, found.box, 182, 44))
        assert expected.shape == (182, 182, 3)
        np.testing.assert_array_equal(pixels_of(content), expected)


def test_a_box_outside_the_photo_is_a_failure():
    photo = LabelledPhoto("a.jpg", SHARD, image=Image.new("RGB", (50, 50)))
    failed = cut_crops(replace(photo, faces=(face(60, 60, 90, 90),)), 182, 44)
    assert failed.failure.step == "align"
    assert "outside the photo" in failed.failure.message


def test_a_photo_that_is_another_one_by_now_is_a_failure():
    photo = LabelledPhoto("a.jpg", SHARD, photo_id="new", known_as="old")
    assert check_unchanged(photo).failure.step == "read"
    assert "has changed" in check_unchanged(photo).failure.message
    for same in (replace(photo, known_as=None), replace(photo, known_as="new")):
        assert check_unchanged(same) is same


# --- names


@pytest.mark.parametrize(
    ("person", "uri", "form", "index", "expected"),
    [
        ("Ann_Lee", "/lfw/Ann_Lee/Ann_Lee_0001.jpg", "folder", None, "Ann_Lee/Ann_Lee_0001"),
        ("Ann Lee", "gs://b/x/Ann Lee/day 1.v2.jpeg", "folder", None, "Ann Lee/day 1.v2"),
        ("J. Doe", "/x/day.1.v2.jpg", "tar", None, "J. Doe/day_1_v2"),
        ("p", "/x/group.jpg", "tfrecord", 0, "p/group_0"),
        ("a/b\0c", "/x/1.jpg", "folder", None, "a_b_c/1"),
        ("..", "/x/1.jpg", "folder", None, "__/1"),
        ("", "/1.jpg", "folder", None, "_/1"),
        ("Zoë ☺", "/x/ï.png", "folder", None, "Zoë ☺/ï"),
    ],
)
def test_a_crop_is_called_after_person_and_photo(person, uri, form, index, expected):
    assert crop_name(person, uri, form, index) == expected


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@settings(deadline=None, max_examples=200)
@given(person=TEXT, stem=TEXT, form=st.sampled_from(["folder", "tar"]))
def test_any_label_gives_a_file_in_a_folder(tmp_path_factory, person, stem, form):
    root = tmp_path_factory.mktemp("names")
    name = crop_name(person, f"/photos/{stem}.jpg", form, index=12345)
    photo = LabelledPhoto("a", SHARD, names=(name,), crops=(b"png",))
    CropWriter(str(root), "folder").write("s", [photo])
    (folder,) = (path for path in root.iterdir() if path.name != "failures")
    (file,) = folder.iterdir()
    assert f"{folder.name}/{file.name}" == f"{name}.png"


@given(st.lists(st.sampled_from(["p/a", "p/A", "p/a_1", "p/a_2", "p/A_1_1", "q/a", "p/b"])))
def test_names_are_unique_and_kept_where_they_can_be(wanted):
    names = unique_names(wanted)
    folded = [name.casefold() for name in names]
    assert len(set(folded)) == len(wanted)
    first = {}
    for name, want in zip(names, wanted, strict=True):
        if want.casefold() not in first:  # whoever comes first has the name it wants
            assert name == want
        else:
            assert re.fullmatch(re.escape(want) + r"_\d+", name)
        first.setdefault(want.casefold(), name)


def test_numbers_pass_over_names_that_others_want():
    assert unique_names(["p/a", "p/a", "p/a_1", "p/a"]) == ["p/a", "p/a_2", "p/a_1", "p/a_3"]


# --- the three forms

PICTURES = {"Ann/1": picture(1), "Ann/2_0": picture(2), "Bo B./2_1": picture(3)}


def photos() -> list[LabelledPhoto]:
    one, two, three = (png(pixels) for pixels in PICTURES.values())
    failure = Failure("decode", "OSError", "damaged")
    return [
        LabelledPhoto("/in/1.jpg", SHARD, names=("Ann/1",), crops=(one,)),
        LabelledPhoto("/in/2.jpg", SHARD, names=("Ann/2_0", "Bo B./2_1"), crops=(two, three)),
        LabelledPhoto("/in/3.jpg", SHARD, names=("Ann/3",), failure=failure),
        LabelledPhoto("/in/4.jpg", SHARD, names=("Ann/4",), failure=NO_FACE),
    ]


def from_folder(root):
    return {
        f"{path.parent.name}/{path.stem}": pixels_of(path.read_bytes())
        for path in root.glob("*/*.png")
    }


def from_tar(root):
    """By the rule of WebDataset: a sample's key is what precedes its name's first dot."""
    found = {}
    with tarfile.open(root / "shard0.tar") as tar:
        for member in tar:
            key, extension = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]*)", member.name).groups()
            assert extension == "png"
            found[key] = pixels_of(tar.extractfile(member).read())
    return found


def from_tfrecord(root):
    import tensorflow as tf

    found = {}
    keys = ("image/encoded", "image/format", "image/class/text", "image/filename")
    features = {key: tf.io.FixedLenFeature((), tf.string) for key in keys}
    for record in tf.data.TFRecordDataset(str(root / "shard0.tfrecord")):
        example = tf.io.parse_single_example(record, features)
        name = example["image/filename"].numpy().decode()
        assert example["image/class/text"].numpy().decode() == name.split("/")[0]
        assert example["image/format"].numpy() == b"png"
        found[name] = tf.io.decode_png(example["image/encoded"]).numpy()
    return found


FORMS = {"folder": from_folder, "tar": from_tar, "tfrecord": from_tfrecord}


def contents(root) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_crops_come_back_from_every_form(tmp_path, form):
    CropWriter(str(tmp_path), form).write("shard0", photos())
    found = FORMS[form](tmp_path)
    assert found.keys() == PICTURES.keys()
    for name, expected in PICTURES.items():
        np.testing.assert_array_equal(found[name], expected)
    failures = pq.read_table(tmp_path / "failures" / "shard0.parquet")
    assert failures.schema.equals(schema.FAILURES)
    assert failures.to_pylist() == [
        {"uri": "/in/3.jpg", "step": "decode", "error": "OSError", "message": "damaged"},
        {"uri": "/in/4.jpg", "step": "detect", "error": "NoFace", "message": "no face was found"},
    ]
    files = {"folder": {f"{name}.png" for name in PICTURES}}.get(form, {f"shard0.{form}"})
    assert contents(tmp_path).keys() == files | {"failures/shard0.parquet"}  # nothing temporary


@pytest.mark.parametrize("form", FORMS)
def test_however_photos_come_in_the_bytes_are_the_same(tmp_path, form):
    CropWriter(str(tmp_path / "a"), form).write("shard0", photos())
    mixed = random.Random(1).sample(photos(), 4)
    assert mixed != photos()
    CropWriter(str(tmp_path / "b"), form).write("shard0", iter(mixed))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("form", FORMS)
def test_the_failures_come_last_and_mark_a_shard_as_complete(tmp_path, form):
    blocked = {"folder": "Ann/1.png"}.get(form, f"shard0.{form}")
    (tmp_path / blocked).mkdir(parents=True)
    with pytest.raises(OSError, match=blocked):
        CropWriter(str(tmp_path), form).write("shard0", photos())
    assert not (tmp_path / "failures").exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_shard_without_crops_has_only_failures(tmp_path, form):
    CropWriter(str(tmp_path), form).write("shard0", photos()[2:])
    assert os.listdir(tmp_path) == ["failures"]
    assert pq.read_table(tmp_path / "failures").num_rows == 2
