"""The train job: from crops to an exported model.

See pipeline/training/folder.py for the files that it writes.
"""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from facecluster.errors import InputError, UsageError
from facecluster.model_export.crops import Crops, filter_by_center, list_crops, select_people
from facecluster.model_export.networks.export import export, weights_sha256
from facecluster.model_export.training.schedule import Schedule, read_schedule
from facecluster.model_export.validation.calibration import calibration_table
from facecluster.model_export.validation.held_out import HeldOut, hold_out_people, sample_pairs
from facecluster.model_export.validation.pairs import read_pairs
from facecluster.pipeline.options import TrainOptions
from facecluster.pipeline.training.crop_margin import margin_note, visible_margin
from facecluster.pipeline.training.folder import TrainingFolder
from facecluster.pipeline.training.option_checks import check_train_options
from facecluster.pipeline.training.setup import SetupBuilder, TrainingSetup
from facecluster.transforms.faces.model_card import ModelCard
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.tables.codec import COMPONENTS, fit_pca128

PUBLISHED_MARGIN, PUBLISHED_SIZE = 32, 160  # px
MAX_CODEC_CROPS = 20_000  # fitting a codec to more does not improve it
MODEL_OPTIONS = ("backbone", "start_from", "compatible_with", "filter_with")


@dataclass(frozen=True)
class TrainJob:
    """Trains a network and exports it.

    Attributes:
      folder: the training's folder, local.
      options: how to train.
      find_model: maps a model's name or folder, as the options give it, to the model.
      report: called with a line for each step of the job, and for each epoch with its scores.
    """

    folder: Path
    options: TrainOptions
    find_model: Callable[[str], SavedModel]
    report: Callable[[str], None]

    def __call__(self, sources: Sequence[str]) -> Path:
        """Trains from the beginning or from the last checkpoint, and exports the model.

        Args:
          sources: crops, as in `list_crops`.

        Returns:
          The folder of the exported model.

        Raises:
          UsageError: the options contradict each other, or do not fit the crops, the models or the
            folder.
          InputError: the crops, the pairs, the schedule or a file of the training cannot be used.
          ModelError: a model that the options name does not exist.
          JobError: the training diverged, or its checkpoint cannot be used.
        """
        import keras
        import tensorflow as tf

        from facecluster.model_export.training.trainer import OPTIMIZERS, Learner, train

        options = self.options
        check_train_options(options)
        schedule, margin = self._schedule(), self._margin(sources)
        all_crops = list_crops(sources)
        self._folder.open(self._settings(all_crops, margin))
        crops, held_out = self._split(all_crops)
        keras.utils.set_random_seed(options.seed)
        if options.deterministic:
            tf.config.experimental.enable_op_determinism()
        crops = self._filter(crops)
        if len(crops.people) < 2:
            raise UsageError(
                "all crops to train on are of one person, and training takes at least two: give "
                "more crops, or hold out fewer people"
            )
        self.report(
            f"training on {len(crops):,} crops of {len(crops.people):,} people"
            + (f", validating on {len(held_out.pairs.is_same):,} pairs" if held_out else "")
        )
        strategy = tf.distribute.get_strategy()
        if len(tf.config.list_physical_devices("GPU")) > 1:
            strategy = tf.distribute.MirroredStrategy()
        with strategy.scope(), _precision(options.mixed_precision):
            setup = self._builder.build(crops)
            learner = Learner(setup.network, setup.objective, setup.standardization)
            optimizer = OPTIMIZERS[options.optimizer]()
        validate = None
        if held_out:
            validate = lambda: self._score(held_out, setup.embed(held_out.crops))  # noqa: E731
        with _precision(options.mixed_precision), _crop_errors():
            train(
                learner,
                optimizer,
                setup.batches_from,
                schedule,
                self.folder,
                n_epochs=options.epochs,
                steps_per_epoch=options.steps_per_epoch,
                validate=validate,
                report=self.report,
            )
        return self._export(setup, crops, held_out, margin)

    @property
    def _folder(self) -> TrainingFolder:
        return TrainingFolder(self.folder)

    @property
    def _builder(self) -> SetupBuilder:
        return SetupBuilder(self.options, self.find_model, self._vectors)

    def _vectors(self, crops: Crops, name: str) -> np.ndarray:
        """(n, d) float32 unit vectors of the crops by a frozen model."""
        return self._folder.vectors(crops, name, self.find_model(name), self.report)

    def _schedule(self) -> Schedule:
        if self.options.learning_rate_schedule:
            return read_schedule(self.options.learning_rate_schedule)
        return Schedule(((0, self.options.learning_rate),))

    def _margin(self, sources: Sequence[str]) -> int:
        """The margin of the crops that the trained model will need, px."""
        options = self.options
        if options.crop_margin is not None:
            return options.crop_margin
        input_size = self._builder.input_size()
        margin = visible_margin(sources, input_size)
        if margin is not None and margin < 0:
            raise UsageError(
                f"the network would see the central {input_size} px of the crops, which is less "
                "than the face's box: make smaller crops with `facecluster crops --crop-size`, or "
                "take a larger --input-size"
            )
        if name := options.backbone or options.start_from:
            card = self.find_model(name).card()
            if note := margin_note(margin, name, card):
                self.report(note)
            return card.margin
        default = round(PUBLISHED_MARGIN * input_size / PUBLISHED_SIZE)
        return default if margin is None else margin

    def _settings(self, crops: Crops, margin: int) -> dict[str, Any]:
        """Everything that the trained weights depend on."""
        options = self.options
        named = {name: getattr(options, name) for name in MODEL_OPTIONS if getattr(options, name)}
        return {
            **asdict(options),
            **{f"{name}_sha256": self.find_model(m).card().sha256 for name, m in named.items()},
            "crop_margin": margin,
            "crops_sha256": hashlib.sha256("\n".join(crops.names).encode()).hexdigest(),
        }

    def _split(self, crops: Crops) -> tuple[Crops, HeldOut | None]:
        """The crops to train on, and those to validate on."""
        options = self.options
        crops = select_people(crops, options.min_images_per_person)
        if options.validation_crops and options.validation_pairs:
            held_out = list_crops([options.validation_crops])
            return crops, HeldOut(held_out, read_pairs(options.validation_pairs))
        if not options.validation_fraction:
            return crops, None
        is_held_out = hold_out_people(crops.labels, options.validation_fraction, options.seed)
        held_out = crops.select(is_held_out)
        pairs = None
        if len(held_out):
            pairs = sample_pairs(held_out.labels, held_out.names, options.seed)
        if pairs is None:
            self.report(
                f"no validation: {len(held_out):,} crops of {len(held_out.people):,} people "
                f"(a fraction of {options.validation_fraction:g}) are too few to hold out"
            )
            return crops, None
        return crops.select(~is_held_out), HeldOut(held_out, pairs)

    def _filter(self, crops: Crops) -> Crops:
        options = self.options
        if not options.filter_with:
            return crops
        vectors = self._vectors(crops, options.filter_with)
        kept = filter_by_center(
            crops, vectors, options.filter_percentile, options.min_images_per_person
        )
        self.report(f"filtering keeps {len(kept):,} of {len(crops):,} crops")
        return kept

    def _score(self, held_out: HeldOut, vectors: np.ndarray) -> dict[str, float]:
        try:
            return held_out.score(vectors)
        except ValueError as error:
            pairs = self.options.validation_pairs or "the people held out"
            raise InputError(f"cannot validate on {pairs}: {error}") from error

    def _export(
        self, setup: TrainingSetup, crops: Crops, held_out: HeldOut | None, margin: int
    ) -> Path:
        options, network = self.options, setup.finish()
        card = ModelCard(
            name=options.name,
            sha256=weights_sha256(network),
            **setup.card,
            source=f"trained by facecluster on {len(crops):,} crops of {len(crops.people):,} "
            f"people, loss {options.loss}",
            license="that of its training data",
            margin=margin,
            dimensions=network.output_shape[-1],
        )
        if options.compatible_with:
            old = self.find_model(options.compatible_with)
            old_card, codec = old.card(), old.codec_arrays()
            card = replace(
                card, embedding_space=old_card.embedding_space, compatible_with=old_card.identity
            )
        else:
            codec = self._fit_codec(setup, crops)
        if held_out:
            card = replace(card, measured=self._measure(setup, held_out))
        export({"embed": network}, card, self._folder.model, codec)
        return self._folder.model

    def _measure(self, setup: TrainingSetup, held_out: HeldOut) -> dict[str, Any]:
        """The scores for the model card."""
        options, crops = self.options, held_out.crops
        vectors = setup.embed(crops)
        source = (
            f"in {options.validation_crops}, pairs of {options.validation_pairs}"
            if options.validation_pairs
            else "held out from the training"
        )
        return {
            "on": f"{len(crops):,} crops of {len(crops.people):,} people {source}",
            "float32": self._score(held_out, vectors),
            "calibration": {"float32": calibration_table(vectors, crops.labels)},
        }

    def _fit_codec(self, setup: TrainingSetup, crops: Crops) -> dict[str, np.ndarray] | None:
        """The 128-byte codec fitted to the training set; None if it is too small."""
        random = np.random.default_rng(self.options.seed)
        sample = np.zeros(len(crops), bool)
        sample[random.permutation(len(crops))[:MAX_CODEC_CROPS]] = True
        if min(sample.sum(), setup.network.output_shape[-1]) < COMPONENTS:
            return None
        return fit_pca128(setup.embed(crops.select(sample)))


@contextlib.contextmanager
def _crop_errors() -> Iterator[None]:
    """Raises an InputError of a data pipeline, which TensorFlow wraps, as an InputError again."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        reason = re.search(r"InputError: (.+)", str(error))
        if reason is None:
            raise
        raise InputError(reason[1]) from error


@contextlib.contextmanager
def _precision(mixed: bool) -> Iterator[None]:
    """Networks built in this context compute in half precision if `mixed`."""
    import keras
    import tensorflow as tf

    before = keras.config.dtype_policy()
    if mixed:
        half = "mixed_float16" if tf.config.list_physical_devices("GPU") else "mixed_bfloat16"
        keras.config.set_dtype_policy(half)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
