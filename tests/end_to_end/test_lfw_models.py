"""Every form of the default model, scored on Labeled Faces in the Wild by the command."""

import json
from pathlib import Path

import pytest

from tests.end_to_end.command import facecluster

pytestmark = pytest.mark.slow
POINTS = 0.003  # by which the accuracy of another form may differ from that of 512 float32


def run(*arguments) -> None:
    done = facecluster(*arguments)
    print(done.stdout)
    assert done.returncode == 0, done.stderr


def scores(model: Path, crops: Path, pairs: Path, *more) -> dict:
    run("model", "validate", model, "--crops", crops, "--pairs", pairs, "--write-card", *more)
    return json.loads((model / "model_card.json").read_text())["measured"]


def test_every_form_of_the_default_model_is_as_accurate(
    lfw_images, lfw_pairs, facenet_folder, tmp_path
):
    full, half, crops = (tmp_path / name for name in ("full", "half", "crops"))
    run("model", "export", facenet_folder, "--output", full)
    run("model", "export", facenet_folder, "--output", half, "--float16")
    one = scores(full, crops, lfw_pairs, "--images", lfw_images)
    other = scores(half, crops, lfw_pairs)
    accuracy = one["float32"]["accuracy"]
    assert accuracy >= 0.980
    assert one["float32"]["n_pairs_skipped"] == 0
    assert one["pca128"]["accuracy"] >= accuracy - POINTS
    for codec in ("float32", "pca128"):
        assert other[codec]["accuracy"] == pytest.approx(one[codec]["accuracy"], abs=POINTS)
