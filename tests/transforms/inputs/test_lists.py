"""Lists of photos: text, CSV, relative names, and files that are not lists."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.transforms.inputs.lists import MAX_LINE_LENGTH, ListError, read_list, resolve_entry


def write_and_read(path, content: bytes | str) -> list[str]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_list(str(path)))


def test_text_lists(tmp_path):
    text = (
        "\ufeff# a comment\n\na.jpg\r\n  sub/b c.jpg \n../up.jpg\n/abs/d.jpg\n"
        "gs://b/e.jpg\n #f.jpg\na.tar!/./x/../g.jpg\nfile:///h%20i.jpg\nlast"
    )
    assert write_and_read(tmp_path / "list.txt", text) == [
        f"{tmp_path}/a.jpg",
        f"{tmp_path}/sub/b c.jpg",
        f"{tmp_path.parent}/up.jpg",
        "/abs/d.jpg",
        "gs://b/e.jpg",
        f"{tmp_path}/a.tar!/./x/../g.jpg",
        "/h i.jpg",
        f"{tmp_path}/last",
    ]


def test_names_that_are_not_utf_8(tmp_path):
    assert write_and_read(tmp_path / "list.txt", b"caf\xe9.jpg\n") == [f"{tmp_path}/caf\udce9.jpg"]


@pytest.mark.parametrize(
    "text",
    [
        "uri\n{0}\n{1}\n",
        "id,Photo ,n\n1,{0},2\n2,{1},3\n3\n4,,5\n",
        "name;image\nx;{0}\ny;{1}",
        'label\tpath\n"x"\t"{0}"\ny\t{1}',
        "what,ever\n{0},1\n{1},2\n",
        "{0}\n{1}\n",
        "{0},Ann\n{1},Bob\n",
        "path,uri\nno.jpg,{0}\nno.jpg,{1}\n",
    ],
)
def test_csv_lists(tmp_path, text):
    assert write_and_read(tmp_path / "list.CSV", text.format("/a.jpg", "/b.jpg")) == [
        "/a.jpg",
        "/b.jpg",
    ]


names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1)


@settings(deadline=None)
@given(st.lists(names.filter(lambda name: not name.startswith("#"))))
def test_any_names_in_text(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("list") / "list.txt"
    lines = [f"/{line}" for line in lines]
    assert write_and_read(path, "\n".join(lines)) == lines


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
@pytest.mark.parametrize(
    "content", [b"a\0b", b"x" * (MAX_LINE_LENGTH + 5), b"uri\n" + bytes(MAX_LINE_LENGTH)]
)
def test_files_that_are_not_lists(tmp_path, suffix, content):
    with pytest.raises(ListError, match="not text"):
        write_and_read(tmp_path / f"list{suffix}", content)


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([".txt", ".csv"]))
def test_any_bytes_are_a_list_or_a_list_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("list") / f"list{suffix}"
    with contextlib.suppress(ListError):
        assert all(uri.strip() for uri in write_and_read(path, content))


def test_names_relative_to_a_list_in_an_object_store():
    assert resolve_entry("gs://b/lists/l.txt", "./a.jpg") == "gs://b/lists/a.jpg"
    assert resolve_entry("gs://b/lists/l.txt", "s3://c/a.jpg") == "s3://c/a.jpg"
