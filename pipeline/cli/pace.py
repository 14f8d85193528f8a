"""Estimates how long a job will take, from the times at which more of it was done."""

import math
from dataclasses import dataclass, field

SMALL_JOB = 100  # photos; fewer are done before an estimate would be of use
# An estimate approaches a new one over this fraction of the time that is left, in seconds at least
# and at most.
SMOOTHING, LEAST_SMOOTHING, MOST_SMOOTHING = 0.2, 4.0, 15.0
MOST_CHANGE = 0.05  # of the estimate in a second
# Workers finish their first shards at about the same time, which says how long starting and one
# shard took, but not how fast they are. A rate needs moves that are further apart: this fraction of
# the time to the first one, and some seconds.
LEAST_SPAN, LEAST_SECONDS = 0.5, 3.0
# The rate is that of this last part of the time since the first move, if so much happened in it.
RECENT, RECENT_MOVES = 0.6, 8


@dataclass
class Pace:
    """The rate of a job and the time that is left, at any moment.

    What happens before the first shard is finished does not count: processes start and networks are
    loaded.

    Attributes:
      started: when the job started, s.
      total: what there is to do.
    """

    started: float
    total: int
    _moves: list[tuple[float, int]] = field(default_factory=list)  # time, what was done then
    _left: float | None = None
    _observed_at: float = 0.0

    @property
    def done(self) -> int:
        """What was done at the last observation."""
        return self._moves[-1][1] if self._moves else 0

    def observe(self, now: float, done: int) -> None:
        """Takes note of what is done now, and updates the estimate."""
        if done > self.done:
            if self._moves and self._moves[-1][0] == now:
                self._moves.pop()
            self._moves.append((now, done))
        rate = self.rate()
        if rate and self.total >= SMALL_JOB:
            self._left = self._smooth(self._estimate_left(now, rate), now)
        self._observed_at = now

    def rate(self) -> float | None:
        """What is done in a second, None as long as that cannot be told."""
        if len(self._moves) < 2:
            return None
        (first, _), (last, _) = self._moves[0], self._moves[-1]
        if last - first < max(LEAST_SECONDS, LEAST_SPAN * (first - self.started)):
            return None
        recent = [move for move in self._moves if move[0] >= last - RECENT * (last - first)]
        return _fit_slope(recent if len(recent) >= RECENT_MOVES else self._moves)

    def seconds_left(self) -> float | None:
        """The time that is left at the last observation, None as long as that cannot be told."""
        return self._left

    def _estimate_left(self, now: float, rate: float) -> float:
        (first, _), (last, done) = self._moves[0], self._moves[-1]
        # Shards are being worked on since the last move; if none ends, the estimate stays as it is.
        since = min(now - last, (last - first) / (len(self._moves) - 1))
        return max(0.0, (self.total - done) / rate - since)

    def _smooth(self, estimate: float, now: float) -> float:
        if self._left is None:
            return estimate
        seconds = now - self._observed_at
        smoothing = min(MOST_SMOOTHING, max(LEAST_SMOOTHING, SMOOTHING * self._left))
        weight = -math.expm1(-seconds / smoothing)
        expected = max(0.0, self._left - seconds)
        step, most = weight * (estimate - expected), MOST_CHANGE * (expected + 10) * seconds
        return expected + max(-most, min(most, step))


def _fit_slope(points: list[tuple[float, int]]) -> float:
    """The slope of the line of least squares through points (x, y)."""
    x_mean = sum(x for x, _ in points) / len(points)
    y_mean = sum(y for _, y in points) / len(points)
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in points)
    return covariance / sum((x - x_mean) ** 2 for x, _ in points)
