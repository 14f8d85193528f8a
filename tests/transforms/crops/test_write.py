"""Crops are read back from all three forms, and their files do not depend on the photos' order."""

import io
import os
import random
import re
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facecluster.transforms.crops.cut import NO_FACE, LabeledPhoto
from facecluster.transforms.crops.write import CropWriter
from facecluster.transforms.records import Failure, Shard
from facecluster.transforms.tables import schema

SHARD = Shard("shard0", 4)


def random_pixels(seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def encode_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels_of(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


CROPS = {"Ann/1": random_pixels(1), "Ann/2_0": random_pixels(2), "Bo B./2_1": random_pixels(3)}


def photos() -> list[LabeledPhoto]:
    one, two, three = (encode_png(pixels) for pixels in CROPS.values())
    failure = Failure("decode", "OSError", "damaged")
    return [
        LabeledPhoto("/in/1.jpg", SHARD, names=("Ann/1",), crops=(one,)),
        LabeledPhoto("/in/2.jpg", SHARD, names=("Ann/2_0", "Bo B./2_1"), crops=(two, three)),
        LabeledPhoto("/in/3.jpg", SHARD, names=("Ann/3",), failure=failure),
        LabeledPhoto("/in/4.jpg", SHARD, names=("Ann/4",), failure=NO_FACE),
    ]


def from_folder(root):
    return {
        f"{path.parent.name}/{path.stem}": pixels_of(path.read_bytes())
        for path in root.glob("*/*.png")
    }


def from_tar(root):
    """As WebDataset reads them: a sample's key is the part of its name before the first dot."""
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
def test_crops_are_read_back_from_every_form(tmp_path, form):
    CropWriter(str(tmp_path), form).write("shard0", photos())
    found = FORMS[form](tmp_path)
    assert found.keys() == CROPS.keys()
    for name, expected in CROPS.items():
        np.testing.assert_array_equal(found[name], expected)
    failures = pq.read_table(tmp_path / "failures" / "shard0.parquet")
    assert failures.schema.equals(schema.FAILURES)
    assert failures.to_pylist() == [
        {"uri": "/in/3.jpg", "step": "decode", "error": "OSError", "message": "damaged"},
        {"uri": "/in/4.jpg", "step": "detect", "error": "NoFace", "message": "no face was found"},
    ]
    files = {"folder": {f"{name}.png" for name in CROPS}}.get(form, {f"shard0.{form}"})
    assert contents(tmp_path).keys() == files | {"failures/shard0.parquet"}  # and no temporary file


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_the_photos_does_not_change_the_files(tmp_path, form):
    CropWriter(str(tmp_path / "a"), form).write("shard0", photos())
    shuffled = random.Random(1).sample(photos(), 4)
    assert shuffled != photos()
    CropWriter(str(tmp_path / "b"), form).write("shard0", iter(shuffled))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("form", FORMS)
def test_failures_are_written_last_and_mark_a_shard_as_complete(tmp_path, form):
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
