"""A decoder that does what the content says, such as crashing, for test_decoder_process.py."""

import ctypes
import os
import signal
import sys
import time

import numpy as np

from facecluster.transforms.photos.decode_image import DecodedImage, decode_image

HEAVY_MODULES = ("tensorflow", "apache_beam")


def obey(content: bytes, max_pixels: int, jpeg_size: int | None) -> DecodedImage:
    """Follows the instruction in the content, or decodes a photo."""
    instruction, _, path = content.partition(b" ")
    if instruction == b"segfault":
        ctypes.string_at(0)
    if instruction == b"abort":
        os.abort()
    if instruction == b"exit":
        os._exit(3)
    if instruction == b"kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if instruction == b"kill-once":
        if os.path.exists(path):
            raise ValueError("second attempt")
        os.mkdir(path)
        os.kill(os.getpid(), signal.SIGKILL)
    if instruction == b"hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")
        while True:
            time.sleep(1)
    if instruction == b"sleep":
        time.sleep(1)
        raise ValueError("slept")
    if instruction == b"allocate":
        return np.ones(1 << 40, np.uint8)
    if instruction == b"print":
        os.write(1, b"output of a library\n")
        raise ValueError("printed")
    if instruction == b"surrogates":
        raise KeyError("\udcff" * 5000)
    if instruction == b"list-modules":
        loaded = [name for name in HEAVY_MODULES if name in sys.modules]
        raise ValueError(" ".join(loaded) or "no heavy modules")
    if instruction == b"write-to-socket":
        os.write(0, b"\0\0\0\2[]")
    return decode_image(content, max_pixels, jpeg_size)
