"""The embed job: photos into the photos, faces and failures tables of a run.

Its steps are those of `EmbedJob._add_steps`. At the end the perceptual hashes of all photos in the
run are compared, for the table of near-duplicates.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from facecluster.errors import JobError
from facecluster.pipeline.beam.run import JobMetrics, run_pipeline
from facecluster.pipeline.beam.runner import Execution, choose_execution
from facecluster.pipeline.failure_limit import FailureLimit
from facecluster.pipeline.jobs.embed_plan import EmbedPlan
from facecluster.pipeline.jobs.input_changes import InputChanges, check_removal, find_changes
from facecluster.pipeline.jobs.photo_ids import compute_photo_ids
from facecluster.pipeline.options import EmbedOptions
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.pipeline.run.manifest import EmbedCounts, EmbedEntry
from facecluster.pipeline.run.settings import check_settings
from facecluster.transforms.faces.align import AlignFaces
from facecluster.transforms.faces.detect import DetectFaces
from facecluster.transforms.faces.embed import EmbedFaces
from facecluster.transforms.faces.model_card import ModelCard
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.inputs.listing import Listing
from facecluster.transforms.inputs.sources import Source
from facecluster.transforms.photos.decode import DecodePhotos
from facecluster.transforms.photos.near_duplicates import near_duplicates_table
from facecluster.transforms.photos.read import ReadPhotos
from facecluster.transforms.photos.shards import choose_shard_size, make_read_tasks
from facecluster.transforms.photos.write import ShardWriter, WriteShards
from facecluster.transforms.records import Shard
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.codec import Codec, make_codec
from facecluster.transforms.tables.distinct import distinct_rows
from facecluster.transforms.tables.reasons import count_failure_reasons, count_unusable_suffixes

# Small inputs get smaller shards than the option says, so that every worker has some and progress
# is visible.
SHARDS_PER_WORKER = 16

# Makes a context that shows progress, from a function that counts the photos done, their total and,
# if they are not embedded, what is done with them.
Watch = Callable[..., AbstractContextManager[None]]
Shards = Sequence[tuple[Shard, tuple[Source, ...]]]


class TooManyFailures(JobError):
    """More inputs failed than --max-failures allows."""


@dataclass(frozen=True)
class EmbedJob:
    """A job that embeds the faces of photos into a run.

    Attributes:
      run: where the tables go.
      embedder, detector: the exported models.
      options: how faces are detected and embedded.
      beam_arguments: options for Beam, as on its command line.
      max_failures: limit for the inputs of the run, None for no limit.
      retry_all: whether to retry all failed inputs of the listing, and not only those that failed
        in reading.
      forget_removed: whether inputs that are no longer in the folders and containers of the listing
        leave the run.
    """

    run: RunDirectory
    embedder: SavedModel
    detector: SavedModel
    options: EmbedOptions
    beam_arguments: Sequence[str] = ()
    max_failures: FailureLimit | None = None
    retry_all: bool = False
    forget_removed: bool = False

    def __call__(self, listing: Listing, watch: Watch) -> EmbedEntry:
        """Embeds the photos of the listing that the run does not hold yet, or that have changed.

        Returns:
          The step's entry in the manifest.

        Raises:
          InputError: a folder of the listing has none of the photos that are to be forgotten.
          TooManyFailures: more inputs failed than max_failures allows.
          JobError: the run was made with other settings, a retry would leave out unfinished inputs,
            or Beam failed.
          TableError: the run is damaged or of another version.
        """
        entry = self._start_entry()
        # These may fail, so they come before anything is written.
        cohort = self.embedder.cohort(self.options.codec)
        plan = EmbedPlan.load(self.run)
        n_missing = self._count_missing(plan, listing)
        self.run.remove_unfinished()
        plan = plan.with_edits_finished().without_superseded().without_broken_shards(listing)
        changes = find_changes(plan, listing, lambda sources: self._photo_ids(sources, watch))
        edits = changes.edits(self.forget_removed)
        if self.forget_removed:
            check_removal(plan, listing, changes)
        self.run.update_manifest(entry)
        if cohort:
            self.run.write_cohort(cohort)
        plan = plan.with_edits(edits)
        n_photos = len(plan.unfinished_uris(listing)) + len(changes.changed)
        n_shards = SHARDS_PER_WORKER * choose_execution(self.beam_arguments, n_photos).n_workers
        plan = plan.with_inputs(
            listing,
            lambda n: choose_shard_size(n, n_shards, self.options.photos_per_shard),
            self.retry_all,
            changes.changed,
        )
        shards = plan.pending_shards(listing)
        execution = choose_execution(self.beam_arguments, n_photos, len(make_read_tasks(shards)))
        try:
            metrics = self._embed(shards, execution, watch, self._failure_check(plan, listing))
        except TooManyFailures:
            EmbedPlan.load(self.run).without_superseded()
            self.run.update_manifest(entry.finish("failed"))
            raise
        EmbedPlan.load(self.run).without_superseded().without_repaired(listing)

        photos, _ = self.run.read_shards(
            "photos",
            ["photo_id", "width", "height", "taken_at", "damaged", "n_faces", "perceptual_hash"],
        )
        failures, _ = self.run.read_shards("failures", schema.FAILURES.names)
        near_duplicates = near_duplicates_table(photos)
        self.run.write("near_duplicates", near_duplicates)
        done_now = [shard for shard, _ in shards]
        counts = replace(
            self._count_rows(photos, failures, done_now),
            near_duplicates=len(near_duplicates),
            inputs_missing=n_missing,
            **self._count_inputs(listing, changes, done_now),
        )
        results: dict[str, Any] = {
            "counts": counts,
            "counters": metrics.counters,
            "stage_milliseconds": metrics.stage_milliseconds,
        }
        try:
            self._check_failures(failures, len(photos) + len(failures))
        except TooManyFailures:
            self.run.update_manifest(entry.finish("failed", **results))
            raise
        entry = entry.finish(**results)
        self.run.update_manifest(entry)
        return entry

    def _start_entry(self) -> EmbedEntry:
        """The entry of this job; raises JobError if the run was made with other settings."""
        settings = {
            "embedding_space": self._card.embedding_space,
            "detector_sha256": self.detector.card().sha256,
            "codec": self._codec.identity,
            "min_face_size": self.options.min_face_size,
            "detection_size": self.options.detection_size,
            "jpeg_size": self.options.jpeg_size,
        }
        models = {self._card.name: self._card.sha256}
        before = self.run.manifest().embed
        if before:
            check_settings(
                before.options,
                settings,
                self.run.root,
                advice="faces made with different settings cannot be compared; take another output "
                "folder, or start again with --overwrite",
            )
            models = before.models | models  # they share an embedding space
        return EmbedEntry.start(options=settings, models=models)

    @cached_property
    def _card(self) -> ModelCard:
        return self.embedder.card()

    @cached_property
    def _codec(self) -> Codec:
        return make_codec(self.options.codec, self.embedder.codec_arrays())

    def _count_missing(self, plan: EmbedPlan, listing: Listing) -> int:
        n_missing = plan.count_missing(listing)
        if self.retry_all and n_missing:
            raise JobError(
                f"{n_missing:,} inputs of {self.run.root} are unfinished: first continue with the "
                "command that was stopped, or with those of its inputs that still exist"
            )
        return n_missing

    def _photo_ids(self, sources: Sequence[Source], watch: Watch) -> pa.Table:
        return compute_photo_ids(
            self.run, sources, self.options.limits().max_bytes, self.beam_arguments, watch
        )

    def _embed(
        self, shards: Shards, execution: Execution, watch: Watch, check: Callable[[], None]
    ) -> JobMetrics:
        if not shards:
            return JobMetrics()
        sizes = {shard.name: shard.n_photos for shard, _ in shards}

        def build(pipeline: beam.Pipeline) -> None:
            self._add_steps(pipeline, shards, execution.threads)

        def count_done() -> int:
            return sum(sizes.get(name, 0) for name in self.run.complete_shards())

        with watch(count_done, sum(sizes.values())):
            metrics = run_pipeline(execution, build, check)
        missing = sizes.keys() - set(self.run.complete_shards())
        if missing:  # a runner may end a canceled job without an error
            raise JobError(f"{len(missing)} of {len(sizes)} shards were not written")
        return metrics

    def _add_steps(self, pipeline: beam.Pipeline, shards: Shards, threads: int) -> None:
        options, limits, card = self.options, self.options.limits(), self._card
        detector = replace(self.detector, threads=threads)
        embedder = replace(self.embedder, threads=threads)
        writer = ShardWriter(
            self.run.root, self._codec, card.dimensions, card.sha256, card.embedding_space
        )
        _ = (
            pipeline
            | "Shards" >> beam.Create(make_read_tasks(shards))
            | "Read photos" >> ReadPhotos(limits.max_bytes)
            | "Decode" >> DecodePhotos(limits)
            | "Detect faces" >> DetectFaces(detector, options.min_face_size, options.detection_size)
            | "Align" >> AlignFaces(card.input_size, card.margin)
            | "Embed" >> EmbedFaces(embedder)
            | "Write shards" >> WriteShards(writer)
        )

    def _failure_check(self, plan: EmbedPlan, listing: Listing) -> Callable[[], None]:
        """A function that raises TooManyFailures as soon as exceeding the limit is certain."""
        if self.max_failures is None:
            return lambda: None
        seen = set(plan.complete.to_pylist())
        failures = [plan.final_failures(listing)]

        def check() -> None:
            new = [shard for shard in self.run.complete_shards() if shard not in seen]
            if new:
                seen.update(new)
                failures.append(self.run.read_shards("failures", schema.FAILURES.names, new)[0])
                self._check_failures(pa.concat_tables(failures), plan.n_inputs)

        return check

    def _count_rows(
        self, photos: pa.Table, failures: pa.Table, done_now: Sequence[Shard]
    ) -> EmbedCounts:
        """What the run holds, and how much of it is in the shards that this job has written."""
        distinct = distinct_rows(photos, "photo_id")
        names = [shard.name for shard in done_now]
        return EmbedCounts(
            photos=len(photos),
            damaged=pc.sum(photos["damaged"]).as_py() or 0,
            duplicates=len(photos) - len(distinct),
            new_photos=self.run.count_rows("photos", names),
            faces=pc.sum(distinct["n_faces"]).as_py() or 0,
            failures=len(failures),
            new_failures=self.run.count_rows("failures", names),
            failure_reasons=count_failure_reasons(failures),
            unusable_suffixes=self._count_unusable_suffixes(failures),
        )

    def _count_inputs(
        self, listing: Listing, changes: InputChanges, done_now: Sequence[Shard]
    ) -> dict[str, Any]:
        """The fields of `EmbedCounts` on the inputs of this job."""
        return {
            "inputs_done_before": len(listing.sources) - sum(shard.n_photos for shard in done_now),
            "changed": len(changes.changed),
            "moved": len(changes.moved),
            "forgotten": len(changes.missing) if self.forget_removed else 0,
            "no_longer_there": 0 if self.forget_removed else len(changes.missing),
            "n_other_files": listing.n_other_files,
            "other_files": dict(listing.other_files),
            "unread_photos": dict(listing.unread_photos),
        }

    def _count_unusable_suffixes(self, failures: pa.Table) -> dict[str, int]:
        if not len(failures):
            return {}
        photos, _ = self.run.read_shards("photos", ["uri"])
        return count_unusable_suffixes(failures, photos["uri"])

    def _check_failures(self, failures: pa.Table, n_inputs: int) -> None:
        if self.max_failures is None:
            return
        excess = self.max_failures.describe_excess(failures, n_inputs)
        if excess:
            raise TooManyFailures(f"{excess}; see {self.run.path('failures')}")
