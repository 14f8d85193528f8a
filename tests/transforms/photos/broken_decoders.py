"""A decoder that does what the photo says, the worst included, for test_decode_apart.py."""

import ctypes
import os
import signal
import sys
import time

import numpy as np

from facecluster.transforms.photos.decode_image import DecodedImage, decode_image

HEAVY = ("tensorflow", "apache_beam")


def obey(content: bytes, max_pixels: int, jpeg_size: int | None) -> DecodedImage:
    """Decodes a photo; other contents are what to do instead."""
    if content == b"segfault":
        ctypes.string_at(0)
    if content == b"abort":
        os.abort()
    if content == b"leave":
        os._exit(3)
    if content == b"be killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if content.startswith(b"be killed once "):
        mark = content.removeprefix(b"be killed once ")
        if os.path.exists(mark):
            raise ValueError("second time")
        os.mkdir(mark)
        os.kill(os.getpid(), signal.SIGKILL)
    if content == b"hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        while True:
            time.sleep(1)
    if content == b"allocate":
        return np.ones(1 << 40, np.uint8)
    if content == b"talk":
        os.write(1, b"what libraries print\n")
        raise ValueError("talked")
    if content == b"lone surrogate":
        raise KeyError("\udcff" * 5000)
    if content == b"what is loaded":
        raise ValueError(" ".join(name for name in HEAVY if name in sys.modules) or "nothing heavy")
    if content == b"break the rules":
        os.write(0, b"\0\0\0\2[]")
    return decode_image(content, max_pixels, jpeg_size)
