"""Learning-rate schedules: one rate, or steps by epoch from a file in the published format."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facecluster.errors import InputError


@dataclass(frozen=True)
class Schedule:
    """Learning rates by epoch.

    Attributes:
      steps: (first epoch, rate) in ascending order of epochs, starting with epoch 0.
    """

    steps: Sequence[tuple[int, float]]

    def rate(self, epoch: int) -> float:
        return [rate for first, rate in self.steps if first <= epoch][-1]

    def n_epochs(self, limit: int) -> int:
        """The number of epochs, at most `limit`; a rate of zero or below ends the training."""
        return min([limit, *(first for first, rate in self.steps if rate <= 0)])


def read_schedule(path: str) -> Schedule:
    """Reads a schedule in the published format: lines of `epoch: rate`, with # comments.

    A rate of -1, or just -, ends the training. The format is that of davidsandberg/facenet, as in
    data/learning_rate_schedule_classifier_casia.txt. Epochs count from 0 here, as in its
    src/train_tripletloss.py. Its src/train_softmax.py counts from 1, so there each rate starts one
    epoch earlier.

    Raises:
      InputError: the file cannot be read, or a line is malformed; the message names the line.
    """
    steps = []
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the learning-rate schedule {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        step = _step(text)
        if step is None:
            raise InputError(
                f"{path} line {number}: expected `epoch: rate`, found {line.strip()!r}"
            )
        if steps and step[0] <= steps[-1][0]:
            raise InputError(
                f"{path} line {number}: epoch {step[0]} comes after epoch {steps[-1][0]}: list the "
                "epochs in ascending order, each once"
            )
        steps.append(step)
    if not steps or steps[0][0] != 0 or steps[0][1] <= 0:
        raise InputError(
            f"{path}: a learning-rate schedule must start with a positive rate for epoch 0"
        )
    return Schedule(tuple(steps))


def _step(text: str) -> tuple[int, float] | None:
    """(epoch, rate) of a line; None if the line is malformed."""
    epoch, _, rate = text.partition(":")
    try:
        step = int(epoch), -1.0 if rate.strip() == "-" else float(rate)
    except ValueError:
        return None
    return step if math.isfinite(step[1]) else None
