"""Records of any bytes are listed and read; a damaged one is detected, and no other is lost."""

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.transforms.inputs.sources import (
    ChangedError,
    Container,
    DamagedError,
    Source,
    TooLargeError,
)
from facecluster.transforms.inputs.tfrecord import (
    list_records,
    make_record,
    masked_crc32c,
    parse_example,
    read_photo_of_record,
)

CONTAINER = Container("a.tfrecord", "tfrecord")
photos = st.lists(st.binary(min_size=1, max_size=300), max_size=6)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features: dict[str, bytes]) -> bytes:
    """A tf.Example of features with one value of bytes each."""
    entries = (
        field(1, field(1, name.encode()) + field(2, field(1, field(1, value))))
        for name, value in features.items()
    )
    return field(1, b"".join(entries))


def record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    crcs = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return length + next(crcs) + content + next(crcs)


def tfrecord_of(contents: list[bytes]) -> bytes:
    return b"".join(record(example({"image/encoded": content})) for content in contents)


def list_sources(file) -> tuple[list[Source], str | None]:
    """The records, and the error message if the file is damaged."""
    found = []
    try:
        for member in list_records(file):
            found.append(Source(member.name, CONTAINER, *member[1:]))
    except Exception as error:
        return found, str(error)
    return found, None


@settings(deadline=None)
@given(photos)
def test_photos_that_are_written_are_read(contents):
    file = io.BytesIO(tfrecord_of(contents))
    sources, problem = list_sources(file)
    assert problem is None
    assert [source.uri for source in sources] == [f"{i:08d}" for i in range(len(contents))]
    assert [read_photo_of_record(file, source, 1000) for source in sources] == contents


def test_records_written_by_tensorflow(tmp_path):
    tf = pytest.importorskip("tensorflow")
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"\x00\xff"])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[-3, 4])),
        "image/box": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5])),
    }
    written = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    path = str(tmp_path / "a")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(written)
        writer.write(example({"image/encoded": b"two"}))
    assert Path(path).read_bytes() == record(written) + make_record({"image/encoded": b"two"})
    with open(path, "rb") as file:
        sources, problem = list_sources(file)
        assert problem is None
        assert [read_photo_of_record(file, s, 1000) for s in sources] == [b"\x00\xff", b"two"]
    parsed = parse_example(written)
    assert list(parsed["image/class/label"].int64_list.value) == [-3, 4]
    assert list(parsed["image/box"].float_list.value) == [0.5]


@settings(deadline=None)
@given(photos.filter(bool), st.data())
def test_a_truncated_file_has_the_whole_records_before_the_cut(contents, data):
    content = tfrecord_of(contents)
    ends = [0]
    for photo in contents:
        ends.append(ends[-1] + len(tfrecord_of([photo])))
    cut = data.draw(st.integers(0, len(content) - 1))
    file = io.BytesIO(content[:cut])
    sources, problem = list_sources(file)
    n_whole = sum(end <= cut for end in ends[1:])
    assert (problem is None) == (cut in ends)
    assert [read_photo_of_record(file, s, 1000) for s in sources[:n_whole]] == contents[:n_whole]
    assert len(sources) <= n_whole + 1
    for source in sources[n_whole:]:
        with pytest.raises(DamagedError, match="is truncated"):
            read_photo_of_record(file, source, 1000)


@settings(deadline=None)
@given(photos.filter(bool), st.data())
def test_a_flipped_bit_costs_one_record_or_is_reported(contents, data):
    content = bytearray(tfrecord_of(contents))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    file = io.BytesIO(content)
    sources, problem = list_sources(file)
    failed = 0
    for source in sources:
        try:
            assert read_photo_of_record(file, source, 1000) == contents[int(source.uri)]
        except DamagedError:
            failed += 1
    if problem is None:
        assert (len(sources), failed) == (len(contents), 1)
    else:
        assert failed == 0
        before = [source for source in sources if source.offset + source.size <= place]
        assert len(before) == len(sources)


def test_a_replaced_file_never_gives_another_photo():
    (source,), _ = list_sources(io.BytesIO(tfrecord_of([b"one"])))
    for other in (tfrecord_of([b"two"]), tfrecord_of([b"three"]), b""):
        with pytest.raises(ChangedError, match=r"a\.tfrecord has changed"):
            read_photo_of_record(io.BytesIO(other), source, 1000)


def test_records_without_a_photo_and_records_that_are_too_large():
    file = io.BytesIO(record(example({"image/id": b"1"})) + record(b"\xff") + record(b""))
    sources, _ = list_sources(file)
    for source, reason in zip(
        sources,
        [
            "has no image/encoded, but image/id",
            "not a tf.Example",
            "image/encoded, but no features",
        ],
        strict=True,
    ):
        with pytest.raises(DamagedError, match=reason):
            read_photo_of_record(file, source, 1000)
    file = io.BytesIO(tfrecord_of([b"x" * 100]))
    (source,), _ = list_sources(file)
    with pytest.raises(TooLargeError, match="limit of 99 bytes"):
        read_photo_of_record(file, source, 99)


def test_a_record_longer_than_any_file(tmp_path):
    length = struct.pack("<Q", 1 << 63)
    path = tmp_path / "a"
    path.write_bytes(tfrecord_of([b"one"]) + length + struct.pack("<I", masked_crc32c(length)))
    with open(path, "rb") as file:
        sources, problem = list_sources(file)
        assert problem
        assert read_photo_of_record(file, sources[0], 1000) == b"one"
        with pytest.raises(TooLargeError):
            read_photo_of_record(file, sources[1], 1000)
