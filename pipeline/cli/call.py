"""Calls the function of a command, and imports no other: `model list` does not wait for Beam."""

import argparse
import importlib
import logging
import sys

from facecluster.errors import FaceclusterError

logger = logging.getLogger(__name__)

FAILED = 1  # exit code
COMMANDS = {  # module of this folder, function
    "run": ("commands", "run"),
    "embed": ("commands", "embed"),
    "cluster": ("commands", "cluster"),
    "crops": ("commands", "crops"),
    "evaluate clustering": ("commands", "evaluate_clustering"),
    "evaluate verification": ("commands", "evaluate_verification"),
    "model list": ("known_models", "list_models"),
    "model fetch": ("known_models", "fetch_models"),
    "model import": ("model_commands", "import_model"),
    "model export": ("model_commands", "export_model"),
    "model train": ("model_commands", "train_model"),
    "model validate": ("model_commands", "validate_model"),
    "model card": ("model_commands", "show_card"),
    "model fit-codec": ("model_commands", "fit_codec"),
    "sample-photos": ("known_models", "sample_photos"),
}


def call(arguments: argparse.Namespace) -> int:
    """Runs the command that the command line names; an error is printed as one sentence.

    Returns:
      The exit code.
    """
    module, function = COMMANDS[arguments.command]
    try:
        commands = importlib.import_module(f"facecluster.pipeline.cli.{module}")
        return getattr(commands, function)(arguments)
    except BrokenPipeError:  # an OSError, but not a failure: the reader of the output has left
        raise
    except (FaceclusterError, OSError) as error:
        logger.error("failed", exc_info=True)  # the traceback goes to the log
        print(f"facecluster: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, FaceclusterError) else FAILED
