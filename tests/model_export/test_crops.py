"""Tests of collections of crops: every format, damaged files, selection and filtering."""

import gzip
import io
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facecluster.errors import InputError
from facecluster.model_export.crops import (
    Crops,
    Location,
    distances_to_centers,
    filter_by_center,
    list_crops,
    select_people,
)
from facecluster.model_export.training.augmentation import Augmentation
from facecluster.model_export.training.batches import evaluation_batches, training_batches


def encoded(seed: int, form: str) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((40, 40)).save(file, form)
    return file.getvalue()


COLLECTION = {
    "Ann Lee/a": encoded(1, "PNG"),
    "Ann Lee/b.c": encoded(2, "JPEG"),
    "Ann/a": encoded(3, "JPEG"),
    "Ann/z": encoded(4, "PNG"),
    "Zoë/1": encoded(5, "JPEG"),
}


def suffix(content: bytes) -> str:
    return ".png" if content.startswith(b"\x89PNG") else ".jpg"


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_folder(folder: Path, crops: dict[str, bytes]) -> Path:
    for name, content in crops.items():
        path = folder / f"{name}{suffix(content)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_tar(path: Path, crops: dict[str, bytes], person_in: str = "folder") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, (name, content) in enumerate(crops.items()):
            person, stem = name.split("/")
            folder = f"./{person}/" if person_in == "folder" else f"deep/{number}/"
            add(tar, f"{folder}{stem}{suffix(content)}", content)
            add(tar, f"{folder}{stem}.json", b"{}")
            if person_in != "folder":
                add(tar, f"{folder}{stem}{person_in}", f"{person}\n".encode())
    return path


def feature(*values: bytes | int) -> tf.train.Feature:
    if values and isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def write_examples(path: Path, examples: list[dict[str, tf.train.Feature]]) -> Path:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for features in examples:
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    return path


def write_tfrecord(path: Path, crops: dict[str, bytes]) -> Path:
    return write_examples(
        path,
        [
            {
                "image/encoded": feature(content),
                "image/class/text": feature(name.split("/")[0].encode()),
                "image/class/label": feature(7),
                "image/filename": feature(f"{name}{suffix(content)}".encode()),
            }
            for name, content in crops.items()
        ],
    )


def write_shards(folder: Path, crops: dict[str, bytes]) -> str:
    """Two tars; people with several crops are in both."""
    for shard in (0, 1):
        part = dict(list(crops.items())[shard::2])
        write_tar(folder / f"shards-{shard}.tar", part, ".cls" if shard else ".txt")
    (folder / "shards-index.json").write_text("{}")
    return f"{folder}/shards-*.tar"


def write_mixed(folder: Path, crops: dict[str, bytes]) -> list[str]:
    first, second, *rest = ({name: content} for name, content in crops.items())
    left = {name: content for part in rest for name, content in part.items()}
    return [
        str(write_tfrecord(folder / "train-00000-of-00001", left)),
        str(write_tar(folder / "more.TAR", second)),
        str(write_folder(folder / "folder", first)),
    ]


FORMS = {
    "folder": lambda at: [str(write_folder(at, COLLECTION))],
    "deep folder": lambda at: [str(write_folder(at / "train" / "2018", COLLECTION).parent) + "/"],
    "folders": lambda at: [str(write_folder(at, COLLECTION)) + "/*"],
    "images": lambda at: [str(write_folder(at, COLLECTION)) + "/*/*.*g"],
    "tar of folders": lambda at: [str(write_tar(at / "a.tar", COLLECTION))],
    "tar with .cls": lambda at: [str(write_tar(at / "a.tar", COLLECTION, ".cls"))],
    "tar with .txt": lambda at: [str(write_tar(at / "a.tar", COLLECTION, ".txt"))],
    "glob of tars": lambda at: [write_shards(at, COLLECTION)],
    "TFRecord": lambda at: [str(write_tfrecord(at / "a.tfrecord", COLLECTION))],
    "mixed": lambda at: write_mixed(at, COLLECTION),
    "twice": lambda at: [str(write_folder(at, COLLECTION)), f"{at}/Ann", f"{at}/*/a.*"],
}


def assert_is_the_collection(crops: Crops) -> None:
    assert crops.names == tuple(sorted(COLLECTION))
    assert crops.people == ("Ann", "Ann Lee", "Zoë")
    assert crops.labels.dtype == np.int32
    assert [crops.people[label] for label in crops.labels] == [
        name.split("/")[0] for name in crops.names
    ]
    assert [crops.read(i) for i in range(len(crops))] == [COLLECTION[name] for name in crops.names]


@pytest.mark.parametrize("form", FORMS)
def test_collection_is_the_same_in_every_format(tmp_path, form):
    assert_is_the_collection(list_crops(FORMS[form](tmp_path)))


def test_pixels_are_the_same_in_every_format(tmp_path):
    def pixels_of(form):
        crops = list_crops(FORMS[form](tmp_path / form))
        varied = Augmentation(flip=True, random_crop=True, rotation=10, color=0.5)
        batches = training_batches(crops, lambda _: np.arange(len(crops)), 32, varied, 0, 3)
        images, labels = next(batches.as_numpy_iterator())
        np.testing.assert_array_equal(labels, crops.labels)
        return np.concatenate([images, *evaluation_batches(crops, 32, 2)])

    expected = pixels_of("folder")
    for form in ("tar of folders", "tar with .cls", "glob of tars"):
        np.testing.assert_array_equal(pixels_of(form), expected)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations([0, 1, 2]))
def test_the_order_of_the_sources_does_not_matter(tmp_path_factory, order):
    sources = write_mixed(tmp_path_factory.mktemp("mixed"), COLLECTION)
    assert_is_the_collection(list_crops([sources[i] for i in order]))


def test_crops_of_equal_names_keep_their_locations(tmp_path):
    one, two = (write_tar(tmp_path / f"{i}.tar", {"Ann/a": encoded(i, "PNG")}) for i in (1, 2))
    for sources in ([one, two], [two, one]):
        crops = list_crops([str(source) for source in sources])
        assert crops.names == ("Ann/a", "Ann/a")
        assert [location.path for location in crops.locations] == [str(one), str(two)]


def test_cls_takes_precedence_over_txt_and_txt_over_the_folder(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "f/1.txt", b"text")
        add(tar, "f/2.cls", b" class ")
        for number in (1, 2, 3):
            add(tar, f"f/{number}.png", encoded(number, "PNG"))
        add(tar, "f/2.txt", b"a caption")
        add(tar, "f/._3.png", b"left by a file manager")
    assert list_crops([str(tmp_path / "a.tar")]).names == ("class/2", "f/3", "text/1")


def test_tar_with_links_and_long_names(tmp_path):
    person = "n" * 150
    write_folder(tmp_path / "in", {f"{person}/{'x' * 90}": encoded(1, "PNG")})
    folder = tmp_path / "in" / person
    (folder / "link.png").symlink_to("nowhere.png")
    subprocess.run(["tar", "cf", tmp_path / "a.tar", "-C", tmp_path / "in", "."], check=True)
    crops = list_crops([str(tmp_path / "a.tar")])
    assert crops.names == (f"{person}/{'x' * 90}",)
    assert crops.read(0) == encoded(1, "PNG")


def test_examples_without_text_and_filename(tmp_path):
    path = write_examples(
        tmp_path / "a",
        [
            {"image/encoded": feature(b"one"), "image/class/label": feature(12)},
            {
                "image/encoded": feature(b"two"),
                "image/class/label": feature(3),
                "image/class/text": feature(b""),
                "image/filename": feature(b"m.012_3"),
            },
        ],
    )
    crops = list_crops([str(path)])
    assert crops.names == ("12/00000000", "3/m.012_3")
    assert (crops.read(0), crops.read(1)) == (b"one", b"two")


@settings(max_examples=30, deadline=None)
@given(contents=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5))
def test_records_of_any_content(tmp_path_factory, contents):
    # The content is also the person's name, so that the same bytes occur twice.
    path = write_examples(
        tmp_path_factory.mktemp("records") / "a",
        [{"image/encoded": feature(c), "image/class/text": feature(b"x" + c)} for c in contents],
    )
    crops = list_crops([str(path)])
    numbers = [int(name[-8:]) for name in crops.names]
    assert sorted(numbers) == list(range(len(contents)))
    assert [crops.read(i) for i in range(len(crops))] == [contents[number] for number in numbers]


def test_many_threads_read_at_once(tmp_path):
    crops = list_crops([str(write_tar(tmp_path / "a.tar", COLLECTION))])
    indices = np.random.default_rng(0).integers(0, len(crops), 500).tolist()
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(crops.read, indices))
    assert read == [COLLECTION[crops.names[index]] for index in indices]


def test_crops_in_an_object_store(tmp_path, bucket):
    write_mixed(tmp_path, COLLECTION)
    files = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    objects = {f"bucket://b/{name}": path.read_bytes() for name, path in files.items()}
    bucket(objects)
    sources = ["train-*", "more.TAR", "folder"]
    assert_is_the_collection(list_crops([f"bucket://b/{name}" for name in sources]))


# --- sources that cannot be used


def test_sources_that_are_not_there_or_hold_nothing(tmp_path):
    for missing in ("nowhere", "nowhere.tar", "shards-*.tar"):
        with pytest.raises(InputError, match=r"does not exist.*Give folders"):
            list_crops([str(write_folder(tmp_path / "ok", COLLECTION)), str(tmp_path / missing)])
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "a.tar", COLLECTION)
    with pytest.raises(
        InputError, match=r"no photos in .*shards .*a glob such as .*shards/\*\.tar"
    ):
        list_crops([f"{tmp_path}/shards/"])
    with pytest.raises(InputError, match="no source of crops"):
        list_crops([])
    write_tar(tmp_path / "empty.tar", {})
    (tmp_path / "empty.tfrecord").touch()
    for name in ("empty.tar", "empty.tfrecord"):
        with pytest.raises(InputError, match=f"{name} contains no crop: leave it out"):
            list_crops([str(tmp_path / name)])


def test_crops_need_exactly_one_person(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "000.png", encoded(0, "PNG"))
    with pytest.raises(InputError, match=r"a\.tar: the person of 000 is unknown; .*into 000\.cls"):
        list_crops([str(tmp_path / "a.tar")])
    with tarfile.open(tmp_path / "two.tar", "w") as tar:
        add(tar, "000.png", encoded(0, "PNG"))
        add(tar, "000.cls", b"Ann")
        add(tar, "000.cls", b"Zoe")
    with pytest.raises(InputError, match=r"two\.tar: 000\.cls occurs twice, as 'Ann' and 'Zoe'"):
        list_crops([str(tmp_path / "two.tar")])
    write_examples(tmp_path / "b", [{"image/encoded": feature(b"x"), "image/id": feature(1)}])
    with pytest.raises(
        InputError, match="b: record 0 has image/encoded image/id, but a crop needs"
    ):
        list_crops([str(tmp_path / "b")])
    write_examples(tmp_path / "c", [{}])
    with pytest.raises(InputError, match="c: record 0 has no features, but"):
        list_crops([str(tmp_path / "c")])


def cut_or_listed(path: Path, content: bytes, length: int) -> int:
    """The number of crops listed in the first bytes of a file; 0 if it is refused as truncated."""
    path.write_bytes(content[:length])
    try:
        return len(list_crops([str(path)]))
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017
        assert "Copy or create it again" in str(error) or length == 0  # noqa: PT017
        return 0


@settings(max_examples=60, deadline=None)
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_truncated_tar_is_refused(tmp_path_factory, fraction):
    path = tmp_path_factory.mktemp("cut") / "a.tar"
    content = write_tar(path, COLLECTION).read_bytes()
    end_mark = len(content.rstrip(b"\0")) // 512 * 512 + 512
    for length in (int(fraction * end_mark), int(fraction * end_mark) // 512 * 512, end_mark):
        assert cut_or_listed(path, content, length) == 0
    assert cut_or_listed(path, content, end_mark + 512) == len(COLLECTION)


@settings(max_examples=60, deadline=None)
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_truncated_tfrecord_is_refused_unless_cut_between_records(tmp_path_factory, fraction):
    path = tmp_path_factory.mktemp("cut") / "a.tfrecord"
    content = write_tfrecord(path, COLLECTION).read_bytes()
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    ends = np.cumsum([16 + len(record) for record in records]).tolist()
    length = int(fraction * ends[-1])
    assert cut_or_listed(path, content, length) == (ends.index(length) + 1 if length in ends else 0)
    assert [cut_or_listed(path, content, end) for end in ends] == [1, 2, 3, 4, 5]


def test_damage_within_a_file(tmp_path):
    tar = bytearray(write_tar(tmp_path / "a.tar", COLLECTION).read_bytes())
    tar[tar.index(b"Ann/a")] ^= 1  # the header's checksum is wrong now
    (tmp_path / "a.tar").write_bytes(tar)
    with pytest.raises(
        InputError, match=r"a\.tar is not a tar file, or is damaged: it is truncated"
    ):
        list_crops([str(tmp_path / "a.tar")])
    records = bytearray(write_tfrecord(tmp_path / "b", COLLECTION).read_bytes())
    records[0] ^= 1
    (tmp_path / "b").write_bytes(records)
    with pytest.raises(
        InputError, match=r"b is not a TFRecord file, .* no record starts at byte 0"
    ):
        list_crops([str(tmp_path / "b")])
    with tf.io.TFRecordWriter(str(tmp_path / "c")) as writer:
        writer.write(b"\xffno example")
    with pytest.raises(InputError, match=r"c is not a TFRecord file of tf\.Example, .*record 0"):
        list_crops([str(tmp_path / "c")])


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar", "a.tfrecord.gz"])
def test_compressed_file_is_refused(tmp_path, name):
    write = write_tfrecord if "tfrecord" in name else write_tar
    content = write(tmp_path / "plain", COLLECTION).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=rf"{name} is compressed with gzip.*unpack it"):
        list_crops([str(tmp_path / name)])


def test_file_that_changed_since_listing_is_an_error(tmp_path):
    tar = write_tar(tmp_path / "a.tar", COLLECTION)
    crops = list_crops([str(tar)])
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(InputError, match=r"Ann/a of .*a\.tar .* has become shorter"):
        crops.read(crops.names.index("Ann/a"))
    tar.unlink()
    with pytest.raises(InputError, match=r"Zoë/1 of .*a\.tar cannot be read"):
        crops.read(4)


# --- selections


def crops_with(labels: list[int]) -> Crops:
    """Crops with these labels; names and locations contain the index of the crop."""
    persons, labels = np.unique(labels, return_inverse=True)
    return Crops(
        labels.astype(np.int32),
        tuple(f"p{person:03d}" for person in persons),
        tuple(f"p{persons[label]:03d}/{i}" for i, label in enumerate(labels)),
        tuple(Location("file", i, 1) for i in range(len(labels))),
    )


def assert_selected(selected: Crops, crops: Crops, kept: list[int]) -> None:
    person_of = [crops.people[crops.labels[i]] for i in kept]
    assert selected.names == tuple(crops.names[i] for i in kept)
    assert selected.locations == tuple(crops.locations[i] for i in kept)
    assert selected.people == tuple(sorted(set(person_of)))
    assert [selected.people[label] for label in selected.labels] == person_of
    assert selected.labels.dtype == np.int32


labels_and_mask = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1)


@settings(deadline=None)
@given(labels_and_mask)
def test_selection_renumbers_its_people(rows):
    crops = crops_with([label for label, _ in rows])
    selected = crops.select([wanted for _, wanted in rows])
    assert_selected(selected, crops, [i for i, (_, wanted) in enumerate(rows) if wanted])


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1), st.integers(1, 5))
def test_select_people_drops_people_with_few_images(labels, min_images):
    crops = crops_with(labels)
    kept = [i for i, label in enumerate(labels) if labels.count(label) >= min_images]
    if kept:
        assert_selected(select_people(crops, min_images), crops, kept)
    else:
        with pytest.raises(InputError, match=f"no person has {min_images} images"):
            select_people(crops, min_images)


def test_arguments_of_wrong_size_are_refused():
    crops = crops_with([0, 0, 1])
    with pytest.raises(ValueError, match=r"a mask of shape \(2,\) for 3 crops"):
        crops.select([True, False])
    with pytest.raises(ValueError, match="2 embeddings for 3 crops"):
        filter_by_center(crops, np.eye(2), 50, 1)
    with pytest.raises(InputError, match="no person has 1 images"):
        select_people(crops.select([False] * 3), 1)
    with pytest.raises(ValueError, match="read-only"):
        crops.labels[0] = 1


def test_filtering_of_a_worked_example():
    # Person 0 has its center at (0.5, 0.5), 0.7071 from both faces. Person 1 has four faces at
    # (1, 0) and one at (-1, 0), and its center at (0.6, 0): 0.4 from the four, 1.6 from the last.
    crops = crops_with([0, 1, 1, 0, 1, 1, 1])
    faces = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [1, 0], [1, 0], [-1, 0]], np.float32)
    distances = [0.5**0.5, 0.4, 0.4, 0.5**0.5, 0.4, 0.4, 1.6]
    np.testing.assert_allclose(distances_to_centers(faces, crops.labels), distances, atol=1e-7)
    assert_selected(filter_by_center(crops, faces, 100, 1), crops, [0, 1, 2, 3, 4, 5, 6])
    assert_selected(filter_by_center(crops, faces, 90, 1), crops, [0, 1, 2, 3, 4, 5])
    assert_selected(filter_by_center(crops, faces, 90, 3), crops, [1, 2, 4, 5])
    assert_selected(filter_by_center(crops, faces, 50, 1), crops, [1, 2, 4, 5])
    with pytest.raises(InputError, match="no person has 5 images"):
        filter_by_center(crops, faces, 90, 5)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=40),
    st.integers(0, 100),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
def test_filtering_matches_a_plain_loop(labels, percentile, min_images, seed):
    crops = crops_with(labels)
    faces = np.random.default_rng(seed).normal(size=(len(labels), 4)).astype(np.float32)
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    distances = []
    for face, label in zip(faces, labels, strict=True):
        own = [other for other, its in zip(faces, labels, strict=True) if its == label]
        center = [sum(map(float, column)) / len(own) for column in zip(*own, strict=True)]
        distances.append(sum((float(a) - b) ** 2 for a, b in zip(face, center, strict=True)) ** 0.5)
    ours = distances_to_centers(faces, crops.labels)
    np.testing.assert_allclose(ours, distances, atol=1e-6)
    # The percentile, interpolated linearly between two ranks.
    ranked = sorted(ours)
    rank = percentile / 100 * (len(ranked) - 1)
    low, high = ranked[int(rank)], ranked[min(int(rank) + 1, len(ranked) - 1)]
    threshold = low + (high - low) * (rank - int(rank))
    near = [i for i, distance in enumerate(ours) if distance <= threshold + 1e-12]
    kept = [i for i in near if sum(labels[j] == labels[i] for j in near) >= min_images]
    if kept:
        assert_selected(filter_by_center(crops, faces, percentile, min_images), crops, kept)
    else:
        with pytest.raises(InputError, match="no person has"):
            filter_by_center(crops, faces, percentile, min_images)


def test_listing_a_folder_does_not_load_tensorflow(tmp_path):
    program = (
        "import sys; from facecluster.model_export.crops import list_crops; "
        "assert len(list_crops(sys.argv[1:])) == 5; "
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    folder = write_folder(tmp_path, COLLECTION)
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True)
