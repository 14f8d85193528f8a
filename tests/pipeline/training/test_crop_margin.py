"""Tests of the margin that a network sees in crops."""

import json

import pytest

from facecluster.errors import InputError, UsageError
from facecluster.pipeline.training.crop_margin import visible_margin


@pytest.mark.parametrize(
    ("crop_size", "crop_margin", "input_size", "margin"),
    [
        (182, 44, 160, 22),  # a window of the published crops for training
        (160, 32, 160, 32),
        (80, 16, 160, 32),  # stretched to twice its size
        (160, 0, 160, 0),
        (182, 44, 75, -63),  # less than the face's box is seen
    ],
)
def test_margin_that_the_network_sees(tmp_path, crop_size, crop_margin, input_size, margin):
    made = {"options": {"crop_size": crop_size, "crop_margin": crop_margin}}
    (tmp_path / "crops.json").write_text(json.dumps(made))
    for source in ("", "/", "/Ann_Lee", "/Ann_Lee/", "/*.tar", "/0.tfrecord"):
        assert visible_margin([f"{tmp_path}{source}"], input_size) == margin
    assert visible_margin([str(tmp_path / "A"), str(tmp_path / "B")], input_size) == margin


def test_margin_is_unknown_without_crops_json(tmp_path):
    assert visible_margin([str(tmp_path)], 160) is None


def test_differing_or_unreadable_margins_are_refused(tmp_path):
    for name, crop_margin in (("a", 44), ("b", 32)):
        (tmp_path / name).mkdir()
        made = {"options": {"crop_size": 182, "crop_margin": crop_margin}}
        (tmp_path / name / "crops.json").write_text(json.dumps(made))
    with pytest.raises(UsageError, match=r"22 px by .*a/crops.json, 10 px by .*b/crops.json"):
        visible_margin([str(tmp_path / "a"), str(tmp_path / "b")], 160)
    for damaged in ("{", "[]", '{"options": {"crop_size": 182}}'):
        (tmp_path / "a" / "crops.json").write_text(damaged)
        with pytest.raises(InputError, match=r"a/crops\.json is damaged"):
            visible_margin([str(tmp_path / "a")], 160)
