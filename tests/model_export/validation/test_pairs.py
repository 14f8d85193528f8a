"""Tests of labeled pairs and the reader of LFW's pairs files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.errors import InputError
from facecluster.model_export.crops import Crops
from facecluster.model_export.validation.held_out import HeldOut
from facecluster.model_export.validation.pairs import ImagePairs, read_pairs
from facecluster.model_export.validation.youtube_faces import VideoPairs

PERSON = st.text("abcXYZ_-.é", min_size=1, max_size=8)
INDEX = st.integers(0, 10_000)
MATCHED = st.tuples(PERSON, INDEX, INDEX)
MISMATCHED = st.tuples(PERSON, INDEX, PERSON, INDEX)


def stem(name, index):
    return f"{name}/{name}_{str(index).zfill(4)}"


@settings(deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.sampled_from(["\t", " "]))
def test_view2_keeps_the_official_folds(tmp_path_factory, data, n_folds, n_each, separator):
    lines, first, second = [f"{n_folds}{separator}{n_each}"], [], []
    for _ in range(n_folds):
        for name, i, j in data.draw(st.lists(MATCHED, min_size=n_each, max_size=n_each)):
            lines.append(separator.join([name, str(i), str(j)]))
            first.append(stem(name, i))
            second.append(stem(name, j))
        for a, i, b, j in data.draw(st.lists(MISMATCHED, min_size=n_each, max_size=n_each)):
            lines.append(separator.join([a, str(i), b, str(j)]))
            first.append(stem(a, i))
            second.append(stem(b, j))
    path = tmp_path_factory.mktemp("view2") / "pairs.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    pairs = read_pairs(str(path))
    assert (pairs.first, pairs.second) == (first, second)
    assert pairs.is_same.tolist() == ([True] * n_each + [False] * n_each) * n_folds
    assert pairs.folds.tolist() == [fold for fold in range(n_folds) for _ in range(2 * n_each)]


@pytest.mark.parametrize("n_each", [10, 25, 1100])
def test_view1_folds_are_balanced(tmp_path, n_each):
    path = tmp_path / "pairsDevTrain.txt"
    matched = [f"Ann\t{i}\t{i + 1}" for i in range(n_each)]
    mismatched = [f"Ann\t{i}\tBob Dee\t{i}" for i in range(n_each)]
    path.write_text("\n".join([str(n_each), *matched, *mismatched]))
    pairs = read_pairs(str(path))
    assert pairs.first[1] == "Ann/Ann_0001"
    assert pairs.second[-1] == stem("Bob Dee", n_each - 1)
    assert pairs.is_same.tolist() == [True] * n_each + [False] * n_each
    for kind in (pairs.is_same, ~pairs.is_same):
        sizes = np.bincount(pairs.folds[kind], minlength=10)
        assert len(sizes) == 10
        assert sizes.max() - sizes.min() <= 1
        assert np.all(np.diff(pairs.folds[kind]) >= 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: an LFW pairs file starts with"),
        ("Ann 1 2\n", "line 1: an LFW pairs file starts with"),
        ("10 0\n", "line 1: an LFW pairs file starts with"),
        ("3\n", "line 1: 3 pairs of each kind do not fill 10 folds"),
        ("2 1\nAnn 1 2\nAnn 1 Bob 1\nAnn 1 3\n", "has 3 pairs where its first line announces 4"),
        ("1 1\nAnn 1 2\n\nAnn 1 3\n", r"line 4: expected a mismatched one .* found 'Ann 1 3'"),
        ("1 1\nAnn 1 Bob 1\nAnn 1 3\n", "line 2: expected a matched pair"),
        ("1 1\nAnn 1 x\nAnn 1 Bob 1\n", "line 2: expected a matched pair .* found 'Ann 1 x'"),
        ("1 1\nAnn 1 2\nAnn 1 Bob -1\n", "line 3: expected a mismatched one"),
    ],
)
def test_error_names_the_malformed_line(tmp_path, text, message):
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_pairs(str(path))


def test_error_names_the_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.txt does not exist"):
        read_pairs(str(tmp_path / "nowhere.txt"))


@pytest.mark.parametrize("kind", [ImagePairs, VideoPairs])
def test_pairs_are_equal_if_all_their_fields_are(kind):
    def pairs(first="a", is_same=(True, False), folds=(0, 1)):
        return kind([first, "b"], ["c", "d"], np.array(is_same), np.array(folds))

    assert pairs() == pairs()
    assert pairs() != pairs(first="z")
    assert pairs() != pairs(is_same=(True, True))
    assert pairs() != pairs(folds=(0, 2))
    assert pairs() != "pairs"
    assert ImagePairs(["a"], ["b"], [True], [0]) != VideoPairs(["a"], ["b"], [True], [0])


def test_held_out_crops_can_be_compared():
    crops = Crops(np.array([0, 0]), ("Ann",), ("Ann/1", "Ann/2"), ())
    pairs = [ImagePairs(["a"], ["b"], np.array([True]), np.array([fold])) for fold in (0, 0, 1)]
    assert HeldOut(crops, pairs[0]) == HeldOut(crops, pairs[1])
    assert HeldOut(crops, pairs[0]) != HeldOut(crops, pairs[2])
