"""Finds the files of folders that are not passed over: on disk, in object stores, in tars."""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from facecluster.transforms.inputs.passed_over import (
    EXCLUDED,
    HIDDEN,
    OWN_OUTPUT,
    Excludes,
    judge_folder,
)
from facecluster.transforms.inputs.paths import File, open_file
from facecluster.transforms.own_output import MARKERS, MAX_MARKER_BYTES, marks_output

MAX_PATH = 4096  # bytes, of operating systems
READING_THREADS = 16


@dataclass(frozen=True)
class Rules:
    """Which files below an input are passed over.

    Attributes:
      excludes: by the user.
      reads_own_output: whether folders that facecluster wrote are read like others.
    """

    excludes: Excludes = field(default_factory=Excludes)
    reads_own_output: bool = False

    def judge_file(self, path: str) -> str | None:
        """The reason to pass over a file because of its path below the input; None for no reason.

        Its folder has been judged before.
        """
        if path.rpartition("/")[2].startswith("."):
            return HIDDEN
        return EXCLUDED if self.excludes and self.excludes.match(path, is_folder=False) else None

    def judge_folder(
        self, parent: str, path: str, has_sibling: Callable[[str], bool]
    ) -> str | None:
        """Likewise for a folder.

        Args:
          parent: name of its parent, which may be the input itself.
          path: below the input.
          has_sibling: tells whether its parent has a folder of a name.
        """
        reason = judge_folder(parent, path.rpartition("/")[2], has_sibling)
        if reason is None and self.excludes and self.excludes.match(path, is_folder=True):
            return EXCLUDED
        return reason

    def find_own_output(self, paths: Iterable[str]) -> set[str]:
        """The folders that facecluster wrote.

        Args:
          paths: of files, of which those that may mark their folder are read.
        """
        if self.reads_own_output:
            return set()
        markers = [path for path in paths if path.rpartition("/")[2] in MARKERS]
        if len(markers) < 2:  # without starting threads, since this is called for each folder
            return {path.rpartition("/")[0] for path in markers if _marks_output(path)}
        with ThreadPoolExecutor(READING_THREADS) as pool:
            marking = zip(markers, pool.map(_marks_output, markers), strict=True)
            return {path.rpartition("/")[0] for path, is_marker in marking if is_marker}

    def judge_folders(
        self, folders: Collection[str], root: str, own_output: Collection[str]
    ) -> dict[str, str | None]:
        """The reason to pass over each of the folders of an object store or a tar.

        Args:
          folders: paths below the input, "" for itself.
          root: the name of the input.
          own_output: those that facecluster wrote.
        """
        known: set[str] = set()
        for folder in folders:
            while folder and folder not in known and len(folder) <= MAX_PATH:
                known.add(folder)
                folder = folder.rpartition("/")[0]
        root = root.rstrip("/").rpartition("/")[2]
        return {folder: self._judge_path(folder, root, known, own_output) for folder in folders}

    def _judge_path(
        self, folder: str, root: str, known: Collection[str], own_output: Collection[str]
    ) -> str | None:
        """The reason of the first folder on a path that has one."""
        if "" in own_output:
            return OWN_OUTPUT
        parent, path = root, ""
        for name in folder.split("/") if folder and len(folder) <= MAX_PATH else ():
            prefix = f"{path}/" if path else ""
            path = prefix + name
            reason = self.judge_folder(parent, path, lambda other, at=prefix: at + other in known)
            if reason or path in own_output:
                return reason or OWN_OUTPUT
            parent = name
        return None


@dataclass
class FolderContents:
    """The files below a folder.

    Attributes:
      files: those that are not passed over.
      passed_over: {path: reason} of the others.
      opened: the folders that were read.
      unreadable: the folders that could not be read.
    """

    files: list[File] = field(default_factory=list)
    passed_over: dict[str, str] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def pass_over(self, folder: str, reason: str) -> None:
        """Adds the files of a local folder and its subfolders, without following links."""
        if os.path.islink(folder):
            return
        for parent, _, names in os.walk(folder):
            for name in names:
                self.passed_over[os.path.join(parent, name)] = reason


def find_files_below(folder: str, rules: Rules, root: str | None = None) -> FolderContents:
    """Finds the files in a local folder and its subfolders.

    Links to folders outside it are followed, once for each target. If one target lies within
    another, its photos are found under two names and count as duplicates.

    Args:
      root: the input; by default the folder.
    """
    root = root or folder
    real_root, targets = os.path.realpath(root), set()

    def below(path: str) -> str:
        return path[len(root) :].lstrip("/")

    def should_follow(path: str) -> bool:
        target = os.path.realpath(path)
        common = os.path.commonpath([real_root, target])
        if common == target or target in targets:
            return False  # it contains the folder, or has been found
        inner = os.path.relpath(target, real_root)
        if common == real_root and not rules.judge_folders([inner], root, ())[inner]:
            return False  # it is found without the link
        targets.add(target)
        return True

    contents = FolderContents()
    waiting = [folder]
    while waiting:
        parent = waiting.pop()
        try:
            with os.scandir(parent) as entries:
                folders, files = _split_entries(entries)
        except OSError:
            contents.unreadable.append(parent)
            continue
        names = [file.path.rpartition("/")[2] for file in files]
        has_marker = parent != folder and not MARKERS.isdisjoint(names)
        if has_marker and rules.find_own_output(file.path for file in files):
            contents.pass_over(parent, OWN_OUTPUT)
            continue
        contents.opened.append(parent)
        for name, file in zip(names, files, strict=True):
            # Most files need no judgment, which would take a quarter of the time.
            may_pass = name.startswith(".") or rules.excludes
            if may_pass and (reason := rules.judge_file(below(file.path))):
                contents.passed_over[file.path] = reason
            else:
                contents.files.append(file)
        parent_name = parent.rstrip("/").rpartition("/")[2]
        siblings = {path.rpartition("/")[2] for path in folders}
        entered = []
        for path in sorted(folders):
            reason = rules.judge_folder(parent_name, below(path), siblings.__contains__)
            if reason:
                contents.pass_over(path, reason)
            elif not os.path.islink(path) or should_follow(path):
                entered.append(path)
        waiting += reversed(entered)
    return contents


def sort_remote_files(root: str, files: Sequence[File], rules: Rules) -> FolderContents:
    """Sorts the files below a folder of an object store, whose listing has no folders.

    Args:
      root: the folder.
    """
    root = root.rstrip("/")
    paths = [file.path.removeprefix(f"{root}/") for file in files]
    own_output = rules.find_own_output(file.path for file in files) - {root}
    own_output = {folder.removeprefix(f"{root}/") for folder in own_output}
    folders = {path.rpartition("/")[0] for path in paths}
    reasons = rules.judge_folders(folders, root, own_output)
    contents = FolderContents()
    for path, file in zip(paths, files, strict=True):
        if reason := reasons[path.rpartition("/")[0]] or rules.judge_file(path):
            contents.passed_over[file.path] = reason
        else:
            contents.files.append(file)
    return contents


def _split_entries(entries: Iterable[os.DirEntry[str]]) -> tuple[list[str], list[File]]:
    """The folders and the files among the entries of a folder."""
    folders, files = [], []
    for entry in entries:
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link to a place that cannot be reached
            is_folder = False
        if is_folder:
            folders.append(entry.path)
            continue
        try:
            state = entry.stat()
            files.append(File(entry.path, state.st_size, state.st_mtime_ns))
        except OSError:  # reading it will fail, too
            files.append(File(entry.path))
    return folders, files


def _marks_output(path: str) -> bool:
    try:
        with open_file(path) as file:
            return marks_output(path.rpartition("/")[2], file.read(MAX_MARKER_BYTES))
    except Exception:  # it cannot be read; libraries of object stores raise many types
        return False
