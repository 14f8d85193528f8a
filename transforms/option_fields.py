"""Dataclass fields that become command-line options."""

import argparse
from collections.abc import Callable
from dataclasses import MISSING, field, fields
from typing import Any, ClassVar, Protocol, TypeVar


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


Options = TypeVar("Options", bound=_Dataclass)


def option(default: Any, help: str, *, type: Callable = str, choices=None) -> Any:
    """A dataclass field that becomes a command-line option.

    Args:
      default: its value if the option is not given.
      help: its help text. The default value is appended, except None, which the text must explain.
      type: checks and converts the option's text; bool makes a switch.
      choices: the values that are allowed.
    """
    return field(default=default, metadata={"help": help, "type": type, "choices": choices})


def at_least(least: float, kind: Callable = int) -> Callable[[str], Any]:
    """Makes a `type` for numbers of at least `least`."""

    def read(text: str):
        value = kind(text)
        if not value >= least:  # also refuses nan
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    read.__name__ = kind.__name__
    return read


def between(least: float, most: float, kind: Callable = float) -> Callable[[str], Any]:
    """Makes a `type` for numbers in [least, most]."""

    def read(text: str):
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least} and {most}")
        return value

    read.__name__ = kind.__name__
    return read


def add_options(parser: argparse.ArgumentParser, options: type[_Dataclass]) -> None:
    """Adds a command-line option for every field of an options class.

    They form a group of the help, titled with the first sentence of the class's docstring.
    """
    group = parser.add_argument_group((options.__doc__ or "").split(".")[0])
    for item in fields(options):
        assert item.default is not MISSING
        name, read = "--" + item.name.replace("_", "-"), item.metadata["type"]
        if read is bool:
            group.add_argument(name, action="store_true", help=item.metadata["help"])
            continue
        shown = "" if item.default is None else " (default: %(default)s)"
        group.add_argument(
            name,
            default=item.default,
            type=read,
            choices=item.metadata["choices"],
            metavar=None if item.metadata["choices"] else read.__name__.upper(),
            help=item.metadata["help"] + shown,
        )


def from_arguments(options: type[Options], arguments: argparse.Namespace) -> Options:
    """The options object with the values from the command line."""
    return options(**{item.name: getattr(arguments, item.name) for item in fields(options)})
