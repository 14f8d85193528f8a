"""JPEG XL is read upright, with its date, and within the limits."""

import io
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from facecluster.transforms.photos.decode_image import TRANSPOSITIONS, decode_image
from facecluster.transforms.photos.decoder_process import DecoderProcess
from facecluster.transforms.photos.formats.jpeg_xl import read_size
from facecluster.transforms.photos.limits import DecodeLimits, TooManyPixelsError

pytest.importorskip("pillow_jxl")  # which also lets Pillow write JPEG XL


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def encode(pixels: np.ndarray, file_format: str = "JXL", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format, **options)
    return file.getvalue()


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.DateTime] = "2019:01:02 03:04:05"
    return exif


@given(st.integers(1, 300), st.integers(1, 300), st.booleans())
@settings(max_examples=30, deadline=None)
def test_pixels_and_size(width, height, in_boxes):
    pixels = noise(width, height)
    content = encode(pixels, lossless=True, effort=1, use_container=in_boxes)
    assert read_size(content) == (width, height)
    found = decode_image(content)
    np.testing.assert_array_equal(np.asarray(found.image), pixels)
    assert (found.size, found.n_frames, found.damaged) == ((width, height), 1, False)


@pytest.mark.parametrize(
    "size", [(1200, 900), (1600, 900), (1000, 500), (600, 500), (1200, 1000), (9000, 1), (8, 4000)]
)
def test_the_size_of_any_ratio_is_read(size):
    assert read_size(encode(np.zeros((size[1], size[0], 3), np.uint8), effort=1)) == size


def test_gray_and_alpha():
    gray = noise(20, 10, 1)[..., 0]
    found = decode_image(encode(gray, lossless=True)).image
    np.testing.assert_array_equal(np.asarray(found), gray[..., None].repeat(3, 2))
    pixels = noise(20, 10, 4)
    opacity = pixels[..., 3:] / 255
    found = decode_image(encode(pixels, lossless=True)).image
    expected = pixels[..., :3] * opacity + 255 * (1 - opacity)
    opaque = pixels[..., 3] > 0  # the encoder drops the colors of others
    np.testing.assert_allclose(np.asarray(found)[opaque], expected[opaque], atol=1)
    deep = noise(20, 10, 2).view(np.uint16)[..., 0]
    found = decode_image(encode(deep, lossless=True)).image
    np.testing.assert_array_equal(np.asarray(found)[..., 0], deep >> 8)


@pytest.mark.parametrize("in_boxes", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_by_the_file_and_not_by_its_exif(orientation, in_boxes):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:12, :12] = 255, 0, 0
    content = with_orientation(encode(pixels, use_container=False), orientation)
    assert read_size(content) == (60, 40)
    if in_boxes:
        exif = bytes(4) + exif_of(3).tobytes().removeprefix(b"Exif\0\0")
        content = b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl \0\0\0\0jxl ") + (
            box(b"Exif", exif) + box(b"jxlc", content)
        )  # fmt: skip
        assert decode_image(content).taken_at == datetime(2019, 1, 2, 3, 4, 5)
    image = Image.fromarray(pixels)
    if orientation > 1:
        image = image.transpose(TRANSPOSITIONS[orientation])
    found = decode_image(content)
    assert found.size == found.image.size == image.size
    assert np.abs(np.asarray(found.image).astype(int) - np.asarray(image)).mean() < 5


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def with_orientation(content: bytes, orientation: int) -> bytes:
    """Replaces the header "all as usual" by one that says the same, and the orientation."""
    bits = [int.from_bytes(content[2:12], "little") >> i & 1 for i in range(80)]
    n_size_bits = 1 + 5 + 3 if bits[0] else None
    assert n_size_bits, "sides must be multiples of 8, up to 256, in the ratio 3:2"
    assert bits[n_size_bits : n_size_bits + 2] == [1, 1]  # all as usual
    header = [0, 1, *(orientation - 1 >> i & 1 for i in range(3)), 0, 0, 0]
    header += [0, 0, 0, 1, 0, 0, 1, 1, 1, 0, 0, 1]  # 8 bits, no alpha, XYB, sRGB
    bits = bits[:n_size_bits] + header
    bits += [0] * (-len(bits) % 8)
    new = sum(bit << i for i, bit in enumerate(bits)).to_bytes(len(bits) // 8, "little")
    return content[:2] + new + content[2 + -(-(n_size_bits + 2) // 8) :]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_that_was_packed_without_loss_is_unpacked(orientation, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(noise(60, 40), "JPEG", exif=exif_of(orientation)))
    file = io.BytesIO()
    with Image.open(path) as image:
        image.save(file, "JXL", lossless_jpeg=True)
    found, expected = decode_image(file.getvalue()), decode_image(path.read_bytes())
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(expected.image))
    assert found[1:] == expected[1:]


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_a_truncated_photo_fails_in_a_few_words(data):
    content = encode(noise(60, 40), use_container=data.draw(st.booleans()))
    length = data.draw(st.integers(14, len(content) - 1))
    with pytest.raises(OSError, match=r"^JPEG XL, but it (is damaged|holds no pixels)$"):
        decode_image(content[:length])


def test_the_limit_of_pixels_holds_before_pixels_are_decoded():
    content = encode(noise(60, 40))
    with pytest.raises(TooManyPixelsError, match=r"60 x 40 pixels"):
        decode_image(content[:200], max_pixels=2399)


def test_the_decoder_process_gives_the_same_pixels():
    decoder = DecoderProcess(DecodeLimits(max_bytes=10 << 20, max_pixels=1_000_000))
    content = encode(noise(60, 40), exif=exif_of(1).tobytes())
    found, expected = decoder.decode(content), decode_image(content)
    decoder.close()
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(expected.image))
    assert found[1:] == expected[1:]
    assert found.taken_at == datetime(2019, 1, 2, 3, 4, 5)
