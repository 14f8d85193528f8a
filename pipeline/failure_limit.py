"""How many inputs may fail before a job is a failure itself."""

from dataclasses import dataclass

import pyarrow as pa

COMMONEST_ERRORS = 3  # that a sentence about many failures names


@dataclass(frozen=True)
class FailureLimit:
    """How many inputs may fail: a number, or a share of all inputs in percent."""

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
        """Whether a run of so many inputs may have so many failures."""
        most = n_inputs * self.number / 100 if self.is_percentage else self.number
        return n_failures <= most

    def sentence(self, failures: pa.Table, n_inputs: int) -> str | None:
        """What to say of more failures than may be; None where they are not.

        Args:
          failures: a failures table.
        """
        n = len(failures)
        if self.allows(n, n_inputs):
            return None
        kinds = failures.group_by(["step", "error"]).aggregate([([], "count_all")])
        kinds = kinds.sort_by([("count_all", "descending"), ("error", "ascending")])
        commonest = ", ".join(
            f"{kind['count_all']:,} x {kind['step']}: {kind['error']}"
            for kind in kinds[:COMMONEST_ERRORS].to_pylist()
        )
        one = failures[:1].to_pylist()[0]
        return (
            f"{n:,} of {n_inputs:,} inputs ({n / n_inputs:.1%}) could not be used, more than "
            f"--max-failures {self} allows ({commonest}), such as {one['uri']}: {one['message']}"
        )

    def __str__(self) -> str:
        return f"{self.number:g}{'%' * self.is_percentage}"
