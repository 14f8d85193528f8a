"""Names of crops are valid file names, and unique."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.transforms.crops.cut import LabeledPhoto
from facecluster.transforms.crops.names import crop_name, unique_names
from facecluster.transforms.crops.write import CropWriter
from facecluster.transforms.records import Shard


@pytest.mark.parametrize(
    ("person", "uri", "form", "index", "expected"),
    [
        ("Ann_Lee", "/lfw/Ann_Lee/Ann_Lee_0001.jpg", "folder", None, "Ann_Lee/Ann_Lee_0001"),
        ("Ann Lee", "gs://b/x/Ann Lee/day 1.v2.jpeg", "folder", None, "Ann Lee/day 1.v2"),
        ("J. Doe", "/x/day.1.v2.jpg", "tar", None, "J. Doe/day_1_v2"),
        ("p", "/x/group.jpg", "tfrecord", 0, "p/group_0"),
        ("a/b\0c", "/x/1.jpg", "folder", None, "a_b_c/1"),
        ("..", "/x/1.jpg", "folder", None, "__/1"),
        ("", "/1.jpg", "folder", None, "_/1"),
        ("Zoë ☺", "/x/ï.png", "folder", None, "Zoë ☺/ï"),
    ],
)
def test_a_crop_is_named_after_person_and_photo(person, uri, form, index, expected):
    assert crop_name(person, uri, form, index) == expected


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@settings(deadline=None, max_examples=200)
@given(person=TEXT, stem=TEXT, form=st.sampled_from(["folder", "tar"]))
def test_any_label_gives_a_file_in_a_folder(tmp_path_factory, person, stem, form):
    root = tmp_path_factory.mktemp("names")
    name = crop_name(person, f"/photos/{stem}.jpg", form, index=12345)
    photo = LabeledPhoto("a", Shard("s", 1), names=(name,), crops=(b"png",))
    CropWriter(str(root), "folder").write("s", [photo])
    (folder,) = (path for path in root.iterdir() if path.name != "failures")
    (file,) = folder.iterdir()
    assert f"{folder.name}/{file.name}" == f"{name}.png"


@given(st.lists(st.sampled_from(["p/a", "p/A", "p/a_1", "p/a_2", "p/A_1_1", "q/a", "p/b"])))
def test_names_are_unique_and_the_first_of_equal_ones_is_kept(requested):
    names = unique_names(requested)
    folded = [name.casefold() for name in names]
    assert len(set(folded)) == len(requested)
    first = {}
    for name, request in zip(names, requested, strict=True):
        if request.casefold() not in first:
            assert name == request
        else:
            assert re.fullmatch(re.escape(request) + r"_\d+", name)
        first.setdefault(request.casefold(), name)


def test_numbers_skip_names_that_are_requested():
    assert unique_names(["p/a", "p/a", "p/a_1", "p/a"]) == ["p/a", "p/a_2", "p/a_1", "p/a_3"]
