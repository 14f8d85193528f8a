"""Of rows with the same key, the first is kept."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from facecluster.transforms.tables.distinct import distinct_rows


def photos(ids, n_chunks=1):
    """A table of photos; each row's position is in column row."""
    table = pa.table({"photo_id": pa.array(ids, pa.string()), "row": range(len(ids))})
    size = -(-len(ids) // n_chunks) or 1
    return pa.concat_tables(
        [table[start : start + size] for start in range(0, len(ids) or 1, size)]
    )


@given(st.lists(st.sampled_from("abcde"), max_size=20), st.integers(1, 4))
def test_the_first_row_of_each_key_is_kept_in_order(ids, n_chunks):
    found = distinct_rows(photos(ids, n_chunks), "photo_id")
    assert found["photo_id"].to_pylist() == list(dict.fromkeys(ids))
    assert found["row"].to_pylist() == [ids.index(photo) for photo in dict.fromkeys(ids)]
    assert distinct_rows(found, "photo_id") == found


def test_an_empty_table_stays_as_it_is():
    assert distinct_rows(photos([]), "photo_id") == photos([])
