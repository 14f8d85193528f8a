"""A file that cannot be opened fails with a reason: the decoder's, or what the file is instead."""

import gzip
import io
import re
import sys
import zipfile

import numpy as np
import pillow_heif
import pytest
from PIL import Image, UnidentifiedImageError

from facecluster.transforms.inputs.listing import list_photos
from facecluster.transforms.inputs.photo_suffixes import SUFFIXES_OF_MODULES, readable_suffixes
from facecluster.transforms.photos.decode_image import decode_image
from facecluster.transforms.photos.formats.opening import FORMATS, MissingLibraryError
from tests.transforms.photos.formats.dng import write_dng

pillow_heif.register_heif_opener()  # to write HEIF


# How files of each suffix are written: the format, the mode if it is not RGB, and options.
TWO_FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (32, 32))]}
WRITERS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp"), "JPEG"),
    **dict.fromkeys((".mpo", ".jps"), ("MPO", "RGB", TWO_FRAMES)),
    ".png": "PNG", ".apng": ("PNG", "RGB", TWO_FRAMES), ".webp": "WEBP", ".gif": "GIF",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"), ".bmp": "BMP", ".dib": "DIB",
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIF"),
    **dict.fromkeys((".heics", ".heifs"), ("HEIF", "RGB", TWO_FRAMES)),
    ".avif": "AVIF", ".avifs": ("AVIF", "RGB", TWO_FRAMES),
    **dict.fromkeys((".jp2", ".jpf", ".jpx"), "JPEG2000"),
    **dict.fromkeys((".j2k", ".j2c", ".jpc"), ("JPEG2000", "RGB", {"no_jp2": True})),
    **dict.fromkeys((".ppm", ".pnm"), "PPM"),
    ".pgm": ("PPM", "L", {}), ".pbm": ("PPM", "1", {}), ".pfm": ("PPM", "F", {}),
    ".jxl": "JXL",
}  # fmt: skip


def encode(file_format: str, mode: str = "RGB", options: dict | None = None) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, file_format, **options or {})
    return file.getvalue()


@pytest.mark.parametrize("suffix", sorted(readable_suffixes()))
def test_a_file_of_each_suffix_is_listed_and_read(tmp_path, suffix):
    if suffix == ".jxl":
        pytest.importorskip("pillow_jxl")  # lets Pillow write it
    writer = WRITERS.get(suffix, ())
    writer = (writer,) if isinstance(writer, str) else writer
    if suffix in SUFFIXES_OF_MODULES["rawpy"]:  # each maker has a format; all are read by LibRaw
        content = write_dng(np.zeros((32, 32, 3), np.uint8))
    else:
        content = encode(*writer)
    (tmp_path / f"a{suffix}").write_bytes(content)
    assert len(list_photos([str(tmp_path)]).sources) == 1
    found = decode_image(content)
    assert found.size == (32, 32)
    assert found.n_frames == (2 if TWO_FRAMES in writer else 1)


@pytest.mark.parametrize(
    ("file_format", "brand"),
    [("HEIF", b"mif1"), ("HEIF", b"miaf"), ("HEIF", b"msf1"), ("AVIF", b"mif1"), ("AVIF", b"miaf")],
)
def test_a_general_brand_in_front_of_the_special_one(file_format, brand):
    content = encode(file_format)
    length = int.from_bytes(content[:4], "big")
    special = {"HEIF": b"heic", "AVIF": b"avif"}[file_format]
    assert special in content[12:length]
    found = decode_image(content[:8] + brand + content[12:])
    expected = decode_image(content)
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(expected.image))


@pytest.mark.parametrize(
    ("module", "content", "message"),
    [
        ("rawpy", write_dng(np.zeros((32, 32, 3), np.uint8)), r"^RAW photo, but rawpy is not"),
        ("pillow_jxl", b"\xff\x0a" + bytes(20), r"^JPEG XL, but pillow-jxl-plugin is not"),
    ],
)
def test_a_missing_library_is_named(monkeypatch, module, content, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingLibraryError, match=message) as caught:
        decode_image(content)
    assert str(caught.value).endswith("is not installed: pip install 'facecluster[formats]'")


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
