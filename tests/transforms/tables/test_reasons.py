"""Failures in words."""

import struct
import zlib

import pyarrow as pa
import pytest
from PIL import Image

from facecluster.transforms.photos.decode import decode_photo
from facecluster.transforms.photos.decode_image import decode_image
from facecluster.transforms.photos.read import read_photo
from facecluster.transforms.records import Photo, Shard, failure_of
from facecluster.transforms.tables.reasons import (
    count_failure_reasons,
    count_unusable_suffixes,
    failure_reason,
    format_reasons,
)

SHARD = Shard("s", 1)


def reason_of(photo: Photo) -> str:
    assert photo.failure
    return failure_reason(photo.failure.step, photo.failure.error)


def test_files_that_cannot_be_read_are_told_apart(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "large.jpg").write_bytes(b"12345")
    reasons = {"empty.jpg": "empty", "large.jpg": "too large", "gone.jpg": "cannot be read"}
    for name, reason in reasons.items():
        assert reason_of(read_photo(Photo(str(tmp_path / name), SHARD), max_bytes=4)) == reason
    assert reason_of(read_photo(Photo(str(tmp_path), SHARD))) == "cannot be read"  # a folder


def test_files_that_cannot_be_decoded_are_told_apart(tmp_path):
    path = tmp_path / "photo.png"
    Image.effect_noise((64, 64), 50).save(path)
    whole = path.read_bytes()
    reasons = {b"text": "not an image", whole[: len(whole) // 2]: "damaged"}
    for content, reason in reasons.items():
        assert reason_of(decode_photo(Photo("uri", SHARD, content=content))) == reason
    few = lambda content: decode_image(content, max_pixels=63)  # noqa: E731
    assert reason_of(decode_photo(Photo("uri", SHARD, content=whole), few)) == "too many pixels"


@pytest.mark.parametrize(
    "error", [struct.error("short"), zlib.error("bad"), SyntaxError("broken PNG"), EOFError()]
)
def test_whatever_a_decoder_raises_is_damage(error):
    failure = failure_of("decode", error)
    assert failure_reason(failure.step, failure.error) == "damaged"


def test_a_failure_without_words_is_named_by_its_error():
    assert failure_reason("embed", "Unheard") == failure_reason("other", "Unheard") == "Unheard"


def test_failures_are_counted_by_reason_the_most_frequent_first():
    kinds = [("read", "OSError"), ("decode", "OSError"), ("decode", "SyntaxError"), ("x", "Odd")]
    failures = pa.table({"step": [k[0] for k in kinds], "error": [k[1] for k in kinds]})
    counts = count_failure_reasons(failures)
    assert list(counts.items()) == [("damaged", 2), ("Odd", 1), ("cannot be read", 1)]
    assert format_reasons(counts) == "damaged 2, Odd 1, cannot be read 1"
    assert format_reasons({"few": 1, "none": 0, "many": 1200}) == "many 1,200, few 1"
    assert count_failure_reasons(failures[:0]) == {}
    assert format_reasons({}) == ""


def test_suffixes_of_which_no_photo_could_be_decoded():
    decode = ["/a/1.CR3", "/a/2.cr3", "/a/3.jpg", "tar!/4.jxl", "/a/no suffix", "/a.b/5.JPG"]
    failures = pa.table({"uri": [*decode, "/a/6.png"], "step": ["decode"] * len(decode) + ["read"]})
    uris = pa.chunked_array([["/a/7.Jpg", "/a/cr3"], ["/a/8.cr2"]])
    assert count_unusable_suffixes(failures, uris) == {".cr3": 2, ".jxl": 1}
    none = pa.chunked_array([], pa.string())
    assert count_unusable_suffixes(failures, none) == {".cr3": 2, ".jpg": 2, ".jxl": 1}
