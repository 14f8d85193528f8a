"""Decodes photos in a separate process, so that a photo that crashes or hangs it harms no other.

Decoders are C libraries, and photos come from anywhere. A damaged photo may crash the process,
exhaust its memory, or hang. Each worker therefore sends the bytes to a process that only decodes,
and that is restarted if a photo crashes it. That process imports neither Beam nor TensorFlow and
starts in half a second.

Bytes and replies go through a socket. Pixels come back as a file in memory, which the image maps
without a copy.
"""

import json
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from importlib import import_module
from typing import NamedTuple

import pyarrow as pa
from PIL import Image

from facecluster.errors import JobError
from facecluster.transforms.photos.decode_image import DecodedImage
from facecluster.transforms.photos.limits import DecodeLimits

DECODE_FUNCTION = "facecluster.transforms.photos.decode_image:decode_image"
START_TIMEOUT, STOP_TIMEOUT = 120, 5  # seconds
BYTES_PER_PIXEL = 4  # Pillow stores RGB with an unused fourth byte
MAX_MESSAGE_LENGTH = 1000  # characters
# Libraries use one thread each, since each worker has a decoder process, and allocators reserve no
# memory for further threads.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


class DecodeError(Exception):
    """A photo cannot be decoded. The raised subclass is named like the decoder's error type."""


class DecoderCrashed(DecodeError):
    """The decoder process ended while it decoded the photo, twice."""


class DecoderHung(DecodeError):
    """Decoding the photo exceeded the time limit, twice."""


class DecoderUnavailableError(JobError):
    """The decoder process does not start, or has no room for pixels. No photo is at fault."""


class DecoderProcess:
    """Decodes photos like `decode_image`, in a process that is reused for the next photo.

    Threads may share it; they wait for each other. The process ends when `close` is called, when
    this object is deleted, and when the current process ends, even if that is killed.

    Args:
      limits: what a photo may cost.
      function: MODULE:NAME of the function that decodes, for tests. It is called with a photo's
        bytes, the limit of pixels, and jpeg_size.
    """

    def __init__(self, limits: DecodeLimits, function: str = DECODE_FUNCTION):
        self.limits = limits
        self.function = function
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def start(self) -> None:
        """Starts the process unless it runs. `decode` does this, too.

        Raises:
          DecoderUnavailableError: it does not start.
        """
        with self._lock:
            self._start()

    def decode(self, content: bytes) -> DecodedImage:
        """Decodes a photo.

        Raises:
          DecodeError: the decoder raised an error. The exception's class is named like its type.
          DecoderCrashed: the process ended.
          DecoderHung: it took longer than limits.max_seconds.
          DecoderUnavailableError: no process starts, or there is no room for the pixels.
        """
        with self._lock:
            try:
                reply, pixels = self._try_decode(content)
            except (DecoderCrashed, DecoderHung):
                # The photo may not be at fault: the process may have been killed or suspended from
                # outside, or damaged by an earlier photo.
                reply, pixels = self._try_decode(content)
        if pixels is None:
            raise type(reply["error"], (DecodeError,), {})(reply["message"])
        taken_at = reply["taken_at"] and datetime.fromisoformat(reply["taken_at"])
        image = _image_from_pixels(pixels, reply["size"])
        return DecodedImage(
            image, tuple(reply["full_size"]), taken_at, reply["n_frames"], reply["damaged"]
        )

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            if self._child:
                self._stop(self._child)

    def _start(self) -> "_Child":
        if self._child:
            if self._child.process.poll() is None:
                return self._child
            self._stop(self._child)  # it ended after the last photo
        # The parent's module path, since the package may not be installed.
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from {__name__} import serve; serve(*sys.argv[1:])"
        )
        arguments = [self.function, json.dumps(asdict(self.limits))]
        try:
            connection, child_socket = socket.socketpair()
            with child_socket:
                process = subprocess.Popen(
                    [sys.executable, "-c", program, *arguments],
                    stdin=child_socket.fileno(), stdout=2, env={**os.environ, **ENVIRONMENT},
                )  # fmt: skip
        except OSError as error:  # no more processes, memory or open files
            raise DecoderUnavailableError(
                f"the process that decodes photos does not start: {error}"
            ) from error
        self._child = child = _Child(process, connection)
        try:
            connection.settimeout(START_TIMEOUT)
            _receive(connection, 1)
        except (OSError, EOFError) as error:
            exit_code = self._stop(child, kill=isinstance(error, TimeoutError))
            raise DecoderUnavailableError(
                f"the process that decodes photos does not start: it {_describe_exit(exit_code)}; "
                "its output is in the log"
            ) from error
        except BaseException:  # its first byte would be taken for a reply
            self._stop(child, kill=True)
            raise
        return child

    def _try_decode(self, content: bytes) -> tuple[dict, mmap.mmap | None]:
        """Like `_request`, but starts the process if needed, and ends it if it fails."""
        child = self._start()
        try:
            return self._request(child.connection, content)
        except TimeoutError:
            self._stop(child, kill=True)
            raise DecoderHung(f"decoding took longer than {self.limits.max_seconds:g} s") from None
        except (OSError, EOFError, ValueError, LookupError, TypeError):
            raise DecoderCrashed(f"the decoder {_describe_exit(self._stop(child))}") from None
        except BaseException:  # its reply would be taken for the next photo's
            self._stop(child, kill=True)
            raise

    def _stop(self, child: "_Child", kill: bool = False) -> int:
        """Ends the process; returns its exit code, or minus the signal that ended it."""
        self._child = None
        child.connection.close()  # which ends the process unless it hangs
        try:
            if not kill:
                return child.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        child.process.kill()
        return child.process.wait()

    def _request(self, connection: socket.socket, content: bytes) -> tuple[dict, mmap.mmap | None]:
        """Sends a photo; returns the reply and the pixels, None if the reply is an error.

        Raises:
          TimeoutError: the reply did not come within limits.max_seconds.
          OSError, EOFError: the process has ended.
          ValueError, LookupError, TypeError: the reply is malformed.
          DecoderUnavailableError: there is no room for the pixels.
        """
        deadline = time.monotonic() + self.limits.max_seconds
        connection.settimeout(self.limits.max_seconds)
        connection.sendall(struct.pack(">Q", len(content)))
        connection.sendall(content)
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        header, files, *_ = socket.recv_fds(connection, 4, 1)
        try:
            (length,) = struct.unpack(">I", header + _receive(connection, 4 - len(header)))
            reply = json.loads(_receive(connection, length))
            if "no_room" in reply:
                raise DecoderUnavailableError(
                    f"there is no room for a photo's pixels: {reply['no_room']}"
                )
            if "error" in reply:
                return reply, None
            width, height = reply["size"]
            n_bytes = BYTES_PER_PIXEL * width * height
            if width * height > self.limits.max_pixels or os.fstat(files[0]).st_size != n_bytes:
                raise ValueError("the pixels do not match the size")
            return reply, mmap.mmap(files[0], n_bytes, prot=mmap.PROT_READ)
        finally:
            for file in files:
                os.close(file)


class _Child(NamedTuple):
    process: subprocess.Popen
    connection: socket.socket


def serve(function: str, limits_json: str) -> None:
    """The decoder process: decodes photos from the socket at file 0 until it is closed."""
    limits = DecodeLimits(**json.loads(limits_json))
    module, _, name = function.partition(":")
    decode = getattr(import_module(module), name)
    # Pixels in one block of memory, which can be written in one piece.
    Image.core.set_use_block_allocator(1)
    _limit_resources(limits.max_memory)
    parent = socket.socket(fileno=os.dup(0))
    parent.sendall(b".")
    while True:
        try:
            (length,) = struct.unpack(">Q", _receive(parent, 8))
        except (OSError, EOFError):
            return
        # A second timeout, for the case that the parent has died.
        signal.setitimer(signal.ITIMER_REAL, limits.max_seconds + STOP_TIMEOUT)
        reply, files = _decode(decode, parent, length, limits)
        text = json.dumps(reply).encode()
        header = struct.pack(">I", len(text))
        if files:
            socket.send_fds(parent, [header], files)
        else:
            parent.sendall(header)
        parent.sendall(text)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for file in files:
            os.close(file)


def _decode(
    decode: Callable[..., DecodedImage], parent: socket.socket, length: int, limits: DecodeLimits
) -> tuple[dict, list[int]]:
    """Receives and decodes a photo; returns the reply and the open file with its pixels, if any."""
    content = _receive(parent, length)
    try:
        decoded = decode(content, limits.max_pixels, limits.jpeg_size)
        pixels = pa.array(decoded.image).buffers()[-1]
    except MemoryError:
        message = "decoding needs more memory than any photo within the limits should"
        return {"error": "MemoryError", "message": message}, []
    except Exception as error:  # decoders raise anything for a damaged photo
        message = str(error)[:MAX_MESSAGE_LENGTH].encode(errors="backslashreplace").decode()
        return {"error": type(error).__name__, "message": message}, []
    try:
        file = _create_memory_file(pixels)
    except OSError as error:
        return {"no_room": str(error)}, []
    reply = {
        "size": decoded.image.size,
        "full_size": decoded.size,
        "taken_at": decoded.taken_at and decoded.taken_at.isoformat(),
        "n_frames": decoded.n_frames,
        "damaged": decoded.damaged,
    }
    return reply, [file]


def _create_memory_file(content) -> int:
    """An open, unnamed file with this content; on disk if the system has no files in memory.

    Raises:
      OSError: there is no room for it.
    """
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("pixels")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
    except BaseException:
        os.close(file)
        raise
    return file


def _image_from_pixels(pixels: mmap.mmap, size: tuple[int, int]) -> Image.Image:
    """The RGB image of mapped pixels, without a copy."""
    values = pa.Array.from_buffers(pa.uint8(), len(pixels), [None, pa.py_buffer(pixels)])
    array = pa.FixedSizeListArray.from_arrays(values, BYTES_PER_PIXEL)
    width, height = size
    return Image.fromarrow(array, "RGB", (width, height))


def _receive(connection: socket.socket, length: int) -> bytes:
    """Receives `length` bytes; raises EOFError if the connection is closed before that."""
    content = bytearray(length)
    rest = memoryview(content)
    while rest:
        n_received = connection.recv_into(rest)
        if not n_received:
            raise EOFError
        rest = rest[n_received:]
    return bytes(content)


def _limit_resources(max_memory: int) -> None:
    """Limits this process's memory and lets a timer end it.

    The limit on memory is for Linux; macOS has none.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which closes the socket
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # if the system runs out of memory, it kills this process first
        with open("/proc/self/statm") as file:
            n_used = int(file.read().split()[0]) * resource.getpagesize()
        _, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
        limit = n_used + max_memory
        limit = limit if hard_limit == resource.RLIM_INFINITY else min(limit, hard_limit)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard_limit))
    except (OSError, ValueError):
        pass


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"
