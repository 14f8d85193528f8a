import itertools

import numpy as np
import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from facecluster.transforms.grouping.hdbscan_labels import NOISE
from facecluster.transforms.people.names import name_people
from facecluster.transforms.tables import schema


def face_ids(n):
    return [schema.face_id(f"{i:05x}".ljust(64, "0"), i % 3) for i in range(n)]


def named(labels, ids, previous=None):
    """Person ids for clusters; `previous` is {face: the person id that it had}."""
    had = pa.array([(previous or {}).get(face) for face in ids], pa.string())
    taken = {name for name in (previous or {}).values() if name}
    names = name_people(np.array(labels, int), pa.array(ids, pa.string()), had, taken)
    assert names.type == pa.string()
    return names.to_pylist()


def grouped(labels, ids, previous=None):
    """{person id: its faces} and {face: its person id}, for the next grouping."""
    names = named(labels, ids, previous)
    assert len(names) == max(labels, default=NOISE) + 1
    assert len(set(names)) == len(names), "two people with one id"
    faces = {name: set() for name in names}
    for label, face in zip(labels, ids, strict=True):
        if label != NOISE:
            faces[names[label]].add(face)
    return faces, {face: name for name, group in faces.items() for face in group}


def labelling(drawn):
    """Renumbers clusters without gaps."""
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
    # Photo ids with a common beginning, and people who have the names that new people would get.
    photos = ["a" * 64, "a" * 12 + "b" * 52, "a" * 12 + "c" * 52, "d" * 64]
    ids = sorted(schema.face_id(photos[i % 4], i // 4) for i in range(len(labels)))
    before = st.sampled_from(
        [None, "person-aaaaaaaaaaaa-000", "person-aaaaaaaaaaaa-000-2", "person-dddddddddddd-001"]
    )
    previous = {face: data.draw(before) for face in ids}
    assert named(labels, ids, previous) == expected_names(labels, ids, previous)


@example([[0, 0], [-1, 0], [0]])  # the second face's person, which is gone, had the first's id
@given(st.lists(GROUPINGS, min_size=1, max_size=6))
def test_ids_stay_with_the_people_through_any_history(history):
    previous, before = {}, {}
    for labels in history:
        after, assigned = grouped(labels, face_ids(len(labels)), previous)
        overlap = {(new, old): len(after[new] & before[old]) for new in after for old in before}
        for new in after:
            if new in before:  # no id goes to a cluster without a face of the person who had it
                assert overlap[new, new] > 0
        for old in before:
            shares = {new: overlap[new, old] for new in after if overlap[new, old]}
            if shares:  # an id is lost only if all clusters that share faces took a better one
                assert old in after or all(
                    name in before and overlap[name, name] >= share
                    for name, share in shares.items()
                )
            if old in after:  # it is kept by the cluster that shares most faces, if it is free
                for new, share in shares.items():
                    if share > overlap[old, old]:
                        assert new in before
                        assert overlap[new, new] >= share
        previous, before = assigned, after


@given(GROUPINGS, st.randoms(use_true_random=False))
def test_grouping_the_same_again_changes_no_id(labels, random):
    ids = face_ids(len(labels))
    _, first = grouped(labels, ids)
    numbers = random.sample(range(max(labels) + 1), max(labels) + 1)
    renumbered = [numbers[label] if label != NOISE else NOISE for label in labels]
    assert grouped(renumbered, ids, first)[1] == first
    assert grouped(renumbered, ids)[1] == first  # so is a first grouping


def test_a_new_person_is_named_after_its_first_face():
    photo_a, photo_b = "a" * 64, "b" * 64
    ids = [schema.face_id(photo_a, 2), schema.face_id(photo_a, 10), schema.face_id(photo_b, 0)]
    assert named([0, 1, 0], ids, {}) == [
        "person-aaaaaaaaaaaa-002",
        "person-aaaaaaaaaaaa-010",
    ]


def test_people_of_photos_whose_ids_begin_alike_get_different_names():
    ids = [schema.face_id("a" * 12 + end * 52, 0) for end in "bcd"]
    names = named([0, 1, 2], ids, {})
    assert names == ["person-aaaaaaaaaaaa-000", "person-aaaaaaaaaaaa-000-2",
                     "person-aaaaaaaaaaaa-000-3"]  # fmt: skip


def test_ids_stay_when_photos_are_added():
    ids = face_ids(8)
    _, before = grouped([0, 0, 1, 1], ids[4:])
    # The new faces are sorted before the old ones, and two of them are a new person.
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


def test_two_people_who_become_one_get_the_id_of_the_larger():
    ids = face_ids(5)
    _, before = grouped([0, 0, 1, 1, 1], ids)
    _, after = grouped([0] * 5, ids, before)
    assert set(after.values()) == {before[ids[4]]}


def test_the_second_best_id_is_kept_if_the_best_is_taken():
    ids = face_ids(9)
    _, before = grouped([0, 0, 0, 0, 0, 1, 1, NOISE, NOISE], ids)
    # The first cluster shares three faces with the first person; the second shares two with each.
    _, after = grouped([0, 0, 0, 1, 1, 1, 1, 1, 1], ids, before)
    assert {after[face] for face in ids[:3]} == {before[ids[0]]}
    assert {after[face] for face in ids[3:]} == {before[ids[6]]}


def test_a_person_of_faces_that_others_are_named_after_gets_an_id_of_its_own():
    # Two people are named after faces that then form a person of their own.
    ids = face_ids(6)
    _, before = grouped([0, 1, 0, 0, 1, 1], ids)
    after_groups, after = grouped([2, 2, 0, 0, 1, 1], ids, before)
    assert (after[ids[2]], after[ids[4]]) == (before[ids[2]], before[ids[4]])
    assert len(after_groups) == 3
    # The next split of this kind must not get the same id.
    groups, _ = grouped([2, 3, 0, 0, 1, 1], ids, after)
    assert len(groups) == 4


def test_the_id_of_a_person_who_is_gone_is_not_used_again():
    ids = face_ids(4)
    _, before = grouped([0, 0, 0, NOISE], ids)
    name = before[ids[0]]
    # The face that the person is named after leaves it. Then it forms a person with another face,
    # and the others are unassigned.
    _, without = grouped([NOISE, 0, 0, NOISE], ids, before)
    assert without[ids[1]] == name
    _, after = grouped([0, NOISE, NOISE, 0], ids, without)
    assert after[ids[0]] != name


def test_a_first_grouping_needs_no_taken_ids():
    ids = pa.array(face_ids(3), pa.string())
    names = name_people(np.array([0, 0, 1]), ids, pa.nulls(3, pa.string()))
    assert names.to_pylist() == named([0, 0, 1], ids.to_pylist())


def test_the_dictionary_of_earlier_people_holds_taken_ids():
    """Also of people who have none of the faces any more."""
    ids = face_ids(2)
    gone = named([0, 0], ids)
    nobody = pa.DictionaryArray.from_arrays(pa.array([None, None], pa.int32()), pa.array(gone))
    names = name_people(np.array([0, 0]), pa.array(ids), nobody)
    assert names.to_pylist() == [f"{gone[0]}-2"]


def test_earlier_people_may_be_dictionary_encoded():
    ids = pa.array(face_ids(4))
    previous = pa.array(["b", None, "a", "a"])
    labels = np.array([0, 0, 1, NOISE])
    plain = name_people(labels, ids, previous)
    assert name_people(labels, ids, previous.dictionary_encode()) == plain
    assert plain.to_pylist() == ["b", "a"]


def test_without_faces_there_are_no_people():
    assert named([], []) == []
    assert named([NOISE], ["a"], {"a": "person-a"}) == []
