"""The command line that is generated from the options classes: defaults, help, bounds."""

import argparse
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.pipeline.options import CropOptions, EmbedOptions, TrainOptions, WorkerOptions
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.option_fields import add_options, at_least, between, from_arguments
from facecluster.transforms.tables.codec_names import CODECS

TOGETHER = [EmbedOptions, ClusterOptions, WorkerOptions]
ALL = [*TOGETHER, CropOptions, TrainOptions]


def parser_of(*options) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="facecluster", allow_abbrev=False)
    for option in options:
        add_options(parser, option)
    return parser


def parse(options: type, *arguments: str):
    return from_arguments(options, parser_of(options).parse_args(arguments))


@pytest.mark.parametrize("options", ALL)
def test_no_arguments_give_the_defaults(options):
    assert parse(options) == options()


@pytest.mark.parametrize("options", ALL)
def test_help_lists_every_option_with_its_default(options, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")  # lines are broken at hyphens too
    text = " ".join(parser_of(options).format_help().split())
    for field in fields(options):
        start = text.index(" --" + field.name.replace("_", "-") + " ", text.index("options:"))
        help_text = " ".join(field.metadata["help"].split())
        shown = text[text.index(help_text, start) :][len(help_text) :]
        if field.metadata["type"] is bool:
            assert field.default is False  # off unless it is given
        elif field.default is None:
            assert "default:" in help_text
        else:
            assert shown.startswith(f" (default: {field.default})"), field.name


@pytest.mark.parametrize("options", ALL)
def test_defaults_are_within_their_own_bounds(options):
    for field in fields(options):
        if field.default is not None and field.metadata["type"] is not bool:
            assert field.metadata["type"](str(field.default)) == field.default


def test_a_switch_is_off_unless_it_is_given():
    assert parse(TrainOptions).flip is False
    assert parse(TrainOptions, "--flip").flip is True
    assert parse(ClusterOptions).ignore_photos is False
    assert parse(ClusterOptions, "--ignore-photos").ignore_photos is True


def test_choices_match_the_tables_that_they_select_from():
    from facecluster.model_export.networks.export import STANDARDIZATIONS
    from facecluster.model_export.training.losses import MININGS
    from facecluster.model_export.training.trainer import OPTIMIZERS

    choices = {field.name: field.metadata["choices"] for field in fields(TrainOptions)}
    assert set(choices["mining"]) == set(MININGS)
    assert set(choices["optimizer"]) == set(OPTIMIZERS)
    assert set(choices["standardization"]) == set(STANDARDIZATIONS)


def test_classes_fit_on_one_command_line():
    arguments = parser_of(*TOGETHER).parse_args(["--codec", "float16", "--n-neighbors", "3"])
    assert from_arguments(EmbedOptions, arguments) == EmbedOptions(codec="float16")
    assert from_arguments(ClusterOptions, arguments) == ClusterOptions(n_neighbors=3)
    assert from_arguments(WorkerOptions, arguments) == WorkerOptions()


def test_values_are_converted():
    options = parse(
        EmbedOptions, "--min-face-size", "40", "--detection-size=800", "--photos-per-shard=1",
        "--model=/models/mine", "--codec=pca128",
    )  # fmt: skip
    assert options == EmbedOptions(
        min_face_size=40, detection_size=800, photos_per_shard=1, model="/models/mine",
        codec="pca128",
    )  # fmt: skip
    assert parse(ClusterOptions, "--wrong-share", "0.5").wrong_share == 0.5


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_can_be_chosen(codec):
    assert parse(EmbedOptions, "--codec", codec).codec == codec


@pytest.mark.parametrize(
    ("options", "argument", "complaint"),
    [
        (EmbedOptions, "--min-face-size=11", "11 is less than 12"),
        (EmbedOptions, "--min-face-size=20.5", "invalid int value: '20.5'"),
        (EmbedOptions, "--detection-size=99", "99 is less than 100"),
        (EmbedOptions, "--photos-per-shard=0", "0 is less than 1"),
        (EmbedOptions, "--codec=jpeg", "invalid choice: 'jpeg'"),
        (ClusterOptions, "--n-neighbors=1", "1 is less than 2"),
        (ClusterOptions, "--min-cluster-size=0", "0 is less than 1"),
        (ClusterOptions, "--n-neighbors=few", "invalid int value: 'few'"),
        (ClusterOptions, "--wrong-share=0", "0 is not between 0.001 and 0.5"),
        (ClusterOptions, "--wrong-share=0.6", "0.6 is not between 0.001 and 0.5"),
        (ClusterOptions, "--wrong-share=-0.1", "-0.1 is not between 0.001 and 0.5"),
        (ClusterOptions, "--wrong-share=nan", "nan is not between 0.001 and 0.5"),
        (ClusterOptions, "--wrong-share=far", "invalid float value: 'far'"),
        (ClusterOptions, "--min-face-px=-1", "-1 is less than 0"),
        (ClusterOptions, "--min-face-px=nan", "nan is less than 0"),
        (ClusterOptions, "--max-yaw=inf", "inf is not between 0 and 90"),
        (ClusterOptions, "--probes=-1", "-1 is less than 0"),
        (ClusterOptions, "--min-sharpness=1.1", "1.1 is not between 0 and 1"),
        (ClusterOptions, "--min-detection-score=90", "90 is not between 0 and 1"),
        (ClusterOptions, "--max-yaw=91", "91 is not between 0 and 90"),
        (ClusterOptions, "--probes=all", "invalid int value: 'all'"),
        (ClusterOptions, "--ignore-photos=yes", "ignored explicit argument 'yes'"),
        (WorkerOptions, "--worker-memory=63", "63 is less than 64"),
        (ClusterOptions, "--attach-distance=0.5", "unrecognized arguments"),
        (EmbedOptions, "--min-face=20", "unrecognized arguments"),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(options, argument, complaint, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(options, argument)
    assert stopped.value.code == 2
    complaints = capsys.readouterr().err
    assert complaint in complaints
    assert argument.partition("=")[0] in complaints


@settings(deadline=None)
@given(st.integers(-1000, 1000), st.integers(-1000, 1000))
def test_at_least(value, least):
    read = at_least(least)
    if value >= least:
        assert read(str(value)) == value
    else:
        with pytest.raises(argparse.ArgumentTypeError):
            read(str(value))


@settings(deadline=None)
@given(st.floats(), st.floats(0, 1), st.floats(1, 2))
def test_between(value, least, most):
    read = between(least, most)
    if least <= value <= most:
        assert read(str(value)) == value
    else:
        with pytest.raises(argparse.ArgumentTypeError):
            read(str(value))
