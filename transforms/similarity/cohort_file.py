"""Cohorts as the content of one NumPy file, one for each codec: 24 KB for 192 vectors of 128."""

import io
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from facecluster.transforms.similarity.cohort import NEAREST, Cohort
from facecluster.transforms.tables.codec import quantize, unit_rows

FIELDS = ("vectors", "level", "same_person")


def pack_cohorts(cohorts: Mapping[str, Cohort]) -> bytes:
    """The content of a file with cohorts by name, the vectors at 8 bits like those of faces."""
    arrays = {}
    for name, cohort in cohorts.items():
        values = quantize(cohort.vectors), cohort.level, cohort.same_person
        arrays |= {f"{name}/{field}": value for field, value in zip(FIELDS, values, strict=True)}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def unpack_cohorts(content: bytes) -> dict[str, Cohort]:
    """The cohorts of a file by their names.

    Raises:
      ValueError: the file is damaged.
    """
    try:
        with np.load(io.BytesIO(content)) as file:
            arrays = dict(file)
        names = dict.fromkeys(key.rpartition("/")[0] for key in arrays)
        return {name: _parse(*(arrays[f"{name}/{field}"] for field in FIELDS)) for name in names}
    except (OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(str(error)) from error


def _parse(vectors: np.ndarray, level: np.ndarray, same_person: np.ndarray) -> Cohort:
    if vectors.ndim != 2 or len(vectors) < NEAREST or vectors.dtype != np.int8:
        raise ValueError(f"{vectors.shape} {vectors.dtype} is not a cohort")
    return Cohort(unit_rows(vectors), float(level), float(same_person))
