"""What every test of the command needs: the models, and no PyTorch."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def models(mtcnn_folder, facenet_folder):
    """The models that commands use by default."""


@pytest.fixture(scope="module", autouse=True)
def without_torch(hide_torch):
    """Commands and workers run without PyTorch."""
