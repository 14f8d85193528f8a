"""Beam's options by name, read from its source: importing Beam takes a second or more."""

import ast
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

RUNNER = "--runner"  # a runner that is named may have options of its own
ADDING_METHODS = ("add_argument", "add_value_provider_argument")  # of Beam's parser


@cache
def beam_option_names() -> frozenset[str]:
    """All options that Beam knows if no runner is named, such as "--direct_num_workers"."""
    package = find_spec("apache_beam")  # which does not import it
    source = Path(str(package and package.origin)).parent / "options" / "pipeline_options.py"
    names = set()
    for call in ast.walk(ast.parse(source.read_text())):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            words = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
            if call.func.attr in ADDING_METHODS:
                names.update(str(word) for word in words if str(word).startswith("--"))
    return frozenset(names)


def beam_option_name(name: str) -> str | None:
    """Beam's name of an option, which may be written with hyphens; None if Beam lacks it."""
    for beam_name in (name, "--" + name[2:].replace("-", "_")):
        if beam_name in beam_option_names():
            return beam_name
    return None


def with_beam_names(arguments: Sequence[str]) -> list[str]:
    """The arguments with Beam's names of its options; it would ignore `--direct-num-workers`."""
    words = [argument.partition("=") for argument in arguments]
    return [
        ((beam_option_name(name) or name) if name.startswith("--") else name) + equals + value
        for name, equals, value in words
    ]


def stray_values(arguments: Sequence[str]) -> list[str]:
    """Values that follow no option; Beam would drop them silently."""
    before = ["", *arguments]
    return [
        argument
        for previous, argument in zip(before, arguments, strict=False)
        if not argument.startswith("-") and ("=" in previous or not previous.startswith("-"))
    ]
