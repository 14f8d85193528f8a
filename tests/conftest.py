"""What the tests share: where the real photos are, the exported models, and no silent skips."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With FACECLUSTER_TEST_NO_SKIPS set, a test that skips has failed."""
    report = yield
    if report.skipped and os.environ.get("FACECLUSTER_TEST_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def lfw_images() -> Path:
    """A folder of Name/Name_0001.jpg, 250 x 250 px, one labelled face each."""
    return _data(SHARED / "lfw" / "images")


@pytest.fixture(scope="session")
def lfw_pairs() -> Path:
    return _data(SHARED / "lfw" / "pairsDevTrain.txt")


@pytest.fixture(scope="session")
def group_photos() -> Path:
    """A folder of real photos with several people, and truth.csv."""
    return _data(SHARED / "photos")


@pytest.fixture(scope="session")
def mtcnn_folder() -> str:
    """The exported detector, fetched when it is not there yet."""
    from facecluster.model_export import zoo

    return str(zoo.fetch("mtcnn"))


@pytest.fixture(scope="session")
def facenet_folder() -> str:
    """The exported default embedder, fetched when it is not there yet."""
    from facecluster.model_export import zoo

    return str(zoo.fetch("facenet-casia-webface"))


def _data(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"the test data {path} is not there")
    return path
