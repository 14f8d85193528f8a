import pytest


@pytest.fixture(scope="module", autouse=True)
def without_torch(hide_torch):
    """Commands and workers run without PyTorch."""
