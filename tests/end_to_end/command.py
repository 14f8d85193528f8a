"""Runs the installed command, as a user does."""

import os
import subprocess
import sys
from pathlib import Path

COMMAND = Path(sys.executable).with_name("facecluster")


def facecluster(*arguments, **environment) -> subprocess.CompletedProcess:
    """Runs a command to its end, with additional environment variables."""
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
