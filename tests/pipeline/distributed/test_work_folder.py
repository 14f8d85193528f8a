import ast
import os
import sys
import threading
import time

import numpy as np
import pytest
from apache_beam.io.filesystems import FileSystems

from facecluster.pipeline.distributed.work_folder import WorkFolder

FOLDERS = pytest.mark.parametrize("name", ["work", "run[1]/work", "what?/work", "st*r"])


def all_files(folder):
    return sorted(
        os.path.relpath(os.path.join(parent, file), folder)
        for parent, _, files in os.walk(folder)
        for file in files
    )


@FOLDERS
def test_arrays_are_read_as_written(tmp_path, name):
    work = WorkFolder(str(tmp_path / name))
    arrays = {
        "ids": np.array(["a", "bcd"]),
        "stored": np.eye(3, dtype=np.int8),
        "nothing": np.empty((0, 4), np.float32),
        "one": np.array(7),
    }
    work.write("some kind", "a name", **arrays)
    found = work.read("some kind", "a name")
    assert found.keys() == arrays.keys()
    for key, array in arrays.items():
        assert found[key].dtype == array.dtype
        assert np.array_equal(found[key], array)
        assert found[key].shape == array.shape


def test_names_of_a_kind_are_sorted(tmp_path):
    work = WorkFolder(str(tmp_path))
    assert work.names("a") == []
    for name in ("c", "a.b", "b"):
        work.write("a", name)
    work.write("a/deeper", "d")
    work.write("b", "e")
    assert work.names("a") == ["a.b", "b", "c"]
    assert work.names("a/deeper") == ["d"]


def test_a_partly_written_file_does_not_exist(tmp_path, monkeypatch):
    work = WorkFolder(str(tmp_path))
    work.write("a", "old", x=np.arange(3))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FileSystems, "rename", killed)
        for name in ("old", "new"):
            with pytest.raises(KeyboardInterrupt):
                work.write("a", name, x=np.arange(5))
    assert len(all_files(tmp_path)) == 3  # two temporary files, which are ignored
    assert work.names("a") == ["old"]
    assert work.read("a", "old")["x"].tolist() == [0, 1, 2]


def test_files_are_concatenated_in_the_given_order(tmp_path):
    work = WorkFolder(str(tmp_path))
    for number in range(20):
        work.write("a", str(number), x=np.full((2, 3), number), y=np.array([str(number)]))
    names = ["11", "2", "19"]
    assert [part["y"].item() for part in work.read_all("a", names)] == names
    whole = work.read_concatenated("a", names)
    assert whole["x"][:, 0].tolist() == [11, 11, 2, 2, 19, 19]
    assert whole["y"].tolist() == names


def test_files_are_parsed_one_at_a_time(tmp_path, monkeypatch):
    """numpy parses headers by `ast`, which fails in some Python releases in several threads."""
    work = WorkFolder(str(tmp_path))
    names = [str(number) for number in range(20)]
    for name in names:
        work.write("a", name, x=np.arange(3))
    parse, parsing = ast.literal_eval, threading.Lock()

    def slow_parse(text):
        assert parsing.acquire(blocking=False), "two at once"
        time.sleep(0.002)
        parsing.release()
        return parse(text)

    monkeypatch.setattr(ast, "literal_eval", slow_parse)
    assert [part["x"].tolist() for part in work.read_all("a", names)] == [[0, 1, 2]] * 20


@FOLDERS
def test_only_a_folder_of_another_fingerprint_is_emptied(tmp_path, name):
    beside = tmp_path / "beside"
    beside.write_text("not ours")
    work = WorkFolder(str(tmp_path / name))
    work.begin("one")
    work.write("a", "x")
    work.begin("one")
    assert work.names("a") == ["x"]
    work.begin("two")
    assert work.names("a") == []
    work.write("a", "y")
    work.begin("one")  # again
    assert work.names("a") == []
    work.remove()
    assert not os.path.exists(work.root)
    work.remove()
    assert beside.exists()


def test_a_job_does_not_continue_from_what_a_killed_removal_leaves(tmp_path):
    """Files are removed one by one, in an order that is not specified."""
    work = WorkFolder(str(tmp_path / "work"))
    for kill_at in range(1, 6):
        work.remove()
        work.begin("mark")
        for name in "abc":
            work.write(name, name)
        n_files = len(all_files(work.root))
        with _DyingAtRemoval(kill_at), pytest.raises(_Killed):
            work.remove()
        assert len(all_files(work.root)) <= n_files - (kill_at > 1)
        work.begin("mark")
        if kill_at > 1:
            assert all_files(work.root) == [os.path.join("fingerprint", "mark.npz")]


class _Killed(BaseException):
    pass


class _DyingAtRemoval:
    """Raises at the k-th removal of a file or folder."""

    left = None

    def __init__(self, k):
        self.k = k

    def __enter__(self):
        type(self).left = self.k

    def __exit__(self, *_):
        type(self).left = None

    @classmethod
    def hook(cls, event, _):
        if cls.left and event in ("os.remove", "os.rmdir"):
            cls.left -= 1
            if cls.left == 0:
                raise _Killed


sys.addaudithook(_DyingAtRemoval.hook)


def test_an_object_store_is_emptied_too(monkeypatch):
    """An object store has no folders: a name is a prefix only if it ends in a slash."""
    store = {"bucket://run/work/fingerprint/one.npz": b"", "bucket://run/work/a/x.npz": b"",
             "bucket://run/worked.txt": b""}  # fmt: skip

    def delete(paths):
        for path in paths:
            kept = {name for name in store if not (path[-1] == "/" and name.startswith(path))}
            for name in store.keys() - kept - {path} | store.keys() & {path}:
                del store[name]

    monkeypatch.setattr(FileSystems, "delete", delete)
    WorkFolder("bucket://run/work").remove()
    assert list(store) == ["bucket://run/worked.txt"]
