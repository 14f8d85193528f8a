"""Fixtures of all tests: the real photos, the exported models, an object store, no silent skips."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from apache_beam.io.filesystem import FileMetadata, FileSystem
from hypothesis import settings

# Hypothesis fails examples that take longer than 200 ms, which a busy machine makes of any.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With FACECLUSTER_TEST_NO_SKIPS set, a test that is skipped fails."""
    report = yield
    if report.skipped and os.environ.get("FACECLUSTER_TEST_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but FACECLUSTER_TEST_NO_SKIPS is set: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def lfw_images() -> Path:
    """A folder of Name/Name_0001.jpg, 250 x 250 px, with one labeled face each."""
    return _data(SHARED / "lfw" / "images")


@pytest.fixture(scope="session")
def lfw_pairs() -> Path:
    return _data(SHARED / "lfw" / "pairsDevTrain.txt")


@pytest.fixture(scope="session")
def group_photos() -> Path:
    """A folder of real photos with several people, and of their names in truth.csv."""
    return _data(SHARED / "photos")


@pytest.fixture(scope="session")
def mtcnn_folder() -> str:
    """The exported detector; it is fetched if necessary."""
    from facecluster.model_export.weights import zoo

    return str(zoo.fetch("mtcnn"))


@pytest.fixture(scope="session")
def facenet_folder() -> str:
    """The exported default embedder; it is fetched if necessary."""
    from facecluster.model_export.weights import zoo

    return str(zoo.fetch("facenet-casia-webface"))


@pytest.fixture(scope="module")
def hide_torch(tmp_path_factory):
    """Hides PyTorch from the programs that tests start, as if only facecluster[cpu] were installed.

    Beam imports PyTorch if it is installed, which takes 2 s of CPU time in every process.
    """
    folder = tmp_path_factory.mktemp("without_torch")
    (folder / "torch.py").write_text("raise ModuleNotFoundError('hidden', name='torch')\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def copy_people(lfw_images) -> Callable[[Path, int, int], None]:
    """Copies the first n_photos of the first n_people who have that many into a folder."""

    def copy(folder: Path, n_people: int, n_photos: int) -> None:
        people = [p for p in sorted(lfw_images.iterdir()) if len(list(p.iterdir())) >= n_photos]
        for person in people[:n_people]:
            (folder / person.name).mkdir()
            for photo in sorted(person.iterdir())[:n_photos]:
                shutil.copy(photo, folder / person.name)

    return copy


@pytest.fixture
def bucket(monkeypatch) -> Callable[[dict[str, bytes]], None]:
    """Fills the object store bucket:// with {name: content} until the test ends."""
    return lambda objects: monkeypatch.setattr(BucketFileSystem, "objects", objects)


class BucketFileSystem(FileSystem):
    """A store of named objects without folders, as gs:// and s3:// are."""

    objects: dict[str, bytes] = {}  # noqa: RUF012
    updated_at = 0.0  # seconds since 1970; unknown

    @classmethod
    def scheme(cls):
        return "bucket"

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        return tuple(path.rsplit("/", 1))

    def _list(self, dir_or_prefix):
        for name in self.objects:
            if name.startswith(dir_or_prefix):
                yield self.metadata(name)

    def exists(self, path):
        return path in self.objects

    def open(self, path, mime_type="", compression_type=None):
        return io.BytesIO(self.objects[path])

    def has_dirs(self):
        return False

    def metadata(self, path):
        return FileMetadata(path, len(self.objects[path]), self.updated_at)

    mkdirs = create = copy = rename = size = last_updated = checksum = delete = None


def _data(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"the test data {path} does not exist")
    return path
