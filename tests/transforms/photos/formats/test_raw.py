"""RAW photos are read from the JPEG in them, or developed, and turned upright once."""

import io
from datetime import datetime

import numpy as np
import pytest
from PIL import ExifTags, Image

from facecluster.transforms.photos.decode import decode_photo
from facecluster.transforms.photos.decode_image import TRANSPOSITIONS, decode_image
from facecluster.transforms.photos.decoder_process import DecoderProcess
from facecluster.transforms.photos.formats.raw import ENOUGH_PX, is_raw
from facecluster.transforms.photos.limits import DecodeLimits, TooManyPixelsError
from facecluster.transforms.photos.near_duplicates import MAX_DISTANCE
from facecluster.transforms.records import Photo, Shard
from tests.transforms.photos.formats.dng import write_dng

pytest.importorskip("rawpy")
TAKEN_AT = datetime(2019, 1, 2, 3, 4, 5)


def marked(scale: int = 1) -> np.ndarray:
    """(40 * scale, 60 * scale, 3) uint8, with another color in each corner."""
    pixels = np.full((40, 60, 3), 60, np.uint8)
    pixels[:14, :14] = 255, 0, 0
    pixels[:14, -14:] = 0, 255, 0
    pixels[-14:, :14] = 0, 0, 255
    pixels[-14:, -14:] = 255, 255, 255
    return pixels.repeat(scale, 0).repeat(scale, 1)


def jpeg(pixels: np.ndarray, orientation: int | None = None, exif_first: bool = False) -> bytes:
    exif = Image.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, exif=exif)
    content = file.getvalue()
    if exif_first:  # as cameras write it, without JFIF
        content = content[:2] + content[4 + int.from_bytes(content[4:6], "big") :]
    return content


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    image = Image.fromarray(pixels)
    return np.asarray(
        image.transpose(TRANSPOSITIONS[orientation]) if orientation > 1 else image
    ).astype(int)


def assert_shows(image: Image.Image, expected: np.ndarray) -> None:
    assert image.mode == "RGB"
    assert image.size == (expected.shape[1], expected.shape[0])
    assert np.abs(np.asarray(image).astype(int) - expected).mean() < 20


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_raw_photo_without_a_preview_is_developed(orientation):
    found = decode_image(write_dng(marked(4), orientation))
    expected = turned(marked(4), orientation)
    assert_shows(found.image, expected)
    assert found.size == found.image.size
    assert (found.taken_at, found.n_frames, found.damaged) == (TAKEN_AT, 1, False)


def test_a_large_raw_photo_is_developed_at_half_size():
    scale = 2 * ENOUGH_PX // 60 + 1
    found = decode_image(write_dng(marked(scale), 6))
    assert found.size == (40 * scale, 60 * scale)
    assert_shows(found.image, turned(marked(scale)[::2, ::2], 6))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("stated", ["nothing", "the same", "upright"])
@pytest.mark.parametrize("exif_first", [False, True])
def test_a_preview_is_turned_once_whatever_its_exif(orientation, stated, exif_first):
    preview = marked(40)  # 2400 px
    own = {"nothing": None, "the same": orientation, "upright": 1}[stated]
    content = write_dng(marked(50), orientation, jpeg(preview, own, exif_first), (2400, 1600))
    found = decode_image(content)
    assert_shows(found.image, turned(preview, orientation))
    assert found.size == found.image.size
    assert found.taken_at == TAKEN_AT


def test_a_preview_that_is_upright_already_is_not_turned():
    preview = np.ascontiguousarray(turned(marked(40), 6).astype(np.uint8))
    found = decode_image(write_dng(marked(50), 6, jpeg(preview), (1600, 2400)))
    assert_shows(found.image, preview)


def test_a_preview_of_a_small_photo_need_not_be_large():
    preview = np.full((160, 240, 3), 200, np.uint8)
    content = write_dng(marked(4), 1, jpeg(preview), (240, 160))
    assert_shows(decode_image(content).image, preview)


def test_a_small_preview_of_a_large_photo_is_not_used():
    preview = np.full((800, 1200, 3), 200, np.uint8)
    found = decode_image(write_dng(marked(40), 1, jpeg(preview), (1200, 800)))
    assert_shows(found.image, marked(40))


def test_a_preview_is_decoded_at_a_reduced_scale():
    content = write_dng(marked(50), 6, jpeg(marked(40)), (2400, 1600))
    found = decode_image(content, jpeg_size=1000)
    assert (found.size, found.image.size) == ((1600, 2400), (800, 1200))


def test_a_dng_is_not_read_as_the_tiff_in_which_it_is():
    tiff = io.BytesIO()
    Image.fromarray(marked()).save(tiff, "TIFF")
    assert not is_raw(tiff.getvalue())
    assert is_raw(write_dng(marked()))


@pytest.mark.parametrize(
    "start",
    [b"FUJIFILMCCD-RAW 0201", b"IIRO\x08\0\0\0", b"MMOR\0\0\0\x08", b"IIU\0\x08\0\0\0",
     b"II*\0\x10\0\0\0CR\2\0", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", b"FOVb\0\0\3\2",
     b"\0MRM\0\0\0\0", b"II\x1a\0\0\0HEAPCCDR\2\0"],
)  # fmt: skip
def test_a_damaged_raw_photo_of_any_maker_fails_with_the_reason(start):
    with pytest.raises(OSError, match=r"^RAW photo, but "):
        decode_image(start + bytes(500))


def test_a_raw_photo_that_is_cut_in_its_pixels_fails():
    content = bytearray(write_dng(marked(4)))
    with pytest.raises(OSError, match=r"^RAW photo, but |^TIFF, but "):
        decode_image(bytes(content[: len(content) // 2]))


def test_the_limit_of_pixels_holds_before_a_raw_photo_is_developed():
    with pytest.raises(TooManyPixelsError, match=r"240 x 160 pixels"):
        decode_image(write_dng(marked(4)), max_pixels=240 * 160 - 1)
    preview = jpeg(marked(40))
    with pytest.raises(TooManyPixelsError, match=r"2400 x 1600 pixels"):
        decode_image(write_dng(marked(30), 1, preview, (2400, 1600)), max_pixels=3_000_000)


def test_the_decoder_process_gives_the_same_pixels():
    decoder = DecoderProcess(DecodeLimits(max_bytes=10 << 20, max_pixels=1_000_000))
    content = write_dng(marked(4), 6)
    found, expected = decoder.decode(content), decode_image(content)
    decoder.close()
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(expected.image))
    assert found[1:] == expected[1:]


@pytest.mark.parametrize("has_preview", [False, True])
def test_a_raw_photo_and_its_jpeg_are_near_duplicates(has_preview):
    rng = np.random.default_rng(0)
    scene = Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).resize((2400, 1600), 3)
    pixels = np.asarray(scene)
    beside = jpeg(pixels)
    raw = write_dng(pixels, 1, beside if has_preview else None, (2400, 1600))
    hashes = [
        decode_photo(Photo("a", Shard("s", 1), content=content)).perceptual_hash
        for content in (beside, raw)
    ]
    distance = int(hashes[0] ^ hashes[1]) & (2**64 - 1)
    assert distance.bit_count() <= MAX_DISTANCE
