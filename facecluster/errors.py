"""The errors that facecluster raises on purpose, by kind. Each kind knows the command's exit code.

Anything else that is raised is a bug, or the operating system's (`OSError`).
"""

from typing import ClassVar


class FaceclusterError(Exception):
    """The base of all of them. Its text is one sentence: what was wrong, and what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(FaceclusterError):
    """The call asks for something impossible: an unknown option, a wrong folder."""

    exit_code: ClassVar[int] = 2


class InputError(FaceclusterError):
    """Something that was given cannot be used: photos, labels, crops, weights, a model."""

    exit_code: ClassVar[int] = 2


class JobError(FaceclusterError):
    """The job started and failed. Running the same command again continues it."""
