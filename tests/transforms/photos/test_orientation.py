"""Photos are turned by EXIF, and HEIF and AVIF by the file's own orientation; never by XMP."""

import io
import re
import struct

import numpy as np
import pillow_heif
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from facecluster.transforms.photos.decode_image import TRANSPOSITIONS, decode_image

pillow_heif.register_heif_opener()  # to write HEIF

FORMATS = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "MPO": {"quality": 95, "subsampling": 0, "save_all": True},
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
}
# JPEG 2000 files have no EXIF that Pillow reads or writes.
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    'syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{}/></rdf:RDF>'
    "</x:xmpmeta>"
)
ELEMENT = "<tiff:Orientation>{}</tiff:Orientation>"
BYTES, ASCII, SHORT, LONG = 1, 2, 3, 4  # types of values in EXIF and TIFF

xmps = st.none() | st.builds(
    lambda orientation, form: form.format(orientation).encode(),
    st.integers(0, 9) | st.sampled_from(["", "6 ", "x"]),
    st.sampled_from([
        XMP.format(' tiff:Orientation="{}"'), ELEMENT, XMP.format("") + ELEMENT,
        "no XML, just the words tiff:Orientation=\"{}\"",
    ]),
)  # fmt: skip


def orientation_data(kind: int, value: int, endian: str = "<") -> bytes:
    if kind == ASCII:
        return str(value).encode()[:3].ljust(4, b"\0")
    return struct.pack(endian + {SHORT: "H", LONG: "I"}[kind], value)


def exif_block(kind: int, value: int, endian: str = "<") -> bytes:
    """EXIF with an orientation of any type and nothing else."""
    data = orientation_data(kind, value, endian)
    head = struct.pack(endian + "2sHI", b"II" if endian == "<" else b"MM", 42, 8)
    n_values = 4 if kind == ASCII else 1
    entry = struct.pack(endian + "HHHI", 1, 274, kind, n_values) + data.ljust(4, b"\0")
    return b"Exif\0\0" + head + entry + bytes(4)


# (type, value) of an orientation in EXIF, None for none.
stated_orientations = st.none() | st.tuples(
    st.sampled_from([SHORT, SHORT, LONG, ASCII]), st.integers(0, 9) | st.sampled_from([255, 65535])
)


def valid_orientation(stated: tuple[int, int] | None) -> int:
    """The orientation of a photo of which EXIF states this: only a number from 1 to 8 counts."""
    kind, value = stated or (SHORT, 1)
    return value if kind != ASCII and 1 <= value <= 8 else 1


def marked(width: int = 48, height: int = 32) -> Image.Image:
    """An image of which each corner has another color."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:12, :12] = 255, 0, 0
    pixels[:12, -12:] = 0, 255, 0
    pixels[-12:, :12] = 0, 0, 255
    pixels[-12:, -12:] = 255, 255, 255
    return Image.fromarray(pixels)


def save(image: Image.Image, file_format: str, xmp: bytes | None, **options) -> bytes:
    if xmp is not None and file_format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif xmp is not None:
        options["xmp"] = xmp
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def tiff(entries: dict[int, tuple[int, bytes]]) -> bytes:
    """An uncompressed TIFF of the marked image with further entries, {tag: (type, data)}."""
    image = marked()
    pixels = image.tobytes()
    size = {SHORT: 2, LONG: 4, ASCII: 1, BYTES: 1}

    def longs(*values: int) -> tuple[int, bytes]:
        return LONG, struct.pack(f"<{len(values)}I", *values)

    entries = entries | {
        256: longs(image.width), 257: longs(image.height), 258: (SHORT, b"\x08\0" * 3),
        259: longs(1), 262: longs(2), 273: longs(8), 277: longs(3), 278: longs(image.height),
        279: longs(len(pixels)),
    }  # fmt: skip
    content, directory = pixels, struct.pack("<H", len(entries))
    for tag, (kind, data) in sorted(entries.items()):
        n_values = len(data) // size[kind]
        if len(data) > 4:
            data, content = struct.pack("<I", 8 + len(content)), content + data + b"\0" * 4
        directory += struct.pack("<HHI", tag, kind, n_values) + data.ljust(4, b"\0")
    head = struct.pack("<2sHI", b"II", 42, 8 + len(content))
    return head + content + directory + bytes(4)


def turned(orientation: int) -> np.ndarray:
    image = marked()
    if orientation != 1:
        image = image.transpose(TRANSPOSITIONS[orientation])
    return np.asarray(image).astype(int)


def assert_shows(content: bytes, orientation: int) -> None:
    decoded = decode_image(content)
    expected = turned(orientation)
    assert decoded.size == decoded.image.size == (expected.shape[1], expected.shape[0])
    assert np.abs(np.asarray(decoded.image) - expected).mean() < 5


@pytest.mark.parametrize("file_format", FORMATS)
@given(stated_orientations, st.sampled_from("<>"), xmps)
@example((SHORT, 1), "<", XMP.format(' tiff:Orientation="6"').encode())
@example((SHORT, 6), "<", XMP.format(' tiff:Orientation="3"').encode())
@example(None, "<", b'<x:xmpmeta> tiff:Orientation="3"')
@settings(max_examples=40, deadline=None)
def test_photos_are_turned_by_exif_only(file_format, stated, endian, xmp):
    if file_format == "TIFF":
        entries = {} if xmp is None else {700: (BYTES, xmp)}
        if stated:
            entries[ExifTags.Base.Orientation] = (stated[0], orientation_data(*stated))
        content = tiff(entries)
    else:
        options = FORMATS[file_format] | ({"exif": exif_block(*stated, endian)} if stated else {})
        content = save(marked(), file_format, xmp, **options)
    assert_shows(content, valid_orientation(stated))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg", "tiff_adobe_deflate"])
@pytest.mark.parametrize("orientation", [None, 1, 6, 8])
def test_a_tiff_with_a_compression_is_turned_by_exif_only(compression, orientation):
    exif = Image.Exif()
    exif[700] = XMP.format(' tiff:Orientation="3"').encode()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    content = save(marked(), "TIFF", None, exif=exif, compression=compression)
    assert b"tiff:Orientation" in content
    assert_shows(content, orientation or 1)


@pytest.mark.parametrize("file_format", ["HEIF", "AVIF"])
@given(st.integers(1, 8), st.none() | st.integers(0, 9), xmps)
@settings(max_examples=40, deadline=None)
def test_heif_and_avif_are_turned_by_the_file_only(file_format, orientation, stated, xmp):
    content = save_in_heif(file_format, orientation, xmp)
    if stated is not None:
        content = with_software_as_orientation(content, stated)
    assert_shows(content, orientation)


def save_in_heif(file_format: str, orientation: int, xmp: bytes | None = None) -> bytes:
    """A HEIF or AVIF. Its encoder moves the orientation from the EXIF into the file.

    That of HEIF also takes one from the XMP, unless it is disguised.
    """
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = "a program"
    exif[ExifTags.Base.Orientation] = orientation
    disguised = xmp and xmp.replace(b"Orientation", b"noitatneirO")
    content = save(marked(), file_format, disguised, exif=exif.tobytes(), quality=90)
    assert b"a program" in content
    return content.replace(b"noitatneirO", b"Orientation")


def with_software_as_orientation(content: bytes, orientation: int) -> bytes:
    """Replaces EXIF's entry of the software, in either byte order, by one of an orientation."""
    n_replaced = 0
    for endian in "<>":
        old = re.escape(struct.pack(endian + "HHI", ExifTags.Base.Software, ASCII, 10)) + b"...."
        new = struct.pack(endian + "HHIHH", ExifTags.Base.Orientation, SHORT, 1, orientation, 0)
        content, n = re.subn(old, lambda _, new=new: new, content, flags=re.DOTALL)
        n_replaced += n
    assert n_replaced == 1
    return content


# --- EXIF that is damaged, or there twice


DAMAGED_EXIF = [
    b"",
    b"II*\0",
    b"junk, and more junk, and no EXIF",
    bytes(30),
    b"II*\0\xff\xff\xff\xff",
]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", DAMAGED_EXIF)
def test_a_photo_with_damaged_exif_is_not_turned(file_format, exif):
    content = save(marked(), file_format, None, exif=b"Exif\0\0" + exif, **FORMATS[file_format])
    assert_shows(content, 1)


@pytest.mark.parametrize("file_format", ["HEIF", "AVIF"])
@pytest.mark.parametrize("exif", DAMAGED_EXIF[1:])
def test_a_heif_or_avif_with_damaged_exif_is_turned_nevertheless(file_format, exif):
    content = save_in_heif(file_format, 6)
    (place,) = (match.start() for match in re.finditer(rb"II\*\0....|MM\0\*....", content))
    content = content[:place] + exif + content[place + len(exif) :]
    assert_shows(content, 6)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_photo_is_turned_though_the_rest_of_its_exif_is_damaged(file_format):
    exif = exif_block(SHORT, 6)
    pointer = struct.pack("<HHII", ExifTags.IFD.Exif, LONG, 1, 1 << 30)
    exif = exif[:14] + struct.pack("<H", 2) + exif[16:28] + pointer + exif[28:]
    options = {**FORMATS[file_format], "exif": exif}
    if file_format == "TIFF":
        wrong = {274: (SHORT, b"\6\0"), ExifTags.IFD.Exif: (LONG, struct.pack("<I", 1 << 30))}
        content = tiff(wrong)
    else:
        content = save(marked(), file_format, None, **options)
    assert_shows(content, 6)


@pytest.mark.parametrize("kind", [b"eXIf", b"iTXt", b"tEXt"])
def test_a_png_is_read_though_its_metadata_are_damaged(kind):
    options = {"pnginfo": PngImagePlugin.PngInfo(), "exif": exif_block(SHORT, 6)}
    options["pnginfo"].add_text("Title", "a photo")
    options["pnginfo"].add_itxt("Author", "somebody")
    content = bytearray(save(marked(), "PNG", None, **options))
    place = content.index(kind)
    content[place + 10] ^= 255
    assert_shows(bytes(content), 1 if kind == b"eXIf" else 6)
    content[content.index(b"IHDR") + 7] ^= 255  # what the pixels need may not be damaged
    with pytest.raises(OSError, match=r"^PNG, but broken PNG file"):
        decode_image(bytes(content))


def test_of_two_exif_segments_the_first_counts():
    content = save(marked(), "JPEG", None, exif=exif_block(SHORT, 6), **FORMATS["JPEG"])
    for second in (exif_block(SHORT, 3), b"http://ns.adobe.com/xap/1.0/\0" + ELEMENT.encode()):
        place = content.index(b"\xff\xdb")  # the first table
        segment = b"\xff\xe1" + struct.pack(">H", len(second) + 2) + second
        assert_shows(content[:place] + segment + content[place:], 6)
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + ELEMENT.format(3).encode()
    first = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
    assert_shows(content[:2] + first + content[2:], 6)


def test_the_orientation_of_a_reduced_jpeg():
    image = marked().resize((480, 320), Image.Resampling.NEAREST)
    content = save(image, "JPEG", XMP.format(' tiff:Orientation="3"').encode(),
                   exif=exif_block(SHORT, 6), **FORMATS["JPEG"])  # fmt: skip
    decoded = decode_image(content, jpeg_size=120)
    assert (decoded.image.size, decoded.size) == ((80, 120), (320, 480))
    assert np.asarray(decoded.image)[5, 75].tolist() == pytest.approx([255, 0, 0], abs=12)
