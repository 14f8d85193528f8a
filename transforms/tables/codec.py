"""How an embedding is stored: full floats, half floats, or 128 bytes a face.

FaceNet stores a face in 128 bytes (arXiv 1503.03832, section 5.5). Here that is a projection of
the model's vectors onto their first 128 principal components, fitted once per model without
labels, at 8 bits a component.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from facecluster.errors import UsageError

COMPONENTS = 128
CODECS = ("pca128", "float16", "float32")


@dataclass(frozen=True)
class Codec:
    """Turns unit vectors into table columns and back.

    Attributes:
      name: pca128 (128 int8), float16 or float32 (as many as the model has dimensions).
      mean, components: for pca128, (d,) and (d, 128) float32: x goes to (x - mean) @ components.
    """

    name: str
    mean: np.ndarray | None = None
    components: np.ndarray | None = None

    @property
    def identity(self) -> str:
        """The name, and for pca128 a hash of its arrays: vectors of two fits cannot be compared."""
        if self.name != "pca128":
            return self.name
        content = self.mean.tobytes() + self.components.tobytes()
        return f"{self.name}-{hashlib.sha256(content).hexdigest()[:12]}"

    def encode(self, vectors: np.ndarray) -> pa.FixedSizeListArray:
        """(n, d) float32 unit vectors to a column of n fixed-size lists."""
        if self.name == "pca128":
            values = _quantised((vectors - self.mean) @ self.components)
        else:
            values = vectors.astype(self.name)
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

    def column_type(self, dimensions: int) -> pa.DataType:
        """The type of the column that `encode` makes of vectors of so many dimensions."""
        if self.name == "pca128":
            return pa.list_(pa.int8(), COMPONENTS)
        return pa.list_(pa.from_numpy_dtype(np.dtype(self.name)), dimensions)


def make_codec(name: str | None, arrays: Mapping[str, np.ndarray] | None) -> Codec:
    """The codec to use with a model.

    Args:
      name: one of CODECS; None takes pca128 where the model has it, else float32.
      arrays: "mean" and "components" as the model carries them, None when it carries none.

    Raises:
      UsageError: pca128 is asked for and the model carries none.
    """
    if name is None:
        name = "pca128" if arrays else "float32"
    if name != "pca128":
        return Codec(name)
    if not arrays:
        raise UsageError(
            "the model has no 128-byte codec: fit one with `facecluster model fit-codec`, or "
            "store the embeddings as float32 or float16"
        )
    return Codec(name, arrays["mean"], arrays["components"])


def decode(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """An embedding column of any codec to (n, d) float32 unit vectors.

    No codec needs its parameters for this: directions are all that counts, and 8-bit vectors keep
    theirs whatever they were scaled by.
    """
    return unit_rows(stored_vectors(column))


def stored_vectors(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """An embedding column of any codec as it is stored: (n, d) int8, float16 or float32."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    width = column.type.list_size
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def unit_rows(stored: np.ndarray) -> np.ndarray:
    """(n, d) vectors of any numeric type and length as float32 unit vectors."""
    vectors = stored.astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors


def fit_pca128(vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Fits the 128-byte codec's arrays to (n, d) unit vectors, without labels.

    Raises:
      UsageError: fewer vectors, or dimensions, than components.
    """
    mean, components = fit_pca(vectors, COMPONENTS)
    return {"mean": mean, "components": components}


def fit_pca(vectors: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean, (d,) float32, and first principal components, (d, n_components) float32, of (n, d).

    Raises:
      UsageError: fewer vectors, or dimensions, than components.
    """
    if min(vectors.shape) < n_components:
        raise UsageError(
            f"{vectors.shape[0]} vectors of {vectors.shape[1]} dimensions are too few "
            f"for {n_components} components: it takes as many of each"
        )
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    covariance = centred.T @ centred / len(vectors)
    _, axes = np.linalg.eigh(covariance)  # ascending
    components = axes[:, ::-1][:, :n_components]
    return mean.astype(np.float32), components.astype(np.float32)


def _quantised(vectors: np.ndarray) -> np.ndarray:
    """Each vector scaled so that its largest component is 127, as int8."""
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    return np.rint(vectors * (127 / np.maximum(largest, 1e-12))).astype(np.int8)
