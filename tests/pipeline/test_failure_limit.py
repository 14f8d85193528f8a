"""The failure limit: parsing, comparing, and the message about too many failures."""

import pyarrow as pa
import pytest

from facecluster.pipeline.failure_limit import FailureLimit
from facecluster.transforms.tables import schema


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("0", FailureLimit(0, False)),
        ("20", FailureLimit(20, False)),
        ("5%", FailureLimit(5, True)),
        ("0.5%", FailureLimit(0.5, True)),
        ("100%", FailureLimit(100, True)),
    ],
)
def test_numbers_and_percentages(text, limit):
    assert FailureLimit.parse(text) == limit
    assert str(limit) == text


@pytest.mark.parametrize("text", ["", "%", "few", "1.5", "-1", "-1%", "101%", "nan%", "inf%"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=f"^{text} is neither a number such as 20"):
        FailureLimit.parse(text)


@pytest.mark.parametrize(
    ("text", "n_failures", "n_inputs", "is_allowed"),
    [
        ("0", 0, 10, True),
        ("0", 1, 10, False),
        ("20", 20, 20, True),
        ("20", 21, 1000, False),
        ("5%", 5, 100, True),
        ("5%", 6, 100, False),
        ("5%", 1, 10, False),
        ("100%", 10, 10, True),
    ],
)
def test_a_limit_is_the_most_that_is_allowed(text, n_failures, n_inputs, is_allowed):
    assert FailureLimit.parse(text).allows(n_failures, n_inputs) == is_allowed


def failures(*rows) -> pa.Table:
    names = schema.FAILURES.names
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])


def test_the_message_has_counts_the_most_frequent_reasons_and_an_example():
    rows = [
        ("a", "decode", "OSError", "cut off"),
        *[("b", "read", kind, "no") for kind in ("OSError", "BeamIOError", "Timeout", "Other")],
    ]
    limit = FailureLimit.parse("10%")
    assert limit.describe_excess(failures(*rows), 50) is None
    assert limit.describe_excess(failures(*rows), 40) == (
        "5 of 40 inputs (12.5%) could not be used, more than --max-failures 10% allows "
        "(cannot be read 2, Other 1, Timeout 1), such as a: cut off"
    )
    assert limit.describe_excess(schema.FAILURES.empty_table(), 0) is None
