"""Labeled pairs for verification, and the reader of LFW's pairs files."""

from dataclasses import dataclass, fields

import numpy as np
from apache_beam.io.filesystems import FileSystems

from facecluster.errors import InputError

N_FOLDS_VIEW1 = 10  # a View 1 file has no folds; View 2 has ten


@dataclass(frozen=True, eq=False)
class LabeledPairs:
    """n pairs, each of one person or of two, assigned to folds.

    Two objects are equal if they are of the same class and have equal fields.

    Attributes:
      first, second: n names each.
      is_same: (n,) bool, whether a pair shows one person.
      folds: (n,) int, the cross-validation fold of each pair, from 0.
    """

    first: list[str]
    second: list[str]
    is_same: np.ndarray
    folds: np.ndarray

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        )


class ImagePairs(LabeledPairs):
    """Pairs of images, named relative to their folder and without extension: `Name/Name_0001`."""


def read_pairs(path: str) -> ImagePairs:
    """Reads an LFW pairs file, with fields separated by tabs or by spaces.

    View 2 (pairs.txt) starts with the number of folds and n. For each fold, n matched and n
    mismatched pairs follow: the official folds. View 1 (pairsDevTrain.txt, pairsDevTest.txt) starts
    with n alone, followed by n matched and n mismatched pairs. Each half is divided into ten runs
    of equal length, so that every fold has the same fraction of both. A matched pair is `name i j`,
    a mismatched one `name1 i name2 j`.

    Raises:
      InputError: the file does not exist, or a line is malformed.
    """
    rows = [(number, _split(line)) for number, line in read_lines(path, "LFW's pairs.txt")]
    n_folds, n_each, is_view1 = _parse_header(path, rows)
    is_same = np.tile(np.repeat([True, False], n_each), n_folds)
    folds = np.repeat(np.arange(n_folds), 2 * n_each)
    if is_view1:
        folds = np.tile(np.arange(n_each) * N_FOLDS_VIEW1 // n_each, 2)
    pairs = rows[1:]
    if len(pairs) != len(is_same):
        raise InputError(
            f"{path} has {len(pairs)} pairs where its first line announces {len(is_same)}: "
            "is the file complete?"
        )
    names = [
        _parse_pair(path, number, fields, same)
        for (number, fields), same in zip(pairs, is_same, strict=True)
    ]
    return ImagePairs([a for a, _ in names], [b for _, b in names], is_same, folds)


def read_lines(path: str, example: str) -> list[tuple[int, str]]:
    """(line number from 1, line) of every line that is not blank.

    Args:
      example: a file to suggest if this one does not exist.

    Raises:
      InputError: the file does not exist.
    """
    if not FileSystems.exists(path):
        raise InputError(f"{path} does not exist: give a pairs file such as {example}")
    with FileSystems.open(path) as file:
        lines = file.read().decode("utf-8-sig", errors="replace").splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _split(line: str) -> list[str]:
    """The fields of a line; if tabs separate them, a name may contain spaces."""
    return [field.strip() for field in line.split("\t")] if "\t" in line else line.split()


def _parse_header(path: str, rows: list[tuple[int, list[str]]]) -> tuple[int, int, bool]:
    """(folds, pairs of each kind per fold, whether the file is in the View 1 format)."""
    number, fields = rows[0] if rows else (1, [])
    numbers = [int(field) for field in fields if field.isdecimal()]
    if len(fields) not in (1, 2) or len(numbers) != len(fields) or 0 in numbers:
        raise InputError(
            f"{path} line {number}: an LFW pairs file starts with the number of folds and of pairs "
            f"in each (`10 300`) or the number of pairs (`1100`), not {' '.join(fields)!r}"
        )
    is_view1 = len(numbers) == 1
    n_folds, n_each = [1, *numbers] if is_view1 else numbers
    if is_view1 and n_each < N_FOLDS_VIEW1:
        raise InputError(
            f"{path} line {number}: {n_each} pairs of each kind do not fill {N_FOLDS_VIEW1} folds: "
            f"give at least {N_FOLDS_VIEW1}, or write the number of folds "
            f"(`2 {max(n_each // 2, 1)}`)"
        )
    return n_folds, n_each, is_view1


def _parse_pair(path: str, number: int, fields: list[str], same: bool) -> tuple[str, str]:
    """The names of the two images on a line."""
    if same and len(fields) == 3:
        name1, index1, name2, index2 = fields[0], fields[1], fields[0], fields[2]
    elif not same and len(fields) == 4:
        name1, index1, name2, index2 = fields
    else:
        name1 = index1 = name2 = index2 = ""
    if not (name1 and name2 and index1.isdecimal() and index2.isdecimal()):
        wanted = "a matched pair (`name i j`)" if same else "a mismatched one (`name1 i name2 j`)"
        raise InputError(f"{path} line {number}: expected {wanted}, found {' '.join(fields)!r}")
    return _image_name(name1, index1), _image_name(name2, index2)


def _image_name(name: str, index: str) -> str:
    return f"{name}/{name}_{int(index):04d}"
