"""Tests of the record of crops.json."""

import json

import pytest

from facecluster.errors import InputError
from facecluster.pipeline.cropping.manifest import (
    CropsManifest,
    read_crops_manifest,
    write_crops_manifest,
)


@pytest.mark.parametrize(
    "manifest",
    [
        CropsManifest("running", {"crop_size": 182}),
        CropsManifest("done", {"crop_size": 182}, {"photos": 3, "crops": 2}, 1.5),
    ],
)
def test_manifest_is_read_as_written(tmp_path, manifest):
    assert read_crops_manifest(str(tmp_path)) is None
    write_crops_manifest(str(tmp_path), manifest)
    assert read_crops_manifest(str(tmp_path)) == manifest


def test_running_manifest_has_no_counts(tmp_path):
    write_crops_manifest(str(tmp_path), CropsManifest("running", {"crop_size": 182}))
    content = json.loads((tmp_path / "crops.json").read_text())
    assert content == {"state": "running", "options": {"crop_size": 182}}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"options": 1}', '"text"'])
def test_damaged_manifest_is_refused(tmp_path, content):
    (tmp_path / "crops.json").write_text(content)
    with pytest.raises(InputError, match=r"crops\.json is damaged"):
        read_crops_manifest(str(tmp_path))
