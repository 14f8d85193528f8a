import pytest

from facecluster.pipeline.cli.summary import format_summary

EMBED = {
    "state": "done",
    "seconds": 3721.5,
    "counts": {
        "photos": 1234,
        "copies": 0,
        "near_duplicates": 0,
        "faces": 2345678,
        "failures": 5,
        "photos_already_done": 0,
        "files_that_are_no_photos": 0,
    },
}
CLUSTER = {
    "state": "done",
    "seconds": 4.2,
    "counts": {
        "faces": 2345678,
        "people": 321,
        "unassigned": 99,
        "left_out": 0,
        "largest_person": 4567,
    },
}


NOTHING_TO_SAY = {
    "max_distance": 0.89,
    "recall": 1.0,
    "share_unassigned": 0.2,
    "share_of_largest_person": 0.1,
    "same_photo_violations": 0,
    "repeated_in_photo": 0,
    "heterogeneous_people": 0,
    "most_heterogeneous": [],
    "giant_people": [],
}


def notes(**diagnostics):
    """The notes on a grouping of these diagnostics, which follow everything else."""
    lines = summary(cluster=CLUSTER | {"diagnostics": NOTHING_TO_SAY | diagnostics})
    without = summary(cluster=CLUSTER)
    assert lines[: len(without)] == without
    return [line.removeprefix("note          ") for line in lines[len(without) :]]


def summary(**steps):
    return format_summary({"steps": steps, "versions": {"python": "3"}}).splitlines()


def test_counts_stand_in_a_column_with_notes():
    counts = EMBED["counts"] | {"photos_already_done": 1000, "files_that_are_no_photos": 12}
    assert summary(cluster=CLUSTER, embed=EMBED | {"counts": counts}) == [
        "photos            1,234  (1,000 inputs done before)",
        "faces         2,345,678",
        "people              321  (largest 4,567 faces)",
        "unassigned           99",
        "failures              5  (12 other files are not named like photos)",
        "time          embed 3,721.5 s, cluster 4.2 s",
    ]


@pytest.mark.parametrize(("n", "inputs"), [(1, "1 input is"), (1200, "1,200 inputs are")])
def test_inputs_that_were_left_out_are_told(n, inputs):
    counts = EMBED["counts"] | {"inputs_gone": n}
    note = f"note          {inputs} left out that an earlier command had still to do"
    assert summary(embed=EMBED | {"counts": counts})[-1] == note


def test_photos_that_show_what_others_show_are_counted():
    counts = EMBED["counts"] | {"photos_already_done": 7, "copies": 3, "near_duplicates": 1200}
    assert summary(embed=EMBED | {"counts": counts})[0] == (
        "photos            1,234  (7 inputs done before)  (3 copies)  (1,200 near-duplicates)"
    )


def test_notes_that_say_nothing_are_left_out():
    nobody = CLUSTER["counts"] | {"people": 0, "largest_person": 0}
    lines = summary(embed=EMBED, cluster=CLUSTER | {"counts": nobody})
    assert "(" not in "".join(lines)
    assert [line.split()[0] for line in lines] == [
        "photos", "faces", "people", "unassigned", "failures", "time",
    ]  # fmt: skip


def test_before_grouping_there_are_only_photos_and_faces():
    assert summary(embed=EMBED) == [
        "photos            1,234",
        "faces         2,345,678",
        "failures              5",
        "time          embed 3,721.5 s",
    ]


def test_a_step_that_was_killed_is_left_out():
    # It has left its options behind, but neither counts nor seconds.
    killed = {"state": "running", "options": {"codec": "float32"}}
    assert summary(embed=killed, cluster=CLUSTER) == [
        "people        321  (largest 4,567 faces)",
        "unassigned     99",
        "time          cluster 4.2 s",
    ]
    assert summary(embed=killed) == []


def test_a_run_that_has_not_begun():
    assert format_summary({}) == ""


def test_faces_left_out_are_counted_apart_with_the_reasons():
    counts = CLUSTER["counts"] | {"left_out": 1234}
    reasons = {"size": 200, "sharpness": 1000, "score": 0, "pose": 34}
    lines = summary(cluster=CLUSTER | {"counts": counts, "diagnostics": {"left_out": reasons}})
    assert lines[1:3] == [
        "unassigned       99",
        "left out      1,234  (too blurred 1,000, too small 200, turned away 34)",
    ]


def test_other_steps_do_not_matter():
    assert summary(embed=EMBED, other={"seconds": 1}) == summary(embed=EMBED)


# ---- what to doubt ----


def test_a_grouping_without_doubts_has_no_notes():
    assert notes() == []


def test_people_of_a_large_share_of_all_faces_are_noted_with_what_to_do():
    giant = {"max_distance": 0.6203, "heterogeneous_people": 1, "giant_people": ["a"]}
    assert notes(**giant) == [
        "one person holds 20% of all grouped faces or more, too different to be one: try a "
        "smaller --max-distance (it came to 0.6203)"
    ]
    giants = giant | {"heterogeneous_people": 2, "giant_people": ["a", "b"]}
    assert [note[:18] for note in notes(**giants)] == ["2 people each hold"]


def test_people_whose_faces_differ_are_counted_beside_the_giant_ones():
    differ = "differ unusually: perhaps more than one person"
    assert notes(heterogeneous_people=1) == [f"the faces of one person {differ}"]
    assert notes(heterogeneous_people=1234) == [f"the faces of 1,234 people {differ}"]
    found = notes(heterogeneous_people=3, giant_people=["a"])
    assert found[1:] == [f"the faces of 2 people {differ}"]


def test_faces_of_a_person_whom_the_photo_shows_already_are_counted():
    shown = "of a person whom the photo shows already: see the report"
    assert notes(same_photo_violations=1) == [f"1 face is {shown}"]
    assert notes(same_photo_violations=2100) == [f"2,100 faces are {shown}"]


def test_a_search_that_missed_neighbours_says_so():
    assert notes(recall=0.9731) == [
        "about 97.31% of nearest faces were found: --probes 0 finds all, slowly"
    ]
    assert "99.99%" in notes(recall=0.9999)[0]
