"""PNGs of which only what is beside the pixels is damaged."""

import zlib

START = b"\x89PNG\r\n\x1a\n"
IS_OPTIONAL = 0x20  # of the first byte of a chunk's name (PNG specification, section 5.4)


def drop_damaged_chunks(content: bytes) -> bytes:
    """A PNG without its optional chunks, such as EXIF and texts, whose checksums are wrong.

    Pillow refuses a photo for these.
    """
    kept, place = bytearray(START), len(START)
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        chunk = content[place : place + 12 + length]
        is_whole = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if is_whole or not chunk[4:5] or not chunk[4] & IS_OPTIONAL:
            kept += chunk
        place += len(chunk)
    return bytes(kept)
