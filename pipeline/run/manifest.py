"""The typed records of a run's manifest.json, with its only reader and its only writer.

    {"manifest_version": 2, "versions": {"python": "3.12.1", ...}, "steps": {"embed": {...}, ...}}

An entry of `steps` has the fields of its class below, without those that are None.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Literal, TypeVar

import msgspec
from apache_beam.io.filesystems import FileSystems

from facecluster.errors import JobError
from facecluster.transforms.own_output import MANIFEST_NAME, marks_output
from facecluster.transforms.tables.files import write_bytes

MANIFEST_VERSION = 2
VERSIONED_PACKAGES = ("facecluster", "apache-beam", "tensorflow", "faiss-cpu", "faiss-gpu",
                      "hdbscan", "scikit-learn", "numpy", "pyarrow", "pillow")  # fmt: skip

Entry = TypeVar("Entry", bound="StepEntry")


@dataclass(frozen=True)
class EmbedCounts:
    """What a run holds after its photos were embedded.

    Attributes:
      photos: photos that were read, one for each URI.
      damaged: of these, how many lack some pixels.
      duplicates: of these, how many have the bytes of another one.
      near_duplicates: of these, how many show the picture of another one.
      new_photos: of these, how many this job has read.
      faces: distinct faces; those of duplicates count once.
      failures: inputs that could not be used.
      new_failures: of these, how many this job has tried.
      failure_reasons: the number of failures for each reason, in words.
      unusable_suffixes: the number of failures for each suffix of which no photo could be decoded.
      inputs_done_before: inputs of this job that an earlier one had finished.
      inputs_missing: inputs that an earlier job had planned and that this one was not given.
      changed: inputs whose bytes are others than before, and which were read again.
      moved: photos that were found under another name or in another folder.
      forgotten: inputs that were removed from the run, because they are no longer there.
      no_longer_there: inputs that the run holds and that are no longer in its folders.
      n_other_files: files below the inputs that were passed over.
      other_files: their number for each reason, in words.
      unread_photos: of these, the number of photos in formats that are not read, by suffix.
    """

    photos: int = 0
    damaged: int = 0
    duplicates: int = 0
    near_duplicates: int = 0
    new_photos: int = 0
    faces: int = 0
    failures: int = 0
    new_failures: int = 0
    failure_reasons: dict[str, int] = field(default_factory=dict)
    unusable_suffixes: dict[str, int] = field(default_factory=dict)
    inputs_done_before: int = 0
    inputs_missing: int = 0
    changed: int = 0
    moved: int = 0
    forgotten: int = 0
    no_longer_there: int = 0
    n_other_files: int = 0
    other_files: dict[str, int] = field(default_factory=dict)
    unread_photos: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ClusterCounts:
    """The faces and people of a grouping; `largest_person` is the size of the largest, in faces."""

    faces: int = 0
    people: int = 0
    unassigned: int = 0
    left_out: int = 0
    largest_person: int = 0


@dataclass(frozen=True)
class ClusterDiagnostics:
    """How a grouping went and which people to doubt; docs/tables.md describes each field."""

    cohort: bool = True
    few_people: bool = False
    impostor_median: float = 0.0
    impostor_width: float = 0.0
    singles: float = 0.0
    collages: int = 0
    collage_photos: list[str] = field(default_factory=list)
    kept_apart_by_photos: int = 0
    recall: float = 1.0
    components: int = 0
    largest_component: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    damaged_vectors: list[str] = field(default_factory=list)
    fraction_unassigned: float = 0.0
    fraction_of_largest_person: float = 0.0
    same_photo_violations: int = 0
    repeated_in_photo: int = 0
    doubtful_people: int = 0
    most_doubtful: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StepEntry:
    """What a step was given and what came of it.

    Attributes:
      state: "running" also of a job that was killed; "failed" if too many inputs failed.
      started_at, finished_at: UTC; a running step has no finished_at.
      seconds: from start to finish.
      options: the settings that decide what the step makes.
    """

    step: ClassVar[str]

    state: Literal["running", "done", "failed"]
    started_at: datetime
    finished_at: datetime | None = None
    seconds: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if (self.state == "running") != (self.finished_at is None):
            raise ValueError(f"state is {self.state!r} and finished_at is {self.finished_at}")

    @classmethod
    def start(cls: type[Entry], **values: Any) -> Entry:
        """The entry of a step that starts now."""
        return cls(state="running", started_at=_now(), **values)

    def finish(self: Entry, state: Literal["done", "failed"] = "done", **values: Any) -> Entry:
        """The entry of the same step when it ends now."""
        now = _now()
        seconds = round(max(0.0, (now - self.started_at).total_seconds()), 1)
        return replace(self, state=state, finished_at=now, seconds=seconds, **values)


@dataclass(frozen=True)
class EmbedEntry(StepEntry):
    """Photos into faces.

    Attributes:
      models: {name: SHA-256} of every model that has made faces of this run.
      counts: None until the step ends.
      counters, stage_milliseconds: metrics of this job's workers, see `JobMetrics`; empty if there
        was nothing to do, or if the runner reports none.
    """

    step: ClassVar[str] = "embed"

    models: dict[str, str] = field(default_factory=dict)
    counts: EmbedCounts | None = None
    counters: dict[str, int] = field(default_factory=dict)
    stage_milliseconds: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ClusterEntry(StepEntry):
    """Faces into people."""

    step: ClassVar[str] = "cluster"

    counts: ClusterCounts | None = None
    diagnostics: ClusterDiagnostics | None = None


STEPS: dict[str, type[StepEntry]] = {kind.step: kind for kind in (EmbedEntry, ClusterEntry)}


@dataclass(frozen=True)
class Manifest:
    """A run's manifest.

    Attributes:
      embed, cluster: the last job of each step, None for none.
      versions: of Python and of the packages that wrote the manifest last.
      other, other_steps: keys that facecluster does not write, kept as they are.
    """

    embed: EmbedEntry | None = None
    cluster: ClusterEntry | None = None
    versions: dict[str, str] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)
    other_steps: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> dict[str, StepEntry]:
        """The entries that are there, by name."""
        return {name: entry for name in STEPS if (entry := getattr(self, name)) is not None}

    def with_step(self, entry: StepEntry) -> "Manifest":
        """The manifest with an entry in place of the same step's earlier one."""
        return replace(self, versions=library_versions(), **{entry.step: entry})


def read_manifest(path: str) -> Manifest:
    """Reads a manifest; an empty one if there is no such file.

    Raises:
      JobError: the file is damaged or has another version.
    """
    if not FileSystems.exists(path):
        return Manifest()
    try:
        content = _read_json(path)
        found = content.get("manifest_version")
        if found == MANIFEST_VERSION:
            return _parse(content)
    except (ValueError, msgspec.ValidationError) as error:
        raise JobError(
            f"{path} is damaged ({error}): start again with --overwrite, or take another output "
            "folder"
        ) from error
    raise JobError(
        f"{path} has manifest version {found}, this facecluster reads version "
        f"{MANIFEST_VERSION}: start again with --overwrite, or take another output folder"
    )


def is_manifest(path: str) -> bool:
    """Whether a file is a manifest, of any version."""
    if not FileSystems.exists(path):
        return False
    with FileSystems.open(path) as file:
        return marks_output(MANIFEST_NAME, file.read())


def write_manifest(path: str, manifest: Manifest) -> None:
    """Writes a manifest; readers see the old one or the new one, never a part."""
    steps = {name: _without_none(entry) for name, entry in manifest.steps.items()}
    content = {
        **manifest.other,
        "manifest_version": MANIFEST_VERSION,
        "versions": manifest.versions,
        "steps": {**manifest.other_steps, **steps},
    }
    text = json.dumps(content, indent=2, sort_keys=True, default=_as_text) + "\n"
    write_bytes(path, text.encode())


def library_versions() -> dict[str, str]:
    """The versions of Python and of the installed packages that matter to results."""
    found = {"python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _now() -> datetime:
    """The time to a millisecond, as it is written."""
    now = datetime.now(timezone.utc)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _read_json(path: str) -> dict[str, Any]:
    with FileSystems.open(path) as file:
        content = json.loads(file.read())
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


def _as_text(value: Any) -> str:
    is_time = isinstance(value, datetime) and value.tzinfo is not None
    return value.isoformat(timespec="milliseconds") if is_time else str(value)


def _without_none(entry: StepEntry) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if value is not None}


@dataclass(frozen=True)
class _Steps:
    """The entries that facecluster writes, as they are under `steps` in the file."""

    embed: EmbedEntry | None = None
    cluster: ClusterEntry | None = None


def _parse(content: Mapping[str, Any]) -> Manifest:
    known = ("manifest_version", "versions", "steps")
    steps = msgspec.convert(content.get("steps"), _Steps)
    return Manifest(
        steps.embed,
        steps.cluster,
        versions=msgspec.convert(content.get("versions", {}), dict[str, str]),
        other={key: value for key, value in content.items() if key not in known},
        other_steps={key: value for key, value in content["steps"].items() if key not in STEPS},
    )
