"""A training from crops to an exported model.

DIR/
  training.json     the options, by which a second run knows that it goes on with the same training
  checkpoint.npz    all that the next epoch depends on
  tensorboard/      scalars of every epoch
  vectors/          what frozen models make of the crops, computed once
  model/            the exported model, once training has ended
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from facecluster.errors import InputError, UsageError
from facecluster.model_export.crops import Crops, filter_by_center, list_crops, select_people
from facecluster.model_export.networks.export import (
    export,
    weights_sha256,
)
from facecluster.model_export.training.schedule import Schedule, read_schedule
from facecluster.model_export.validation.calibration import calibration_table
from facecluster.model_export.validation.held_out import HeldOut, hold_out_people, sample_pairs
from facecluster.model_export.validation.pairs import read_pairs
from facecluster.model_export.validation.validate import embed_with_model
from facecluster.pipeline.jobs.training_task import Task, TaskMaker
from facecluster.pipeline.options import TrainOptions
from facecluster.pipeline.run.settings import check_settings
from facecluster.pipeline.training.crop_margin import margin_note, visible_margin
from facecluster.transforms.faces.model_card import ModelCard
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.tables.codec import COMPONENTS, fit_pca128
from facecluster.transforms.tables.files import write_bytes

SETTINGS_NAME, VECTORS_FOLDER, MODEL_FOLDER = "training.json", "vectors", "model"
PUBLISHED_MARGIN, PUBLISHED_SIZE = 32, 160  # px
MOST_CODEC_CROPS = 20_000  # a codec is not better for being fitted to more
MODEL_OPTIONS = ("trunk", "start_from", "compatible_with", "filter_with")
# Options that a training may go on with, changed.
FREE_TO_CHANGE = ("name", "epochs", "learning_rate", "learning_rate_schedule")
OF_A_NEW_NETWORK = ("input_size", "width", "standardization")
# When options have no effect, and which: a training that ignored them would not be what was meant.
WITHOUT_EFFECT: tuple[tuple[str, Callable[[TrainOptions], Any], tuple[str, ...]], ...] = (
    (
        "with --loss softmax",
        lambda options: options.loss == "softmax",
        ("people_per_batch", "images_per_person", "margin", "mining"),
    ),
    (
        "with --loss triplet",
        lambda options: options.loss == "triplet",
        ("batch_size", "center_loss_factor", "norm_loss_factor"),
    ),
    (
        "with --trunk, whose model stays as it is and sees each crop once, as it is",
        lambda options: options.trunk,
        (*OF_A_NEW_NETWORK, "flip", "random_crop", "rotation", "colour", "mixed_precision"),
    ),
    (
        "with --start-from, whose model has it already",
        lambda options: options.start_from,
        OF_A_NEW_NETWORK,
    ),
    ("with --start-from", lambda options: options.start_from, ("dropout",)),
    ("without --filter-with", lambda options: not options.filter_with, ("filter_percentile",)),
    (
        "with --validation-crops",
        lambda options: options.validation_crops and options.validation_share,
        ("validation_share",),
    ),
    (
        "with --learning-rate-schedule",
        lambda options: options.learning_rate_schedule,
        ("learning_rate",),
    ),
)


@dataclass(frozen=True)
class TrainJob:
    """What a training works on.

    Attributes:
      folder: local; see above.
      options: how to train.
      find_model: from a model's name or folder, as options give it, to the model.
      say: told what is being done, and every epoch's figures.
    """

    folder: Path
    options: TrainOptions
    find_model: Callable[[str], SavedModel]
    say: Callable[[str], None]

    def __call__(self, sources: Sequence[str]) -> Path:
        """Trains, or goes on from the last checkpoint, and exports.

        Args:
          sources: crops, as in `list_crops`.

        Returns:
          The folder of the exported model.

        Raises:
          UsageError, InputError, InputError, UsageError, ModelError: the options, crops or models
            do not fit together.
          InputError: the schedule cannot be read, or the training went wrong.
        """
        import keras
        import tensorflow as tf

        from facecluster.model_export.training.trainer import OPTIMIZERS, Learner, train

        options = self.options
        self._check_options()
        schedule, margin = self._schedule(), self._margin(sources)
        everything = list_crops(sources)
        self._check_folder(everything, margin)
        crops, held_out = self._split(everything)
        keras.utils.set_random_seed(options.seed)
        if options.deterministic:
            tf.config.experimental.enable_op_determinism()
        crops = self._filtered(crops)
        if len(crops.people) < 2:
            raise UsageError(
                "the crops that are left to train on are all of one person, and training takes two "
                "at least: give more crops, or keep fewer out"
            )
        self.say(
            f"training on {len(crops):,} crops of {len(crops.people):,} people"
            + (f", validating on {len(held_out.pairs.is_same):,} pairs" if held_out else "")
        )
        strategy = tf.distribute.get_strategy()
        if len(tf.config.list_physical_devices("GPU")) > 1:
            strategy = tf.distribute.MirroredStrategy()
        with strategy.scope(), _precision(options.mixed_precision):
            task = self._maker.task(crops)
            learner = Learner(
                task.network, self._maker.objective(crops, task), task.standardization
            )
            optimizer = OPTIMIZERS[options.optimizer]()
        with _precision(options.mixed_precision), _crop_errors():
            train(
                learner,
                optimizer,
                task.batches_from,
                schedule,
                self.folder,
                n_epochs=options.epochs,
                steps_per_epoch=options.steps_per_epoch,
                validate=held_out and (lambda: self._scores(held_out, task.embed(held_out.crops))),
                report=self.say,
            )
        return self._export(task, crops, held_out, margin)

    @property
    def _maker(self) -> TaskMaker:
        return TaskMaker(self.options, self.find_model, self._vectors)

    def _check_options(self) -> None:
        options = self.options
        if options.trunk and options.start_from:
            raise UsageError("--trunk freezes a model and --start-from trains it: give one of them")
        if options.compatible_with and options.loss != "triplet":
            raise UsageError("--compatible-with takes triplets: add --loss triplet")
        if bool(options.validation_crops) != bool(options.validation_pairs):
            raise UsageError("--validation-crops and --validation-pairs go together: give both")
        for when, is_so, names in WITHOUT_EFFECT:
            for name in names:
                if is_so(options) and getattr(options, name) != getattr(TrainOptions, name):
                    raise UsageError(
                        f"--{name.replace('_', '-')} has no effect {when}: leave it out"
                    )

    def _split(self, crops: Crops) -> tuple[Crops, HeldOut | None]:
        """The crops to train on, and what to validate on."""
        options = self.options
        crops = select_people(crops, options.min_images_per_person)
        if options.validation_pairs:
            held_out = list_crops([options.validation_crops])
            return crops, HeldOut(held_out, read_pairs(options.validation_pairs))
        if not options.validation_share:
            return crops, None
        kept_out = hold_out_people(crops.labels, options.validation_share, options.seed)
        held_out = crops.select(kept_out)
        pairs = len(held_out) and sample_pairs(held_out.labels, held_out.names, options.seed)
        if not pairs:
            self.say(
                f"no validation: {len(held_out):,} crops of {len(held_out.people):,} people, "
                f"which are {options.validation_share:g} of all, are too few to be kept out for it"
            )
            return crops, None
        return crops.select(~kept_out), HeldOut(held_out, pairs)

    def _check_folder(self, crops: Crops, margin: int) -> None:
        """Refuses a folder that holds something else, or that another training began in."""
        from facecluster.model_export.training.trainer import CHECKPOINT_NAME

        settings = self._settings(crops, margin)
        path = self.folder / SETTINGS_NAME
        if not path.exists():
            there = self.folder.iterdir() if self.folder.exists() else ()
            others = sorted(item.name for item in there if item.suffix not in (".log", ".tmp"))
            if others:
                raise UsageError(
                    f"{self.folder} holds files that are no training of ours, such as {others[0]}: "
                    "take an output folder that is empty or not there yet"
                )
        # Before the first checkpoint there is nothing that other options could contradict.
        elif any((self.folder / name).exists() for name in (CHECKPOINT_NAME, MODEL_FOLDER)):
            try:
                before = dict(json.loads(path.read_text()))
            except ValueError as error:
                raise UsageError(
                    f"{path} is damaged, take another output folder: {error}"
                ) from error
            check_settings(
                before, settings, str(self.folder), ignored=FREE_TO_CHANGE, error=UsageError
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        write_bytes(str(path), (json.dumps(settings, indent=2) + "\n").encode())

    def _settings(self, crops: Crops, margin: int) -> dict[str, Any]:
        """All that makes the training what it is."""
        options = self.options
        named = {name: getattr(options, name) for name in MODEL_OPTIONS if getattr(options, name)}
        return {
            **asdict(options),
            **{f"{name}_sha256": self.find_model(m).card().sha256 for name, m in named.items()},
            "crop_margin": margin,
            "crops_sha256": hashlib.sha256("\n".join(crops.names).encode()).hexdigest(),
        }

    def _remove_leftovers(self) -> None:
        """Deletes what a killed run was writing."""
        for pattern in ("*.tmp", f"{VECTORS_FOLDER}/*.tmp", f"{MODEL_FOLDER}.*.old"):
            for left in self.folder.glob(pattern):
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _filtered(self, crops: Crops) -> Crops:
        options = self.options
        if options.filter_with:
            vectors = self._vectors(crops, options.filter_with)
            kept = filter_by_center(
                crops, vectors, options.filter_percentile, options.min_images_per_person
            )
            self.say(f"filtering keeps {len(kept):,} of {len(crops):,} crops")
            return kept
        return crops

    def _vectors(self, crops: Crops, name: str) -> np.ndarray:
        """(n, d) float32: what a frozen model makes of the crops; computed once and kept."""
        model = self.find_model(name)
        names = "\n".join([model.card().sha256, *crops.names])
        path = self.folder / VECTORS_FOLDER / f"{hashlib.sha256(names.encode()).hexdigest()}.npy"
        if not path.exists():
            self.say(f"computing what {name} makes of {len(crops):,} crops")
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_suffix(".tmp")
            with open(temporary, "wb") as file:
                np.save(file, embed_with_model(model, crops))
            os.replace(temporary, path)
        return np.load(path)

    def _schedule(self):
        if self.options.learning_rate_schedule:
            return read_schedule(self.options.learning_rate_schedule)
        return Schedule(((0, self.options.learning_rate),))

    def _scores(self, held_out: HeldOut, vectors: np.ndarray) -> dict[str, float]:
        try:
            return held_out.score(vectors)
        except InputError:
            raise
        except ValueError as error:
            of = self.options.validation_pairs or "the people kept out"
            raise UsageError(f"there is no validating on {of}: {error}") from error

    def _export(self, task: Task, crops: Crops, held_out: HeldOut | None, margin: int) -> Path:
        options, network = self.options, task.finished()
        card = ModelCard(
            name=options.name,
            sha256=weights_sha256(network),
            **task.card,
            source=f"trained by facecluster on {len(crops):,} crops of {len(crops.people):,} "
            f"people, loss {options.loss}",
            license="as its training data's",
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
            codec = self._codec(task, crops)
        if held_out:
            vectors = task.embed(held_out.crops)
            measured = {
                "on": f"{len(held_out.crops):,} crops of {len(held_out.crops.people):,} people "
                + (
                    f"in {options.validation_crops}, pairs of {options.validation_pairs}"
                    if options.validation_pairs
                    else "kept out of the training"
                ),
                "float32": self._scores(held_out, vectors),
                "calibration": {"float32": calibration_table(vectors, held_out.crops.labels)},
            }
            card = replace(card, measured=measured)
        folder = self.folder / MODEL_FOLDER
        export({"embed": network}, card, folder, codec)
        return folder

    def _codec(self, task: Task, crops: Crops) -> dict[str, np.ndarray] | None:
        """The 128-byte codec fitted to the training set; None where there is too little to fit."""
        random = np.random.default_rng(self.options.seed)
        some = np.zeros(len(crops), bool)
        some[random.permutation(len(crops))[:MOST_CODEC_CROPS]] = True
        if min(some.sum(), task.network.output_shape[-1]) < COMPONENTS:
            return None
        return fit_pca128(task.embed(crops.select(some)))

    def _margin(self, sources: Sequence[str]) -> int:
        """The margin at which the pipeline must cut what the network is to see."""
        options = self.options
        if options.crop_margin is not None:
            return options.crop_margin
        seen = visible_margin(sources, self._maker.input_size())
        if seen is not None and seen < 0:
            raise UsageError(
                f"of the crops the network would see {self._maker.input_size()} px in the middle, "
                "which is less than the face's box: cut smaller ones with `facecluster crops "
                "--crop-size`, or take a larger --input-size"
            )
        if name := options.trunk or options.start_from:
            card = self.find_model(name).card()
            if note := margin_note(seen, name, card):
                self.say(note)
            return card.margin
        default = round(PUBLISHED_MARGIN * self._maker.input_size() / PUBLISHED_SIZE)
        return default if seen is None else seen


@contextlib.contextmanager
def _crop_errors() -> Iterator[None]:
    """A crop that cannot be read, which TensorFlow wraps up, comes out as the InputError it is."""
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
    """Networks that are built in the block compute in half precision where that is asked for."""
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
