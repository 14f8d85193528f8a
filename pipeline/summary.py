"""What a run came to, in the few lines that the command ends with."""

from collections.abc import Mapping
from typing import Any

STEPS = ("embed", "cluster")


def format_summary(manifest: Mapping[str, Any]) -> str:
    """The counts and seconds of a run's steps, one line each, as text.

    A step that is running, or was killed, has no counts and is left out.
    """
    steps = manifest.get("steps", {})
    embed, cluster = (steps.get(name, {}).get("counts") for name in STEPS)
    lines = []
    if embed:
        before = embed["photos_already_done"]
        lines += [
            ("photos", embed["photos"], [f"{before:,} inputs done before"] * bool(before)),
            ("faces", embed["faces"], []),
        ]
    if cluster:
        notes = [f"largest {cluster['largest_person']:,} faces"] * bool(cluster["people"])
        lines += [("people", cluster["people"], notes), ("unassigned", cluster["unassigned"], [])]
    if embed:
        others = embed["files_that_are_no_photos"]
        notes = [f"{others:,} files in the folders are not named like photos"] * bool(others)
        lines.append(("failures", embed["failures"], notes))
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
