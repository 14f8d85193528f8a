"""Operations on columns of tables that are shorter than those of PyArrow, or that it lacks."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def column(rows: pa.Table, name: str) -> pa.Array:
    """A column in one piece."""
    return rows[name].combine_chunks()


def is_in(values: pa.ChunkedArray | pa.Array, those: pa.ChunkedArray | pa.Array) -> pa.Array:
    """(n,) bool: which of n values are among the others."""
    if isinstance(those, pa.ChunkedArray):
        those = those.combine_chunks()
    found = pc.is_in(values, value_set=those)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def count_earlier(values: np.ndarray) -> np.ndarray:
    """(n,) int64: how often each of n values has occurred before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    earlier = np.empty(len(values), np.int64)
    earlier[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered)
    return earlier
