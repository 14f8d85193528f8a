import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecluster.transforms.grouping.hdbscan_labels import NOISE, Labels
from facecluster.transforms.people.tables import make_people_tables
from facecluster.transforms.tables import schema
from tests.transforms.people.test_names import face_ids, labelling


def unit(vectors):
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def spread(vectors):
    """The root mean square distance of all pairs; 0 without any."""
    pairs = [np.sum((a - b) ** 2) for a, b in itertools.combinations(vectors.astype(float), 2)]
    return np.sqrt(np.mean(pairs or [0]))


def tables(labels, vectors, photo_ids=None, repeated=None):
    labels = np.array(labels, int)
    ids = face_ids(len(labels))
    photo_ids = photo_ids or [face[:64] for face in ids]
    people, assignments = make_people_tables(
        Labels(labels, np.where(labels == NOISE, 0, 0.75)),
        np.asarray(vectors).reshape(len(labels), -1 if len(labels) else 3),
        pa.array(ids, pa.string()),
        pa.array(photo_ids, pa.string()),
        np.zeros(len(labels), bool) if repeated is None else np.array(repeated),
        pa.array([f"person {k}" for k in range(labels.max(initial=NOISE) + 1)], pa.string()),
        10 + np.arange(labels.max(initial=NOISE) + 1),
    )
    return people, assignments, ids


@given(
    st.lists(
        st.tuples(
            st.integers(NOISE, 3),
            st.lists(st.integers(-3, 3), min_size=3, max_size=3).filter(any),
            st.integers(0, 4),
            st.booleans(),
        ),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(["int8", "float16", "float32"]),
)
def test_tables_agree_with_the_labels(rows, kind):
    labels = labelling([label for label, *_ in rows])
    stored = np.array([vector for _, vector, *_ in rows], kind)  # not unit vectors
    vectors = unit(stored)
    photos = [f"photo {photo}" for *_, photo, _ in rows]
    repeated = [again for *_, again in rows]
    people, assignments, ids = tables(labels, stored, photos, repeated)

    assert assignments["face_id"].to_pylist() == ids
    assert assignments["photo_id"].to_pylist() == photos
    names = assignments["person_id"].to_pylist()
    assert names == [None if label == NOISE else f"person {label}" for label in labels]
    assert assignments["repeated_in_photo"].to_pylist() == repeated
    assert assignments["distance"].null_count == labels.count(NOISE)
    assert assignments["probability"].to_pylist() == [0.75 * (k != NOISE) for k in labels]

    people = people.to_pylist()
    assert sum(person["size"] for person in people) == len(labels) - labels.count(NOISE)
    assert people == sorted(people, key=lambda person: (-person["size"], person["person_id"]))
    for person in people:
        members = [i for i, name in enumerate(names) if name == person["person_id"]]
        assert len({labels[i] for i in members}) == 1
        assert person["size"] == len(members)
        assert person["n_photos"] == 10 + labels[members[0]]
        assert person["confidence"] == 0.75
        assert person["spread"] == pytest.approx(spread(vectors[members]), abs=2e-3)
        center = vectors[members].astype(np.float64).sum(axis=0)
        if np.linalg.norm(center) < 1e-3:
            continue  # faces in opposite directions have no mean direction
        center /= np.linalg.norm(center)
        expected = np.linalg.norm(vectors[members] - center, axis=1)
        distances = [assignments["distance"][i].as_py() for i in members]
        assert distances == pytest.approx(expected, abs=1e-5)
        representative = members[[ids[i] for i in members].index(person["representative_face_id"])]
        nearest = np.linalg.norm(vectors[representative] - center)
        assert nearest == pytest.approx(expected.min(), abs=1e-5)


def test_confidence_is_the_mean_probability():
    probabilities = np.array([0.5, 1.0, 0.25, 0.0, 0.75])
    labels = np.array([0, 0, 1, NOISE, 0])
    people, _ = make_people_tables(
        Labels(labels, probabilities),
        np.eye(5),
        *[pa.array(face_ids(5), pa.string())] * 2,
        np.zeros(5, bool),
        pa.array(["a", "b"]),
        np.array([3, 1]),
    )
    assert people["person_id"].to_pylist() == ["a", "b"]
    assert people["confidence"].to_pylist() == [0.75, 0.25]


def test_the_representative_is_nearest_to_the_mean():
    # Angles of 0, 20, 30, 70 degrees: the mean direction is at about 30.
    angles = np.radians([0, 20, 30, 70])
    people, assignments, ids = tables([0] * 4, np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert people["representative_face_id"].to_pylist() == [ids[2]]
    assert np.argmin(assignments["distance"].to_pylist()) == 2


@pytest.mark.parametrize("labels", [[], [NOISE, NOISE]])
def test_without_people_the_table_is_empty(labels):
    people, assignments, ids = tables(labels, [[1, 0, 0]] * len(labels))
    assert len(people) == 0
    assert assignments["face_id"].to_pylist() == ids
    assert assignments["person_id"].to_pylist() == [None] * len(labels)


def test_tables_carry_their_schema_and_version():
    people, assignments, _ = tables([0, 0, NOISE], np.eye(3))
    assert people.schema.equals(schema.PEOPLE)
    assert assignments.schema.equals(schema.ASSIGNMENTS)
    for table in (people, assignments):
        assert schema.stamp_of(table.schema) == {"schema_version": schema.SCHEMA_VERSION}


@pytest.mark.parametrize("noise", [0, 0.01, 0.5, 10])
def test_spread_is_that_of_all_pairs(noise):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(1, 64)) + noise * random.normal(size=(300, 64))
    people, _, _ = tables([0] * 299 + [1], vectors.astype(np.float32))
    assert people["spread"].to_pylist() == pytest.approx([spread(unit(vectors[:299])), 0], abs=1e-3)


def test_more_faces_than_a_block():
    random = np.random.default_rng(0)
    n = 70_000
    labels = random.integers(NOISE, 4, n)
    labels[labels == 3] = random.integers(3, 8000, np.count_nonzero(labels == 3))
    labels = np.array(labelling(labels.tolist()))
    vectors = unit(random.normal([3, 0, 0], 1, (n, 3)))
    people, assignments, _ = tables(labels, vectors, [f"photo {i % 1000}" for i in range(n)])
    clustered = labels != NOISE
    sums = np.zeros((labels.max() + 1, 3))
    np.add.at(sums, labels[clustered], vectors[clustered])
    centers = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    expected = np.linalg.norm(vectors - centers[labels], axis=1)[clustered]
    distances = assignments["distance"].to_numpy()
    assert distances[clustered] == pytest.approx(expected, abs=1e-5)
    assert np.all(np.isnan(distances[~clustered]))
    sizes = dict(zip(people["person_id"].to_pylist(), people["size"].to_pylist(), strict=True))
    counts = np.bincount(labels[clustered])
    assert sizes == {f"person {k}": count for k, count in enumerate(counts.tolist())}
