"""Sums of the unit vectors of groups of faces."""

from collections.abc import Iterable

import numpy as np

from facecluster.transforms.tables.codec import row_slices, unit_rows

# Components of unit vectors are rounded to multiples of 1 / STEPS. Their float64 sums are exact
# then, and do not depend on the division into parts.
STEPS = np.float32(2**24)


def group_sums(
    embeddings: Iterable[tuple[np.ndarray | slice, np.ndarray]], group: np.ndarray, n_groups: int
) -> np.ndarray:
    """The sum of the unit vectors of each group's faces.

    Args:
      embeddings: at least one part: the numbers of its faces or a slice, (m, d) embeddings.
      group: (n,) int64, the group of each face, -1 for none.
      n_groups: groups are numbered from 0.

    Returns:
      (n_groups, d) float64.
    """
    sums = None
    for faces, stored in embeddings:
        if sums is None:
            sums = np.zeros((n_groups, stored.shape[1]))
        part = group[faces]
        for s in row_slices(len(part)):
            order = np.argsort(part[s], kind="stable")
            order = order[part[s][order] >= 0]
            groups, starts = np.unique(part[s][order], return_index=True)
            if len(groups):
                steps = np.rint(unit_rows(stored[s][order]) * STEPS)
                sums[groups] += np.add.reduceat(steps, starts, axis=0, dtype=np.float64)
    assert sums is not None  # there is at least one part
    return sums / STEPS
