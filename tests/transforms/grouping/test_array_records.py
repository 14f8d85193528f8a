"""Records that hold arrays can be compared: equality of arrays would raise."""

import importlib
import pkgutil
from copy import copy
from dataclasses import fields, is_dataclass

import numpy as np
import pytest

import facecluster.pipeline.distributed
import facecluster.transforms.grouping
import facecluster.transforms.people
import facecluster.transforms.similarity
import facecluster.transforms.tables
from facecluster.transforms.grouping.cannot_links import CannotLinks
from facecluster.transforms.grouping.group_faces import Grouping
from facecluster.transforms.grouping.hdbscan_labels import Labels
from facecluster.transforms.grouping.neighbors import Cells, Neighbors
from facecluster.transforms.grouping.spanning_forest import Edges
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.similarity.impostors import Impostors
from facecluster.transforms.similarity.normalization import Normalization
from facecluster.transforms.tables.codec import Codec

LABELS = Labels(np.zeros(3, np.int64), np.ones(3))
RECORDS = [
    LABELS,
    Edges(np.zeros(3, int), np.ones(3, int), np.ones(3)),
    Neighbors(np.arange(4), np.arange(3), np.ones(3, np.float32), np.zeros(3, bool)),
    Cells(np.eye(3), None, 1),
    Grouping(LABELS, np.ones(1, int), np.zeros(3, bool), np.zeros(1, int), {}),
    CannotLinks(np.arange(3), np.zeros(3, int), np.zeros(3, bool), np.arange(3), np.zeros(1, int)),
    Cohort(np.eye(10), 0.1, 0.7),
    Normalization(np.eye(3), 1.0, None, Impostors(0.0, 0.1), 0.7),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_are_compared_by_identity(record):
    assert record == record
    assert record != copy(record)
    assert record in [copy(record), record]
    assert len({record, copy(record)}) == 2


def test_codecs_are_compared_by_what_they_encode():
    mean, components = np.zeros(4), np.eye(4)
    pca = Codec("pca128", mean, components)
    assert pca == Codec("pca128", mean.copy(), components.copy())
    assert hash(pca) == hash(Codec("pca128", mean.copy(), components.copy()))
    assert pca != Codec("pca128", mean + 1, components)
    assert Codec("float32") == Codec("float32") != Codec("float16")
    assert Codec("float32") != "float32"


def test_no_other_record_of_arrays_compares_them():
    rooms = (
        facecluster.pipeline.distributed,
        facecluster.transforms.grouping,
        facecluster.transforms.people,
        facecluster.transforms.similarity,
        facecluster.transforms.tables,
    )
    found = set()
    for room in rooms:
        for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            for kind in vars(importlib.import_module(module.name)).values():
                if not isinstance(kind, type) or kind.__module__ != module.name:
                    continue
                if is_dataclass(kind) and any("ndarray" in str(f.type) for f in fields(kind)):
                    found.add(kind.__name__)
                    assert not kind.__dataclass_params__.eq, kind
    assert {"Labels", "Edges", "Neighbors", "Cells", "Codec", "Cohort", "Normalization"} <= found
