"""Opens photos of the formats that are read, and says what a file is that cannot be opened."""

import io
import re
import struct

import pillow_heif
from PIL import Image, UnidentifiedImageError

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
# The name of the EXIF among the items of an AVIF (ISO/IEC 14496-12, box infe, versions 2 and 3).
EXIF_ITEM = re.compile(rb"(infe[\x02\x03]...(?:..|....)..)Exif", re.DOTALL)


def open_image(content: bytes) -> Image.Image:
    """Opens an image, without decoding its pixels.

    Raises:
      UnidentifiedImageError: the content is not an image in a known format.
      OSError: it is in a known format, whose decoder refuses it.
    """
    register_heif()
    try:
        return Image.open(io.BytesIO(content), formats=tuple(FORMATS))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        if "Invalid Exif payload" not in str(error):
            raise _explain(content) from error
    # libavif refuses a photo for its EXIF. It ignores an item that it does not know.
    return Image.open(io.BytesIO(EXIF_ITEM.sub(rb"\1none", content)), formats=("AVIF",))


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
