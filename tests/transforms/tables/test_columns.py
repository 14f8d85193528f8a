import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecluster.transforms.tables.columns import count_earlier, is_in


@given(st.lists(st.integers(0, 3)))
def test_count_earlier(values):
    expected = [values[:i].count(value) for i, value in enumerate(values)]
    assert count_earlier(np.array(values, np.int64)).tolist() == expected


@pytest.mark.parametrize("pieces", [[["a", "b"], ["c"]], [["a"], ["b", "c"]], []])
@pytest.mark.parametrize("those", [[["c"], ["a"]], [["x"]], []])
def test_is_in_takes_columns_in_several_pieces(pieces, those):
    values, others = pa.chunked_array(pieces, pa.string()), pa.chunked_array(those, pa.string())
    expected = [value in others.to_pylist() for value in values.to_pylist()]
    for found in (is_in(values, others), is_in(values.combine_chunks(), others.combine_chunks())):
        assert isinstance(found, pa.Array)
        assert found.to_pylist() == expected
