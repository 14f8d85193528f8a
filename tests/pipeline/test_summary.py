from facecluster.pipeline.summary import format_summary

EMBED = {
    "state": "done",
    "seconds": 3721.5,
    "counts": {
        "photos": 1234,
        "faces": 2345678,
        "failures": 5,
        "photos_already_done": 0,
        "files_that_are_no_photos": 0,
    },
}
CLUSTER = {
    "state": "done",
    "seconds": 4.2,
    "counts": {"faces": 2345678, "people": 321, "unassigned": 99, "largest_person": 4567},
}


def summary(**steps):
    return format_summary({"steps": steps, "versions": {"python": "3"}}).splitlines()


def test_counts_stand_in_a_column_with_notes():
    counts = EMBED["counts"] | {"photos_already_done": 1000, "files_that_are_no_photos": 12}
    assert summary(cluster=CLUSTER, embed=EMBED | {"counts": counts}) == [
        "photos            1,234  (1,000 inputs done before)",
        "faces         2,345,678",
        "people              321  (largest 4,567 faces)",
        "unassigned           99",
        "failures              5  (12 files in the folders are not named like photos)",
        "time          embed 3,721.5 s, cluster 4.2 s",
    ]


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


def test_other_steps_do_not_matter():
    assert summary(embed=EMBED, other={"seconds": 1}) == summary(embed=EMBED)
