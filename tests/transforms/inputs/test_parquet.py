"""Columns of photos are found or reported as ambiguous; damage is detected; memory is bounded."""

import io
import struct
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.transforms.inputs.containers import list_container, read_members
from facecluster.transforms.inputs.parquet import find_layout, open_parquet
from facecluster.transforms.inputs.sources import DamagedError
from facecluster.transforms.tables import schema

B, S, N = pa.binary(), pa.string(), pa.int64()
IMAGE = pa.struct([("bytes", B), ("path", S)])


@pytest.mark.parametrize(
    ("columns", "kind", "column", "name_column"),
    [
        ({"image": IMAGE, "label": N}, "photos", "image.bytes", "image.path"),
        ({"x": pa.struct([("bytes", pa.large_binary())])}, "photos", "x.bytes", None),
        ({"blob": B, "label": N}, "photos", "blob", None),
        ({"blob": pa.binary_view(), "text": pa.string_view()}, "photos", "blob", None),
        ({"jpg": pa.large_binary(), "md5": B}, "photos", "jpg", None),
        ({"image": IMAGE, "mask": IMAGE}, "photos", "image.bytes", "image.path"),
        ({"left": IMAGE, "right": IMAGE}, "ambiguous", None, None),
        ({"one": B, "two": B}, "ambiguous", None, None),
        ({"uri": S, "phash": B}, "uris", "uri", None),
        ({"Path": S, "caption": S}, "uris", "Path", None),
        ({"url": pa.large_string(), "n": N}, "uris", "url", None),
        ({"one": S, "two": S}, "ambiguous", None, None),
        ({"label": N, "images": pa.list_(IMAGE)}, "none", None, None),
        ({}, "none", None, None),
    ],
)
def test_the_layout_is_found_by_the_columns(columns, kind, column, name_column):
    layout = find_layout(pa.schema(columns.items()))
    assert (layout.kind, layout.column, layout.name_column) == (kind, column, name_column)
    assert bool(layout.message) == (kind in ("ambiguous", "none"))
    if kind == "ambiguous":
        assert all(name in layout.message for name in columns)


def test_tables_of_a_run_are_recognized():
    assert find_layout(schema.stamped(schema.FAILURES)).kind == "failures"
    for table in (schema.PHOTOS, schema.PEOPLE, schema.ASSIGNMENTS, schema.faces(pa.list_(N))):
        assert find_layout(schema.stamped(table)).kind == "table"


def write(path, photos, **options) -> str:
    """Photos as a struct column: {bytes, path}, or None."""
    columns = {"n": list(range(len(photos))), "image": pa.array(photos, IMAGE)}
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def read(contents, max_bytes=1 << 30) -> dict[str, bytes | str]:
    """{member: its content or error message}."""
    found = {}
    for container in {source.container for source in contents.sources}:
        sources = [source for source in contents.sources if source.container == container]
        for source, content in read_members(container, sources, max_bytes):
            found[source.uri.partition("!/")[2]] = (
                str(content) if isinstance(content, Exception) else content
            )
    return found


photos = st.none() | st.fixed_dictionaries(
    {"bytes": st.none() | st.binary(max_size=200), "path": st.none() | st.text(max_size=9)}
)


@settings(deadline=None, max_examples=50)
@given(st.lists(photos, max_size=12), st.integers(1, 5))
def test_photos_that_are_written_are_read(tmp_path_factory, rows, row_group_size):
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    contents = list_container(write(path, rows, row_group_size=row_group_size), "parquet")
    assert contents.problem is None
    found = read(contents)
    assert len(found) == len(rows)
    for number, row in enumerate(rows):
        name = (row or {}).get("path")
        member = f"{number:08d}/{name.lstrip('/')}" if name else f"{number:08d}"
        expected = (row or {}).get("bytes")
        if expected is None:
            assert found[member].startswith("its row has no bytes")
        else:
            assert found[member] == expected


def categories(values, kind) -> pa.Array:
    """A dictionary-encoded array, as pandas' categories become."""
    return pa.array(values, kind).dictionary_encode()


@settings(max_examples=50)
@given(
    st.lists(st.none() | st.binary(max_size=20), min_size=1, max_size=30),
    st.lists(st.none() | st.text(max_size=9), min_size=30, max_size=30),
    st.sampled_from([pa.binary(), pa.large_binary()]),
    st.integers(1, 9),
)
def test_categories_are_read_like_plain_columns(tmp_path_factory, photos, names, kind, group_size):
    """A column of bytes, and a struct of bytes and path, each with and without a dictionary."""
    folder = tmp_path_factory.mktemp("parquet")
    names = names[: len(photos)]
    columns = {
        "plain": pa.array(photos, kind),
        "categories": categories(photos, kind),
        "plain_struct": pa.StructArray.from_arrays(
            [pa.array(photos, kind), pa.array(names)], ["bytes", "path"]
        ),
        "struct": pa.StructArray.from_arrays(
            [categories(photos, kind), categories(names, pa.string())], ["bytes", "path"]
        ),
    }
    found = {}
    for name, column in columns.items():
        path = folder / f"{name}.parquet"
        pq.write_table(pa.table({"image": column}), path, row_group_size=group_size)
        listed = list_container(str(path), "parquet")
        assert listed.problem is None
        found[name] = read(listed)
    assert found["categories"] == found["plain"]
    assert found["struct"] == found["plain_struct"]
    assert len(found["struct"]) == len(photos)


@given(st.lists(st.none() | st.text(max_size=9), min_size=1, max_size=30))
def test_uris_that_are_categories(tmp_path_factory, uris):
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    pq.write_table(pa.table({"uri": categories(uris, pa.string())}), path)
    assert list_container(str(path), "parquet").uris == list(filter(None, uris))


def test_some_rows_of_a_plain_column_of_bytes(tmp_path):
    path = tmp_path / "a.parquet"
    contents = [b"%d" % i * 1000 for i in range(300)]
    pq.write_table(pa.table({"jpg": contents}), path, row_group_size=128)
    listed = list_container(str(path), "parquet")
    assert [source.uri for source in listed.sources][:2] == [
        f"{path}!/00000000",
        f"{path}!/00000001",
    ]
    listed.sources = [listed.sources[i] for i in (299, 130, 127, 128, 3)]
    expected = {f"{i:08d}": contents[i] for i in (3, 127, 128, 130, 299)}
    assert read(listed) == expected
    assert read(listed, 2500)["00000299"] == (
        "its 3,000 bytes are more than the limit of 2,500 bytes a photo"
    )


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_damage_never_raises_and_no_photo_is_lost(tmp_path_factory, data):
    rows = [{"bytes": b"%d" % i * 20, "path": f"{i}.jpg"} for i in range(9)]
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    write(path, rows, row_group_size=3, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    listed = list_container(str(path), "parquet")
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    found = read(listed)  # by the listing from before the damage
    assert len(found) == 9
    for i, row in enumerate(rows):
        assert found[f"{i:08d}/{i}.jpg"] == row["bytes"] or isinstance(
            found[f"{i:08d}/{i}.jpg"], str
        )
    damaged = list_container(str(path), "parquet")
    assert damaged.problem or damaged.layout.kind != "photos" or len(damaged.sources) <= 9
    read(damaged)


def test_a_footer_with_contradicting_row_counts_is_damaged(tmp_path):
    """The footer has no checksum. It states the rows of the file and those of each row group."""
    path = tmp_path / "a.parquet"
    write(path, [{"bytes": b"photo", "path": None}] * 9, row_group_size=3)
    content = path.read_bytes()
    (footer_size,) = struct.unpack("<I", content[-8:-4])
    n_damaged = 0
    for place in range(len(content) - 8 - footer_size, len(content) - 8):
        damaged = bytearray(content)
        damaged[place] ^= 1 << 5  # a count of 3, stored as 6, becomes 19
        path.write_bytes(damaged)
        contents = list_container(str(path), "parquet")
        assert len(contents.sources) <= 9
        n_damaged += "its row groups have" in str(contents.problem)
    assert n_damaged >= 4  # the count of the file, and of each row group


def test_a_file_that_changed_since_it_was_listed(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"bytes": b"one", "path": None}, {"bytes": b"two", "path": None}]
    listed = list_container(write(path, rows), "parquet")
    write(path, list(reversed(rows)) + rows)
    assert {*read(listed).values()} == {
        f"{path} has changed since it was listed: run the command again, and do not change the "
        "file while it runs"
    }


def test_files_that_are_not_parquet():
    for content in (b"", b"PAR1", b"x" * 50, b"PAR1" + b"\xff\xff\xff\x7fPAR1"):
        with pytest.raises(DamagedError):
            open_parquet(io.BytesIO(content))


@pytest.mark.parametrize("are_categories", [False, True])
def test_reading_a_large_row_group_takes_bounded_memory(tmp_path, are_categories):
    """400 photos of 1 MiB in one row group: in pages of eight, or categories with 50 values."""
    path = tmp_path / "a.parquet"
    column = pa.array([b"%d" % (i % 50) + bytes(1 << 20) for i in range(400)], B)
    table = pa.table({"image": column.dictionary_encode() if are_categories else column})
    pq.write_table(table, path, row_group_size=400, use_dictionary=False, write_batch_size=8)
    del table, column
    contents = list_container(str(path), "parquet")
    assert len(contents.sources) == 400
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        sizes = [
            len(content)
            for _, content in read_members(contents.sources[0].container, contents.sources, 1 << 30)
        ]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert sizes == [(1 << 20) + len(str(i % 50)) for i in range(400)]
    assert pool.max_memory() < 150 << 20
    assert peak < 50 << 20
