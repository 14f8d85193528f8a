"""The default model in all its forms on Labeled Faces in the Wild, by the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
COMMAND = Path(sys.executable).with_name("facecluster")
POINTS = 0.003  # of accuracy, that another form of the model may differ from 512 float32


def facecluster(*arguments) -> None:
    done = subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr


def scores(model: Path, crops: Path, pairs: Path, *more) -> dict:
    facecluster(
        "model", "validate", model, "--crops", crops, "--pairs", pairs, "--write-card", *more
    )
    return json.loads((model / "model_card.json").read_text())["measured"]


def test_every_form_of_the_default_model_is_as_good(
    lfw_images, lfw_pairs, facenet_folder, tmp_path
):
    full, half, crops = (tmp_path / name for name in ("full", "half", "crops"))
    facecluster("model", "export", facenet_folder, "--output", full)
    facecluster("model", "export", facenet_folder, "--output", half, "--float16")
    one = scores(full, crops, lfw_pairs, "--images", lfw_images)
    other = scores(half, crops, lfw_pairs)
    accuracy = one["float32"]["accuracy"]
    assert accuracy >= 0.980
    assert one["float32"]["n_pairs_skipped"] == 0
    assert one["pca128"]["accuracy"] >= accuracy - POINTS
    for codec in ("float32", "pca128"):
        assert other[codec]["accuracy"] == pytest.approx(one[codec]["accuracy"], abs=POINTS)
