"""Errors of the command line: one sentence, what was meant, where help is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecluster.pipeline.beam.option_names import beam_option_names
from facecluster.pipeline.cli.argument_parser import did_you_mean
from facecluster.pipeline.cli.parser import make_parser

RUN = ["run", "--input", "a", "--output", "b"]
CLUSTER = ["cluster", "--output", "b"]
TRAIN = ["model", "train", "--crops", "a", "--output", "b"]


@pytest.mark.parametrize(
    ("arguments", "sentence", "program"),
    [
        ([*CLUSTER, "--wrong-share", "7"], "--wrong-share: 7 is not between 0.001 and 0.5",
         "facecluster cluster"),
        ([*CLUSTER, "--wrong-share"], "--wrong-share: expected one argument",
         "facecluster cluster"),
        ([*CLUSTER, "--wrong-shares", "0.1"],
         "unknown argument --wrong-shares: did you mean --wrong-share?", "facecluster cluster"),
        ([*RUN, "--direct_num_worker=2"],
         "unknown argument --direct_num_worker: did you mean --direct_num_workers?",
         "facecluster run"),
        (["run", "--inptu", "a", "--output", "b"],
         "unknown argument --inptu: did you mean --input?", "facecluster run"),
        (["run", "--output", "b"], "the following arguments are required: --input",
         "facecluster run"),
        ([*RUN, "--quite-another-thing"], "unknown argument --quite-another-thing",
         "facecluster run"),
        (["model", "list", "--direct_num_workers=2"], "unknown argument --direct_num_workers",
         "facecluster model list"),
        (["clustr"], "there is no command clustr: did you mean cluster?", "facecluster"),
        (["model", "fech"], "there is no command fech: did you mean fetch?", "facecluster model"),
        (["--versoin"], "unknown argument --versoin: did you mean --version?", "facecluster"),
        ([*TRAIN, "--loss", "triplt"],
         "--loss: triplt is none of softmax, triplet: did you mean triplet?",
         "facecluster model train"),
    ],
)  # fmt: skip
def test_an_error_is_a_sentence_and_where_help_is(arguments, sentence, program, capsys):
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_known_args(arguments)
    assert ended.value.code == 2
    lines = [f"facecluster: {sentence}", f"See {program} --help"]
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize("separator", ["=", " "])
@pytest.mark.parametrize("option", ["--direct_num_workers", "--direct-num-workers"])
def test_options_of_beam_are_left_for_beam(option, separator):
    given = f"{option}{separator}2".split()
    assert make_parser().parse_known_args([*RUN, *given])[1] == given


def test_a_runner_may_have_options_of_its_own():
    given = ["--runner=Own", "--own-option=1"]
    assert make_parser().parse_known_args([*RUN, *given])[1] == given


@given(st.sampled_from(sorted(beam_option_names())), st.integers(3), st.sampled_from("xyz_"))
def test_an_option_with_one_letter_changed_is_recognized(name, at, letter):
    at = 2 + at % (len(name) - 2)
    meant = did_you_mean(name[:at] + letter + name[at + 1 :], sorted(beam_option_names()))
    assert meant.startswith(": did you mean --")


@pytest.mark.parametrize("arguments", [[], ["model"], ["evaluate"]])
def test_what_commands_do_starts_in_one_column(arguments):
    text = make_parser().parse_args(arguments).parser.short_help()
    lines = [line.strip() for line in text.splitlines() if line.startswith("  ")]
    names = [line.partition("  ")[0] for line in lines]
    starts = {len(line) - len(line.partition("  ")[2].lstrip()) for line in lines}
    assert starts == {max(map(len, names)) + 2}
