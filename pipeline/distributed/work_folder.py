"""Arrays that the tasks of a job leave for each other, on any Beam file system."""

import io
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from apache_beam.io.filesystems import FileSystems

from facecluster.transforms.tables.files import (
    CONCURRENT_READS,
    delete_folder,
    list_files,
    write_bytes,
)

# numpy parses the headers of arrays by `ast`, which fails in some Python 3.11 releases when several
# threads use it: SystemError "AST constructor recursion depth mismatch".
HEADER_PARSER_LOCK = threading.Lock()


@dataclass(frozen=True)
class WorkFolder:
    """A folder of .npz files, in one subfolder per kind; a file is complete or does not exist."""

    root: str

    def begin(self, fingerprint: str) -> None:
        """Empties the folder, unless it was begun with the same fingerprint."""
        if self.names("fingerprint") != [fingerprint]:
            self.remove()
            self.write("fingerprint", fingerprint)

    def path(self, *names: str) -> str:
        return FileSystems.join(self.root, *names)

    def write(self, kind: str, name: str, **arrays: np.ndarray) -> None:
        content = io.BytesIO()
        np.savez(content, **arrays)  # pyright: ignore[reportArgumentType]
        write_bytes(self.path(kind, f"{name}.npz"), content.getvalue())

    def read(self, kind: str, name: str) -> dict[str, np.ndarray]:
        with FileSystems.open(self.path(kind, f"{name}.npz")) as file:
            content = io.BytesIO(file.read())
        with HEADER_PARSER_LOCK, np.load(content) as arrays:
            return dict(arrays)

    def names(self, kind: str) -> list[str]:
        """The names of the files of a kind, sorted."""
        paths = list_files(self.path(kind), ".npz")
        return [FileSystems.split(path)[1].removesuffix(".npz") for path in paths]

    def read_all(self, kind: str, names: Sequence[str]) -> list[dict[str, np.ndarray]]:
        with ThreadPoolExecutor(CONCURRENT_READS) as pool:
            return list(pool.map(lambda name: self.read(kind, name), names))

    def read_concatenated(self, kind: str, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Reads several files of a kind and concatenates their arrays by name."""
        parts = self.read_all(kind, names)
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def remove(self) -> None:
        """Removes everything.

        The fingerprint goes first, so that a job never continues from what a killed removal leaves.
        """
        delete_folder(self.path("fingerprint"))
        delete_folder(self.root)
