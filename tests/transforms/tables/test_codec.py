"""Encoded embeddings are near the original vectors, and columns have the stated types."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from facecluster.errors import UsageError
from facecluster.transforms.tables.codec import (
    COMPONENTS,
    Codec,
    decode_embeddings,
    fit_pca128,
    make_codec,
    stored_vectors,
    unit_rows,
)
from facecluster.transforms.tables.codec_names import CODECS


def units(n: int, dimensions: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    """(600, 256) unit vectors like those of faces: not centered, with unequal variances."""
    rng = np.random.default_rng(7)
    weights = np.exp(-np.arange(256) / 40)
    vectors = (rng.standard_normal((600, 256)) * weights + 0.2) @ rotation(256)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def rotation(dimensions: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(1).standard_normal((dimensions, dimensions)))[0]


@pytest.fixture(scope="module")
def arrays(faces) -> dict:
    return fit_pca128(faces)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def written_and_read(column: pa.Array) -> pa.ChunkedArray:
    file = io.BytesIO()
    pq.write_table(pa.table({"embedding": column}), file, row_group_size=7)
    return pq.read_table(file)["embedding"]


# --- round trips


@given(st.integers(0, 40), st.integers(1, 300), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_float32_is_exact_and_float16_is_near(n, dimensions, seed):
    vectors = units(n, dimensions, seed)
    for name, tolerance in [("float32", 2e-7), ("float16", 2**-11)]:
        codec = make_codec(name, None)
        column = codec.encode(vectors)
        assert len(column) == n
        assert column.type == codec.column_type(dimensions)
        back = decode_embeddings(written_and_read(column))
        assert back.dtype == np.float32
        assert back.shape == (n, dimensions)
        # Half precision has 11 significant bits: a relative error of 2**-12 per component.
        assert np.all(np.linalg.norm(back - vectors, axis=1) <= tolerance)


def test_pca128_is_near_its_projection(faces, arrays):
    codec = make_codec("pca128", arrays)
    back = decode_embeddings(written_and_read(codec.encode(faces)))
    assert back.shape == (600, COMPONENTS)
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)
    projected = (faces - arrays["mean"]) @ arrays["components"]
    # The error of a component is at most half a step, a 254th of the largest component; the error
    # of the direction is at most twice that of the vector, relative to its length.
    lengths = np.linalg.norm(projected, axis=1)
    bounds = 2 * np.sqrt(COMPONENTS) * np.abs(projected).max(axis=1) / 254 / lengths
    errors = np.linalg.norm(back - unit(projected), axis=1)
    assert np.all(errors <= bounds)
    assert errors.mean() < 0.02  # rounding errors are independent, so most are much smaller


def test_pca128_keeps_distances(faces, arrays):
    back = decode_embeddings(make_codec("pca128", arrays).encode(faces))
    projected = unit((faces - arrays["mean"]) @ arrays["components"])
    np.testing.assert_allclose(back @ back.T, projected @ projected.T, atol=0.02)


def test_128_bytes_per_face(faces, arrays):
    codec = make_codec("pca128", arrays)
    column = codec.encode(faces)
    assert codec.column_type(256) == column.type == pa.list_(pa.int8(), 128)
    assert column.flatten().nbytes == 128 * len(faces)
    values = column.flatten().to_numpy().reshape(-1, 128)
    assert np.all(np.abs(values.astype(int)).max(axis=1) == 127)  # all 8 bits are used


def test_column_types_of_float_codecs():
    assert make_codec("float32", None).column_type(512) == pa.list_(pa.float32(), 512)
    assert make_codec("float16", None).column_type(512) == pa.list_(pa.float16(), 512)


def test_no_vectors(arrays):
    for codec in (Codec("float32"), Codec("float16"), make_codec("pca128", arrays)):
        column = codec.encode(np.empty((0, 256), np.float32))
        assert column.type == codec.column_type(256)
        assert len(decode_embeddings(column)) == 0
        assert len(decode_embeddings(pa.chunked_array([], column.type))) == 0


def test_slices_and_chunks_are_decoded():
    vectors = units(30, 16)
    column = Codec("float32").encode(vectors)
    np.testing.assert_allclose(decode_embeddings(column.slice(5, 7)), vectors[5:12], atol=1e-6)
    chunked = pa.chunked_array([column.slice(20, 3), column.slice(1, 4)])
    np.testing.assert_allclose(
        decode_embeddings(chunked), vectors[[20, 21, 22, 1, 2, 3, 4]], atol=1e-6
    )
    np.testing.assert_allclose(
        decode_embeddings(column.take(pa.array([3, 3, 0]))), vectors[[3, 3, 0]], atol=1e-6
    )


@pytest.mark.parametrize("name", CODECS)
def test_stored_vectors_are_what_was_written(name, faces, arrays):
    codec = make_codec(name, arrays)
    column = codec.encode(faces[:20])
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(20, -1)
    assert values.dtype == ("int8" if name == "pca128" else name)
    for same in (column, written_and_read(column)):
        stored = stored_vectors(same)
        assert stored.dtype == values.dtype
        np.testing.assert_array_equal(stored, values)
        np.testing.assert_array_equal(unit_rows(stored), decode_embeddings(same))
    part = pa.chunked_array([column.slice(15, 2), column.slice(3, 1)])
    np.testing.assert_array_equal(stored_vectors(part), values[[15, 16, 3]])


@pytest.mark.parametrize("kind", ["int8", "float16", "float32", "float64"])
def test_unit_rows(kind):
    stored = np.array([[3, 4], [-100, 0], [0, 0], [60, -80]], kind)
    before = stored.copy()
    vectors = unit_rows(stored)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [-1, 0], [0, 0], [0.6, -0.8]], rtol=1e-6)
    np.testing.assert_array_equal(stored, before)  # unchanged, even if it is float32 already
    # A row gives the same bits with any other rows.
    many = units(1000, 33) * np.float32(7)
    np.testing.assert_array_equal(unit_rows(many)[500:501], unit_rows(many[500:501]))


def test_the_mean_is_encoded_as_zero(faces, arrays):
    with np.errstate(all="raise"):
        back = decode_embeddings(make_codec("pca128", arrays).encode(arrays["mean"][None]))
    np.testing.assert_array_equal(back, np.zeros((1, COMPONENTS)))


# --- fitting


def test_the_fit_is_the_pca_of_scikit_learn(faces, arrays):
    pca = PCA(COMPONENTS, svd_solver="full").fit(faces.astype(np.float64))
    np.testing.assert_allclose(arrays["mean"], pca.mean_, atol=1e-6)
    assert arrays["components"].shape == (256, COMPONENTS)
    assert arrays["components"].dtype == arrays["mean"].dtype == np.float32
    agreement = np.sum(arrays["components"].T * pca.components_, axis=1)
    np.testing.assert_allclose(np.abs(agreement), 1, atol=1e-4)


def test_as_many_vectors_and_dimensions_as_components_are_enough():
    fitted = fit_pca128(units(COMPONENTS, COMPONENTS))
    gram = fitted["components"].T @ fitted["components"]
    np.testing.assert_allclose(gram, np.eye(COMPONENTS), atol=1e-5)


@pytest.mark.parametrize(("n", "dimensions"), [(127, 512), (500, 127), (0, 512)])
def test_too_few_to_fit(n, dimensions):
    with pytest.raises(UsageError, match=f"{n} vectors of {dimensions} dimensions"):
        fit_pca128(units(n, dimensions) if n else np.empty((0, dimensions), np.float32))


# --- choosing a codec


def test_the_default_is_pca128_if_the_model_has_it(arrays):
    assert make_codec(None, arrays).name == "pca128"
    assert make_codec(None, None).name == "float32"
    for name in CODECS:
        assert make_codec(name, arrays).name == name


def test_two_fits_of_a_codec_have_different_identities(faces, arrays):
    identity = make_codec("pca128", arrays).identity
    assert identity.startswith("pca128-")
    assert identity == make_codec("pca128", fit_pca128(faces)).identity
    assert identity != make_codec("pca128", fit_pca128(faces[:300])).identity
    assert make_codec("float16", arrays).identity == "float16"


def test_pca128_without_its_arrays():
    with pytest.raises(UsageError, match="fit-codec"):
        make_codec("pca128", None)
