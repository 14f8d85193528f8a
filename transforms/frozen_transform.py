"""PTransforms as frozen dataclasses whose fields are their options."""

from dataclasses import FrozenInstanceError, fields
from typing import Any, TypeVar

import apache_beam as beam

Transform = TypeVar("Transform", bound=beam.PTransform)


def frozen_transform(cls: type[Transform]) -> type[Transform]:
    """Lets Beam set attributes of its own on a PTransform that is a frozen dataclass.

    Beam assigns a label, the pipeline and type hints when it applies a transform, which
    `frozen=True` forbids. The fields stay frozen. Use it as

        @frozen_transform
        @dataclass(frozen=True, eq=False)
        class Resize(beam.PTransform):

    With `eq=False` two transforms of equal options stay two: Beam compares and hashes transforms by
    identity, and options may hold arrays.
    """
    options = frozenset(field.name for field in fields(cls))

    def set_attribute(self: Transform, name: str, value: Any) -> None:
        if name in options:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    cls.__setattr__ = set_attribute
    return cls
