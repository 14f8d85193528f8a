"""What a run came to, in the few lines that the command ends with."""

from collections.abc import Mapping
from typing import Any

STEPS = ("embed", "cluster")


def format_summary(manifest: Mapping[str, Any]) -> str:
    """The counts and seconds of a run's steps, one line each, as text."""
    steps = manifest.get("steps", {})
    lines = []
    if "embed" in steps:
        counts = steps["embed"]["counts"]
        notes = [f"{counts['photos_already_done']:,} from before"] * bool(
            counts["photos_already_done"]
        )
        lines += [("photos", counts["photos"], notes), ("faces", counts["faces"], [])]
    if "cluster" in steps:
        counts = steps["cluster"]["counts"]
        notes = [f"largest {counts['largest_person']:,} faces"] * bool(counts["people"])
        lines += [("people", counts["people"], notes), ("unassigned", counts["unassigned"], [])]
    if "embed" in steps:
        counts = steps["embed"]["counts"]
        others = counts["files_that_are_no_photos"]
        notes = [f"{others:,} files in the folders are not named like photos"] * bool(others)
        lines.append(("failures", counts["failures"], notes))
    width = max((len(f"{number:,}") for _, number, _ in lines), default=0)
    text = [
        f"{name:14}{number:>{width},}{''.join(f'  ({note})' for note in notes)}"
        for name, number, notes in lines
    ]
    seconds = [
        f"{name} {steps[name]['seconds']:,} s" for name in STEPS if "seconds" in steps.get(name, {})
    ]
    if seconds:
        text.append(f"{'time':14}{', '.join(seconds)}")
    return "\n".join(text)
