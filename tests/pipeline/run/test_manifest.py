"""The manifest comes back as it was written, and says what is wrong with it when it does not."""

import io
import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.errors import JobError
from facecluster.pipeline.run import manifest as manifests
from facecluster.pipeline.run.manifest import (
    MANIFEST_VERSION,
    ClusterCounts,
    ClusterDiagnostics,
    ClusterEntry,
    EmbedCounts,
    EmbedEntry,
    Manifest,
    is_manifest,
    library_versions,
    read_manifest,
    write_manifest,
)

NOON = datetime(2024, 1, 2, 12, tzinfo=timezone.utc)
EMBED = EmbedEntry(
    "done",
    NOON,
    NOON + timedelta(seconds=90),
    seconds=90.0,
    options={"codec": "pca128", "jpeg_size": None, "min_face_size": 20},
    models={"facenet": "abc"},
    counts=EmbedCounts(photos=5, faces=7, failures=1),
)
CLUSTER = ClusterEntry(
    "done",
    NOON,
    NOON,
    seconds=0.0,
    options={"wrong_share": 0.05},
    counts=ClusterCounts(faces=7, people=2),
    diagnostics=ClusterDiagnostics(
        impostor_width=0.1, left_out={"size": 1}, most_doubtful=["a"], seconds={"forest": 1.5}
    ),
)


def written(tmp_path, manifest: Manifest) -> dict:
    """The JSON of a manifest that is written to tmp_path."""
    write_manifest(str(tmp_path / "manifest.json"), manifest)
    return json.loads((tmp_path / "manifest.json").read_text())


def damage(tmp_path, content) -> str:
    path = tmp_path / "manifest.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_what_is_written_is_read(tmp_path):
    manifest = Manifest().with_step(EMBED).with_step(CLUSTER)
    content = written(tmp_path, manifest)
    assert read_manifest(str(tmp_path / "manifest.json")) == manifest
    assert content["manifest_version"] == MANIFEST_VERSION
    assert content["versions"] == manifest.versions == library_versions()
    assert content["steps"]["embed"]["counts"]["faces"] == 7
    assert content["steps"]["cluster"]["diagnostics"]["left_out"] == {"size": 1}


@settings(deadline=None)
@given(
    st.builds(
        EmbedCounts,
        photos=st.integers(0, 2**40),
        new_failures=st.integers(0, 2**40),
        failure_reasons=st.dictionaries(st.text(), st.integers(0, 2**40), max_size=3),
    ),
    st.datetimes(timezones=st.just(timezone.utc)),
    st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()),
)
def test_any_entry_is_read_as_it_was_written(counts, started_at, options):
    started_at = started_at.replace(microsecond=started_at.microsecond // 1000 * 1000)
    entry = EmbedEntry("failed", started_at, started_at, 1.5, options=options, counts=counts)
    files = {}

    class Store:
        exists = staticmethod(files.__contains__)
        open = staticmethod(lambda path: io.BytesIO(files[path]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifests, "FileSystems", Store)
        patch.setattr(manifests, "write_bytes", files.__setitem__)
        write_manifest("manifest.json", Manifest(embed=entry))
        assert read_manifest("manifest.json").embed == entry


def test_a_file_that_does_not_exist_is_an_empty_manifest(tmp_path):
    assert read_manifest(str(tmp_path / "manifest.json")) == Manifest()
    assert Manifest().steps == {}


def test_a_running_step_has_a_start_and_no_end(tmp_path):
    entry = EmbedEntry.start(options={"codec": "float32"}, models={"facenet": "abc"})
    content = written(tmp_path, Manifest(embed=entry))["steps"]["embed"]
    assert {"state", "started_at", "options", "models"} <= content.keys()
    assert not {"finished_at", "seconds", "counts"} & content.keys()
    assert content["state"] == "running"
    assert abs(datetime.fromisoformat(content["started_at"]) - datetime.now(timezone.utc)) < (
        timedelta(minutes=1)
    )
    with pytest.raises(ValueError, match="'running' and finished_at is 2024"):
        replace(entry, finished_at=NOON)


@pytest.mark.parametrize("state", ["done", "failed"])
def test_a_finished_step_has_both_and_the_seconds_between(state):
    started = replace(
        EmbedEntry.start(), started_at=datetime.now(timezone.utc) - timedelta(hours=1)
    )
    entry = started.finish(state, counts=EmbedCounts(photos=3))
    assert (entry.state, entry.counts) == (state, EmbedCounts(photos=3))
    assert entry.started_at == started.started_at
    assert 3600 <= entry.seconds == round((entry.finished_at - entry.started_at).total_seconds(), 1)
    with pytest.raises(ValueError, match="finished_at is None"):
        replace(entry, finished_at=None)


def test_a_clock_that_was_set_back_gives_no_negative_seconds():
    ahead = replace(EmbedEntry.start(), started_at=datetime.now(timezone.utc) + timedelta(hours=1))
    assert ahead.finish().seconds == 0


def test_a_step_replaces_its_own_entry_only():
    manifest = Manifest().with_step(EMBED).with_step(CLUSTER)
    again = EmbedEntry.start()
    assert manifest.with_step(again).steps == {"embed": again, "cluster": CLUSTER}


def test_keys_that_facecluster_does_not_write_are_kept(tmp_path):
    path = damage(
        tmp_path,
        {"manifest_version": MANIFEST_VERSION, "note": "mine", "steps": {"other": {"a": 1}}},
    )
    options = {"path": Path("x"), "at": datetime(2024, 1, 2)}
    content = written(tmp_path, read_manifest(path).with_step(replace(EMBED, options=options)))
    assert content["note"] == "mine"
    assert content["steps"]["other"] == {"a": 1}
    assert content["steps"]["embed"]["options"] == {"path": "x", "at": "2024-01-02 00:00:00"}


@pytest.mark.parametrize("found", [None, 0, MANIFEST_VERSION + 1, "1"])
def test_another_version_is_refused(tmp_path, found):
    content = {"steps": {"embed": {"state": "done"}}} | (
        {"manifest_version": found} if found is not None else {}
    )
    path = damage(tmp_path, content)
    with pytest.raises(JobError) as refused:
        read_manifest(path)
    assert str(refused.value) == (
        f"{path} has manifest version {found}, this facecluster reads version {MANIFEST_VERSION}: "
        "start again with --overwrite, or take another output folder"
    )
    assert is_manifest(path)


def entry_with(**values) -> dict:
    entry = {"state": "done", "started_at": "2024-01-02T12:00:00+00:00",
             "finished_at": "2024-01-02T12:00:00+00:00", **values}  # fmt: skip
    entry = {key: value for key, value in entry.items() if value is not ...}
    return {"manifest_version": MANIFEST_VERSION, "steps": {"embed": entry}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"steps": {', "Expecting"),
        ("\udcff", "surrogates|decode|Expecting"),
        ([], "not a JSON object"),
        ({"manifest_version": MANIFEST_VERSION}, "Expected `object`, got `null`"),
        ({"manifest_version": MANIFEST_VERSION, "steps": []}, "Expected `object`, got `array`"),
        (
            {"manifest_version": MANIFEST_VERSION, "steps": {"embed": 1}},
            r"got `int` - at `\$\.embed`",
        ),
        (entry_with(state=...), r"missing required field `state` - at `\$\.embed`"),
        (entry_with(state="over"), r"'over' - at `\$\.embed\.state`"),
        (entry_with(started_at=...), r"missing required field `started_at` - at `\$\.embed`"),
        (entry_with(started_at="noon"), r"Invalid RFC3339 .* - at `\$\.embed\.started_at`"),
        (entry_with(started_at=12), "."),
        (entry_with(finished_at=...), "finished_at is None"),
        (entry_with(state="running"), "'running' and finished_at is 2024"),
        (entry_with(seconds="long"), r"got `str` - at `\$\.embed\.seconds`"),
        (entry_with(seconds=True), r"got `bool` - at `\$\.embed\.seconds`"),
        (entry_with(options=[]), r"got `array` - at `\$\.embed\.options`"),
        (entry_with(models={"a": 1}), r"got `int` - at `\$\.embed\.models\[\.\.\.\]`"),
        (entry_with(counts=3), r"got `int` - at `\$\.embed\.counts`"),
        (entry_with(counts={"photos": 1.5}), r"got `float` - at `\$\.embed\.counts\.photos`"),
        (entry_with(counts={"photos": "<b>"}), r"got `str` - at `\$\.embed\.counts\.photos`"),
    ],
)
def test_a_damaged_manifest_is_refused_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "manifest.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(JobError, match=rf"manifest\.json is damaged \(.*{reason}.*--overwrite"):
        read_manifest(str(path))


def test_unknown_fields_of_an_entry_are_ignored(tmp_path):
    path = damage(tmp_path, entry_with(color="blue", counts={"photos": 1, "cats": 2}))
    assert read_manifest(path).embed.counts == EmbedCounts(photos=1)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"steps": 1}'])
def test_what_is_no_manifest(tmp_path, content):
    assert not is_manifest(str(tmp_path / "not there"))
    assert not is_manifest(damage(tmp_path, content))
