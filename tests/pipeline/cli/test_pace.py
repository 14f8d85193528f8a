"""Estimates of the time that is left, of jobs that are simulated."""

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecluster.pipeline.cli.pace import LEAST_SECONDS, SMALL_JOB, Pace


@dataclass(frozen=True)
class Moment:
    """What is shown at a time, and what is true."""

    seconds: float
    done: int
    rate: float | None
    left: float | None
    true_left: float


def watch(finished: list[tuple[float, int]], seconds_between_polls: float = 1.0) -> list[Moment]:
    """The moments of a job whose shards are finished at these times, with so many photos each."""
    total, end = sum(n for _, n in finished), finished[-1][0]
    pace, moments, now = Pace(0.0, total), [], 0.0
    while now < end:
        now += seconds_between_polls
        done = sum(n for at, n in finished if at <= now)
        pace.observe(now, done)
        moments.append(Moment(now, done, pace.rate(), pace.seconds_left(), end - now))
    return moments


def simulate(total, per_shard, workers, startup, per_photo, spread=0.0, seed=0):
    """The times at which shards are finished by workers that start and work unevenly."""
    chance = random.Random(seed)
    free_at = [startup * chance.uniform(1, 1 + spread) for _ in range(workers)]
    finished = []
    for start in range(0, total, per_shard):
        worker = free_at.index(min(free_at))
        n = min(per_shard, total - start)
        free_at[worker] += n * per_photo * chance.uniform(1 - spread, 1 + spread)
        finished.append((free_at[worker], n))
    return sorted(finished)


def test_starting_does_not_count():
    # 30 s to start, then 8 photos a second: at 20 % the old rate, from the start, gave 3.7 times
    # what was left.
    moments = watch(simulate(total=1000, per_shard=32, workers=2, startup=30, per_photo=0.25))
    for moment in moments:
        if moment.done >= 200 and moment.true_left > 5:
            assert moment.left == pytest.approx(moment.true_left, rel=0.25, abs=4), moment
            assert moment.rate == pytest.approx(8, rel=0.25)


@given(
    workers=st.integers(1, 8),
    startup=st.floats(1, 60),
    seconds=st.floats(60, 3600),
    seed=st.integers(),
)
def test_at_a_fifth_of_the_work_the_estimate_is_near(workers, startup, seconds, seed):
    shards = 20 * workers
    per_photo = seconds * workers / (shards * 16)
    job = simulate(shards * 16, 16, workers, startup, per_photo, spread=0.2, seed=seed)
    for moment in watch(job):
        if moment.done >= shards * 16 / 5 and moment.left is not None:
            assert 0.5 < moment.left / moment.true_left < 2
            return
    pytest.fail("no estimate was shown")


@given(
    per_shard=st.integers(16, 256),
    workers=st.integers(1, 16),
    startup=st.floats(0, 60),
    per_photo=st.floats(0.01, 1),
    spread=st.floats(0, 0.9),
    seed=st.integers(),
)
def test_an_estimate_never_jumps(per_shard, workers, startup, per_photo, spread, seed):
    job = simulate(2000, per_shard, workers, startup, per_photo, spread, seed)
    shown = [moment.left for moment in watch(job) if moment.left is not None]
    for before, after in pairwise(shown):
        assert after >= 0
        assert abs(after - max(0, before - 1)) <= 1 + 0.1 * before


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(0, 500)), min_size=1, max_size=30))
def test_there_is_no_estimate_before_two_moves_some_seconds_apart(observations):
    pace, moves, done = Pace(0.0, 10_000), [], 0
    for now, more in sorted(observations):
        done += more
        moves += [now] if more else []
        pace.observe(now, done)
        if len(moves) < 2 or moves[-1] - moves[0] < LEAST_SECONDS:
            assert pace.rate() is None
            assert pace.seconds_left() is None


def test_a_small_job_has_no_estimate():
    job = simulate(SMALL_JOB - 1, 4, workers=1, startup=5, per_photo=1)
    moments = watch(job)
    assert {moment.left for moment in moments} == {None}
    assert moments[-1].rate == pytest.approx(1, rel=0.01)


def test_a_job_that_stands_still_keeps_its_estimate():
    pace = Pace(0.0, 1000)
    for now in range(1, 101):
        pace.observe(now, 5 * now)
    for now in range(101, 1000):
        pace.observe(now, 500)
    assert 80 < pace.seconds_left() <= 100


def test_a_job_that_gets_slower_is_noticed():
    steps = [1.0] * 100 + [4.0] * 200
    finished = [(10 + sum(steps[: i + 1]), 10) for i in range(300)]
    moment = next(moment for moment in watch(finished) if moment.done >= 2000)
    assert moment.left == pytest.approx(moment.true_left, rel=0.1)
