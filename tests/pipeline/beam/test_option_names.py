"""Beam's options by name are those that Beam's own parser knows."""

from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser
from hypothesis import given
from hypothesis import strategies as st

from facecluster.pipeline.beam import runner
from facecluster.pipeline.beam.option_names import (
    beam_option_names,
    stray_values,
    with_beam_names,
)


def all_classes(parent: type) -> list[type]:
    found = parent.__subclasses__()
    return [*found, *(child for kind in found for child in all_classes(kind))]


def test_they_are_the_options_of_beams_parser():
    of_beam = set()
    for options in all_classes(PipelineOptions):
        if options.__module__ == PipelineOptions.__module__:
            parser = _BeamArgumentParser(allow_abbrev=False)
            options._add_argparse_args(parser)
            of_beam |= {name for name in parser._option_string_actions if name[:2] == "--"}
    assert len(of_beam) > 100
    assert of_beam - {"--help"} == beam_option_names()


@given(st.sampled_from(sorted(beam_option_names())), st.sampled_from(["", "=2", "=a-b_c"]))
def test_hyphens_become_beams_underscores(name, value):
    hyphens = "--" + name[2:].replace("_", "-")
    known = hyphens if hyphens in beam_option_names() else name  # Beam has some in both forms
    assert with_beam_names([hyphens + value, "v-w", "-x-y"]) == [known + value, "v-w", "-x-y"]
    assert with_beam_names([name + value]) == [name + value]


def test_an_option_with_hyphens_is_not_ignored():
    assert runner.known_beam_options(["--direct-num-workers=2"])["direct_num_workers"] == 2
    assert runner.choose_execution(["--direct-num-workers", "2"], 1).n_workers == 2


def test_values_without_an_option_are_strays():
    assert stray_values(["a", "--b", "c", "d", "--e=f", "g", "--h"]) == ["a", "d", "g"]
