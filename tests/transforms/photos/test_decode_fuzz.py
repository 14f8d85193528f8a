"""Decodes thousands of damaged files: each becomes a photo or a failure, and none hangs."""

import io
import re
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image

from facecluster.transforms.photos.decode import _DecodePhoto
from facecluster.transforms.photos.decode_image import decode_image
from facecluster.transforms.photos.decoder_process import (
    START_TIMEOUT,
    STOP_TIMEOUT,
    DecoderProcess,
)
from facecluster.transforms.photos.limits import DecodeLimits, TooManyPixelsError
from facecluster.transforms.records import Photo, Shard
from tests.transforms.photos.formats.dng import write_dng

pytest.importorskip("rawpy")
pytest.importorskip("pillow_jxl")  # which also lets Pillow write JPEG XL

LIMITS = DecodeLimits(max_bytes=10 << 20, max_pixels=4_000_000, max_seconds=20)
SIDE = 48
pillow_heif.register_heif_opener()

# {name: (Pillow's format, mode, options of writing it)}
VARIANTS = {
    "baseline.jpg": ("JPEG", "RGB", {}),
    "progressive.jpg": ("JPEG", "RGB", {"progressive": True}),
    "gray.jpg": ("JPEG", "L", {}),
    "cmyk.jpg": ("JPEG", "CMYK", {}),
    "two.mpo": ("MPO", "RGB", {"save_all": True}),
    "rgb.png": ("PNG", "RGB", {}),
    "rgba.png": ("PNG", "RGBA", {}),
    "palette.png": ("PNG", "P", {}),
    "deep.png": ("PNG", "I;16", {}),
    "animated.png": ("PNG", "RGB", {"save_all": True}),
    "lossy.webp": ("WEBP", "RGB", {}),
    "lossless.webp": ("WEBP", "RGBA", {"lossless": True}),
    "animated.webp": ("WEBP", "RGB", {"save_all": True}),
    "one.gif": ("GIF", "P", {}),
    "animated.gif": ("GIF", "P", {"save_all": True}),
    "plain.tif": ("TIFF", "RGB", {}),
    "lzw.tif": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "deflate.tif": ("TIFF", "RGBA", {"compression": "tiff_adobe_deflate"}),
    "jpeg.tif": ("TIFF", "RGB", {"compression": "jpeg"}),
    "fax.tif": ("TIFF", "1", {"compression": "group4"}),
    "pages.tif": ("TIFF", "CMYK", {"save_all": True}),
    "float.tif": ("TIFF", "F", {}),
    "rgb.bmp": ("BMP", "RGB", {}),
    "palette.bmp": ("BMP", "P", {}),
    "rgb.heic": ("HEIF", "RGB", {}),
    "two.heic": ("HEIF", "RGBA", {"save_all": True}),
    "rgba.avif": ("AVIF", "RGBA", {"speed": 8}),
    "animated.avif": ("AVIF", "RGB", {"speed": 8, "save_all": True}),
    "rgb.jp2": ("JPEG2000", "RGB", {}),
    "gray.j2k": ("JPEG2000", "L", {"no_jp2": True}),
    "rgb.ppm": ("PPM", "RGB", {}),
    "deep.pgm": ("PPM", "I;16", {}),
    "rgb.dib": ("DIB", "RGB", {}),
    "rgb.jxl": ("JXL", "RGB", {}),
    "alpha.jxl": ("JXL", "RGBA", {"lossless": True, "use_container": True}),
    "developed.dng": ("DNG", "RGB", {}),
    "preview.dng": ("DNG", "RGB", {"with_preview": True}),
}  # fmt: skip


def make_photo(name: str, side: int = SIDE) -> bytes:
    file_format, mode, options = VARIANTS[name]
    rows, columns = np.mgrid[:side, :side]
    noise = np.random.default_rng(0).integers(0, 64, (side, side, 3))
    pixels = np.stack([rows, columns, rows + columns], 2) * 191 // (2 * side) + noise
    image = Image.fromarray(pixels.astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray((pixels[..., 0] * 257).astype(np.uint16))
    elif mode == "RGBA":
        image.putalpha(image.getchannel(0))
    else:
        image = image.convert(mode)
    if options.get("save_all"):
        options = {**options, "append_images": [image.transpose(Image.Transpose.ROTATE_90)]}
    if name != "animated.avif":  # the encoder crashes on an animation with an orientation
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation], exif[ExifTags.Base.DateTime] = 6, "2019:01:02 03:04:05"
        options = {**options, "exif": exif}
    if file_format == "DNG":
        preview = make_photo("baseline.jpg", side) if options.get("with_preview") else None
        return write_dng(np.asarray(image), 6, preview, image.size)
    if file_format == "JXL":
        options = {**options, "exif": options["exif"].tobytes()}
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


UNDAMAGED = {name: make_photo(name) for name in VARIANTS}


def make_damaged(n: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields n damaged files with their names. Some have the suffix of another format."""
    rng = np.random.default_rng(seed)
    names = list(UNDAMAGED)
    for i in range(n):
        name = names[i % len(names)]
        content = MUTATIONS[int(rng.integers(len(MUTATIONS)))](bytearray(UNDAMAGED[name]), rng)
        suffix = names[int(rng.integers(len(names)))] if rng.random() < 0.2 else name
        yield f"{i:05}.{suffix}", bytes(content)


def truncate(content, rng):
    return content[: rng.integers(len(content))]


def flip_bits(content, rng):
    for place in rng.integers(0, len(content), rng.integers(1, 20)):
        content[place] ^= 1 << int(rng.integers(8))
    return content


def damage_header(content, rng):
    for place in rng.integers(0, min(len(content), 200), rng.integers(1, 6)):
        content[place] = rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))])
    return content


def remove_part(content, rng):
    start = int(rng.integers(len(content)))
    del content[start : start + int(rng.integers(1, 200))]
    return content


def repeat_part(content, rng):
    start = int(rng.integers(len(content)))
    part = content[start : start + int(rng.integers(1, 200))]
    return content[:start] + part * int(rng.integers(2, 9)) + content[start:]


def splice(content, rng):
    other = UNDAMAGED[list(UNDAMAGED)[int(rng.integers(len(UNDAMAGED)))]]
    place = int(rng.integers(1, min(len(content), 300)))
    return content[:place] + other[place:]


def change_size(content, rng):
    sides = [0, 1, SIDE - 1, SIDE + 1, 999, 2000, 4000, 16_000, 30_000, 65_535]
    width, height = (int(side) for side in rng.choice(sides, 2))
    return with_size(content, width, height)


MUTATIONS = [truncate, flip_bits, damage_header, remove_part, repeat_part, splice, change_size,
             change_size]  # fmt: skip


def with_size(content: bytes, width: int, height: int) -> bytes:
    """The file with another width and height wherever it states them, and the same pixels."""
    content = bytearray(content)

    def put(form: str, place: int, *values: int) -> None:
        limit = {"H": 0xFFFF, "h": 0x7FFF}.get(form[-1], 0x7FFFFFFF)
        struct.pack_into(form, content, place, *(min(value, limit) for value in values))

    if content.startswith(b"\x89PNG"):
        put(">II", 16, width, height)
        struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    elif content.startswith(b"GIF8"):
        put("<HH", 6, width, height)
        if (place := content.find(b",\0\0\0\0")) >= 0:
            put("<HH", place + 5, width, height)
    elif content.startswith(b"BM"):
        put("<ii", 18, width, height)
    elif content.startswith(b"(\0\0\0"):
        put("<ii", 4, width, height)
    elif content.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL")):
        place = content.find(b"\xff\x0a") + 2  # sides in 18 bits each, no ratio
        bits = 2 << 1 | max(height - 1, 0) << 3 | 2 << 24 | max(width - 1, 0) << 26
        content[place : place + 6] = (bits & (1 << 44) - 1).to_bytes(6, "little")
    elif content.startswith(b"II*\0"):
        (start,) = struct.unpack_from("<I", content, 4)
        (n,) = struct.unpack_from("<H", content, start)
        for place in range(start + 2, start + 2 + 12 * n, 12):
            tag, kind = struct.unpack_from("<HH", content, place)
            if tag in (256, 257):
                put("<H" if kind == 3 else "<I", place + 8, width if tag == 256 else height)
    elif content.startswith(b"\xff\xd8"):
        for match in re.finditer(rb"\xff[\xc0-\xc2]\0.\x08", bytes(content), re.DOTALL):
            put(">HH", match.start() + 5, height, width)
    elif content.startswith(b"RIFF"):
        sides = max(width, 1), max(height, 1)
        if (place := content.find(b"VP8X")) >= 0:
            for offset, side in zip((12, 15), sides, strict=True):
                content[place + offset : place + offset + 3] = (side - 1).to_bytes(3, "little")
        if (place := content.find(b"VP8L")) >= 0:
            (bits,) = struct.unpack_from("<I", content, place + 9)
            w, h = (min(side - 1, 0x3FFF) for side in sides)
            struct.pack_into("<I", content, place + 9, bits & 0xF0000000 | h << 14 | w)
        if (place := content.find(b"\x9d\x01\x2a")) >= 0:
            struct.pack_into("<HH", content, place + 3, *(min(side, 0x3FFF) for side in sides))
    elif content[4:8] == b"ftyp":
        for match in re.finditer(b"ispe", bytes(content)):
            put(">II", match.start() + 8, width, height)
    elif (place := content.find(b"\xff\x51")) >= 0:  # JPEG 2000
        put(">II", place + 6, width, height)
        if (box := content.find(b"ihdr")) >= 0:
            put(">II", box + 4, height, width)
    else:
        content[3:8] = b"%d %d" % (width, height)
    return bytes(content)


def decode_all(photos: Iterator[tuple[str, bytes]], limits: DecodeLimits = LIMITS) -> Counter:
    """Decodes files as a worker does, checks each result, and counts photos and error types."""
    # Against hanging only: two attempts, each of which may start and stop a process.
    deadline = 2 * (START_TIMEOUT + limits.max_seconds + STOP_TIMEOUT)
    step = _DecodePhoto(limits)
    step.setup()
    outcomes = Counter()
    try:
        for name, content in photos:
            photo = Photo(name, Shard("s", 1), content=content, photo_id=name)
            started = time.monotonic()
            (done,) = step.process(photo)
            assert time.monotonic() - started < deadline, name
            assert (done.uri, done.content) == (name, None)
            if done.failure:
                assert done.image is None
                assert done.failure.step == "decode"
                assert done.failure.message.encode()
                outcomes[done.failure.error] += 1
            else:
                assert done.image.size == (done.width, done.height)
                assert done.width * done.height <= limits.max_pixels
                assert 1 <= done.n_frames < 2**31
                assert done.image.resize((8, 8), Image.Resampling.BOX).tobytes()
                outcomes["photo"] += 1
        (last,) = step.process(Photo("undamaged", Shard("s", 1), content=UNDAMAGED["rgb.png"]))
        assert last.failure is None
    finally:
        step.teardown()
    return outcomes


def assert_outcomes(outcomes: Counter, n: int) -> None:
    print(outcomes)
    assert outcomes.total() == n
    assert outcomes["photo"] > n // 50
    assert outcomes["photo"] < n
    assert outcomes["DecoderHung"] == 0


def test_all_variants_are_decoded_before_they_are_damaged():
    n_frames = {name: decode_image(content).n_frames for name, content in UNDAMAGED.items()}
    assert {name for name, n in n_frames.items() if n == 2} == {
        name for name, (_, _, options) in VARIANTS.items() if options.get("save_all")
    }
    assert set(n_frames.values()) == {1, 2}
    assert decode_all(iter(UNDAMAGED.items())) == {"photo": len(UNDAMAGED)}


@pytest.mark.parametrize("name", [name for name in VARIANTS if VARIANTS[name][0] != "JXL"])
def test_a_changed_size_is_where_readers_look(name):
    if VARIANTS[name][0] == "DNG":
        with pytest.raises(TooManyPixelsError, match=r"^777 x 999 |^999 x 777 "):
            decode_image(with_size(UNDAMAGED[name], 999, 777), max_pixels=700_000)
        return
    changed = with_size(UNDAMAGED[name], 999, 777)
    if VARIANTS[name][0] in ("HEIF", "AVIF"):  # whose reader may detect it at once
        assert changed.count(struct.pack(">II", 999, 777)) >= 1
        return
    with Image.open(io.BytesIO(changed)) as image:
        assert sorted(image.size) == [777, 999]


def test_hundreds_of_damaged_files():
    assert_outcomes(decode_all(make_damaged(400, seed=1)), 400)


@pytest.mark.slow
def test_ten_thousand_damaged_files():
    assert_outcomes(decode_all(make_damaged(10_000, seed=2)), 10_000)


# --- decompression bombs


def bombs(side: int) -> dict[str, bytes]:
    """Small files of side x side px. The first four are complete, the others are truncated."""
    n_bytes = side * ((side + 7) // 8)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes((side + 7) // 8 + 1)) for _ in range(side))
    rows += packer.flush()
    png = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(kind + data))
        png += struct.pack(">I", len(data)) + kind + data + check
    bmp = b"BM" + struct.pack(
        "<IIIIiiHHIIiiII", 0, 0, 1078, 40, side, side, 1, 8, 1, 2, 0, 0, 256, 0
    )
    bmp += bytes(range(256)) * 4 + b"\0\1"  # run-length encoded: the end comes first
    webp = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(webp, "WEBP", lossless=True)
    packed = zlib.compress(bytes(n_bytes), 9)
    tags = [(256, 4, side), (257, 4, side), (258, 3, 1), (259, 3, 8), (262, 3, 1), (273, 4, 8),
            (277, 3, 1), (278, 4, side), (279, 4, len(packed))]  # fmt: skip
    tiff = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags))
    tiff += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    files = {
        "bomb.png": png,
        "bomb.bmp": bmp,
        "bomb.webp": with_size(webp.getvalue(), side, side),
        "bomb.tif": tiff + bytes(4),
    }
    return files | {f"bomb.{name}": with_size(UNDAMAGED[name], side, side) for name in UNDAMAGED}


def test_bombs_are_refused():
    files = bombs(30_000)
    assert max(map(len, files.values())) < 200_000
    assert decode_all(iter(files.items()))["photo"] == 0


def test_bombs_within_the_limit_on_pixels_stay_within_the_limit_on_memory():
    # 16 megapixels from files of a few kilobytes.
    limits = DecodeLimits(max_bytes=10 << 20, max_pixels=16_000_000, max_seconds=60)
    files = bombs(4000)
    outcomes = decode_all(iter(files.items()), limits)
    assert outcomes["photo"] >= 4
    assert not outcomes["MemoryError"]
    assert not outcomes["DecoderCrashed"]


@pytest.mark.slow  # because encoding them is
@pytest.mark.parametrize("name", VARIANTS)
def test_photos_at_the_limit_on_pixels_do_not_exceed_the_limit_on_memory(name):
    limits = DecodeLimits(max_bytes=20 << 20, max_pixels=2000 * 2000, max_seconds=60)
    decoder = DecoderProcess(limits)
    content = make_photo(name, 2000)
    try:
        assert decoder.decode(content).image.size == (2000, 2000)
    finally:
        decoder.close()
