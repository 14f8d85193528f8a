"""Lists of photos: text with a URI in each line, CSV with a column of URIs."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote

from apache_beam.io.filesystems import FileSystems

from facecluster.transforms.inputs.parquet import URI_COLUMNS
from facecluster.transforms.inputs.sources import SEPARATOR, open_file

LIST_SUFFIXES = (".txt", ".csv")
MAX_LINE = 1 << 16  # characters; longer ones are no text
DELIMITERS = ",;\t"


class ListError(ValueError):
    """A file that is no list."""


def read_list(path: str) -> Iterator[str]:
    """The URIs of a list in its order, as absolute as they get.

    Text: blank lines and those that begin with # are passed over. CSV: the column named `uri`,
    `path`, `file`, `photo` or `image`, or else the first; where the first row names a file already,
    it is no header. Relative names are relative to the list's folder.

    Raises:
      ListError: it is neither text nor CSV.
    """
    with open_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="\n")
        names = _column(text) if path.lower().endswith(".csv") else _lines(text)
        try:
            for name in names:
                name = name.strip()
                if name:
                    yield beside(path, name)
        except csv.Error as error:
            raise ListError(f"it is no CSV: {error}") from error


def beside(path: str, name: str) -> str:
    """A name that a file at `path` contains, in full."""
    if name.startswith("file://"):
        return unquote(name.removeprefix("file://"))
    if FileSystems.get_scheme(name) or name.startswith("/"):
        return name
    if FileSystems.get_scheme(path) is None:
        file, separator, member = name.partition(SEPARATOR)
        return os.path.normpath(os.path.join(os.path.dirname(path), file)) + separator + member
    return f"{path.rpartition('/')[0]}/{name.removeprefix('./')}"


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE):
        if len(line) == MAX_LINE or "\0" in line:
            raise ListError("it is no text")
        if not line.lstrip().startswith("#"):
            yield line


def _column(text: io.TextIOWrapper) -> Iterator[str]:
    first = text.readline(MAX_LINE)
    delimiter = max(DELIMITERS, key=first.count)
    lines = _whole_lines(first, text)
    rows = csv.reader(lines, delimiter=delimiter)
    header = next(rows, [])
    names = [name.strip().lower() for name in header]
    known = [names.index(name) for name in URI_COLUMNS if name in names]
    column = known[0] if known else 0
    if not known and header and ("/" in header[0] or PurePosixPath(header[0].strip()).suffix):
        yield header[0]
    for row in rows:
        if len(row) > column:
            yield row[column]


def _whole_lines(first: str, text: io.TextIOWrapper) -> Iterator[str]:
    line = first
    while line:
        if len(line) == MAX_LINE or "\0" in line:
            raise ListError("it is no text")
        yield line
        line = text.readline(MAX_LINE)
