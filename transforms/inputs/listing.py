"""Which photos the inputs name: files, folders, globs, containers, lists, a run's failures."""

import glob
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from apache_beam.io.filesystems import FileSystems

from facecluster.errors import InputError
from facecluster.transforms.inputs.containers import (
    NUMBERED,
    PHOTO_SUFFIXES,
    Contents,
    form_by_content,
    form_by_name,
    is_photo,
    list_container,
)
from facecluster.transforms.inputs.lists import LIST_SUFFIXES, beside, read_list
from facecluster.transforms.inputs.sources import (
    SEPARATOR,
    Source,
    name_on_disk,
    printable,
)
from facecluster.transforms.records import Photo, Shard, failing

LIST_IN_LIST = "a list names it, and it is itself a list: give it by itself"
LISTING_THREADS = 16  # containers listed at once: they wait for the file system


@dataclass(frozen=True)
class Listing:
    """What the inputs name.

    Attributes:
      sources: photos, sorted by their URIs and each once; also what may have photos and could not
        be listed, as a source that carries its failure.
      n_other_files: files, and members of containers, that are not named like photos.
      whole: URIs of the folders, containers and lists that could be looked into to their end.
    """

    sources: tuple[Source, ...]
    n_other_files: int
    whole: frozenset[str] = frozenset()

    @property
    def uris(self) -> tuple[str, ...]:
        return tuple(source.uri for source in self.sources)


def list_photos(inputs: Sequence[str], containers: bool = True) -> Listing:
    """Finds the photos of files, folders (with all their subfolders), globs, containers and lists.

    In a folder the files with a photo's or a container's suffix count; a file or glob that is named
    is taken at its word, so that what turns out to be no photo ends as a failure and not in
    silence. What a list names is taken as if it was named, but is no pattern.

    Args:
      containers: whether containers and lists are looked into; otherwise they are files like any.

    Raises:
      InputError: an input is not there or cannot be one, or the inputs name no photo at all.
    """
    finder = _Finder(containers)
    for name in inputs:
        try:
            finder.add(name)
        except (OSError, ValueError) as error:  # no such bucket, or no library for its scheme
            raise InputError(f"{name} cannot be listed: {error}") from error
    finder.look_into_containers()
    if not finder.sources:
        where = ", ".join(inputs)
        n_others = finder.n_other_files()
        none = f" (of {n_others} files none is named like one)" if n_others else ""
        if finder.tables:
            none += f"; {sorted(finder.tables)[0]} is a table of a run, not photos"
        known = " ".join(sorted(PHOTO_SUFFIXES))
        raise InputError(f"there are no photos in {where}{none}; photos end in {known}")
    found = sorted(finder.sources.values(), key=lambda source: source.uri)
    return Listing(tuple(found), finder.n_other_files(), frozenset(finder.whole))


def locate(uris: Sequence[str]) -> list[Source]:
    """The photos that have been listed under these URIs before, in their order.

    Only containers are looked into. One that is gone, like a member that is, carries its failure.
    """
    finder = _Finder(with_containers=True)
    for uri in uris:
        if SEPARATOR in uri or form_by_name(uri):
            finder.add_listed(uri)
    finder.look_into_containers()
    return [finder.sources.get(uri, Source(uri)) for uri in uris]


def absolute(name: str) -> str:
    """A local path in full, so that a photo has one URI from wherever a job is started."""
    if FileSystems.get_scheme(name):
        return name
    path, separator, member = name.partition(SEPARATOR)  # a member's name is not the file system's
    return os.path.abspath(path) + separator + member


@dataclass
class _Wish:
    """A file that is to be looked into.

    Attributes:
      form: tar, tfrecord, parquet or list; None where its content is to tell.
      members: URIs that are wanted of it and must be there.
      is_whole: all its other photos are wanted too.
      is_input: it is named on the command line, so that one that cannot be an input is an error.
      is_listed: a list names it; lists name no lists.
      folder: the input that it was found in.
    """

    path: str
    form: str | None
    members: set[str] = field(default_factory=set)
    is_whole: bool = True
    is_input: bool = False
    is_listed: bool = False
    folder: str | None = None

    @property
    def is_part_of_input(self) -> bool:
        """Whether it is an input or lies right in one, as a run's tables lie in their folder."""
        return self.is_input or (
            self.folder is not None and os.path.dirname(self.path) == self.folder.rstrip("/")
        )


class _Finder:
    """Collects what inputs name; containers and lists wait until they are looked into.

    Attributes:
      sources: {uri: source}.
      tables: files that are tables of a run.
      whole: as in Listing.
    """

    def __init__(self, with_containers: bool):
        self.sources: dict[str, Source] = {}
        self.tables: set[str] = set()
        self.whole: set[str] = set()
        self._with_containers = with_containers
        self._others: set[str] = set()
        self._n_others_in: dict[str, int] = {}
        self._waiting: dict[str, _Wish] = {}
        self._looked_into: set[str] = set()

    def n_other_files(self) -> int:
        files = [
            path for path in self._others - self._looked_into if printable(path) not in self.sources
        ]
        return len(files) + sum(self._n_others_in.values())

    def add(self, name: str) -> None:
        """Adds an input: a file, a folder, a glob, CONTAINER!/MEMBER."""
        name = absolute(name)
        is_remote = FileSystems.get_scheme(name)
        if not is_remote and os.path.exists(name):
            self._add_path(name)
        elif self._with_containers and (container := _container_of(name)):
            self._want(_Wish(container, None, {name}, is_whole=False))
        elif is_remote:
            files, is_folder = _remote_files(name)
            for path in files:
                if is_folder:
                    self._add_found(path, name)
                else:
                    self._add_named(_Wish(path, None, is_input=True))
        else:
            matched = glob.glob(name, recursive=True)
            if not matched:
                raise InputError(f"{name} does not exist")
            for path in matched:
                self._add_path(path)

    def look_into_containers(self) -> None:
        """Lists the containers that wait, and those that lists among them name."""
        while self._waiting:
            wishes = list(self._waiting.values())
            self._waiting = {}
            with ThreadPoolExecutor(LISTING_THREADS) as pool:
                for wish, contents in zip(wishes, pool.map(_look_into, wishes), strict=True):
                    self._add_contents(wish, contents)

    def _add_path(self, path: str) -> None:
        if os.path.isdir(path):
            files, opened, closed = _files_below(path)
            self.whole.update(map(printable, opened))
            for file in files:
                self._add_found(file, path)
            for folder in closed:
                self._add_photo(folder)
        else:
            self._add_named(_Wish(path, None, is_input=True))

    def _add_found(self, path: str, folder: str) -> None:
        """Adds a file of a folder: its name says what it is."""
        if is_photo(PurePosixPath(path)):
            self._add_photo(path)
        elif self._with_containers and (form_by_name(path) or NUMBERED.search(path)):
            self._want(_Wish(path, form_by_name(path), folder=folder))
        else:
            self._others.add(path)

    def _add_named(self, wish: _Wish) -> None:
        """Adds a file taken at its word: its content says what it is, if its name does not."""
        if not self._with_containers or is_photo(PurePosixPath(wish.path)):
            self._add_photo(wish.path)
            return
        is_list = wish.path.lower().endswith(LIST_SUFFIXES)
        if is_list and wish.is_listed:
            self._add_failure(wish.path, ValueError(LIST_IN_LIST))
        else:
            self._want(replace(wish, form="list" if is_list else form_by_name(wish.path)))

    def add_listed(self, uri: str) -> None:
        """Adds what a list names, which need not be there: then it fails when it is read."""
        if SEPARATOR not in uri and is_photo(PurePosixPath(uri)):
            self._add_photo(uri)  # without a look at the file, as there may be millions
            return
        is_remote = FileSystems.get_scheme(uri)
        path = uri if is_remote else name_on_disk(uri)
        if not is_remote and os.path.isdir(path):
            self._add_path(path)
        elif not is_remote and os.path.exists(path):
            self._add_named(_Wish(path, None, is_listed=True))
        elif container := _container_of(uri):
            self._want(_Wish(container, None, {uri}, is_whole=False))
        elif not is_remote or is_photo(PurePosixPath(uri)):
            self._add_photo(uri)
        elif form_by_name(uri):
            self._add_named(_Wish(uri, None, is_listed=True))
        else:
            self._add_listed_remote(uri)

    def _add_listed_remote(self, uri: str) -> None:
        try:
            files, is_folder = _remote_files(uri)
        except (OSError, ValueError, InputError):
            self._add_photo(uri)
            return
        for path in files:
            if is_folder:
                self._add_found(path, uri)
            else:
                self._add_named(_Wish(path, None, is_listed=True))

    def _add_photo(self, path: str) -> None:
        uri = printable(path)
        if uri != path and os.path.exists(uri):  # and `name_on_disk` would take that file
            self._add_failure(
                f"{path}#2", ValueError(f"another file is written as {uri}: rename one")
            )
        else:
            self.sources[uri] = Source(uri)

    def _add_other(self, path: str) -> None:
        """Adds a file of a folder that was looked into and has no photos."""
        self._others.add(path)
        self._looked_into.discard(path)

    def _add_failure(self, uri: str, error: Exception, more: str = "") -> None:
        uri = printable(uri)
        failure = failing(Photo(uri, Shard("", 0)), "read", error).failure
        failure = replace(failure, message=failure.message + more)
        self.sources.setdefault(uri, Source(uri, failure=failure))

    def _want(self, wish: _Wish) -> None:
        if wish.path in self._looked_into:
            self._require(wish.members)
            return
        other = self._waiting.setdefault(wish.path, wish)
        if other is not wish:
            first, second = (wish, other) if wish.is_input or not other.is_whole else (other, wish)
            whole, part = (first, second) if first.is_whole else (second, first)
            # One set grows: there may be a million members, each a wish of its own.
            larger, smaller = sorted((whole.members, part.members), key=len, reverse=True)
            larger |= smaller
            whole.members = larger
            self._waiting[wish.path] = whole

    def _require(self, members: Iterable[str], problem: Exception | None = None) -> None:
        """Makes members failures that their container has not."""
        for uri in sorted(members):
            if printable(uri) not in self.sources:
                self._add_failure(uri, problem or LookupError("its container has no such member"))

    def _add_contents(self, wish: _Wish, contents: Contents | None) -> None:
        if wish.is_whole:
            self._looked_into.add(wish.path)
        if contents is None:  # neither its name nor its content makes it a container
            if wish.is_whole and wish.folder is None:
                self._add_photo(wish.path)
            elif wish.is_whole:
                self._add_other(wish.path)
            self._require(wish.members)
            return
        wanted = set(map(printable, wish.members))
        for source in contents.sources:
            if wish.is_whole or source.uri in wanted:
                self.sources[source.uri] = source
        self._require(wish.members, contents.problem)
        if not wish.is_whole:
            return
        if not contents.problem:
            self.whole.add(printable(wish.path))
        self._n_others_in[wish.path] = contents.n_other_files
        layout = contents.layout
        if wish.form == "list" or (layout is not None and layout.kind != "photos"):
            self._add_list(wish, contents)
        elif contents.problem:
            n = len(contents.sources)
            taken = f" (the {n:,} photos listed before that go on)" if n else ""
            self._add_failure(wish.path, contents.problem, taken)

    def _add_list(self, wish: _Wish, contents: Contents) -> None:
        """Adds what a list names, or a Parquet file without photos."""
        layout, problem = contents.layout, contents.problem
        is_table = layout is not None and layout.kind in ("table", "failures")
        follow = wish.is_part_of_input if is_table else wish.is_input
        if layout is not None and layout.kind in ("table", "none", "ambiguous"):
            problem = problem or ValueError(layout.message)
        if not follow and wish.folder is not None:  # what else lies in folders
            if layout.kind == "ambiguous":
                self._add_failure(wish.path, problem)
            else:
                self._add_other(wish.path)
            if is_table:
                self.tables.add(wish.path)
        elif wish.is_listed:
            self._add_failure(wish.path, problem or ValueError(LIST_IN_LIST))
        elif problem and is_table:
            raise InputError(
                f"{wish.path}: {problem}; give the photos themselves, or the run's folder "
                "failures/ to try again what failed"
            )
        elif problem:
            raise InputError(f"{wish.path} cannot be read as an input: {problem}")
        elif not is_table and not any(map(_is_named_like_an_input, contents.uris)):
            no_list = ValueError("it is no list of photos: none of its lines names one")
            self._add_failure(wish.path, no_list)
        else:
            for uri in contents.uris:
                self.add_listed(uri)


def _look_into(wish: _Wish) -> Contents | None:
    """What is in a file; None where it is no container."""
    if wish.form == "list":
        contents = Contents()
        try:
            contents.uris += read_list(wish.path)
        except (OSError, ValueError) as error:
            contents.problem = error
        return contents
    try:
        form = wish.form or form_by_name(wish.path) or form_by_content(wish.path)
    except (OSError, ValueError) as error:
        return Contents(problem=error)
    if form is None:
        return None
    contents = list_container(wish.path, form)
    if contents.layout and contents.layout.kind == "uris":
        contents.uris = [beside(wish.path, uri) for uri in contents.uris]
    return contents


def _files_below(folder: str) -> tuple[list[str], list[str], list[str]]:
    """All files in a local folder and its subfolders; the folders read; those closed to us.

    Links to folders elsewhere are followed, to each of these once. Where one is within another,
    its photos have two names, as copies have.
    """
    root, elsewhere = os.path.realpath(folder), set()

    def is_new(path: str) -> bool:
        if not os.path.islink(path):
            return True
        target = os.path.realpath(path)
        if os.path.commonpath([root, target]) in (root, target) or target in elsewhere:
            return False  # it is in the folder by itself, or the folder is in it
        elsewhere.add(target)
        return True

    files, opened, closed = [], [], []
    for top, folders, names in os.walk(folder, onerror=closed.append, followlinks=True):
        folders[:] = sorted(name for name in folders if is_new(os.path.join(top, name)))
        files += [os.path.join(top, name) for name in names]
        opened.append(top)
    return files, opened, [str(error.filename) for error in closed]


def _remote_files(name: str) -> tuple[list[str], bool]:
    """The files that a name in an object store stands for; whether as a folder's."""
    is_glob = any(character in name for character in "*?[")
    # An object store has no folders, only names that begin alike.
    pattern = name if is_glob else FileSystems.join(name, "**")
    files = [file.path for file in FileSystems.match([pattern])[0].metadata_list]
    if files:
        return files, not is_glob
    if is_glob or not FileSystems.exists(name):
        raise InputError(f"{name} does not exist")
    return [name], False


def _container_of(uri: str) -> str | None:
    """The file that a member's URI says it is in: one that is there, or is named like one."""
    is_remote = FileSystems.get_scheme(uri)
    paths = [uri[: found.start()] for found in re.finditer(re.escape(SEPARATOR), uri)]
    if not is_remote:
        paths = [name_on_disk(path) for path in paths]
        for path in paths:
            if os.path.isfile(path):
                return path
    return next((path for path in paths if form_by_name(path) or NUMBERED.search(path)), None)


def _is_named_like_an_input(uri: str) -> bool:
    return bool(
        FileSystems.get_scheme(uri)
        or is_photo(PurePosixPath(uri))
        or form_by_name(uri)
        or SEPARATOR in uri
        or os.path.exists(name_on_disk(uri))
    )
