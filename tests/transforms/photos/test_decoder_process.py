"""A photo that crashes or hangs its decoder process fails, and the next photos are decoded."""

import io
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from facecluster.transforms.photos.decode import DecodePhotos, _DecodePhoto
from facecluster.transforms.photos.decode_image import decode_image
from facecluster.transforms.photos.decoder_process import (
    DecodeError,
    DecoderCrashed,
    DecoderHung,
    DecoderProcess,
    DecoderUnavailableError,
)
from facecluster.transforms.photos.limits import DecodeLimits
from facecluster.transforms.records import Failure, Photo, Shard

LIMITS = DecodeLimits(max_bytes=10 << 20, max_pixels=1_000_000, max_seconds=20)
SHORT_LIMITS = replace(LIMITS, max_seconds=0.5)
DEADLINE = 120  # seconds, against hanging only
OBEY = "tests.transforms.photos.broken_decoders:obey"


def png(width: int, height: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = "2019:01:02 03:04:05"
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return file.getvalue()


SOUND = png(40, 30)


@pytest.fixture(scope="module")
def decoder():
    decoder = DecoderProcess(LIMITS)
    yield decoder
    decoder.close()


@pytest.fixture
def obedient():
    decoder = DecoderProcess(SHORT_LIMITS, OBEY)
    yield decoder
    decoder.close()


def assert_decodes(decoder: DecoderProcess) -> None:
    image, _, taken_at, n_frames, _ = decoder.decode(SOUND)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(decode_image(SOUND).image))
    assert (taken_at, n_frames) == (datetime(2019, 1, 2, 3, 4, 5), 1)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(") ")[2][0] != "Z"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"the condition does not hold after {DEADLINE} s"
        time.sleep(0.05)


# --- results equal those of this process


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_pixels_equal_those_decoded_in_this_process(decoder, width, height, seed):
    content = png(width, height, seed)
    expected, found = decode_image(content), decoder.decode(content)
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(expected.image))
    assert found[1:] == expected[1:]
    assert (found.image.mode, found.image.size) == ("RGB", (width, height))
    box = (0, 0, width / 2, height / 2)
    small, expected = (decoded.image.resize((7, 5), 2, box) for decoded in (found, expected))
    assert small.tobytes() == expected.tobytes()


def test_images_remain_valid_after_the_next_photo_and_the_end_of_the_process():
    decoder = DecoderProcess(LIMITS)
    images = [decoder.decode(png(50, 50, seed)).image for seed in range(5)]
    decoder.close()
    for seed, image in enumerate(images):
        np.testing.assert_array_equal(
            np.asarray(image), np.asarray(decode_image(png(50, 50, seed))[0])
        )


def test_errors_have_the_name_of_the_original_type(decoder):
    with pytest.raises(DecodeError, match="not an image in a known format") as caught:
        decoder.decode(b"not an image")
    assert type(caught.value).__name__ == "UnidentifiedImageError"
    with pytest.raises(DecodeError, match=r"1001 x 1000 pixels .* limit of 1,000,000") as caught:
        decoder.decode(png(1001, 1000))
    assert type(caught.value).__name__ == "TooManyPixelsError"
    decoder.decode(png(1000, 1000))


def test_the_process_imports_neither_tensorflow_nor_beam(obedient):
    with pytest.raises(DecodeError, match=r"^no heavy modules$"):
        obedient.decode(b"list-modules")


def test_threads_share_one_process(decoder):
    contents = [png(60 + i, 40, i) for i in range(24)]
    images = {}

    def decode_every_fourth(first):
        for i in range(first, len(contents), 4):
            images[i] = decoder.decode(contents[i]).image

    threads = [threading.Thread(target=decode_every_fourth, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, content in enumerate(contents):
        np.testing.assert_array_equal(
            np.asarray(images[i]), np.asarray(decode_image(content).image)
        )


def test_a_jpeg_is_decoded_at_a_reduced_scale():
    file = io.BytesIO()
    Image.effect_mandelbrot((800, 600), (-2, -1.5, 1, 1.5), 50).save(file, "JPEG")
    decoder = DecoderProcess(replace(LIMITS, jpeg_size=200))
    found, expected = decoder.decode(file.getvalue()), decode_image(file.getvalue(), jpeg_size=200)
    decoder.close()
    assert (found.image.size, found.size) == ((200, 150), (800, 600))
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(expected.image))


# --- crashes, hangs and other faults


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"segfault", "was ended by SIGSEGV"),
        (b"abort", "was ended by SIGABRT"),
        (b"exit", "ended with exit code 3"),
        (b"kill", "was ended by SIGKILL, as the system does when memory runs out"),
    ],
)
def test_a_crash_fails_one_photo_only(obedient, content, message):
    assert_decodes(obedient)
    with pytest.raises(DecoderCrashed, match=message):
        obedient.decode(content)
    assert_decodes(obedient)


def test_a_photo_is_tried_again_after_a_crash(obedient, tmp_path):
    with pytest.raises(DecodeError, match="second attempt"):
        obedient.decode(b"kill-once " + bytes(tmp_path / "first attempt"))
    assert_decodes(obedient)


def test_a_photo_that_hangs_is_tried_twice_and_both_processes_are_killed(obedient, tmp_path):
    log, errors = tmp_path / "pids", []

    def decode():
        with pytest.raises(DecoderHung, match=r"longer than 0\.5 s") as raised:
            obedient.decode(b"hang " + bytes(log))
        errors.append(raised.value)

    thread = threading.Thread(target=decode, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert len(errors) == 1
    first, second = map(int, log.read_text().split())
    assert first != second
    assert not is_running(first)
    assert not is_running(second)
    assert_decodes(obedient)


def test_a_slow_photo_within_the_time_limit_does_not_fail():
    decoder = DecoderProcess(LIMITS, OBEY)
    with pytest.raises(DecodeError, match=r"^slept$"):
        decoder.decode(b"sleep")
    decoder.close()


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no limit on memory")
def test_too_much_memory_is_an_error_and_not_a_crash(obedient):
    with pytest.raises(DecodeError, match="more memory") as caught:
        obedient.decode(b"allocate")
    assert type(caught.value).__name__ == "MemoryError"
    assert_decodes(obedient)


def test_output_of_libraries_is_not_taken_for_a_reply(obedient):
    with pytest.raises(DecodeError, match=r"^printed$"):
        obedient.decode(b"print")
    with pytest.raises(DecoderCrashed):
        obedient.decode(b"write-to-socket")
    assert_decodes(obedient)


def test_messages_are_short_and_valid_utf_8(obedient):
    with pytest.raises(DecodeError) as caught:
        obedient.decode(b"surrogates")
    assert type(caught.value).__name__ == "KeyError"
    assert 0 < len(str(caught.value).encode()) < 10_000


def test_a_process_that_is_killed_between_photos_fails_none(obedient):
    assert_decodes(obedient)
    pid = obedient._child.process.pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid))
    assert_decodes(obedient)


def test_a_process_that_does_not_start_is_an_error_of_the_job():
    decoder = DecoderProcess(LIMITS, "facecluster.transforms.no_such_module:decode")
    with pytest.raises(DecoderUnavailableError, match="exit code 1"):
        decoder.start()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit needs Linux")
def test_no_room_for_pixels_is_an_error_of_the_job():
    step = _DecodePhoto(LIMITS)
    step.setup()
    step.decoder.start()
    resource.prlimit(step.decoder._child.process.pid, resource.RLIMIT_FSIZE, (100, 100))
    photo = Photo("a.png", Shard("s", 1), content=SOUND)
    with pytest.raises(DecoderUnavailableError, match="no room for a photo's pixels"):
        next(step.process(photo))
    assert next(step.process(photo)).image.size == (40, 30)  # by another process
    step.teardown()


# --- the end of the process


def test_close_ends_the_process_and_the_next_photo_starts_another():
    decoder = DecoderProcess(LIMITS)
    decoder.start()
    pid = decoder._child.process.pid
    assert is_running(pid)
    decoder.close()
    assert not is_running(pid)
    assert_decodes(decoder)
    decoder.close()
    decoder.close()


@pytest.mark.parametrize("is_decoding", [False, True], ids=["idle", "hanging"])
def test_the_process_ends_with_its_parent(is_decoding, tmp_path):
    """The parent is killed while its decoder waits for a photo, or hangs on one."""
    log = tmp_path / "pids"
    content = b"hang " + bytes(log) if is_decoding else b""
    program = f"""
        import sys, threading, time
        sys.path[:] = {sys.path!r}
        from facecluster.transforms.photos.decoder_process import DecoderProcess
        from facecluster.transforms.photos.limits import DecodeLimits
        decoder = DecoderProcess(DecodeLimits(1 << 20, 1000, 3.0), {OBEY!r})
        decoder.start()
        print(decoder._child.process.pid, flush=True)
        if {content!r}:
            threading.Thread(target=decoder.decode, args=({content!r},)).start()
        time.sleep({DEADLINE})
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        if is_decoding:
            wait_until(lambda: log.exists() and log.read_text().endswith("\n"))
        parent.kill()
    wait_until(lambda: not is_running(pid))


# --- the step


def test_the_decode_step_records_failures_and_passes_failed_photos_on():
    shard = Shard("s", 4)
    failed = Failure("read", "OSError", "gone")
    photos = [
        Photo("a.png", shard, content=SOUND, photo_id="a"),
        Photo("b.png", shard, content=SOUND[:200], photo_id="b"),
        Photo("c.png", shard, failure=failed),
        Photo("d.png", shard, content=png(1001, 1000), photo_id="d"),
    ]
    with beam.Pipeline() as pipeline:
        decoded = pipeline | beam.Create(photos) | DecodePhotos(LIMITS) | beam.Map(summarize)
        _ = decoded | beam.combiners.ToList() | beam.Map(check)


def summarize(photo: Photo) -> tuple:
    failure = photo.failure and (photo.failure.step, photo.failure.error)
    return photo.uri, photo.content, photo.width, photo.height, photo.n_frames, failure


def check(summaries: list) -> None:
    assert sorted(summaries) == [
        ("a.png", None, 40, 30, 1, None),
        ("b.png", None, None, None, None, ("decode", "OSError")),
        ("c.png", None, None, None, None, ("read", "OSError")),
        ("d.png", None, None, None, None, ("decode", "TooManyPixelsError")),
    ]
