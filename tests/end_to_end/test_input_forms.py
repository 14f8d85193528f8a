"""One collection in every input format gives the same photos and, bit for bit, the same faces."""

import gzip
import shutil
import tarfile
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facecluster.transforms.inputs.sources import SEPARATOR
from facecluster.transforms.inputs.tfrecord import make_record
from tests.end_to_end.command import facecluster


@pytest.fixture(scope="module")
def collection(group_photos, copy_people, tmp_path_factory) -> dict[str, bytes]:
    """{name: content} of 10 photos, some with several people, and of a damaged one."""
    folder = tmp_path_factory.mktemp("collection")
    copy_people(folder, 2, 3)
    (folder / "groups").mkdir()
    for name in ("obama_and_biden.jpg", "multiface.jpg", "alex_3.png", "two_people.jpg"):
        shutil.copy(group_photos / name, folder / "groups")
    damaged = (group_photos / "rose_1.jpg").read_bytes()[:200]
    (folder / "groups" / "damaged.jpg").write_bytes(damaged)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write_forms(collection: dict[str, bytes], folder: Path) -> list[Path]:
    """Writes the collection in every format. Returns the inputs."""
    files = folder / "files"
    for name, content in collection.items():
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_bytes(content)
    for name, mode in (("plain.tar", "w"), ("packed.tgz", "w:gz")):
        with tarfile.open(folder / name, mode) as tar:
            tar.add(files, "")
    records = b"".join(
        make_record({"image/encoded": content, "image/filename": name.encode()})
        for name, content in collection.items()
    )
    (folder / "train-00000-of-00001").write_bytes(records)
    (folder / "packed.tfrecord.gz").write_bytes(gzip.compress(records))
    images = [{"bytes": content, "path": name} for name, content in collection.items()]
    pq.write_table(pa.table({"image": images}), folder / "structs.parquet", row_group_size=4)
    pq.write_table(pa.table({"jpg": list(collection.values())}), folder / "bytes.parquet")
    listed = folder / "listed"
    shutil.copytree(files, listed)
    (folder / "list.txt").write_text("".join(f"listed/{name}\n" for name in collection))
    containers = ("plain.tar", "packed.tgz", "train-00000-of-00001", "packed.tfrecord.gz",
                  "structs.parquet", "bytes.parquet")  # fmt: skip
    return [files, *(folder / name for name in containers), folder / "list.txt"]


def test_every_form_gives_the_same_faces(collection, tmp_path):
    forms = write_forms(collection, tmp_path)
    run = tmp_path / "run"
    done = facecluster("embed", "--input", *forms, "--output", run, "--photos-per-shard", "16")
    assert done.returncode == 0, done.stderr

    photos, failures = (pq.read_table(run / table).to_pylist() for table in ("photos", "failures"))
    of_form = defaultdict(list)
    for row in photos:
        uri = row.pop("uri")
        container, separator, _ = uri.partition(SEPARATOR)
        form = container if separator else str(Path(uri).relative_to(tmp_path).parts[0])
        of_form[form].append(row)
    expected = sorted(of_form["files"], key=lambda row: row["photo_id"])
    assert len(of_form) == len(forms)
    assert len(expected) == len(collection) - 1
    for form, rows in of_form.items():
        assert sorted(rows, key=lambda row: row["photo_id"]) == expected, form
    assert len(failures) == len(forms)
    assert len({(row["step"], row["error"], row["message"]) for row in failures}) == 1

    faces = defaultdict(list)
    for row in pq.read_table(run / "faces").to_pylist():
        faces[row["face_id"]].append(row)
    assert len(faces) == sum(row["n_faces"] for row in expected) >= 12
    for face_id, rows in faces.items():
        assert rows == [rows[0]] * len(forms), face_id
