"""PTransforms that are dataclasses, as ours are, work with the installed Beam.

They need eq=False: Beam compares and hashes transforms by identity, and options may hold arrays.
"""

import copy
import pickle
from dataclasses import dataclass, replace

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import assert_that, equal_to


@dataclass(eq=False)
class Scale(beam.PTransform):
    """Multiplies numbers."""

    factor: int = 2
    offsets: np.ndarray | None = None

    def expand(self, numbers):
        factor = self.factor
        return numbers | beam.Map(lambda n: factor * n)


def test_two_of_a_kind_with_equal_options_are_in_one_pipeline():
    with beam.Pipeline() as pipeline:
        numbers = pipeline | beam.Create([1, 2])
        once = numbers | Scale(3)
        twice = once | "Again" >> Scale(3)
        assert_that(once, equal_to([3, 6]), label="once")
        assert_that(twice, equal_to([9, 18]), label="twice")


def test_one_transform_is_applied_twice():
    scale = Scale(5)
    with beam.Pipeline() as pipeline:
        numbers = pipeline | beam.Create([1, 2])
        twice = numbers | "First" >> scale | "Second" >> scale
        assert_that(twice, equal_to([25, 50]))


def test_without_a_pipeline_it_maps_a_list():
    assert [1, 2] | Scale(4) == [4, 8]


def test_its_label_is_its_class_and_type_hints_can_be_set():
    assert Scale().label == "Scale"
    with beam.Pipeline() as pipeline:
        _ = pipeline | beam.Create([1]) | Scale().with_output_types(int)


def test_options_can_be_replaced_and_are_shown():
    scale = Scale(3)
    assert replace(scale, factor=4).factor == 4
    assert repr(scale) == "Scale(factor=3, offsets=None)"


def test_it_pickles_and_copies():
    scale = Scale(3, np.arange(3))
    for other in (pickle.loads(pickle.dumps(scale)), copy.copy(scale), copy.deepcopy(scale)):
        assert other.factor == 3
        np.testing.assert_array_equal(other.offsets, scale.offsets)


def test_transforms_that_hold_arrays_compare_and_hash_by_identity():
    one, other = Scale(3, np.arange(3)), Scale(3, np.arange(3))
    assert one == one
    assert one != other
    assert len({one, other}) == 2
