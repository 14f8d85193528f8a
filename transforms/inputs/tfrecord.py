"""Lists and reads the records of TFRecord files of tf.Example, without TensorFlow.

A record is its length (8 bytes), the CRC of the length (4 bytes), the content, and its CRC
(4 bytes).
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from facecluster.transforms.inputs.sources import (
    ChangedError,
    DamagedError,
    Member,
    Source,
    TooLargeError,
)

HEADER_BYTES, FOOTER_BYTES = 12, 4
CRC32C_MASK = 0xA282EAD8  # TFRecord adds it because the CRC of data with CRCs is weak
PHOTO_FEATURE = "image/encoded"


def list_records(file: BinaryIO) -> Iterator[Member]:
    """Yields the records in their order, named by their numbers; seeks from length to length.

    Raises:
      DamagedError: the file is damaged or truncated; after yielding the records before that.
    """
    offset, number = 0, 0
    header = file.read(HEADER_BYTES)
    while header:
        if len(header) < HEADER_BYTES:
            raise DamagedError(f"it is truncated after {offset:,} bytes")
        size = record_size(header)
        if size is None:
            raise DamagedError(f"no record starts at byte {offset:,}: it is damaged there")
        try:
            file.seek(offset + HEADER_BYTES + size)
            following = file.read(FOOTER_BYTES + HEADER_BYTES)
        except Exception:  # a truncated compressed file, or a length beyond any file's size
            yield Member(f"{number:08d}", offset, HEADER_BYTES, size, 0)
            raise
        footer, header = following[:FOOTER_BYTES], following[FOOTER_BYTES:]
        checksum = int.from_bytes(footer, "little")
        yield Member(f"{number:08d}", offset, HEADER_BYTES, size, checksum)
        if len(footer) < FOOTER_BYTES:
            raise DamagedError(f"it is truncated within the record at byte {offset:,}")
        offset += HEADER_BYTES + size + FOOTER_BYTES
        number += 1


def read_photo_of_record(file: BinaryIO, source: Source, max_bytes: int) -> bytes:
    """Reads `image/encoded` of a listed record.

    Raises:
      ChangedError: there is another record in its place.
      DamagedError: its CRC is wrong, or it is not a tf.Example with image/encoded.
      TooLargeError: it has more than max_bytes.
    """
    file.seek(source.offset)
    if record_size(file.read(HEADER_BYTES)) != source.size:
        raise ChangedError(source.path)
    if source.size > max_bytes:
        raise TooLargeError(source.size, max_bytes)
    content, footer = file.read(source.size), file.read(FOOTER_BYTES)
    if len(footer) < FOOTER_BYTES:
        raise DamagedError("its file is truncated within its record")
    if int.from_bytes(footer, "little") != source.version:
        raise ChangedError(source.path)
    if masked_crc32c(content) != source.version:
        raise DamagedError("its record is damaged: the checksum does not match")
    features = parse_example(content)
    photos = features[PHOTO_FEATURE].bytes_list.value[:1] if PHOTO_FEATURE in features else ()
    if not photos:
        names = " ".join(sorted(features)) or "no features"
        raise DamagedError(f"its record has no {PHOTO_FEATURE}, but {names}")
    return photos[0]


def record_size(header: bytes) -> int | None:
    """The length of a record by its header of 12 bytes; None if they are not a header."""
    if len(header) < HEADER_BYTES:
        return None
    size, crc = struct.unpack("<QI", header)
    return size if crc == masked_crc32c(header[:8]) else None


def masked_crc32c(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return (((crc >> 15) | (crc << 17)) + CRC32C_MASK) & 0xFFFFFFFF


def parse_example(record: bytes) -> Any:
    """Parses a tf.Example into {name: Feature}, with bytes_list, float_list and int64_list.

    Raises:
      DamagedError: it is not a tf.Example.
    """
    try:
        return _Example.FromString(record).features.feature
    except DecodeError as error:
        raise DamagedError(f"its record is not a tf.Example: {error}") from error


def make_record(features: Mapping[str, bytes]) -> bytes:
    """Makes a record of a tf.Example whose features have one value of bytes each."""
    example = _Example()
    for name, value in features.items():
        example.features.feature[name].bytes_list.value.append(value)
    content = example.SerializeToString(deterministic=True)
    size = struct.pack("<Q", len(content))
    crcs = [struct.pack("<I", masked_crc32c(part)) for part in (size, content)]
    return size + crcs[0] + content + crcs[1]


def _example_class() -> type:
    """The class of tf.Example, as tensorflow/core/example/{example,feature}.proto declare it.

    It is declared in a descriptor pool of its own, so that TensorFlow can declare it, too.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="example.proto", package="tensorflow", syntax="proto3"
    )

    def declare(message, *fields):
        for number, (name, kind, label) in enumerate(fields, 1):
            is_message = isinstance(kind, str)
            message.field.add(
                name=name,
                number=number,
                label=label,
                type=field.TYPE_MESSAGE if is_message else kind,
                type_name=f".tensorflow.{kind}" if is_message else None,
            )
        return message

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    lists = {"bytes": field.TYPE_BYTES, "float": field.TYPE_FLOAT, "int64": field.TYPE_INT64}
    for name, kind in lists.items():
        message = file.message_type.add(name=f"{name.capitalize()}List")
        declare(message, ("value", kind, many))
    feature = file.message_type.add(name="Feature")
    declare(feature, *((f"{name}_list", f"{name.capitalize()}List", one) for name in lists))
    feature.oneof_decl.add(name="kind")
    for alternative in feature.field:
        alternative.oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    declare(entry, ("key", field.TYPE_STRING, one), ("value", "Feature", one))
    entry.options.map_entry = True
    declare(features, ("feature", "Features.FeatureEntry", many))
    declare(file.message_type.add(name="Example"), ("features", "Features", one))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


_Example = _example_class()
