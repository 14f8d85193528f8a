"""Measures how long the command takes to answer, beside importing TensorFlow and Beam.

    python benchmarks/startup.py [--n 5] [--photo FILE]

The baseline is `python -c "import tensorflow, apache_beam"`. Each of the n rounds times it and
every command once. Shown are medians of the seconds, and of the ratios to the baseline of the same
round.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from facecluster.model_export.weights import zoo
from facecluster.pipeline.options import EmbedOptions
from facecluster.pipeline.sample_photos import fetch_sample_photos

BASELINE = [sys.executable, "-c", "import tensorflow, apache_beam"]
FACECLUSTER = [sys.executable, "-c", "from facecluster.pipeline.cli.main import script; script()"]
ANSWERS = {  # the command's arguments and its exit code
    "--help": (["--help"], 0),
    "--version": (["--version"], 0),
    "model list": (["model", "list"], 0),
    "a wrong option": (["cluster", "--output", "run", "--wrong-shares", "0.1"], 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=5, help="number of rounds")
    parser.add_argument("--photo", type=Path, help="the one photo (default: a sample photo)")
    arguments = parser.parse_args()
    for model in (EmbedOptions.detector, EmbedOptions.model):
        zoo.fetch(model)
    photo = arguments.photo or sorted(Path(fetch_sample_photos()).glob("*.jpg"))[0]
    rounds = [measure_round(photo) for _ in range(arguments.n)]
    print(f"{'':24} {'seconds':>8} {'ratio':>6}")
    for name in rounds[0]:
        seconds = statistics.median(times[name] for times in rounds)
        ratio = statistics.median(times[name] / times["imports"] for times in rounds)
        print(f"{name:24} {seconds:8.2f} {ratio:6.2f}")


def measure_round(photo: Path) -> dict[str, float]:
    """Seconds of the baseline, named imports, and of each command."""
    times = {"imports": measure_seconds(BASELINE, 0)}
    for name, (words, code) in ANSWERS.items():
        times[name] = measure_seconds([*FACECLUSTER, *words], code)
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", "--input", str(photo), "--output", f"{folder}/run"]
        times["a run of one photo"] = measure_seconds([*FACECLUSTER, *words], 0)
    return times


def measure_seconds(command: list[str], exit_code: int) -> float:
    """Runs a command and returns how long it took."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode != exit_code:
        raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr}")
    return seconds


if __name__ == "__main__":
    main()
