"""Rows that several shards hold: a photo found under several names brings its faces each time."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def distinct_rows(table: pa.Table, key: str) -> pa.Table:
    """The first row of each value of a column, in the order of the table.

    Args:
      table: such as photos by photo_id, or faces by face_id.
      key: the column that identifies what a row is about.
    """
    first = pc.index_in(table[key], value_set=table[key]).to_numpy()
    return table.filter(pa.array(first == np.arange(len(table))))
