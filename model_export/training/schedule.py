"""Learning rates by epoch, from an option or a file in the published form."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facecluster.errors import InputError


@dataclass(frozen=True)
class Schedule:
    """Learning rates: `steps` holds (first epoch, rate), in ascending order, the first epoch 0."""

    steps: Sequence[tuple[int, float]]

    def rate(self, epoch: int) -> float:
        return [rate for first, rate in self.steps if first <= epoch][-1]

    def n_epochs(self, most: int) -> int:
        """How many epochs there are of `most`: a rate of zero or below ends the training."""
        return min([most, *(first for first, rate in self.steps if rate <= 0)])


def read_schedule(path: str) -> Schedule:
    """Reads a schedule in the published form: lines of `epoch: rate`, with # comments.

    A rate of -1, or a mere -, ends the training. The form is that of davidsandberg/facenet, such as
    data/learning_rate_schedule_classifier_casia.txt. Epochs count from 0 here, as in its
    src/train_tripletloss.py; its src/train_softmax.py came to count from 1, and so takes each rate
    an epoch earlier.

    Raises:
      InputError: names the line at fault.
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
                f"{path} line {number}: epoch {step[0]} comes after epoch {steps[-1][0]}: put the "
                "epochs in ascending order, each once"
            )
        steps.append(step)
    if not steps or steps[0][0] != 0 or steps[0][1] <= 0:
        raise InputError(f"{path}: a learning-rate schedule starts with a rate for epoch 0")
    return Schedule(tuple(steps))


def _step(text: str) -> tuple[int, float] | None:
    """(epoch, rate) of a line; None when it does not say such."""
    epoch, _, rate = text.partition(":")
    try:
        step = int(epoch), -1.0 if rate.strip() == "-" else float(rate)
    except ValueError:
        return None
    return step if math.isfinite(step[1]) else None
