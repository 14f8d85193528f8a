"""FaceClusterer groups as the command does, and is an estimator of scikit-learn."""

from argparse import ArgumentTypeError
from dataclasses import fields

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from facecluster.transforms.grouping.estimator import FaceClusterer
from facecluster.transforms.grouping.group_faces import group_faces
from facecluster.transforms.grouping.options import ClusterOptions, FaceFilterOptions
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.tables.codec import unit_rows


def people(n_people=12, n_each=6, n_impostors=8, n_dimensions=64, seed=0):
    """(vectors, names) of faces near the directions of people, and of impostors, shuffled."""
    random = np.random.default_rng(seed)
    names = np.concatenate([np.repeat(np.arange(n_people), n_each), -1 - np.arange(n_impostors)])
    directions = random.normal(size=(n_people + n_impostors, n_dimensions))
    vectors = directions[names] + 0.65 * random.normal(size=(len(names), n_dimensions))
    order = random.permutation(len(names))
    return vectors[order].astype(np.float32), names[order]


def partition(labels):
    """The groups as sets of rows, whatever their numbers."""
    return {tuple(np.flatnonzero(labels == label).tolist()) for label in set(labels) - {-1}}


def test_faces_become_people():
    vectors, names = people()
    clusterer = FaceClusterer().fit(vectors)
    assert partition(clusterer.labels_) == partition(np.maximum(names, -1))
    assert clusterer.labels_.dtype == np.int64
    assert ((clusterer.labels_ == -1) == (names < 0)).all()
    assert ((clusterer.probabilities_ == 0) == (names < 0)).all()
    assert (clusterer.probabilities_ <= 1).all()
    assert clusterer.n_features_in_ == 64
    assert abs(clusterer.impostor_median_) < 0.1
    assert clusterer.impostor_width_ == pytest.approx(1 / 8, rel=0.3)
    assert 0 < clusterer.singles_ < 0.3


def test_groups_are_those_of_the_command():
    vectors, _ = people(seed=3)
    photos = np.arange(len(vectors)) // 2
    grouping = group_faces(vectors, photos, ClusterOptions(wrong_share=0.01))
    labels = FaceClusterer(wrong_share=0.01).fit_predict(vectors, photos=photos)
    assert partition(labels) == partition(grouping.labels.labels)


@pytest.mark.parametrize("probes", [0, 3])
def test_labels_do_not_depend_on_the_order_of_rows(monkeypatch, probes):
    """Nor do cells, which are fitted to a sample of the rows."""
    monkeypatch.setattr("facecluster.transforms.grouping.group_faces.EXACT_UP_TO", 20)
    vectors, _ = people(n_people=30, n_impostors=30)
    photos = np.arange(len(vectors)) // 3
    clusterer = FaceClusterer(probes=probes, n_neighbors=5)
    first = clone(clusterer).fit(vectors, photos=photos)
    assert len(partition(first.labels_)) > 10
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(vectors))
        again = clone(clusterer).fit(vectors[order], photos=photos[order])
        assert again.labels_.tolist() == first.labels_[order].tolist()
        assert again.probabilities_.tolist() == first.probabilities_[order].tolist()


@pytest.mark.parametrize("kind", [np.float64, np.float16, list])
def test_vectors_of_any_kind_and_length(kind):
    vectors, names = people()
    X = vectors.tolist() if kind is list else vectors.astype(kind)
    assert partition(FaceClusterer().fit_predict(X)) == partition(np.maximum(names, -1))
    longer = vectors * np.geomspace(1e-15, 1e15, len(vectors))[:, None]
    assert partition(FaceClusterer().fit_predict(longer)) == partition(np.maximum(names, -1))
    bytes_ = np.rint(vectors / np.abs(vectors).max() * 127).astype(np.int8)
    assert partition(FaceClusterer().fit_predict(bytes_)) == partition(np.maximum(names, -1))


def test_two_faces_in_one_photo_are_two_people():
    vectors, names = people(n_people=40, n_each=2, n_impostors=0)
    # Similar enough for one person, but not for one face.
    vectors += 0.45 * np.random.default_rng(1).normal(size=vectors.shape)
    photos = [f"{name}.jpg" for name in names]
    clusterer = FaceClusterer()
    n_apart = len(partition(clusterer.fit_predict(vectors)))
    assert n_apart > 30
    assert len(partition(clusterer.fit_predict(vectors, photos=photos))) < n_apart / 3
    ignoring = clusterer.set_params(ignore_photos=True)
    assert len(partition(ignoring.fit_predict(vectors, photos=photos))) == n_apart


def test_every_face_may_be_a_person():
    vectors, names = people()
    labels = FaceClusterer(min_cluster_size=1).fit_predict(vectors)
    assert len(set(labels)) == len(set(names))


# ---- parameters ----


def test_parameters_are_the_grouping_options_with_their_defaults():
    of_filter = {field.name for field in fields(FaceFilterOptions)}
    options = {f.name: f.default for f in fields(ClusterOptions) if f.name not in of_filter}
    assert FaceClusterer().get_params() == {**options, "cohort": None}


def test_parameters_are_set_and_cloned():
    clusterer = FaceClusterer(wrong_share=0.1).set_params(probes=4)
    copied = clone(clusterer).get_params()
    assert copied == {**FaceClusterer().get_params(), "wrong_share": 0.1, "probes": 4}


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_neighbors": 1}, ValueError, "n_neighbors == 1, must be >= 2"),
        ({"n_neighbors": 2.5}, TypeError, "n_neighbors must be an instance of"),
        ({"wrong_share": 0}, ValueError, "wrong_share == 0, must be >= 0.001"),
        ({"wrong_share": 0.6}, ValueError, "wrong_share == 0.6, must be <= 0.5"),
        ({"wrong_share": "few"}, TypeError, "wrong_share must be an instance of"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, error, message):
    with pytest.raises(error, match=message):
        FaceClusterer(**parameters).fit(people()[0])


@pytest.mark.parametrize("name", ["n_neighbors", "min_cluster_size", "wrong_share", "probes"])
def test_ranges_are_those_of_the_command_line(name):
    """The least value is accepted by both, and a smaller one by neither."""
    read = ClusterOptions.__dataclass_fields__[name].metadata["type"]
    least = {"n_neighbors": 2, "min_cluster_size": 1, "wrong_share": 0.001, "probes": 0}[name]
    assert read(str(least)) == least
    FaceClusterer(**{name: least}).fit(people()[0])
    less = least / 2 if name == "wrong_share" else least - 1
    with pytest.raises(ArgumentTypeError):
        read(str(less))
    with pytest.raises(ValueError, match=name):
        FaceClusterer(**{name: less}).fit(people()[0])


# ---- cohort ----


def cohort(n_dimensions=64):
    random = np.random.default_rng(5)
    members = unit_rows(random.normal(size=(300, n_dimensions)))
    return Cohort(members, level=0.25, same_person=0.7)


def test_with_a_cohort_a_collection_may_be_one_person():
    vectors, _ = people(n_people=1, n_each=20, n_impostors=0)
    clusterer = FaceClusterer(cohort=cohort())
    assert clone(clusterer).fit_predict(vectors).tolist() == [0] * 20
    assert clusterer.fit(vectors).impostor_width_ == pytest.approx(0.7 / 5.3, abs=1e-3)


def test_a_cohort_of_other_dimensions_is_refused():
    with pytest.raises(ValueError, match="X has 64 features, the cohort has 32: use the cohort"):
        FaceClusterer(cohort=cohort(32)).fit(people()[0])


# ---- input ----


def with_row(vectors, row):
    return np.concatenate([vectors, [row]])


def test_unusable_vectors_are_refused():
    vectors, _ = people()
    width = vectors.shape[1]
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
            FaceClusterer().fit(with_row(vectors, np.full(width, bad)))
    with pytest.raises(ValueError, match="Expected 2D array, got 1D"):
        FaceClusterer().fit(vectors[0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        FaceClusterer().fit(vectors, photos=[1, 2])


@pytest.mark.parametrize("kind", [np.int8, np.float16, np.float32, np.float64])
def test_a_zero_vector_is_unassigned_and_changes_nothing_else(kind):
    vectors, _ = people()
    vectors = (300 * vectors / np.abs(vectors).max() / 3).astype(kind)
    expected = FaceClusterer().fit(vectors)
    found = FaceClusterer().fit(np.insert(vectors, [0, 40, 80], np.zeros(vectors.shape[1]), axis=0))
    others = np.delete(np.arange(83), [0, 41, 82])
    assert np.array_equal(found.labels_[others], expected.labels_)
    assert np.array_equal(found.probabilities_[others], expected.probabilities_)
    assert found.labels_[[0, 41, 82]].tolist() == [-1] * 3
    assert FaceClusterer(min_cluster_size=1).fit_predict(np.zeros((2, 9))).tolist() == [-1, -1]


def test_one_face_is_unassigned():
    assert FaceClusterer().fit_predict([[1.0, 2.0]]).tolist() == [-1]


# ---- scikit-learn ----


EXPECTED_FAILURES = {
    "check_clustering": "in its plane, strangers are often as alike as two of its points can be",
}


def test_the_checks_of_scikit_learn_pass():
    results = check_estimator(
        FaceClusterer(), expected_failed_checks=EXPECTED_FAILURES, on_skip=None
    )
    assert len(results) > 30
    failed = {result["check_name"] for result in results if result["status"] == "xfail"}
    assert failed == EXPECTED_FAILURES.keys()


def test_it_is_the_last_step_of_a_pipeline():
    vectors, names = people()
    center = FunctionTransformer(lambda X: X - X.mean(axis=0))
    labels = make_pipeline(center, FaceClusterer()).fit_predict(vectors)
    assert partition(labels) == partition(np.maximum(names, -1))
