"""Learning rates by epoch, from an option or a file in the published form."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class TrainingError(ValueError):
    """A training that cannot start or go on."""


@dataclass(frozen=True)
class Schedule:
    """Learning rates: `steps` holds (first epoch, rate) in ascending order, from epoch 0."""

    steps: Sequence[tuple[int, float]]

    def rate(self, epoch: int) -> float:
        return [rate for first, rate in self.steps if first <= epoch][-1]

    def n_epochs(self, most: int) -> int:
        """How many epochs there are of `most`: a negative rate ends the training."""
        return min([most, *(first for first, rate in self.steps if rate < 0)])


def read_schedule(path: str) -> Schedule:
    """Reads a schedule in the published form: lines of `epoch: rate`, # comments, rate -1 ends.

    davidsandberg/facenet, data/learning_rate_schedule_classifier_casia.txt.

    Raises:
      TrainingError: names the line at fault.
    """
    steps = []
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"the learning-rate schedule {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        epoch, _, rate = text.partition(":")
        try:
            steps.append((int(epoch), -1.0 if rate.strip() == "-" else float(rate)))
        except ValueError:
            raise TrainingError(
                f"{path} line {number}: expected `epoch: rate`, found {line.strip()!r}"
            ) from None
    steps.sort()
    if not steps or steps[0][0] != 0 or steps[0][1] < 0:
        raise TrainingError(f"{path}: a learning-rate schedule starts with a rate for epoch 0")
    return Schedule(tuple(steps))
