"""Tests of the requests for crops of labeled photos."""

from dataclasses import replace

import numpy as np
import pytest

from facecluster.errors import UsageError
from facecluster.pipeline.cropping.requests import CropRequest, hash_requests, request_photo_crops
from facecluster.transforms.records import Face


def names(requests) -> dict[str, tuple[str, ...]]:
    return {request.uri: request.names for request in requests}


def test_photos_in_folders_of_people_keep_their_names():
    uris = [f"/lfw/{n}/{n}_{i:04}.jpg" for n in ("Ann_Lee", "Bo_Ek") for i in (1, 2)]
    expected = {uri: (uri.removeprefix("/lfw/").removesuffix(".jpg"),) for uri in uris}
    assert names(request_photo_crops(uris, "folder", "folder")) == expected


def test_photos_with_equal_names_are_numbered():
    uris = ["/b/Ann/1.jpg", "/a/Ann/1.jpg", "/a/Ann/1.png", "/a/Bob/1.jpg", "/a/Ann/1_1.jpg"]
    expected = {
        "/a/Ann/1.jpg": ("Ann/1",),
        "/a/Ann/1.png": ("Ann/1_2",),  # Ann/1_1 is taken
        "/a/Ann/1_1.jpg": ("Ann/1_1",),
        "/a/Bob/1.jpg": ("Bob/1",),
        "/b/Ann/1.jpg": ("Ann/1_3",),
    }
    for order in (uris, uris[::-1]):
        assert names(request_photo_crops(order, "folder", "folder")) == expected


def test_people_labels_need_a_run():
    with pytest.raises(UsageError, match="give --run"):
        request_photo_crops(["/x/1.jpg"], "people", "folder")


def face(left: float) -> Face:
    return Face(np.array([left, 0, 40, 40], np.float32), np.zeros((5, 2), np.float32), 0.9)


def test_requests_with_faces_can_be_compared():
    request = CropRequest("/a.jpg", ("Ann/a",), (face(0),), "id")
    assert request == CropRequest("/a.jpg", ("Ann/a",), (face(0),), "id")
    assert request != replace(request, faces=(face(1),))


def test_the_hash_depends_on_photos_names_and_boxes():
    request = CropRequest("/a.jpg", ("Ann/a",), (face(0),), "id")
    others = [
        replace(request, uri="/b.jpg"),
        replace(request, names=("Bob/a",)),
        replace(request, faces=(face(1),)),
        replace(request, photo_id="other"),
    ]
    hashes = {hash_requests([one]) for one in [request, *others]}
    assert len(hashes) == 5
    assert hash_requests([request]) == hash_requests([replace(request)])
