"""Why inputs failed, in words, and counts of reasons as text."""

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line is parsed without PyArrow
    import pyarrow as pa

# By the step that failed and the type of its error. Decoders raise many types for damaged files.
FAILURE_REASONS = {
    "read": {
        "EmptyFileError": "empty",
        "TooLargeError": "too large",
        "DamagedError": "damaged",
        "ReadError": "damaged",
        "ListError": "not a list",
        "ChangedError": "changed meanwhile",
        **dict.fromkeys(
            ("BeamIOError", "FileNotFoundError", "IsADirectoryError", "LookupError",
             "NotADirectoryError", "OSError", "PermissionError", "ValueError"),
            "cannot be read",
        ),
    },
    "decode": {
        "UnidentifiedImageError": "not an image",
        "TooManyPixelsError": "too many pixels",
        "MissingLibraryError": "needs a library that is not installed",
        "DecoderCrashed": "crashed the decoder",
        "DecoderHung": "takes too long to decode",
        "MemoryError": "needs too much memory",
        **dict.fromkeys(
            ("EOFError", "IndexError", "KeyError", "OSError", "OverflowError", "RuntimeError",
             "SyntaxError", "TypeError", "ValueError", "error"),  # of struct and zlib
            "damaged",
        ),
    },
    "detect": {"NoFace": "no face found"},
    "embed": {"DamagedVector": "unusable vector"},
}  # fmt: skip


def failure_reason(step: str, error: str) -> str:
    """A failure in words; one that has none is named by its error's type.

    Args:
      step, error: columns of the failures table.
    """
    return FAILURE_REASONS.get(step, {}).get(error, error)


def count_failure_reasons(failures: "pa.Table") -> dict[str, int]:
    """How many inputs failed for each reason, the most frequent first.

    Args:
      failures: columns step and error.
    """
    rows = failures.select(["step", "error"]).to_pylist()
    return sort_by_count(Counter(failure_reason(row["step"], row["error"]) for row in rows))


def count_unusable_suffixes(failures: "pa.Table", uris: "pa.ChunkedArray") -> dict[str, int]:
    """Photos that could not be decoded, by suffix, where no photo of the same suffix could.

    All photos of a camera fail if its format is newer than the decoder.

    Args:
      failures: columns uri and step.
      uris: those of the photos that were decoded.
    """
    import pyarrow.compute as pc

    rows = failures.select(["uri", "step"]).to_pylist()
    counts = Counter(
        PurePosixPath(row["uri"]).suffix.lower() for row in rows if row["step"] == "decode"
    )
    counts.pop("", None)
    return {
        suffix: n
        for suffix, n in sort_by_count(counts).items()
        if not pc.any(pc.ends_with(uris, suffix, ignore_case=True)).as_py()  # pyright: ignore[reportAttributeAccessIssue]
    }


def sort_by_count(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts, the highest first; equal ones by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def format_reasons(counts: Mapping[str, int]) -> str:
    """Text such as "not an image 4, damaged 2", the most frequent first; reasons of 0 are omitted.

    Args:
      counts: by reason, in words.
    """
    frequent = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{reason} {count:,}" for reason, count in frequent if count)
