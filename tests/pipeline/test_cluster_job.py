import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.pipeline.cluster_job import ClusterError, cluster_faces, cluster_run
from facecluster.pipeline.options import ClusterOptions
from facecluster.pipeline.run_directory import RunDirectory
from facecluster.transforms import schema
from facecluster.transforms.codec import Codec
from facecluster.transforms.neighbors import nearest_neighbors
from facecluster.transforms.photo import Face, Failure, Photo, Shard
from facecluster.transforms.tables import TableError
from facecluster.transforms.write_shards import ShardWriter

DIMENSIONS = 16
WRITER = ShardWriter("", Codec("float32"), DIMENSIONS, "model a", "space a")


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def face_of(person, seed, noise=0.4):
    """A unit vector near the person's axis; strangers have axes that nobody shares."""
    spread = np.random.default_rng(seed).normal(size=DIMENSIONS) * noise / np.sqrt(DIMENSIONS)
    return unit(np.eye(DIMENSIONS)[person] + spread)


def photo(uri, people, content=None):
    """A photo of faces of the people (numbers of axes); photos of equal content are copies."""
    name = (content or uri).encode().hex().ljust(64, "0")
    faces = tuple(
        Face(np.zeros(4), np.zeros((5, 2)), 0.9, thumbnail=b"",
             embedding=face_of(person, [index, *name.encode()]))
        for index, person in enumerate(people)
    )  # fmt: skip
    return Photo(uri, Shard("", 0), photo_id=name, width=10, height=10, faces=faces)


def write_run(root, photos, n_shards=2, writer=WRITER) -> RunDirectory:
    for number in range(n_shards):
        replace(writer, root=str(root)).write(f"shard{number}", photos[number::n_shards])
    return RunDirectory(str(root))


def cluster(run, **options):
    return cluster_run(run, ClusterOptions(**options), lambda words: None)


def people_of(run):
    """{face_id: person_id} and {person_id: its row}."""
    assignments = run.read("assignments").to_pylist()
    people = run.read("people").to_pylist()
    return (
        {row["face_id"]: row["person_id"] for row in assignments},
        {row["person_id"]: row for row in people},
    )


# People 0 and 1 twice or more, person 2 and strangers 8 and 9 once.
ALBUM = [
    photo("a/1.jpg", [0, 1]),
    photo("a/2.jpg", [0]),
    photo("a/3.jpg", [0, 8]),
    photo("a/4.jpg", [1]),
    photo("a/5.jpg", [9]),
    photo("a/6.jpg", []),
    Photo("a/7.jpg", Shard("", 0), failure=Failure("decode", "OSError", "broken")),
]


def test_faces_become_people(tmp_path):
    run = write_run(tmp_path, ALBUM)
    entry = cluster(run)
    assert entry["state"] == "done"
    assert entry["counts"] == {"faces": 7, "people": 2, "unassigned": 2, "largest_person": 3}
    assigned, people = people_of(run)
    groups = {}
    for p in ALBUM:
        for index, person in enumerate(p.faces):
            name = assigned[schema.face_id(p.photo_id, index)]
            groups.setdefault(int(np.argmax(person.embedding)), set()).add(name)
    assert [len(groups[person]) for person in (0, 1, 8, 9)] == [1, 1, 1, 1]
    assert groups[8] == groups[9] == {None}
    assert groups[0] != groups[1]
    assert [row["size"] for row in people.values()] == [3, 2]
    assert [row["n_photos"] for row in people.values()] == [3, 2]


def test_the_manifest_records_it_beside_the_other_steps(tmp_path):
    run = write_run(tmp_path, ALBUM)
    run.update_manifest("embed", {"state": "done", "counts": {"photos": 6}})
    entry = cluster(run, min_samples=2, max_distance=0.7)
    steps = run.manifest()["steps"]
    assert steps["embed"]["counts"] == {"photos": 6}
    assert steps["cluster"].items() >= entry.items()
    assert steps["cluster"]["options"]["max_distance"] == 0.7
    assert steps["cluster"]["options"]["min_samples"] == 2


def test_progress_is_told(tmp_path):
    said = []
    cluster_run(write_run(tmp_path, ALBUM), ClusterOptions(), said.append)
    assert len(said) == 3
    assert "7 faces" in said[1]


def test_copies_of_a_photo_count_once(tmp_path):
    # The copies lie in one shard and in another.
    copies = [photo(f"copy {i}.jpg", [0, 3], content="a/2.jpg") for i in range(3)]
    alone = write_run(tmp_path / "alone", [copies[0], *ALBUM])
    thrice = write_run(tmp_path / "thrice", [*copies, *ALBUM], n_shards=2)
    assert cluster(alone)["counts"] == cluster(thrice)["counts"]
    assert people_of(alone) == people_of(thrice)
    rows = thrice.read("assignments")
    assert len(rows) == len(set(rows["face_id"].to_pylist()))


@settings(deadline=None, max_examples=15)
@given(st.randoms(use_true_random=False), st.integers(1, 5))
def test_neither_shards_nor_the_order_of_rows_change_the_tables(tmp_path_factory, random, n):
    photos = [photo(f"{i}.jpg", [i % 4, 4 + i % 3]) for i in range(20)]
    tables = []
    for shuffled, n_shards in ((photos, 1), (random.sample(photos, 20), n)):
        run = write_run(tmp_path_factory.mktemp("run"), shuffled, n_shards)
        cluster(run)
        tables.append((run.read("people"), run.read("assignments")))
    assert tables[0] == tables[1]
    assert len(tables[0][0]) == 7


def test_grouping_again_keeps_the_ids(tmp_path):
    photos = [photo(f"{i}.jpg", [i % 3]) for i in range(12)]
    run = write_run(tmp_path, photos[:6], n_shards=1)
    cluster(run)
    before, _ = people_of(run)
    # Photos whose names sort before and after those there are, of the same people and a new one.
    more = [photo(f"{name}{person}.jpg", [person]) for name in "!~" for person in range(4)]
    replace(WRITER, root=run.root).write("more", [*photos[6:], *more])
    cluster(run)
    after, people = people_of(run)
    assert {face: after[face] for face in before} == before
    assert len(people) == 4
    assert len(set(before.values())) == 3


def test_options_may_change_between_groupings(tmp_path):
    run = write_run(tmp_path, ALBUM)
    cluster(run)
    before = people_of(run)
    assert cluster(run, max_distance=0.05, attach_distance=0, pair_distance=0)["counts"] == {
        "faces": 7, "people": 0, "unassigned": 7, "largest_person": 0,
    }  # fmt: skip
    assert people_of(run)[1] == {}
    cluster(run)
    assert people_of(run) == before


def test_a_run_without_faces_says_what_to_do(tmp_path):
    with pytest.raises(ClusterError, match=r"nothing here.* holds no faces.*facecluster embed"):
        cluster(RunDirectory(str(tmp_path / "nothing here")))


def test_a_shard_that_is_not_complete_is_not_there(tmp_path):
    run = write_run(tmp_path, ALBUM)
    (tmp_path / "photos" / "shard0.parquet").unlink()
    n_faces = sum(len(p.faces) for p in ALBUM[1::2])
    assert cluster(run)["counts"]["faces"] == n_faces
    (tmp_path / "photos" / "shard1.parquet").unlink()
    with pytest.raises(ClusterError):
        cluster(run)


@pytest.mark.parametrize("photos", [[], ALBUM[5:], ALBUM[4:5]])
def test_photos_of_no_or_one_face_are_no_error(tmp_path, photos):
    run = write_run(tmp_path, photos)
    n_faces = sum(len(p.faces) for p in photos)
    assert cluster(run)["counts"] == {
        "faces": n_faces, "people": 0, "unassigned": n_faces, "largest_person": 0,
    }  # fmt: skip
    assert len(run.read("assignments")) == n_faces


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            replace(WRITER, model_sha256="model b", embedding_space="space b"),
            "made with embedding_space 'space b' but .*'space a'",
        ),
        (replace(WRITER, codec=Codec("float16")), "made with codec 'float16' but .*'float32'"),
    ],
)
def test_two_models_or_codecs_are_refused(tmp_path, other, message):
    run = write_run(tmp_path, ALBUM)
    replace(other, root=run.root).write("shard9", ALBUM[:2])
    with pytest.raises(TableError, match=message):
        cluster(run)
    assert not run.exists("people")


def test_faces_of_models_that_share_a_space_are_grouped_together(tmp_path):
    run = write_run(tmp_path, ALBUM[:3])
    alone = cluster(run)["counts"]
    replace(WRITER, root=run.root, model_sha256="model b").write("shard9", ALBUM[3:])
    together = cluster(run)["counts"]
    assert together["faces"] > alone["faces"]
    assert together == cluster(write_run(tmp_path / "one model", ALBUM))["counts"]


def test_a_damaged_shard_is_named(tmp_path):
    run = write_run(tmp_path, ALBUM)
    (tmp_path / "faces" / "shard1.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(TableError, match=r"shard1\.parquet cannot be read"):
        cluster(run)


def test_tables_are_plain_parquet_files(tmp_path):
    run = write_run(tmp_path, ALBUM)
    cluster(run)
    assert pq.read_table(tmp_path / "people" / "people.parquet").num_rows == 2
    assert json.loads((tmp_path / "manifest.json").read_text())["steps"]["cluster"]
    leftovers = [path for path in Path(run.root).rglob("*") if path.name.endswith(".tmp")]
    assert leftovers == []


# ---- the steps together ----


def at_angles(distances, plane):
    """Unit vectors of a plane, each at a distance from the plane's first axis, left or right."""
    angles = 2 * np.arcsin(np.array(distances) / 2)
    vectors = np.zeros((len(angles), 6))
    vectors[:, 2 * plane], vectors[:, 2 * plane + 1] = np.cos(angles), np.sin(angles)
    return vectors.astype(np.float32)


def labels_of(vectors, **options):
    neighbors = nearest_neighbors(vectors, len(vectors))
    return cluster_faces(neighbors, ClusterOptions(**options)).labels.tolist()


def test_noise_is_attached_and_paired():
    # 1 is 0.6 from 0, 2 is 0.75 from 0 on the other side; 3 and 4 are 0.8 apart and far from all.
    vectors = np.concatenate([at_angles([0, 0.6, -0.75], 0), at_angles([0, 0.8], 1)])
    options = {"max_distance": 0.7, "attach_distance": 0.76, "pair_distance": 0.81}
    assert labels_of(vectors, **options) == [0, 0, 0, 1, 1]
    assert labels_of(vectors, **options | {"attach_distance": 0.74}) == [0, 0, -1, 1, 1]
    assert labels_of(vectors, **options | {"pair_distance": 0.79}) == [0, 0, 0, -1, -1]
    # Where two are not yet a person, noise makes no pairs either.
    assert labels_of(vectors, min_cluster_size=3, **options) == [-1] * 5


def test_a_face_needs_as_many_neighbours_as_min_samples_says():
    # Three within 0.3 of each other, and two.
    vectors = np.concatenate([at_angles([0, 0.1, 0.3], 0), at_angles([0, 0.1], 1)])
    options = {"max_distance": 0.7, "attach_distance": 0, "pair_distance": 0}
    assert labels_of(vectors, min_samples=1, **options) == [0, 0, 0, 1, 1]
    assert labels_of(vectors, min_samples=2, **options) == [0, 0, 0, -1, -1]
    assert labels_of(vectors, min_samples=3, **options) == [-1] * 5


def test_a_burst_of_photos_is_not_a_person_of_its_own_within_min_distance():
    # Two bursts of one person, 0.4 apart.
    vectors = at_angles([0, 0.01, 0.02, 0.4, 0.41, 0.42], 0)
    assert labels_of(vectors, min_distance=0.45) == [0] * 6
    assert sorted(set(labels_of(vectors, min_distance=0.01))) == [0, 1]
