"""The commands `facecluster model ...`: import, export, train, validate, card, fit-codec."""

import argparse
import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from facecluster.errors import InputError, UsageError
from facecluster.model_export.crops import list_crops
from facecluster.model_export.face_model import find_embedder, find_model
from facecluster.model_export.networks.export import export, load_networks, weights_sha256
from facecluster.model_export.validation.cohort import MIN_PEOPLE
from facecluster.model_export.validation.pairs import ImagePairs, read_pairs
from facecluster.model_export.validation.validate import (
    VIDEO_SEPARATOR,
    validate_pairs,
    validate_videos,
)
from facecluster.model_export.validation.youtube_faces import VideoPairs, list_frames, read_splits
from facecluster.model_export.weights import zoo
from facecluster.pipeline.cli.progress import Progress
from facecluster.pipeline.cli.score_table import format_scores
from facecluster.pipeline.cropping.requests import CropRequest, request_photo_crops
from facecluster.pipeline.evaluation.labels import FOLDER_LABELS
from facecluster.pipeline.jobs.crops import CropsJob
from facecluster.pipeline.jobs.evaluate import find_pair_images
from facecluster.pipeline.jobs.train import TrainJob
from facecluster.pipeline.options import CropOptions, DetectionOptions, TrainOptions
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.pipeline.training.crop_margin import margin_note, visible_margin
from facecluster.transforms.faces.model_card import ModelCard
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.option_fields import from_arguments
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.tables.codec import (
    find_usable,
    fit_pca128,
    make_codec,
    stored_vectors,
    unit_rows,
)

COSINE_THRESHOLD = "Angle, as a fraction of 180 degrees, below which a pair counts as the same"


def import_model(arguments: argparse.Namespace) -> int:
    """Published FaceNet weights, in any supported format, to a model folder."""
    from facecluster.model_export.weights.import_facenet import load_facenet  # imports Keras

    folder = _new_folder(arguments.model_folder)
    network = load_facenet(arguments.weights)
    card = ModelCard(
        name=arguments.name or folder.resolve().name,
        sha256=weights_sha256(network),
        standardization=arguments.standardization,
        architecture="Inception-ResNet-v1",
        source=arguments.source or Path(arguments.weights).name,
        license=arguments.license,
        input_size=network.input_shape[1],
        margin=arguments.margin,
        dimensions=network.output_shape[-1],
    )
    export({"embed": network}, card, folder)
    print(folder)
    return 0


def export_model(arguments: argparse.Namespace) -> int:
    """A model to another model folder, in full or half precision."""
    folder = _new_folder(arguments.model_folder)
    model = find_model(arguments.model)
    card = model.card()
    if arguments.float16:
        kept = {key: value for key, value in card.measured.items() if key == "cohort"}
        card = replace(card, measured=kept)
    networks = load_networks(Path(model.path))
    export(
        networks,
        card,
        folder,
        model.codec_arrays(),
        cohorts=model.cohorts(),
        float16=arguments.float16,
    )
    print(folder)
    return 0


def train_model(arguments: argparse.Namespace) -> int:
    job = TrainJob(
        _local_folder(arguments.output),
        from_arguments(TrainOptions, arguments),
        find_embedder,
        Progress().say,
    )
    print(job(arguments.crops))
    return 0


def validate_model(arguments: argparse.Namespace) -> int:
    """Scores a model by the protocol of LFW or YouTube Faces."""
    _check_validation(arguments)
    model = find_embedder(arguments.model)
    read = read_pairs if arguments.pairs else read_splits
    pairs = read(arguments.pairs or arguments.splits)
    with contextlib.ExitStack() as stack:
        crops = arguments.crops or stack.enter_context(tempfile.TemporaryDirectory())
        if arguments.images:
            _cut_crops(arguments, model, pairs, crops)
        else:
            card = model.card()
            margin = visible_margin([crops], card.input_size)
            if note := margin_note(margin, arguments.model, card):
                Progress().say(note)
        found_crops = list_crops([crops])
        if isinstance(pairs, ImagePairs):
            scores = validate_pairs(
                model,
                found_crops,
                pairs,
                flip=arguments.flip,
                subtract_mean=arguments.subtract_mean,
                metric=arguments.metric,
                with_cohorts=arguments.write_card,
            )
        else:
            scores = {"float32": validate_videos(model, found_crops, pairs)}
    tables = {codec: found.pop("calibration", None) for codec, found in scores.items()}
    cohorts = {codec: found.pop("cohort") for codec, found in scores.items() if "cohort" in found}
    for codec, found in scores.items():
        described = _name_threshold(found, arguments.metric) | _cohort_values(cohorts.get(codec))
        print(f"{codec}\n{format_scores(described)}\n")
    if arguments.write_card:
        card = _add_scores(model.card(), arguments, scores, tables)
        if cohorts:
            arrays = model.codec_arrays()
            model.write_cohorts(
                {make_codec(name, arrays).identity: cohort for name, cohort in cohorts.items()}
            )
            people = {"people": len(found_crops.people)}
            card = replace(card, measured={**card.measured, "cohort": people})
        elif arguments.pairs:
            Progress().say(
                f"no cohort is fitted: it takes crops of {MIN_PEOPLE} people or more, "
                "and two crops of one of them"
            )
        print(model.write_card(card))
    return 0


def show_card(arguments: argparse.Namespace) -> int:
    print(find_model(arguments.model).card().to_json(), end="")
    return 0


def fit_codec(arguments: argparse.Namespace) -> int:
    """Fits the 128-byte codec to a run's faces and stores it with the model."""
    model = find_embedder(arguments.model)
    faces, stamp = RunDirectory(arguments.run).read_shards("faces", ["embedding"])
    space = model.card().embedding_space
    if stamp.get("embedding_space") != space or stamp.get("codec") != "float32":
        raise UsageError(
            f"{arguments.run} does not hold uncompressed vectors of {arguments.model}: embed with "
            f"--model {arguments.model} --codec float32"
        )
    stored = stored_vectors(faces["embedding"])
    print(model.write_codec(fit_pca128(unit_rows(stored[find_usable(stored)]))))
    if model.cohorts() and not model.cohort("pca128"):
        Progress().say(
            "the model's cohort is for other vectors than those of this codec: fit it again with "
            f"`facecluster model validate {arguments.model} --write-card`"
        )
    return 0


def _check_validation(arguments: argparse.Namespace) -> None:
    """Raises UsageError if the options of `model validate` contradict each other."""
    if not arguments.images and not arguments.crops:
        raise UsageError("there is nothing to validate on: give --images, --crops or both")
    options = (arguments.flip, arguments.subtract_mean, arguments.metric)
    is_default = options == (False, False, "euclidean")
    if arguments.splits and not is_default:
        raise UsageError("--flip, --subtract-mean and --metric are for --pairs: leave them out")
    if arguments.write_card and not is_default:
        raise UsageError(
            "the card stores scores of Euclidean distances between embeddings, which runs use: "
            "leave out --write-card, or --flip, --subtract-mean and --metric"
        )
    if arguments.write_card and arguments.model in zoo.ZOO:
        raise UsageError(
            f"the card of the published model {arguments.model} is not changed: leave out "
            "--write-card, or write the card of a copy "
            f"(`facecluster model export {arguments.model} --output DIR`)"
        )


def _add_scores(
    card: ModelCard, arguments: argparse.Namespace, scores: dict, tables: dict
) -> ModelCard:
    """The card with new scores; scores on videos are kept beside those on pairs of photos."""
    before = card.measured
    if arguments.splits:
        measured = {**before, "videos": {"on": arguments.splits, **scores}}
    else:
        measured = {"on": arguments.pairs, **scores, "calibration": tables}
        measured |= {key: before[key] for key in ("videos", "cohort") if key in before}
    return replace(card, measured=measured)


def _cohort_values(cohort: Cohort | None) -> dict[str, float]:
    if cohort is None:
        return {}
    return {"cohort_level": cohort.level, "cohort_same_person": cohort.same_person}


def _name_threshold(scores: dict[str, Any], metric: str) -> dict[str, Any]:
    """The scores, with the threshold named by its unit if it is not a squared distance."""
    return {
        COSINE_THRESHOLD if (name, metric) == ("threshold", "cosine") else name: score
        for name, score in scores.items()
    }


def _local_folder(name: str) -> Path:
    if "://" in name:
        raise UsageError(f"{name} is not a local folder: make the model in one, then copy it there")
    return Path(name)


def _new_folder(name: str) -> Path:
    folder = _local_folder(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists already: take another output folder")
    return folder


def _cut_crops(
    arguments: argparse.Namespace, model: SavedModel, pairs: ImagePairs | VideoPairs, output: str
) -> None:
    """Cuts the crops that the pairs need, aligned as the model expects them."""
    card = model.card()
    if isinstance(pairs, ImagePairs):
        paths = find_pair_images(arguments.images, pairs)
        requests = request_photo_crops(paths, FOLDER_LABELS, "folder")
    else:
        requests = [
            CropRequest(frame, (f"{video.replace('/', VIDEO_SEPARATOR)}/{Path(frame).stem}",))
            for video in sorted({*pairs.first, *pairs.second})
            for frame in list_frames(arguments.images, video)
        ]
    detection = from_arguments(DetectionOptions, arguments)
    options = CropOptions(**vars(detection), crop_size=card.input_size, crop_margin=card.margin)
    job = CropsJob(output, options, find_model(options.detector), arguments.beam_arguments)
    manifest = job(requests, Progress("cropping photos").watch)
    if not manifest.counts["crops"]:
        raise InputError(f"no face was found in any of the {len(requests):,} images needed")
