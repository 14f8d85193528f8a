import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecluster.transforms import schema
from facecluster.transforms.hdbscan_labels import NOISE, Labels
from facecluster.transforms.people import name_people, people_tables

# ---- names ----


def face_ids(n):
    return [schema.face_id(f"{i:02x}".ljust(64, "0"), i % 3) for i in range(n)]


def grouped(labels, ids, previous=None):
    """{person id: its faces} and {face: its person id}, as the next grouping will know them."""
    names = name_people(np.array(labels, int), ids, previous or {})
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
    ids = [schema.face_id(photo_b, 0), schema.face_id(photo_a, 2), schema.face_id(photo_a, 10)]
    assert name_people(np.array([0, 0, 1]), ids, {}) == [
        "person-aaaaaaaaaaaa-002",
        "person-aaaaaaaaaaaa-010",
    ]


def test_photos_whose_names_begin_alike_make_two_people():
    ids = [schema.face_id("a" * 12 + end * 52, 0) for end in "bcd"]
    names = name_people(np.array([0, 1, 2]), ids, {})
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
    assert name_people(np.empty(0, int), [], {}) == []
    assert name_people(np.array([NOISE]), ["a"], {"a": "person-a"}) == []


# ---- tables ----


def unit(vectors):
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def tables(labels, vectors, photo_ids=None):
    labels = np.array(labels, int)
    ids = face_ids(len(labels))
    people, assignments = people_tables(
        Labels(labels, np.where(labels == NOISE, 0, 0.75)),
        unit(vectors) if len(vectors) else np.empty((0, 3), np.float32),
        ids,
        photo_ids or [face[:64] for face in ids],
        {},
    )
    return people, assignments, ids


@given(
    st.lists(
        st.tuples(
            st.integers(NOISE, 3),
            st.lists(st.integers(-3, 3), min_size=3, max_size=3).filter(any),
            st.integers(0, 4),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_tables_agree_with_the_labels(rows):
    labels = labelling([label for label, _, _ in rows])
    vectors = unit([vector for _, vector, _ in rows])
    photos = [f"photo {photo}" for _, _, photo in rows]
    people, assignments, ids = tables(labels, vectors, photos)

    assert assignments["face_id"].to_pylist() == ids
    assert assignments["photo_id"].to_pylist() == photos
    names = assignments["person_id"].to_pylist()
    assert [name is None for name in names] == [label == NOISE for label in labels]
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
