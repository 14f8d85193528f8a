"""Reads lists of photos: text with a URI per line, CSV with a column of URIs."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote

from apache_beam.io.filesystems import FileSystems

from facecluster.transforms.inputs.parquet import URI_COLUMNS
from facecluster.transforms.inputs.paths import open_file
from facecluster.transforms.inputs.sources import SEPARATOR

LIST_SUFFIXES = (".txt", ".csv")
MAX_LINE_LENGTH = 1 << 16  # characters; a file with longer lines is not text
DELIMITERS = ",;\t"


class ListError(ValueError):
    """A file is not a list."""


def read_list(path: str) -> Iterator[str]:
    """Yields the entries of a list in its order, made absolute.

    In text, blank lines and lines that start with # are skipped. Of CSV the column named `uri`,
    `path`, `file`, `photo` or `image` is read, else the first; a first row that names a file is not
    a header. Relative names are relative to the list's folder.

    Raises:
      ListError: it is neither text nor CSV.
    """
    with open_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="\n")
        names = _read_csv(text) if path.lower().endswith(".csv") else _read_text(text)
        try:
            for name in names:
                name = name.strip()
                if name:
                    yield resolve_entry(path, name)
        except csv.Error as error:
            raise ListError(f"it is not CSV: {error}") from error


def resolve_entry(list_path: str, name: str) -> str:
    """The absolute path or URI of an entry of a list."""
    if name.startswith("file://"):
        return unquote(name.removeprefix("file://"))
    if FileSystems.get_scheme(name) or name.startswith("/"):
        return name
    if FileSystems.get_scheme(list_path) is None:
        file, separator, member = name.partition(SEPARATOR)
        file = os.path.normpath(os.path.join(os.path.dirname(list_path), file))
        return file + separator + member
    return f"{list_path.rpartition('/')[0]}/{name.removeprefix('./')}"


def _read_text(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE_LENGTH):
        if len(line) == MAX_LINE_LENGTH or "\0" in line:
            raise ListError("it is not text")
        if not line.lstrip().startswith("#"):
            yield line


def _read_csv(text: io.TextIOWrapper) -> Iterator[str]:
    first = text.readline(MAX_LINE_LENGTH)
    delimiter = max(DELIMITERS, key=first.count)
    lines = _checked_lines(first, text)
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


def _checked_lines(first: str, text: io.TextIOWrapper) -> Iterator[str]:
    line = first
    while line:
        if len(line) == MAX_LINE_LENGTH or "\0" in line:
            raise ListError("it is not text")
        yield line
        line = text.readline(MAX_LINE_LENGTH)
