"""The names of crops, PERSON/NAME: valid as file names, and unique."""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from pathlib import PurePosixPath

# File systems allow 255 bytes. The rest is for the number of a name that is taken, for .png and for
# the ending of the temporary file.
MAX_NAME_BYTES = 200


def crop_name(person: str, uri: str, form: str, index: int | None = None) -> str:
    """PERSON/NAME of a photo's crop, with the index of its face if the photo has several crops."""
    stem = PurePosixPath(uri).stem
    if form == "tar":  # WebDataset takes everything after a name's first dot as its extension
        stem = stem.replace(".", "_")
    number = "" if index is None else f"_{index}"
    return f"{_file_name(person)}/{_file_name(stem)}{number}"


def unique_names(requested: Sequence[str]) -> list[str]:
    """The names, with a number (_1, _2, ...) if an earlier one is equal; depends on their order.

    Names that differ only in case count as equal, because some file systems cannot hold both.
    """
    reserved = {name.casefold() for name in requested}
    taken: set[str] = set()
    numbers = defaultdict(lambda: count(1))
    names = []
    for name in requested:
        key = name.casefold()
        if key in taken:
            number = next(n for n in numbers[key] if f"{key}_{n}" not in reserved)
            name = f"{name}_{number}"
        taken.add(key)
        names.append(name)
    return names


def _file_name(text: str) -> str:
    """The text, changed only where it is not a valid file name."""
    text = re.sub(r"[/\0]", "_", text).encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    return text.replace(".", "_") if text in (".", "..") else text or "_"
