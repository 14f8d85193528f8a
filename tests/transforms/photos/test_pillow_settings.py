"""Pillow's settings in the host process change only while a photo is decoded."""

import io
import subprocess
import sys
import textwrap
import threading
import warnings

import pytest
from PIL import Image

from facecluster.transforms.photos import decode_image as module
from facecluster.transforms.photos.decode_image import DECODING_SETTINGS, decode_image


def current_settings() -> list:
    return [getattr(owner, name) for owner, name, _ in DECODING_SETTINGS]


def encode_png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def run_in_new_interpreter(program: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_importing_any_module_leaves_pillow_as_it_is():
    run_in_new_interpreter("""
        import pkgutil
        from importlib import import_module

        import pillow_heif
        from PIL import AvifImagePlugin, Image

        def settings():
            options = {name: value for name, value in vars(pillow_heif.options).items()
                       if name.isupper()}
            return (Image.MAX_IMAGE_PIXELS, AvifImagePlugin.DEFAULT_MAX_THREADS, repr(options),
                    "HEIF" in Image.OPEN)

        before = settings()
        import facecluster
        n_imported = 0
        for module in pkgutil.walk_packages(facecluster.__path__, "facecluster."):
            try:
                import_module(module.name)
                n_imported += 1
            except ModuleNotFoundError as error:  # of an extra that is not installed
                assert not error.name.startswith("facecluster"), error
            assert settings() == before, module.name
        assert n_imported > 60
    """)


def test_importing_the_options_leaves_the_limit_of_pixels():
    output = run_in_new_interpreter("""
        import facecluster.pipeline.options
        from PIL import Image
        print(Image.MAX_IMAGE_PIXELS)
    """)
    assert int(output) == 1024**3 // 4 // 3  # Pillow's default


def test_settings_are_restored_after_decoding_and_after_errors(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    before = current_settings()
    assert decode_image(encode_png(100, 100)).size == (100, 100)
    assert current_settings() == before
    for content in (b"not an image", encode_png(100, 100)[:50]):
        with pytest.raises(OSError, match="image"):
            decode_image(content)
        assert current_settings() == before
    with pytest.raises(ValueError, match="more than the limit"):
        decode_image(encode_png(100, 100), max_pixels=9999)
    assert current_settings() == before
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(encode_png(100, 100)))


def test_the_limit_of_the_host_does_not_apply_to_our_decoding(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(encode_png(100, 100)).size == (100, 100)


def test_settings_stay_while_any_thread_decodes(monkeypatch):
    """Two threads are in the decoder at once; the first to enter is the first to leave."""
    before = current_settings()
    wanted = [value for _, _, value in DECODING_SETTINGS]
    assert before != wanted
    entered = {"first": threading.Event(), "second": threading.Event()}
    may_leave = {"first": threading.Event(), "second": threading.Event()}
    seen = {}
    open_photo = module.open_photo

    def open_and_wait(*args):
        name = threading.current_thread().name
        entered[name].set()
        assert may_leave[name].wait(60)
        seen[name] = current_settings()
        return open_photo(*args)

    monkeypatch.setattr(module, "open_photo", open_and_wait)
    threads = {
        name: threading.Thread(target=decode_image, args=(encode_png(9, 9),), name=name)
        for name in ("first", "second")
    }
    for name, thread in threads.items():
        thread.start()
        assert entered[name].wait(60)
    for name, thread in threads.items():
        assert current_settings() == wanted
        may_leave[name].set()
        thread.join()
    assert seen == {"first": wanted, "second": wanted}
    assert current_settings() == before
