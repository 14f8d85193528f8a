"""The summary that a command prints at its end: a run's counts, times and warnings."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from facecluster.pipeline.run.manifest import (
    STEPS,
    ClusterCounts,
    ClusterDiagnostics,
    EmbedCounts,
    Manifest,
)
from facecluster.transforms.grouping.face_filter import format_left_out_counts
from facecluster.transforms.inputs.photo_suffixes import how_to_read
from facecluster.transforms.tables.reasons import format_reasons

# A connected component of at least this fraction of the grouped faces, in a collection of at least
# this many, is noted if no person holds half of it.
CHAIN_FRACTION, CHAIN_FACES = 0.8, 100
NAMED = 3  # of doubtful people, collages, and faces with a damaged vector, in the summary


@dataclass(frozen=True)
class Line:
    """A line of the summary: a name, then a number or a text, then notes in parentheses."""

    name: str
    value: int | str
    notes: Sequence[str] = ()


def format_summary(
    manifest: Manifest, steps: Collection[str] = tuple(STEPS), uris: Mapping[str, str] | None = None
) -> str:
    """What a run holds now, and how the steps of this command went.

    A step that is running or was killed has no counts and is left out.

    Args:
      manifest: of the run.
      steps: the names of the steps that this command ran. Counts are of the whole run; what is said
        about "now" and "before", times and notes are only of these steps.
      uris: of the photos that the manifest names, by photo_id; a photo without one is named by its
        id.
    """
    is_now = "embed" in steps
    embed = manifest.embed.counts if manifest.embed else None
    grouping = manifest.cluster if "cluster" in steps else None
    cluster = grouping.counts if grouping else None
    diagnostics = (grouping.diagnostics if grouping else None) or ClusterDiagnostics()

    lines: list[Line] = []
    notes: list[str] = []
    if embed:
        lines += _photo_lines(embed, is_now)
    if cluster:
        lines += _people_lines(cluster, diagnostics)
    if embed:
        lines += _failure_lines(embed, is_now)
    lines += _time_lines(manifest, steps)
    if cluster:
        lines += _estimate_lines(diagnostics)
        notes += [
            *_collection_warnings(cluster, diagnostics),
            *_photo_warnings(diagnostics, uris or {}),
            *_people_warnings(diagnostics),
        ]
    if embed and is_now:
        notes = [*_input_warnings(embed, manifest, steps), *notes]
    lines += [Line("note", note) for note in notes]
    numbers = [f"{line.value:,}" for line in lines if isinstance(line.value, int)]
    width = max(map(len, numbers), default=0)
    return "\n".join(_format_line(line, width) for line in lines)


def _photo_lines(counts: EmbedCounts, is_now: bool) -> Iterator[Line]:
    changes = [_now_and_before(counts.new_photos, counts.photos, "read"), *_changes(counts)]
    kinds = [
        _count(counts.damaged, "damaged", "damaged"),
        _count(counts.duplicates, "duplicate", "duplicates"),
        _count(counts.near_duplicates, "near-duplicate", "near-duplicates"),
    ]
    yield Line("photos", counts.photos, [_join(changes) if is_now else "", _join(kinds)])
    yield Line("faces", counts.faces)


def _changes(counts: EmbedCounts) -> list[str]:
    """What has become of photos since they were read."""
    return [
        f"{number:,} {name}"
        for name, number in (
            ("changed", counts.changed),
            ("moved", counts.moved),
            ("forgotten", counts.forgotten),
        )
        if number
    ]


def _people_lines(counts: ClusterCounts, diagnostics: ClusterDiagnostics) -> Iterator[Line]:
    largest = _count(counts.largest_person, "face", "faces")
    yield Line("people", counts.people, [f"largest {largest}"] * bool(counts.people))
    yield Line("unassigned", counts.unassigned)
    if counts.left_out:
        yield Line("left out", counts.left_out, [format_left_out_counts(diagnostics.left_out)])


def _failure_lines(counts: EmbedCounts, is_now: bool) -> Iterator[Line]:
    """Inputs and other files that are not among the photos."""
    notes = [
        format_reasons(counts.failure_reasons),
        _now_and_before(counts.new_failures, counts.failures, "failed") if is_now else "",
    ]
    yield Line("failures", counts.failures, notes)
    if is_now and counts.n_other_files:
        unread = format_reasons(counts.unread_photos)
        notes = [
            format_reasons(counts.other_files),
            f"photo formats that are not read: {unread}" if unread else "",
        ]
        yield Line("passed over", counts.n_other_files, notes)


def _time_lines(manifest: Manifest, steps: Collection[str]) -> Iterator[Line]:
    times = [
        f"{name} {entry.seconds:,} s"
        for name, entry in manifest.steps.items()
        if name in steps and entry.seconds is not None
    ]
    if times:
        yield Line("time", ", ".join(times))


def _estimate_lines(diagnostics: ClusterDiagnostics) -> Iterator[Line]:
    """What grouping has estimated of the collection."""
    if diagnostics.impostor_width:
        strangers = f"{diagnostics.impostor_median:.2f} +- {diagnostics.impostor_width:.2f}"
        yield Line(
            "estimates",
            f"similarity of strangers {strangers}, {diagnostics.singles:.0%} of faces show people "
            "with one photo",
        )


def _input_warnings(
    counts: EmbedCounts, manifest: Manifest, steps: Collection[str]
) -> Iterator[str]:
    """Inputs that are not in the run, and photos that are not grouped."""
    if counts.inputs_missing:
        inputs = _count(counts.inputs_missing, "input", "inputs")
        were = "was" if counts.inputs_missing == 1 else "were"
        yield f"{inputs} of an unfinished earlier command {were} not given again and left out"
    if counts.unusable_suffixes:
        suffixes = format_reasons(counts.unusable_suffixes)
        yield f"no photo of these kinds could be read, see failures/: {suffixes}"
    if how := how_to_read(counts.unread_photos):
        yield how
    if counts.no_longer_there:
        photos = _count(counts.no_longer_there, "photo", "photos")
        are, them = ("is", "it") if counts.no_longer_there == 1 else ("are", "them")
        yield f"{photos} of the run {are} no longer there: --forget-removed takes {them} out of it"
    if manifest.cluster and "cluster" not in steps:
        if counts.changed or counts.forgotten:
            yield "the people still have faces that are gone: run `facecluster cluster`"
        elif counts.new_photos:
            yield "the photos read now are not grouped yet: run `facecluster cluster`"


def _collection_warnings(counts: ClusterCounts, diagnostics: ClusterDiagnostics) -> Iterator[str]:
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
    n_grouped = counts.faces - counts.left_out
    fraction_linked = diagnostics.largest_component / max(n_grouped, 1)
    is_chain = diagnostics.fraction_of_largest_person < fraction_linked / 2
    if n_grouped >= CHAIN_FACES and fraction_linked >= CHAIN_FRACTION and is_chain:
        yield (
            f"{diagnostics.largest_component:,} of {n_grouped:,} faces are linked with each other, "
            "directly or through others: people may be hard to tell apart in these photos"
        )


def _photo_warnings(diagnostics: ClusterDiagnostics, uris: Mapping[str, str]) -> Iterator[str]:
    """What was taken from faces being in one photo."""
    if diagnostics.collages:
        photos = _count(diagnostics.collages, "photo looks", "photos look")
        named = [uris.get(photo, photo) for photo in diagnostics.collage_photos]
        which = f": {_name_some(named, diagnostics.collages)}" if named else ""
        yield f"{photos} like a collage, in which a person may be more than once{which}"
    if diagnostics.kept_apart_by_photos:
        pairs = _count(diagnostics.kept_apart_by_photos, "pair of people is", "pairs of people are")
        yield (
            f"{pairs} similar and kept apart only because photos show both (an unassigned face is "
            "a person here): --ignore-photos may join them"
        )


def _people_warnings(diagnostics: ClusterDiagnostics) -> Iterator[str]:
    """People who may be more than one, faces that were not compared, and neighbors missed."""
    n_doubtful = diagnostics.doubtful_people
    if n_doubtful:
        people = _count(n_doubtful, "doubtful person", "doubtful people")
        named = _name_some(diagnostics.most_doubtful, n_doubtful)
        yield (
            f"{people}, perhaps more than one person each: {named} "
            "(a smaller --wrong-share splits more)"
        )
    n_damaged = diagnostics.left_out.get("vector", 0)
    if n_damaged:
        faces = _count(n_damaged, "face has", "faces have")
        named = _name_some(diagnostics.damaged_vectors, n_damaged)
        yield (
            f"{faces} a damaged vector (NaN, infinity or zeros): {named}; embed these photos again "
            "into a new folder"
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


def _format_line(line: Line, width: int) -> str:
    if isinstance(line.value, str):
        return f"{line.name:14}{line.value}"
    notes = "".join(f"  ({note})" for note in line.notes if note)
    return f"{line.name:14}{line.value:>{width},}{notes}"


def _join(notes: Iterable[str]) -> str:
    return ", ".join(filter(None, notes))


def _name_some(names: Sequence[str], total: int) -> str:
    """The first NAMED names, and dots if there are more in total."""
    return ", ".join(names[:NAMED]) + (", ..." if total > NAMED else "")


def _now_and_before(now: int, total: int, verb: str) -> str:
    """How many of `total` are of this command; empty if all are."""
    if now == total:
        return ""
    return f"{now:,} {verb} now, {total - now:,} before" if now else f"all {verb} before"


def _count(number: int, one: str, many: str) -> str:
    """The number with its noun, empty for 0."""
    return f"{number:,} {one if number == 1 else many}" if number else ""
