"""What a run came to, in the few lines that the command ends with."""

from collections.abc import Mapping
from typing import Any

from facecluster.transforms.grouping.face_filter import in_words
from facecluster.transforms.people.checks import GIANT_SHARE

STEPS = ("embed", "cluster")


def format_summary(manifest: Mapping[str, Any]) -> str:
    """The counts and seconds of a run's steps, one line each, and what to doubt about its people.

    A step that is running, or was killed, has no counts and is left out.
    """
    steps = manifest.get("steps", {})
    embed, cluster = (steps.get(name, {}).get("counts") for name in STEPS)
    lines = []
    if embed:
        kinds = {
            "photos_already_done": ("inputs done before", "inputs done before"),
            "copies": ("copy", "copies"),
            "near_duplicates": ("near-duplicate", "near-duplicates"),
        }
        numbers = {kind: embed.get(kind, 0) for kind in kinds}
        notes = [f"{n:,} {kinds[kind][n > 1]}" for kind, n in numbers.items() if n]
        lines += [
            ("photos", embed["photos"], notes),
            ("faces", embed["faces"], []),
        ]
    if cluster:
        notes = [f"largest {cluster['largest_person']:,} faces"] * bool(cluster["people"])
        lines += [("people", cluster["people"], notes), ("unassigned", cluster["unassigned"], [])]
        if cluster.get("left_out"):
            reasons = steps["cluster"]["diagnostics"]["left_out"]
            lines.append(("left out", cluster["left_out"], [in_words(reasons)]))
    if embed:
        others = embed["files_that_are_no_photos"]
        files = "1 other file is" if others == 1 else f"{others:,} other files are"
        notes = [f"{files} not named like photos"] * bool(others)
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
    doubts = _doubts(steps.get("cluster", {}).get("diagnostics", {}))
    n_gone = embed.get("inputs_gone") if embed else 0
    if n_gone:
        inputs = "1 input is" if n_gone == 1 else f"{n_gone:,} inputs are"
        doubts.insert(0, f"{inputs} left out that an earlier command had still to do")
    return "\n".join(text + [f"{'note':14}{doubt}" for doubt in doubts])


def _doubts(diagnostics: Mapping[str, Any]) -> list[str]:
    """Sentences about people that may be none and neighbours that were missed; mostly none."""
    doubts = []
    n_giants = len(diagnostics.get("giant_people", []))
    if n_giants:
        people = "one person holds" if n_giants == 1 else f"{n_giants} people each hold"
        doubts.append(
            f"{people} {GIANT_SHARE:.0%} of all grouped faces or more, too different to be one: "
            f"try a smaller --max-distance (it came to {diagnostics['max_distance']})"
        )
    n_others = diagnostics.get("heterogeneous_people", 0) - n_giants
    if n_others > 0:
        people = "one person" if n_others == 1 else f"{n_others:,} people"
        doubts.append(f"the faces of {people} differ unusually: perhaps more than one person")
    n_again = diagnostics.get("same_photo_violations", 0)
    if n_again:
        again = "1 face is" if n_again == 1 else f"{n_again:,} faces are"
        doubts.append(f"{again} of a person whom the photo shows already: see the report")
    found = diagnostics.get("recall", 1)
    if found < 1:
        doubts.append(
            f"about {100 * found:.4g}% of nearest faces were found: --probes 0 finds all, slowly"
        )
    return doubts
