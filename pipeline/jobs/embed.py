"""Photos into the photos, faces and failures tables: read, decode, detect, align, embed, write.

At the end all photos of the run are compared, for its table of near-duplicates.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from facecluster.errors import JobError
from facecluster.pipeline.beam.run import JobMetrics, run_pipeline
from facecluster.pipeline.beam.runner import Execution, choose_execution
from facecluster.pipeline.failure_limit import FailureLimit
from facecluster.pipeline.jobs.embed_plan import EmbedPlan
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
from facecluster.transforms.photos.decode import DecodePhotos
from facecluster.transforms.photos.near_duplicates import near_duplicates_table
from facecluster.transforms.photos.read import ReadPhotos
from facecluster.transforms.photos.shards import make_read_tasks
from facecluster.transforms.photos.write import ShardWriter, WriteShards
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.codec import make_codec
from facecluster.transforms.tables.distinct import distinct_rows

# A small input is split finer than the option says, so that every worker has its share and
# progress shows; below the second number a file of its own is not worth it.
SHARDS_PER_WORKER, LEAST_PHOTOS_PER_SHARD = 16, 16


class TooManyFailures(JobError):
    """More inputs failed than --max-failures allows."""


@dataclass(frozen=True)
class EmbedJob:
    """What an embed job works on.

    Attributes:
      run: where the tables go.
      embedder, detector: the exported models.
      options: how photos become faces.
      beam_arguments: options for Beam, as on its command line.
      max_failures: of the run's inputs; None for no limit.
      retry_all: whether to try all listed failures again, and not only those in reading.
    """

    run: RunDirectory
    embedder: SavedModel
    detector: SavedModel
    options: EmbedOptions
    beam_arguments: Sequence[str] = ()
    max_failures: FailureLimit | None = None
    retry_all: bool = False

    def __call__(
        self, listing: Listing, watch: Callable[[Callable[[], int], int], None]
    ) -> EmbedEntry:
        """Embeds the photos that the run does not hold yet.

        Args:
          listing: the photos.
          watch: given a function that counts the photos done so far and their total, returns a
            context manager that shows progress while the job runs.

        Returns:
          The step's manifest entry.

        Raises:
          JobError: the run was made with other options or another model, or Beam failed.
        """
        card = self.embedder.card()
        codec = make_codec(self.options.codec, self.embedder.codec_arrays())
        settings = {
            "embedding_space": card.embedding_space,
            "detector_sha256": self.detector.card().sha256,
            "codec": codec.identity,
            "min_face_size": self.options.min_face_size,
            "detection_size": self.options.detection_size,
            "jpeg_size": self.options.jpeg_size,
        }
        self._check_settings(settings)
        models = self._models(card)
        plan = EmbedPlan.load(self.run)  # before anything is written: it may be of another version
        sources = listing.sources
        n_gone = plan.count_missing(listing)
        if self.retry_all and n_gone:
            raise JobError(
                f"{n_gone:,} inputs of {self.run.root} are still to be done: first go on with the "
                "command that was stopped, or with those of its inputs that are still there"
            )
        entry = EmbedEntry.start(options=settings, models=models)
        self.run.update_manifest(entry)

        self.run.remove_unfinished()
        plan = plan.without_superseded()
        execution = choose_execution(self.beam_arguments, len(plan.unfinished_uris(sources)))
        plan = plan.with_inputs(
            listing, lambda n: self._photos_per_shard(n, execution.n_workers), self.retry_all
        )
        shards = plan.pending_shards(sources)
        metrics = JobMetrics()
        if shards:
            writer = ShardWriter(
                self.run.root, codec, card.dimensions, card.sha256, card.embedding_space
            )
            check = self._early_check(plan, listing)
            try:
                metrics = self._embed(shards, writer, card, execution, watch, check)
            except TooManyFailures:
                EmbedPlan.load(self.run).without_superseded()
                self.run.update_manifest(entry.finish("failed"))
                raise
        EmbedPlan.load(self.run).without_superseded().without_repaired(listing)
        photos, _ = self.run.read_shards(
            "photos", ["photo_id", "width", "height", "taken_at", "n_faces", "perceptual_hash"]
        )
        near_duplicates = near_duplicates_table(photos)
        self.run.write("near_duplicates", near_duplicates)
        distinct = distinct_rows(photos, "photo_id")
        failures, _ = self.run.read_shards("failures", schema.FAILURES.names)
        counts = EmbedCounts(
            photos=len(photos),
            duplicates=len(photos) - len(distinct),
            near_duplicates=len(near_duplicates),
            faces=pc.sum(distinct["n_faces"]).as_py() or 0,
            failures=len(failures),
            inputs_done_before=len(sources) - sum(shard.n_photos for shard, _ in shards),
            inputs_missing=n_gone,
            other_files=listing.n_other_files,
        )
        try:
            self._check_failures(failures, len(photos) + len(failures))
        except TooManyFailures:
            self.run.update_manifest(entry.finish("failed", counts=counts))
            raise
        entry = entry.finish(
            counts=counts,
            counters=metrics.counters,
            stage_milliseconds=metrics.stage_milliseconds,
        )
        self.run.update_manifest(entry)
        return entry

    def _embed(
        self, shards, writer, card, execution: Execution, watch, check: Callable[[], None]
    ) -> JobMetrics:
        sizes = {shard.name: shard.n_photos for shard, _ in shards}

        def build(pipeline: beam.Pipeline) -> None:
            self._build(pipeline, shards, writer, card, execution.threads)

        with watch(lambda: self._photos_done(sizes), sum(sizes.values())):
            metrics = run_pipeline(execution, build, check)
        missing = sizes.keys() - set(self.run.complete_shards())
        if missing:  # a runner may end a cancelled job without an error
            raise JobError(f"{len(missing)} of {len(sizes)} shards were not written")
        return metrics

    def _early_check(self, plan: EmbedPlan, listing: Listing) -> Callable[[], None]:
        """Raises TooManyFailures as soon as it is certain that too many inputs fail."""
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

    def _check_failures(self, failures: pa.Table, n_inputs: int) -> None:
        if self.max_failures is None:
            return
        excess = self.max_failures.describe_excess(failures, n_inputs)
        if excess:
            raise TooManyFailures(f"{excess}; see {self.run.path('failures')}")

    def _build(self, pipeline, shards, writer, card, threads):
        options = self.options
        detector, embedder = (
            replace(model, threads=threads) for model in (self.detector, self.embedder)
        )
        _ = (
            pipeline
            | "Shards" >> beam.Create(make_read_tasks(shards))
            | "Read photos" >> ReadPhotos(options.limits().max_bytes)
            | "Decode" >> DecodePhotos(options.limits())
            | "Detect faces" >> DetectFaces(detector, options.min_face_size, options.detection_size)
            | "Align" >> AlignFaces(card.input_size, card.margin)
            | "Embed" >> EmbedFaces(embedder)
            | "Write shards" >> WriteShards(writer)
        )

    def _check_settings(self, settings: dict) -> None:
        embed = self.run.manifest().embed
        if embed:
            check_settings(
                embed.options,
                settings,
                self.run.root,
                advice="faces made with different settings cannot be compared; take another output "
                "folder, or start again with --overwrite",
            )

    def _models(self, card: ModelCard) -> dict[str, str]:
        """{name: SHA-256} of all models of this run's faces; they share an embedding space."""
        embed = self.run.manifest().embed
        return {**(embed.models if embed else {}), card.name: card.sha256}

    def _photos_per_shard(self, n_photos: int, n_workers: int) -> int:
        even = math.ceil(n_photos / (n_workers * SHARDS_PER_WORKER))
        return min(self.options.photos_per_shard, max(even, LEAST_PHOTOS_PER_SHARD))

    def _photos_done(self, sizes: dict[str, int]) -> int:
        return sum(sizes.get(name, 0) for name in self.run.complete_shards())
