"""The limit on inputs that cannot be used, above which a job fails."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from facecluster.transforms.tables.reasons import count_failure_reasons, format_reasons

if TYPE_CHECKING:  # the command line is parsed without PyArrow
    import pyarrow as pa

REASONS_NAMED = 3  # in the message about too many failures


@dataclass(frozen=True)
class FailureLimit:
    """How many inputs may fail: a number, or a percentage of all inputs."""

    number: float
    is_percentage: bool

    @classmethod
    def parse(cls, text: str) -> "FailureLimit":
        """Reads a number such as 20 or a percentage such as 5%.

        Raises:
          ValueError: it is neither.
        """
        is_percentage = text.endswith("%")
        try:
            number = float(text[:-1]) if is_percentage else int(text)
        except ValueError:
            number = -1
        if not 0 <= number <= (100 if is_percentage else float("inf")):
            raise ValueError(f"{text} is neither a number such as 20 nor a percentage such as 5%")
        return cls(number, is_percentage)

    def allows(self, n_failures: int, n_inputs: int) -> bool:
        """Whether n_failures of n_inputs are within the limit."""
        most = n_inputs * self.number / 100 if self.is_percentage else self.number
        return n_failures <= most

    def describe_excess(self, failures: "pa.Table", n_inputs: int) -> str | None:
        """A message with counts and the most frequent reasons, None if the limit is not exceeded.

        Args:
          failures: a failures table.
        """
        n = len(failures)
        if self.allows(n, n_inputs):
            return None
        reasons = dict(list(count_failure_reasons(failures).items())[:REASONS_NAMED])
        first = failures[:1].to_pylist()[0]
        return (
            f"{n:,} of {n_inputs:,} inputs ({n / n_inputs:.1%}) could not be used, more than "
            f"--max-failures {self} allows ({format_reasons(reasons)}), such as "
            f"{first['uri']}: {first['message']}"
        )

    def __str__(self) -> str:
        return f"{self.number:g}{'%' * self.is_percentage}"
