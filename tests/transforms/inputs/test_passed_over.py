"""Folders that are no photos to people, and patterns, which mean what they mean to git."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facecluster.errors import UsageError
from facecluster.transforms.inputs.listing import list_photos
from facecluster.transforms.inputs.passed_over import (
    HIDDEN,
    SYSTEM,
    THUMBNAILS,
    Excludes,
    judge_folder,
)


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("a/.thumbnails", HIDDEN),
        ("a/.Trash-1000", HIDDEN),
        ("a/.picasaoriginals", HIDDEN),
        ("a/@eaDir", THUMBNAILS),
        ("a/#recycle", SYSTEM),
        ("a/#snapshot", SYSTEM),
        ("a/@Recycle", SYSTEM),
        ("a/$RECYCLE.BIN", SYSTEM),
        ("a/System Volume Information", SYSTEM),
        ("a/lost+found", SYSTEM),
        ("a/__MACOSX", SYSTEM),
        ("a/Lightroom Catalog Previews.lrdata", THUMBNAILS),
        ("a/Lightroom Catalog Smart Previews.lrdata", THUMBNAILS),
        ("A.photolibrary/Thumbnails", THUMBNAILS),
        ("A.photolibrary/Previews", THUMBNAILS),
        ("A.aplibrary/Previews", THUMBNAILS),
        ("A.photoslibrary/resources", THUMBNAILS),
        ("A.photoslibrary/Thumbnails", THUMBNAILS),
        ("CaptureOne/Cache", THUMBNAILS),
        ("appdata_oc1a2b3c/preview", THUMBNAILS),
        ("cache/thumbnails", THUMBNAILS),
        ("_data/i", THUMBNAILS),
        ("protected_media/square_thumbnails_small", THUMBNAILS),
        ("A.photoslibrary/originals", None),
        ("A.photoslibrary/Masters", None),
        ("A.photolibrary/Masters", None),
        ("A.photolibrary/Modified", None),
        ("a/A.photoslibrary", None),
        ("a/Thumbnails", None),
        ("a/Previews", None),
        ("a/cache", None),
        ("a/i", None),
        ("a/preview", None),
        ("a/recycle", None),
        ("a/thumbs", None),
        ("a/2019.05", None),
        ("a/..", None),
    ],
)
def test_folders_by_their_names(folder, reason):
    parent, name = folder.split("/")
    assert judge_folder(parent, name, lambda other: False) == reason


@pytest.mark.parametrize("sibling", ["upload", "library"])
def test_thumbnails_of_immich_lie_beside_its_photos(sibling):
    assert judge_folder("a", "thumbs", {sibling, "thumbs"}.__contains__) == THUMBNAILS
    assert judge_folder("a", "thumbs", {"photos", "thumbs"}.__contains__) is None
    assert judge_folder("a", sibling, {sibling, "thumbs"}.__contains__) is None


NAMES = ("a", "b", "c.jpg", "d.jpg")
FOLDERS = ("", "a/", "b/", "a/b/", "a/a/", "b/a/", "a/b/a/")
FILES = [f"{folder}{name}" for folder in FOLDERS for name in ("c.jpg", "d.jpg", "e f", "#g")]
SEGMENTS = st.sampled_from([*NAMES, "*", "**", "*.jpg", "?", "[ab]", "[!a]", "a*", "#g", "e f"])
PATTERNS = st.builds(
    lambda negation, start, segments, end: f"{negation}{start}{'/'.join(segments)}{end}",
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(SEGMENTS, min_size=1, max_size=3),
    st.sampled_from(["", "", "/"]),
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A git repository with FILES."""
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", folder], check=True)
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@settings(max_examples=150)
@given(st.lists(PATTERNS, max_size=4))
@example(["a/", "!a/c.jpg"])
@example(["a/*", "!a/c.jpg"])
@example(["a/**", "!a/b/"])
@example(["*", "!a/"])
@example(["#g"])
def test_patterns_exclude_what_git_excludes(repository, patterns):
    arguments = [argument for pattern in patterns for argument in ("-x", pattern)]
    command = ["git", "-C", repository, "ls-files", "-z", "--others", *arguments]
    kept = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    excludes = Excludes(patterns)
    assert [name for name in FILES if not excludes.match_member(name)] == [
        name for name in FILES if name in kept.split("\0")
    ]


def test_no_patterns_exclude_nothing():
    assert not Excludes()
    assert not Excludes([""])
    assert not Excludes().match_member("a/b.jpg")


def test_a_pattern_without_meaning_is_refused():
    with pytest.raises(UsageError, match="--exclude: Invalid git pattern: '!'"):
        Excludes(["*.png", "!"])


def test_patterns_without_effect_are_told(tmp_path):
    for name in ("a.jpg", "b.png", "thumbs/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    patterns = ["*.png", f"{tmp_path}/a.jpg", "thumbs/", "*.JPG", "", "!b.png"]
    listing = list_photos([str(tmp_path)], exclude=patterns)
    assert [uri.rpartition("/")[2] for uri in listing.uris] == ["a.jpg", "b.png"]
    assert listing.unused_excludes == ("*.png", f"{tmp_path}/a.jpg", "*.JPG", "")
