"""Compares the default grouping with other methods, each at its best setting.

    pip install -e ".[bench]"
    python benchmarks/grouping.py --images LFW --collections FOLDER [--work runs/quality]
        [--sets development report] [--only NAME ...] [--methods NAME ...]

The collections are those of face_collections.py, whose options and work folder these are. A method
has, for each collection anew, the setting in its grid (METHODS in grouping_methods.py) with the
largest sum of BCubed F and pairwise F on that very collection; facecluster has its defaults. All
methods group the same vectors, those that 128 bytes per face hold, and none is told which faces
share a photo. All faces are grouped and the labeled ones scored. A face that a method leaves out
counts as a person of its own.

The work folder keeps the other methods' results in methods.json: a later run repeats only those of
other vectors or another grid. Delete the file after changing a method itself.

In the table, each method has "BCubed F/pairwise F" for each collection, and * marks the best in a
measure. The last column is by how much facecluster is ahead of the best other method in each
measure, which may be two methods. For strangers, pairwise F is 0 as soon as two are in one group.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from face_collections import Collection, development_collections, report_collections
from grouping_methods import METHODS, Clustering
from quality import load_model

from facecluster.pipeline.evaluation.clustering_metrics import bcubed, pairwise
from facecluster.transforms.grouping.group_faces import group_faces
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.tables.codec import unit_rows

SETS = ("development", "report")
OURS = "facecluster"


class Scores(NamedTuple):
    bcubed_f: float
    pairwise_f: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path, help="one folder of photos a person")
    parser.add_argument("--collections", required=True, type=Path, help="folder of the three files")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="as in quality.py")
    parser.add_argument(
        "--sets", nargs="+", choices=SETS, default=SETS, help="which collections; default: both"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these collections")
    parser.add_argument(
        "--methods", nargs="+", metavar="NAME", choices=METHODS, default=list(METHODS),
        help="only these other methods: " + ", ".join(METHODS),
    )  # fmt: skip
    arguments = parser.parse_args()
    if "Infomap" in arguments.methods and find_spec("infomap") is None:
        sys.exit('infomap, one of the methods, is not installed: pip install -e ".[bench]"')

    collections = {}
    if "development" in arguments.sets:
        collections |= development_collections(
            arguments.images, arguments.collections, arguments.work
        )
    if "report" in arguments.sets:
        collections |= report_collections(arguments.images, arguments.work)
    if unknown := set(arguments.only or ()) - set(collections):
        parser.error(f"no such collection: {', '.join(sorted(unknown))}")
    chosen = [collections[name] for name in arguments.only or collections]

    kept = KeptResults(arguments.work / "methods.json")
    table = {collection.name: {} for collection in chosen}
    for method in arguments.methods:
        for collection in chosen:
            table[collection.name][method] = kept.find_best(method, collection)
    for collection in chosen:
        table[collection.name][OURS] = score(collection, cluster_by_default(collection))
    print("\n".join(format_table(table)))


class KeptResults:
    """The best result of each method on each collection, in a JSON file."""

    def __init__(self, path: Path):
        self.path = path
        self.results = json.loads(path.read_text()) if path.exists() else {}

    def find_best(self, name: str, collection: Collection) -> Scores:
        """The scores of a method at its best setting; tries them all unless the file has them."""
        method, settings = METHODS[name]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for column in (collection.stored, collection.person):
            digest.update(column.tobytes())
        of_method = self.results.setdefault(name, {})
        result = of_method.get(collection.name, {})
        if result.get("digest") != digest.hexdigest():
            result = try_settings(name, method, settings, collection)
            of_method[collection.name] = result | {"digest": digest.hexdigest()}
            self.path.write_text(json.dumps(self.results, indent=1))
        return Scores(result["bcubed_f"], result["pairwise_f"])


def try_settings(
    name: str,
    method: Callable[[np.ndarray], Clustering],
    settings: list[dict],
    collection: Collection,
) -> dict:
    """The best setting of a method: setting, bcubed_f, pairwise_f."""
    started = time.perf_counter()
    cluster = method(unit_rows(collection.stored))
    scored = [(score(collection, cluster(**setting)), setting) for setting in settings]
    scores, setting = max(scored, key=lambda pair: sum(pair[0]))
    text = ", ".join(f"{option} {value}" for option, value in setting.items())
    print(
        f"{name}, {collection.name}: {scores.bcubed_f:.4f}/{scores.pairwise_f:.4f}, {text}, "
        f"{time.perf_counter() - started:.1f} s",
        file=sys.stderr,
        flush=True,
    )
    return {"setting": setting, **scores._asdict()}


def cluster_by_default(collection: Collection) -> np.ndarray:
    """(n,) labels by facecluster's defaults.

    Each face is taken for a photo of its own, because the other methods cannot use photos either.
    """
    photos = np.arange(len(collection.stored))
    cohort = load_model().cohort("pca128")
    return group_faces(collection.stored, photos, ClusterOptions(), cohort).labels.labels


def score(collection: Collection, labels: np.ndarray) -> Scores:
    """Scores of the scored faces by (n,) labels; unassigned faces, -1, are people each."""
    person, found = collection.person[collection.scored], labels[collection.scored]
    # Rounded, so that equal groupings have equal scores.
    return Scores(*(round(measure(person, found)[2], 9) for measure in (bcubed, pairwise)))


def format_table(table: dict[str, dict[str, Scores]]) -> list[str]:
    """The lines of the table, from the scores of all methods by collection."""
    methods = list(next(iter(table.values())))
    methods.sort(key=lambda method: method != OURS)
    header = "".join(f"{method:>17}" for method in methods)
    lines = [f"{'collection':24}{header}            lead"]
    for collection, scores in table.items():
        best = Scores(*map(max, zip(*scores.values(), strict=True)))
        cells = "".join(f"{format_cell(scores[method], best):>17}" for method in methods)
        lead = find_lead(scores)
        lines.append(f"{collection:24}{cells} {lead.bcubed_f:+.4f}/{lead.pairwise_f:+.4f}")
    leads = [find_lead(scores) for scores in table.values()]
    n_first = sum(min(lead) >= 0 for lead in leads)
    lines.append(f"{OURS} is first in both measures on {n_first} of {len(leads)} collections")
    return lines


def format_cell(scores: Scores, best: Scores) -> str:
    """BCubed F/pairwise F, each with * if it is the best."""
    return "/".join(
        f"{value:.4f}" + ("*" if value == largest else "")
        for value, largest in zip(scores, best, strict=True)
    )


def find_lead(scores: dict[str, Scores]) -> Scores:
    """facecluster's scores minus the best of the others, in each measure."""
    others = [of_method for method, of_method in scores.items() if method != OURS]
    best = map(max, zip(*others, strict=True))
    return Scores(*(own - other for own, other in zip(scores[OURS], best, strict=True)))


if __name__ == "__main__":
    main()
