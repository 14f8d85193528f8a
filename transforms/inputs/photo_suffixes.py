"""The suffixes of photos, and which of them can be read in this environment."""

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec

# TGA is not among them: it has no magic number, and formats are detected by content.
PHOTO_SUFFIXES = frozenset({
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo", ".jps"),
    *(".png", ".apng", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".dib"),
    *(".heic", ".heif", ".hif", ".heics", ".heifs", ".avif", ".avifs"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
})  # fmt: skip
# Suffixes of photos that need a further library, by the module that reads them. RAW photos have one
# for each maker of cameras.
JPEG_XL_MODULE, RAW_MODULE = "pillow_jxl", "rawpy"
SUFFIXES_OF_MODULES = {
    JPEG_XL_MODULE: frozenset({".jxl"}),
    RAW_MODULE: frozenset({
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".k25"),
        *(".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl"),
        *(".sr2", ".srf", ".srw", ".x3f"),
    }),
}  # fmt: skip
# Photos in formats that are never read: other raw data, JPEG XR, Photoshop, OpenEXR, GIMP, Photo CD
# and others. Drawings and videos are not photos.
UNREAD_SUFFIXES = frozenset({
    *(".bay", ".dcs", ".eip", ".gpr", ".mdc", ".ori", ".ptx", ".pxn", ".raw", ".rwz"),
    *(".bpg", ".exr", ".flif", ".hdp", ".hdr", ".jxr", ".livp", ".pam", ".pcd", ".pcx", ".pict"),
    *(".psb", ".psd", ".tga", ".wdp", ".xcf"),
})  # fmt: skip
KNOWN_SUFFIXES = PHOTO_SUFFIXES.union(UNREAD_SUFFIXES, *SUFFIXES_OF_MODULES.values())


def how_to_read(suffixes: Iterable[str]) -> str:
    """How to read those of the suffixes that another library reads; empty if there are none."""
    readable = sorted(frozenset().union(*SUFFIXES_OF_MODULES.values()).intersection(suffixes))
    return f"to read {', '.join(readable)}, pip install 'facecluster[formats]'" if readable else ""


def is_installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    return find_spec(module) is not None


@cache
def readable_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of the photos that can be read in this environment."""
    return PHOTO_SUFFIXES.union(
        *(suffixes for module, suffixes in SUFFIXES_OF_MODULES.items() if is_installed(module))
    )
