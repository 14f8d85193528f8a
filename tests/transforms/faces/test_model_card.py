"""Model cards are written and read back unchanged, and unusable ones are refused by name."""

import json
from dataclasses import replace

import pytest

from facecluster.transforms.faces.model_card import (
    CARD_VERSION,
    ModelCard,
    ModelError,
    ModelIdentity,
    read_model_card,
    write_model_card,
)

CARD = ModelCard(name="m", sha256="5a", standardization="fixed")
EMBEDDER = replace(
    CARD,
    architecture="two convolutions",
    source="random",
    license="MIT",
    input_size=160,
    margin=32,
    dimensions=512,
    compute="float16",
    trained_from=ModelIdentity("base", "b0"),
    compatible_with=ModelIdentity("old", "0d"),
    embedding_space="0d",
    accuracy={"LFW": 0.99},
    measured={"on": "pairs.txt", "calibration": {"float32": [{"distance": 0.3, "far": 1e-7}]}},
)


def write_json(folder, values) -> str:
    (folder / "model_card.json").write_text(json.dumps(values))
    return str(folder)


@pytest.mark.parametrize("card", [CARD, EMBEDDER])
def test_a_card_comes_back_as_it_was_written(tmp_path, card):
    assert write_model_card(str(tmp_path), card) == str(tmp_path / "model_card.json")
    assert read_model_card(str(tmp_path)) == card


def test_the_json_has_the_fields_by_name_and_the_version(tmp_path):
    write_model_card(str(tmp_path), EMBEDDER)
    values = json.loads((tmp_path / "model_card.json").read_text())
    assert values["card_version"] == CARD_VERSION
    assert values["standardization"] == "fixed"
    assert values["license"] == "MIT"
    assert values["trained_from"] == {"name": "base", "sha256": "b0"}
    assert values["measured"] == EMBEDDER.measured
    assert "dimensions" not in json.loads(CARD.to_json())


def test_a_model_has_an_embedding_space_of_its_own_unless_the_card_names_another():
    assert CARD.embedding_space == CARD.sha256
    assert EMBEDDER.embedding_space == "0d"
    assert (EMBEDDER.makes_embeddings, CARD.makes_embeddings) == (True, False)


def test_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"there is no model in .*nowhere"):
        read_model_card(str(tmp_path / "nowhere"))


def test_a_card_of_another_version(tmp_path):
    values = json.loads(CARD.to_json())
    for version in (2, 0, CARD_VERSION + 1):
        folder = write_json(tmp_path, values | {"card_version": version})
        with pytest.raises(
            ModelError,
            match=rf"model_card\.json is a model card of version {version}, this facecluster reads "
            "version 3: fetch or import the model again",
        ):
            read_model_card(folder)
    del values["card_version"]
    with pytest.raises(ModelError, match=r"of version unknown, .* fetch or import the model again"):
        read_model_card(write_json(tmp_path, values))


@pytest.mark.parametrize("text", ["", "{", "no json", "[1]", "7", "null"])
def test_a_damaged_card(tmp_path, text):
    (tmp_path / "model_card.json").write_text(text)
    with pytest.raises(ModelError, match=f"the model card of {tmp_path} cannot be read"):
        read_model_card(str(tmp_path))


@pytest.mark.parametrize("key", ["name", "sha256", "standardization"])
def test_a_required_key_is_missing(tmp_path, key):
    values = json.loads(CARD.to_json())
    del values[key]
    with pytest.raises(ModelError, match=rf"model_card\.json is damaged: .*missing.*`{key}`"):
        read_model_card(write_json(tmp_path, values))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dimensions", "512"),
        ("name", 5),
        ("measured", [1]),
        ("trained_from", {"name": "base"}),
        ("compatible_with", "old"),
    ],
)
def test_a_value_of_the_wrong_type(tmp_path, key, value):
    values = json.loads(EMBEDDER.to_json()) | {key: value}
    with pytest.raises(ModelError, match=rf"model_card\.json is damaged: .*`\$\.{key}`"):
        read_model_card(write_json(tmp_path, values))


def test_an_unknown_key(tmp_path):
    values = json.loads(CARD.to_json()) | {"licence": "MIT"}
    with pytest.raises(ModelError, match=r"has an unknown key, licence: remove it"):
        read_model_card(write_json(tmp_path, values))


@pytest.mark.parametrize("path", ["nosuch://bucket/model", "gs://bucket/model"])
def test_a_store_that_cannot_be_reached(path):
    with pytest.raises(ModelError, match=f"the model card of {path} cannot be read"):
        read_model_card(path)
