"""The summary at the end of a command: counts in a column, notes, times and warnings."""

from dataclasses import replace
from datetime import datetime, timezone

import pytest

from facecluster.pipeline.cli.summary import format_summary
from facecluster.pipeline.run.manifest import (
    ClusterCounts,
    ClusterDiagnostics,
    ClusterEntry,
    EmbedCounts,
    EmbedEntry,
    Manifest,
)

NOON = datetime(2024, 1, 2, 12, tzinfo=timezone.utc)
EMBED_COUNTS = EmbedCounts(photos=1234, new_photos=1234, faces=2345678, failures=5, new_failures=5)
EMBED = EmbedEntry("done", NOON, NOON, seconds=3721.5, counts=EMBED_COUNTS)
CLUSTER_COUNTS = ClusterCounts(faces=2345678, people=321, unassigned=99, largest_person=4567)
CLUSTER = ClusterEntry("done", NOON, NOON, seconds=4.2, counts=CLUSTER_COUNTS)
PASSED_OVER = {
    "n_other_files": 1207,
    "other_files": {"excluded": 3, "hidden": 4, "not named like photos": 1200},
    "unread_photos": {".psd": 2, ".xcf": 4},
}
KILLED = EmbedEntry("running", NOON, options={"codec": "float32"})
NO_WARNINGS = ClusterDiagnostics(
    recall=1.0, fraction_unassigned=0.2, fraction_of_largest_person=0.1
)


def summary(embed=None, cluster=None, steps=("embed", "cluster")) -> list[str]:
    manifest = Manifest(embed, cluster, versions={"python": "3"})
    return format_summary(manifest, steps).splitlines()


def embed_summary(**counts) -> list[str]:
    return summary(embed=replace(EMBED, counts=replace(EMBED_COUNTS, **counts)))


def words(line: str) -> str:
    return " ".join(line.split())


def warnings(**diagnostics) -> list[str]:
    """The notes on a grouping of these diagnostics, which follow everything else."""
    lines = summary(cluster=replace(CLUSTER, diagnostics=replace(NO_WARNINGS, **diagnostics)))
    without = summary(cluster=CLUSTER)
    assert lines[: len(without)] == without
    return [line.removeprefix("note          ") for line in lines[len(without) :]]


def test_counts_stand_in_a_column_with_notes():
    reasons = {"damaged": 2, "not an image": 3}
    counts = replace(EMBED_COUNTS, new_photos=234, failure_reasons=reasons, **PASSED_OVER)
    assert summary(cluster=CLUSTER, embed=replace(EMBED, counts=counts)) == [
        "photos            1,234  (234 read now, 1,000 before)",
        "faces         2,345,678",
        "people              321  (largest 4,567 faces)",
        "unassigned           99",
        "failures              5  (not an image 3, damaged 2)",
        "passed over       1,207  (not named like photos 1,200, hidden 4, excluded 3)  "
        "(photo formats that are not read: .xcf 4, .psd 2)",
        "time          embed 3,721.5 s, cluster 4.2 s",
    ]


@pytest.mark.parametrize(
    ("photos", "failures", "shown"),
    [
        ((7, 7), (0, 0), ["photos 7", "faces 0", "failures 0"]),  # a first run
        ((7, 0), (0, 0), ["photos 7 (all read before)", "faces 0", "failures 0"]),
        ((9, 2), (1, 1), ["photos 9 (2 read now, 7 before)", "faces 0", "failures 1"]),
        ((9, 2), (3, 1), ["photos 9 (2 read now, 7 before)", "faces 0",
                          "failures 3 (1 failed now, 2 before)"]),
        ((9, 0), (3, 0), ["photos 9 (all read before)", "faces 0",
                          "failures 3 (all failed before)"]),
        ((0, 0), (7, 7), ["photos 0", "faces 0", "failures 7"]),
    ],
)  # fmt: skip
def test_what_this_command_did_is_told_from_what_the_run_holds(photos, failures, shown):
    counts = EmbedCounts(
        photos=photos[0], new_photos=photos[1], failures=failures[0], new_failures=failures[1]
    )
    entry = EmbedEntry("done", NOON, NOON, counts=counts)
    assert list(map(words, summary(embed=entry))) == shown


def test_a_command_that_only_groups_says_nothing_about_reading():
    counts = replace(EMBED_COUNTS, new_photos=0, new_failures=0, inputs_missing=1, **PASSED_OVER)
    lines = summary(replace(EMBED, counts=counts), CLUSTER, steps=["cluster"])
    assert list(map(words, lines)) == [
        "photos 1,234",
        "faces 2,345,678",
        "people 321 (largest 4,567 faces)",
        "unassigned 99",
        "failures 5",
        "time cluster 4.2 s",
    ]


def test_a_command_that_only_embeds_shows_no_earlier_people():
    lines = summary(EMBED, CLUSTER, steps=["embed"])
    assert [line.split()[0] for line in lines] == ["photos", "faces", "failures", "time", "note"]
    assert words(lines[3]) == "time embed 3,721.5 s"
    assert lines[4].endswith("the photos read now are not grouped yet: run `facecluster cluster`")
    nothing_new = replace(EMBED, counts=replace(EMBED_COUNTS, new_photos=0))
    assert "note" not in "".join(summary(nothing_new, CLUSTER, steps=["embed"]))


@pytest.mark.parametrize(
    ("n", "inputs", "were"), [(1, "1 input", "was"), (1200, "1,200 inputs", "were")]
)
def test_missing_inputs_are_noted(n, inputs, were):
    note = f"{inputs} of an unfinished earlier command {were} not given again and left out"
    assert embed_summary(inputs_missing=n)[-1] == f"note          {note}"


def test_what_has_become_of_photos_is_told():
    first, *_ = embed_summary(new_photos=4, changed=3, moved=2000, forgotten=1)
    assert words(first) == (
        "photos 1,234 (4 read now, 1,230 before, 3 changed, 2,000 moved, 1 forgotten)"
    )


@pytest.mark.parametrize(
    ("n", "note"),
    [
        (1, "1 photo of the run is no longer there: --forget-removed takes it out of it"),
        (
            1234,
            "1,234 photos of the run are no longer there: --forget-removed takes them out of it",
        ),
    ],
)
def test_photos_that_are_no_longer_there_are_noted(n, note):
    assert words(embed_summary(no_longer_there=n)[-1]) == f"note {note}"


@pytest.mark.parametrize("what", ["changed", "forgotten"])
def test_people_with_faces_that_are_gone_are_noted(what):
    embed = replace(EMBED, counts=replace(EMBED_COUNTS, **{what: 1}))
    note = "the people still have faces that are gone: run `facecluster cluster`"
    assert words(summary(embed, CLUSTER, ["embed"])[-1]) == f"note {note}"
    assert note not in summary(embed, CLUSTER)[-1]


def test_libraries_that_read_more_formats_are_named():
    assert embed_summary(unread_photos={".nef": 1, ".dng": 2, ".psd": 3})[-1] == (
        "note          to read .dng, .nef, pip install 'facecluster[formats]'"
    )


def test_duplicates_and_near_duplicates_are_counted():
    counts = {"new_photos": 7, "duplicates": 3, "near_duplicates": 1200}
    assert embed_summary(**counts)[0] == (
        "photos            1,234  (7 read now, 1,227 before)  (3 duplicates, 1,200 near-duplicates)"
    )
    one = embed_summary(duplicates=1, near_duplicates=1)[0]
    assert one.endswith("  (1 duplicate, 1 near-duplicate)")


def test_a_count_of_zero_has_no_note():
    nobody = replace(CLUSTER_COUNTS, people=0, largest_person=0)
    assert "(largest 1 face)" in "".join(
        summary(cluster=replace(CLUSTER, counts=replace(CLUSTER_COUNTS, largest_person=1)))
    )
    lines = summary(embed=EMBED, cluster=replace(CLUSTER, counts=nobody))
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
    # Its entry has options, but neither counts nor seconds.
    assert summary(embed=KILLED, cluster=CLUSTER) == [
        "people        321  (largest 4,567 faces)",
        "unassigned     99",
        "time          cluster 4.2 s",
    ]
    assert summary(embed=KILLED) == []


def test_a_run_without_steps_has_an_empty_summary():
    assert format_summary(Manifest()) == ""


def test_faces_left_out_are_counted_with_their_reasons():
    counts = replace(CLUSTER_COUNTS, left_out=1234)
    reasons = {"size": 200, "sharpness": 1000, "score": 0, "pose": 34}
    diagnostics = ClusterDiagnostics(left_out=reasons)
    lines = summary(cluster=replace(CLUSTER, counts=counts, diagnostics=diagnostics))
    assert lines[1:3] == [
        "unassigned       99",
        "left out      1,234  (too blurred 1,000, too small 200, turned away 34)",
    ]


def test_other_steps_are_ignored():
    with_other = Manifest(embed=EMBED, other_steps={"other": {"seconds": 1}})
    assert format_summary(with_other).splitlines() == summary(embed=EMBED)


# ---- warnings ----


def test_a_grouping_without_warnings_has_no_notes():
    assert warnings() == []


def test_estimates_are_shown_in_a_line():
    estimates = {"impostor_median": 0.0312, "impostor_width": 0.0871, "singles": 0.338}
    lines = summary(cluster=replace(CLUSTER, diagnostics=replace(NO_WARNINGS, **estimates)))
    assert lines[-1] == (
        "estimates     similarity of strangers 0.03 +- 0.09, 34% of faces show people with one "
        "photo"
    )
    assert lines[:-1] == summary(cluster=CLUSTER)


def test_doubtful_people_are_named():
    assert warnings(doubtful_people=1, most_doubtful=["person-a"]) == [
        "1 doubtful person, perhaps more than one person each: person-a "
        "(a smaller --wrong-share splits more)"
    ]
    many = warnings(doubtful_people=1234, most_doubtful=list("abcdefgh"))
    assert many == [
        "1,234 doubtful people, perhaps more than one person each: a, b, c, ... "
        "(a smaller --wrong-share splits more)"
    ]


def test_grouping_without_a_cohort_is_noted():
    assert warnings(cohort=False) == [
        "grouped with the collection's own statistics only: the model has no cohort of other "
        "people's faces to compare with"
    ]


def test_too_few_people_are_noted():
    assert warnings(few_people=True) == [
        "too few people to learn from how alike strangers are in these photos: what is usual for "
        "the model was taken"
    ]


def test_collages_are_counted():
    seen = "like a collage, in which a person may be more than once"
    assert warnings(collages=1) == [f"1 photo looks {seen}"]
    assert warnings(collages=1200) == [f"1,200 photos look {seen}"]


def test_collages_are_named():
    diagnostics = replace(NO_WARNINGS, collages=5, collage_photos=list("abcde"))
    manifest = Manifest(cluster=replace(CLUSTER, diagnostics=diagnostics))
    text = format_summary(manifest, uris={"a": "/p/1.jpg", "c": "tars/2.tar!/c.png"})
    assert "more than once: /p/1.jpg, b, tars/2.tar!/c.png, ..." in text


def test_people_kept_apart_by_photos_are_counted():
    (one,), (many,) = warnings(kept_apart_by_photos=1), warnings(kept_apart_by_photos=1200)
    assert one.startswith("1 pair of people is similar and kept apart only because photos show")
    assert many.startswith("1,200 pairs of people are similar and kept apart only")


def test_a_chain_of_most_faces_is_noted():
    n = CLUSTER_COUNTS.faces
    assert warnings(largest_component=int(0.9 * n)) == [
        "2,111,110 of 2,345,678 faces are linked with each other, directly or through others: "
        "people may be hard to tell apart in these photos"
    ]
    assert warnings(largest_component=int(0.7 * n)) == []
    # One person has most photos.
    assert warnings(largest_component=int(0.9 * n), fraction_of_largest_person=0.5) == []


def test_a_small_collection_is_no_chain():
    counts = replace(CLUSTER_COUNTS, faces=40, left_out=0)
    diagnostics = replace(NO_WARNINGS, largest_component=40)
    lines = summary(cluster=replace(CLUSTER, counts=counts, diagnostics=diagnostics))
    assert not [line for line in lines if line.startswith("note")]


def test_faces_with_a_damaged_vector_are_named():
    ids = [f"face-{i}" for i in range(5)]
    assert warnings(left_out={"vector": 1}, damaged_vectors=ids[:1]) == [
        "1 face has a damaged vector (NaN, infinity or zeros): face-0; embed these photos again "
        "into a new folder"
    ]
    (many,) = warnings(left_out={"vector": 5}, damaged_vectors=ids)
    assert many.startswith(
        "5 faces have a damaged vector (NaN, infinity or zeros): face-0, face-1, "
    )
    assert "face-2, ...;" in many


def test_second_faces_of_a_person_in_one_photo_are_counted():
    shown = "of a person who is in the same photo already: see the report"
    assert warnings(same_photo_violations=1) == [f"1 face is {shown}"]
    assert warnings(same_photo_violations=2100) == [f"2,100 faces are {shown}"]


def test_a_search_that_missed_neighbors_is_noted():
    assert warnings(recall=0.9731) == [
        "about 97.31% of nearest faces were found: --probes 0 finds all, slowly"
    ]
    assert "99.99%" in warnings(recall=0.9999)[0]


def test_damaged_photos_and_formats_that_could_not_be_read():
    lines = embed_summary(damaged=2, unusable_suffixes={".cr3": 1, ".jxl": 3})
    assert words(lines[0]) == "photos 1,234 (2 damaged)"
    assert lines[-1] == (
        "note          no photo of these kinds could be read, see failures/: .jxl 3, .cr3 1"
    )
