"""The metadata of a schema is kept in files, and face ids are unique and ordered."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from facecluster.transforms.tables import schema


def test_a_stamp_is_kept_in_a_file():
    stamped = schema.stamped(schema.FAILURES, model="abc", codec="pca128")
    assert stamped.equals(schema.FAILURES)  # the columns are unchanged
    file = io.BytesIO()
    pq.write_table(stamped.empty_table(), file)
    assert schema.stamp_of(pq.read_schema(file)) == {
        "schema_version": schema.SCHEMA_VERSION,
        "model": "abc",
        "codec": "pca128",
    }


def test_a_foreign_file_has_no_stamp():
    assert schema.stamp_of(schema.PHOTOS) == {}
    assert schema.stamp_of(pa.schema([("a", pa.int8())], metadata={"pandas": "{}"})) == {}


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_face_ids_differ_and_are_ordered_by_index(a, b):
    first, second = schema.face_id("photo", a), schema.face_id("photo", b)
    assert (first == second) == (a == b)
    assert first.startswith("photo-")
    if a < b < 1000:
        assert first < second


def test_face_ids_are_unique_in_a_photo_of_many_faces():
    assert len({schema.face_id("photo", index) for index in range(3000)}) == 3000


def test_the_type_of_the_embedding_column_is_the_codecs():
    faces = schema.faces(pa.list_(pa.int8(), 128))
    assert faces.field("embedding").type == pa.list_(pa.int8(), 128)
    assert not any(field.nullable for field in faces)
