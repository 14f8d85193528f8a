"""The summary that a command prints at its end: a run's counts, times and warnings."""

from collections.abc import Iterator

from facecluster.pipeline.run.manifest import (
    ClusterCounts,
    ClusterDiagnostics,
    ClusterEntry,
    EmbedCounts,
    Manifest,
)
from facecluster.transforms.grouping.face_filter import format_left_out_counts

# A connected component of at least this fraction of the grouped faces, in a collection of at least
# this many, is noted if no person holds half of it.
CHAIN_FRACTION, CHAIN_FACES = 0.8, 100
NAMED = 3  # doubtful people in the summary

Line = tuple[str, int, list[str]]  # name, number, notes in parentheses


def format_summary(manifest: Manifest) -> str:
    """A line for each count of a run's steps, one for their times, and the warnings as notes.

    A step that is running or was killed has no counts and is left out.
    """
    embed, cluster = manifest.embed, manifest.cluster
    embed_counts = embed.counts if embed else None
    diagnostics = (cluster.diagnostics if cluster else None) or ClusterDiagnostics()
    lines: list[Line] = []
    if embed_counts:
        lines += _embed_lines(embed_counts)
    if cluster and cluster.counts:
        lines += _cluster_lines(cluster.counts, diagnostics)
    if embed_counts:
        lines.append(_failures_line(embed_counts))
    width = max((len(f"{number:,}") for _, number, _ in lines), default=0)
    text = [
        f"{name:14}{number:>{width},}{''.join(f'  ({note})' for note in notes)}"
        for name, number, notes in lines
    ]
    seconds = [
        f"{name} {entry.seconds:,} s"
        for name, entry in manifest.steps.items()
        if entry.seconds is not None
    ]
    if seconds:
        text.append(f"{'time':14}{', '.join(seconds)}")
    if diagnostics.impostor_width:
        text.append(f"{'estimates':14}{_format_estimates(diagnostics)}")
    warnings = [*_input_warnings(embed_counts), *_collection_warnings(cluster, diagnostics),
                *_people_warnings(diagnostics)]  # fmt: skip
    return "\n".join([*text, *(f"{'note':14}{warning}" for warning in warnings)])


def _embed_lines(counts: EmbedCounts) -> list[Line]:
    notes = [
        _count(counts.inputs_done_before, "input done before", "inputs done before"),
        _count(counts.duplicates, "duplicate", "duplicates"),
        _count(counts.near_duplicates, "near-duplicate", "near-duplicates"),
    ]
    return [("photos", counts.photos, list(filter(None, notes))), ("faces", counts.faces, [])]


def _cluster_lines(counts: ClusterCounts, diagnostics: ClusterDiagnostics) -> list[Line]:
    largest = [f"largest {counts.largest_person:,} faces"] * bool(counts.people)
    lines: list[Line] = [
        ("people", counts.people, largest),
        ("unassigned", counts.unassigned, []),
    ]
    if counts.left_out:
        lines.append(("left out", counts.left_out, [format_left_out_counts(diagnostics.left_out)]))
    return lines


def _failures_line(counts: EmbedCounts) -> Line:
    others = _count(counts.other_files, "other file is", "other files are")
    return ("failures", counts.failures, [f"{others} not named like photos"] * bool(others))


def _input_warnings(counts: EmbedCounts | None) -> Iterator[str]:
    if counts and counts.inputs_missing:
        inputs = _count(counts.inputs_missing, "input", "inputs")
        were = "was" if counts.inputs_missing == 1 else "were"
        yield f"{inputs} of an unfinished earlier command {were} not given again and left out"


def _format_estimates(diagnostics: ClusterDiagnostics) -> str:
    """What grouping has estimated of the collection."""
    strangers = f"{diagnostics.impostor_median:.2f} +- {diagnostics.impostor_width:.2f}"
    return (
        f"similarity of strangers {strangers}, {diagnostics.singles:.0%} of faces show people "
        "with one photo"
    )


def _collection_warnings(
    cluster: ClusterEntry | None, diagnostics: ClusterDiagnostics
) -> Iterator[str]:
    """Collections that are hard to judge."""
    if not diagnostics.cohort:
        yield (
            "grouped with the collection's own statistics only: the model has no cohort of other "
            "people's faces to compare with"
        )
    if diagnostics.few_people:
        yield (
            "too few people to learn from how alike strangers are in these photos: what is usual "
            "for the model was taken"
        )
    n_grouped = cluster.counts.faces - cluster.counts.left_out if cluster and cluster.counts else 0
    fraction_linked = diagnostics.largest_component / max(n_grouped, 1)
    is_chain = diagnostics.fraction_of_largest_person < fraction_linked / 2
    if n_grouped >= CHAIN_FACES and fraction_linked >= CHAIN_FRACTION and is_chain:
        yield (
            f"{diagnostics.largest_component:,} of {n_grouped:,} faces are linked with each other, "
            "directly or through others: people may be hard to tell apart in these photos"
        )
    if diagnostics.collages:
        photos = _count(diagnostics.collages, "photo looks", "photos look")
        yield f"{photos} like a collage, in which a person may be more than once"


def _people_warnings(diagnostics: ClusterDiagnostics) -> Iterator[str]:
    """People who may be more than one, and neighbors that the search missed."""
    n_doubtful = diagnostics.doubtful_people
    if n_doubtful:
        people = _count(n_doubtful, "doubtful person", "doubtful people")
        named = ", ".join(diagnostics.most_doubtful[:NAMED])
        more = ", ..." if n_doubtful > NAMED else ""
        yield (
            f"{people}, perhaps more than one person each: {named}{more} "
            "(a smaller --wrong-share splits more)"
        )
    n_again = diagnostics.same_photo_violations
    if n_again:
        faces = _count(n_again, "face is", "faces are")
        yield f"{faces} of a person who is in the same photo already: see the report"
    if diagnostics.recall < 1:
        yield (
            f"about {100 * diagnostics.recall:.4g}% of nearest faces were found: --probes 0 finds "
            "all, slowly"
        )


def _count(number: int, one: str, many: str) -> str:
    """The number with its noun, empty for 0."""
    return f"{number:,} {one if number == 1 else many}" if number else ""
