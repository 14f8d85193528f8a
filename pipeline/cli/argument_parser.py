"""An argument parser whose errors are a sentence, with what was meant and where help is."""

import argparse
import difflib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from facecluster.pipeline.beam.option_names import RUNNER, beam_option_name, beam_option_names

USAGE_ERROR = 2  # exit code


class ArgumentParser(argparse.ArgumentParser):
    """A parser that refuses unknown options first, before it complains about missing ones.

    Attributes:
      passes_to_beam: whether options that Beam knows are left for it.
    """

    passes_to_beam = False

    def parse_known_args(self, args=None, namespace=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        words = [*(sys.argv[1:] if args is None else args)]
        self._check_options(words)
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        sentence = message.removeprefix("argument ")
        self.exit(USAGE_ERROR, f"facecluster: {sentence}\nSee {self.prog} --help\n")

    def short_help(self) -> str:
        """The subcommands, a line each."""
        commands = {
            f"{self.prog} {command.dest}": command.help
            for action in self._subcommands()
            for command in action._get_subactions()
        }
        width = max(map(len, commands), default=0)
        lines = [f"  {name:{width}}  {help_text}" for name, help_text in commands.items()]
        usage, see = f"usage: {self.prog} COMMAND ...", f"See {self.prog} --help"
        return "\n".join([usage, "", *lines, "", see])

    def _check_options(self, words: Sequence[str]) -> None:
        """Ends the program if an option is unknown."""
        names = [word.partition("=")[0] for word in self._own_words(words) if word[:2] == "--"]
        known = self._option_string_actions
        if "--help" in names or (self.passes_to_beam and RUNNER in names):
            return
        for name in names:
            if name not in known and not (self.passes_to_beam and beam_option_name(name)):
                candidates = [*known, *(beam_option_names() if self.passes_to_beam else ())]
                self.error(f"unknown argument {name}{did_you_mean(name, candidates)}")

    def _own_words(self, words: Sequence[str]) -> Iterator[str]:
        """The words before a subcommand's name, or before `--`."""
        for word in words:
            if word == "--" or (self._subparsers and not word.startswith("-")):
                return
            yield word

    def _subcommands(self) -> list[Any]:
        return self._subparsers._group_actions if self._subparsers else []

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Like argparse's, with a message that names what is similar."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        meant = did_you_mean(str(value), choices)
        if action in self._subcommands():
            self.error(f"there is no command {value}{meant}")
        raise argparse.ArgumentError(action, f"{value} is none of {', '.join(choices)}{meant}")


def did_you_mean(name: str, candidates: Sequence[str]) -> str:
    """ ": did you mean X?" for the most similar candidate, empty if none is similar."""
    similar = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    return f": did you mean {similar[0]}?" if similar else ""
