"""Tests of the checks of training options."""

import pytest

from facecluster.errors import UsageError
from facecluster.pipeline.jobs.train import TrainJob
from facecluster.pipeline.options import TrainOptions
from facecluster.transforms.faces.saved_model import SavedModel


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"backbone": "m", "start_from": "m"},
            "--backbone freezes a model and --start-from trains it: give one",
        ),
        ({"compatible_with": "m"}, "--compatible-with needs triplets: add --loss triplet"),
        ({"validation_crops": "c"}, "--validation-crops and --validation-pairs go together"),
        ({"validation_pairs": "p"}, "--validation-crops and --validation-pairs go together"),
        ({"backbone": "m", "flip": True}, "--flip has no effect with --backbone"),
        ({"backbone": "m", "color": 0.1}, "--color has no effect with --backbone"),
        (
            {"backbone": "m", "mixed_precision": True},
            "--mixed-precision has no effect with --backbone",
        ),
        ({"backbone": "m", "input_size": 96}, "--input-size has no effect with --backbone"),
        ({"start_from": "m", "width": 0.5}, "--width has no effect with --start-from"),
        ({"start_from": "m", "dropout": 0.5}, "--dropout has no effect with --start-from"),
        ({"mining": "batch-hard"}, "--mining has no effect with --loss softmax"),
        ({"triplet_margin": 0.3}, "--triplet-margin has no effect with --loss softmax"),
        ({"loss": "triplet", "batch_size": 9}, "--batch-size has no effect with --loss triplet"),
        (
            {"loss": "triplet", "center_loss_factor": 0.1},
            "--center-loss-factor has no effect with --loss triplet",
        ),
        ({"filter_percentile": 90.0}, "--filter-percentile has no effect without --filter-with"),
        (
            {"learning_rate_schedule": "f", "learning_rate": 0.1},
            "--learning-rate has no effect with --learning-rate-schedule",
        ),
        (
            {"validation_crops": "c", "validation_pairs": "p", "validation_fraction": 0.1},
            "--validation-fraction has no effect with --validation-crops",
        ),
    ],
)
def test_contradicting_options_are_refused(tmp_path, options, sentence):
    job = TrainJob(tmp_path / "out", TrainOptions(**options), SavedModel, print)
    with pytest.raises(UsageError, match=sentence):
        job([str(tmp_path)])
    assert not (tmp_path / "out").exists()
