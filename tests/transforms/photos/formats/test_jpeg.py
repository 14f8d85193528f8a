"""A JPEG that lacks pixels is marked as damaged or fails; one that is only odd is read."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facecluster.transforms.photos.decode import decode_photo
from facecluster.transforms.photos.decode_image import DecodedImage, decode_image
from facecluster.transforms.photos.formats.jpeg import END, SCAN, _find_markers
from facecluster.transforms.records import Photo, Shard

SHARED = Path(os.environ.get("FACECLUSTER_SHARED", Path(__file__).parents[5] / "shared"))
KINDS = {
    "baseline": {"quality": 90, "subsampling": 0},
    "4:2:0": {"quality": 80, "subsampling": 2},
    "4:2:2": {"quality": 80, "subsampling": 1, "optimize": True},
    "progressive": {"quality": 90, "progressive": True},
    "restarts": {"quality": 85, "restart_marker_blocks": 5},
}
MODES = ("RGB", "L", "CMYK")


def encode(
    mode: str = "RGB",
    width: int = 150,
    height: int = 100,
    seed: int = 0,
    noise: int = 50,
    **options,
) -> bytes:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows, columns, rows + columns], 2) * 200 // (width + height)
    pixels = (smooth + rng.integers(0, noise, (height, width, 3))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def scan_of(content: bytes) -> tuple[int, int]:
    """Where the first scan's pixels begin and the last one's end."""
    markers = list(_find_markers(content))
    first = next(place for code, place in markers if code == SCAN)
    length = int.from_bytes(content[first + 2 : first + 4], "big")
    return first + 2 + length, markers[-1][1]


def decode_or_fail(content: bytes) -> DecodedImage | None:
    try:
        return decode_image(content)
    except OSError:
        return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [None, 150, 70])
def test_pixels_are_those_of_pillow(kind, mode, size):
    content = encode(mode, width=301, height=203, **KINDS[kind])
    found = decode_image(content, jpeg_size=size)
    assert not found.damaged
    with Image.open(io.BytesIO(content)) as image:
        if size:
            image.draft(None, (size, 1))
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(found.image), expected)


# --- the end mark


@pytest.mark.parametrize(
    ("mode", "kind"),
    # TurboJPEG cannot decode CMYK with subsampling.
    [(mode, kind) for mode in MODES for kind in KINDS if mode != "CMYK" or "4:2" not in kind],
)
def test_a_jpeg_that_lacks_only_its_end_mark_is_read(mode, kind):
    content = encode(mode, **KINDS[kind])
    expected = decode_image(content)
    for n_missing in (1, 2):
        found = decode_image(content[:-n_missing])
        assert not found.damaged
        np.testing.assert_array_equal(np.asarray(found.image), np.asarray(expected.image))
    reduced = decode_image(content[:-2], jpeg_size=40)
    expected = decode_image(content, jpeg_size=40)
    assert reduced.size == expected.size == (150, 100)
    np.testing.assert_array_equal(np.asarray(reduced.image), np.asarray(expected.image))


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(0, 99), st.data())
@settings(max_examples=40, deadline=None)
def test_a_jpeg_that_ends_before_its_last_pixel_fails(kind, seed, data):
    content = encode(seed=seed, **KINDS[kind])
    start, end = scan_of(content)
    length = data.draw(st.integers(start, end - 1))
    assert decode_or_fail(content[:length]) is None


def test_a_progressive_jpeg_that_ends_between_two_scans_fails():
    content = encode(**KINDS["progressive"])
    places = [place for code, place in _find_markers(content) if code in (SCAN, 0xC4, END[1])]
    assert len(places) > 10
    for place in places[:-1]:
        assert decode_or_fail(content[:place]) is None
    assert decode_or_fail(content[: places[-1]]) is not None


# --- damage in the middle


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("filling", ["zeros", "noise", "removed"])
def test_a_jpeg_with_a_hole_is_marked_as_damaged(kind, mode, filling):
    """Not always: by chance, what is in a hole may hold as many blocks as the photo lacks. A
    progressive JPEG has scans of the coefficients' last bits, in which any bits are valid.
    """
    rng = np.random.default_rng(0)
    n_found, n = 0, 1000
    for seed in range(40):
        content = encode(mode, 400, 300, seed, noise=8, **KINDS[kind])
        start, end = scan_of(content)
        place = int(rng.integers(start + 10, end - n))
        part = {"zeros": bytes(n), "noise": rng.bytes(n).replace(b"\xff", b"\xfe"), "removed": b""}
        found = decode_or_fail(content[:place] + part[filling] + content[place + n :])
        n_found += found is None or found.damaged
    assert n_found >= (24 if kind == "progressive" else 34)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filling", ["0xFF", "noise"])
def test_a_jpeg_is_read_though_its_hole_looks_like_markers(kind, filling):
    rng = np.random.default_rng(0)
    n_read, n = 0, 1000
    for seed in range(20):
        content = encode("RGB", 400, 300, seed, noise=8, **KINDS[kind])
        start, end = scan_of(content)
        place = int(rng.integers((start + end) // 2, end - n))
        part = b"\xff" * n if filling == "0xFF" else rng.bytes(n)
        found = decode_or_fail(content[:place] + part + content[place + n :])
        n_read += found is not None and found.damaged
        assert decode_or_fail(content[:place]) is None
    assert n_read >= 18


def test_a_cmyk_jpeg_with_a_hole_is_marked_as_damaged():
    content = encode("CMYK", 400, 300, noise=8, quality=90, subsampling=0)
    start, end = scan_of(content)
    middle = (start + end) // 2
    assert decode_image(content[:middle] + bytes(1000) + content[middle + 1000 :]).damaged


def test_the_step_marks_a_damaged_photo():
    content = encode()
    start, end = scan_of(content)
    middle = (start + end) // 2
    for part, damaged in ((content[middle : middle + 300], False), (bytes(300), True)):
        photo = Photo(
            "a.jpg", Shard("s", 1), content=content[:middle] + part + content[middle + 300 :]
        )
        photo = decode_photo(photo)
        assert photo.failure is None
        assert photo.damaged is damaged
        assert photo.image.size == (150, 100)


# --- what causes warnings and is no damage


def segment(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


def before_end(content: bytes, padding: bytes) -> bytes:
    _, end = scan_of(content)
    return content[:end] + padding + content[end:]


def after_start(content: bytes, part: bytes) -> bytes:
    first = content.index(b"\xff\xdb")  # behind JFIF
    return content[:first] + part + content[first:]


ODDITIES = {
    "zeros before the end": lambda content: before_end(content, bytes(5)),
    "many zeros before the end": lambda content: before_end(content, bytes(3000)),
    "fill bytes before the end": lambda content: before_end(content, b"\xff" * 7),
    "bytes between headers": lambda content: after_start(content, b"\0\x01\x02"),
    "no end mark but zeros": lambda content: content[:-2] + bytes(4000),
    "bytes behind the end": lambda content: content + b"\0trailer\xff\xd9" + bytes(100),
    "another JPEG behind the end": lambda content: content + encode(seed=5),
    "a later version of JFIF": lambda content: content.replace(b"JFIF\0\1\1", b"JFIF\0\3\1"),
    "an unknown color transform": lambda content: after_start(
        content, segment(0xEE, b"Adobe\0\x64\0\0\0\0\x07")
    ),
    "a broken color profile": lambda content: after_start(
        content, segment(0xE2, b"ICC_PROFILE\0\7\2junk")
    ),
    "unknown segments": lambda content: after_start(content, segment(0xEB, b"?" * 999)),
    "a damaged thumbnail": lambda content: after_start(
        content, segment(0xE1, b"Exif\0\0" + encode(seed=3)[:2000])
    ),
}


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_jpeg_is_not_damaged(oddity, kind):
    content = encode(**KINDS[kind])
    found, expected = decode_image(ODDITIES[oddity](content)), decode_image(content)
    assert not found.damaged
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(expected.image))


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_behind_an_oddity(kind):
    content = encode(**KINDS[kind])
    start, end = scan_of(content)
    middle = (start + end) // 2
    content = content[:middle] + bytes(400) + content[middle + 400 :]
    found = decode_or_fail(after_start(content, b"\0\x01\x02"))
    assert found is None or found.damaged


def test_the_first_of_several_pictures_counts():
    file = io.BytesIO()
    images = [Image.open(io.BytesIO(encode(seed=seed))) for seed in range(2)]
    images[0].save(file, "MPO", save_all=True, append_images=images[1:])
    found = decode_image(file.getvalue())
    assert (found.n_frames, found.damaged, found.size) == (2, False, (150, 100))


def list_jpegs(folder: str, n: int) -> list[Path]:
    paths = sorted((SHARED / folder).rglob("*.jp*g"))[:n]
    if not paths:
        pytest.skip(f"needs photos in {SHARED / folder}")
    return paths


@pytest.mark.parametrize(("folder", "n"), [("photos", 100), ("lfw/images", 500)])
def test_no_real_photo_is_marked_as_damaged(folder, n):
    for path in list_jpegs(folder, n):
        assert not decode_image(path.read_bytes()).damaged, path
