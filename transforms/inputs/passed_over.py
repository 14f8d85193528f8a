"""Which folders below an input are passed over by their names, and what the user excludes."""

import fnmatch
import re
from collections.abc import Callable, Sequence

from pathspec import GitIgnoreSpec

from facecluster.errors import UsageError

# The reasons.
NOT_NAMED, WITHOUT_PHOTOS = "not named like photos", "without photos"
HIDDEN, SYSTEM, THUMBNAILS = "hidden", "trash or system files", "thumbnails"
OWN_OUTPUT, EXCLUDED = "facecluster's own output", "excluded"

# Names of folders, in lower case.
SYSTEM_FOLDERS = {
    *("#recycle", "#snapshot"),  # Synology
    *("@recycle", "@recently-snapshot"),  # QNAP
    *("$recycle.bin", "system volume information"),  # Windows
    *("lost+found", "__macosx"),  # Linux; what macOS adds to archives
    *("files_trashbin", "files_versions"),  # Nextcloud, ownCloud
}
# PARENT/FOLDER, in lower case, as in fnmatch.
THUMBNAIL_FOLDERS = (
    "*/@eadir",  # Synology
    "*/*.lrdata",  # Lightroom: `NAME Previews.lrdata`, `NAME Smart Previews.lrdata`
    "*.photolibrary/previews",  # iPhoto
    "*.photolibrary/thumbnails",
    "*.aplibrary/previews",  # Aperture
    "*.aplibrary/thumbnails",
    "captureone/cache",  # Capture One
    "appdata_*/preview",  # Nextcloud
    "cache/thumbnails",  # PhotoPrism
    "_data/i",  # Piwigo
    "protected_media/thumbnails_big",  # LibrePhotos
    "protected_media/square_thumbnails*",
    "protected_media/faces",
)
# Of a library of Apple Photos only these folders have photos; others have reduced copies.
APPLE_LIBRARY, APPLE_PHOTOS = ".photoslibrary", ("originals", "masters")
# Immich keeps these side by side.
IMMICH_THUMBNAILS, IMMICH_PHOTOS = "thumbs", ("library", "upload")

_THUMBNAIL_FOLDER = re.compile("|".join(map(fnmatch.translate, THUMBNAIL_FOLDERS)))


def judge_folder(parent: str, name: str, has_sibling: Callable[[str], bool]) -> str | None:
    """The reason to pass over a folder of an input because of its name; None to enter it.

    Args:
      parent: name of the folder that it is in, which may be the input itself.
      has_sibling: tells whether the parent has a folder of a name.
    """
    lower = name.lower()
    if name.startswith(".") and name != "..":  # of a tar that was made with absolute names
        return HIDDEN
    if lower in SYSTEM_FOLDERS:
        return SYSTEM
    is_thumbnails = (
        _THUMBNAIL_FOLDER.match(f"{parent.lower()}/{lower}")
        or (parent.lower().endswith(APPLE_LIBRARY) and lower not in APPLE_PHOTOS)
        or (name == IMMICH_THUMBNAILS and any(map(has_sibling, IMMICH_PHOTOS)))
    )
    return THUMBNAILS if is_thumbnails else None


class Excludes:
    """Patterns of files and folders to exclude, with the meaning that they have for git.

    The last pattern that matches decides; `!` before it includes. What is in an excluded folder is
    excluded. Unlike in a .gitignore file, a pattern may start with # and end with spaces.

    Raises:
      UsageError: a pattern has no meaning.
    """

    def __init__(self, patterns: Sequence[str] = ()):
        try:
            spec = GitIgnoreSpec.from_lines(map(_as_line, patterns))
        except ValueError as error:
            raise UsageError(f"--exclude: {error}") from error
        parsed = zip(filter(None, patterns), spec.patterns, strict=True)  # "" is skipped by both
        self._patterns = [
            (text, pattern.regex, pattern.include)
            for text, pattern in reversed(list(parsed))
            if pattern.regex is not None and pattern.include is not None
        ]
        self._unused = dict.fromkeys(patterns)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    @property
    def unused(self) -> tuple[str, ...]:
        """The patterns that have not decided about any file or folder."""
        return tuple(self._unused)

    def match(self, path: str, is_folder: bool) -> bool:
        """Whether they exclude a file or folder of a folder that they do not exclude.

        Args:
          path: relative to the input.
        """
        text = path + "/" * is_folder
        for pattern, regex, is_excluding in self._patterns:
            for found in regex.finditer(text):
                # pathspec marks where the path of a folder ends. If that is not the end of this
                # path, the pattern is about a folder above it.
                end = found.end("ps_d") if "ps_d" in regex.groupindex else -1
                if end in (-1, len(text)):
                    self._unused.pop(pattern, None)
                    return is_excluding
        return False

    def match_member(self, path: str) -> bool:
        """Whether they exclude a file, or a folder that it is in."""
        parts = path.split("/")
        folders = ("/".join(parts[:n]) for n in range(1, len(parts)))
        return any(self.match(folder, True) for folder in folders) or self.match(path, False)


def _as_line(pattern: str) -> str:
    """The line of a .gitignore file with the meaning of a pattern on its own.

    For pathspec, `a/**` also matches a itself; for git, only what is in it.
    """
    line = re.sub(r"^#|(?<!\\) (?= *$)", r"\\\g<0>", pattern)
    return re.sub(r"(?<=/)\*\*(/?)$", r"**/*\1", line)
