"""Collects the photos that inputs name, listing each container and list among them once."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from apache_beam.io.filesystems import FileSystems

from facecluster.errors import InputError
from facecluster.transforms.inputs.containers import (
    NUMBERED_PART,
    ContainerContents,
    format_from_content,
    format_from_name,
    is_photo,
    list_container,
    unread_suffix,
)
from facecluster.transforms.inputs.folders import (
    FolderContents,
    Rules,
    find_files_below,
    sort_remote_files,
)
from facecluster.transforms.inputs.lists import LIST_SUFFIXES, read_list, resolve_entry
from facecluster.transforms.inputs.passed_over import NOT_NAMED, OWN_OUTPUT, WITHOUT_PHOTOS
from facecluster.transforms.inputs.paths import (
    File,
    find_remote_files,
    path_of_uri,
    uri_of_path,
)
from facecluster.transforms.inputs.sources import SEPARATOR, Source
from facecluster.transforms.own_output import JOB_FILES
from facecluster.transforms.records import failure_of

NESTED_LIST = "it is a list within a list: make it an input of its own"
LISTING_THREADS = 16  # containers listed at once; most of the time is waiting for the file system


@dataclass
class ListingRequest:
    """A file whose photos are requested.

    Attributes:
      format: tar, tfrecord, parquet or list; None to detect it from the content.
      members: URIs of requested members. Those that the file does not have become failures.
      all_members: whether its other photos are requested, too.
      is_input: whether it is an input, so that a file that cannot be one is an error.
      is_list_entry: whether a list names it; a list must not name lists.
      folder: the input that it was found in.
    """

    path: str
    format: str | None
    members: set[str] = field(default_factory=set)
    all_members: bool = True
    is_input: bool = False
    is_list_entry: bool = False
    folder: str | None = None

    @property
    def is_directly_in_input(self) -> bool:
        """Whether it is an input or a file of one, but not of a subfolder, like a run's tables."""
        return self.is_input or (
            self.folder is not None and os.path.dirname(self.path) == self.folder.rstrip("/")
        )


class PhotoCollector:
    """Collects photos. Containers and lists are queued until `list_containers` is called.

    Attributes:
      sources: {uri: source} of the photos, and of what could not be listed completely.
      run_tables: paths of tables of a run.
      fully_listed, input_folders: as in `Listing`.

    Args:
      with_containers: whether to list the photos in containers and lists; otherwise they count as
        files.
      rules: which files below the inputs are passed over.
    """

    def __init__(self, with_containers: bool, rules: Rules | None = None):
        self.sources: dict[str, Source] = {}
        self.run_tables: set[str] = set()
        self.fully_listed: set[str] = set()
        self.input_folders: set[str] = set()
        self._with_containers = with_containers
        self._rules = rules or Rules()
        self._passed_over: dict[str, str] = {}  # {path: reason}
        self._passed_over_members: dict[str, tuple[Source, str]] = {}  # by URI
        # Of the members of containers that are no photos, by reason and by suffix.
        self._other_members: dict[str, tuple[Counter[str], Counter[str]]] = {}
        self._requests: dict[str, ListingRequest] = {}
        self._listed: set[str] = set()

    def add_input(self, name: str) -> None:
        """Adds an input: a file, a folder, a glob, or CONTAINER!/MEMBER.

        Raises:
          InputError: it does not exist.
        """
        is_remote = FileSystems.get_scheme(name)
        if not is_remote and os.path.exists(name):
            self._add_path(name)
        elif self._with_containers and (container := _container_path(name)):
            self._request(ListingRequest(container, None, {name}, all_members=False))
        elif is_remote:
            files, is_folder = find_remote_files(name)
            if is_folder:
                self._add_remote_folder(name, files)
                return
            root = _root_of_glob(name)
            below = (
                sort_remote_files(root, find_remote_files(root)[0], self._rules) if root else None
            )
            for file in files:
                if below is None or not self._pass_over_if(below, file.path):
                    self._add_named_file(ListingRequest(file.path, None, is_input=True), file)
        else:
            matches = glob.glob(name, recursive=True)
            if not matches:
                raise InputError(f"{name} does not exist")
            root = _root_of_glob(name)
            below = find_files_below(root, self._rules) if root else None
            for path in matches:
                if below is None or not self._pass_over_if(below, path):
                    self._add_path(path, root)

    def add_list_entry(self, uri: str) -> None:
        """Adds an entry of a list. One that does not exist fails later, when it is read."""
        if SEPARATOR not in uri and is_photo(uri):
            self._add_photo(uri)  # without checking the file, as there may be millions
            return
        is_remote = FileSystems.get_scheme(uri)
        path = uri if is_remote else path_of_uri(uri)
        if not is_remote and os.path.isdir(path):
            self._add_path(path)
        elif not is_remote and os.path.exists(path):
            self._add_named_file(ListingRequest(path, None, is_list_entry=True))
        elif container := _container_path(uri):
            self._request(ListingRequest(container, None, {uri}, all_members=False))
        elif not is_remote or is_photo(uri):
            self._add_photo(uri)
        elif format_from_name(uri):
            self._add_named_file(ListingRequest(uri, None, is_list_entry=True))
        else:
            self._add_remote_list_entry(uri)

    def list_containers(self) -> None:
        """Lists the queued containers and lists, and the containers that those lists name."""
        while self._requests:
            requests = list(self._requests.values())
            self._requests = {}
            with ThreadPoolExecutor(LISTING_THREADS) as pool:
                for request, contents in zip(
                    requests, pool.map(self._list_file, requests), strict=True
                ):
                    self._add_contents(request, contents)

    def count_other_files(self) -> tuple[Counter[str], Counter[str]]:
        """The files, and members of containers, that are passed over, unless they are photos.

        Returns:
          Their numbers by reason; of those in photo formats that are not read, by suffix.
        """
        by_reason: Counter[str] = Counter()
        unread: Counter[str] = Counter()
        for path, reason in self._passed_over.items():
            if path in self._listed or uri_of_path(path) in self.sources:
                continue
            by_reason[reason] += 1
            if reason == NOT_NAMED and (suffix := unread_suffix(path)):
                unread[suffix] += 1
        for uri, (_, reason) in self._passed_over_members.items():
            by_reason[reason] += uri not in self.sources
        for other_files, unread_photos in self._other_members.values():
            by_reason += other_files
            unread += unread_photos
        return by_reason, unread

    def _add_path(self, path: str, root: str | None = None) -> None:
        if os.path.isdir(path):
            self.input_folders.add(uri_of_path(path))
            self._add_contents_of_folder(path, find_files_below(path, self._rules, root))
        else:
            self._add_named_file(ListingRequest(path, None, is_input=True))

    def _add_remote_folder(self, name: str, files: Sequence[File]) -> None:
        self.fully_listed.add(name.rstrip("/"))
        self.input_folders.add(name.rstrip("/"))
        self._add_contents_of_folder(name, sort_remote_files(name, files, self._rules))

    def _add_contents_of_folder(self, folder: str, contents: FolderContents) -> None:
        self.fully_listed.update(map(uri_of_path, contents.opened))
        self._passed_over |= contents.passed_over
        for file in contents.files:
            self._add_file_of_folder(file, folder)
        for unreadable in contents.unreadable:
            self._add_photo(unreadable)  # which will fail when it is read

    def _pass_over_if(self, below: FolderContents, path: str) -> bool:
        """Passes over a match of a glob with `**`, as if the folder before `**` were the input."""
        reason = below.passed_over.get(path)
        if reason:
            self._passed_over[path] = reason
        is_folder = not FileSystems.get_scheme(path) and os.path.isdir(path)
        return bool(reason) or (is_folder and path.rstrip("/") not in below.opened)

    def _add_file_of_folder(self, file: File, folder: str) -> None:
        """Adds a file according to its name."""
        path = file.path
        if is_photo(path):
            self._add_photo(*file)
        elif self._with_containers and (format_from_name(path) or NUMBERED_PART.search(path)):
            self._request(ListingRequest(path, format_from_name(path), folder=folder))
        elif path.rpartition("/")[2] not in JOB_FILES:
            self._passed_over[path] = NOT_NAMED

    def _add_named_file(self, request: ListingRequest, found: File | None = None) -> None:
        """Adds a file according to its name or, if that does not tell its type, its content."""
        if not self._with_containers or is_photo(request.path):
            self._add_photo(*(found or File(request.path)))
            return
        is_list = request.path.lower().endswith(LIST_SUFFIXES)
        if is_list and request.is_list_entry:
            self._add_failure(request.path, ValueError(NESTED_LIST))
        else:
            file_format = "list" if is_list else format_from_name(request.path)
            self._request(replace(request, format=file_format))

    def _add_remote_list_entry(self, uri: str) -> None:
        try:
            files, is_folder = find_remote_files(uri)
        except (OSError, ValueError, InputError):
            self._add_photo(uri)
            return
        if is_folder:
            self._add_remote_folder(uri, files)
            return
        for file in files:
            self._add_named_file(ListingRequest(file.path, None, is_list_entry=True), file)

    def _add_photo(self, path: str, size: int = 0, version: int | None = None) -> None:
        uri = uri_of_path(path)
        if uri != path and os.path.exists(uri):  # which `path_of_uri` would return
            self._add_failure(
                f"{path}#2", ValueError(f"another file has the URI {uri}: rename one of them")
            )
        elif uri not in self.sources or version is not None or self.sources[uri].failure:
            self.sources[uri] = Source(uri, size=size, version=version)

    def _pass_over_listed(self, path: str, reason: str = WITHOUT_PHOTOS) -> None:
        """Passes over a file of a folder that was opened and has no photos."""
        self._passed_over[path] = reason
        self._listed.discard(path)

    def _add_failure(self, uri: str, error: Exception, addition: str = "") -> None:
        uri = uri_of_path(uri)
        failure = failure_of("read", error)
        failure = replace(failure, message=failure.message + addition)
        self.sources.setdefault(uri, Source(uri, failure=failure))

    def _request(self, request: ListingRequest) -> None:
        if request.path in self._listed:
            self._check_members(request.members)
            return
        other = self._requests.setdefault(request.path, request)
        if other is request:
            return
        # Of two requests for one file the stronger is kept: for all members, by an input.
        if request.is_input or not other.all_members:
            first, second = request, other
        else:
            first, second = other, request
        kept, dropped = (first, second) if first.all_members else (second, first)
        # The larger set grows: there may be a million requests of one member each.
        larger, smaller = sorted((kept.members, dropped.members), key=len, reverse=True)
        larger |= smaller
        kept.members = larger
        self._requests[request.path] = kept

    def _check_members(self, members: Iterable[str], problem: Exception | None = None) -> None:
        """Adds failures for requested members that their container does not have."""
        for uri in sorted(members):
            name = uri_of_path(uri)
            if name in self.sources:
                continue
            if name in self._passed_over_members:
                self.sources[name] = self._passed_over_members[name][0]
            else:
                self._add_failure(uri, problem or LookupError("its container has no such member"))

    def _add_contents(self, request: ListingRequest, contents: ContainerContents | None) -> None:
        if request.all_members:
            self._listed.add(request.path)
        if contents is None:  # neither its name nor its content is that of a container
            if request.all_members and request.folder is None:
                self._add_photo(request.path)
            elif request.all_members:
                self._pass_over_listed(request.path)
            self._check_members(request.members)
            return
        requested = set(map(uri_of_path, request.members))
        for source in contents.sources:
            if request.all_members or source.uri in requested:
                self.sources[source.uri] = source
        for source, reason in contents.passed_over:
            if source.uri in requested:
                self.sources[source.uri] = source
            elif request.all_members:
                self._passed_over_members[source.uri] = source, reason
        self._check_members(request.members, contents.problem)
        if not request.all_members:
            return
        if not contents.problem:
            self.fully_listed.add(uri_of_path(request.path))
        self._other_members[request.path] = contents.other_files, contents.unread_photos
        layout = contents.layout
        if request.format == "list" or (layout is not None and layout.kind != "photos"):
            self._add_list(request, contents)
        elif contents.problem:
            n = len(contents.sources)
            addition = f" (photos listed before the damage: {n:,})" if n else ""
            self._add_failure(request.path, contents.problem, addition)

    def _add_list(self, request: ListingRequest, contents: ContainerContents) -> None:
        """Adds the entries of a list, or a Parquet file without photos."""
        layout, problem = contents.layout, contents.problem
        is_run_table = layout is not None and layout.kind in ("table", "failures")
        is_used = request.is_directly_in_input if is_run_table else request.is_input
        if layout is not None and layout.kind in ("table", "none", "ambiguous"):
            problem = problem or ValueError(layout.message)
        if not is_used and request.folder is not None:
            if problem and layout is not None and layout.kind == "ambiguous":
                self._add_failure(request.path, problem)
            else:
                self._pass_over_listed(request.path, OWN_OUTPUT if is_run_table else WITHOUT_PHOTOS)
            if is_run_table:
                self.run_tables.add(request.path)
        elif request.is_list_entry:
            self._add_failure(request.path, problem or ValueError(NESTED_LIST))
        elif problem and is_run_table:
            raise InputError(
                f"{request.path}: {problem}; give the photos themselves, or the run's failures/ "
                "folder to retry the photos that failed"
            )
        elif problem:
            raise InputError(f"{request.path} cannot be read as an input: {problem}")
        elif not is_run_table and not any(map(_is_named_like_input, contents.uris)):
            error = ValueError("it is not a list of photos: none of its lines names one")
            self._add_failure(request.path, error)
        else:
            for uri in contents.uris:
                self.add_list_entry(uri)

    def _list_file(self, request: ListingRequest) -> ContainerContents | None:
        """Lists a container or list; returns None for other files."""
        if request.format == "list":
            contents = ContainerContents()
            try:
                contents.uris += read_list(request.path)
            except (OSError, ValueError) as error:
                contents.problem = error
            return contents
        try:
            file_format = (
                request.format
                or format_from_name(request.path)
                or format_from_content(request.path)
            )
        except (OSError, ValueError) as error:
            return ContainerContents(problem=error)
        if file_format is None:
            return None
        contents = list_container(
            request.path, file_format, self._rules, is_input=request.folder is None
        )
        if contents.layout and contents.layout.kind == "uris":
            contents.uris = [resolve_entry(request.path, uri) for uri in contents.uris]
        return contents


def _root_of_glob(pattern: str) -> str | None:
    """The folder that a glob with `**` searches; None for other globs."""
    if "**" not in pattern:
        return None
    return re.split(r"[*?[]", pattern)[0].rpartition("/")[0]


def _container_path(uri: str) -> str | None:
    """The container in a member's URI: a file that exists, or has a container's name."""
    is_remote = FileSystems.get_scheme(uri)
    paths = [uri[: found.start()] for found in re.finditer(re.escape(SEPARATOR), uri)]
    if not is_remote:
        paths = [path_of_uri(path) for path in paths]
        for path in paths:
            if os.path.isfile(path):
                return path
    return next(
        (path for path in paths if format_from_name(path) or NUMBERED_PART.search(path)), None
    )


def _is_named_like_input(uri: str) -> bool:
    return bool(
        FileSystems.get_scheme(uri)
        or is_photo(uri)
        or format_from_name(uri)
        or SEPARATOR in uri
        or os.path.exists(path_of_uri(uri))
    )
