import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from facecluster.errors import UsageError
from facecluster.pipeline.run.directory import SHARDED_TABLES, RunDirectory
from facecluster.pipeline.run.manifest import (
    MANIFEST_VERSION,
    ClusterEntry,
    EmbedCounts,
    EmbedEntry,
    Manifest,
)
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.similarity.cohort_file import pack_cohorts
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.parquet_files import TableError, write_table


def photos_table(*uris):
    rows = [{"photo_id": uri * 2, "uri": uri, "width": 1, "height": 1, "taken_at": None,
             "n_frames": 1, "damaged": False, "n_faces": 0} for uri in uris]  # fmt: skip
    return pa.Table.from_pylist(rows, schema.stamped(schema.PHOTOS))


def failures_table(*uris):
    rows = [{"uri": uri, "step": "read", "error": "E", "message": "m"} for uri in uris]
    return pa.Table.from_pylist(rows, schema.stamped(schema.FAILURES))


def people_table(*names):
    rows = [{"person_id": name, "size": 2, "n_photos": 2, "representative_face_id": "f",
             "spread": 0.5, "confidence": 0.9} for name in names]  # fmt: skip
    return pa.Table.from_pylist(rows, schema.stamped(schema.PEOPLE))


COHORT = Cohort(np.eye(10, 128, dtype=np.float32), 0.38, 0.7)


# ---- names ----


@pytest.mark.parametrize("root", ["run", "./run", "a/../run", "run/", "{here}/run", "{here}/run/"])
def test_a_root_may_be_relative_and_end_in_a_slash(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    run = RunDirectory(root.format(here=tmp_path))
    write_table(run.shard_path("photos", "s1"), photos_table("x"))
    run.write("people", people_table("ann"))
    run.update_manifest(EmbedEntry.start().finish())
    there = tmp_path / "run"
    assert sorted(str(p.relative_to(there)) for p in there.rglob("*.*")) == [
        "manifest.json",
        "people/people.parquet",
        "photos/s1.parquet",
    ]
    assert run.complete_shards() == ["s1"]
    assert run.read_shards("photos", ["uri"])[0]["uri"].to_pylist() == ["x"]
    assert run.exists("people")
    assert not run.exists("assignments")
    assert run.read("people").num_rows == 1
    assert run.manifest().embed.state == "done"


@pytest.mark.parametrize("name", ["with space", "[2024] *best?*", "{a,b}", "ümlaut 写真", "%20#"])
def test_a_root_may_have_any_name(tmp_path, name):
    run = RunDirectory(str(tmp_path / name / "run"))
    write_table(run.shard_path("photos", "s1"), photos_table("x"))
    assert run.complete_shards() == ["s1"]
    assert run.read_shards("photos", ["uri"])[0].num_rows == 1
    run.update_manifest(EmbedEntry.start())
    assert "embed" in run.manifest().steps


# ---- shards ----


def test_a_shard_is_complete_when_its_photos_file_is_there(tmp_path):
    run = RunDirectory(str(tmp_path))
    assert run.complete_shards() == []
    for shard in ("b", "a", "c"):
        write_table(run.shard_path("failures", shard), failures_table(f"{shard}.jpg"))
    assert run.complete_shards() == []
    for shard in ("c", "a"):
        write_table(run.shard_path("photos", shard), photos_table())
    assert run.complete_shards() == ["a", "c"]
    table, _ = run.read_shards("failures", ["uri"])
    assert table["uri"].to_pylist() == ["a.jpg", "c.jpg"]
    table, _ = run.read_shards("failures", ["uri"], shards=["b"])
    assert table["uri"].to_pylist() == ["b.jpg"]


def test_files_of_an_interrupted_write_are_not_shards(tmp_path):
    run = RunDirectory(str(tmp_path))
    write_table(run.shard_path("photos", "a"), photos_table("x"))
    for name in ("b.parquet.0123abcd.tmp", "notes.txt", ".parquet.swp"):
        (tmp_path / "photos" / name).write_bytes(b"half")
    assert run.complete_shards() == ["a"]


def test_shard_names_may_have_dots(tmp_path):
    run = RunDirectory(str(tmp_path))
    write_table(run.shard_path("photos", "2024.07.parquet"), photos_table())
    assert run.complete_shards() == ["2024.07.parquet"]


@pytest.mark.parametrize("table", SHARDED_TABLES)
def test_without_shards_a_table_is_empty_but_has_its_columns(tmp_path, table):
    columns = {"photos": ["uri", "n_faces"], "faces": ["face_id", "embedding"],
               "failures": ["message", "uri"]}[table]  # fmt: skip
    rows, stamp = RunDirectory(str(tmp_path)).read_shards(table, columns)
    assert (rows.num_rows, rows.column_names, stamp) == (0, columns, {})


def test_a_complete_shard_without_one_of_its_tables_is_an_error(tmp_path):
    run = RunDirectory(str(tmp_path))
    write_table(run.shard_path("photos", "a"), photos_table())
    with pytest.raises(TableError, match=r"faces.a\.parquet cannot be read"):
        run.read_shards("faces", ["face_id"])


# ---- single tables ----


def test_a_table_that_is_written_again_is_replaced(tmp_path):
    run = RunDirectory(str(tmp_path))
    run.write("people", people_table("ann", "bob"))
    run.write("people", people_table("cyd"))
    assert run.read("people")["person_id"].to_pylist() == ["cyd"]
    assert [path.name for path in (tmp_path / "people").iterdir()] == ["people.parquet"]


@pytest.mark.parametrize(
    ("table", "step"),
    [("people", "cluster"), ("assignments", "cluster"), ("near_duplicates", "embed")],
)
def test_a_missing_table_is_named_with_the_step_that_writes_it(tmp_path, table, step):
    with pytest.raises(TableError, match=rf"/{table} does not exist: run `facecluster {step}`"):
        RunDirectory(str(tmp_path)).read(table)


def test_a_table_of_another_version_says_so(tmp_path):
    run = RunDirectory(str(tmp_path))
    old = people_table("ann").replace_schema_metadata(
        {schema.METADATA_KEY: json.dumps({"schema_version": 0})}
    )
    run.write("people", old)
    with pytest.raises(TableError, match="has schema version 0"):
        run.read("people")


# ---- manifest ----


def test_a_run_without_a_manifest_has_an_empty_one(tmp_path):
    assert RunDirectory(str(tmp_path / "new")).manifest() == Manifest()


def test_a_step_is_recorded_beside_the_others(tmp_path):
    run = RunDirectory(str(tmp_path))
    run.update_manifest(EmbedEntry.start(options={"codec": "float32"}))
    run.update_manifest(ClusterEntry.start().finish())
    before = run.manifest().cluster
    embed = EmbedEntry.start().finish(counts=EmbedCounts(photos=3))
    run.update_manifest(embed)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert run.manifest().cluster == before
    assert manifest["steps"]["cluster"]["state"] == "done"
    finished = datetime.fromisoformat(manifest["steps"]["embed"]["finished_at"])
    assert abs(datetime.now(timezone.utc) - finished).total_seconds() < 60
    assert run.manifest().embed.options == {}  # not merged with what it was
    assert run.manifest().embed.counts == EmbedCounts(photos=3)
    versions = manifest["versions"]
    assert versions["facecluster"] == version("facecluster")
    assert (versions["numpy"], versions["pyarrow"]) == (np.__version__, pa.__version__)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_keys_that_others_add_to_the_manifest_are_kept(tmp_path):
    run = RunDirectory(str(tmp_path))
    content = {"manifest_version": MANIFEST_VERSION, "note": "mine", "steps": {"other": {"a": 1}}}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    options = {"path": Path("x"), "at": datetime(2024, 1, 2)}
    run.update_manifest(EmbedEntry.start(options=options))
    manifest = run.manifest()
    assert manifest.other == {"note": "mine"}
    assert manifest.other_steps == {"other": {"a": 1}}
    assert manifest.embed.options["path"] == "x"
    assert manifest.embed.options["at"] == "2024-01-02 00:00:00"


def test_a_reader_never_sees_half_a_manifest(tmp_path):
    run = RunDirectory(str(tmp_path))
    run.update_manifest(EmbedEntry.start(options={"filler": "x" * 100_000}))
    with ThreadPoolExecutor(1) as pool:
        sizes = range(0, 10**6, 10**4)
        entries = [EmbedEntry.start(options={"filler": "x" * n}) for n in sizes]
        writing = pool.submit(lambda: [run.update_manifest(entry) for entry in entries])
        while not writing.done():
            assert len(run.manifest().steps) == 1
        writing.result()


# ---- the cohort ----


def test_a_run_keeps_its_first_cohort(tmp_path):
    run = RunDirectory(str(tmp_path))
    assert run.read_cohort() is None
    run.write_cohort(COHORT)
    run.write_cohort(replace(COHORT, level=0.5))
    found = run.read_cohort()
    assert (found.level, found.same_person) == (0.38, 0.7)
    np.testing.assert_array_equal(found.vectors, COHORT.vectors)


def test_a_cohort_is_read_from_a_bucket(bucket):
    content = pack_cohorts({"embedding": COHORT})
    bucket({"bucket://b/run/cohort.npz": content, "bucket://b/half/cohort.npz": content[:500]})
    assert RunDirectory("bucket://b/run").read_cohort().level == 0.38
    assert RunDirectory("bucket://b/other").read_cohort() is None
    with pytest.raises(TableError, match=r"half/cohort\.npz is damaged: delete it and run"):
        RunDirectory("bucket://b/half").read_cohort()


# ---- run folders and other folders ----


def full_run(root) -> RunDirectory:
    run = RunDirectory(str(root))
    for table, rows in [("photos", photos_table("x")), ("failures", failures_table("y"))]:
        write_table(run.shard_path(table, "s"), rows)
    write_table(run.shard_path("faces", "s"), photos_table())
    run.write("people", people_table("ann"))
    write_table(run.path("assignments", "part-00000-of-00001.parquet"), people_table())
    write_table(run.path("plan.parquet"), photos_table())
    run.update_manifest(EmbedEntry.start().finish())
    run.write_cohort(COHORT)
    for name in ("report/index.html", "evaluation/clustering.json", "grouping/mark/abc.npz",
                 "edits.parquet", "photo_ids/s.parquet",
                 "grouping/tables/people/part-00000-of-00001.parquet",
                 f"people/people.parquet.{32 * 'a'}.tmp"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("ours")
    return run


def test_all_files_of_facecluster_are_removed_and_no_others(tmp_path):
    run = full_run(tmp_path)
    others = ["facecluster.log", "run.lock", "notes.txt", "photos/me.jpg", "photos/.hidden.parquet",
              "report/style.css", "grouping/diary.doc", "my people/people.parquet",
              "people/old.tmp"]  # fmt: skip
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("not ours")
    run.remove_everything()
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == sorted([*others, "manifest.json"])
    assert run.manifest() == Manifest()
    assert not (tmp_path / "faces").exists()
    run.remove_everything()


def test_what_a_killed_job_leaves_of_checked_photos_is_removed(tmp_path):
    run = full_run(tmp_path)
    run.remove_unfinished()
    assert list((tmp_path / "photo_ids").iterdir()) == []
    assert run.complete_shards() == ["s"]


@pytest.mark.parametrize("n", range(14))
def test_removing_everything_may_be_interrupted_anywhere(tmp_path, monkeypatch, n):
    run = full_run(tmp_path)
    remove, left = os.remove, [n]

    def remove_until_killed(path):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "remove", remove_until_killed)
        with pytest.raises(KeyboardInterrupt):
            run.remove_everything()
    assert run.is_run()
    run.remove_everything()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["manifest.json"]


def test_tables_in_linked_folders_are_removed_too(tmp_path):
    run = full_run(tmp_path / "run")
    shutil.move(tmp_path / "run" / "photos", tmp_path / "large disk")
    (tmp_path / "run" / "photos").symlink_to(tmp_path / "large disk")
    run.remove_everything()
    assert run.complete_shards() == []


@pytest.mark.parametrize(
    "name",
    ["holiday.jpg", "photos/holiday.jpg", "photos/2020.parquet", "manifest.json", "plan.parquet"],
)
def test_a_folder_with_other_files_is_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match=f"holds other files, such as {name}: take an output"):
        RunDirectory(str(tmp_path)).check_output_folder()


def test_a_run_with_other_files_and_an_empty_folder_are_accepted(tmp_path):
    RunDirectory(str(tmp_path / "not there")).check_output_folder()
    for name in ("facecluster.log", "run.lock", ".DS_Store", f"manifest.json.{32 * 'a'}.tmp"):
        (tmp_path / name).write_text("")
    run = RunDirectory(str(tmp_path))
    run.check_output_folder()
    run.update_manifest(EmbedEntry.start())
    (tmp_path / "notes.txt").write_text("mine")
    run.check_output_folder()


def test_other_files_in_a_bucket_are_found_too(bucket):
    bucket({"bucket://b/run/facecluster.log": b"", "bucket://b/run2/x.jpg": b""})
    RunDirectory("bucket://b/run").check_output_folder()
    bucket({"bucket://b/run/a/x.jpg": b""})
    with pytest.raises(UsageError, match=r"such as a/x\.jpg"):
        RunDirectory("bucket://b/run").check_output_folder()
