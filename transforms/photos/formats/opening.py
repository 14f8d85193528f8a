"""Opens photos of all formats that are read, and says what a file is that cannot be opened."""

import io
import re
import struct
from dataclasses import dataclass, replace
from datetime import datetime

import pillow_heif
from PIL import Image, UnidentifiedImageError

from facecluster.transforms.inputs.photo_suffixes import JPEG_XL_MODULE, RAW_MODULE, is_installed
from facecluster.transforms.photos.formats import png
from facecluster.transforms.photos.formats.jpeg_xl import decode_jpeg_xl, is_jpeg_xl, read_size
from facecluster.transforms.photos.formats.raw import is_raw, read_raw
from facecluster.transforms.photos.limits import check_size

# The formats that photos are stored in (MPO is read as JPEG). Pillow detects them by content; some
# of the others that it knows run programs.
FORMATS = {
    "JPEG": "JPEG", "PNG": "PNG", "WEBP": "WebP", "GIF": "GIF", "TIFF": "TIFF", "BMP": "BMP",
    "DIB": "BMP", "HEIF": "HEIC", "AVIF": "AVIF", "JPEG2000": "JPEG 2000", "PPM": "PPM",
}  # fmt: skip
PREFIX_BYTES = 16  # of a file, by which Pillow chooses the format
SHOWN_BYTES = 1000  # of a file, in which OTHER_FILES are looked for

# What a file is that has the name of a photo and is none, by its first bytes.
OTHER_FILES = (
    (rb"$", "holds only zeros"),
    (rb"(\xef\xbb\xbf)?\s*(<!doctype html|<html|<head)", "is a web page"),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml.*<svg|<svg)", "is a drawing (SVG)"),
    (rb"(\xef\xbb\xbf)?\s*<\?xml", "is an XML file"),
    (rb"%PDF-", "is a PDF document"),
    (rb"....ftyp(isom|iso\d|mp4|avc1|m4v|qt  |3g|msnv|xavc|dash|mmp4)", "is a video"),
    (rb"....(moov|mdat|wide)|RIFF....AVI |\x1aE\xdf\xa3|\0\0\x01[\xb3\xba]", "is a video"),
    (rb"\x1f\x8b", "is compressed with gzip"),
    (rb"PK\x03\x04", "is a ZIP file"),
    (rb"8BPS", "is a Photoshop document"),
    (rb"version https://git-lfs", "is a pointer to a file in Git LFS"),
)
# Brands that say by which format the pixels are compressed (ISO/IEC 23008-12, AVIF 1.1).
KNOWN_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
# The name of the EXIF among the items of an AVIF (ISO/IEC 14496-12, box infe, versions 2 and 3).
EXIF_ITEM = re.compile(rb"(infe[\x02\x03]...(?:..|....)..)Exif", re.DOTALL)


class MissingLibraryError(Exception):
    """A photo needs a library that is not installed."""


@dataclass
class OpenedPhoto:
    """A photo whose pixels can be decoded. A context manager, which closes the file.

    Attributes:
      image: the opened image; of a developed RAW photo and of JPEG XL, the pixels.
      content: the image's bytes; of the JPEG if that is in a RAW photo or in a JPEG XL.
      size: width and height of the photo before it is turned upright.
      orientation: as in EXIF; None if the image's EXIF has it, or its decoder turns it.
      taken_at: None if the image's EXIF has it.
    """

    image: Image.Image
    content: bytes
    size: tuple[int, int]
    orientation: int | None = None
    taken_at: datetime | None = None

    def __enter__(self) -> "OpenedPhoto":
        return self

    def __exit__(self, *error) -> None:
        self.image.__exit__(*error)  # closes the file and keeps the pixels, unlike `close`


def open_photo(content: bytes, max_pixels: int) -> OpenedPhoto:
    """Opens a photo of any format.

    Raises:
      UnidentifiedImageError, OSError: see `open_image`.
      TooManyPixelsError: the photo has more than max_pixels.
      MissingLibraryError: a library is missing.
    """
    if is_raw(content):
        _check_installed(RAW_MODULE, "RAW photo")
        raw = read_raw(content, max_pixels)
        if raw.jpeg is None:
            assert raw.image is not None
            return OpenedPhoto(raw.image, content, raw.size, raw.orientation, raw.taken_at)
        photo = open_photo(raw.jpeg, max_pixels)
        return replace(photo, orientation=raw.orientation, taken_at=raw.taken_at)
    if is_jpeg_xl(content):
        _check_installed(JPEG_XL_MODULE, "JPEG XL")
        check_size(*read_size(content), max_pixels)
        photo = decode_jpeg_xl(content)
        if photo.jpeg is None:
            assert photo.image is not None
            return OpenedPhoto(photo.image, content, photo.image.size, orientation=1)
        return open_photo(photo.jpeg, max_pixels)
    image = open_image(content)
    check_size(*image.size, max_pixels)
    return OpenedPhoto(image, content, image.size)


def _check_installed(module: str, kind: str) -> None:
    if not is_installed(module):
        library = {JPEG_XL_MODULE: "pillow-jxl-plugin"}.get(module, module)
        raise MissingLibraryError(
            f"{kind}, but {library} is not installed: pip install 'facecluster[formats]'"
        )


def with_known_brand(content: bytes) -> bytes:
    """A HEIC or AVIF whose brand decoders know; other files as they are.

    Programs put a general brand in front, and the special one behind it.
    """
    brands = content[8 : int.from_bytes(content[:4], "big")] if content[4:8] == b"ftyp" else b""
    others = [brands[place : place + 4] for place in range(8, min(len(brands), 100), 4)]
    known = next((brand for brand in (b"avif", b"heic", b"heix") if brand in others), None)
    if known is None or brands[:4] in KNOWN_BRANDS:
        return content
    return content[:8] + known + content[12:]


def open_image(content: bytes) -> Image.Image:
    """Opens an image of a format that Pillow knows, without decoding its pixels.

    Raises:
      UnidentifiedImageError: the content is not an image in a known format.
      OSError: it is in a known format, whose decoder refuses it.
    """
    register_heif()
    content = with_known_brand(content)
    try:
        return Image.open(io.BytesIO(content), formats=tuple(FORMATS))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        repaired = _without_damaged_metadata(content, str(error))
        if repaired == content:
            raise _explain(content) from error
    try:
        return Image.open(io.BytesIO(repaired), formats=tuple(FORMATS))
    except Exception as error:  # see above
        raise _explain(content) from error


def _without_damaged_metadata(content: bytes, error: str) -> bytes:
    """A photo that decoders refuse, without metadata that may be the reason."""
    if content.startswith(png.START):
        return png.drop_damaged_chunks(content)
    if "Invalid Exif payload" in error:  # libavif; it ignores an item that it does not know
        return EXIF_ITEM.sub(rb"\1none", content)
    return content


def register_heif() -> None:
    """Adds HEIF to Pillow's formats."""
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()


def _explain(content: bytes) -> OSError:
    """The error of a file that no decoder opens."""
    prefix = content[:PREFIX_BYTES].ljust(PREFIX_BYTES, b"\0")
    for name in FORMATS:
        open_format, accepts = Image.OPEN[name]
        if accepts is None or accepts(prefix) is not True:
            continue
        try:
            open_format(io.BytesIO(content), "").close()
        except Exception as error:  # see above
            return OSError(f"{FORMATS[name]}, but {_describe(error)}")
    start = content[:SHOWN_BYTES] if content.strip(b"\0") else b""
    for pattern, description in OTHER_FILES:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return UnidentifiedImageError(f"it {description}, not a photo")
    return UnidentifiedImageError("it is not an image in a known format")


def _describe(error: Exception) -> str:
    """The reason that a decoder gives, in words that are the same in each run."""
    reason = " ".join(str(error).split())
    is_bug = isinstance(error.__cause__ or error, (LookupError, TypeError, EOFError, struct.error))
    if is_bug or reason in ("", "not identified by this driver"):
        return "its header is damaged"
    # The address of an object in memory differs from run to run.
    return re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the file", reason)
