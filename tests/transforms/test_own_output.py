"""Files that mark a folder as facecluster's, and files of others that have the same names."""

import json

import pytest

from facecluster.transforms.own_output import MARKERS, marks_output

OF_FACECLUSTER = [
    ("manifest.json", {"manifest_version": 2, "versions": {}, "steps": {}}),
    ("manifest.json", {"versions": {"python": "3.12"}, "steps": {"embed": {"state": "running"}}}),
    ("manifest.json", {"steps": {"cluster": {}}}),
    ("crops.json", {"state": "running", "options": {}}),
    ("crops.json", {"options": {"form": "folder", "crop_size": 182, "crop_margin": 44}}),
    ("model_card.json", {"card_version": 1, "name": "a", "sha256": "b"}),
    ("training.json", {"loss": "softmax", "crops_sha256": "a"}),
]
OF_OTHERS = [
    ("manifest.json", {"manifest_version": 3, "name": "an extension of a browser"}),
    ("manifest.json", {"name": "an app", "icons": []}),
    ("manifest.json", {"steps": ["bake"], "versions": {}}),
    ("manifest.json", {"steps": {"bake": 1}}),
    ("crops.json", {"state": "harvested", "options": {"wheat": 1}}),
    ("crops.json", {"crops": ["wheat"]}),
    ("model_card.json", {"name": "a", "schema_version": "1"}),
    ("training.json", {"sessions": []}),
    ("notes.json", {"manifest_version": 2, "versions": {}, "steps": {}}),
]


@pytest.mark.parametrize(("name", "content"), OF_FACECLUSTER)
def test_files_of_facecluster_mark_their_folder(name, content):
    assert marks_output(name, json.dumps(content).encode())


@pytest.mark.parametrize(("name", "content"), OF_OTHERS)
def test_files_of_others_with_these_names_do_not(name, content):
    assert not marks_output(name, json.dumps(content).encode())


@pytest.mark.parametrize("name", sorted(MARKERS))
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_damaged_files_do_not(name, content):
    assert not marks_output(name, content)


def test_exported_models_are_marked(mtcnn_folder):
    with open(f"{mtcnn_folder}/model_card.json", "rb") as file:
        assert marks_output("model_card.json", file.read())
