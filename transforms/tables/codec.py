"""How embeddings are stored: as float32, float16, or in 128 bytes per face.

FaceNet stores a face in 128 bytes (arXiv 1503.03832, section 5.5). Here, these are the vector's
first 128 principal components at 8 bits each. The projection is fitted once per model, without
labels.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from facecluster.errors import UsageError

COMPONENTS = 128
SHORTEST = 1e-12  # a shorter vector has no direction


@dataclass(frozen=True, eq=False)
class Codec:
    """Encodes unit vectors as a table column. Two codecs of the same identity are equal.

    Attributes:
      name: pca128 (128 int8), float16 or float32 (one value per dimension of the model).
      mean, components: for pca128, (d,) and (d, 128) float32; x becomes (x - mean) @ components.
    """

    name: str
    mean: np.ndarray | None = None
    components: np.ndarray | None = None

    @property
    def identity(self) -> str:
        """The name, and for pca128 a hash of its arrays: vectors of two fits cannot be compared."""
        if self.mean is None or self.components is None:
            return self.name
        content = self.mean.tobytes() + self.components.tobytes()
        return f"{self.name}-{hashlib.sha256(content).hexdigest()[:12]}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Codec) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def encode(self, vectors: np.ndarray) -> pa.FixedSizeListArray:
        """(n, d) float32 unit vectors to a column of n fixed-size lists."""
        if self.name == "pca128":
            values = quantize((vectors - self.mean) @ self.components)
        else:
            values = vectors.astype(self.name)
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

    def column_type(self, dimensions: int) -> pa.DataType:
        """The type of the column that `encode` returns for vectors of this many dimensions."""
        if self.name == "pca128":
            return pa.list_(pa.int8(), COMPONENTS)
        return pa.list_(pa.from_numpy_dtype(np.dtype(self.name)), dimensions)


def make_codec(name: str | None, arrays: Mapping[str, np.ndarray] | None) -> Codec:
    """The codec to use with a model.

    Args:
      name: one of those in codec_names.py; None: pca128 if the model has it, else float32.
      arrays: the model's "mean" and "components" for pca128, None if it has none.

    Raises:
      UsageError: pca128 is requested and the model does not have it.
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


def decode_embeddings(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Decodes an embedding column of any codec to (n, d) float32 unit vectors.

    This needs no parameters of the codec: only directions matter, and scaling a vector to 8 bits
    does not change its direction.
    """
    return unit_rows(stored_vectors(column))


def stored_vectors(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """An embedding column of any codec as it is stored: (n, d) int8, float16 or float32.

    A vector that is missing, or lacks a value, is the zero vector.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    width = column.type.list_size
    values = column.values.slice(column.offset * width, len(column) * width)
    stored = values.to_numpy(zero_copy_only=False).reshape(-1, width)
    if column.null_count or values.null_count:
        is_missing = column.is_null().to_numpy(zero_copy_only=False)
        lacks_value = values.is_null().to_numpy(zero_copy_only=False).reshape(-1, width)
        is_missing = is_missing | lacks_value.any(axis=1)
        stored = np.where(is_missing[:, None], 0, stored).astype(values.type.to_pandas_dtype())
    return stored


def find_usable(stored: np.ndarray) -> np.ndarray:
    """(n,) bool: which of (n, d) vectors have a direction; one of zeros, NaN or inf has none."""
    usable = np.empty(len(stored), bool)
    with np.errstate(over="ignore", invalid="ignore"):
        for s in row_slices(len(stored)):
            lengths = np.linalg.norm(stored[s].astype(np.float32), axis=1)
            usable[s] = np.isfinite(lengths) & (lengths > SHORTEST)
    return usable


def unit_rows(stored: np.ndarray) -> np.ndarray:
    """(n, d) vectors of any numeric type and length as float32 unit vectors."""
    vectors = stored.astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), SHORTEST)
    return vectors


def row_slices(n: int, size: int = 65536) -> list[slice]:
    """Slices that cover n rows."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def fit_pca128(vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Fits the 128-byte codec's arrays to (n, d) unit vectors, without labels.

    Raises:
      UsageError: there are fewer vectors or dimensions than components.
    """
    mean, components = fit_pca(vectors, COMPONENTS)
    return {"mean": mean, "components": components}


def fit_pca(vectors: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Fits a principal component analysis to (n, d) vectors.

    Returns:
      (mean, components): (d,) and (d, n_components) float32, the first component first.

    Raises:
      UsageError: there are fewer vectors or dimensions than components.
    """
    if min(vectors.shape) < n_components:
        raise UsageError(
            f"{vectors.shape[0]} vectors of {vectors.shape[1]} dimensions are too few "
            f"for {n_components} components: at least as many of each are needed"
        )
    mean = vectors.mean(axis=0, dtype=np.float64)
    centered = vectors - mean
    covariance = centered.T @ centered / len(vectors)
    _, axes = np.linalg.eigh(covariance)  # ascending
    components = axes[:, ::-1][:, :n_components]
    return mean.astype(np.float32), components.astype(np.float32)


def quantize(vectors: np.ndarray) -> np.ndarray:
    """(n, d) vectors scaled so that the largest component of each is 127, and rounded to int8."""
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    return np.rint(vectors * (127 / np.maximum(largest, 1e-12))).astype(np.int8)
