"""The benchmarks import, have the options that are documented, and the quick ones run."""

import ast
import importlib
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from facecluster.pipeline.evaluation.clustering_metrics import bcubed
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.transforms.tables.codec import decode_embeddings

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = sorted((REPOSITORY / "benchmarks").glob("*.py"))
NAMES = [path.stem for path in FILES]
COMMANDS = [name for name in NAMES if not name.endswith(("_worker", "_methods"))]


@pytest.fixture(autouse=True)
def import_path(monkeypatch):
    """Lets the benchmarks import each other, as scripts in one folder do."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


def print_help(name: str, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as exit_:
        importlib.import_module(name).main()
    assert exit_.value.code == 0
    return capsys.readouterr().out


def list_options(text: str) -> set[str]:
    return set(re.findall(r"(?<!\S)\[?(--[a-z][a-z-]*)", text))


@pytest.mark.parametrize("name", NAMES)
def test_importing_prints_nothing(name, capsys):
    importlib.import_module(name)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_imported_name_exists(path):
    """Also of imports in functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.module.startswith("facecluster") or node.module in NAMES:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_has_the_options_of_the_docstring(name, monkeypatch, capsys):
    docstring = importlib.import_module(name).__doc__
    help_ = print_help(name, monkeypatch, capsys)
    assert docstring.splitlines()[0] in " ".join(help_.split())
    usage = re.search(rf"^    python benchmarks/{name}\.py.*?\n\n", docstring, re.M | re.S)
    assert usage
    documented = list_options(usage.group())
    assert documented
    assert documented <= list_options(help_)


def test_the_commands_in_the_results_exist(monkeypatch, capsys):
    text = (REPOSITORY / "docs" / "results.md").read_text()
    commands = re.findall(r"python benchmarks/(\w+)\.py([^`\n]*)", text)
    for name, arguments in commands:
        documented = list_options(arguments)
        assert documented <= list_options(print_help(name, monkeypatch, capsys)), (name, arguments)
    assert {name for name, _ in commands} == set(COMMANDS)


def test_listing_runs(monkeypatch, capsys):
    listing = importlib.import_module("listing")
    monkeypatch.setattr(sys, "argv", ["listing.py", "--n", "3"])
    listing.main()
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["seconds", "baseline", "ratio", "us/photo", "bytes/photo"]
    assert [row.split()[:3] for row in rows] == [
        ["3", "in", form] for form in ("files", "tar", "tfrecord")
    ]


def forty_people() -> np.ndarray:
    """(160, 128) float32: four photos of each of forty people, one after the other."""
    random = np.random.default_rng(0)
    people = np.repeat(random.normal(size=(40, 128)), 4, axis=0)
    vectors = people + random.normal(scale=0.5, size=people.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_a_half_is_scored():
    quality = importlib.import_module("quality")
    vectors = forty_people()
    photo_ids = np.array([f"{i:03}" for i in range(160)])
    rows = {f"/photos/P{row // 4:02}/{row}.jpg": row for row in range(160)}
    half = quality.Half(vectors, photo_ids, rows)
    scores = quality.format_scores(half.score_clustering(lambda vectors: vectors)).split()
    assert scores == [*["1.0000"] * 6, "40", "0.000"]
    both = quality.concatenate_halves([half, quality.Half(vectors, photo_ids, {"/Q/0.jpg": 3})])
    assert both.labeled_rows.tolist() == [*range(160), 163]
    assert both.people[[0, 3, 4, 159, 160]].tolist() == ["P00", "P00", "P01", "P39", "Q"]


def test_no_violations_in_group_photos_when_all_labels_are_right():
    cannot_links = importlib.import_module("cannot_links")
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(20), random.integers(1, 5, 20))
    vectors = random.normal(size=(len(people), 8))
    for look_alikes in (False, True):
        circles = cannot_links.make_circles(vectors, people, look_alikes, random)
        assert [len(circle) for circle in circles] == [8, 8, 4]
        photos = cannot_links.make_group_photos(circles, random)
        assert cannot_links.count_violations(photos, people) == 0
        n_repeated = len(people) - len(np.unique(photos))
        assert cannot_links.count_violations(photos, np.zeros_like(people)) == n_repeated


@pytest.fixture
def face_model():
    synthetic = importlib.import_module("synthetic")
    d = synthetic.COMPONENTS
    eye = np.eye(d, dtype=np.float32)
    return synthetic.FaceModel(
        sizes=np.array([1, 2, 5]), weights=np.ones(1), means=np.zeros((1, d), np.float32),
        between=eye, within=eye / 4,
    )  # fmt: skip


def test_a_run_of_synthetic_faces(face_model, tmp_path):
    synthetic = importlib.import_module("synthetic")
    synthetic.write_run(face_model, 30, 0, tmp_path / "run", synthetic.EIGHT_BIT_CODEC)
    faces, _ = RunDirectory(str(tmp_path / "run")).read_shards("faces", ["embedding"])
    written = decode_embeddings(faces["embedding"])
    labels = np.load(tmp_path / "run-labels.npy")
    ((vectors, people),) = face_model.sample(30, 0)
    assert (labels == people).all()
    np.testing.assert_allclose(written, vectors, atol=0.01)
    histograms = synthetic.measure_distances(vectors, people)
    sizes = np.bincount(people)
    n_same = int((sizes * (sizes - 1)).sum())
    assert histograms[synthetic.SAME].sum() == n_same
    assert histograms[synthetic.DIFFERENT].sum() == 30 * 29 - n_same


def test_a_face_model_that_the_script_saved_is_loaded_by_another(face_model, tmp_path):
    """The script's class is __main__.FaceModel, which other programs cannot unpickle."""
    script = runpy.run_path(str(REPOSITORY / "benchmarks" / "synthetic.py"), run_name="script")
    script["FaceModel"](**vars(face_model)).save(tmp_path / "model.npz")
    loaded = type(face_model).load(tmp_path / "model.npz")
    assert type(loaded) is type(face_model)
    assert type(loaded.tail) is float
    assert loaded.identity == face_model.identity


def test_the_grouping_worker_runs(tmp_path, monkeypatch, capsys):
    worker = importlib.import_module("grouping_worker")
    path = tmp_path / "vectors.npy"
    np.save(path, (127 * forty_people()).round().astype(np.int8))
    for name in ("facecluster", "hdbscan"):
        monkeypatch.setattr(sys, "argv", ["", name, str(path), "{}"])
        worker.main()
        assert capsys.readouterr().out.startswith("[")
        labels = np.load(f"{path}.labels.npy")
        assert len(np.unique(labels)) == 40
        assert (labels[::4] == labels[3::4]).all()


def test_each_grouping_method_has_a_setting_that_separates_distant_people():
    methods = importlib.import_module("grouping_methods").METHODS
    assert len(methods) == 7
    people = np.repeat(np.arange(6), 12)
    vectors = np.eye(6)[people] + np.random.default_rng(0).normal(0, 0.02, (len(people), 6))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    for name, (method, settings) in methods.items():
        if name == "Infomap":  # an optional dependency
            continue
        cluster = method(vectors)
        assert any(bcubed(people, cluster(**setting))[2] == 1 for setting in settings), name


@pytest.fixture
def make_faces():
    """Makes a collection of people of these sizes, the last of them not scored."""
    make_collection = importlib.import_module("face_collections").make_collection

    def make(sizes: list[int], first_axis: int = 0):
        person = np.repeat(np.arange(len(sizes)), sizes)
        random = np.random.default_rng(first_axis)
        vectors = 100 * np.eye(128)[first_axis + person] + random.normal(0, 2, (len(person), 128))
        person[person == len(sizes) - 1] = -1
        return make_collection("name", vectors.astype(np.int8), np.arange(len(person)), person)

    return make


def test_a_method_is_tried_again_only_with_other_faces_or_settings(
    make_faces, tmp_path, monkeypatch
):
    grouping = importlib.import_module("grouping")
    tried = []

    def group_in_parts(vectors):
        """Groups the faces by their largest component, divided by the setting."""
        tried.append(len(vectors))
        return lambda axes: vectors.argmax(axis=1) // axes

    def find_best(collection, *axes):
        settings = [{"axes": value} for value in axes]
        monkeypatch.setitem(grouping.METHODS, "parts", (group_in_parts, settings))
        return grouping.KeptResults(tmp_path / "methods.json").find_best("parts", collection)

    faces = make_faces([8, 8, 8, 8, 3])
    assert find_best(faces, 4, 1, 2) == (1, 1)
    assert find_best(faces, 4, 1, 2) == (1, 1)
    assert tried == [35]
    assert find_best(faces, 4) < (1, 1)
    assert find_best(make_faces([8, 8, 8, 2]), 4, 1, 2) == (1, 1)
    assert tried == [35, 35, 26]


def test_the_table_of_methods_marks_the_best_in_each_measure():
    grouping = importlib.import_module("grouping")
    table = {
        "sharp": {"a": (0.9, 0.8), "b": (0.7, 0.85), "facecluster": (0.9, 0.9)},
        "poor": {"a": (0.9, 0.8), "b": (0.8, 0.85), "facecluster": (0.95, 0.75)},
    }
    table = {
        collection: {method: grouping.Scores(*pair) for method, pair in scores.items()}
        for collection, scores in table.items()
    }
    header, sharp, poor, last = grouping.format_table(table)
    assert header.split() == ["collection", "facecluster", "a", "b", "lead"]
    cells = ["0.9000*/0.9000*", "0.9000*/0.8000", "0.7000/0.8500", "+0.0000/+0.0500"]
    assert sharp.split() == ["sharp", *cells]
    cells = ["0.9500*/0.7500", "0.9000/0.8000", "0.8000/0.8500*", "+0.0500/-0.1000"]
    assert poor.split() == ["poor", *cells]
    assert "first in both measures on 1 of 2 collections" in last


def test_the_order_of_a_collection_does_not_depend_on_people(make_faces):
    faces = make_faces([30, 30, 30])
    order = np.random.default_rng(0).permutation(90)
    again = faces.take("again", order)
    for field in ("stored", "photos", "person"):
        np.testing.assert_array_equal(getattr(again, field), getattr(faces, field))
    assert set(faces.person[:15]) == {-1, 0, 1}


def test_one_person_of_two_collections_has_one_number(make_faces):
    """Axes 2 and 3 are people 2 and 3 of the first collection, and 0 and 1 of the second."""
    module = importlib.import_module("face_collections")
    first, second = make_faces([3, 3, 3, 3, 2]), make_faces([2, 2, 2, 5], first_axis=2)
    mixture = module.mix("mixture", first, second)
    assert mixture.sizes.tolist() == [3, 3, 5, 5, 2]
    assert (~mixture.scored).sum() == 7
    assert len(np.unique(mixture.photos)) == len(mixture.photos) == 25
    for person in range(5):  # one person's vectors have one largest component
        axes = mixture.stored[mixture.person == person].argmax(axis=1)
        assert len(np.unique(axes)) == 1
    assert mixture.score_clustering(np.arange(25))["bcubed_precision"] == 1


def test_parts_of_a_half_have_the_people_and_faces_that_they_are_named_after(make_faces):
    module = importlib.import_module("face_collections")
    parts = module.take_parts(make_faces([1] * 20 + [12] * 50 + [2, 15, 9]))
    found = {
        part.name.removeprefix("name "): sorted(part.sizes[part.sizes > 0].tolist())
        for part in parts
    }
    assert found == {
        "10 people": [12] * 9 + [15],
        "40 people x 10": [10] * 40,
        "200 people": [2] + [12] * 50 + [15],
        "one person": [15],
        "strangers": [1] * 72,
        "family": [1] * 62 + [12] * 9 + [15],
    }
    assert all(part.scored.all() for part in parts)


def test_half_of_the_people_are_degraded(make_faces):
    module = importlib.import_module("face_collections")
    original = make_faces([4, 4, 4, 4, 1])
    degraded = module.make_collection("", original.stored // 2, original.photos, original.person)
    mixed = module.mix_quality("mixed", original.take("", original.scored), degraded)
    assert mixed.sizes.tolist() == [4, 4, 4, 4]
    assert ((mixed.stored.max(axis=1) < 60) == (mixed.person % 2 == 0)).all()


def test_degraded_photos_differ_and_have_a_face_of_the_size_in_their_name():
    module = importlib.import_module("face_collections")
    pixels = np.random.default_rng(0).integers(0, 256, (250, 250, 3), np.uint8)
    photo = module.Image.fromarray(pixels)
    box = np.array([75, 65, 175, 193], np.float32)
    landmarks = np.array([[105, 110], [145, 110], [125, 135], [110, 160], [140, 160]], np.float32)
    degraded = {
        kind: degrade(photo, box, landmarks) for kind, degrade in module.DEGRADATIONS.items()
    }
    assert len({image.tobytes() for image in degraded.values()}) == 8
    for px in (32, 64):
        assert abs(degraded[f"{px}px"].width / 250 * module.face_size(box) - px) < 0.5
    masked = np.asarray(degraded["masked"])
    changed = (masked != pixels).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (122, 193, 75, 175)


def test_pictures_for_detection_show_what_they_are_named_after():
    detection = importlib.import_module("detection")
    pixels = np.full((250, 250, 3), 255, np.uint8)
    pixels[60:190, 75:175] = 0  # a face of 130 px that ends 15 px from either strip
    photo = detection.Image.fromarray(pixels)
    boxes = np.array([[75, 60, 175, 190]], np.float32)
    found = detection.Detections.of_upright(boxes, np.zeros((1, 5, 2)), np.ones(1, np.float32))
    random = np.random.default_rng(0)
    pictures = detection.make_backgrounds([photo] * 2, [found] * 2, 3, random)
    assert [picture.size for picture in pictures] == [(240, 250)] * 3
    assert all(np.asarray(picture).all() for picture in pictures)
    assert not np.asarray(detection.fill_with_face(photo, boxes[0], 0.6)).any()
    whole = np.asarray(detection.fill_with_face(photo, boxes[0], 1.0))
    assert np.mean(whole == 0) == pytest.approx(1, abs=0.02)
    drawn = [detection.draw_picture(random) for _ in range(20)]
    assert len({picture.tobytes() for picture in drawn}) == 20


def test_a_vector_is_compared_with_those_of_other_photos():
    detection = importlib.import_module("detection")
    vectors = np.array([[1, 0], [0, 1], [np.nan, np.nan], [0.8, 0.6]], np.float32)
    people = np.array(["a", "a", "a", "b"])
    assert not detection.is_nearest(0, vectors[0], vectors, people)
    assert detection.is_nearest(0, vectors[0], vectors, np.array(["a", "b", "a", "a"]))
    assert not detection.is_nearest(2, vectors[2], vectors, people)
