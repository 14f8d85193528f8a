"""Photos into the photos, faces and failures tables: read, decode, detect, align, embed, write.

At the end all photos of the run are compared, for its table of near-duplicates.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import apache_beam as beam
import pyarrow.compute as pc
from apache_beam.ml.inference.base import RunInference

from facecluster.pipeline.options import EmbedOptions
from facecluster.pipeline.run_directory import RunDirectory
from facecluster.pipeline.runner import choose_execution
from facecluster.transforms.align import align_faces
from facecluster.transforms.codec import make_codec
from facecluster.transforms.decode import decode_photo
from facecluster.transforms.detect import DetectFaces
from facecluster.transforms.embed import FaceEmbedder
from facecluster.transforms.near_duplicates import near_duplicates_table
from facecluster.transforms.read_photos import Listing, ReadPhotos, plan_shards
from facecluster.transforms.saved_model import SavedModel
from facecluster.transforms.write_shards import ShardWriter, WriteShards

# A small input is split finer than the option says, so that every worker has its share and
# progress shows; below the second number a file of its own is not worth it.
SHARDS_PER_WORKER, LEAST_PHOTOS_PER_SHARD = 16, 16


class EmbedError(Exception):
    """An embed job that cannot start or went wrong."""


@dataclass(frozen=True)
class EmbedJob:
    """What an embed job works on.

    Attributes:
      run: where the tables go.
      embedder, detector: the exported models.
      options: how photos become faces.
      beam_arguments: options for Beam, as on its command line.
    """

    run: RunDirectory
    embedder: SavedModel
    detector: SavedModel
    options: EmbedOptions
    beam_arguments: Sequence[str] = ()

    def __call__(self, listing: Listing, watch: Callable[[Callable[[], int], int], None]) -> dict:
        """Embeds the photos that the run does not hold yet.

        Args:
          listing: the photos.
          watch: given a function that counts the photos done so far and their total, returns a
            context manager that shows progress while the job runs.

        Returns:
          The step's manifest entry: counts, seconds, options.

        Raises:
          EmbedError: the run was made with other options or another model, or Beam failed.
        """
        started = time.monotonic()
        card = self.embedder.card()
        codec = make_codec(self.options.codec, self.embedder.codec_arrays())
        settings = {
            "embedding_space": card["embedding_space"],
            "detector_sha256": self.detector.card()["sha256"],
            "codec": codec.identity,
            "min_face_size": self.options.min_face_size,
            "detection_size": self.options.detection_size,
        }
        self._check_settings(settings)
        models = self._models(card)
        self.run.update_manifest(
            "embed", {"state": "running", "options": settings, "models": models}
        )

        self.run.remove_unfinished()
        done = self._uris_done()
        todo = [uri for uri in listing.uris if uri not in done]
        execution = choose_execution(self.beam_arguments, len(todo))
        shards = plan_shards(todo, self._photos_per_shard(len(todo), execution.n_workers))
        if shards:
            writer = ShardWriter(
                self.run.root, codec, card["dimensions"], card["sha256"], card["embedding_space"]
            )
            sizes = {shard.name: shard.n_photos for shard, _ in shards}
            with watch(lambda: self._photos_done(sizes), len(todo)):
                try:
                    pipeline = beam.Pipeline(execution.runner, execution.options)
                    self._build(pipeline, shards, writer, card, execution.threads)
                    pipeline.run().wait_until_finish()
                except Exception as error:
                    raise EmbedError(cause_of(error)) from error
        photos, _ = self.run.read_shards(
            "photos", ["photo_id", "width", "height", "taken_at", "n_faces", "perceptual_hash"]
        )
        near_duplicates = near_duplicates_table(photos)
        self.run.write("near_duplicates", near_duplicates)
        failures, _ = self.run.read_shards("failures", ["uri"])
        entry = {
            "state": "done",
            "options": settings,
            "models": models,
            "seconds": round(time.monotonic() - started, 1),
            "counts": {
                "photos": len(photos),
                "copies": len(photos) - pc.count_distinct(photos["photo_id"]).as_py(),
                "near_duplicates": len(near_duplicates),
                "faces": pc.sum(photos["n_faces"]).as_py() or 0,
                "failures": len(failures),
                "photos_already_done": len(listing.uris) - len(todo),
                "files_that_are_no_photos": listing.n_other_files,
            },
        }
        self.run.update_manifest("embed", entry)
        return entry

    def _build(self, pipeline, shards, writer, card, threads):
        options = self.options
        detector, embedder = (
            replace(model, threads=threads) for model in (self.detector, self.embedder)
        )
        _ = (
            pipeline
            | "Shards" >> beam.Create(shards)
            | "Read photos" >> ReadPhotos()
            | "Decode" >> beam.Map(decode_photo)
            | "Detect faces" >> DetectFaces(detector, options.min_face_size, options.detection_size)
            | "Align" >> beam.Map(align_faces, card["input_size"], card["margin"])
            | "Embed" >> RunInference(FaceEmbedder(embedder))
            | "Write shards" >> WriteShards(writer)
        )

    def _check_settings(self, settings: dict) -> None:
        before = self.run.manifest().get("steps", {}).get("embed", {}).get("options", settings)
        for name, value in settings.items():
            if before.get(name) != value:
                raise EmbedError(
                    f"{self.run.root} was made with {name} {before.get(name)}, now it is {value}; "
                    "faces made in two ways cannot be compared: take another output folder"
                )

    def _models(self, card: dict) -> dict[str, str]:
        """{name: SHA-256} of all models of this run's faces; they share an embedding space."""
        before = self.run.manifest().get("steps", {}).get("embed", {}).get("models", {})
        return {**before, card["name"]: card["sha256"]}

    def _uris_done(self) -> set[str]:
        uris: set[str] = set()
        for table in ("photos", "failures"):
            uris.update(self.run.read_shards(table, ["uri"])[0]["uri"].to_pylist())
        return uris

    def _photos_per_shard(self, n_photos: int, n_workers: int) -> int:
        even = math.ceil(n_photos / (n_workers * SHARDS_PER_WORKER))
        return min(self.options.photos_per_shard, max(even, LEAST_PHOTOS_PER_SHARD))

    def _photos_done(self, sizes: dict[str, int]) -> int:
        return sum(sizes.get(name, 0) for name in self.run.complete_shards())


def cause_of(error: BaseException) -> str:
    """The last line of what Beam raises: the error that the worker met."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
