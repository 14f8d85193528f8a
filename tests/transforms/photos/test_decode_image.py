"""Photos are decoded as a viewer shows them, and those that cannot be decoded become failures."""

import io
import struct
import warnings
import zlib
from datetime import datetime

import numpy as np
import pillow_heif
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from facecluster.transforms.photos.decode import decode_photo
from facecluster.transforms.photos.decode_image import decode_image
from facecluster.transforms.photos.limits import MAX_PHOTO_PIXELS
from facecluster.transforms.photos.perceptual_hash import perceptual_hash
from facecluster.transforms.records import Failure, Photo, Shard

pillow_heif.register_heif_opener()  # to write HEIF
sides = st.integers(1, 24)
seeds = st.integers(0, 2**32 - 1)

# Where the first row and the first column of the stored pixels are in the upright photo (EXIF 2.3,
# section 4.6.4, tag Orientation).
ORIENTATIONS = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def decode_pixels(content: bytes) -> np.ndarray:
    image = decode_image(content).image
    assert image.mode == "RGB"
    return np.asarray(image)


def noise(width: int, height: int, channels: int, seed: int = 0, dtype=np.uint8) -> np.ndarray:
    shape = (height, width, channels)[: 2 if channels == 1 else 3]
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def gray(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=2)


def over_white(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    opacity = alpha[..., None] / 255
    return colors * opacity + 255 * (1 - opacity)


def png(pixels: np.ndarray, claimed_size: tuple[int, int] | None = None) -> bytes:
    """A PNG of (h, w, channels) uint8 or uint16 pixels, whose header may claim another size."""
    height, width, channels = pixels.shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    bits = 8 * pixels.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", *(claimed_size or (width, height)), bits, color_type, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    return content


def exif_of(**values) -> Image.Exif:
    exif = Image.Exif()
    if "orientation" in values:
        exif[ExifTags.Base.Orientation] = values["orientation"]
    if "changed" in values:
        exif[ExifTags.Base.DateTime] = values["changed"]
    if "taken" in values:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = values["taken"]
    return exif


# --- modes


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "WEBP"])
@given(sides, sides, seeds)
@settings(max_examples=15, deadline=None)
def test_rgb_is_unchanged(file_format, width, height, seed):
    pixels = noise(width, height, 3, seed)
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encode(Image.fromarray(pixels), file_format, **options)
    np.testing.assert_array_equal(decode_pixels(content), pixels)


@given(sides, sides, seeds, st.sampled_from(["PNG", "TIFF"]))
@settings(max_examples=30, deadline=None)
def test_gray_and_bilevel_images(width, height, seed, file_format):
    pixels = noise(width, height, 1, seed)
    np.testing.assert_array_equal(
        decode_pixels(encode(Image.fromarray(pixels, "L"), file_format)), gray(pixels)
    )
    bits = pixels > 127
    np.testing.assert_array_equal(
        decode_pixels(encode(Image.fromarray(bits), file_format)), gray(bits * np.uint8(255))
    )


@given(sides, sides, seeds)
@settings(max_examples=30, deadline=None)
def test_alpha_is_composed_over_white(width, height, seed):
    pixels = noise(width, height, 4, seed)
    rgba = encode(Image.fromarray(pixels, "RGBA"), "PNG")
    expected = over_white(pixels[..., :3], pixels[..., 3])
    np.testing.assert_allclose(decode_pixels(rgba), expected, atol=1)
    la = encode(Image.fromarray(pixels[..., ::2].copy(), "LA"), "PNG")
    np.testing.assert_allclose(
        decode_pixels(la), over_white(gray(pixels[..., 0]), pixels[..., 2]), atol=1
    )


@given(sides, sides, seeds, st.integers(1, 256))
@settings(max_examples=30, deadline=None)
def test_palette_with_and_without_transparency(width, height, seed, n_colors):
    palette = noise(n_colors, 1, 4, seed)[0]
    indices = noise(width, height, 1, seed).astype(int) % n_colors
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(palette[:, :3].tobytes())
    np.testing.assert_array_equal(decode_pixels(encode(image, "PNG")), palette[indices, :3])
    shown = over_white(palette[indices, :3], palette[indices, 3])
    with_alpha = encode(image, "PNG", transparency=palette[:, 3].tobytes())
    np.testing.assert_allclose(decode_pixels(with_alpha), shown, atol=1)


@given(sides, sides, seeds, st.integers(0, 255))
@settings(max_examples=20, deadline=None)
def test_a_transparent_gray_level_becomes_white(width, height, seed, level):
    pixels = noise(width, height, 1, seed)
    content = encode(Image.fromarray(pixels, "L"), "PNG", transparency=level)
    np.testing.assert_array_equal(
        decode_pixels(content), gray(np.where(pixels == level, 255, pixels))
    )


@given(sides, sides, seeds)
@settings(max_examples=20, deadline=None)
def test_cmyk_is_converted_as_ink_on_white(width, height, seed):
    pixels = noise(width, height, 4, seed)
    left = 1 - pixels / 255  # fraction of light that each ink lets through
    expected = 255 * left[..., :3] * left[..., 3:]
    content = encode(Image.fromarray(pixels, "CMYK"), "TIFF")
    np.testing.assert_allclose(decode_pixels(content), expected, atol=1)


def test_cmyk_and_gray_jpegs():
    flat = np.full((32, 32, 4), [200, 40, 0, 60], np.uint8)
    left = 1 - flat / 255
    cmyk = decode_pixels(encode(Image.fromarray(flat, "CMYK"), "JPEG", quality=95))
    np.testing.assert_allclose(cmyk, 255 * left[..., :3] * left[..., 3:], atol=4)
    shades = np.linspace(0, 255, 32 * 32).reshape(32, 32).astype(np.uint8)
    scan = decode_pixels(encode(Image.fromarray(shades, "L"), "JPEG", quality=95))
    np.testing.assert_allclose(scan, gray(shades), atol=4)


@given(sides, sides, seeds, st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_16_bit_png_keeps_the_high_byte(width, height, seed, channels):
    pixels = noise(width, height, channels, seed, np.uint16).reshape(height, width, channels)
    high = pixels >> 8
    expected = gray(high[..., 0]) if channels < 3 else high[..., :3]
    if channels in (2, 4):
        expected = over_white(expected, high[..., -1])
    np.testing.assert_allclose(decode_pixels(png(pixels)), expected, atol=1)


@given(sides, sides, seeds)
@settings(max_examples=20, deadline=None)
def test_16_bit_gray_in_other_formats(width, height, seed):
    pixels = noise(width, height, 1, seed, np.uint16)
    expected = gray(pixels >> 8)
    image = Image.fromarray(pixels)
    assert image.mode == "I;16"
    np.testing.assert_array_equal(decode_pixels(encode(image, "TIFF")), expected)
    np.testing.assert_array_equal(decode_pixels(big_endian_tiff(pixels)), expected)
    wide = Image.fromarray(pixels.astype(np.int32))
    assert wide.mode == "I"
    np.testing.assert_array_equal(decode_pixels(encode(wide, "TIFF")), expected)
    # A transparent one of 65,536 gray levels must not make another one transparent.
    transparent = encode(image, "PNG", transparency=int(pixels[0, 0]) >> 8)
    np.testing.assert_array_equal(decode_pixels(transparent), expected)


def big_endian_tiff(pixels: np.ndarray) -> bytes:
    """A big-endian, uncompressed TIFF of (h, w) uint16 pixels."""
    height, width = pixels.shape
    data = pixels.astype(">u2").tobytes()
    short, long = 3, 4
    entries = [
        (256, short, width), (257, short, height), (258, short, 16), (259, short, 1),
        (262, short, 1), (273, long, 8), (277, short, 1), (278, short, height),
        (279, long, len(data)),
    ]  # fmt: skip
    content = b"MM\0*" + struct.pack(">I", 8 + len(data)) + data
    content += struct.pack(">H", len(entries))
    for tag, kind, value in entries:
        content += struct.pack(">HHI", tag, kind, 1)
        content += struct.pack(">HH", value, 0) if kind == short else struct.pack(">I", value)
    return content + bytes(4)


# --- orientation


def turn_upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Moves the stored pixels one by one to their places in the upright photo."""
    height, width = stored.shape[:2]
    places = dict(zip(("row", "column"), ORIENTATIONS[orientation], strict=True))
    turned = places["row"] in ("left", "right")
    shown = np.empty((width, height, 3) if turned else (height, width, 3), stored.dtype)
    for row in range(height):
        for column in range(width):
            at = {"top": row, "bottom": height - 1 - row, "left": row, "right": height - 1 - row}
            a = at[places["row"]]
            at = {
                "top": column, "bottom": width - 1 - column,
                "left": column, "right": width - 1 - column,
            }  # fmt: skip
            b = at[places["column"]]
            shown[(b, a) if turned else (a, b)] = stored[row, column]
    return shown


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@given(sides, sides, seeds)
@settings(max_examples=5, deadline=None)
def test_every_orientation_is_turned_upright(file_format, orientation, width, height, seed):
    pixels = noise(width, height, 3, seed)
    options = {"lossless": True} if file_format == "WEBP" else {}
    exif = exif_of(orientation=orientation)
    content = encode(Image.fromarray(pixels), file_format, exif=exif, **options)
    np.testing.assert_array_equal(decode_pixels(content), turn_upright(pixels, orientation))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_of_a_jpeg(orientation):
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :16, 0] = 255
    pixels[16:, 32:, 1] = 255
    exif = exif_of(orientation=orientation)
    content = encode(Image.fromarray(pixels), "JPEG", quality=95, subsampling=0, exif=exif)
    photo = decode_photo(Photo("a.jpg", Shard("s", 1), content=content))
    np.testing.assert_allclose(np.asarray(photo.image), turn_upright(pixels, orientation), atol=8)
    assert (photo.width, photo.height) == photo.image.size
    assert photo.image.size == ((48, 32) if orientation < 5 else (32, 48))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_perceptual_hash_is_computed_of_the_upright_photo(orientation):
    pixels = np.asarray(Image.fromarray(noise(8, 6, 3)).resize((120, 160)))
    content = encode(Image.fromarray(pixels), "PNG", exif=exif_of(orientation=orientation))
    photo = decode_photo(Photo("a.png", Shard("s", 1), content=content))
    shown = Image.fromarray(np.ascontiguousarray(turn_upright(pixels, orientation)))
    assert photo.perceptual_hash == perceptual_hash(shown) is not None


def test_orientation_of_alpha_and_of_16_bits():
    pixels = noise(7, 4, 4)
    content = encode(Image.fromarray(pixels, "RGBA"), "PNG", exif=exif_of(orientation=6))
    shown = over_white(pixels[..., :3], pixels[..., 3])
    np.testing.assert_allclose(decode_pixels(content), turn_upright(shown, 6), atol=1)
    deep = noise(7, 4, 1, dtype=np.uint16)
    content = encode(Image.fromarray(deep), "PNG", exif=exif_of(orientation=8))
    np.testing.assert_array_equal(decode_pixels(content), turn_upright(gray(deep >> 8), 8))


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
def test_an_undefined_orientation_is_ignored(orientation):
    pixels = noise(7, 4, 3)
    content = encode(Image.fromarray(pixels), "PNG", exif=exif_of(orientation=orientation))
    np.testing.assert_array_equal(decode_pixels(content), pixels)


# --- taken_at

moments = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(
    lambda moment: moment.replace(microsecond=0)
)


def exif_text(moment: datetime) -> str:
    return f"{moment.year:04}:{moment.month:02}:{moment.day:02} {moment.time()}"


def taken_at(**values):
    return decode_image(encode(Image.new("RGB", (2, 2)), "JPEG", exif=exif_of(**values))).taken_at


@given(moments, moments)
@settings(max_examples=30, deadline=None)
def test_taken_at_is_the_original_date_or_else_the_date_of_change(taken, changed):
    assert taken_at(taken=exif_text(taken), changed=exif_text(changed)) == taken
    assert taken_at(changed=exif_text(changed)) == changed
    # Dates of a camera whose clock was never set.
    unset = "    :  :     :  :  "
    assert taken_at(taken=unset, changed=exif_text(changed)) == changed
    unset = "0000:00:00 00:00:00"
    assert taken_at(taken=unset, changed=exif_text(changed)) == changed
    assert taken_at(taken=unset) is None


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\0")))
@settings(max_examples=50, deadline=None)
def test_malformed_dates_are_ignored(text):
    assert taken_at(taken=text) is None


def test_without_exif_there_is_no_date():
    assert decode_image(encode(Image.new("RGB", (2, 2)), "PNG")).taken_at is None


# --- damage


def decode_content(content: bytes) -> Photo:
    return decode_photo(Photo("a.jpg", Shard("s", 1), content=content, photo_id="id"))


def assert_failed(photo: Photo):
    assert photo.failure.step == "decode"
    assert photo.failure.error
    assert photo.failure.message
    assert photo.content is None
    assert photo.image is None
    assert photo.uri == "a.jpg"


SOUND = encode(
    Image.fromarray(noise(40, 30, 3)),
    "JPEG",
    exif=exif_of(orientation=6, taken="2019:01:02 03:04:05", changed="2020:01:02 03:04:05"),
)


def test_an_undamaged_photo_has_no_failure():
    photo = decode_content(SOUND)
    assert photo.failure is None
    assert (photo.width, photo.height) == (30, 40)
    assert photo.taken_at == datetime(2019, 1, 2, 3, 4, 5)
    assert photo.content is None


@given(st.integers(0, len(SOUND) * 9 // 10))
@settings(max_examples=60, deadline=None)
def test_a_truncated_photo_fails(length):
    assert_failed(decode_content(SOUND[:length]))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "GIF", "WEBP", "BMP"])
def test_a_photo_of_another_format_cut_in_half_fails(file_format):
    content = encode(Image.fromarray(noise(40, 30, 3)), file_format)
    assert decode_content(content).failure is None
    assert_failed(decode_content(content[: len(content) // 2]))


@pytest.mark.parametrize("content", [b"", b"This is not an image.", b"\xff\xd8\xff", bytes(999)])
def test_content_that_is_not_an_image_fails(content):
    photo = decode_content(content)
    assert_failed(photo)
    assert "0x" not in photo.failure.message  # no memory address, which differs from run to run


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_decoding_any_bytes_does_not_raise(content):
    decode_content(content)


def test_a_failed_photo_is_passed_on():
    failed = Photo("a.jpg", Shard("s", 1), failure=Failure("read", "OSError", "gone"))
    assert decode_photo(failed) is failed


EXIF_START = SOUND.index(b"Exif\0\0") + 6
EXIF_END = EXIF_START - 8 + struct.unpack(">H", SOUND[EXIF_START - 8 : EXIF_START - 6])[0]


@given(
    st.lists(
        st.tuples(st.integers(EXIF_START, EXIF_END - 1), st.integers(0, 255)),
        min_size=1,
        max_size=8,
    )
)
@example([(EXIF_START + 23, 2)])  # the type of the second entry, a date, is not text
@settings(max_examples=300, deadline=None)
def test_damaged_exif_does_not_fail_a_photo(changes):
    content = bytearray(SOUND)
    for place, value in changes:
        content[place] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        photo = decode_content(bytes(content))
    assert photo.failure is None
    stored = np.asarray(Image.open(io.BytesIO(SOUND)))
    seen = np.asarray(photo.image)
    assert any(
        np.array_equal(seen, turn_upright(stored, orientation))
        for orientation in (6, 1, 2, 3, 4, 5, 7, 8)
    )


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
@given(st.binary(max_size=60))
@settings(max_examples=30, deadline=None)
def test_random_exif_does_not_fail_a_photo(file_format, exif):
    pixels = noise(9, 5, 3)
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encode(Image.fromarray(pixels), file_format, exif=b"Exif\0\0" + exif, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(decode_pixels(content), pixels)


# --- the limit on pixels


@pytest.mark.parametrize(
    ("width", "height"), [(20_001, 10_000), (60_000, 60_000), (1, MAX_PHOTO_PIXELS + 1)]
)
def test_more_pixels_than_the_limit_are_refused_undecoded(width, height):
    # The file has one pixel: decoding it would fail because it is truncated.
    content = png(np.zeros((1, 1, 3), np.uint8), claimed_size=(width, height))
    photo = decode_content(content)
    assert_failed(photo)
    assert photo.failure.error == "TooManyPixelsError"
    assert f"{width} x {height} pixels" in photo.failure.message
    assert "200,000,000" in photo.failure.message


def test_pixels_at_the_limit_are_decoded():
    content = png(np.zeros((1, 1, 3), np.uint8), claimed_size=(20_000, 10_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        photo = decode_content(content)
    assert photo.failure.error == "OSError"  # decoding was tried


# --- formats


def heic(pixels: np.ndarray, **options) -> bytes:
    return encode(Image.fromarray(pixels), "HEIF", quality=-1, chroma=444, **options)


def gradient(width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8 that compression hardly changes, without any symmetry."""
    rows, columns = np.mgrid[:height, :width]
    red, green = 200 * rows // height, 200 * columns // width
    return np.stack([red, green, np.full_like(red, 90)], 2).astype(np.uint8)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("file_format", ["HEIF", "AVIF"])
def test_every_orientation_of_heif_and_avif(file_format, orientation):
    pixels = gradient(96, 64)
    exif = exif_of(orientation=orientation, taken="2019:01:02 03:04:05")
    content = encode(Image.fromarray(pixels), file_format, quality=90, exif=exif.tobytes())
    image, _, taken_at, n_frames, _ = decode_image(content)
    np.testing.assert_allclose(np.asarray(image), turn_upright(pixels, orientation), atol=12)
    assert (taken_at, n_frames) == (datetime(2019, 1, 2, 3, 4, 5), 1)


def test_alpha_of_heic_is_composed_over_white():
    pixels = np.dstack([gradient(64, 64), np.full((64, 64), 128, np.uint8)])
    pixels[:, :32, 3] = 0
    expected = over_white(pixels[..., :3], pixels[..., 3])
    np.testing.assert_allclose(decode_pixels(heic(pixels)), expected, atol=6)


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {"quality": 95, "progressive": True}),
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("JPEG2000", {"irreversible": False}),
        ("JPEG2000", {"no_jp2": True}),
        ("PPM", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("WEBP", {"quality": 95}),
        ("AVIF", {"quality": 95}),
        ("HEIF", {"quality": 95}),
    ],
)
def test_a_photo_has_the_same_pixels_in_every_format(file_format, options):
    pixels = gradient(120, 80)
    content = encode(Image.fromarray(pixels), file_format, **options)
    np.testing.assert_allclose(decode_pixels(content), pixels, atol=12)


def test_an_interlaced_png():
    """Adam7 (PNG specification, 8.2), which Pillow cannot write."""
    pixels = noise(13, 11, 3)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2)]  # fmt: skip
    rows = b"".join(
        b"\0" + row.tobytes() for x, y, dx, dy in passes for row in pixels[y::dy, x::dx]
    )
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 13, 11, 8, 2, 0, 0, 1)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    np.testing.assert_array_equal(decode_pixels(content), pixels)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, (0, 255)), (0.5, 1, (128, 255)), (0, 200, (0, 200)), (-3, 5, (0, 255)),
     (0, 60_000, (0, 255)), (7, 7, (7, 7))],
)  # fmt: skip
def test_floats_are_scaled_by_their_range(low, high, expected):
    values = np.linspace(low, high, 20 * 30, dtype=np.float32).reshape(20, 30)
    values[0, 5] = np.nan if low == 0 else values[0, 5]
    found = decode_pixels(encode(Image.fromarray(values), "TIFF"))
    assert found.shape == (20, 30, 3)
    assert (found[0, 0, 0], found[-1, -1, 0]) == expected


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "WEBP", "PNG", "AVIF", "HEIF", "MPO"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_of_several_frames_the_first_is_used(file_format, n):
    frames = [Image.fromarray(np.roll(gradient(64, 64), 13 * i, 1)) for i in range(n)]
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    photo = decode_content(content)
    assert photo.failure is None
    assert photo.n_frames == n
    tolerance = 60 if file_format == "GIF" else 12  # of 256 colors
    np.testing.assert_allclose(np.asarray(photo.image), np.asarray(frames[0]), atol=tolerance)


@pytest.mark.parametrize("file_format", ["GIF", "TIFF"])
def test_damage_after_the_first_frame_does_not_fail_a_photo(file_format):
    frames = [Image.fromarray(noise(64, 64, 3, seed)) for seed in range(3)]
    content = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
    photo = decode_content(content[: len(content) * 2 // 3])
    assert photo.failure is None
    assert 1 <= photo.n_frames <= 3


# --- reduced scales


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("jpeg_size", "reduction"), [(401, 1), (400, 2), (200, 4), (50, 8)])
def test_jpegs_are_decoded_at_the_smallest_allowed_scale(orientation, jpeg_size, reduction):
    x, y = np.meshgrid(np.arange(800), np.arange(608))
    pixels = np.stack([x * 255 // 800, y * 255 // 608, np.full_like(x, 128)], 2).astype(np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encode(Image.fromarray(pixels), "JPEG", exif=exif, quality=95)
    full, scaled = decode_image(content), decode_image(content, jpeg_size=jpeg_size)
    assert full.size == full.image.size == scaled.size
    assert scaled.image.size == tuple(side // reduction for side in full.size)
    assert max(scaled.image.size) >= min(jpeg_size, 800)
    small = np.asarray(full.image.resize(scaled.image.size, Image.Resampling.BOX), int)
    assert np.abs(np.asarray(scaled.image, int) - small).mean() < 2


def test_only_jpegs_are_decoded_at_a_reduced_scale():
    image = Image.new("RGB", (640, 480))
    for file_format in ("PNG", "WEBP", "BMP", "TIFF"):
        assert decode_image(encode(image, file_format), jpeg_size=100).image.size == (640, 480)
