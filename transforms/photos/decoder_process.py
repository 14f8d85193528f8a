"""Photos decoded in a process of their own, which a photo may crash or hang without harm to others.

Decoders are C libraries fed with whatever people have: a damaged photo may end the process, take
all its memory or never come to an end. So a worker gives the bytes to a process that does nothing
else, has little to lose and is started anew when a photo has cost it its life. That process imports
neither Beam nor TensorFlow and starts in half a second.

Bytes and answers go over a socket; pixels come back as a file in memory, which becomes the image
where it lies.
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
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import import_module

import pyarrow as pa
from PIL import Image

from facecluster.errors import JobError
from facecluster.transforms.photos.decode import Decoded

DECODE = "facecluster.transforms.photos.decode:decode"
SECONDS_TO_START, SECONDS_TO_END = 120, 5
# What decoding may take, beside what the process has when it starts: of all formats the greediest,
# lossless WebP with alpha, is measured to take 31 bytes a pixel at once.
MEMORY_PER_PIXEL, MEMORY_BESIDE = 40, 256 << 20  # bytes
BYTES_PER_PIXEL = 4  # Pillow's RGB has a fourth byte that means nothing
LONGEST_MESSAGE = 1000  # characters
# One thread each, as there is a process for every worker; and no memory set aside for threads.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


class DecodeError(Exception):
    """Why a photo cannot be decoded; the name of its class is that of the error's type."""


class DecoderCrashed(DecodeError):
    """The process came to its end while it decoded the photo, twice."""


class DecoderHung(DecodeError):
    """Decoding the photo took longer than it may, twice."""


class NoDecoderError(JobError):
    """The process that decodes does not start, or has no room; it is no photo's fault."""


@dataclass(frozen=True)
class DecodeLimits:
    """What a photo may cost: bytes of the file, pixels, seconds of decoding.

    Attributes:
      jpeg_size: see `decode`.
    """

    max_bytes: int
    max_pixels: int
    max_seconds: float
    jpeg_size: int | None = None

    @property
    def max_memory(self) -> int:
        """Bytes that the process may take beside what it has when it starts."""
        return MEMORY_PER_PIXEL * self.max_pixels + 2 * self.max_bytes + MEMORY_BESIDE


class DecoderProcess:
    """Decodes photos as `decode` does, in a process that is kept from photo to photo.

    Threads may share it; they wait for each other. The process ends with `close`, with this object
    and with this process, however that ends.

    Args:
      function: MODULE:NAME of what decodes, called with a photo's bytes and the limit of pixels.
    """

    def __init__(self, limits: DecodeLimits, function: str = DECODE):
        self.limits = limits
        self.function = function
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Starts the process if there is none; `decode` does so too.

        Raises:
          NoDecoderError: it does not start.
        """
        with self._lock:
            self._start()

    def decode(self, content: bytes) -> Decoded:
        """Decodes a photo.

        Raises:
          DecodeError: `decode` raised an error, whose type this one has as its name.
          DecoderCrashed: the process came to its end.
          DecoderHung: it took longer than limits.max_seconds.
          NoDecoderError: there is no process and none starts, or no room for the pixels.
        """
        with self._lock:
            try:
                answer, pixels = self._try(content)
            except (DecoderCrashed, DecoderHung):
                # It need not be this photo's fault: the process may have been killed or stopped
                # from outside, or harmed by a photo before.
                answer, pixels = self._try(content)
        if pixels is None:
            raise type(answer["error"], (DecodeError,), {})(answer["message"])
        taken_at = answer["taken_at"] and datetime.fromisoformat(answer["taken_at"])
        image = _image(pixels, answer["size"])
        return Decoded(image, tuple(answer["full_size"]), taken_at, answer["n_frames"])

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            if self._process:
                self._stop()

    def _start(self) -> None:
        if self._process:
            if self._process.poll() is None:
                return
            self._stop()  # it died since the last photo, of nothing that this one did
        # Paths as here, where the package may not be installed.
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from {__name__} import serve; serve(*sys.argv[1:])"
        )
        settings = [self.function, json.dumps(asdict(self.limits))]
        try:
            self._socket, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", program, *settings],
                    stdin=theirs, stdout=2, env={**os.environ, **ENVIRONMENT},
                )  # fmt: skip
        except OSError as error:  # no more processes, memory or open files
            raise NoDecoderError(
                f"the process that decodes photos does not start: {error}"
            ) from error
        try:
            self._socket.settimeout(SECONDS_TO_START)
            _receive(self._socket, 1)
        except (OSError, EOFError) as error:
            end = _end(self._stop(kill=isinstance(error, TimeoutError)))
            raise NoDecoderError(
                f"the process that decodes photos does not start: it {end}; its last words are in "
                "the log"
            ) from error
        except BaseException:  # its greeting is still to come
            self._stop(kill=True)
            raise

    def _try(self, content: bytes) -> tuple[dict, mmap.mmap | None]:
        """As `_ask`, in a process that is started if there is none."""
        self._start()
        try:
            return self._ask(content)
        except TimeoutError:
            self._stop(kill=True)
            raise DecoderHung(f"decoding took longer than {self.limits.max_seconds:g} s") from None
        except (OSError, EOFError, ValueError, LookupError, TypeError):
            raise DecoderCrashed(f"the decoder {_end(self._stop())}") from None
        except BaseException:  # an answer is still to come, which the next photo must not get
            self._stop(kill=True)
            raise

    def _stop(self, kill: bool = False) -> int:
        """Ends the process; returns its exit code, or less than 0: the signal that ended it."""
        process, self._process = self._process, None
        self._socket.close()  # it ends when it sees that
        try:
            if not kill:
                return process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            pass
        process.kill()
        return process.wait()

    def _ask(self, content: bytes) -> tuple[dict, mmap.mmap | None]:
        """(answer, pixels) of the process; no pixels where the answer is an error.

        Raises:
          TimeoutError: it came too late.
          OSError, EOFError: the process is gone.
          ValueError, LookupError, TypeError: it is out of its mind.
        """
        deadline = time.monotonic() + self.limits.max_seconds
        self._socket.settimeout(self.limits.max_seconds)
        self._socket.sendall(struct.pack(">Q", len(content)))
        self._socket.sendall(content)
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        head, files, *_ = socket.recv_fds(self._socket, 4, 1)
        try:
            (length,) = struct.unpack(">I", head + _receive(self._socket, 4 - len(head)))
            answer = json.loads(_receive(self._socket, length))
            if "no_room" in answer:
                raise NoDecoderError(f"there is no room for a photo's pixels: {answer['no_room']}")
            if "error" in answer:
                return answer, None
            width, height = answer["size"]
            n_bytes = BYTES_PER_PIXEL * width * height
            if width * height > self.limits.max_pixels or os.fstat(files[0]).st_size != n_bytes:
                raise ValueError("pixels are missing")
            return answer, mmap.mmap(files[0], n_bytes, prot=mmap.PROT_READ)
        finally:
            for file in files:
                os.close(file)


def serve(function: str, limits: str) -> None:
    """Decodes photos as they come in, until the socket is closed: what the process does."""
    limits = DecodeLimits(**json.loads(limits))
    module, _, name = function.partition(":")
    decode = getattr(import_module(module), name)
    Image.core.set_use_block_allocator(1)  # an image's pixels in one piece, to be handed over whole
    _limit_resources(limits.max_memory)
    parent = socket.socket(fileno=os.dup(0))
    parent.sendall(b".")
    while True:
        try:
            (length,) = struct.unpack(">Q", _receive(parent, 8))
        except (OSError, EOFError):
            return
        # The parent keeps time, unless it has died.
        signal.setitimer(signal.ITIMER_REAL, limits.max_seconds + SECONDS_TO_END)
        answer, files = _answer(decode, parent, length, limits)
        text = json.dumps(answer).encode()
        head = struct.pack(">I", len(text))
        if files:
            socket.send_fds(parent, [head], files)
        else:
            parent.sendall(head)
        parent.sendall(text)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for file in files:
            os.close(file)


def _answer(
    decode, parent: socket.socket, length: int, limits: DecodeLimits
) -> tuple[dict, list[int]]:
    """What is said of a photo, and the open file with its pixels, if there are any."""
    content = _receive(parent, length)
    try:
        image, size, taken_at, n_frames = decode(content, limits.max_pixels, limits.jpeg_size)
        pixels = pa.array(image).buffers()[-1]
    except MemoryError:
        message = "decoding takes more memory than a photo of the most pixels may"
        return {"error": "MemoryError", "message": message}, []
    except Exception as error:  # any photo may be broken in any way
        message = str(error)[:LONGEST_MESSAGE].encode(errors="backslashreplace").decode()
        return {"error": type(error).__name__, "message": message}, []
    try:
        file = _memory_file(pixels)
    except OSError as error:
        return {"no_room": str(error)}, []
    answer = {
        "size": image.size,
        "full_size": size,
        "taken_at": taken_at and taken_at.isoformat(),
        "n_frames": n_frames,
    }
    return answer, [file]


def _memory_file(content) -> int:
    """An open file without a name that holds the content; in memory where the system can do that.

    Raises:
      OSError: there is no room for it.
    """
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("pixels")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(file, left) :]
    except BaseException:
        os.close(file)
        raise
    return file


def _image(pixels: mmap.mmap, size: tuple[int, int]) -> Image.Image:
    """The RGB image whose pixels these are, without copying them."""
    values = pa.Array.from_buffers(pa.uint8(), len(pixels), [None, pa.py_buffer(pixels)])
    array = pa.FixedSizeListArray.from_arrays(values, BYTES_PER_PIXEL)
    return Image.fromarrow(array, "RGB", tuple(size))


def _receive(connection: socket.socket, length: int) -> bytes:
    """So many bytes; EOFError when the other side is gone before they have come."""
    content = bytearray(length)
    left = memoryview(content)
    while left:
        n_received = connection.recv_into(left)
        if not n_received:
            raise EOFError
        left = left[n_received:]
    return bytes(content)


def _limit_resources(max_memory: int) -> None:
    """Makes sure that this process can harm no other, and ends when it takes too long.

    As far as the system allows: macOS takes no limit on memory.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end is ours
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # should memory run out, this process goes first
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = used + max_memory
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    except (OSError, ValueError):
        pass


def _end(code: int) -> str:
    """How a process came to its end, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"
