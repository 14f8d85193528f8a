"""Tests of YouTube Faces' protocol."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.errors import InputError
from facecluster.model_export.validation.verification import verify_distances
from facecluster.model_export.validation.youtube_faces import (
    VideoPairs,
    list_frames,
    read_splits,
    verify_videos,
    video_distances,
)

HEADER = "split number, pair number, first name, second name, is same"


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


# ---- splits.txt ----

VIDEO = st.from_regex(r"[A-Z][a-zé_.\-]{0,6}[a-z]/[0-9]", fullmatch=True)
PAIR = st.tuples(st.integers(1, 10), st.integers(1, 500), VIDEO, VIDEO, st.integers(0, 1))


@settings(deadline=None, max_examples=50)
@given(
    st.lists(PAIR, min_size=1, max_size=8),
    st.booleans(),
    st.sampled_from([", ", ",", " ,\t"]),
    st.sampled_from(["published", "corrected", "similarity"]),
)
def test_all_formats_of_the_file_are_read(tmp_path_factory, rows, has_header, comma, form):
    lines = [HEADER] if has_header else []
    for split, i, first, second, same in rows:
        fields = {
            "published": [split, i, first, second, same],
            "corrected": [split, i, first, second, 1 - same, same],
            "similarity": [split, first, second, 0.25, same],
        }[form]
        lines.append(comma.join(map(str, fields)))
    path = tmp_path_factory.mktemp("splits") / "splits.txt"
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    pairs = read_splits(str(path))
    assert pairs.first == [row[2] for row in rows]
    assert pairs.second == [row[3] for row in rows]
    assert pairs.is_same.tolist() == [row[4] == 1 for row in rows]
    assert pairs.folds.tolist() == [row[0] - 1 for row in rows]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no pairs"),
        (HEADER, "contains no pairs"),
        (
            f"{HEADER}\n1, 1, A/0, B/1, 0\n\n1, 2, A/0, 1\n",
            "line 4: expected .* found '1, 2, A/0, 1'",
        ),
        (f"{HEADER}\n1, 1, A/0, B/1, 2\n", "line 2: expected the split, two videos"),
        (f"{HEADER}\n1, 1, A/0, B/1, \n", "line 2: expected the split, two videos"),
        (f"{HEADER}\n0, 1, A/0, B/1, 1\n", "line 2: expected the split, two videos"),
        (f"{HEADER}\n1, 1, A/0, B/, 1\n", "line 2: expected the split, two videos"),
        (f"{HEADER}\n1, 1, A/0, B/1, C/2, 1\n", "line 2: expected the split, two videos"),
        ("x, 1, A/0, B/1, 0\n", "line 1: expected the split, two videos"),
        ("10\t300\nAnn\t1\t2\n", "line 2: expected the split, two videos"),
    ],
)
def test_error_names_the_malformed_line(tmp_path, text, message):
    path = tmp_path / "splits.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_splits(str(path))


def test_error_names_the_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.txt does not exist: .* YouTube Faces"):
        read_splits(str(tmp_path / "nowhere.txt"))


# ---- frames ----


@pytest.mark.parametrize("prefix", ["aligned_detect_5.", "5.", ""])
def test_frames_are_sorted_by_number(tmp_path, prefix):
    video = tmp_path / "Alicia_Witt" / "5"
    video.mkdir(parents=True)
    (video / "Thumbs.db").touch()
    (video / "cover.jpg").touch()
    (video / "notes.1.txt").touch()
    numbers = [*range(95, 205), 2247, 31]
    for number in np.random.default_rng(0).permutation(numbers):
        (video / f"{prefix}{number}.jpg").touch()
    beside = tmp_path / "Alicia_Witt" / "4"
    beside.mkdir()
    (beside / f"{prefix}1.jpg").touch()

    expected = [str(video / f"{prefix}{number}.jpg") for number in sorted(numbers)]
    assert list_frames(str(tmp_path), "Alicia_Witt/5") == expected[:100]
    assert list_frames(str(tmp_path), "Alicia_Witt/5", n_frames=3) == expected[:3]
    assert list_frames(str(tmp_path), "Alicia_Witt/5", n_frames=1000) == expected


def test_video_without_frames_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"Ann/0 does not exist"):
        list_frames(str(tmp_path), "Ann/0")
    video = tmp_path / "Ann" / "0"
    video.mkdir(parents=True)
    with pytest.raises(InputError, match=r"no photos in .*Ann/0"):
        list_frames(str(tmp_path), "Ann/0")
    (video / "cover.jpg").touch()
    with pytest.raises(InputError, match=r"Ann/0 has no frames"):
        list_frames(str(tmp_path), "Ann/0")


# ---- distances ----


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 7), min_size=2, max_size=5))
def test_distance_is_the_mean_over_all_pairs_of_frames(seed, n_frames):
    random = np.random.default_rng(seed)
    width = random.integers(1, 20)
    embeddings = {f"P/{i}": unit(random.normal(size=(n, width))) for i, n in enumerate(n_frames)}
    first, second = zip(*itertools.product(embeddings, repeat=2), strict=True)
    pairs = VideoPairs(list(first), list(second), np.ones(len(first), bool), np.arange(len(first)))
    distances = video_distances(embeddings, pairs)
    for distance, a, b in zip(distances, first, second, strict=True):
        total = sum(
            np.sum((x.astype(float) - y.astype(float)) ** 2)
            for x in embeddings[a]
            for y in embeddings[b]
        )
        assert distance == pytest.approx(total / len(embeddings[a]) / len(embeddings[b]), abs=1e-9)
        # The paper's similarity, for unit vectors.
        cosine = np.mean(embeddings[a].astype(float) @ embeddings[b].astype(float).T)
        assert distance == pytest.approx(2 - 2 * cosine, abs=1e-6)


def test_distance_works_with_concatenated_mirrored_embeddings():
    random = np.random.default_rng(0)
    sides = {
        v: [unit(random.normal(size=(n, 6))) for _ in range(2)] for v, n in [("A/0", 3), ("B/0", 4)]
    }
    pairs = VideoPairs(["A/0"], ["B/0"], np.array([False]), np.array([0]))
    together = video_distances({v: np.hstack(both) for v, both in sides.items()}, pairs)
    apart = sum(video_distances({v: both[i] for v, both in sides.items()}, pairs) for i in (0, 1))
    assert together == pytest.approx(apart)


def test_distance_of_equal_frames_is_not_negative():
    frames = unit(np.random.default_rng(0).normal(size=(200, 1, 512)))
    videos = [f"P/{i}" for i in range(200)]
    pairs = VideoPairs(videos, videos, np.ones(200, bool), np.arange(200))
    distances = video_distances(dict(zip(videos, frames, strict=True)), pairs)
    assert np.all((distances >= 0) & (distances < 1e-12))


# ---- the whole protocol ----


def splits(random, n_splits=10, n_each=20):
    """Videos of 40 people and pairs of them, as a splits file holds them."""
    lines = [HEADER]
    for split in range(1, n_splits + 1):
        for i in range(2 * n_each):
            people = random.choice(40, size=2, replace=False)
            if i < n_each:
                people[1] = people[0]
            lines.append(f"{split}, {i + 1}, P_{people[0]}/0, P_{people[1]}/1, {int(i < n_each)}")
    return "\n".join(lines)


def test_more_frames_separate_videos_better(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "splits.txt"
    path.write_text(splits(random))
    pairs = read_splits(str(path))
    people = {f"P_{i}": random.normal(size=16) for i in range(40)}
    embeddings = {
        video: unit(people[video.split("/")[0]] + 2 * random.normal(size=(30, 16)))
        for video in sorted({*pairs.first, *pairs.second})
    }
    many, n_skipped = verify_videos(embeddings, pairs)
    single, _ = verify_videos({video: frames[:1] for video, frames in embeddings.items()}, pairs)
    assert n_skipped == 0
    assert many.accuracy > 0.95
    assert single.accuracy < 0.75
    expected = verify_distances(video_distances(embeddings, pairs), pairs.is_same, pairs.folds)
    assert many == expected


def test_pairs_with_a_faceless_video_are_left_out_and_counted(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "splits.txt"
    lines = splits(random).splitlines()
    path.write_text("\n".join(lines))
    pairs = read_splits(str(path))
    embeddings = {
        video: unit(random.normal(size=(3, 8))) for video in {*pairs.first, *pairs.second}
    }
    faceless = {**embeddings, "P_3/0": np.zeros((0, 8)), "P_5/1": np.zeros((0, 8))}
    scores, n_skipped = verify_videos(faceless, pairs)

    kept = [line for line in lines if "P_3/0" not in line and "P_5/1" not in line]
    path.write_text("\n".join(kept))
    expected, _ = verify_videos(embeddings, read_splits(str(path)))
    assert (scores, n_skipped) == (expected, len(lines) - len(kept))
    assert n_skipped > 0

    nothing = {video: np.zeros((0, 8)) for video in embeddings}
    with pytest.raises(ValueError, match="no pair has a face in both videos"):
        verify_videos(nothing, pairs)


def test_video_without_embeddings_is_an_error():
    pairs = VideoPairs(["A/0", "B/1"], ["C/0", "B/1"], np.array([False, True]), np.array([0, 1]))
    with pytest.raises(ValueError, match="2 of 3 videos have no embeddings, first B/1"):
        verify_videos({"A/0": np.ones((1, 2))}, pairs)
    with pytest.raises(ValueError, match="1 of 3 videos have no embeddings, first C/0"):
        video_distances(
            {"A/0": np.ones((1, 2)), "B/1": np.ones((1, 2)), "C/0": np.ones((0, 2))}, pairs
        )
