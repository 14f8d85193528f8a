"""Tests of the evaluation of a run against labels and on pairs of photos."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from facecluster.errors import InputError
from facecluster.model_export.validation.pairs import ImagePairs, read_pairs
from facecluster.model_export.validation.verification import verify
from facecluster.pipeline.cli.score_table import DESCRIPTIONS, format_scores
from facecluster.pipeline.evaluation.clustering_metrics import clustering_scores
from facecluster.pipeline.jobs.evaluate import (
    evaluate_clustering,
    evaluate_verification,
    find_pair_images,
)
from tests.pipeline.evaluation.synthetic_run import BACKGROUND, CENTRAL, CORNER, Photo, make_run


def write_csv(folder, text):
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def written(run, name):
    return json.loads(Path(run.path("evaluation", f"{name}.json")).read_text())


# ---- people against labels ----


def test_folder_labels_score_one_face_of_each_photo(tmp_path):
    run = make_run(
        tmp_path,
        [
            Photo("in/ann/1.jpg", [CORNER, CENTRAL], ["p2", "p1"]),
            Photo("in/ann/2.jpg", [CENTRAL, BACKGROUND], ["p1", "p2"]),
            Photo("in/ann/3.jpg", [CENTRAL], [None]),
            Photo("in/bob/1.jpg", [CENTRAL], ["p1"]),
            Photo("in/bob/2.jpg", []),
        ],
        failures=["in/bob/3.jpg"],
    )
    result = evaluate_clustering(run, "folder")
    scores = clustering_scores(np.array(["ann", "ann", "ann", "bob"]), np.array([0, 0, -1, 0]))
    assert result == pytest.approx(
        {
            **scores,
            "coverage": 4 / 6,
            "n_photos_labeled": 6,
            "n_photos_scored": 4,
            "n_photos_several_people": 0,
            "n_photos_unlabeled": 0,
            "n_labels_unmatched": 0,
        }
    )
    assert written(run, "clustering") == result


def test_csv_labels_are_found_by_the_end_of_the_path(tmp_path):
    run = make_run(
        tmp_path,
        [
            Photo("/in/x/1.jpg", [CENTRAL], ["p1"]),
            Photo("/in/y/1.jpg", [CENTRAL], ["p2"]),
            Photo("/in/both.jpg", [CENTRAL, CORNER], ["p1", "p2"]),
            Photo("/in/more.jpg", [CENTRAL], ["p1"]),
            Photo("/in/who.jpg", [CENTRAL], ["p1"]),
            Photo("/in/blank.jpg", [CENTRAL], ["p1"]),
        ],
        failures=["/in/broken.jpg", "/in/noise.jpg"],
    )
    labels = write_csv(
        tmp_path,
        "\ufeffphoto,people,note\n"
        'x/1.jpg,ann,"a, b"\n'
        "./y/1.jpg, bob\n"
        "\n"
        "both.jpg,ann;bob\n"
        "/in/more.jpg,ann;\n"
        "broken.jpg,bob\n"
        "blank.jpg,\n"
        "gone.jpg,bob\n",
    )
    result = evaluate_clustering(run, labels)
    scores = clustering_scores(np.array(["ann", "bob", "ann"]), np.array([1, 2, 1]))
    assert result == pytest.approx(
        {
            **scores,
            "coverage": 3 / 4,
            "n_photos_labeled": 4,
            "n_photos_scored": 3,
            "n_photos_several_people": 1,
            "n_photos_unlabeled": 2,
            "n_labels_unmatched": 1,
        }
    )


def test_longest_matching_label_applies(tmp_path):
    photos = [Photo(f"in/{x}/1.jpg", [CENTRAL], ["p1"]) for x in ("x", "y")]
    labels = write_csv(tmp_path, "photo,person\n1.jpg,ann\ny/1.jpg,bob\n")
    result = evaluate_clustering(make_run(tmp_path, photos), labels)
    assert (result["n_photos_scored"], result["n_people_true"]) == (2, 2)


def test_label_that_matches_two_photos_is_an_error(tmp_path):
    photos = [Photo(f"in/{x}/1.jpg", [CENTRAL], ["p1"]) for x in ("x", "y")]
    labels = write_csv(tmp_path, "photo,person\n1.jpg,ann\n")
    with pytest.raises(InputError, match=r"in/x/1\.jpg and in/y/1\.jpg both end in it"):
        evaluate_clustering(make_run(tmp_path, photos), labels)


def test_duplicate_photos_are_scored_under_each_uri(tmp_path):
    photos = [Photo(f"in/{x}/1.jpg", [CENTRAL], ["p1"], content="same") for x in ("x", "y")]
    photos.append(Photo("in/z/2.jpg", [CENTRAL], ["p1"]))
    labels = write_csv(tmp_path, "photo,person\n1.jpg,ann\n2.jpg,bob\n")
    result = evaluate_clustering(make_run(tmp_path, photos), labels)
    assert result["n_photos_scored"] == 3
    assert result["pairwise_precision"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"labels\.csv does not exist"),
        ("", r"labels\.csv line 1: expected two columns"),
        ("photo;person\n1.jpg;ann\n", r"line 1: expected two columns .* found 'photo;person'"),
        ("photo,person\n1.jpg,ann\n2.jpg\n", r"line 3: expected two columns .* found '2\.jpg'"),
        ("photo,person\n", "labels none of the 1 photos"),
        ("photo,person\n9.jpg,ann\n", r"labels none of the 1 photos .* for 9\.jpg"),
        ("photo,person\n1.jpg,ann\n1.jpg,bob\n", r"line 3: '1\.jpg' is labeled twice, as 'ann'"),
        ("photo,person\n1.jpg,ann;bob\n", "nothing to score"),
    ],
)
def test_unusable_labels_are_explained(tmp_path, text, message):
    run = make_run(tmp_path, [Photo("in/1.jpg", [CENTRAL], ["p1"])])
    path = str(tmp_path / "labels.csv") if text is None else write_csv(tmp_path, text)
    with pytest.raises(InputError, match=message):
        evaluate_clustering(run, path)


def test_labels_that_are_not_text_are_refused(tmp_path):
    run = make_run(tmp_path, [Photo("in/1.jpg", [CENTRAL], ["p1"])])
    path = tmp_path / "labels.csv"
    path.write_bytes(b"\xff\xd8\xff\xe0 a photo")
    with pytest.raises(InputError, match="cannot be read as a CSV file"):
        evaluate_clustering(run, str(path))


def test_a_run_without_people_says_what_to_do(tmp_path):
    run = make_run(tmp_path, [Photo("in/ann/1.jpg", [CENTRAL])])
    with pytest.raises(InputError, match="run `facecluster cluster` first"):
        evaluate_clustering(run, "folder")


def test_outdated_assignments_are_an_error(tmp_path):
    photos = [Photo("in/ann/1.jpg", [CENTRAL], ["p1"]), Photo("in/ann/2.jpg", [CENTRAL])]
    with pytest.raises(InputError, match="run `facecluster cluster` again"):
        evaluate_clustering(make_run(tmp_path, photos), "folder")


# ---- pairs of photos ----


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def two_images_each(names, random, folder="in"):
    """Photos Name/Name_0001 and _0002 whose central face is a noisy vector of the name."""
    photos = []
    for name in names:
        person = random.normal(size=8)
        for index in (1, 2):
            vectors = unit(np.stack([random.normal(size=8), person + random.normal(size=8)]))
            uri = f"{folder}/{name}/{name}_000{index}.jpg"
            photos.append(Photo(uri, [CORNER, CENTRAL], embeddings=vectors))
    return photos


def write_pairs(folder, names, n_folds):
    """A View 2 file: each name with itself, and with the next name of its fold."""
    lines = [f"{n_folds}\t{len(names) // n_folds}"]
    for fold in np.array_split(names, n_folds):
        lines += [f"{name}\t1\t2" for name in fold]
        lines += [f"{a}\t1\t{b}\t2" for a, b in zip(fold, np.roll(fold, 1), strict=True)]
    path = folder / "pairs.txt"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


NAMES = [f"Name_{letter}" for letter in "abcdefghijkl"]


def test_verification_scores_the_labeled_faces_of_the_pairs(tmp_path):
    photos = two_images_each(NAMES, np.random.default_rng(0))
    run = make_run(tmp_path, photos, dimensions=8)
    path = write_pairs(tmp_path, NAMES, 3)
    result = evaluate_verification(run, "in", path)
    central = {p.uri.removeprefix("in/").removesuffix(".jpg"): p.embeddings[1] for p in photos}
    pairs = read_pairs(path)
    first, second = (np.stack([central[s] for s in stems]) for stems in (pairs.first, pairs.second))
    scores = verify(first, second, pairs.is_same, pairs.folds)
    assert 0.5 < scores.accuracy < 1  # neither chance nor perfect: a mix-up would change it
    assert result == pytest.approx({**asdict(scores), "n_pairs": 24, "n_pairs_skipped": 0})
    assert written(run, "verification") == result


def test_pairs_without_a_face_are_left_out_and_counted(tmp_path):
    photos = two_images_each(NAMES, np.random.default_rng(1))
    faceless, failed, *others = photos[1], photos[8], *photos[:1], *photos[2:8], *photos[9:]
    faceless = Photo(faceless.uri, [])  # second image of a: a matched and a mismatched pair
    run = make_run(tmp_path, [faceless, *others], failures=[failed.uri], dimensions=8)
    path = write_pairs(tmp_path, NAMES, 3)
    result = evaluate_verification(run, "in", path)

    central = {p.uri.removeprefix("in/").removesuffix(".jpg"): p.embeddings[1] for p in others}
    pairs = read_pairs(path)
    kept = [i for i in range(24) if pairs.first[i] in central and pairs.second[i] in central]
    scores = verify(
        np.stack([central[pairs.first[i]] for i in kept]),
        np.stack([central[pairs.second[i]] for i in kept]),
        pairs.is_same[kept],
        pairs.folds[kept],
    )
    assert result == pytest.approx({**asdict(scores), "n_pairs": 24, "n_pairs_skipped": 4})


def test_photos_of_the_images_folder_take_precedence(tmp_path):
    photos = two_images_each(NAMES, np.random.default_rng(0), "/photos")
    others = two_images_each(NAMES, np.random.default_rng(1), "/other")
    path = write_pairs(tmp_path, NAMES, 3)
    alone = make_run(tmp_path / "alone", photos, dimensions=8)
    beside = make_run(tmp_path / "beside", others + photos, dimensions=8)
    expected = evaluate_verification(alone, "/photos", path)
    assert evaluate_verification(beside, "/photos", path) == expected
    assert evaluate_verification(beside, "/other", path) != expected


def test_unusable_pairs_are_explained(tmp_path):
    path = write_pairs(tmp_path, NAMES, 3)
    photos = two_images_each(NAMES, np.random.default_rng(0))
    without = make_run(tmp_path / "a", photos[2:], dimensions=8)
    with pytest.raises(InputError, match=r"lacks 2 of the 24 photos .* Name_a/Name_a_0001"):
        evaluate_verification(without, "in", path)
    faceless = make_run(tmp_path / "b", [Photo(p.uri, []) for p in photos])
    with pytest.raises(InputError, match="none of the pairs"):
        evaluate_verification(faceless, "in", path)
    run = make_run(tmp_path / "c", photos, dimensions=8)
    with pytest.raises(InputError, match=r"pairs\.txt: all pairs are in one fold"):
        evaluate_verification(run, "in", write_pairs(tmp_path, NAMES, 1))
    with pytest.raises(InputError, match=r"nowhere\.txt does not exist"):
        evaluate_verification(run, "in", str(tmp_path / "nowhere.txt"))


def pairs_of(first, second):
    return ImagePairs(first, second, np.ones(len(first), bool), np.zeros(len(first), int))


def test_pair_images_are_found_once_each_with_any_photo_extension(tmp_path):
    images = tmp_path / "images [all]"
    for name in ("Bob/Bob_0001.PNG", "Ann/Ann_0002.jpg", "Ann/Ann_0002.box", "Ann/Ann_0003.jpg",
                 "J.K._R/J.K._R_0001.jpeg"):  # fmt: skip
        path = images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    pairs = pairs_of(["Bob/Bob_0001", "Ann/Ann_0002"], ["Ann/Ann_0002", "J.K._R/J.K._R_0001"])
    assert find_pair_images(str(images), pairs) == [
        str(images / "Ann/Ann_0002.jpg"),
        str(images / "Bob/Bob_0001.PNG"),
        str(images / "J.K._R/J.K._R_0001.jpeg"),
    ]
    missing = pairs_of(["Cyd/Cyd_0002", "Ann/Ann_0002"], ["Cyd/Cyd_0001", "Ann/Ann_0003"])
    with pytest.raises(InputError, match=r"lacks 2 of the 4 images .* Cyd/Cyd_0001"):
        find_pair_images(str(images), missing)


# ---- printed scores ----


def test_every_score_is_described_and_aligned(tmp_path):
    photos = two_images_each(NAMES, np.random.default_rng(0))
    for photo in photos:
        photo.people = ["p1", "p2"]
    run = make_run(tmp_path, photos, dimensions=8)
    clustering = evaluate_clustering(run, "folder")
    verification = evaluate_verification(run, "in", write_pairs(tmp_path, NAMES, 3))
    of_models = {"cohort_level", "cohort_same_person"}  # of a cohort, see `model validate`
    assert clustering.keys() | verification.keys() | of_models == DESCRIPTIONS.keys()
    for scores in (clustering, verification):
        lines = format_scores(scores).splitlines()
        assert len({len(line) for line in lines}) == 1
        for line, name in zip(lines, scores, strict=True):
            assert line.startswith(DESCRIPTIONS[name])
    assert format_scores({"bcubed_f": 0.95314, "n_pairs": 6000}) == (
        "BCubed F           0.9531\n"
        "Pairs in the file   6,000"
    )  # fmt: skip
