"""Keys of 14 bytes tell face ids apart and keep their order."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecluster.pipeline.distributed.face_keys import FACE_KEY, face_keys, keys_as_binary
from facecluster.transforms.tables import schema


def face_ids(numbers):
    """Ids of faces from (photo, index)."""
    return [
        schema.face_id(hashlib.sha256(str(photo).encode()).hexdigest(), index)
        for photo, index in numbers
    ]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2000)), max_size=20))
def test_keys_are_those_of_plain_python(numbers):
    ids = face_ids(numbers)
    keys = face_keys(pa.array(ids, pa.string()))
    assert keys.dtype == FACE_KEY
    assert keys.itemsize == 14
    assert keys.tolist() == [(int(i[:16], 16), int(i[16:24], 16), int(i[65:])) for i in ids]


@pytest.mark.parametrize("sizes", [[0], [3], [2, 0, 3], []])
def test_chunks_and_slices(sizes):
    ids = face_ids([(number, number) for number in range(10)])
    chunks = [pa.array(ids, pa.string())[1 : size + 1] for size in sizes]
    found = face_keys(pa.chunked_array(chunks, pa.string()))
    expected = [i for size in sizes for i in ids[1 : size + 1]]
    assert found.tolist() == face_keys(pa.array(expected, pa.string())).tolist()


def test_keys_sort_as_ids_do():
    ids = face_ids([(photo, index) for photo in range(30) for index in (0, 1, 7)])
    keys = face_keys(pa.array(ids))
    order = np.lexsort((keys["index"], keys["low"], keys["high"]))
    assert [ids[i] for i in order] == sorted(ids)


def test_keys_are_compared_in_arrow():
    keys = face_keys(pa.array(face_ids([(1, 0), (2, 0), (1, 0)])))
    found = keys_as_binary(keys)
    assert found.type == pa.binary(14)
    assert found[0] == found[2] != found[1]
    assert len(keys_as_binary(keys[:0])) == 0
