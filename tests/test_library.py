"""facecluster as a library: what `import facecluster` gives, without the command line."""

import subprocess
import sys

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image

import facecluster
from facecluster import ClusterOptions, InputError, JobError, Run, UsageError


@pytest.fixture(scope="module")
def photos(copy_people, tmp_path_factory):
    """15 photos of 3 people, in a folder each, the first photo twice."""
    folder = tmp_path_factory.mktemp("photos")
    copy_people(folder, 3, 5)
    first = min(folder.rglob("*.jpg"))
    (first.parent / "copy.jpg").write_bytes(first.read_bytes())
    return folder


@pytest.fixture(scope="module")
def path(photos, tmp_path_factory, mtcnn_folder, facenet_folder):
    """The folder of a run on `photos`."""
    output = tmp_path_factory.mktemp("library") / "run"
    run = facecluster.run(photos, output)
    assert isinstance(run, Run)
    return output


@pytest.fixture
def run(path):
    return Run(path)


def test_importing_it_loads_neither_beam_nor_tensorflow():
    code = (
        "import sys, facecluster; facecluster.__version__; dir(facecluster); "
        "print(sorted({'apache_beam', 'tensorflow', 'keras', 'faiss'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_can_be_imported_and_is_documented():
    assert len(facecluster.__all__) > 20
    for name in facecluster.__all__:
        assert getattr(facecluster, name).__doc__, f"{name} has no docstring"


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = facecluster.no_such_name


def test_tables_of_a_run(run, photos):
    assert len(run.photos) == 16
    assert pc.count_distinct(run.photos["photo_id"]).as_py() == 15
    assert len(run.failures) == 0
    assert run.people["size"].to_pylist() == sorted(run.people["size"].to_pylist(), reverse=True)
    assert run.assignments["face_id"].to_pylist() == run.faces["face_id"].to_pylist()
    assert len(run.near_duplicates) == 0
    assert "embedding" not in run.faces.column_names
    assert "thumbnail" not in run.faces.column_names


def test_faces_of_a_photo_with_two_names_have_one_row(run, path):
    stored = pq.read_table(path / "faces", columns=["face_id"])["face_id"]
    assert len(stored) > pc.count_distinct(stored).as_py()
    assert run.faces["face_id"].to_pylist() == sorted(set(stored.to_pylist()))


def test_embeddings_are_unit_vectors_in_the_order_of_the_faces(run, path):
    vectors = run.embeddings()
    assert vectors.shape == (len(run.faces), 128)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    stored = pq.read_table(path / "faces", columns=["face_id", "embedding"]).to_pylist()
    for row in stored:
        index = run.faces["face_id"].to_pylist().index(row["face_id"])
        expected = np.array(row["embedding"], np.float32)
        np.testing.assert_allclose(vectors[index], expected / np.linalg.norm(expected), atol=1e-6)


def test_faces_of_a_person(run):
    person = run.people.slice(0, 1).to_pylist()[0]
    faces = run.faces_of(person["person_id"])
    assert len(faces) == person["size"]
    assert person["representative_face_id"] in faces["face_id"].to_pylist()
    assert set(faces["person_id"].to_pylist()) == {person["person_id"]}
    probabilities = faces["probability"].to_pylist()
    assert probabilities == sorted(probabilities, reverse=True)
    by_id = {row["face_id"]: row for row in run.faces.to_pylist()}
    for row in faces.to_pylist():
        assert row["box"] == by_id[row["face_id"]]["box"]


def test_the_people_are_the_labeled_ones(run):
    folder_of = {row["photo_id"]: row["uri"].split("/")[-2] for row in run.photos.to_pylist()}
    for person_id in run.people["person_id"].to_pylist():
        folders = {folder_of[photo] for photo in run.faces_of(person_id)["photo_id"].to_pylist()}
        assert len(folders) == 1


def test_a_thumbnail_is_the_stored_picture(run, path):
    stored = pq.read_table(path / "faces", columns=["face_id", "thumbnail"]).to_pylist()
    for row in [*stored[:3], stored[-1]]:
        picture = run.thumbnail(row["face_id"])
        assert isinstance(picture, Image.Image)
        assert picture.size == (96, 96)
        assert row["thumbnail"].startswith(b"\xff\xd8")


def test_unknown_faces_people_and_folders_are_named(run, tmp_path):
    with pytest.raises(UsageError, match="no face 'nobody'"):
        run.thumbnail("nobody")
    with pytest.raises(UsageError, match="no person 'nobody'"):
        run.faces_of("nobody")
    with pytest.raises(UsageError, match="is not a run"):
        Run(tmp_path)


def test_grouping_again_with_other_options_keeps_what_was_embedded(path):
    before = Run(path)
    faces, people = before.faces, before.people
    again = facecluster.cluster(path, ClusterOptions(min_cluster_size=99))
    assert len(again.people) < len(people)
    assert again.faces.equals(faces)
    assert facecluster.cluster(path).people.equals(people)


def test_embedding_alone_makes_no_people(photos, tmp_path):
    run = facecluster.embed([next(photos.iterdir())], tmp_path / "run")
    assert len(run.faces) > 0
    with pytest.raises(JobError, match="run `facecluster cluster` first"):
        _ = run.people


def test_progress_is_reported_where_it_is_wanted(photos, tmp_path, capfd):
    class Recorder(facecluster.pipeline.api.NoProgress):
        said = []  # noqa: RUF012

        def say(self, text):
            self.said.append(text)

    facecluster.run(next(photos.glob("*/")), tmp_path / "run", progress=Recorder())
    assert any("grouping" in text for text in Recorder.said)
    assert "photos/s" not in capfd.readouterr().err


def test_wrong_use_is_told_by_kind(photos, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        facecluster.embed(tmp_path / "missing", tmp_path / "run")
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    with pytest.raises(JobError, match="none of the 1 photos could be read"):
        facecluster.run(tmp_path / "broken.jpg", tmp_path / "run")
    with pytest.raises(JobError, match="max-failures"):
        facecluster.run(tmp_path / "broken.jpg", tmp_path / "other", max_failures="5%")
    with pytest.raises(UsageError, match="neither a number"):
        facecluster.run(photos, tmp_path / "third", max_failures="some")
    with pytest.raises(UsageError, match="give one of them"):
        facecluster.crops(tmp_path / "crops")


def test_scores_against_folders(path):
    scores = facecluster.evaluate_people(path, "folder")
    assert scores["pairwise_precision"] == 1


def test_crops_of_a_run(path, tmp_path):
    made = facecluster.crops(tmp_path / "crops", of_run=path)
    assert made.counts["crops"] == len(list((tmp_path / "crops").rglob("*.png"))) > 0


def test_a_model_finds_and_embeds_the_faces_of_one_photo(run, photos, mtcnn_folder, facenet_folder):
    model = facecluster.load_model()
    row = run.faces.slice(0, 1).to_pylist()[0]
    uri = run.photos.filter(pc.equal(run.photos["photo_id"], row["photo_id"]))["uri"][0].as_py()
    found = model.detect(uri)
    theirs = run.faces.filter(pc.equal(run.faces["photo_id"], row["photo_id"]))
    np.testing.assert_allclose(found.boxes, theirs["box"].to_pylist(), atol=0.01)
    np.testing.assert_allclose(
        found.landmarks.reshape(-1, 10), theirs["landmarks"].to_pylist(), atol=0.01
    )
    vectors = model.embed(uri)
    assert vectors.shape == (len(theirs), 512)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    with open(uri, "rb") as file:
        content = file.read()
    image = Image.open(uri)
    for form in (content, image, np.asarray(image.convert("RGB"))):
        np.testing.assert_allclose(model.embed(form), vectors, atol=1e-5)
    np.testing.assert_allclose(model.embed(uri, found), vectors, atol=1e-5)


def test_a_photo_without_faces_gives_no_vectors():
    model = facecluster.load_model()
    gray = np.full((80, 120, 3), 128, np.uint8)
    assert len(model.detect(gray).boxes) == 0
    assert model.embed(gray).shape == (0, 512)


def test_photos_that_cannot_be_read_are_named(tmp_path):
    model = facecluster.load_model()
    with pytest.raises(InputError, match="cannot be read"):
        model.detect(tmp_path / "missing.jpg")
    with pytest.raises(InputError, match="cannot be read"):
        model.embed(b"no photo")
    with pytest.raises(UsageError, match=r"\(80, 120\)"):
        model.detect(np.zeros((80, 120), np.uint8))


def test_tables_are_read_once(run):
    assert run.people is run.people
    assert isinstance(run.people, pa.Table)


def test_a_beam_pipeline_of_ones_own_with_two_of_the_transforms(photos):
    def size_of(photo):
        return (photo.uri, photo.width, photo.height)

    with beam.Pipeline("FnApiRunner") as pipeline:
        sizes = (
            pipeline
            | beam.Create(facecluster.read_tasks(photos, photos_per_shard=5))
            | facecluster.ReadPhotos()
            | facecluster.DecodePhotos()
            | beam.Map(size_of)
        )
        uris = [str(path) for path in photos.rglob("*.jpg")]
        assert_that(sizes, equal_to([(uri, 250, 250) for uri in uris]))
    counters = {
        counter.key.metric.name: counter.result
        for counter in pipeline.result.metrics().query()["counters"]
        if counter.key.metric.namespace == "facecluster"
    }
    assert counters["photos_read"] == counters["photos_decoded"] == len(uris) == 16


def test_people_keep_their_ids_when_photos_change(copy_people, lfw_images, tmp_path):
    photos, output = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    copy_people(photos, 3, 5)
    edited, deleted, *_ = sorted(min(photos.iterdir()).iterdir())
    run = facecluster.run(photos, output)
    by_face = dict(
        zip(*(run.assignments[n].to_pylist() for n in ("face_id", "person_id")), strict=True)
    )

    other = next(p for p in sorted(lfw_images.glob("*/*_0001.jpg")) if p.parent.name > "M")
    edited.write_bytes(other.read_bytes())
    deleted.unlink()
    max(photos.iterdir()).rename(photos / "renamed")
    crops = facecluster.crops(tmp_path / "crops", of_run=output)
    assert crops.counts["failures"] == 7
    messages = pq.read_table(tmp_path / "crops" / "failures")["message"].to_pylist()
    assert sum("bring the run up to date with `facecluster run`" in text for text in messages) == 1

    run = facecluster.embed(photos, output, forget_removed=True)
    counts = run.manifest.embed.counts
    assert (counts.changed, counts.moved, counts.forgotten) == (1, 5, 1)
    gone = set(by_face) - set(run.faces["face_id"].to_pylist())
    assert len(gone) >= 2
    person = next(by_face[face] for face in gone if by_face[face])
    with pytest.raises(UsageError, match="group again with `facecluster cluster`"):
        run.faces_of(person)
    with pytest.raises(UsageError, match="group again with `facecluster cluster`"):
        run.thumbnail(min(gone))
    with pytest.raises(InputError, match="run `facecluster cluster` again"):
        facecluster.crops(tmp_path / "other", of_run=output)

    run = facecluster.cluster(output)
    after = dict(
        zip(*(run.assignments[n].to_pylist() for n in ("face_id", "person_id")), strict=True)
    )
    for face in after.keys() & by_face.keys():
        assert after[face] == by_face[face]
    assert len(run.faces_of(person)) < list(by_face.values()).count(person)
    assert facecluster.crops(tmp_path / "other", of_run=output).counts["failures"] == 0
