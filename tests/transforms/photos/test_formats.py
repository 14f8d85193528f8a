"""A file that cannot be opened fails with a reason: the decoder's, or what the file is instead."""

import gzip
import io
import re
import zipfile

import numpy as np
import pillow_heif
import pytest
from PIL import Image, UnidentifiedImageError

from facecluster.transforms.photos.decode_image import decode_image
from facecluster.transforms.photos.formats import FORMATS

pillow_heif.register_heif_opener()  # to write HEIF


def encode(file_format: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jpg", b"")
    return file.getvalue()


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return (8 + len(content)).to_bytes(4, "big") + kind + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds only zeros"),
        (bytes(5000), "holds only zeros"),
        (b"<!DOCTYPE html>\n<html><body>403 Forbidden", "is a web page"),
        (b"\xef\xbb\xbf\r\n <HTML>", "is a web page"),
        (b'<?xml version="1.0"?>\n<!-- x -->\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is an XML file"),
        (b"%PDF-1.7\n", "is a PDF document"),
        (box(b"ftyp", b"isom", b"\0\0\2\0", b"isommp41") + box(b"mdat", b"x"), "is a video"),
        (box(b"ftyp", b"qt  ", b"\0\0\2\0", b"qt  ") + box(b"wide"), "is a video"),
        (b"RIFF\0\0\0\0AVI LIST", "is a video"),
        (gzip.compress(encode("JPEG")), "is compressed with gzip"),
        (zip_file(), "is a ZIP file"),
        (b"8BPS\0\1" + bytes(20), "is a Photoshop document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"just some text", "is not an image in a known format"),
        (b"x", "is not an image in a known format"),
    ],
)  # fmt: skip
def test_what_a_file_is_that_is_no_photo(content, message):
    with pytest.raises(UnidentifiedImageError, match=re.escape(message)):
        decode_image(content)


@pytest.mark.parametrize(
    ("file_format", "name"),
    [(file_format, name) for file_format, name in FORMATS.items() if file_format != "DIB"],
)
@pytest.mark.parametrize("length", [16, 24, 40])
def test_the_reason_names_the_format_of_a_file_that_is_cut_in_its_header(file_format, name, length):
    with pytest.raises(OSError, match=r".") as caught:
        decode_image(encode(file_format)[:length])
    # Some decoders detect it when pixels are decoded; their message stays as it is.
    message = str(caught.value)
    assert type(caught.value) is OSError
    assert message.startswith(f"{name}, but ") or "truncated" in message
    assert "\n" not in message
    with pytest.raises(OSError, match=re.escape(message)):  # it is the same each time
        decode_image(encode(file_format)[:length])


def test_the_reason_of_a_decoder_is_in_the_message():
    heic = encode("HEIF")
    with pytest.raises(OSError, match=r"^HEIC, but Invalid input: No 'iloc' box"):
        decode_image(heic.replace(b"iloc", b"free"))
    avif = encode("AVIF")
    with pytest.raises(OSError, match=r"^AVIF, but .*(BMFF parsing failed|image item)"):
        decode_image(avif.replace(b"iloc", b"free"))
    png = encode("PNG")
    with pytest.raises(
        OSError, match=r"^PNG, but broken PNG file \(bad header checksum in b'IHDR'"
    ):
        decode_image(png[:17] + b"\xff" + png[18:])


def test_a_message_holds_no_address_in_memory():
    for file_format in FORMATS:
        if file_format != "DIB":
            content = encode(file_format)
            for length in range(0, min(len(content), 300), 7):
                with pytest.raises(Exception, match=r".") as caught:
                    decode_image(content[:length])
                assert "0x" not in str(caught.value)
