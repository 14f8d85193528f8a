import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facecluster.transforms import schema
from facecluster.transforms.hdbscan_labels import NOISE, Labels
from facecluster.transforms.people import name_people, people_tables

# ---- names ----


def face_ids(n):
    return [schema.face_id(f"{i:05x}".ljust(64, "0"), i % 3) for i in range(n)]


def named(labels, ids, previous=None):
    """Person ids for clusters of faces, of which some had a person before: {face: its id}."""
    had = pa.array([(previous or {}).get(face) for face in ids], pa.string())
    taken = {name for name in (previous or {}).values() if name}
    names = name_people(np.array(labels, int), pa.array(ids, pa.string()), had, taken)
    assert names.type == pa.string()
    return names.to_pylist()


def grouped(labels, ids, previous=None):
    """{person id: its faces} and {face: its person id}, as the next grouping will know them."""
    names = named(labels, ids, previous)
    assert len(names) == max(labels, default=NOISE) + 1
    assert len(set(names)) == len(names), "two people with one id"
    faces = {name: set() for name in names}
    for label, face in zip(labels, ids, strict=True):
        if label != NOISE:
            faces[names[label]].add(face)
    return faces, {face: name for name, group in faces.items() for face in group}


def labelling(drawn):
    """Any numbers to cluster numbers without gaps."""
    numbers = {number: k for k, number in enumerate(sorted(set(drawn) - {NOISE}))}
    return [numbers.get(number, NOISE) for number in drawn]


GROUPINGS = st.lists(st.integers(NOISE, 4), min_size=1, max_size=14).map(labelling)


def expected_names(labels, ids, previous):
    """The same in plain Python, face by face."""
    members, shared = {}, {}
    for label, face in zip(labels, ids, strict=True):
        if label != NOISE:
            members.setdefault(label, []).append(face)
            if previous[face] is not None:
                key = (label, previous[face])
                shared[key] = shared.get(key, 0) + 1
    names = {}
    for (label, name), _ in sorted(shared.items(), key=lambda i: (-i[1], i[0][1], i[0][0])):
        if label not in names and name not in names.values():
            names[label] = name
    taken = {name for name in previous.values() if name is not None}
    for label in sorted(members.keys() - names.keys()):
        new = f"person-{members[label][0][:12]}{members[label][0][64:]}"
        variants = itertools.chain([new], (f"{new}-{k}" for k in itertools.count(2)))
        names[label] = next(name for name in variants if name not in taken)
        taken.add(names[label])
    return [names[label] for label in range(len(names))]


@given(st.data(), GROUPINGS)
def test_names_are_those_of_plain_python(data, labels):
    # Photos whose names begin alike, and people who have the names that new ones would get.
    photos = ["a" * 64, "a" * 12 + "b" * 52, "a" * 12 + "c" * 52, "d" * 64]
    ids = sorted(schema.face_id(photos[i % 4], i // 4) for i in range(len(labels)))
    before = st.sampled_from(
        [None, "person-aaaaaaaaaaaa-000", "person-aaaaaaaaaaaa-000-2", "person-dddddddddddd-001"]
    )
    previous = {face: data.draw(before) for face in ids}
    assert named(labels, ids, previous) == expected_names(labels, ids, previous)


@example([[0, 0], [-1, 0], [0]])  # the person of the second face, which is gone, has the first's id
@given(st.lists(GROUPINGS, min_size=1, max_size=6))
def test_ids_stay_with_the_people_through_any_history(history):
    previous, before = {}, {}
    for labels in history:
        after, assigned = grouped(labels, face_ids(len(labels)), previous)
        overlap = {(new, old): len(after[new] & before[old]) for new in after for old in before}
        for new in after:
            if new in before:  # no id passes to faces that have nothing to do with it
                assert overlap[new, new] > 0
        for old in before:
            shares = {new: overlap[new, old] for new in after if overlap[new, old]}
            if shares:  # nobody keeps the id only where all who share faces took a better one
                assert old in after or all(
                    name in before and overlap[name, name] >= share
                    for name, share in shares.items()
                )
            if old in after:  # and it is kept by the one who shares most, if that one is free
                for new, share in shares.items():
                    if share > overlap[old, old]:
                        assert new in before
                        assert overlap[new, new] >= share
        previous, before = assigned, after


@given(GROUPINGS, st.randoms(use_true_random=False))
def test_grouping_the_same_again_changes_no_id_whatever_the_numbers(labels, random):
    ids = face_ids(len(labels))
    _, first = grouped(labels, ids)
    numbers = random.sample(range(max(labels) + 1), max(labels) + 1)
    renumbered = [numbers[label] if label != NOISE else NOISE for label in labels]
    assert grouped(renumbered, ids, first)[1] == first
    assert grouped(renumbered, ids)[1] == first  # nor does a first grouping look at the numbers


def test_a_new_person_is_named_after_its_first_face():
    photo_a, photo_b = "a" * 64, "b" * 64
    ids = [schema.face_id(photo_a, 2), schema.face_id(photo_a, 10), schema.face_id(photo_b, 0)]
    assert named([0, 1, 0], ids, {}) == [
        "person-aaaaaaaaaaaa-002",
        "person-aaaaaaaaaaaa-010",
    ]


def test_photos_whose_names_begin_alike_make_two_people():
    ids = [schema.face_id("a" * 12 + end * 52, 0) for end in "bcd"]
    names = named([0, 1, 2], ids, {})
    assert names == ["person-aaaaaaaaaaaa-000", "person-aaaaaaaaaaaa-000-2",
                     "person-aaaaaaaaaaaa-000-3"]  # fmt: skip


def test_ids_stay_when_photos_are_added():
    ids = face_ids(8)
    _, before = grouped([0, 0, 1, 1], ids[4:])
    # The new faces sort before the old ones, and two of them are a new person.
    _, after = grouped([1, 0, 0, 2, 1, 1, 2, 2], ids, before)
    assert {face: after[face] for face in before} == before
    assert after[ids[0]] == before[ids[4]]
    assert after[ids[1]] not in before.values()


def test_the_larger_part_of_a_split_keeps_the_id():
    ids = face_ids(5)
    _, before = grouped([0, 0, 0, 0, 0], ids)
    _, after = grouped([0, 0, 1, 1, 1], ids, before)
    assert after[ids[4]] == before[ids[4]]
    assert after[ids[0]] != before[ids[0]]


def test_two_people_who_become_one_have_the_larger_ones_id():
    ids = face_ids(5)
    _, before = grouped([0, 0, 1, 1, 1], ids)
    _, after = grouped([0] * 5, ids, before)
    assert set(after.values()) == {before[ids[4]]}


def test_the_second_best_is_kept_where_the_best_is_taken():
    ids = face_ids(9)
    _, before = grouped([0, 0, 0, 0, 0, 1, 1, NOISE, NOISE], ids)
    # The first cluster shares three faces with the first person; the second two with each.
    _, after = grouped([0, 0, 0, 1, 1, 1, 1, 1, 1], ids, before)
    assert {after[face] for face in ids[:3]} == {before[ids[0]]}
    assert {after[face] for face in ids[3:]} == {before[ids[6]]}


def test_a_person_made_of_namesakes_of_others_gets_an_id_of_its_own():
    # Two people are named after faces that then leave them and come together.
    ids = face_ids(6)
    _, before = grouped([0, 1, 0, 0, 1, 1], ids)
    after_groups, after = grouped([2, 2, 0, 0, 1, 1], ids, before)
    assert (after[ids[2]], after[ids[4]]) == (before[ids[2]], before[ids[4]])
    assert len(after_groups) == 3
    # And again: the next split of the same kind must not meet the id just made up.
    groups, _ = grouped([2, 3, 0, 0, 1, 1], ids, after)
    assert len(groups) == 4


def test_the_id_of_a_person_who_is_gone_does_not_pass_to_strangers():
    ids = face_ids(4)
    _, before = grouped([0, 0, 0, NOISE], ids)
    name = before[ids[0]]
    # The face that the person is named after leaves it; then it meets a stranger, and the others
    # are left unassigned.
    _, without = grouped([NOISE, 0, 0, NOISE], ids, before)
    assert without[ids[1]] == name
    _, after = grouped([0, NOISE, NOISE, 0], ids, without)
    assert after[ids[0]] != name


def test_without_faces_there_are_no_people():
    assert named([], []) == []
    assert named([NOISE], ["a"], {"a": "person-a"}) == []


# ---- tables ----


def unit(vectors):
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def spread(vectors):
    """Root mean square of the distances of all pairs; 0 where there are none."""
    pairs = [np.sum((a - b) ** 2) for a, b in itertools.combinations(vectors.astype(float), 2)]
    return np.sqrt(np.mean(pairs or [0]))


def tables(labels, vectors, photo_ids=None, repeated=None):
    labels = np.array(labels, int)
    ids = face_ids(len(labels))
    photo_ids = photo_ids or [face[:64] for face in ids]
    people, assignments = people_tables(
        Labels(labels, np.where(labels == NOISE, 0, 0.75)),
        np.asarray(vectors).reshape(len(labels), -1 if len(labels) else 3),
        pa.array(ids, pa.string()),
        pa.array(photo_ids, pa.string()),
        np.zeros(len(labels), bool) if repeated is None else np.array(repeated),
        pa.array([f"person {k}" for k in range(labels.max(initial=NOISE) + 1)], pa.string()),
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
    stored = np.array([vector for _, vector, *_ in rows], kind)  # of any length
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
        assert person["n_photos"] == len({photos[i] for i in members})
        assert person["spread"] == pytest.approx(spread(vectors[members]), abs=2e-3)
        centre = vectors[members].astype(np.float64).sum(axis=0)
        if np.linalg.norm(centre) < 1e-3:
            continue  # faces in opposite directions have no mean direction
        centre /= np.linalg.norm(centre)
        expected = np.linalg.norm(vectors[members] - centre, axis=1)
        distances = [assignments["distance"][i].as_py() for i in members]
        assert distances == pytest.approx(expected, abs=1e-5)
        representative = members[[ids[i] for i in members].index(person["representative_face_id"])]
        nearest = np.linalg.norm(vectors[representative] - centre)
        assert nearest == pytest.approx(expected.min(), abs=1e-5)


def test_the_representative_is_in_the_middle():
    # Angles of 0, 20, 30, 70 degrees: the mean direction is at about 30.
    angles = np.radians([0, 20, 30, 70])
    people, assignments, ids = tables([0] * 4, np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert people["representative_face_id"].to_pylist() == [ids[2]]
    assert np.argmin(assignments["distance"].to_pylist()) == 2


@pytest.mark.parametrize("labels", [[], [NOISE, NOISE]])
def test_nobody(labels):
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


def test_more_faces_than_are_read_at_once():
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
    centres = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    expected = np.linalg.norm(vectors - centres[labels], axis=1)[clustered]
    distances = assignments["distance"].to_numpy()
    assert distances[clustered] == pytest.approx(expected, abs=1e-5)
    assert np.all(np.isnan(distances[~clustered]))
    sizes = dict(zip(people["person_id"].to_pylist(), people["size"].to_pylist(), strict=True))
    counts = np.bincount(labels[clustered])
    assert sizes == {f"person {k}": count for k, count in enumerate(counts.tolist())}
