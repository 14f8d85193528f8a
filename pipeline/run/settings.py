"""Refuses to continue in a folder whose contents were made with different settings."""

from collections.abc import Collection, Mapping
from typing import Any

from facecluster.errors import FaceclusterError, JobError


def check_settings(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    folder: str,
    *,
    ignored: Collection[str] = (),
    advice: str = "take another output folder",
    error: type[FaceclusterError] = JobError,
) -> None:
    """Raises an error that names the first setting with another value than before.

    Args:
      before, now: the settings that the folder was made with, and those of this job; one that is
        missing counts as None.
      folder: named in the message.
      ignored: settings that may differ.
      advice: what to do, the end of the message.
      error: the class to raise.
    """
    for name in dict.fromkeys([*now, *before]):
        if name not in ignored and before.get(name) != now.get(name):
            raise error(
                f"{folder} was made with {name} {before.get(name)}, now it is {now.get(name)}: "
                f"{advice}"
            )
