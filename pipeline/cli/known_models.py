"""The commands that list and fetch published models and sample photos."""

import argparse

from facecluster.errors import UsageError
from facecluster.model_export.weights import zoo
from facecluster.pipeline.cli.progress import Progress
from facecluster.pipeline.sample_photos import fetch_sample_photos


def list_models(arguments: argparse.Namespace) -> int:
    for name, model in zoo.ZOO.items():
        where = zoo.model_folder(name) if zoo.is_fetched(name) else "not fetched"
        print(f"{name:24}{model.card.architecture:32}{where}")
    return 0


def fetch_models(arguments: argparse.Namespace) -> int:
    for name in arguments.names or zoo.ZOO:
        if name not in zoo.ZOO:
            raise UsageError(f"{name} is not a known model: see `facecluster model list`")
        if not zoo.is_fetched(name):
            Progress().say(f"fetching and exporting {name}, which is needed only once")
        print(zoo.fetch(name))
    return 0


def sample_photos(arguments: argparse.Namespace) -> int:
    """Downloads a few photos and prints their folder."""
    print(fetch_sample_photos())
    return 0
