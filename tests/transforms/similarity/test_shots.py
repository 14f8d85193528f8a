"""Which faces are one shot, and how many photos that makes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facecluster.transforms.similarity.shots import (
    count_photos,
    first_of_shots,
    match_near_duplicates,
)

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(0, 30), st.integers(0, 20))
def test_the_first_of_a_shot_is_the_lowest_number_connected_with_it(seed, n, n_pairs):
    random = np.random.default_rng(seed)
    faces, others = random.integers(0, max(n, 1), (2, n_pairs if n else 0))
    shot = list(range(n))
    for _ in range(n):
        for a, b in zip(faces.tolist(), others.tolist(), strict=True):
            shot[a] = shot[b] = min(shot[a], shot[b])
    assert first_of_shots(faces, others, n).tolist() == shot


def test_faces_of_near_duplicates_are_matched_one_to_one():
    # Photos 5, 6 and 7 show two people; face 4 is in photo 7 alone.
    photos = np.array([5, 5, 6, 6, 7, 7])
    faces, others = np.array([0, 0, 1, 1, 0, 4, 0]), np.array([2, 3, 2, 3, 1, 1, 5])
    similarity = np.array([0.9, 0.7, 0.8, 0.75, 0.99, 0.6, 0.5])
    found = match_near_duplicates(faces, others, similarity, photos)
    # 1 is nearer to 2 than to 3, but 2 is nearest to 0: 1 and 3 stay apart.
    assert {tuple(sorted(pair)) for pair in zip(*found, strict=True)} == {(0, 2), (1, 4), (0, 5)}
    nothing = np.empty(0, int)
    assert len(match_near_duplicates(nothing, nothing, np.empty(0), photos)[0]) == 0


def photos_by_definition(rows):
    """The number of photos of rows of (shot, appearance, photo, original)."""
    seen = 0
    for original in {row[3] for row in rows}:
        there = [row for row in rows if row[3] == original]
        seen += max(
            len({row[1] for row in there if row[2] == photo}) for photo in {row[2] for row in there}
        )
    return min(len({row[0] for row in rows}), seen)


@given(
    st.lists(st.tuples(st.integers(0, 3), *[st.integers(0, 5)] * 2, st.integers(0, 9)), max_size=40)
)
def test_photos_are_counted_as_by_definition(drawn):
    # Two photos show the same if their numbers agree in the last digit modulo 4.
    rows = [(label, shot, seen, photo, photo % 4) for label, shot, seen, photo in drawn]
    columns = np.array(rows, np.int64).reshape(-1, 5).T
    n_labels = max((row[0] for row in rows), default=-1) + 1
    expected = [
        photos_by_definition(theirs) if theirs else 0
        for label in range(n_labels)
        for theirs in [[row[1:] for row in rows if row[0] == label]]
    ]
    assert count_photos(*columns).tolist() == expected
