"""A folder made with other settings is refused, with the first setting that differs."""

import pytest

from facecluster.errors import JobError, UsageError
from facecluster.pipeline.run.settings import check_settings


@pytest.mark.parametrize(
    ("before", "now"),
    [({}, {}), ({"a": 1, "b": [2]}, {"b": [2], "a": 1}), ({}, {"a": None}), ({"a": None}, {})],
)
def test_equal_settings_are_accepted(before, now):
    check_settings(before, now, "runs/x")


@pytest.mark.parametrize(
    ("before", "now", "named"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, "b 2, now it is 3"),
        ({}, {"codec": "float32"}, "codec None, now it is float32"),
        ({"codec": "float32"}, {}, "codec float32, now it is None"),
        ({"a": 1, "b": 2}, {"b": 3, "a": 4}, "b 2, now it is 3"),
    ],
)
def test_the_first_difference_is_named(before, now, named):
    with pytest.raises(JobError) as refused:
        check_settings(before, now, "runs/x")
    assert str(refused.value) == f"runs/x was made with {named}: take another output folder"


def test_some_settings_may_be_ignored_and_the_error_and_advice_chosen():
    check_settings({"a": 1}, {"a": 2}, "runs/x", ignored=("a",))
    with pytest.raises(UsageError, match=r"now it is 2: start again$"):
        check_settings({"a": 1}, {"a": 2}, "x", advice="start again", error=UsageError)
