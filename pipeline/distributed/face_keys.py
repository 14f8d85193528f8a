"""Face ids as 14 bytes each, in the same order: for arrays of all faces of a large collection."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# A face id is the photo's SHA-256 in hexadecimal, a hyphen, and the face's index in the photo. Its
# key has the first 24 of the 64 digits: that two of 10^12 photos agree in them has a probability of
# 10^-5.
DIGITS, HASH_LENGTH = 24, 64
FACE_KEY = np.dtype([("high", np.uint64), ("low", np.uint32), ("index", np.uint16)])


def face_keys(face_ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(n,) FACE_KEY: the keys of n face ids."""
    chunks = face_ids.chunks if isinstance(face_ids, pa.ChunkedArray) else [face_ids]
    return np.concatenate([np.empty(0, FACE_KEY), *map(_keys_of, chunks)])


def keys_as_binary(keys: np.ndarray) -> pa.FixedSizeBinaryArray:
    """(n,) face keys as an Arrow array, to be compared for equality."""
    buffers = [None, pa.py_buffer(keys.tobytes())]
    return pa.Array.from_buffers(pa.binary(FACE_KEY.itemsize), len(keys), buffers)


def _keys_of(face_ids: pa.Array) -> np.ndarray:
    n = len(face_ids)
    keys = np.empty(n, FACE_KEY)
    if n:
        digits = pc.utf8_slice_codeunits(face_ids, 0, DIGITS).cast(pa.binary())
        digits = digits.cast(pa.binary(DIGITS)).buffers()[1]
        text = np.frombuffer(digits, np.uint8, n * DIGITS).reshape(n, DIGITS)
        nibbles = np.where(text < ord("a"), text - ord("0"), text - ord("a") + 10)
        octets = nibbles[:, ::2] << 4 | nibbles[:, 1::2]
        keys["high"] = octets[:, :8].copy().view(">u8")[:, 0]
        keys["low"] = octets[:, 8:].copy().view(">u4")[:, 0]
        keys["index"] = pc.utf8_slice_codeunits(face_ids, HASH_LENGTH + 1).cast(pa.uint16())
    return keys
