"""The minimum spanning forest of edges that are spread over many workers, as a Beam CombineFn."""

from collections.abc import Iterable

import apache_beam as beam
import numpy as np

from facecluster.transforms.spanning_forest import Edges, minimum_spanning_forest

NO_EDGES = Edges(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


class CombineForests(beam.CombineFn):
    """Edges to the lightest that connect what they connect.

    The forest of a union is the forest of the union of forests, so an accumulator may drop at any
    time what is not in its forest. It does when it holds twice the edges that it kept last, and at
    least `buffer`: it never holds more than max(buffer, 2 (faces - 1)) edges and one input.
    """

    def __init__(self, buffer: int):
        self.buffer = buffer

    def create_accumulator(self) -> tuple[Edges, int]:
        return NO_EDGES, 0

    def add_input(self, accumulator: tuple[Edges, int], edges: Edges) -> tuple[Edges, int]:
        held, kept = accumulator
        held = together([held, edges])
        if len(held.i) >= max(self.buffer, 2 * kept):
            held = minimum_spanning_forest(held)
            kept = len(held.i)
        return held, kept

    def merge_accumulators(self, accumulators: Iterable[tuple[Edges, int]]) -> tuple[Edges, int]:
        merged = self.create_accumulator()
        for held, _ in accumulators:
            merged = self.add_input(merged, held)
        return merged

    def compact(self, accumulator: tuple[Edges, int]) -> tuple[Edges, int]:
        held = minimum_spanning_forest(accumulator[0])
        return held, len(held.i)

    def extract_output(self, accumulator: tuple[Edges, int]) -> Edges:
        return minimum_spanning_forest(accumulator[0])


def together(parts: Iterable[Edges]) -> Edges:
    """All edges of several graphs."""
    parts = list(parts)
    return Edges(
        *(np.concatenate([getattr(p, end) for p in parts]) for end in ("i", "j", "weight"))
    )
