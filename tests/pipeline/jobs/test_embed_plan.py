"""However often a run is interrupted, it ends with one row per input, in the planned shards."""

import os
import random
import tempfile
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.pipeline.jobs.embed_plan import EmbedPlan
from facecluster.pipeline.run.directory import SHARDED_TABLES, RunDirectory
from facecluster.transforms.inputs.listing import Listing
from facecluster.transforms.inputs.sources import Container, Source
from facecluster.transforms.photos.write import ShardWriter
from facecluster.transforms.records import Face, Failure, Photo, Quality
from facecluster.transforms.tables.codec import Codec
from facecluster.transforms.tables.files import write_bytes
from facecluster.transforms.tables.parquet_files import TableError

QUALITY = Quality(100.0, 0.2, 0.5, 0.0, 0.0, 0.0)
DIMENSIONS = 4


class Killed(BaseException):
    """Raised where the process would be killed."""


@contextmanager
def killed_at(n: int):
    """Raises Killed before the n-th rename or removal of a file and before all later ones."""
    left = [n]

    def until_killed(function):
        def call(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return function(*arguments, **named)

        return call

    with (
        mock.patch("os.rename", until_killed(os.rename)),
        mock.patch("os.remove", until_killed(os.remove)),
    ):
        yield


def embedded(uri: str, shard, failure: Failure | None) -> Photo:
    """The photo that the steps before writing would make of an input."""
    if failure:
        return Photo(uri, shard, failure=failure)
    vector = np.eye(DIMENSIONS, dtype=np.float32)[len(uri) % DIMENSIONS]
    box, landmarks = np.zeros(4, np.float32), np.zeros((5, 2), np.float32)
    face = Face(box, landmarks, 1.0, None, b"", vector, QUALITY)
    return Photo(uri, shard, photo_id=f"id of {uri}", width=1, height=1, n_frames=1, faces=(face,))


def job(root, inputs, failures, size=3, retry_all=False, seed=0, whole=()) -> int:
    """Runs an embed job without networks; returns the number of inputs that it processed.

    Args:
      whole: containers that were listed completely.
      failures: {uri: Failure} of the inputs that cannot be used this time.
    """
    run = RunDirectory(str(root))
    writer = ShardWriter(str(root), Codec("float32"), DIMENSIONS, "model", "space")
    run.remove_unfinished()
    plan = EmbedPlan.load(run).without_superseded()
    sources = tuple(source if isinstance(source, Source) else Source(source) for source in inputs)
    listing = Listing(sources, fully_listed=frozenset(whole))
    plan = plan.with_inputs(listing, lambda n: size, retry_all)
    todo = plan.pending_shards(listing)
    random.Random(seed).shuffle(todo)
    for shard, part in todo:
        assert shard.n_photos == len(part)
        writer.write(shard.name, [embedded(uri, shard, failures.get(uri)) for uri, *_ in part])
    EmbedPlan.load(run).without_superseded().without_repaired(listing)
    return sum(shard.n_photos for shard, _ in todo)


def tables(root) -> dict[str, list]:
    """All rows in the tables' folders, sorted."""
    return {
        table: sorted(pq.read_table(os.path.join(root, table)).to_pylist(), key=repr)
        for table in SHARDED_TABLES
    }


def inputs_of(rows: dict[str, list]) -> list[str]:
    return sorted(row["uri"] for table in ("photos", "failures") for row in rows[table])


def plan_of(root) -> dict[str, str]:
    return {row["uri"]: row["shard"] for row in pq.read_table(root / "plan.parquet").to_pylist()}


def shards_of(root) -> set[str]:
    return {name.removesuffix(".parquet") for name in os.listdir(root / "photos")}


def unreadable(when: str) -> Failure:
    return Failure("read", "OSError", f"no permission {when}")


BROKEN = Failure("decode", "UnidentifiedImageError", "no image")
NAMES = [f"{i:02}.jpg" for i in range(12)]

moments = st.fixed_dictionaries(
    {
        "inputs": st.sets(st.sampled_from(NAMES), min_size=1),
        "unreadable": st.sets(st.sampled_from(NAMES)),
        "broken": st.sets(st.sampled_from(NAMES)),
        "size": st.integers(1, 5),
        "retry_all": st.booleans(),
        "killed_at": st.integers(0, 40) | st.none(),
        "plan_lost": st.booleans(),
        "seed": st.integers(0, 5),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(moments, min_size=1, max_size=6))
def test_interruptions_and_retries_end_with_the_tables_of_an_uninterrupted_run(history):
    with tempfile.TemporaryDirectory() as folder:
        root, undisturbed = (os.path.join(folder, name) for name in ("run", "undisturbed"))
        seen = set()
        for number, now in enumerate(history):
            failures = dict.fromkeys(now["broken"], BROKEN)
            failures |= dict.fromkeys(now["unreadable"], unreadable(f"at {number}"))
            inputs, seen = sorted(now["inputs"]), seen | now["inputs"]
            if now["plan_lost"] and os.path.exists(os.path.join(root, "plan.parquet")):
                os.remove(os.path.join(root, "plan.parquet"))
            arguments = (root, inputs, failures, now["size"], now["retry_all"], now["seed"])
            if now["killed_at"] is None:
                job(*arguments)
            else:
                try:
                    with killed_at(now["killed_at"]):
                        job(*arguments)
                except Killed:
                    continue
            rows = tables(root)
            uris = inputs_of(rows)
            assert len(uris) == len(set(uris))
            assert set(inputs) <= set(uris) <= seen
            # A failure in reading has the message of the last attempt.
            for row in rows["failures"]:
                if row["uri"] in now["inputs"] and row["step"] == "read":
                    assert row["message"] == failures[row["uri"]].message

        # Given all inputs again, the run has the same tables as an uninterrupted one.
        inputs = sorted(seen)
        failures = {NAMES[3]: BROKEN, NAMES[4]: unreadable("at the end")}
        job(root, inputs, failures, retry_all=True)
        photos_before = {row["uri"] for row in tables(root)["photos"]}
        failures = {uri: why for uri, why in failures.items() if uri not in photos_before}
        job(undisturbed, inputs, failures)
        assert tables(root) == tables(undisturbed)
        assert job(root, inputs, {}, size=1) <= 1  # 04.jpg, if it failed in reading


@pytest.mark.parametrize("n", range(40))
def test_dropping_failures_may_be_interrupted_anywhere(tmp_path, n):
    all_unreadable = dict.fromkeys(NAMES, unreadable("before"))
    job(tmp_path, NAMES, all_unreadable)
    still = {NAMES[0]: unreadable("after"), NAMES[5]: BROKEN}
    try:
        with killed_at(n):
            job(tmp_path, NAMES, still)
    except Killed:
        job(tmp_path, NAMES, still)
    rows = tables(tmp_path)
    assert inputs_of(rows) == NAMES
    assert [(row["uri"], row["message"]) for row in rows["failures"]] == [
        (NAMES[0], "no permission after"),
        (NAMES[5], "no image"),
    ]
    assert set(plan_of(tmp_path).values()) == shards_of(tmp_path)


def test_a_killed_job_keeps_its_shards_if_the_shard_size_changes(tmp_path):
    with pytest.raises(Killed), killed_at(2):  # the plan and one table
        job(tmp_path, NAMES, {}, size=4)
    planned = plan_of(tmp_path)
    job(tmp_path, NAMES, {}, size=1)
    assert plan_of(tmp_path) == planned
    assert shards_of(tmp_path) == set(planned.values())
    assert len(shards_of(tmp_path)) == 3


def test_only_added_inputs_are_processed(tmp_path):
    assert job(tmp_path, NAMES[:7], {}) == 7
    before = {name: os.stat(tmp_path / "photos" / name) for name in os.listdir(tmp_path / "photos")}
    assert job(tmp_path, NAMES, {}) == 5
    assert job(tmp_path, NAMES, {}) == 0
    for name, stat in before.items():
        assert (tmp_path / "photos" / name).stat().st_mtime_ns == stat.st_mtime_ns
    assert inputs_of(tables(tmp_path)) == NAMES


def test_an_input_that_is_deleted_before_it_is_read_is_dropped(tmp_path):
    with pytest.raises(Killed), killed_at(1):
        job(tmp_path, NAMES, {})
    job(tmp_path, NAMES[1:], {})
    assert inputs_of(tables(tmp_path)) == NAMES[1:]
    job(tmp_path, NAMES, {})
    assert inputs_of(tables(tmp_path)) == NAMES


def test_failures_in_reading_are_retried_and_failures_in_decoding_only_on_request(tmp_path):
    job(tmp_path, NAMES, {NAMES[0]: BROKEN, NAMES[1]: unreadable("then")})
    assert job(tmp_path, NAMES, {}) == 1
    assert [row["uri"] for row in tables(tmp_path)["failures"]] == [NAMES[0]]
    assert job(tmp_path, NAMES, {}) == 0
    assert job(tmp_path, NAMES[:1], {}, retry_all=True) == 1
    assert tables(tmp_path)["failures"] == []
    assert inputs_of(tables(tmp_path)) == NAMES


def test_the_failure_of_a_repaired_container_is_dropped(tmp_path):
    def members(*names):
        return [Source(f"a.tar!/{name}", Container("a.tar", "tar")) for name in names]

    cut = Source("a.tar", failure=Failure("read", "DamagedError", "it breaks off"))
    other = Source("b.tar", failure=cut.failure)
    failures = {source.uri: source.failure for source in (cut, other)}
    for size in (1, 5):  # the failure alone in its shard, and with photos
        root = tmp_path / str(size)
        job(root, [cut, *members("1"), other], failures, size)
        assert inputs_of(tables(root)) == ["a.tar", "a.tar!/1", "b.tar"]
        job(root, members("1", "2"), failures, size, whole=["a.tar"])  # b.tar is not given
        assert inputs_of(tables(root)) == ["a.tar!/1", "a.tar!/2", "b.tar"]
        job(root, [cut, *members("1")], failures, size)
        assert inputs_of(tables(root)) == ["a.tar", "a.tar!/1", "a.tar!/2", "b.tar"]


@pytest.mark.parametrize("n", range(12))
def test_a_repaired_container_is_not_lost_if_its_retry_is_killed(tmp_path, n):
    members = [Source(f"a.tar!/{i}", Container("a.tar", "tar")) for i in range(3)]
    cut = Source("a.tar", failure=Failure("read", "DamagedError", "it breaks off"))
    job(tmp_path, [cut, *members[:1]], {cut.uri: cut.failure}, size=2)
    try:
        with killed_at(n):
            job(tmp_path, members, {}, size=2, retry_all=True, whole=["a.tar"])
    except Killed:
        rows = tables(tmp_path)
        assert inputs_of(rows) == sorted(s.uri for s in members) or cut.uri in inputs_of(rows)
        plan = EmbedPlan.load(RunDirectory(str(tmp_path)))
        assert plan.count_missing(Listing(tuple(members), fully_listed=frozenset(["a.tar"]))) == 0
        job(tmp_path, members, {}, size=2, retry_all=True, whole=["a.tar"])
    assert inputs_of(tables(tmp_path)) == sorted(source.uri for source in members)
    assert plan_of(tmp_path).keys() == {source.uri for source in members}


def test_unfinished_inputs_that_are_not_given_again_are_counted(tmp_path):
    def plan(*names):
        sources = tuple(map(Source, names))
        return EmbedPlan.load(RunDirectory(str(tmp_path))).with_inputs(
            Listing(sources), lambda n: 2, retry_all=False
        )

    def missing(*names, whole=()):
        sources = tuple(map(Source, names))
        plan = EmbedPlan.load(RunDirectory(str(tmp_path)))
        return plan.count_missing(Listing(sources, fully_listed=frozenset(whole)))

    plan("a", "b", "c")
    assert missing() == 3
    assert missing("b") == 2
    assert missing(*"abcd") == missing(*"ab", whole=["c"]) == 0
    plan("b")
    assert missing() == 1


def test_repeated_failures_leave_no_empty_shards(tmp_path):
    for when in range(4):
        job(tmp_path, NAMES[:1], {NAMES[0]: unreadable(f"{when}")})
    assert [row["message"] for row in tables(tmp_path)["failures"]] == ["no permission 3"]
    assert len(shards_of(tmp_path)) == 1
    for table in SHARDED_TABLES:
        assert len(os.listdir(tmp_path / table)) == 1


def test_a_lost_plan_is_rebuilt_from_the_tables(tmp_path):
    job(tmp_path, NAMES, {NAMES[2]: BROKEN})
    before = plan_of(tmp_path)
    os.remove(tmp_path / "plan.parquet")
    assert job(tmp_path, NAMES, {}) == 0
    assert plan_of(tmp_path) == before


def test_a_damaged_plan_is_named(tmp_path):
    write_bytes(str(tmp_path / "plan.parquet"), b"PAR1")
    with pytest.raises(TableError, match=r"plan\.parquet cannot be read"):
        EmbedPlan.load(RunDirectory(str(tmp_path)))


def test_many_inputs_are_planned(tmp_path):
    sources = tuple(Source(f"/photos/{i:08}.jpg") for i in range(200_000))
    listing = Listing(sources)
    run = RunDirectory(str(tmp_path))
    plan = EmbedPlan.load(run).with_inputs(listing, lambda n: 256, False)
    again = EmbedPlan.load(run)
    assert again.rows.equals(plan.rows)
    todo = again.with_inputs(listing, lambda n: 10, False).pending_shards(listing)
    assert [source for _, part in todo for source in part] == list(sources)
    assert {shard.n_photos for shard, _ in todo} == {256, 200_000 % 256}


def test_a_killed_retry_continues_and_is_not_repeated(tmp_path):
    job(tmp_path, NAMES, dict.fromkeys(NAMES, unreadable("before")))
    with pytest.raises(Killed), killed_at(2):  # the plan and one table
        job(tmp_path, NAMES, {})
    assert job(tmp_path, NAMES, {}) == len(NAMES)
    assert inputs_of(tables(tmp_path)) == NAMES


def test_a_rebuilt_plan_prefers_a_photo_to_a_failure_of_the_same_input(tmp_path):
    job(tmp_path, NAMES, {NAMES[0]: BROKEN})
    with pytest.raises(Killed), killed_at(4):  # the plan and three tables; not settled
        job(tmp_path, NAMES, {}, retry_all=True)
    assert inputs_of(tables(tmp_path)) == [NAMES[0], *NAMES]
    os.remove(tmp_path / "plan.parquet")
    assert job(tmp_path, NAMES, {}) == 0
    assert tables(tmp_path)["failures"] == []
    assert inputs_of(tables(tmp_path)) == NAMES
